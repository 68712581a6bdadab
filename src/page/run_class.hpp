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

template <class W = std::uint64_t>
constexpr Truth<W> has_run_class(Given<W> pages) noexcept {
  return pages - kShortestClassedRun <= kLongestClassedRun - kShortestClassedRun;
}

// Two bits below the highest of the last page's number, which is not 0.
template <class W = std::uint64_t>
constexpr Log<W> run_class_shift(Given<W> last) noexcept {
  return floor_log2(last) - 2;
}

// The length that a request for so many pages is given. Precondition: pages != 0.
template <class W = std::uint64_t>
constexpr W round_run(Given<W> pages) noexcept {
  // The bit does not change the highest one of a run that has a class; others only need one.
  const W last = (pages - 1) | (kShortestClassedRun - 1);
  return select(has_run_class<W>(pages), align_up<W>(pages, W(1) << run_class_shift<W>(last)),
                pages);
}

// The class whose runs are just long enough. Precondition: has_run_class(pages).
template <class W = std::uint64_t>
constexpr W run_class_number(Given<W> pages) noexcept {
  const W last = pages - 1;
  const auto shift = run_class_shift<W>(last);
  const W step = last >> shift;  // 4 to 7
  return W(shift - 2) * 4 + step - 4;
}
constexpr unsigned run_class_of(std::uint64_t pages) noexcept {
  return static_cast<unsigned>(run_class_number(pages));
}

template <class W = std::uint64_t>
constexpr W run_class_pages(Given<W> run_class) noexcept {
  return (run_class % 4 + 5) << (run_class / 4 + 2);
}

// May a request for `asked` pages have been given so many? Its own length, where memory was short;
// else that of its class.
template <class W = std::uint64_t>
constexpr Truth<W> may_serve_run(Given<W> given, Given<W> asked) noexcept {
  return given == asked || given == round_run<W>(asked);
}

static_assert(run_class_of(17) == 0 && run_class_pages(0) == 20 && round_run(17) == 20);
static_assert(run_class_of(kLongestClassedRun) == kRunClasses - 1);
static_assert(run_class_pages(kRunClasses - 1) == kLongestClassedRun && round_run(16) == 16);

}  // namespace exclave
