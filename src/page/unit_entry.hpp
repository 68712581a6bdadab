// What a unit (four pages) of a pool holds, in 32 bits: 0.025 % of the memory that it describes.
//
// The low three bits are a tag:
//   nothing   0: no block or slab starts in it (free pages, or the inside of a block)
//   slab      the reference of the slab that all of it belongs to, whose low bits are free for it
//   runs      for each of its four pages: 0, or a block starts there, with its length in pages: 1
//             to 14, or kLong, and then the next unit, which the block covers, holds the length;
//             and whether the block is pinned, and whether it is freed (while pinned, or kept)
//   length    see kLong
//
// The page lock guards runs and lengths; slab entries are read without a lock.
#pragma once

#include <cstdint>

#include "port/book_store.hpp"
#include "region/region.hpp"

namespace exclave {

// Only slabs' is odd.
enum class UnitTag : std::uint32_t { kNothing = 0, kSlab = 1, kRuns = 2, kLength = 4 };
inline constexpr unsigned kUnitPayloadBits = 32 - kBookTagBits;

constexpr UnitTag unit_tag(UnitEntry entry) noexcept {
  return static_cast<UnitTag>(entry & ((1u << kBookTagBits) - 1));
}
constexpr std::uint32_t unit_payload(UnitEntry entry) noexcept {
  return entry >> kBookTagBits;
}
// Precondition: payload >> kUnitPayloadBits == 0.
constexpr UnitEntry make_unit(UnitTag tag, std::uint32_t payload) noexcept {
  return (payload << kBookTagBits) | static_cast<std::uint32_t>(tag);
}

constexpr bool is_slab(UnitEntry entry) noexcept {
  return (entry & static_cast<std::uint32_t>(UnitTag::kSlab)) != 0;
}
// Precondition: is_slab(entry).
constexpr BookRef slab_ref(UnitEntry entry) noexcept {
  return entry - static_cast<std::uint32_t>(UnitTag::kSlab);
}
// The same, followed.
template <class Slab>
Slab* slab_of(BookView books, UnitEntry entry) noexcept {
  return books.at_tagged<Slab>(entry, static_cast<std::uint32_t>(UnitTag::kSlab));
}
constexpr UnitEntry make_slab_unit(BookRef slab) noexcept {
  return slab + static_cast<std::uint32_t>(UnitTag::kSlab);
}

// The runs of one unit, unpacked.
struct UnitRuns {
  static constexpr unsigned kLong = 15;
  std::uint32_t payload = 0;

  constexpr unsigned length(unsigned page) const noexcept { return (payload >> (4 * page)) & 15; }
  constexpr bool pinned(unsigned page) const noexcept { return (payload >> (16 + page)) & 1; }
  constexpr bool freed(unsigned page) const noexcept { return (payload >> (20 + page)) & 1; }

  constexpr void set_length(unsigned page, unsigned length) noexcept {
    payload = (payload & ~(15u << (4 * page))) | (length << (4 * page));
  }
  constexpr void set_pinned(unsigned page, bool on) noexcept { set_bit(16 + page, on); }
  constexpr void set_freed(unsigned page, bool on) noexcept { set_bit(20 + page, on); }
  // What set_freed sets, in the entry.
  static constexpr UnitEntry freed_mark(unsigned page) noexcept {
    return 1u << (kBookTagBits + 20 + page);
  }

 private:
  constexpr void set_bit(unsigned bit, bool on) noexcept {
    payload = (payload & ~(1u << bit)) | (static_cast<std::uint32_t>(on) << bit);
  }
};

}  // namespace exclave
