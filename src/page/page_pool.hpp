// The pages of a set of pool regions: page runs for big blocks and for slabs.
//
// One pool serves all grown regions; each attached pool region has one of its own. Choosing a
// region is O(1): regions stand in lists by their longest free run. Invariants (validate()): each
// page of a region is free in its run map, or part of one block, or of one slab. Thread-safe:
// lock() guards all but the slab entries' readers.
#pragma once

#include "base/spin_lock.hpp"
#include "page/run_class.hpp"
#include "page/run_map.hpp"
#include "page/slab_map.hpp"
#include "page/unit_entry.hpp"
#include "region/region.hpp"

namespace exclave {

struct PageRun {
  Region* region = nullptr;
  Extent extent{};
};

// A block of whole pages.
struct PageBlock {
  Extent extent{};
  bool pinned = false;
  bool freed = false;  // while pinned, or kept at hand
};

class PagePool {
 public:
  explicit PagePool(BookStore& books) noexcept : books_(books), slab_map_(books) {}
  // From now on freed runs of up to so many bytes are kept at hand, as they are, for requests of
  // their length. They join the free pages around them when something else is needed.
  void keep_runs(std::size_t bytes) noexcept EXCLAVE_EXCLUDES(lock_);
  // All of them join the free pages around them now.
  void join_kept_runs() noexcept EXCLAVE_EXCLUDES(lock_);
  // Regions that nobody has had a page of yet are idle, too, as others are. Whoever grew one and is
  // about to use it finds it gone, and grows another.
  void end_grace() noexcept EXCLAVE_EXCLUDES(lock_);

  // From now on large slabs are found by slab_at, too. Precondition: no region yet.
  void map_slabs() noexcept EXCLAVE_EXCLUDES(lock_);
  // The slab that the address lies in; 0 says nothing. No lock; safe with any address.
  [[gnu::always_inline]] BookRef slab_at(std::uintptr_t address) const noexcept {
    return slab_map_.find(address);
  }

  // Takes the region in, all pages free. Errors: kOutOfTrustedMemory.
  Status add(Region& region) noexcept EXCLAVE_EXCLUDES(lock_);
  // Gives up the region and its page book, whatever stands in it.
  void remove(Region& region) noexcept EXCLAVE_EXCLUDES(lock_);

  // ---- Blocks ----

  // The fast ones: a kept run of at least so many pages, or 0; and a block to keep: false, with
  // nothing changed, when it is not one to keep or not one at all.
  std::uintptr_t take_kept(std::uint64_t pages) noexcept EXCLAVE_EXCLUDES(lock_);
  bool keep_block(Region& region, std::uintptr_t address) noexcept EXCLAVE_EXCLUDES(lock_);
  // No multiple of `boundary` (pages; a power of two, at least `pages`) lies inside the block.
  // Errors: kOutOfMemory.
  Result<PageRun> allocate_block(std::uint64_t pages, unsigned align_order,
                                 std::uint64_t boundary = kNoBoundary) noexcept
      EXCLAVE_EXCLUDES(lock_);
  // The same in one region. Errors: kOutOfMemory.
  Result<PageRun> allocate_block_in(Region& region, std::uint64_t pages,
                                    unsigned align_order) noexcept EXCLAVE_EXCLUDES(lock_);
  // A pinned block is kept until unpin_block, and *kept says so. Errors, without change:
  // kDoubleFree, kInteriorFree, kForeignFree.
  Status free_block(Region& region, std::uintptr_t address, bool* kept) noexcept
      EXCLAVE_EXCLUDES(lock_);
  // Frees a block as if it were pinned, so that it stays where it is until free_unpinned_block.
  // Returns it as it was: the one that was pinned before goes with its last pin instead. Errors: as
  // free_block.
  Result<PageBlock> take_block(Region& region, std::uintptr_t address) noexcept
      EXCLAVE_EXCLUDES(lock_);
  // Cuts a live block in two: its first `pages` stay its holder's. The tail is free; or it is a
  // block that stands as take_block leaves one, until free_unpinned_block. Returns the tail.
  // Errors, without change: as free_block, kPinned, kInvalidArgument (pages: 0, or not less than
  // there are).
  enum class Tail : bool { kFree, kTaken };
  Result<Extent> cut_block(Region& region, std::uintptr_t address, std::uint64_t pages,
                           Tail becomes) noexcept EXCLAVE_EXCLUDES(lock_);
  // A live block takes in the free pages behind it, up to so many in all. Errors, without change:
  // as free_block, kPinned, kInvalidArgument (not more than there are), kOutOfMemory (not enough
  // free ones stand there, or a multiple of `boundary` would lie inside: see allocate_block).
  Status grow_block(Region& region, std::uintptr_t address, std::uint64_t pages,
                    std::uint64_t boundary = kNoBoundary) noexcept EXCLAVE_EXCLUDES(lock_);
  // The live block that starts at the address. Errors: kDoubleFree, kInteriorFree, kForeignFree.
  Result<PageBlock> find_block(Region& region, std::uintptr_t address) noexcept
      EXCLAVE_EXCLUDES(lock_);
  // The block that the address lies in, live or kept. Error: kNotFound.
  Result<PageBlock> block_around(Region& region, std::uintptr_t address) noexcept
      EXCLAVE_EXCLUDES(lock_);
  // Errors: kNotFound (no live block holds the whole range). Returns the block.
  Result<PageBlock> pin_block(Region& region, Extent range) noexcept EXCLAVE_EXCLUDES(lock_);
  // The last pin goes. A block that was freed meanwhile stays as it is, and the result says so:
  // then free_unpinned_block. Error: kNotFound.
  Result<PageBlock> unpin_block(Region& region, std::uintptr_t address) noexcept
      EXCLAVE_EXCLUDES(lock_);

  // Error: kNotFound, where no block starts that is pinned and freed.
  Status free_unpinned_block(Region& region, std::uintptr_t address) noexcept
      EXCLAVE_EXCLUDES(lock_);

  // ---- Slabs ----

  // Whole units, aligned to the power of two at or above their number, or to a grain of the slab
  // map if that is less. Errors: kOutOfMemory.
  Result<PageRun> allocate_slab(std::uint64_t units) noexcept EXCLAVE_EXCLUDES(lock_);
  // All pages of a partial unit at an edge of the only region. Errors: kOutOfMemory.
  Result<PageRun> allocate_edge_slab(Region& region) noexcept EXCLAVE_EXCLUDES(lock_);
  // Makes the slab findable. The caller has filled in its book.
  void publish_slab(const PageRun& run, BookRef slab) noexcept EXCLAVE_EXCLUDES(lock_);
  void free_slab(const PageRun& run) noexcept EXCLAVE_EXCLUDES(lock_);

  // ---- Whole regions ----

  // A region is idle when nobody has a page of it any more: all are free, or kept at hand. Takes
  // one out, and what is kept in it, if at least `keep_bytes` of idle regions remain, or if it is
  // more than kMostKept times as long; else null. The caller removes it from the registry and
  // destroys it.
  static constexpr std::size_t kMostKept = 4;
  Region* take_idle(std::size_t keep_bytes) noexcept EXCLAVE_EXCLUDES(lock_);
  // May take_idle find one? Always true again once regions have come or gone.
  bool has_surplus(std::size_t keep_bytes) const noexcept {
    const std::size_t idle = idle_bytes_.load(std::memory_order_relaxed);
    return idle > keep_bytes && idle != refused_bytes_.load(std::memory_order_relaxed);
  }
  bool has_idle(std::size_t keep_bytes) const noexcept {
    return idle_bytes_.load(std::memory_order_relaxed) > keep_bytes;
  }

  // What stands at the page of the address, for heap maps: a free stretch, a block or a slab (its
  // entry).
  struct Piece {
    Extent extent{};
    bool free = false;
    bool pinned = false;
    bool freed = false;  // while pinned, or kept at hand
    BookRef slab = 0;
  };
  Piece piece_at(Region& region, std::uintptr_t address) noexcept EXCLAVE_EXCLUDES(lock_);
  bool validate() noexcept EXCLAVE_EXCLUDES(lock_);
  SpinLock& lock() noexcept EXCLAVE_RETURNS_LOCK(lock_) { return lock_; }  // for fork

 private:
  struct Book;
  struct KeptRun {
    Region* region;
    std::atomic<UnitEntry>* unit;  // where it starts
    std::uint64_t page;
  };
  struct KeptRuns {
    KeptRun* runs = nullptr;
    std::uint32_t count = 0;
    std::uint32_t capacity = 0;
  };

  static Book& book_of(Region& region) noexcept { return *static_cast<Book*>(region.page_book); }
  // Callers find regions without a lock: is it still one of this pool's, and the address in it?
  bool holds_locked(const Region& region, std::uintptr_t address) const noexcept
      EXCLAVE_REQUIRES(lock_) {
    return region.page_pool.load(std::memory_order_acquire) == this &&
           region.extent().contains(address);
  }
  void remove_locked(Region& region) noexcept EXCLAVE_REQUIRES(lock_);
  Result<PageRun> allocate_locked(std::uint64_t pages, unsigned align_order,
                                  std::uint64_t boundary) noexcept EXCLAVE_REQUIRES(lock_);
  Result<PageRun> allocate_or_join_locked(std::uint64_t pages, unsigned align_order,
                                          std::uint64_t boundary) noexcept EXCLAVE_REQUIRES(lock_);
  // After pages of the region changed between free, kept and held: its lists.
  void note(Book& book) noexcept EXCLAVE_REQUIRES(lock_);
  // Held pages become free; kept ones do.
  void free_locked(Region& region, std::uint64_t page, std::uint64_t pages) noexcept
      EXCLAVE_REQUIRES(lock_);
  void join_locked(Region& region, std::uint64_t page, std::uint64_t pages) noexcept
      EXCLAVE_REQUIRES(lock_);
  bool keep_locked(Region& region, std::uint64_t page, std::uint64_t pages) noexcept
      EXCLAVE_REQUIRES(lock_);
  bool grow_kept_slow(KeptRuns& kept) noexcept EXCLAVE_REQUIRES(lock_);
  KeptRun take_kept_locked(unsigned run_class) noexcept EXCLAVE_REQUIRES(lock_);
  void join_one_kept_locked(unsigned run_class) noexcept EXCLAVE_REQUIRES(lock_);
  void drop_kept_in_locked(const Region& region) noexcept EXCLAVE_REQUIRES(lock_);
  bool kept_holds_locked(std::uint64_t* count) noexcept EXCLAVE_REQUIRES(lock_);
  static void mark_freed(std::atomic<UnitEntry>& unit, std::uint64_t page, bool freed) noexcept;
  // As if freed and pinned: only who did this does anything to the block from now on.
  static void mark_taken(std::atomic<UnitEntry>& unit, std::uint64_t page) noexcept;
  void place(Book& book) noexcept EXCLAVE_REQUIRES(lock_);
  void displace(Book& book) noexcept EXCLAVE_REQUIRES(lock_);
  void note_idle(Book& book) noexcept EXCLAVE_REQUIRES(lock_);
  void set_idle(Book& book, bool idle) noexcept EXCLAVE_REQUIRES(lock_);
  // What resizing asks of a block. Errors: as free_block, kPinned.
  Result<PageBlock> unpinned_at_locked(Region& region, std::uintptr_t address) noexcept
      EXCLAVE_REQUIRES(lock_);
  Result<PageBlock> block_at_locked(Region& region, std::uintptr_t address) noexcept
      EXCLAVE_REQUIRES(lock_);
  Result<PageBlock> around_locked(Region& region, std::uintptr_t address) noexcept
      EXCLAVE_REQUIRES(lock_);
  void write_block(Region& region, std::uint64_t page, std::uint64_t pages) noexcept
      EXCLAVE_REQUIRES(lock_);
  void erase_block(Region& region, std::uint64_t page, std::uint64_t pages) noexcept
      EXCLAVE_REQUIRES(lock_);

  void set_units_locked(const PageRun& run, BookRef slab) noexcept EXCLAVE_REQUIRES(lock_);
  bool slab_map_holds_locked(Region& region) noexcept EXCLAVE_REQUIRES(lock_);

  BookStore& books_;
  SlabMap slab_map_;  // written under the lock
  bool maps_slabs_ EXCLAVE_GUARDED_BY(lock_) = false;
  std::size_t bytes_ EXCLAVE_GUARDED_BY(lock_) = 0;  // of all regions
  SpinLock lock_{LockRank::kPages};
  KeptRuns kept_[kRunClasses] EXCLAVE_GUARDED_BY(lock_) = {};
  std::uint32_t kept_classes_ EXCLAVE_GUARDED_BY(lock_) = 0;  // bit c: kept_[c] is not empty
  std::size_t kept_bytes_ EXCLAVE_GUARDED_BY(lock_) = 0;
  std::size_t keep_limit_ EXCLAVE_GUARDED_BY(lock_) = 0;
  // Lists of regions, by RunMap::orders_free(); bit k of mask_: list k is not empty. List 0 is not
  // kept.
  Book* list_[RunMap::kMaxOrders + 1] EXCLAVE_GUARDED_BY(lock_) = {};
  std::uint64_t mask_ EXCLAVE_GUARDED_BY(lock_) = 0;
  Book* idle_ EXCLAVE_GUARDED_BY(lock_) = nullptr;
  Book* all_ EXCLAVE_GUARDED_BY(lock_) = nullptr;
  std::atomic<std::size_t> idle_bytes_{0};     // written under the lock
  std::atomic<std::size_t> refused_bytes_{0};  // as much was idle when take_idle found none; too
};

}  // namespace exclave
