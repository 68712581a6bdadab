// The grids that memory is cut by, and what an address may be.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bits.hpp"
#include "exclave/types.hpp"

namespace exclave {

inline constexpr unsigned kPageShift = 12;
static_assert(kPageBytes == std::size_t{1} << kPageShift);

// A unit is four pages: the grain at which an address finds its slab.
inline constexpr unsigned kUnitShift = 14;
inline constexpr std::size_t kUnitBytes = std::size_t{1} << kUnitShift;
inline constexpr unsigned kPagesPerUnit = 1u << (kUnitShift - kPageShift);

// The lower half of the canonical addresses, where a 47-bit Linux process lives. No region lies
// above it.
inline constexpr unsigned kAddressBits = 47;
inline constexpr std::uintptr_t kAddressLimit = std::uintptr_t{1} << kAddressBits;

inline constexpr std::size_t kMaxAlignment = std::size_t{1} << 30;
inline constexpr std::size_t kCacheLine = 64;

template <class W = std::uint64_t>
constexpr W pages_for(Given<W> bytes) noexcept {
  return ceil_div<W>(bytes, kPageBytes);
}

// Nonempty, page-aligned, not wrapping, in the lower half, and not at page zero.
template <class W = std::uintptr_t>
constexpr Truth<W> is_page_range(Given<BasicExtent<W>> range) noexcept {
  return range.size != 0 && range.base != 0 && is_aligned<W>(range.base | range.size, kPageBytes) &&
         range.size <= kAddressLimit && range.base <= kAddressLimit - range.size;
}

}  // namespace exclave
