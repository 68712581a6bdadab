#include "tools/host_ring.hpp"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace exclave::tools {

RingOffer HostRing::open(std::uint32_t entries) noexcept {
  RingOffer offer;
  offer.error = -::io_uring_queue_init_params(entries, &ring_, &offer.parameters);
  if (offer.error == 0) {
    open_ = true;
    offer.descriptor = ring_.ring_fd;
  }
  return offer;
}

int HostRing::enter(std::uint32_t to_submit, std::uint32_t min_complete) noexcept {
  // Not through liburing: its own idea of the queues is blind to what the enclave side has written
  // there.
  const unsigned flags = min_complete != 0 ? IORING_ENTER_GETEVENTS : 0;
  const long answer = ::syscall(__NR_io_uring_enter, ring_.ring_fd, to_submit, min_complete, flags,
                                nullptr, _NSIG / 8);
  return answer < 0 ? -errno : static_cast<int>(answer);
}

int HostRing::register_buffer(Extent range) noexcept {
  const iovec buffer{reinterpret_cast<void*>(range.base), range.size};
  return -::io_uring_register_buffers(&ring_, &buffer, 1);
}

int HostRing::unregister_buffers() noexcept {
  return -::io_uring_unregister_buffers(&ring_);
}

void HostRing::close() noexcept {
  if (open_) {
    ::io_uring_queue_exit(&ring_);
    open_ = false;
  }
}

}  // namespace exclave::tools
