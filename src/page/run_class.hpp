// Long page runs are rounded up to eight lengths for each doubling, so that a freed one is soon
// what somebody asks for again. At most an eighth is lost, and of address space only: nobody
// touches it.
#pragma once

#include <cstdint>

#include "base/bits.hpp"

namespace exclave {

// Runs of more than 16 pages and up to 2,048 (8 MiB) have a class; others stay as they are.
inline constexpr std::uint64_t kShortestClassedRun = 17;
inline constexpr std::uint64_t kLongestClassedRun = 2048;
inline constexpr unsigned kRunClasses = 56;
inline constexpr unsigned kNoRunClass = kRunClasses;

constexpr bool has_run_class(std::uint64_t pages) noexcept {
  return pages - kShortestClassedRun <= kLongestClassedRun - kShortestClassedRun;
}

// The length that a request for so many pages is given. Precondition: pages != 0.
constexpr std::uint64_t round_run(std::uint64_t pages) noexcept {
  if (!has_run_class(pages)) return pages;
  return align_up(pages, std::uint64_t{1} << (floor_log2(pages - 1) - 3));
}

// The class of a run of exactly so many pages; kNoRunClass when that is no class's length.
constexpr unsigned run_class_of(std::uint64_t pages) noexcept {
  if (!has_run_class(pages)) return kNoRunClass;
  const unsigned shift = floor_log2(pages - 1) - 3;
  if (!is_aligned(pages, std::uint64_t{1} << shift)) return kNoRunClass;
  return static_cast<unsigned>((shift - 1) * 8 + (pages >> shift) - 9);
}

static_assert(run_class_of(18) == 0 && run_class_of(17) == kNoRunClass && round_run(17) == 18);
static_assert(run_class_of(kLongestClassedRun) == kRunClasses - 1 && round_run(16) == 16);

}  // namespace exclave
