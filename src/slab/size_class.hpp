// Small sizes are rounded up to 80 classes: steps of 16 bytes to 128, then eight for each doubling
// to 64 KiB, so at most an eighth is lost above 128 bytes. Larger blocks are page runs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bits.hpp"
#include "base/units.hpp"

namespace exclave {

using SizeClass = std::uint8_t;
inline constexpr SizeClass kSizeClasses = 80;
inline constexpr std::size_t kMaxSmallBytes = std::size_t{64} << 10;
// A slab starts on a page at worst, so its slots can promise no more.
inline constexpr std::size_t kMaxSmallAlignment = kPageBytes;

// The number of the class, not narrowed yet. Precondition: 1 <= bytes <= kMaxSmallBytes.
template <class W = std::uint64_t>
constexpr W size_class_number(Given<W> bytes) noexcept {
  const W last = bytes - 1;
  // Three bits below the highest; below 128 the step stays 16. No branch.
  const auto shift = floor_log2(last | 128) - 3;
  return W(shift) * 8 + (last >> shift) - 32;
}

// Precondition: 1 <= bytes <= kMaxSmallBytes.
constexpr SizeClass size_class_of(std::size_t bytes) noexcept {
  return static_cast<SizeClass>(size_class_number(bytes));
}

template <class W = std::uint32_t>
constexpr W size_class_bytes(Given<W> c) noexcept {
  const W log = c / 8 + 6;
  return select(c < 8, (c + 1) * 16, (W(1) << log) + ((c % 8 + 1) << (log - 3)));
}

// The same as a table, for the fast path: one load, where counting leading zeros takes as long as
// three, and on some processors ten. Sizes that share an entry share a class.
template <class W = std::uint64_t>
constexpr W size_class_entry(Given<W> bytes) noexcept {
  return (bytes - 1) / 16;
}
template <class W = std::uint64_t>
constexpr W first_bytes_of_entry(Given<W> entry) noexcept {
  return entry * 16 + 1;
}

struct SizeClassTable {
  SizeClass class_of[kMaxSmallBytes / 16] = {};

  constexpr SizeClassTable() noexcept {
    for (std::size_t i = 0; i < kMaxSmallBytes / 16; ++i)
      class_of[i] = size_class_of(first_bytes_of_entry(i));
  }
};
inline constexpr SizeClassTable kSizeClassTable;

// Precondition: 1 <= bytes <= kMaxSmallBytes.
inline SizeClass size_class_fast(std::size_t bytes) noexcept {
  return kSizeClassTable.class_of[size_class_entry(bytes)];
}

// The class for blocks at a wider alignment: the first whose slots are all aligned. Alignment is a
// power of two up to kMaxSmallAlignment. kSizeClasses: none is, it must be a page run.
constexpr SizeClass size_class_of(std::size_t bytes, std::size_t alignment) noexcept {
  std::uint64_t rounded = align_up(bytes, alignment);
  while (rounded <= kMaxSmallBytes) {  // GCOVR_EXCL_BR_LINE: the first is, with today's classes
    const SizeClass c = size_class_of(rounded);
    if (is_aligned(size_class_bytes(c), alignment)) return c;  // GCOVR_EXCL_BR_LINE: as above
    rounded += alignment;                                      // GCOVR_EXCL_LINE: as above
  }
  return kSizeClasses;  // GCOVR_EXCL_LINE: as above
}

// How many units a slab of the class takes when memory is plentiful and the heap has `slabs` of it
// already: few slots at first, then so many that the books are small beside them.
constexpr std::uint64_t slab_units(SizeClass c, std::uint32_t slabs) noexcept {
  const std::uint32_t bytes = size_class_bytes(c);
  if (bytes <= 1024) return slabs == 0 ? 4 : 8;
  const std::uint64_t first = bytes <= 16384 ? 4 : 16;
  constexpr std::uint64_t kMost = 64;
  const std::uint64_t units = first << (slabs < 4 ? slabs : 4);
  return units < kMost ? units : kMost;
}

static_assert(size_class_of(1) == 0 && size_class_of(16) == 0 && size_class_of(17) == 1 &&
              size_class_of(128) == 7);
static_assert(size_class_of(129) == 8 && size_class_bytes(8) == 144);
static_assert(size_class_of(kMaxSmallBytes) == kSizeClasses - 1);
static_assert(size_class_bytes(kSizeClasses - 1) == kMaxSmallBytes);

}  // namespace exclave
