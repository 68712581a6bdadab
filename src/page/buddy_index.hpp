// Where the blocks of a buddy system lie. A block of order k is 2^k pages at a multiple of 2^k; its
// buddy is the other half of the block of the next order. Indices are far below 2^63, orders below
// 63.
#pragma once

#include <cstdint>

#include "base/bits.hpp"

namespace exclave {

template <class W = std::uint64_t>
constexpr W block_pages(Given<Log<W>> order) noexcept {
  return W(1) << order;
}
// The block that holds the index.
template <class W = std::uint64_t>
constexpr W block_start(Given<W> index, Given<Log<W>> order) noexcept {
  return align_down<W>(index, block_pages<W>(order));
}
template <class W = std::uint64_t>
constexpr W block_end(Given<W> index, Given<Log<W>> order) noexcept {
  return block_start<W>(index, order) + block_pages<W>(order);
}

// Precondition: the index is a multiple of the block's length, as it is for the two below.
template <class W = std::uint64_t>
constexpr W buddy_of(Given<W> index, Given<Log<W>> order) noexcept {
  return index ^ block_pages<W>(order);
}
// Is it the upper one of the two?
template <class W = std::uint64_t>
constexpr Truth<W> is_upper_buddy(Given<W> index, Given<Log<W>> order) noexcept {
  return (index & block_pages<W>(order)) != 0;
}
// The lowest order at which an edge of the run may meet a buddy. Precondition: not both are 0.
template <class W = std::uint64_t>
constexpr Log<W> edge_order(Given<W> first, Given<W> last) noexcept {
  return lowest_bit(first | last);
}

// How many bits the bitmap of an order has for indices below `end`. Precondition: end != 0.
template <class W = std::uint64_t>
constexpr W blocks_below(Given<W> end, Given<Log<W>> order) noexcept {
  return ((end - 1) >> order) + 1;
}

// A stretch of so many pages, wherever it lies, holds a whole block of this order: a quarter of it
// at least.
template <class W = std::uint64_t>
constexpr Log<W> order_within(Given<W> pages) noexcept {
  return floor_log2(pages | 2) - 1;
}

}  // namespace exclave
