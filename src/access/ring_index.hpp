// A ring's indices count bytes and wrap at 2^64; the byte that index i counts lies at i % capacity,
// a power of two. Which of the other side's indices is believed, and where a range of the ring
// lies.
#pragma once

#include <cstdint>

#include "base/bits.hpp"

namespace exclave::access {

// The producer's question: did the consumer's index not go backwards, nor past what is written?
template <class W = std::uint64_t>
constexpr Truth<W> is_credible_head(Given<W> head, Given<W> known_head, Given<W> tail) noexcept {
  return head - known_head <= tail - known_head;
}

// The consumer's question: did the producer's index not go backwards, nor past the capacity?
// Backwards wraps to a huge difference, so one comparison sees both lies.
template <class W = std::uint64_t>
constexpr Truth<W> is_credible_tail(Given<W> tail, Given<W> known_tail, Given<W> head,
                                    Given<W> capacity) noexcept {
  return tail - known_tail <= capacity - (known_tail - head);
}

// From the word that holds the next unread byte on, nothing may be overwritten.
template <class W = std::uint64_t>
constexpr W ring_room(Given<W> capacity, Given<W> head, Given<W> tail) noexcept {
  return capacity - (tail - (head - head % 8));
}

template <class W>
struct RingPieces {
  W start;        // of the first piece; the second starts at 0
  W before_wrap;  // bytes of the first piece
};

template <class W = std::uint64_t>
constexpr RingPieces<W> ring_pieces(Given<W> index, Given<W> size, Given<W> capacity) noexcept {
  const W start = index & (capacity - 1);
  return {start, select(size < capacity - start, size, capacity - start)};
}

}  // namespace exclave::access
