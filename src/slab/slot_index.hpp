// From an offset in a slab to its slot, by one multiplication with the reciprocal of the slot's
// length (Lemire, Kaser, Kurz: Faster remainder by direct computation, 2019).
#pragma once

#include <cstdint>

#include "base/bits.hpp"

namespace exclave {

// 2^64 / slot_bytes, rounded up; 0 stands for 2^64. Precondition: slot_bytes != 0.
template <class W = std::uint64_t>
constexpr W slot_reciprocal(Given<W> slot_bytes) noexcept {
  return ~W(0) / slot_bytes + 1;
}

// Of an offset below 2^32 multiplied with the reciprocal of a size class: does a slot start there,
// and in which slot does it lie?
template <class W = std::uint64_t>
constexpr Truth<W> starts_slot(Given<Wide<W>> product, Given<W> reciprocal) noexcept {
  return low_word(product) < reciprocal;
}
template <class W = std::uint64_t>
constexpr W slot_of(Given<Wide<W>> product) noexcept {
  return high_word(product);
}

// Is it one of the slots, and does it start at the offset? The answer is right for any four words,
// also when the book is being reused and they do not belong together: no more than 2^16 slots of
// less than 2^32 bytes each.
template <class W = std::uint64_t>
constexpr Truth<W> is_slot_at(Given<W> slot, Given<W> offset, Given<W> slots,
                              Given<W> slot_bytes) noexcept {
  return slot < slots && slot * slot_bytes == offset;
}

// How many states a slab's book has room for: whole words, and one state at least for what is left
// over behind the last slot.
template <class W = std::uint64_t>
constexpr W states_for(Given<W> slots) noexcept {
  return align_up<W>(slots + 1, 8);
}

}  // namespace exclave
