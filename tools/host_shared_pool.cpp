#include "tools/host_shared_pool.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace exclave::tools {

HostReply HostSharedPool::open(std::size_t size_bytes, std::size_t alignment) noexcept {
  close();
  file_ = UniqueFd(::memfd_create("exclave-pool", MFD_CLOEXEC));
  if (!file_ || ::ftruncate(file_.get(), static_cast<off_t>(size_bytes)) != 0) {
    return {0, errno};
  }
  // A window with room for the alignment; what is not needed of it goes back.
  const std::size_t window_bytes = size_bytes + alignment;
  void* const window =
      ::mmap(nullptr, window_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (window == MAP_FAILED) {
    return {0, errno};
  }
  const auto start = reinterpret_cast<std::uintptr_t>(window);
  const std::uintptr_t base = (start + alignment - 1) & ~(std::uintptr_t{alignment} - 1);
  if (base != start) {
    ::munmap(window, base - start);
  }
  ::munmap(reinterpret_cast<void*>(base + size_bytes), start + window_bytes - base - size_bytes);
  void* const pool = ::mmap(reinterpret_cast<void*>(base), size_bytes, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_FIXED | MAP_POPULATE, file_.get(), 0);
  if (pool == MAP_FAILED) {
    const int error = errno;
    ::munmap(reinterpret_cast<void*>(base), size_bytes);
    return {0, error};
  }
  extent_ = {base, size_bytes};
  return {base, 0};
}

void HostSharedPool::close() noexcept {
  if (!extent_.empty()) {
    ::munmap(reinterpret_cast<void*>(extent_.base), extent_.size);
    extent_ = {};
  }
  file_.reset();
}

}  // namespace exclave::tools
