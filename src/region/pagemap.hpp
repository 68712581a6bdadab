// Address → region, for readers without a lock: three loads for any address.
//
// A radix tree of 12 + 13 + 10 bits of page number. An entry of the middle level covers a segment
// of 4 MiB and names a region, or a leaf with an entry for each page where the segment is not all
// one region's. Beside it stands where the segment's unit entries are, so that a free finds its
// slab without touching the region's book. Its books grow with what is attached, not with address
// space. Writers hold the registry's lock.
//
// It is also the order of the regions: the first one in a range is found by walking it, past 32 GiB
// or 4 MiB at a step where nothing stands. A tree beside it would cost a cache miss or two for each
// of its levels whenever a mapping comes or goes.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/units.hpp"
#include "exclave/result.hpp"
#include "port/book_store.hpp"
#include "region/region.hpp"

namespace exclave {

class Pagemap {
 public:
  explicit Pagemap(BookStore& books) noexcept : books_(books) {}

  // The region that the address' page belongs to, or null. The caller verifies what it finds: the
  // book may be reused at any moment.
  [[gnu::always_inline]] Region* find(std::uintptr_t address) const noexcept {
    const BookView books = books_.view();
    const BookRef region = find(books, address);
    return region != 0 ? books.at<Region>(region) : nullptr;
  }

  // The same by reference; 0: none. On the path of every free.
  [[gnu::always_inline]] BookRef find(BookView books, std::uintptr_t address) const noexcept {
    const std::uintptr_t root = address >> kRootShift;
    if (EXCLAVE_UNLIKELY(root >= kRootEntries)) return 0;
    // Each acquire pairs with the release store in set or prepare: what the reference names is
    // filled in.
    const BookRef middle = root_[root].load(std::memory_order_acquire);
    if (EXCLAVE_UNLIKELY(middle == 0)) return 0;
    std::uint32_t entry =
        books.at<Middle>(middle)->entry[(address >> kMiddleShift) % kMiddleEntries].load(
            std::memory_order_acquire);
    if (EXCLAVE_UNLIKELY((entry & kLeafTag) != 0)) {
      entry = books.at_tagged<Leaf>(entry, kLeafTag)
                  ->entry[(address >> kPageShift) % kLeafEntries]
                  .load(std::memory_order_acquire);
    }
    return entry;
  }

  // The entry of the address' unit, where its segment lies wholly in one pool region; else 0, which
  // says nothing. The book may be reused at any moment. On the path of every free.
  [[gnu::always_inline]] UnitEntry unit_entry(BookView books,
                                              std::uintptr_t address) const noexcept {
    const std::uint64_t segment =
        (address >> kMiddleShift) - near_first_.load(std::memory_order_acquire);
    // Each acquire pairs with a release in set: the entries are filled in.
    const BookRef units =
        EXCLAVE_LIKELY(segment < kMiddleEntries)
            ? near_.load(std::memory_order_relaxed)->units[segment].load(std::memory_order_acquire)
            : units_far(books, address);
    if (EXCLAVE_UNLIKELY(units == 0)) return 0;
    // Acquire pairs with PagePool::publish_slab.
    return books.at<std::atomic<UnitEntry>>(units)[(address >> kUnitShift) % kSegmentUnits].load(
        std::memory_order_acquire);
  }

  // Does unit_entry say what it should at an address of the region? For validation.
  bool unit_entry_holds(std::uintptr_t address, Region& region) const noexcept;
  // The lowest region with a page in the range, or null. Precondition: the range lies below
  // kAddressLimit; the registry's lock is held.
  Region* first_in(Extent range) const noexcept;
  // Do the counts agree with the entries?
  bool validate() const noexcept;

  // Makes sure that set on any page range within this one, with the same edges, cannot fail.
  // Errors: kOutOfTrustedMemory; what was made already stays and does no harm.
  Status prepare(Extent range) noexcept;

  // Points every page at the region, or at none. Precondition: prepare(range).
  void set(Extent range, Region* region) noexcept;

 private:
  static constexpr unsigned kMiddleShift = 22;
  static constexpr unsigned kRootShift = 35;
  static constexpr std::size_t kLeafEntries = 1024;
  static constexpr std::size_t kMiddleEntries = 8192;
  static constexpr std::size_t kRootEntries = std::size_t{1} << (kAddressBits - kRootShift);
  static constexpr std::size_t kSegmentBytes = std::size_t{1} << kMiddleShift;
  static constexpr std::size_t kSegmentUnits = kSegmentBytes / kUnitBytes;
  static constexpr std::uint32_t kLeafTag = 1;  // a book's reference is even

  // So far from every segment that no difference to it is small.
  static constexpr std::uint64_t kNowhere = std::uint64_t{1} << 63;

  struct Leaf {
    std::atomic<BookRef> entry[kLeafEntries];
    std::uint32_t used;  // entries that are not 0; guarded by the registry's lock
  };
  struct Middle {
    std::atomic<BookRef> units[kMiddleEntries];  // 0: not one pool region's
    std::atomic<std::uint32_t> entry[kMiddleEntries];
    std::uint32_t used;  // entries that are not 0; guarded by the registry's lock
  };

  Status prepare_edge(std::uintptr_t address) noexcept;
  static void set_entry(Middle& middle, std::uintptr_t address, std::uint32_t value) noexcept;
  // Null where nothing was ever entered. Acquire pairs with the release store in prepare.
  [[gnu::always_inline]] Middle* middle_of(BookView books, std::uintptr_t address) const noexcept {
    if (EXCLAVE_UNLIKELY(address >= kAddressLimit)) return nullptr;
    const BookRef middle = root_[address >> kRootShift].load(std::memory_order_acquire);
    return EXCLAVE_UNLIKELY(middle == 0) ? nullptr : books.at<Middle>(middle);
  }
  [[gnu::always_inline]] BookRef units_far(BookView books, std::uintptr_t address) const noexcept {
    const Middle* const middle = middle_of(books, address);
    return middle == nullptr ? 0
                             : middle->units[(address >> kMiddleShift) % kMiddleEntries].load(
                                   std::memory_order_acquire);
  }

  BookStore& books_;
  // The middle book that the first pool region needed: most blocks lie within its 32 GiB. Set once,
  // the book before the first segment.
  std::atomic<std::uint64_t> near_first_{kNowhere};
  std::atomic<Middle*> near_{nullptr};
  std::atomic<BookRef> root_[kRootEntries] = {};
};

}  // namespace exclave
