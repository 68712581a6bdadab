// The book of one region. Fields that readers see without a lock are atomic; Registry says how they
// read them.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/units.hpp"
#include "exclave/result.hpp"
#include "port/book_store.hpp"

namespace exclave {

// What a unit (four pages) of a pool holds; page/unit_entry.hpp knows the encoding. 0: nothing
// starts here.
using UnitEntry = std::uint32_t;

struct alignas(kCacheLine) Region {
  // ---- Read without a lock ----
  // Odd while the facts below change; readers try again when it moved. Publishes the facts to
  // Registry::query.
  std::atomic<std::uint32_t> sequence{0};
  std::atomic<std::uint32_t> unit_count{0};  // 0: not a pool
  std::atomic<std::uint64_t> first_unit{0};
  std::atomic<std::uint64_t> id{0};  // 0: not in the registry
  std::atomic<std::uintptr_t> base{0};
  std::atomic<std::size_t> size{0};
  std::atomic<std::uint64_t> device_base{0};
  std::atomic<DeviceTag> device{0};
  std::atomic<Role> role{Role::kPool};
  std::atomic<Protection> protection{Protection::kNone};
  std::atomic<bool> grown{false};
  std::atomic<bool> draining{false};

  // ---- Guarded by the registry's lock ----
  Region* next_taken = nullptr;  // of a chain of mappings that left the books
  std::uint32_t pins = 0;     // of the whole region
  std::uint32_t in_call = 0;  // a memory call is under way on it: its thread's slot + 1

  // ---- Fixed while the region stands ----
  std::size_t book_bytes = 0;
  void (*gone)(void* context, std::uint64_t region_id, std::uintptr_t base,
               std::size_t size) = nullptr;
  void* gone_context = nullptr;
  std::size_t largest_block = 0;
  std::size_t boundary = 0;
  std::atomic<void*> page_pool{nullptr};  // pools: the PagePool whose lock guards page_book
  void* page_book = nullptr;              // pools: the page room's book
  std::atomic<void*> pool{nullptr};       // attached pools: the heap room's Pool

  Extent extent() const noexcept {
    return {base.load(std::memory_order_relaxed), size.load(std::memory_order_relaxed)};
  }
  RegionId region_id() const noexcept { return {id.load(std::memory_order_relaxed)}; }

  // Pools: the unit entries follow the struct.
  std::atomic<UnitEntry>* units() noexcept {
    return reinterpret_cast<std::atomic<UnitEntry>*>(this + 1);
  }
  const std::atomic<UnitEntry>* units() const noexcept {
    return reinterpret_cast<const std::atomic<UnitEntry>*>(this + 1);
  }
  // The entry of the unit that holds the address, or null. Safe on a book that is being reused: the
  // entries lie within it whatever first_unit says.
  std::atomic<UnitEntry>* unit_of(std::uintptr_t address) noexcept {
    const std::uint64_t index =
        (address >> kUnitShift) - first_unit.load(std::memory_order_relaxed);
    // Acquire pairs with the release store of the count in Registry::create: the entries are this
    // region's.
    return index < unit_count.load(std::memory_order_acquire) ? &units()[index] : nullptr;
  }
};

}  // namespace exclave
