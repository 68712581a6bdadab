// The host side: answers the enclave side's calls with this machine's kernel, and counts them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tools/enclave_host_calls.hpp"
#include "tools/host_ring.hpp"
#include "tools/host_shared_pool.hpp"

namespace exclave::tools {

class LinuxHost final : public HostCalls {
 public:
  // sealed_file stays the caller's.
  explicit LinuxHost(int sealed_file) noexcept : sealed_file_(sealed_file) {}

  RingOffer open_ring(std::uint32_t entries) noexcept override;
  int enter_ring(std::uint32_t to_submit, std::uint32_t min_complete) noexcept override;
  int register_buffer(Extent range) noexcept override;
  int unregister_buffers() noexcept override;
  void close_ring() noexcept override;
  HostReply open_pool(std::size_t size_bytes, std::size_t alignment) noexcept override;
  void close_pool() noexcept override;
  int sealed_file() noexcept override { return sealed_file_; }
  std::int64_t sealed_file_size() noexcept override;
  int sync_sealed_file() noexcept override;
  void transfer(untrusted_ptr<TransferCall> call) noexcept override;

  const HostSharedPool& pool() const noexcept { return pool_; }
  // Calls so far, by kind; only kinds that were called.
  std::vector<std::pair<std::string, std::uint64_t>> calls() const;

 private:
  enum Kind : std::size_t {
    kRingSetup,
    kRingEnter,
    kRingRegister,
    kRingClose,
    kPool,
    kFileSize,
    kFileSync,
    kRead,
    kWrite,
    kKinds
  };

  std::array<std::uint64_t, kKinds> counts_{};
  int sealed_file_;
  HostSharedPool pool_;
  HostRing ring_;
};

}  // namespace exclave::tools
