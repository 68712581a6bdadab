#include "page/buddy.hpp"

#include <new>

#include "base/check.hpp"

namespace exclave {
namespace {

// How many free stretches the search over neighbours looks at.
constexpr unsigned kMaxStretches = 64;

}  // namespace

Buddy* Buddy::create(BookStore& books, Extent range) noexcept {
  const std::uint64_t pages = range.size / kPageBytes;
  const std::uint64_t base = range.base / kPageBytes;
  // At least a unit, so that slabs of whole units are whole units of addresses, too.
  const unsigned top = floor_log2(pages) < 2 ? 2 : floor_log2(pages);
  const std::uint64_t origin = align_down(base, std::uint64_t{1} << top);
  const std::uint64_t end = base + pages - origin;
  std::size_t words = 0;
  for (unsigned order = 0; order <= top; ++order)
    words += BitTree::words_for(blocks_below(end, order));
  const std::size_t bytes = sizeof(Buddy) + words * sizeof(std::uint64_t);
  void* const memory = books.allocate(BookKind::kPlain, bytes);
  if (memory == nullptr) return nullptr;

  Buddy* const buddy = ::new (memory) Buddy;
  buddy->origin_ = origin;
  buddy->first_ = base - origin;
  buddy->end_ = end;
  buddy->book_bytes_ = bytes;
  buddy->orders_ = top + 1;
  std::uint64_t* word = reinterpret_cast<std::uint64_t*>(buddy + 1);
  for (unsigned order = 0; order <= top; ++order) {
    buddy->tree_[order] = BitTree(word, buddy->bits_for(order));
    word += BitTree::words_for(buddy->bits_for(order));
  }
  return buddy;
}

void Buddy::destroy(BookStore& books, Buddy* buddy) noexcept {
  books.release(BookKind::kPlain, buddy, buddy->book_bytes_);
}

void Buddy::insert(std::uint64_t index, unsigned order) noexcept {
  tree_[order].insert(index >> order);
  free_blocks_[order] += 1;
  free_orders_ |= std::uint64_t{1} << order;
}

void Buddy::erase(std::uint64_t index, unsigned order) noexcept {
  tree_[order].erase(index >> order);
  free_blocks_[order] -= 1;
  if (free_blocks_[order] == 0) free_orders_ &= ~(std::uint64_t{1} << order);
}

std::uint64_t Buddy::allocate(std::uint64_t pages, unsigned align_order) noexcept {
  if (pages == 0 || pages > free_pages_) return kNone;
  const unsigned fit = ceil_log2(pages);
  const unsigned want = fit > align_order ? fit : align_order;
  const std::uint64_t candidates = want < orders_ ? free_orders_ >> want : 0;
  if (candidates == 0) return allocate_across_slow(pages, align_order);
  const unsigned order = want + lowest_bit(candidates);
  const std::uint64_t index = tree_[order].find(0) << order;
  erase(index, order);
  const std::uint64_t block = std::uint64_t{1} << order;
  free_pages_ -= block;
  if (block != pages) free(origin_ + index + pages, block - pages);
  return origin_ + index;
}

std::uint64_t Buddy::allocate_across_slow(std::uint64_t pages, unsigned align_order) noexcept {
  const unsigned least = order_within(pages);
  unsigned looked = 0;
  // Largest blocks first: short stretches must not use up the looks.
  for (unsigned order = orders_; order-- > least;) {
    for (std::uint64_t at = 0; looked < kMaxStretches; ++looked) {
      const std::uint64_t found = tree_[order].find(at);
      if (found == BitTree::kNone) break;
      std::uint64_t start = found << order;
      for (unsigned before = holding(start - 1); before != kMaxOrders; before = holding(start - 1))
        start -= block_pages(before);
      const std::uint64_t end = free_end(origin_ + start);
      const std::uint64_t run = align_up(origin_ + start, std::uint64_t{1} << align_order);
      if (run < end && pages <= end - run) {
        take(run, pages);
        return run;
      }
      at = ((end - origin_ - 1) >> order) + 1;
    }
  }
  return kNone;
}

// From the pages up: at each order the run's edge is either met by a free buddy, which joins it, or
// the edge block stays behind on its own. So nothing is put in only to be taken out again. It ends
// at the largest order at the latest, of which a region holds one whole block at most.
void Buddy::free(std::uint64_t page, std::uint64_t pages) noexcept {
  std::uint64_t first = page - origin_;
  std::uint64_t last = first + pages;
  EXCLAVE_DCHECK(first >= first_ && last <= end_);
  free_pages_ += pages;
  while (first != last) {
    const unsigned order = edge_order(first, last);
    EXCLAVE_DCHECK(order < orders_);
    const std::uint64_t size = block_pages(order);
    if (is_upper_buddy(first, order)) {
      const std::uint64_t lower = buddy_of(first, order);
      if (contains(lower, order)) {
        first = lower;
        erase(first, order);
      } else {
        insert(first, order);
        first += size;
      }
    }
    if (is_upper_buddy(last, order)) {
      if (contains(last, order)) {
        erase(last, order);
        last += size;
      } else {
        last = buddy_of(last, order);
        insert(last, order);
      }
    }
  }
}

void Buddy::take(std::uint64_t page, std::uint64_t pages) noexcept {
  const std::uint64_t last = page - origin_ + pages;
  for (std::uint64_t index = page - origin_; index < last;) {
    const unsigned order = holding(index);
    EXCLAVE_CHECK(order != kMaxOrders);
    const std::uint64_t start = block_start(index, order);
    const std::uint64_t end = block_end(index, order);
    erase(start, order);
    free_pages_ -= end - start;
    if (start < index) free(origin_ + start, index - start);
    if (end > last) free(origin_ + last, end - last);
    index = end;
  }
}

bool Buddy::is_free(std::uint64_t page, std::uint64_t pages) const noexcept {
  const std::uint64_t last = page - origin_ + pages;
  for (std::uint64_t index = page - origin_; index < last;) {
    const unsigned order = holding(index);
    if (order == kMaxOrders) return false;
    index = block_end(index, order);
  }
  return true;
}

std::uint64_t Buddy::free_end(std::uint64_t page) const noexcept {
  std::uint64_t index = page - origin_;
  for (unsigned order = holding(index); order != kMaxOrders; order = holding(index))
    index = block_end(index, order);
  return origin_ + index;
}

unsigned Buddy::holding(std::uint64_t index) const noexcept {
  for (unsigned order = 0; order < orders_; ++order) {
    if (contains(block_start(index, order), order)) return order;
  }
  return kMaxOrders;
}

// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool Buddy::validate() const noexcept {
  std::uint64_t counted = 0;
  for (unsigned order = 0; order < orders_; ++order) {
    bool any = false;
    for (std::uint64_t at = tree_[order].find(0); at != BitTree::kNone;
         at = tree_[order].find(at + 1)) {
      any = true;
      const std::uint64_t index = at << order;
      const std::uint64_t size = std::uint64_t{1} << order;
      if (index < first_ || index + size > end_) return false;
      if (order + 1 < orders_ && contains(buddy_of(index, order), order))
        return false;  // two buddies must have joined  // GCOVR_EXCL_LINE: as above
      for (unsigned above = order + 1; above < orders_; ++above) {
        if (contains(block_start(index, above), above)) return false;  // no block inside another
      }
      counted += size;
    }
    if (any != ((free_orders_ >> order) & 1)) return false;
  }
  return counted == free_pages_;
}
// GCOVR_EXCL_BR_STOP

}  // namespace exclave
