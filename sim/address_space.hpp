// Address space of this process, as the hostile host plays with it.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "exclave/types.hpp"

namespace exclave::sim {

inline constexpr int kNoAccessFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

inline void* as_pointer(std::uintptr_t address) {
  return reinterpret_cast<void*>(address);
}
inline std::uintptr_t align_down(std::uintptr_t n, std::size_t alignment) {
  return n & ~(alignment - 1);
}
inline std::uintptr_t align_up(std::uintptr_t n, std::size_t alignment) {
  return align_down(n + alignment - 1, alignment);
}

inline Extent reserve_window(std::size_t bytes, std::uintptr_t at = 0) {
  const int flags = kNoAccessFlags | (at != 0 ? MAP_FIXED_NOREPLACE : 0);
  void* const window = mmap(as_pointer(at), bytes, PROT_NONE, flags, -1, 0);
  if (window == MAP_FAILED) return {};
  return {reinterpret_cast<std::uintptr_t>(window), bytes};
}

inline void give_up(Extent extent) {
  if (!extent.empty()) munmap(as_pointer(extent.base), extent.size);
}

// The pages go; the addresses stay taken, so that nothing else comes to stand there.
inline void bury(Extent extent) {
  const void* const reserved =
      mmap(as_pointer(extent.base), extent.size, PROT_NONE, kNoAccessFlags | MAP_FIXED, -1, 0);
  if (reserved == MAP_FAILED) std::abort();  // the test itself is out of memory
}

// The part of a that lies before, and behind, b.
inline Extent part_before(Extent a, Extent b) {
  return a.base < b.base ? Extent{a.base, b.base - a.base} : Extent{};
}
inline Extent part_behind(Extent a, Extent b) {
  return a.end() > b.end() ? Extent{b.end(), a.end() - b.end()} : Extent{};
}
inline Extent common_part(Extent a, Extent b) {
  const std::uintptr_t base = std::max(a.base, b.base);
  const std::uintptr_t end = std::min(a.end(), b.end());
  return base < end ? Extent{base, end - base} : Extent{};
}

}  // namespace exclave::sim
