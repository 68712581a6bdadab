// Long page runs are rounded up to four lengths for each doubling, so that a freed one is soon what
// somebody asks for again. At most a quarter is lost, and of address space only: nobody touches it.
#pragma once

#include <cstdint>

#include "base/bits.hpp"

namespace exclave {

// Runs of more than 16 pages and up to 2,048 (8 MiB) have a class; others stay as they are.
inline constexpr std::uint64_t kShortestClassedRun = 17;
inline constexpr std::uint64_t kLongestClassedRun = 2048;
inline constexpr unsigned kRunClasses = 28;

constexpr bool has_run_class(std::uint64_t pages) noexcept {
  return pages - kShortestClassedRun <= kLongestClassedRun - kShortestClassedRun;
}

// The length that a request for so many pages is given. Precondition: pages != 0.
constexpr std::uint64_t round_run(std::uint64_t pages) noexcept {
  if (!has_run_class(pages)) return pages;
  return align_up(pages, std::uint64_t{1} << (floor_log2(pages - 1) - 2));
}

// The class whose runs are just long enough. Precondition: has_run_class(pages).
constexpr unsigned run_class_of(std::uint64_t pages) noexcept {
  const unsigned shift = floor_log2(pages - 1) - 2;
  const unsigned step = static_cast<unsigned>((pages - 1) >> shift);  // 4 to 7
  return (shift - 2) * 4 + step - 4;
}

constexpr std::uint64_t run_class_pages(unsigned run_class) noexcept {
  return std::uint64_t{run_class % 4 + 5} << (run_class / 4 + 2);
}

// May a request for `asked` pages have been given so many? Its own length, where memory was short;
// else that of its class.
constexpr bool may_serve_run(std::uint64_t given, std::uint64_t asked) noexcept {
  return given == asked || given == round_run(asked);
}

static_assert(run_class_of(17) == 0 && run_class_pages(0) == 20 && round_run(17) == 20);
static_assert(run_class_of(kLongestClassedRun) == kRunClasses - 1);
static_assert(run_class_pages(kRunClasses - 1) == kLongestClassedRun && round_run(16) == 16);

}  // namespace exclave
