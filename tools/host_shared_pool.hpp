// Shared memory that the host side makes for the I/O pool: a memfd, so that a device process (or an
// attacker) can map the same bytes.
#pragma once

#include "exclave/port.hpp"
#include "tools/unique_fd.hpp"

namespace exclave::tools {

class HostSharedPool {
 public:
  HostSharedPool() noexcept = default;
  ~HostSharedPool() { close(); }
  HostSharedPool(const HostSharedPool&) = delete;
  HostSharedPool& operator=(const HostSharedPool&) = delete;

  // alignment: a power of two, at least a page.
  HostReply open(std::size_t size_bytes, std::size_t alignment) noexcept;
  void close() noexcept;

  int descriptor() const noexcept { return file_.get(); }
  Extent extent() const noexcept { return extent_; }

 private:
  UniqueFd file_;
  Extent extent_{};
};

}  // namespace exclave::tools
