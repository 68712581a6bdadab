// Address space of this process: reserved, without access, so that it counts neither as memory nor
// as data (RLIMIT_DATA).
#pragma once

#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cstddef>
#include <cstdint>

#include "exclave/types.hpp"

namespace exclave::process {

inline void* as_pointer(std::uintptr_t address) noexcept {
  return reinterpret_cast<void*>(address);
}
inline std::uintptr_t as_address(const void* pointer) noexcept {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

inline constexpr int kReservedFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

// What one part of an enclave's range may take of it: an eighth of the limit, so that the program
// keeps the most (ulimit -v).
inline std::size_t address_space_share() noexcept {
  rlimit limit{};
  (void)getrlimit(RLIMIT_AS, &limit);
  return limit.rlim_cur / 8 / kPageBytes * kPageBytes;
}

// False: something stands there.
inline bool reserve_at(std::uintptr_t address, std::size_t bytes) noexcept {
  void* const mapped =
      mmap(as_pointer(address), bytes, PROT_NONE, kReservedFlags | MAP_FIXED_NOREPLACE, -1, 0);
  if (mapped == MAP_FAILED) return false;
  if (mapped == as_pointer(address)) return true;
  munmap(mapped, bytes);  // a sanitizer, or a kernel that does not know the flag
  return false;
}

// Reserves bytes at the alignment, by mapping more and cutting it. Errors: 0 and errno.
inline std::uintptr_t reserve_address_space(std::size_t bytes, std::size_t alignment) noexcept {
  std::size_t spare = alignment > kPageBytes ? alignment - kPageBytes : 0;
  if (bytes > SIZE_MAX - spare) {
    errno = ENOMEM;
    return 0;
  }
  void* const mapped = mmap(nullptr, bytes + spare, PROT_NONE, kReservedFlags, -1, 0);
  if (mapped == MAP_FAILED) return 0;
  const std::uintptr_t base = as_address(mapped);
  const std::uintptr_t aligned = (base + alignment - 1) & ~(alignment - 1);
  if (aligned != base) munmap(mapped, aligned - base);
  spare -= aligned - base;
  if (spare != 0) munmap(as_pointer(aligned + bytes), spare);
  return aligned;
}

}  // namespace exclave::process
