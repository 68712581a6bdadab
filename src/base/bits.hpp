// Powers of two, alignment and overflow, without a surprise.
#pragma once

#include <cstddef>
#include <cstdint>

namespace exclave {

__extension__ typedef unsigned __int128 Uint128;

constexpr bool is_power_of_two(std::uint64_t value) noexcept {
  return value != 0 && (value & (value - 1)) == 0;
}

// Precondition: value != 0.
constexpr unsigned floor_log2(std::uint64_t value) noexcept {
  return 63u - static_cast<unsigned>(__builtin_clzll(value));
}
// Precondition: value != 0.
constexpr unsigned ceil_log2(std::uint64_t value) noexcept {
  return value == 1 ? 0u : floor_log2(value - 1) + 1u;
}
constexpr unsigned lowest_bit(std::uint64_t value) noexcept {
  return static_cast<unsigned>(__builtin_ctzll(value));
}

constexpr bool is_aligned(std::uint64_t value, std::uint64_t alignment) noexcept {
  return (value & (alignment - 1)) == 0;
}
constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) noexcept {
  return value & ~(alignment - 1);
}
// Precondition: the result fits; use checked_align_up where a caller or the host chose the value.
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) noexcept {
  return (value + alignment - 1) & ~(alignment - 1);
}
constexpr bool checked_align_up(std::uint64_t value, std::uint64_t alignment,
                                std::uint64_t* out) noexcept {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(value, alignment - 1, &sum)) return false;
  *out = align_down(sum, alignment);
  return true;
}
constexpr std::uint64_t ceil_div(std::uint64_t value, std::uint64_t divisor) noexcept {
  return value / divisor + (value % divisor != 0);
}

}  // namespace exclave
