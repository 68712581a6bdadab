// BlockIo by pread and pwrite: one transfer at a time, each a host call whose arguments lie in a
// small untrusted block.
#pragma once

#include "exclave/box.hpp"
#include "tools/enclave_attack_log.hpp"
#include "tools/enclave_block_io.hpp"
#include "tools/enclave_host_calls.hpp"

namespace exclave::tools {

class DirectIo final : public BlockIo {
 public:
  // Throws Failure(kHost) when there is no untrusted memory for the call.
  DirectIo(Allocator& allocator, HostCalls& host, AttackLog& attacks);
  const char* name() const noexcept override { return "pread and pwrite"; }
  std::uint32_t depth() const noexcept override { return 1; }
  Ticket start(const Transfer& transfer) override;
  Outcome finish(Ticket ticket) override;
  bool drain() noexcept override { return true; }

 private:
  // One host call. The bytes moved, at most what was asked for, or a negative errno.
  std::int64_t move(const Transfer& transfer, std::uint32_t moved_bytes);

  Allocator& allocator_;
  HostCalls& host_;
  AttackLog& attacks_;
  Box<TransferCall> call_;
  Outcome outcome_{};
};

}  // namespace exclave::tools
