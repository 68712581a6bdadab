// Where the runs of a region stand in the bitmaps of RunMap, and where in a run a request is
// placed. Order k has the runs of 2^k to 2^(k+1) - 1 pages, and a bit for each window of 2^k pages.
// At most one such run starts in a window, because it reaches to the window's last page at least.
// Indices are far below 2^62, orders below 62.
#pragma once

#include <cstdint>

#include "base/bits.hpp"

namespace exclave {

// The window that the index lies in.
template <class W = std::uint64_t>
constexpr W window_of(Given<W> index, Given<Log<W>> order) noexcept {
  return index >> order;
}
// A page of the run that starts in the window, whose order it is.
template <class W = std::uint64_t>
constexpr W last_of_window(Given<W> window, Given<Log<W>> order) noexcept {
  return ((window + 1) << order) - 1;
}
// How many windows hold an index below `end`. Precondition: end != 0.
template <class W = std::uint64_t>
constexpr W windows_below(Given<W> end, Given<Log<W>> order) noexcept {
  return window_of<W>(end - 1, order) + 1;
}

// A boundary that no run crosses.
inline constexpr std::uint64_t kNoBoundary = std::uint64_t{1} << 62;

// What a run must be like. Pages are counted by their numbers in the address space.
template <class W>
struct BasicRunShape {
  W pages;      // not 0
  W alignment;  // a power of two
  W boundary;   // a power of two; no multiple of it lies inside the run; at least `pages`
};
using RunShape = BasicRunShape<std::uint64_t>;

// The first page at or after `start` where such a run may start.
template <class W = std::uint64_t>
constexpr W place_run(Given<W> start, Given<BasicRunShape<W>> shape) noexcept {
  const W first = align_up<W>(start, shape.alignment);
  const auto crosses = (first ^ (first + shape.pages - 1)) >= shape.boundary;
  return select(crosses, align_up<W>(first, shape.boundary), first);
}
// A stretch of so many pages, wherever it lies, has a place for such a run.
template <class W = std::uint64_t>
constexpr W pages_that_fit(Given<BasicRunShape<W>> shape) noexcept {
  return shape.pages + (shape.alignment - 1) +
         select(shape.boundary == kNoBoundary, W(0), shape.pages - 1);
}

}  // namespace exclave
