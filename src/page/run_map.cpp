#include "page/run_map.hpp"

#include <new>

#include "base/check.hpp"

namespace exclave {
namespace {

// How many runs are looked at that may be too short or lie badly: first a few, because a tight one
// leaves long runs whole; then, before giving up, so many.
constexpr unsigned kFirstLooks = 8;
constexpr unsigned kLooks = 64;

}  // namespace

RunMap* RunMap::create(BookStore& books, Extent range) noexcept {
  const std::uint64_t pages = range.size / kPageBytes;
  const unsigned top = floor_log2(pages);
  std::size_t words = BitTree::words_for(pages);
  for (unsigned order = 0; order <= top; ++order)
    words += BitTree::words_for(windows_below(pages, order));
  const std::size_t bytes = sizeof(RunMap) + words * sizeof(std::uint64_t);
  void* const memory = books.allocate(BookKind::kPlain, bytes);
  if (memory == nullptr) return nullptr;

  RunMap* const map = ::new (memory) RunMap;
  map->origin_ = range.base / kPageBytes;
  map->end_ = pages;
  map->book_bytes_ = bytes;
  std::uint64_t* word = reinterpret_cast<std::uint64_t*>(map + 1);
  map->starts_ = BitTree(word, pages);
  word += BitTree::words_for(pages);
  for (unsigned order = 0; order <= top; ++order) {
    const std::uint64_t windows = windows_below(pages, order);
    map->tree_[order] = BitTree(word, windows);
    word += BitTree::words_for(windows);
  }
  map->starts_.insert(0);
  return map;
}

void RunMap::destroy(BookStore& books, RunMap* map) noexcept {
  books.release(BookKind::kPlain, map, map->book_bytes_);
}

void RunMap::list(Run run) noexcept {
  const unsigned order = floor_log2(run.end - run.start);
  tree_[order].insert(window_of(run.start, order));
  free_runs_[order] += 1;
  free_orders_ |= std::uint64_t{1} << order;
}

void RunMap::unlist(Run run) noexcept {
  const unsigned order = floor_log2(run.end - run.start);
  tree_[order].erase(window_of(run.start, order));
  free_runs_[order] -= 1;
  if (free_runs_[order] == 0) free_orders_ &= ~(std::uint64_t{1} << order);
}

void RunMap::carve(Run run, std::uint64_t first, std::uint64_t last) noexcept {
  unlist(run);
  free_pages_ -= last - first;
  if (run.start != first) {
    starts_.insert(first);
    list({run.start, first});
  }
  if (last != run.end) {
    starts_.insert(last);
    list({last, run.end});
  }
}

std::uint64_t RunMap::allocate(std::uint64_t pages, unsigned align_order,
                               std::uint64_t boundary) noexcept {
  EXCLAVE_DCHECK(pages != 0);
  const RunShape shape{pages, std::uint64_t{1} << align_order, boundary};
  const unsigned sure = ceil_log2(pages_that_fit(shape));
  unsigned looks = kFirstLooks;
  if (pages < std::uint64_t{1} << sure && (free_orders_ << 1 >> sure & 1) != 0) {
    const std::uint64_t page = allocate_of_order(sure - 1, shape, &looks);
    if (page != kNone) return page;
  }
  const std::uint64_t longer = free_orders_ >> sure;
  if (longer == 0) return search_slow(shape);
  return allocate_of_order(sure + lowest_bit(longer), shape, &looks);
}

// The first run of the order that has a place, among as many as there are looks left and one.
std::uint64_t RunMap::allocate_of_order(unsigned order, const RunShape& shape,
                                        unsigned* looks) noexcept {
  for (std::uint64_t window = tree_[order].find(0); window != BitTree::kNone;
       window = tree_[order].find(window + 1)) {
    const std::uint64_t start = starts_.find_back(last_of_window(window, order));
    const Run run = {start, end_of(start)};
    const std::uint64_t first = place_run(origin_ + start, shape) - origin_;
    if (first + shape.pages <= run.end) {
      carve(run, first, first + shape.pages);
      return origin_ + first;
    }
    if (*looks == 0) break;
    *looks -= 1;
  }
  return kNone;
}

// Long runs first: short ones must not use up the looks.
std::uint64_t RunMap::search_slow(const RunShape& shape) noexcept {
  unsigned looks = kLooks;
  const unsigned least = floor_log2(shape.pages);
  for (std::uint64_t orders = free_orders_ >> least << least; orders != 0;) {
    const unsigned order = floor_log2(orders);
    const std::uint64_t page = allocate_of_order(order, shape, &looks);
    if (page != kNone) return page;
    orders &= ~(std::uint64_t{1} << order);
  }
  return kNone;
}

void RunMap::free(std::uint64_t page, std::uint64_t pages) noexcept {
  std::uint64_t first = page - origin_;
  std::uint64_t last = first + pages;
  EXCLAVE_DCHECK(page >= origin_ && last <= end_ && pages != 0);
  free_pages_ += pages;
  if (first != 0) {
    const Run before = {starts_.find_back(first - 1), first};
    if (is_listed(before)) {
      unlist(before);
      starts_.erase(first);
      first = before.start;
    } else {
      starts_.insert(first);
    }
  }
  if (last != end_) {
    if (!starts_.contains(last)) {
      starts_.insert(last);
    } else if (const Run behind = {last, end_of(last)}; is_listed(behind)) {
      unlist(behind);
      starts_.erase(last);
      last = behind.end;
    }
  }
  list({first, last});
}

void RunMap::take(std::uint64_t page, std::uint64_t pages) noexcept {
  const std::uint64_t first = page - origin_;
  const std::uint64_t start = starts_.find_back(first);
  const Run run = {start, end_of(start)};
  EXCLAVE_CHECK(is_listed(run) && first + pages <= run.end);
  carve(run, first, first + pages);
}

bool RunMap::extend(std::uint64_t page, std::uint64_t pages) noexcept {
  const std::uint64_t end = end_of(page - origin_);
  const std::uint64_t more = page - origin_ + pages - end;
  if (end_ - end < more || !is_free(origin_ + end, more)) return false;
  take(origin_ + end, more);
  starts_.erase(end);
  return true;
}

bool RunMap::is_free(std::uint64_t page, std::uint64_t pages) const noexcept {
  return free_end(page) >= page + pages;
}

std::uint64_t RunMap::free_end(std::uint64_t page) const noexcept {
  const std::uint64_t start = starts_.find_back(page - origin_);
  const Run run = {start, end_of(start)};
  return is_listed(run) ? origin_ + run.end : page;
}

// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool RunMap::validate() const noexcept {
  std::uint64_t counted = 0;
  std::uint64_t runs[kMaxOrders] = {};
  bool was_free = false;
  if (!starts_.contains(0)) return false;
  for (Run run = {0, end_of(0)}; run.start != end_; run = {run.end, end_of(run.end)}) {
    const bool free = is_listed(run);
    if (free && was_free) return false;  // they must have joined
    if (free) {
      counted += run.end - run.start;
      runs[floor_log2(run.end - run.start)] += 1;
    }
    was_free = free;
  }
  for (unsigned order = 0; order < kMaxOrders; ++order) {
    std::uint64_t listed = 0;
    for (std::uint64_t at = tree_[order].find(0); at != BitTree::kNone;
         at = tree_[order].find(at + 1)) {
      listed += 1;
    }
    if (runs[order] != free_runs_[order] || runs[order] != listed) return false;
    if ((runs[order] != 0) != ((free_orders_ >> order & 1) != 0)) return false;
  }
  return counted == free_pages_;
}
// GCOVR_EXCL_BR_STOP

}  // namespace exclave
