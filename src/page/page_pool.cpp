#include "page/page_pool.hpp"

#include <new>

#include "base/check.hpp"

namespace exclave {
namespace {

template <class Book>
struct Links {
  Book* next = nullptr;
  Book** back = nullptr;  // the pointer that points here; null: in no list
};

template <class Book>
void push(Book*& head, Book& book, Links<Book> Book::*links) noexcept {
  Links<Book>& mine = book.*links;
  mine.next = head;
  mine.back = &head;
  if (head != nullptr) (head->*links).back = &mine.next;
  head = &book;
}

template <class Book>
void pull(Book& book, Links<Book> Book::*links) noexcept {
  Links<Book>& mine = book.*links;
  if (mine.back == nullptr) return;
  *mine.back = mine.next;
  if (mine.next != nullptr) (mine.next->*links).back = mine.back;
  mine = {};
}

UnitRuns runs_in(const std::atomic<UnitEntry>& unit) noexcept {
  const UnitEntry entry = unit.load(std::memory_order_relaxed);
  return unit_tag(entry) == UnitTag::kRuns ? UnitRuns{unit_payload(entry)} : UnitRuns{};
}

void store_runs(std::atomic<UnitEntry>& unit, UnitRuns runs) noexcept {
  unit.store(runs.payload == 0 ? 0 : make_unit(UnitTag::kRuns, runs.payload),
             std::memory_order_relaxed);
}

constexpr unsigned page_in_unit(std::uint64_t page) noexcept {
  return static_cast<unsigned>(page % kPagesPerUnit);
}
constexpr std::uintptr_t address_of(std::uint64_t page) noexcept {
  return page << kPageShift;
}

}  // namespace

struct PagePool::Book {
  Region* region = nullptr;
  RunMap* runs = nullptr;
  unsigned list = 0;       // which list it stands in; 0: none
  std::uint64_t held = 0;  // pages that are neither free nor kept
  bool fresh = true;       // nobody has had a page of it yet
  Links<Book> by_order{};
  Links<Book> by_idleness{};
  Links<Book> everything{};
};

Status PagePool::add(Region& region) noexcept {
  const Extent extent = region.extent();
  void* const memory = books_.allocate(BookKind::kPlain, sizeof(Book));
  if (memory == nullptr) return Error::kOutOfTrustedMemory;
  RunMap* const runs = RunMap::create(books_, extent);
  if (runs == nullptr) {
    books_.release(BookKind::kPlain, memory, sizeof(Book));
    return Error::kOutOfTrustedMemory;
  }
  Book* const book = ::new (memory) Book;
  book->region = &region;
  book->runs = runs;
  runs->free(extent.base >> kPageShift, extent.size / kPageBytes);
  LockGuard guard(lock_);
  region.page_book = book;
  region.page_pool.store(this, std::memory_order_release);
  push(all_, *book, &Book::everything);
  place(*book);
  note_idle(*book);
  bytes_ += extent.size;
  if (maps_slabs_) slab_map_.cover(extent, bytes_);
  return {};
}

void PagePool::remove(Region& region) noexcept {
  LockGuard guard(lock_);
  remove_locked(region);
}

void PagePool::remove_locked(Region& region) noexcept {
  Book& book = book_of(region);
  displace(book);
  pull(book, &Book::everything);
  bytes_ -= region.extent().size;
  set_idle(book, false);
  region.page_pool.store(nullptr, std::memory_order_release);
  region.page_book = nullptr;
  RunMap::destroy(books_, book.runs);
  books_.release(BookKind::kPlain, &book, sizeof(Book));
}

// ---- Regions by their longest free run ----

void PagePool::place(Book& book) noexcept {
  const unsigned orders = book.runs->orders_free();
  if (orders == book.list) return;
  displace(book);
  book.list = orders;
  if (orders == 0) return;
  push(list_[orders], book, &Book::by_order);
  mask_ |= std::uint64_t{1} << orders;
}

void PagePool::displace(Book& book) noexcept {
  pull(book, &Book::by_order);
  if (book.list != 0 && list_[book.list] == nullptr) mask_ &= ~(std::uint64_t{1} << book.list);
  book.list = 0;
}

// One that was grown for a request stays until the request has got its part.
void PagePool::note_idle(Book& book) noexcept {
  if (book.held != 0) book.fresh = false;
  set_idle(book, book.held == 0 && !book.fresh);
}

void PagePool::set_idle(Book& book, bool idle) noexcept {
  if (idle == (book.by_idleness.back != nullptr)) return;
  const std::size_t bytes = book.region->extent().size;
  const std::size_t before = idle_bytes_.load(std::memory_order_relaxed);
  if (idle) {
    push(idle_, book, &Book::by_idleness);
    idle_bytes_.store(before + bytes, std::memory_order_relaxed);
  } else {
    pull(book, &Book::by_idleness);
    idle_bytes_.store(before - bytes, std::memory_order_relaxed);
    refused_bytes_.store(0, std::memory_order_relaxed);
  }
}

void PagePool::note(Book& book) noexcept {
  place(book);
  note_idle(book);
}

Result<PageRun> PagePool::allocate_locked(std::uint64_t pages, unsigned align_order,
                                          std::uint64_t boundary) noexcept {
  const RunShape shape{pages, std::uint64_t{1} << align_order, boundary};
  const unsigned want = ceil_log2(pages_that_fit(shape)) + 1;
  // The tightest region that surely serves; else the roomiest few that may.
  constexpr unsigned kTries = 16;
  std::uint64_t lists = mask_ >> want << want;
  Book* book = lists != 0 ? list_[lowest_bit(lists)] : nullptr;
  lists = mask_ >> (floor_log2(pages) + 1) << (floor_log2(pages) + 1);
  for (unsigned tried = 0; tried < kTries; ++tried) {
    if (book == nullptr) {
      if (lists == 0) break;
      const unsigned list = floor_log2(lists);
      lists &= ~(std::uint64_t{1} << list);
      book = list_[list];
    }
    const std::uint64_t page = book->runs->allocate(pages, align_order, boundary);
    if (page != RunMap::kNone) {
      book->held += pages;
      note(*book);
      return PageRun{book->region, {address_of(page), pages * kPageBytes}};
    }
    book = book->by_order.next;
  }
  return Error::kOutOfMemory;
}

// What is kept at hand may be just what is missing: the head of a longer run, or all of them
// together.
Result<PageRun> PagePool::allocate_or_join_locked(std::uint64_t pages, unsigned align_order,
                                                  std::uint64_t boundary) noexcept {
  const Result<PageRun> run = allocate_locked(pages, align_order, boundary);
  if (run.ok() || kept_classes_ == 0) return run;
  const std::uint32_t longer =
      align_order == 0 && has_run_class(pages) ? kept_classes_ >> run_class_of(pages) : 0;
  if (longer == 0) {
    // The longest first, and no more of them than it takes: who asks for their lengths finds the
    // others.
    Result<PageRun> joined = Error::kOutOfMemory;
    while (!joined.ok() && kept_classes_ != 0) {
      join_one_kept_locked(floor_log2(kept_classes_));
      joined = allocate_locked(pages, align_order, boundary);
    }
    return joined;
  }
  const unsigned run_class = run_class_of(pages) + lowest_bit(longer);
  const std::uint64_t length = run_class_pages(run_class);
  const KeptRun kept = take_kept_locked(run_class);
  erase_block(*kept.region, kept.page, length);
  Book& book = book_of(*kept.region);
  book.held += pages;
  if (length != pages) book.runs->free(kept.page + pages, length - pages);
  note(book);
  return PageRun{kept.region, {address_of(kept.page), pages * kPageBytes}};
}

void PagePool::free_locked(Region& region, std::uint64_t page, std::uint64_t pages) noexcept {
  book_of(region).held -= pages;
  join_locked(region, page, pages);
}

void PagePool::join_locked(Region& region, std::uint64_t page, std::uint64_t pages) noexcept {
  Book& book = book_of(region);
  book.runs->free(page, pages);
  note(book);
}

// ---- Freed runs that are kept at hand ----
// Their entries stay as they were but for the mark that they are freed. Pinned ones are not kept,
// so a run that is marked as freed, and not as pinned, is kept.

void PagePool::keep_runs(std::size_t bytes) noexcept {
  LockGuard guard(lock_);
  keep_limit_ = bytes;
}

void PagePool::join_kept_runs() noexcept {
  LockGuard guard(lock_);
  while (kept_classes_ != 0) join_one_kept_locked(lowest_bit(kept_classes_));
}

// Precondition: a block starts at the page, so that there is an entry for it.
[[gnu::always_inline]] inline void PagePool::mark_freed(std::atomic<UnitEntry>& unit,
                                                        std::uint64_t page, bool freed) noexcept {
  const UnitEntry entry = unit.load(std::memory_order_relaxed);
  const UnitEntry mark = UnitRuns::freed_mark(page_in_unit(page));
  unit.store(freed ? entry | mark : entry & ~mark, std::memory_order_relaxed);
}

void PagePool::mark_taken(std::atomic<UnitEntry>& unit, std::uint64_t page) noexcept {
  UnitRuns runs = runs_in(unit);
  runs.set_pinned(page_in_unit(page), true);
  store_runs(unit, runs);
  mark_freed(unit, page, true);
}

// False, with nothing changed: the run is not one to keep, or there is no room.
[[gnu::always_inline]] inline bool PagePool::keep_locked(Region& region, std::uint64_t page,
                                                         std::uint64_t pages) noexcept {
  const std::size_t bytes = pages * kPageBytes;
  if (!has_run_class(pages) || kept_bytes_ + bytes > keep_limit_) return false;
  if (round_run(pages) != pages) return false;
  const unsigned run_class = run_class_of(pages);
  KeptRuns& kept = kept_[run_class];
  if (kept.count == kept.capacity && !grow_kept_slow(kept)) return false;
  std::atomic<UnitEntry>* const unit = region.unit_of(address_of(page));
  mark_freed(*unit, page, true);
  kept.runs[kept.count++] = {&region, unit, page};
  kept_classes_ |= 1u << run_class;
  kept_bytes_ += bytes;
  Book& book = book_of(region);
  book.held -= pages;
  if (book.held == 0) note_idle(book);
  return true;
}

bool PagePool::grow_kept_slow(KeptRuns& kept) noexcept {
  constexpr std::uint32_t kFirstRuns = 16;
  constexpr std::uint32_t kMostRuns = 1024;
  const std::uint32_t capacity = kept.capacity == 0 ? kFirstRuns : kept.capacity * 2;
  if (capacity > kMostRuns) return false;
  KeptRun* const runs =
      static_cast<KeptRun*>(books_.allocate(BookKind::kPlain, capacity * sizeof(KeptRun)));
  if (runs == nullptr) return false;
  for (std::uint32_t i = 0; i < kept.count; ++i) runs[i] = kept.runs[i];
  if (kept.runs != nullptr)
    books_.release(BookKind::kPlain, kept.runs, kept.capacity * sizeof(KeptRun));
  kept.runs = runs;
  kept.capacity = capacity;
  return true;
}

// Precondition: the class has one.
[[gnu::always_inline]] inline PagePool::KeptRun PagePool::take_kept_locked(
    unsigned run_class) noexcept {
  KeptRuns& kept = kept_[run_class];
  const KeptRun run = kept.runs[--kept.count];
  if (kept.count == 0) kept_classes_ &= ~(1u << run_class);
  kept_bytes_ -= run_class_pages(run_class) * kPageBytes;
  return run;
}

std::uintptr_t PagePool::take_kept(std::uint64_t pages) noexcept {
  if (!has_run_class(pages)) return 0;
  const unsigned run_class = run_class_of(pages);
  LockGuard guard(lock_);
  if ((kept_classes_ >> run_class & 1) == 0) return 0;
  const KeptRun run = take_kept_locked(run_class);
  mark_freed(*run.unit, run.page, false);
  Book& book = book_of(*run.region);
  const bool was_idle = book.held == 0;
  book.held += run_class_pages(run_class);
  if (was_idle) note_idle(book);
  return address_of(run.page);
}

bool PagePool::keep_block(Region& region, std::uintptr_t address) noexcept {
  LockGuard guard(lock_);
  if (!holds_locked(region, address) || !is_aligned(address, kPageBytes)) return false;
  const std::atomic<UnitEntry>* const unit = region.unit_of(address);
  const std::uint64_t page = address >> kPageShift;
  const UnitRuns runs = runs_in(*unit);
  if (runs.length(page_in_unit(page)) != UnitRuns::kLong || runs.pinned(page_in_unit(page)) ||
      runs.freed(page_in_unit(page))) {
    return false;
  }
  return keep_locked(region, page, unit_payload(unit[1].load(std::memory_order_relaxed)));
}

// Precondition: the class has one.
void PagePool::join_one_kept_locked(unsigned run_class) noexcept {
  const KeptRun run = take_kept_locked(run_class);
  erase_block(*run.region, run.page, run_class_pages(run_class));
  join_locked(*run.region, run.page, run_class_pages(run_class));
}

// Of a region that goes.
void PagePool::drop_kept_in_locked(const Region& region) noexcept {
  for (std::uint32_t classes = kept_classes_; classes != 0; classes &= classes - 1) {
    const unsigned run_class = lowest_bit(classes);
    KeptRuns& kept = kept_[run_class];
    for (std::uint32_t i = kept.count; i-- != 0;) {
      if (kept.runs[i].region != &region) continue;
      kept.runs[i] = kept.runs[kept.count - 1];
      (void)take_kept_locked(run_class);
    }
  }
}

// The first that leaves enough; or one so large that its place is too dear for what may come.
Region* PagePool::take_idle(std::size_t keep_bytes) noexcept {
  LockGuard guard(lock_);
  if (!has_idle(keep_bytes)) return nullptr;
  const std::size_t idle = idle_bytes_.load(std::memory_order_relaxed);
  const auto may_go = [=](const Book& book) noexcept {
    const std::size_t bytes = book.region->extent().size;
    return bytes <= idle - keep_bytes || bytes / kMostKept > keep_bytes;
  };
  Book* book = idle_;
  while (book != nullptr && !may_go(*book)) book = book->by_idleness.next;
  if (book == nullptr) {
    refused_bytes_.store(idle, std::memory_order_relaxed);
    return nullptr;
  }
  Region* const region = book->region;
  if (book->runs->free_pages() != region->extent().size / kPageBytes) drop_kept_in_locked(*region);
  remove_locked(*region);
  return region;
}

// ---- Blocks ----

void PagePool::write_block(Region& region, std::uint64_t page, std::uint64_t pages) noexcept {
  std::atomic<UnitEntry>* const unit = region.unit_of(address_of(page));
  UnitRuns runs = runs_in(*unit);
  if (pages < UnitRuns::kLong) {
    runs.set_length(page_in_unit(page), static_cast<unsigned>(pages));
  } else {
    runs.set_length(page_in_unit(page), UnitRuns::kLong);
    unit[1].store(make_unit(UnitTag::kLength, static_cast<std::uint32_t>(pages)),
                  std::memory_order_relaxed);
  }
  store_runs(*unit, runs);
}

void PagePool::erase_block(Region& region, std::uint64_t page, std::uint64_t pages) noexcept {
  std::atomic<UnitEntry>* const unit = region.unit_of(address_of(page));
  UnitRuns runs = runs_in(*unit);
  runs.set_length(page_in_unit(page), 0);
  runs.set_pinned(page_in_unit(page), false);
  runs.set_freed(page_in_unit(page), false);
  store_runs(*unit, runs);
  if (pages >= UnitRuns::kLong) unit[1].store(0, std::memory_order_relaxed);
}

Result<PageBlock> PagePool::block_at_locked(Region& region, std::uintptr_t address) noexcept {
  if (!holds_locked(region, address)) return Error::kForeignFree;
  const std::atomic<UnitEntry>* const unit = region.unit_of(address);
  const std::uint64_t page = address >> kPageShift;
  const UnitRuns runs = runs_in(*unit);
  const unsigned length = runs.length(page_in_unit(page));
  if (length == 0 || !is_aligned(address, kPageBytes)) {
    // Not a start: inside a block, or on free pages.
    return book_of(region).runs->is_free(page, 1) ? Error::kDoubleFree : Error::kInteriorFree;
  }
  const std::uint64_t pages =
      length == UnitRuns::kLong ? unit_payload(unit[1].load(std::memory_order_relaxed)) : length;
  return PageBlock{{address, pages * kPageBytes},
                   runs.pinned(page_in_unit(page)),
                   runs.freed(page_in_unit(page))};
}

Result<PageBlock> PagePool::around_locked(Region& region, std::uintptr_t address) noexcept {
  if (!holds_locked(region, address)) return Error::kNotFound;
  const std::uint64_t start = book_of(region).runs->start_of(address >> kPageShift);
  const Result<PageBlock> block = block_at_locked(region, address_of(start));
  return block.ok() ? block : Error::kNotFound;
}

Result<PageRun> PagePool::allocate_block(std::uint64_t pages, unsigned align_order,
                                         std::uint64_t boundary) noexcept {
  // The length must fit its unit entry.
  if (pages == 0 || pages >> kUnitPayloadBits != 0) return Error::kOutOfMemory;
  LockGuard guard(lock_);
  const Result<PageRun> run = allocate_or_join_locked(pages, align_order, boundary);
  if (run.ok()) write_block(*run->region, run->extent.base >> kPageShift, pages);
  return run;
}

void PagePool::end_grace() noexcept {
  LockGuard guard(lock_);
  for (Book* book = all_; book != nullptr; book = book->everything.next) {
    book->fresh = false;
    note_idle(*book);
  }
}

Result<PageRun> PagePool::allocate_block_in(Region& region, std::uint64_t pages,
                                            unsigned align_order) noexcept {
  if (pages == 0 || pages >> kUnitPayloadBits != 0) return Error::kOutOfMemory;
  LockGuard guard(lock_);
  if (!holds_locked(region, region.extent().base)) return Error::kOutOfMemory;
  Book& book = book_of(region);
  const std::uint64_t page = book.runs->allocate(pages, align_order);
  if (page == RunMap::kNone) return Error::kOutOfMemory;
  book.held += pages;
  note(book);
  write_block(region, page, pages);
  return PageRun{&region, {address_of(page), pages * kPageBytes}};
}

Status PagePool::free_block(Region& region, std::uintptr_t address, bool* kept) noexcept {
  LockGuard guard(lock_);
  const Result<PageBlock> block = block_at_locked(region, address);
  if (!block.ok()) return block.error();
  if (block->freed) return Error::kDoubleFree;
  const std::uint64_t page = address >> kPageShift;
  const std::uint64_t pages = block->extent.size / kPageBytes;
  *kept = block->pinned;
  if (block->pinned) {
    mark_freed(*region.unit_of(address), page, true);
    return {};
  }
  if (keep_locked(region, page, pages)) return {};
  erase_block(region, page, pages);
  free_locked(region, page, pages);
  return {};
}

Result<PageBlock> PagePool::take_block(Region& region, std::uintptr_t address) noexcept {
  LockGuard guard(lock_);
  const Result<PageBlock> block = block_at_locked(region, address);
  if (!block.ok()) return block.error();
  if (block->freed) return Error::kDoubleFree;
  mark_taken(*region.unit_of(address), address >> kPageShift);
  return block;
}

Result<PageBlock> PagePool::unpinned_at_locked(Region& region, std::uintptr_t address) noexcept {
  const Result<PageBlock> block = block_at_locked(region, address);
  if (!block.ok()) return block.error();
  if (block->freed) return Error::kDoubleFree;
  if (block->pinned) return Error::kPinned;
  return block;
}

Result<Extent> PagePool::cut_block(Region& region, std::uintptr_t address, std::uint64_t pages,
                                   Tail becomes) noexcept {
  LockGuard guard(lock_);
  const Result<PageBlock> block = unpinned_at_locked(region, address);
  if (!block.ok()) return block.error();
  const std::uint64_t before = block->extent.size / kPageBytes;
  if (pages == 0 || pages >= before) return Error::kInvalidArgument;
  const std::uint64_t page = address >> kPageShift;
  const std::uint64_t tail = page + pages;
  erase_block(region, page, before);
  write_block(region, page, pages);
  if (becomes == Tail::kFree) {
    free_locked(region, tail, before - pages);
  } else {
    write_block(region, tail, before - pages);
    mark_taken(*region.unit_of(address_of(tail)), tail);
    book_of(region).runs->cut(tail);
  }
  return Extent{address_of(tail), (before - pages) * kPageBytes};
}

Status PagePool::grow_block(Region& region, std::uintptr_t address, std::uint64_t pages,
                            std::uint64_t boundary) noexcept {
  LockGuard guard(lock_);
  const Result<PageBlock> block = unpinned_at_locked(region, address);
  if (!block.ok()) return block.error();
  const std::uint64_t before = block->extent.size / kPageBytes;
  if (pages <= before) return Error::kInvalidArgument;
  if (pages >> kUnitPayloadBits != 0) return Error::kOutOfMemory;
  const std::uint64_t page = address >> kPageShift;
  if ((page ^ (page + pages - 1)) >= boundary) return Error::kOutOfMemory;
  Book& book = book_of(region);
  if (!book.runs->extend(page, pages)) return Error::kOutOfMemory;
  book.held += pages - before;
  note(book);
  erase_block(region, page, before);
  write_block(region, page, pages);
  return {};
}

Result<PageBlock> PagePool::find_block(Region& region, std::uintptr_t address) noexcept {
  LockGuard guard(lock_);
  Result<PageBlock> block = block_at_locked(region, address);
  if (block.ok() && block->freed) return Error::kDoubleFree;
  return block;
}

Result<PageBlock> PagePool::block_around(Region& region, std::uintptr_t address) noexcept {
  LockGuard guard(lock_);
  const Result<PageBlock> block = around_locked(region, address);
  return block.ok() && block->freed && !block->pinned ? Error::kNotFound : block;
}

Result<PageBlock> PagePool::pin_block(Region& region, Extent range) noexcept {
  LockGuard guard(lock_);
  const Result<PageBlock> block = around_locked(region, range.base);
  if (!block.ok() || block->freed || !block->extent.covers(range)) return Error::kNotFound;
  std::atomic<UnitEntry>* const unit = region.unit_of(block->extent.base);
  UnitRuns runs = runs_in(*unit);
  runs.set_pinned(page_in_unit(block->extent.base >> kPageShift), true);
  store_runs(*unit, runs);
  return block;
}

Result<PageBlock> PagePool::unpin_block(Region& region, std::uintptr_t address) noexcept {
  LockGuard guard(lock_);
  const Result<PageBlock> block = block_at_locked(region, address);
  if (!block.ok()) return Error::kNotFound;
  if (block->freed) return block;
  std::atomic<UnitEntry>* const unit = region.unit_of(address);
  UnitRuns runs = runs_in(*unit);
  runs.set_pinned(page_in_unit(address >> kPageShift), false);
  store_runs(*unit, runs);
  return block;
}

Status PagePool::free_unpinned_block(Region& region, std::uintptr_t address) noexcept {
  LockGuard guard(lock_);
  const Result<PageBlock> block = block_at_locked(region, address);
  if (!block.ok() || !block->freed || !block->pinned) return Error::kNotFound;
  const std::uint64_t page = address >> kPageShift;
  const std::uint64_t pages = block->extent.size / kPageBytes;
  erase_block(region, page, pages);
  free_locked(region, page, pages);
  return {};
}

// ---- Slabs ----

void PagePool::map_slabs() noexcept {
  LockGuard guard(lock_);
  maps_slabs_ = true;
}

Result<PageRun> PagePool::allocate_slab(std::uint64_t units) noexcept {
  LockGuard guard(lock_);
  const std::uint64_t pages = units * kPagesPerUnit;
  // What begins with a grain of the slab map fills grains.
  constexpr unsigned kGrainOrder = kGrainShift - kPageShift;
  const unsigned order = ceil_log2(pages);
  return allocate_or_join_locked(pages, order < kGrainOrder ? order : kGrainOrder, kNoBoundary);
}

Result<PageRun> PagePool::allocate_edge_slab(Region& region) noexcept {
  const Extent extent = region.extent();
  const std::uintptr_t first_end = align_up(extent.base + 1, kUnitBytes);
  const std::uintptr_t last_base = align_down(extent.end() - 1, kUnitBytes);
  const Extent edges[] = {
      {extent.base, (first_end < extent.end() ? first_end : extent.end()) - extent.base},
      {last_base > extent.base ? last_base : extent.base,
       extent.end() - (last_base > extent.base ? last_base : extent.base)},
  };
  LockGuard guard(lock_);
  Book& book = book_of(region);
  for (const Extent& edge : edges) {
    if (!book.runs->is_free(edge.base >> kPageShift, edge.size / kPageBytes)) continue;
    book.runs->take(edge.base >> kPageShift, edge.size / kPageBytes);
    book.held += edge.size / kPageBytes;
    note(book);
    return PageRun{&region, edge};
  }
  return Error::kOutOfMemory;
}

// 0: none.
void PagePool::set_units_locked(const PageRun& run, BookRef slab) noexcept {
  std::atomic<UnitEntry>* unit = run.region->unit_of(run.extent.base);
  const std::uint64_t units = units_of(run.extent);
  // Release pairs with the acquire of the frees' look-up: the slab's book is filled in.
  for (std::uint64_t i = 0; i < units; ++i)
    unit[i].store(slab != 0 ? make_slab_unit(slab) : 0, std::memory_order_release);
  slab_map_.enter(run.extent, slab);
}

void PagePool::publish_slab(const PageRun& run, BookRef slab) noexcept {
  LockGuard guard(lock_);
  set_units_locked(run, slab);
}

void PagePool::free_slab(const PageRun& run) noexcept {
  LockGuard guard(lock_);
  set_units_locked(run, 0);
  free_locked(*run.region, run.extent.base >> kPageShift, run.extent.size / kPageBytes);
}

// ---- Looking ----

PagePool::Piece PagePool::piece_at(Region& region, std::uintptr_t address) noexcept {
  LockGuard guard(lock_);
  Piece piece;
  if (!holds_locked(region, address)) return piece;
  const Extent extent = region.extent();
  const std::uintptr_t page = align_down(address, kPageBytes);
  const UnitEntry entry = region.unit_of(page)->load(std::memory_order_relaxed);
  if (is_slab(entry)) {
    piece.slab = slab_ref(entry);
    return piece;
  }
  if (const Result<PageBlock> block = around_locked(region, page); block.ok()) {
    piece.extent = block->extent;
    piece.free = block->freed && !block->pinned;
    piece.pinned = block->pinned;
    piece.freed = block->freed;
    return piece;
  }
  const std::uintptr_t end = address_of(book_of(region).runs->free_end(page >> kPageShift));
  piece.free = true;
  // GCOVR_EXCL_BR_START: no end is beyond
  piece.extent = {page, (end > page && end <= extent.end() ? end : page + kPageBytes) - page};
  // GCOVR_EXCL_BR_STOP
  return piece;
}

// Every kept run is a freed block of its class' length.
// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool PagePool::kept_holds_locked(std::uint64_t* count) noexcept {
  std::size_t bytes = 0;
  for (unsigned c = 0; c < kRunClasses; ++c) {
    const KeptRuns& kept = kept_[c];
    if ((kept.count != 0) != ((kept_classes_ >> c & 1) != 0)) return false;
    for (std::uint32_t i = 0; i < kept.count; ++i) {
      const KeptRun& run = kept.runs[i];
      const Result<PageBlock> block = block_at_locked(*run.region, address_of(run.page));
      if (!block.ok() || !block->freed || block->pinned ||
          block->extent.size != run_class_pages(c) * kPageBytes) {
        return false;  // GCOVR_EXCL_LINE: as above
      }
      bytes += block->extent.size;
    }
    *count += kept.count;
  }
  return bytes == kept_bytes_ && bytes <= keep_limit_;
}
// GCOVR_EXCL_BR_STOP

// A grain of the window that lies in one slab names it; any other nothing. So may one in a region
// that was left out of the window when it came.
// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool PagePool::slab_map_holds_locked(Region& region) noexcept {
  const Extent extent = region.extent();
  for (std::uintptr_t at = align_up(extent.base, SlabMap::kGrainBytes);
       at < extent.end() && extent.end() - at >= SlabMap::kGrainBytes; at += SlabMap::kGrainBytes) {
    if (!slab_map_.covers(at)) continue;
    const UnitEntry entry = region.unit_of(at)->load(std::memory_order_relaxed);
    bool whole = is_slab(entry);
    for (std::size_t in = kUnitBytes; in < SlabMap::kGrainBytes; in += kUnitBytes)
      whole = whole && region.unit_of(at + in)->load(std::memory_order_relaxed) == entry;
    const BookRef found = slab_map_.find(at);
    if (found == 0 && slab_map_.has_gaps()) continue;
    if (found != (whole ? slab_ref(entry) : 0)) return false;
  }
  return true;
}
// GCOVR_EXCL_BR_STOP

// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool PagePool::validate() noexcept {
  LockGuard guard(lock_);
  std::size_t idle = 0;
  std::uint64_t kept = 0;
  std::uint64_t freed = 0;
  if (!kept_holds_locked(&kept)) return false;
  for (Book* book = all_; book != nullptr; book = book->everything.next) {
    Region& region = *book->region;
    const Extent extent = region.extent();
    if (!book->runs->validate() || book->list != book->runs->orders_free() ||
        &book_of(region) != book || !slab_map_holds_locked(region))
      return false;  // GCOVR_EXCL_LINE: as above
    std::uint64_t held = 0;
    for (std::uintptr_t at = extent.base; at < extent.end();) {
      const UnitEntry entry = region.unit_of(at)->load(std::memory_order_relaxed);
      std::uintptr_t next = at + kPageBytes;
      bool is_kept = false;
      const bool free = book->runs->is_free(at >> kPageShift, 1);
      if (is_slab(entry)) {
        if (free) return false;
      } else if (!free) {
        // In use by somebody: a block, which is one run.
        const Result<PageBlock> block = block_at_locked(region, at);
        if (!block.ok() || block->extent.end() > extent.end()) return false;
        is_kept = block->freed && !block->pinned;
        freed += is_kept;
        next = block->extent.end();
        if (address_of(book->runs->start_of(at >> kPageShift)) != at ||
            address_of(book->runs->start_of((next >> kPageShift) - 1)) != at ||
            (next != extent.end() && address_of(book->runs->start_of(next >> kPageShift)) != next))
          return false;  // GCOVR_EXCL_LINE: as above
      }
      if (!free && !is_kept) held += (next - at) / kPageBytes;
      at = next;
    }
    const bool is_idle = book->by_idleness.back != nullptr;
    if (held != book->held || is_idle != (held == 0 && !book->fresh))
      return false;  // GCOVR_EXCL_LINE: as above
    if (is_idle) idle += extent.size;
  }
  return idle == idle_bytes_.load(std::memory_order_relaxed) && freed == kept;
}
// GCOVR_EXCL_BR_STOP

}  // namespace exclave
