// Address → region, for readers without a lock: three loads for any address.
//
// A radix tree of 12 + 13 + 10 bits of page number. An entry of the middle level covers a segment
// of 4 MiB and names a region, or a leaf with an entry for each page where the segment is not all
// one region's. Its books grow with what is attached, not with address space. Writers hold the
// registry's lock.
//
// It is also the order of the regions: the first one in a range is found by walking it, past 32 GiB
// or 4 MiB at a step where nothing stands. A tree beside it would cost a cache miss or two for each
// of its levels whenever a mapping comes or goes.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/check.hpp"
#include "base/units.hpp"
#include "exclave/result.hpp"
#include "port/book_store.hpp"
#include "region/region.hpp"

namespace exclave {

// The three indices of a page.
inline constexpr unsigned kMiddleShift = 22;
inline constexpr unsigned kRootShift = 35;
inline constexpr std::size_t kLeafEntries = std::size_t{1} << (kMiddleShift - kPageShift);
inline constexpr std::size_t kMiddleEntries = std::size_t{1} << (kRootShift - kMiddleShift);
inline constexpr std::size_t kRootEntries = std::size_t{1} << (kAddressBits - kRootShift);

// kRootEntries or more for what lies above the lower half.
template <class W = std::uintptr_t>
constexpr W root_index(Given<W> address) noexcept {
  return address >> kRootShift;
}
template <class W = std::uintptr_t>
constexpr W middle_index(Given<W> address) noexcept {
  return (address >> kMiddleShift) % kMiddleEntries;
}
template <class W = std::uintptr_t>
constexpr W leaf_index(Given<W> address) noexcept {
  return (address >> kPageShift) % kLeafEntries;
}

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

  // The same by reference; 0: none. On the path of every query.
  [[gnu::always_inline]] BookRef find(BookView books, std::uintptr_t address) const noexcept {
    const std::uintptr_t root = root_index(address);
    if (EXCLAVE_UNLIKELY(root >= kRootEntries)) return 0;
    // Each acquire pairs with the release store in set or prepare: what the reference names is
    // filled in.
    const BookRef middle = root_[root].load(std::memory_order_acquire);
    if (EXCLAVE_UNLIKELY(middle == 0)) return 0;
    std::uint32_t entry =
        books.at<Middle>(middle)->entry[middle_index(address)].load(std::memory_order_acquire);
    if (EXCLAVE_UNLIKELY((entry & kLeafTag) != 0)) {
      entry = books.at_tagged<Leaf>(entry, kLeafTag)
                  ->entry[leaf_index(address)]
                  .load(std::memory_order_acquire);
    }
    return entry;
  }

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

  // From now on set on this range cannot fail, whatever comes and goes meanwhile, until it is let
  // go as often. Precondition: all of the range is one region's.
  void hold(Extent range) noexcept;
  void let_go(Extent range) noexcept;

 private:
  static constexpr std::size_t kSegmentBytes = std::size_t{1} << kMiddleShift;
  static constexpr std::uint32_t kLeafTag = 1;  // a book's reference is even

  struct Leaf {
    std::atomic<BookRef> entry[kLeafEntries];
    // Guarded by the registry's lock.
    std::uint32_t used;   // entries that are not 0
    std::uint32_t holds;  // while there are any the leaf stays
  };
  struct Middle {
    std::atomic<std::uint32_t> entry[kMiddleEntries];
    std::uint32_t used;  // entries that are not 0; guarded by the registry's lock
  };

  Status prepare_edge(std::uintptr_t address) noexcept;
  Leaf* leaf_at_edge(std::uintptr_t address) const noexcept;
  void release_if_empty(Middle& middle, std::uintptr_t address, Leaf& leaf) noexcept;
  static void set_entry(Middle& middle, std::uintptr_t address, std::uint32_t value) noexcept;
  // Null where nothing was ever entered. Precondition: below kAddressLimit. Acquire pairs with the
  // release store in prepare.
  [[gnu::always_inline]] Middle* middle_of(BookView books, std::uintptr_t address) const noexcept {
    EXCLAVE_DCHECK(address < kAddressLimit);
    const BookRef middle = root_[root_index(address)].load(std::memory_order_acquire);
    return EXCLAVE_UNLIKELY(middle == 0) ? nullptr : books.at<Middle>(middle);
  }

  BookStore& books_;
  std::atomic<BookRef> root_[kRootEntries] = {};
};

}  // namespace exclave
