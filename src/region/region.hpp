// The book of one region. Fields that readers see without a lock are atomic; Registry says how they
// read them.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/units.hpp"
#include "exclave/result.hpp"
#include "port/book_store.hpp"

namespace exclave {

// What a unit (four pages) of a pool holds; page/unit_entry.hpp knows the encoding. 0: nothing
// starts here.
using UnitEntry = std::uint32_t;

// The units that an extent touches, of which the first is that of its base.
template <class W = std::uint64_t>
constexpr W first_unit_of(Given<BasicExtent<W>> extent) noexcept {
  return extent.base >> kUnitShift;
}
// Precondition: it is not empty and does not wrap.
template <class W = std::uint64_t>
constexpr W units_of(Given<BasicExtent<W>> extent) noexcept {
  return ((extent.end() - 1) >> kUnitShift) - (extent.base >> kUnitShift) + 1;
}
// units_of or more where the address lies in none of them, whatever it is.
template <class W = std::uint64_t>
constexpr W unit_index(Given<W> address, Given<W> first_unit) noexcept {
  return (address >> kUnitShift) - first_unit;
}

// What query tells of a region beside where it lies, packed as in RegionInfo.
struct RegionTraits {
  Role role = Role::kPool;
  Protection protection = Protection::kNone;
  bool grown = false;
  bool draining = false;
  DeviceTag device = 0;
};

// RegionInfo as five words. query copies it as such, because byte by byte it would be the greater
// part of its work.
struct RegionFacts {
  std::uint64_t id, base, size, traits, device_base;

  RegionInfo info() const noexcept { return std::bit_cast<RegionInfo>(*this); }
  Role role() const noexcept { return static_cast<Role>(traits & 0xff); }
};
static_assert(offsetof(RegionInfo, extent) == offsetof(RegionFacts, base) &&
              offsetof(RegionInfo, role) == offsetof(RegionFacts, traits) &&
              offsetof(RegionInfo, device) - offsetof(RegionInfo, role) ==
                  offsetof(RegionTraits, device) &&
              offsetof(RegionInfo, device_base) == offsetof(RegionFacts, device_base));

struct alignas(kCacheLine) Region {
  // ---- Read without a lock ----
  // Even while the facts below change, and while the region does not stand in the pagemap yet;
  // readers try again then, and when it moved. So the zero of a book that was given back is no
  // answer. Publishes the facts to Registry::query.
  std::atomic<std::uint64_t> sequence{0};
  std::atomic<std::uint64_t> first_unit{0};
  std::atomic<std::uint64_t> id{0};  // 0: not in the registry
  std::atomic<std::uintptr_t> base{0};
  std::atomic<std::size_t> size{0};
  std::atomic<std::uint64_t> device_base{0};
  std::atomic<std::uint64_t> traits_word{0};  // RegionTraits
  std::atomic<std::uint32_t> unit_count{0};   // 0: not a pool

  // ---- Guarded by the registry's lock ----
  std::uint32_t in_call = 0;     // a memory call is under way on it: its thread's slot + 1
  Region* next_taken = nullptr;  // of a chain of mappings that leave the books
  std::uint32_t pins = 0;        // of the whole region
  bool taken_out = false;        // it may be put back: its edges are held in the pagemap
  bool dont_fork = false;        // a mapping that the child of a fork has not (MADV_DONTFORK)

  // ---- Fixed while the region stands ----
  void (*gone)(void* context, std::uint64_t region_id, std::uintptr_t base,
               std::size_t size) = nullptr;
  void* gone_context = nullptr;
  std::atomic<void*> page_pool{nullptr};  // pools: the PagePool whose lock guards page_book
  std::atomic<void*> pool{nullptr};       // attached pools: the heap room's Pool
  void* page_book = nullptr;              // pools: the page room's book

  // ---- Pools only: the book of another region ends here (book_bytes) ----
  std::size_t largest_block = 0;
  std::size_t boundary = 0;

  // There may be a million mappings, so their books are two cache lines.
  static constexpr std::size_t book_bytes(std::uint64_t units) noexcept;

  Extent extent() const noexcept {
    return {base.load(std::memory_order_relaxed), size.load(std::memory_order_relaxed)};
  }
  RegionTraits traits() const noexcept {
    return std::bit_cast<RegionTraits>(traits_word.load(std::memory_order_relaxed));
  }
  void set_traits(RegionTraits traits) noexcept {
    traits_word.store(std::bit_cast<std::uint64_t>(traits), std::memory_order_release);
  }
  RegionId region_id() const noexcept { return {id.load(std::memory_order_relaxed)}; }

  // Pools: the unit entries follow the struct.
  std::atomic<UnitEntry>* units() noexcept {
    return reinterpret_cast<std::atomic<UnitEntry>*>(this + 1);
  }
  // The entry of the unit that holds the address, or null. Safe on a book that is being reused: the
  // entries lie within it whatever first_unit says.
  std::atomic<UnitEntry>* unit_of(std::uintptr_t address) noexcept {
    const std::uint64_t index = unit_index(address, first_unit.load(std::memory_order_relaxed));
    // Acquire pairs with the release store of the count in Registry::create: the entries are this
    // region's.
    return index < unit_count.load(std::memory_order_acquire) ? &units()[index] : nullptr;
  }
};

constexpr std::size_t Region::book_bytes(std::uint64_t units) noexcept {
  return units == 0 ? offsetof(Region, largest_block) : sizeof(Region) + units * sizeof(UnitEntry);
}
static_assert(Region::book_bytes(0) + sizeof(BookRef) <= 2 * kCacheLine);

}  // namespace exclave
