// Address → region, for readers without a lock: three loads for any address.
//
// A radix tree of 12 + 13 + 10 bits of page number. An entry of the middle level covers 4 MiB and
// names a region, or a leaf with an entry for each page where the 4 MiB are not all one region's.
// Its books grow with what is attached, not with address space. Writers hold the registry's lock.
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
  Region* find(std::uintptr_t address) const noexcept {
    const BookView books = books_.view();
    const BookRef region = find(books, address);
    return region != 0 ? books.at<Region>(region) : nullptr;
  }

  // The same by reference; 0: none. On the path of every free.
  [[gnu::always_inline]] BookRef find(BookView books, std::uintptr_t address) const noexcept {
    if (EXCLAVE_UNLIKELY(address >= kAddressLimit)) return 0;
    // Each acquire pairs with the release store in set or prepare: what the reference names is
    // filled in.
    const BookRef middle = root_[address >> kRootShift].load(std::memory_order_acquire);
    if (EXCLAVE_UNLIKELY(middle == 0)) return 0;
    std::uint32_t entry =
        books.at<Middle>(middle)->entry[(address >> kMiddleShift) % kMiddleEntries].load(
            std::memory_order_acquire);
    if (EXCLAVE_UNLIKELY((entry & kLeafTag) != 0)) {
      entry = books.at<Leaf>(entry & ~kLeafTag)
                  ->entry[(address >> kPageShift) % kLeafEntries]
                  .load(std::memory_order_acquire);
    }
    return entry;
  }

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
  static constexpr std::uint32_t kLeafTag = 1u << kBookRefBits;

  struct Leaf {
    std::atomic<BookRef> entry[kLeafEntries];
    std::uint32_t used;  // entries that are not 0; guarded by the registry's lock
  };
  struct Middle {
    std::atomic<std::uint32_t> entry[kMiddleEntries];
  };

  Status prepare_edge(std::uintptr_t address) noexcept;
  std::atomic<std::uint32_t>* middle_entry(std::uintptr_t address) const noexcept;

  BookStore& books_;
  std::atomic<BookRef> root_[kRootEntries] = {};
};

}  // namespace exclave
