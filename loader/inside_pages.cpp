#include "loader/inside_pages.hpp"

#include <linux/shm.h>

#include "loader/layout.hpp"

namespace exclave::loader {
namespace {

long attach_segment(int id, std::uintptr_t address, int protection) noexcept {
  const int flags = SHM_REMAP | ((protection & PROT_WRITE) != 0 ? 0 : SHM_RDONLY) |
                    ((protection & PROT_EXEC) != 0 ? SHM_EXEC : 0);
  return system_call(__NR_shmat, id, address, flags);
}

}  // namespace

int InsidePages::fill(std::uintptr_t address, std::size_t size, int descriptor,
                      std::uint64_t offset) noexcept {
  if (const int error = Pages::fill(address, size, descriptor, offset); error != 0) return error;
  FileStatus status{};
  if (failed(system_call(__NR_fstat, descriptor, &status)) || !status.is_regular()) return 0;
  const std::uint64_t there = (static_cast<std::uint64_t>(status.size) + kPage - 1) & ~(kPage - 1);
  if (there >= offset + size) return 0;
  // The kernel's own mapping of what is not there.
  const std::size_t kept = there > offset ? there - offset : 0;
  return error_of(RawCalls::mmap(address + kept, size - kept, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_FIXED, descriptor, offset + kept));
}

int InsidePages::back(std::uintptr_t address, std::size_t size, int protection, int flags,
                      int descriptor, std::uint64_t offset) noexcept {
  constexpr int kPlaced = MAP_FIXED_NOREPLACE | MAP_32BIT;  // the manager has seen to these
  const long mapped = descriptor <= segment(0)
                          ? attach_segment(segment(descriptor), address, protection)
                          : RawCalls::mmap(address, size, protection,
                                           (flags & ~kPlaced) | MAP_FIXED, descriptor, offset);
  if (failed(mapped)) {
    // The kernel may have taken away what stood there before it asked the device.
    unsigned char residency = 0;
    const bool gone = RawCalls::mincore(address, kPage, &residency) == -ENOMEM;
    return static_cast<int>(gone ? -mapped : mapped);
  }
  shared_maps_.fetch_add(1, std::memory_order_relaxed);
  return 0;
}

int InsidePages::stretch(std::uintptr_t from, std::size_t old_size, std::uintptr_t to,
                         std::size_t new_size) noexcept {
  if (from != to) return remap(from, old_size, to, new_size, 0);
  return error_of(RawCalls::mremap(from, old_size, new_size, 0, 0));
}

}  // namespace exclave::loader
