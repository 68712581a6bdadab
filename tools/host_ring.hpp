// The host's half of an io_uring: liburing sets it up and registers buffers; entries are the
// enclave side's affair.
#pragma once

#include <liburing.h>

#include <cstdint>

#include "tools/enclave_host_calls.hpp"

namespace exclave::tools {

class HostRing {
 public:
  HostRing() noexcept = default;
  ~HostRing() { close(); }
  HostRing(const HostRing&) = delete;
  HostRing& operator=(const HostRing&) = delete;

  RingOffer open(std::uint32_t entries) noexcept;
  int enter(std::uint32_t to_submit, std::uint32_t min_complete) noexcept;
  int register_buffer(Extent range) noexcept;
  int unregister_buffers() noexcept;
  void close() noexcept;

 private:
  io_uring ring_{};
  bool open_ = false;
};

}  // namespace exclave::tools
