// Powers of two, alignment and overflow, without a surprise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/word.hpp"

namespace exclave {

__extension__ typedef unsigned __int128 Uint128;

// Precondition: value != 0.
constexpr unsigned floor_log2(std::uint64_t value) noexcept {
  return 63u - static_cast<unsigned>(__builtin_clzll(value));
}
// Precondition: value != 0.
constexpr unsigned lowest_bit(std::uint64_t value) noexcept {
  return static_cast<unsigned>(__builtin_ctzll(value));
}

constexpr Uint128 multiply_wide(std::uint64_t a, std::uint64_t b) noexcept {
  return Uint128{a} * b;
}
constexpr std::uint64_t high_word(Uint128 value) noexcept {
  return static_cast<std::uint64_t>(value >> 64);
}
constexpr std::uint64_t low_word(Uint128 value) noexcept {
  return static_cast<std::uint64_t>(value);
}

// ---- What follows is proven for all words (base/word.hpp); those above are the machine's ----

template <class W = std::uint64_t>
constexpr Truth<W> is_power_of_two(Given<W> value) noexcept {
  return value != 0 && (value & (value - 1)) == 0;
}

// The types of an exponent of two, and of a product of two words.
template <class W>
using Log = decltype(floor_log2(std::declval<const W&>()));
template <class W>
using Wide = decltype(multiply_wide(std::declval<const W&>(), std::declval<const W&>()));

// Precondition: value != 0.
template <class W = std::uint64_t>
constexpr Log<W> ceil_log2(Given<W> value) noexcept {
  return floor_log2((value - 1) | 1) + select(value > 1, Log<W>(1), Log<W>(0));
}

template <class W = std::uint64_t>
constexpr Truth<W> is_aligned(Given<W> value, Given<W> alignment) noexcept {
  return (value & (alignment - 1)) == 0;
}
template <class W = std::uint64_t>
constexpr W align_down(Given<W> value, Given<W> alignment) noexcept {
  return value & ~(alignment - 1);
}
// Precondition: the result fits, else it is 0; use checked_align_up where a caller or the host
// chose the value.
template <class W = std::uint64_t>
constexpr W align_up(Given<W> value, Given<W> alignment) noexcept {
  return (value + alignment - 1) & ~(alignment - 1);
}
// False, with *out as it was, when the result does not fit.
template <class W = std::uint64_t>
constexpr Truth<W> checked_align_up(Given<W> value, Given<W> alignment, W* out) noexcept {
  const W sum = value + (alignment - 1);
  const Truth<W> fits = sum >= value;
  *out = select(fits, align_down<W>(sum, alignment), *out);
  return fits;
}
template <class W = std::uint64_t>
constexpr W ceil_div(Given<W> value, Given<W> divisor) noexcept {
  return value / divisor + select(value % divisor != 0, W(1), W(0));
}

// Nonzero exactly when one of the eight bytes is zero.
template <class W = std::uint64_t>
constexpr W any_zero_byte(Given<W> word) noexcept {
  return (word - 0x0101010101010101u) & ~word & 0x8080808080808080u;
}

}  // namespace exclave
