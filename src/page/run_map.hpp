// Which pages of one region are free. The region is a sequence of runs, each wholly free or wholly
// in use, and no two free ones touch: what is freed joins the free pages before and behind it. No
// list, no link, nothing in the pages themselves; three and a bit bits for each page.
//
// One bitmap has a bit for each run's first page; so a run ends where the next one starts. One
// bitmap for each order has the free runs of that order (run_index.hpp). A run is free exactly when
// the bit of its window is set in its order's bitmap. Not thread-safe: PagePool's lock guards it.
#pragma once

#include <cstdint>

#include "base/bit_tree.hpp"
#include "base/units.hpp"
#include "page/run_index.hpp"
#include "port/book_store.hpp"

namespace exclave {

class RunMap {
 public:
  static constexpr std::uint64_t kNone = UINT64_MAX;
  static constexpr unsigned kMaxOrders = kAddressBits - kPageShift;

  // For the pages of a range: one run, in use. Null when the books have no room.
  static RunMap* create(BookStore& books, Extent range) noexcept;
  static void destroy(BookStore& books, RunMap* map) noexcept;

  // Page numbers are absolute: address / kPageBytes.
  // A run of `pages` at a multiple of 2^align_order pages with no multiple of `boundary` inside it,
  // or kNone. Preconditions: pages != 0; the boundary is a power of two and at least `pages`.
  // O(log) when some free run is so long that it serves wherever it lies; else a bounded search
  // over shorter ones.
  std::uint64_t allocate(std::uint64_t pages, unsigned align_order,
                         std::uint64_t boundary = kNoBoundary) noexcept;
  // Precondition: all of one run in use: the whole, or a part of it.
  void free(std::uint64_t page, std::uint64_t pages) noexcept;
  // Takes exactly these pages, as a run of their own. Precondition: all free.
  void take(std::uint64_t page, std::uint64_t pages) noexcept;
  // The run in use that starts at the page takes in the free pages behind it, up to so many in all.
  // False, with nothing changed: there are not enough.
  bool extend(std::uint64_t page, std::uint64_t pages) noexcept;
  // A run in use becomes two, of which the second starts at the page. Precondition: it lies inside
  // one, not at its start.
  void cut(std::uint64_t page) noexcept { starts_.insert(page - origin_); }
  bool is_free(std::uint64_t page, std::uint64_t pages) const noexcept;
  // Where the run that holds the page starts. Precondition: the page is the region's.
  std::uint64_t start_of(std::uint64_t page) const noexcept {
    return origin_ + starts_.find_back(page - origin_);
  }
  // The end of the free pages from this one on; the page itself if it is in use.
  std::uint64_t free_end(std::uint64_t page) const noexcept;

  std::uint64_t free_pages() const noexcept { return free_pages_; }
  // One more than the order of the longest free run; 0: nothing is free.
  unsigned orders_free() const noexcept {
    return free_orders_ == 0 ? 0 : floor_log2(free_orders_) + 1;
  }
  bool validate() const noexcept;

 private:
  struct Run {
    std::uint64_t start, end;  // indices
  };

  std::uint64_t allocate_of_order(unsigned order, const RunShape& shape, unsigned* looks) noexcept;
  std::uint64_t search_slow(const RunShape& shape) noexcept;
  // Cuts [first, last) out of a free run that holds it.
  void carve(Run run, std::uint64_t first, std::uint64_t last) noexcept;
  std::uint64_t end_of(std::uint64_t start) const noexcept {
    const std::uint64_t next = starts_.find(start + 1);
    return next == BitTree::kNone ? end_ : next;
  }
  void list(Run run) noexcept;
  void unlist(Run run) noexcept;
  bool is_listed(Run run) const noexcept {
    const unsigned order = floor_log2(run.end - run.start);
    return tree_[order].contains(window_of(run.start, order));
  }

  std::uint64_t origin_ = 0;  // absolute page of index 0, the region's first
  std::uint64_t end_ = 0;     // the region's pages
  std::uint64_t free_pages_ = 0;
  std::uint64_t free_orders_ = 0;  // bit k: a run of order k is free
  std::uint64_t free_runs_[kMaxOrders] = {};
  std::size_t book_bytes_ = 0;
  BitTree starts_;
  BitTree tree_[kMaxOrders];
};

}  // namespace exclave
