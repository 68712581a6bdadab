// What one thread keeps of the attached pools that it uses: some heaps, found by what the thread
// asks for, or by the address of what it frees. Only the thread itself looks here.
//
// Memory: the table takes 0.8 KB once, and each pool in it a heap (4.3 KB) and its stacks (16 to
// 1024 entries of 16 bytes for each size class in use).
#pragma once

#include "exclave/types.hpp"
#include "heap/pool_heap.hpp"

namespace exclave {

struct PoolTable {
  static constexpr unsigned kPools = 8;
  // So many uses in a row, without one of another pool, earn a pool its place.
  static constexpr unsigned kStreak = 8;

  struct Entry {
    RegionId id{};  // null: the entry is not in use
    PoolHeap* heap = nullptr;
    Pool* pool = nullptr;
    Extent extent{};
    // The region's, for as long as the heap serves.
    std::atomic<UnitEntry>* units = nullptr;
    std::uint64_t first_unit = 0;
    std::size_t plain_bytes = 0;  // requests up to here have the size class that they have anywhere
    std::size_t small_bytes = 0;  // those up to here have one
    std::uint64_t boundary = 0;   // in pages, or kNoBoundary
    DeviceTag device = 0;
    bool open_to_all = false;
    std::uint64_t refills = 0;  // the thread came by under the lock; halved now and then

    [[gnu::always_inline]] bool serves(Placement where) const noexcept {
      switch (where.kind) {
        case Placement::Kind::kPool:
          return id == where.pool;
        case Placement::Kind::kDevice:
          return device == where.device && device != 0;
        default:
          return open_to_all;
      }
    }
  };

  Entry entries[kPools];
  Entry* last = entries;  // the one that was used last
  unsigned streak = 0;
  RegionId streak_of{};
  // The pool that the thread named last, and by which id: the book may be another region's by now,
  // an id never is.
  RegionId named_id{};
  Pool* named_pool = nullptr;

  Entry* of(RegionId id) noexcept {
    if (EXCLAVE_LIKELY(last->id == id)) return last;
    for (Entry& entry : entries) {
      if (entry.id == id) return &entry;
    }
    return nullptr;
  }
  Entry* holding(std::uintptr_t block) noexcept {
    if (EXCLAVE_LIKELY(last->extent.contains(block))) return last;
    for (Entry& entry : entries) {
      if (entry.extent.contains(block)) return &entry;
    }
    return nullptr;
  }
};

}  // namespace exclave
