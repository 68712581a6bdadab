// The I/O buffers: blocks in untrusted memory that the host side made for the purpose. The memory
// is attached as a pool, registered with the ring and pinned whole, so that it cannot go while the
// kernel may write to it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "exclave/allocator.hpp"
#include "exclave/box.hpp"
#include "tools/enclave_attack_log.hpp"
#include "tools/enclave_host_calls.hpp"

namespace exclave::tools {

class IoPool {
 public:
  // Asks the host for the memory and attaches it. Throws Failure(kHost): refused, or fails
  // verification.
  IoPool(Allocator& allocator, HostCalls& host, AttackLog& attacks, std::size_t size_bytes,
         std::size_t alignment);
  // Lets go of what end_use() has not: if the books refuse to detach, the memory is left to the
  // host for ever.
  ~IoPool();
  IoPool(const IoPool&) = delete;
  IoPool& operator=(const IoPool&) = delete;

  Extent extent() const noexcept { return extent_; }
  RegionId id() const noexcept { return id_; }
  // Blocks handed out so far.
  std::uint64_t blocks_taken() const noexcept { return blocks_taken_; }

  // Throws Failure(kHost) when the pool is full. A block that goes while it is in flight (a run
  // that failed) stays pinned, so the allocator hands its memory to no one else: the device may yet
  // write to it.
  Block take(std::size_t size_bytes);

  // Registers the pool with the ring and pins it. 0 or an errno of the host; then it is neither.
  int register_with_ring();
  bool registered() const noexcept { return registered_; }
  // The way back, in the order that a device's DMA demands: unregister, then unpin.
  void unregister_from_ring() noexcept;
  // Detaches the pool from the books and gives the memory back to the host. The allocator's answer.
  Status end_use() noexcept;

 private:
  Allocator& allocator_;
  HostCalls& host_;
  Extent extent_{};
  RegionId id_{};
  PinId pin_{};
  bool registered_ = false;
  std::uint64_t blocks_taken_ = 0;
};

}  // namespace exclave::tools
