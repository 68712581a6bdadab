// Everything that the enclave side asks of the host side, beyond the allocator's own host calls: in
// a real enclave, the EDL file. Whatever comes back is a host reply: not believed until the enclave
// side has checked it.
#pragma once

#include <linux/io_uring.h>

#include <cstdint>

#include "exclave/access.hpp"
#include "exclave/port.hpp"

namespace exclave::tools {

// What the host says about a ring that it has set up. error: 0 or an errno; all unverified.
struct RingOffer {
  int error = 0;
  int descriptor = -1;
  io_uring_params parameters{};
};

// One read or write of the sealed file without a ring. The call lies in untrusted memory: the
// enclave side writes it out, the host side reads it, acts, and writes the answer.
struct TransferCall {
  std::uint64_t offset = 0;
  std::uint64_t address = 0;
  std::uint32_t size_bytes = 0;
  std::uint32_t is_write = 0;
  std::int64_t answer = 0;  // bytes moved, or a negative errno
};

class HostCalls {
 public:
  virtual ~HostCalls() = default;

  virtual RingOffer open_ring(std::uint32_t entries) noexcept = 0;
  // io_uring_enter: entries that the host took, or a negative errno.
  virtual int enter_ring(std::uint32_t to_submit, std::uint32_t min_complete) noexcept = 0;
  // Registers one buffer with the ring, for the fixed operations; 0 or an errno.
  virtual int register_buffer(Extent range) noexcept = 0;
  virtual int unregister_buffers() noexcept = 0;
  virtual void close_ring() noexcept = 0;

  // Committed shared memory for the I/O pool.
  virtual HostReply open_pool(std::size_t size_bytes, std::size_t alignment) noexcept = 0;
  virtual void close_pool() noexcept = 0;

  // The descriptor of the sealed file, as ring entries name it.
  virtual int sealed_file() noexcept = 0;
  // Its size in bytes, or a negative errno.
  virtual std::int64_t sealed_file_size() noexcept = 0;
  // fsync; 0 or an errno.
  virtual int sync_sealed_file() noexcept = 0;
  virtual void transfer(untrusted_ptr<TransferCall> call) noexcept = 0;
};

}  // namespace exclave::tools

EXCLAVE_BOUNDARY_SAFE(exclave::tools::TransferCall, offset, address, size_bytes, is_write, answer);
