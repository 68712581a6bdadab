// Which pages of one region are free: a buddy system whose free blocks stand in bitmaps, one for
// each order, with summaries. No list, no link, nothing in the pages themselves. Two and a bit bits
// for each page.
//
// A run may have any length: what a power of two leaves over goes back at once. Runs longer than
// any one free block are put together from neighbours. Not thread-safe: PagePool's lock guards it.
#pragma once

#include <cstdint>

#include "base/bit_tree.hpp"
#include "base/units.hpp"
#include "page/buddy_index.hpp"
#include "port/book_store.hpp"

namespace exclave {

class Buddy {
 public:
  static constexpr std::uint64_t kNone = UINT64_MAX;
  static constexpr unsigned kMaxOrders = kAddressBits - kPageShift;

  // For the pages of a range, all in use at first. Null when the books have no room.
  static Buddy* create(BookStore& books, Extent range) noexcept;
  static void destroy(BookStore& books, Buddy* buddy) noexcept;

  // Page numbers are absolute: address / kPageBytes.
  // A run of `pages` at a multiple of 2^align_order pages, or kNone. O(log) when a free block of
  // the next power of two exists; else a bounded search over neighbours.
  std::uint64_t allocate(std::uint64_t pages, unsigned align_order) noexcept;
  // Precondition: all in use.
  void free(std::uint64_t page, std::uint64_t pages) noexcept;
  // Takes exactly these pages. Precondition: all free.
  void take(std::uint64_t page, std::uint64_t pages) noexcept;
  bool is_free(std::uint64_t page, std::uint64_t pages) const noexcept;
  // The end of the free stretch that starts at the page; the page itself if it is in use.
  std::uint64_t free_end(std::uint64_t page) const noexcept;

  std::uint64_t free_pages() const noexcept { return free_pages_; }
  // One more than the largest order that is free; 0: nothing is.
  unsigned orders_free() const noexcept {
    return free_orders_ == 0 ? 0 : floor_log2(free_orders_) + 1;
  }
  bool validate() const noexcept;

 private:
  std::uint64_t allocate_across_slow(std::uint64_t pages, unsigned align_order) noexcept;
  void insert(std::uint64_t index, unsigned order) noexcept;
  void erase(std::uint64_t index, unsigned order) noexcept;
  // Precondition: order < orders_. False for an index outside the region.
  bool contains(std::uint64_t index, unsigned order) const noexcept {
    return index >> order < bits_for(order) && tree_[order].contains(index >> order);
  }
  std::uint64_t bits_for(unsigned order) const noexcept { return blocks_below(end_, order); }
  // The order of the free block that holds the index; or kMaxOrders, also outside the region.
  unsigned holding(std::uint64_t index) const noexcept;

  std::uint64_t origin_ = 0;  // absolute page of index 0: a multiple of the largest block
  std::uint64_t first_ = 0;   // indices of the region: [first_, end_)
  std::uint64_t end_ = 0;
  std::uint64_t free_pages_ = 0;
  std::uint64_t free_orders_ = 0;  // bit k: a block of order k is free
  std::uint64_t free_blocks_[kMaxOrders] = {};
  std::size_t book_bytes_ = 0;
  unsigned orders_ = 0;
  BitTree tree_[kMaxOrders];
};

}  // namespace exclave
