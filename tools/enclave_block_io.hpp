// Moves untrusted blocks to and from the sealed file. Two engines: RingIo (io_uring, many in
// flight) and DirectIo (pread and pwrite, where io_uring is not allowed).
#pragma once

#include <cstdint>

#include "exclave/allocator.hpp"

namespace exclave::tools {

class BlockIo {
 public:
  struct Transfer {
    bool is_write = false;
    untrusted_bytes block{};
    std::uint32_t size_bytes = 0;
    std::uint64_t offset = 0;
  };
  // moved_bytes < size_bytes without an error: the file ends there (reads), or the device takes no
  // more (writes).
  struct Outcome {
    std::uint32_t moved_bytes = 0;
    int error = 0;
  };
  struct Ticket {
    std::uint32_t index = 0;
  };

  virtual ~BlockIo() = default;
  virtual const char* name() const noexcept = 0;
  // Most transfers between start() and finish().
  virtual std::uint32_t depth() const noexcept = 0;
  // The block is pinned from here to the end of finish(). Throws Failure(kHost) when the host does
  // not work.
  virtual Ticket start(const Transfer& transfer) = 0;
  // Waits until the transfer is whole, resubmitting what is left of short ones. Throws
  // Failure(kHost) when the host does not answer; the block stays pinned then.
  virtual Outcome finish(Ticket ticket) = 0;
  // Waits for all that is in flight and forgets it. False: the host does not answer, and what is in
  // flight stays pinned.
  virtual bool drain() noexcept = 0;
};

}  // namespace exclave::tools
