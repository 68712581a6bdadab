// All attached pools: which there are, what is placed where, and how one goes.
//
// A block in device memory, from its birth to its end:
//   take      the calling thread keeps a heap of the pool: a hint, one swap, done (pool_heap.hpp)
//   allocate  else under the pool's lock (pool.cpp); the eighth in a row earns the thread a heap
//   give      a free by a thread that keeps a heap of the pool: one swap, and the hint
//   free      else under the pool's lock
//   detach    the pool serves nobody (mark); its states say whether a block is live; it closes
// "heap" is always the calling thread's, which is inside a call: nested calls come here never.
#pragma once

#include <atomic>

#include "base/ordered_tree.hpp"
#include "heap/pool.hpp"
#include "heap/pool_table.hpp"
#include "page/unit_entry.hpp"

namespace exclave {

class AttachedPools {
 public:
  AttachedPools(BookStore& books, Registry& registry, bool scrub) noexcept
      : books_(books), registry_(registry), scrub_(scrub) {}
  void seed(std::uint64_t seed) noexcept;

  // ---- The fast paths ----

  // A small block from what the thread keeps of the pool that it used last. *entry: that pool's, if
  // it is one to ask.
  [[gnu::always_inline]] static PoolHeap::Popped take(const Heap& heap, std::size_t size,
                                                      Placement where, PoolTable::Entry** entry,
                                                      std::uintptr_t* block) noexcept {
    const PoolTable* const table = heap.pools;
    if (EXCLAVE_UNLIKELY(table == nullptr)) return PoolHeap::Popped::kNone;
    PoolTable::Entry& last = *table->last;
    *entry = &last;
    if (EXCLAVE_UNLIKELY(!last.serves(where) || size - 1 >= last.plain_bytes))
      return PoolHeap::Popped::kNone;
    return last.heap->pop_hint(size_class_fast(size), block);
  }
  // kAsk: whose slot is it? 0: the pool is not there any more, or gives out nothing.
  std::uintptr_t ask(PoolTable::Entry& entry, std::uintptr_t block) noexcept;
  // A block from what the thread keeps of any pool; 0: ask allocate. c: the class of the request in
  // grown memory, where the alignment asks for another than the size.
  std::uintptr_t take_slow(Heap& heap, std::size_t size, Placement where, RegionId* id,
                           SizeClass c = kSizeClasses) noexcept;

  // Frees a live slot into what the thread keeps of its pool.
  enum class Given : std::uint8_t {
    kDone,
    kNot,     // nothing has changed: ask free
    kFinish,  // it is freed, and then: finish_give
  };
  // Precondition: the entry's pool holds the address.
  [[gnu::always_inline]] Given give(PoolTable::Entry& entry, std::uintptr_t block) noexcept {
    PoolHeap& mine = *entry.heap;
    // Acquire pairs with publish_slab.
    const UnitEntry unit =
        entry.units[unit_index(block, entry.first_unit)].load(std::memory_order_acquire);
    // The slab was found first: if the heap serves now, then its book stays what it is. Else that
    // may not even have been an entry.
    if (EXCLAVE_UNLIKELY(!is_slab(unit) || !mine.serves())) return Given::kNot;
    Slab& slab = *slab_of<Slab>(books_.view(), unit);
    std::atomic<SlotState>* state = nullptr;
    const SizeClass c = slab.size_class.load(std::memory_order_relaxed);
    if (EXCLAVE_UNLIKELY(!slab.find_state(block, &state) || !mine.has_room(c))) return Given::kNot;
    SlotState expected = SlotState::kLive;
    if (EXCLAVE_UNLIKELY(!state->compare_exchange_strong(
            expected, SlotState::kCached, std::memory_order_seq_cst, std::memory_order_relaxed))) {
      return Given::kNot;
    }
    mine.push_hint(c, block, state);
    return EXCLAVE_LIKELY(mine.serves()) ? Given::kDone : Given::kFinish;
  }
  // Somebody looks at the pool's slots meanwhile.
  void finish_give(Heap& heap, PoolTable::Entry& entry) noexcept;

  // ---- Blocks ----

  // reclaims: what threads keep cached is taken back, where all that is asked for is short. Errors:
  // kNotFound, kOutOfMemory.
  Result<PlacedBlock> allocate(Heap& heap, std::size_t size, const SizePlan& plan, Placement where,
                               bool reclaims) noexcept;
  bool has_open() const noexcept { return has_open_.load(std::memory_order_relaxed); }
  // A block at that address of the pool with this id. Errors: as deallocate; kStale, the pool has
  // gone.
  Status free(Heap& heap, Pool& pool, RegionId id, std::uintptr_t block) noexcept;
  // The same for a live block, and quicker; not where frees scrub. False, with
  // nothing changed: it is none, or the pool drains.
  bool free_live(Heap& heap, Pool& pool, const Region& region, std::uintptr_t block) noexcept;
  // What was freed while it was pinned goes when the last pin does: a slot that is kRemote, a block
  // of pages that is marked freed and pinned. Nothing to do when its pool was revoked meanwhile.
  void free_unpinned(Pool& pool, RegionId id, std::uintptr_t block, bool is_slot) noexcept;
  // A nested call left a slot kDeferred.
  void note_deferred(Pool& pool) noexcept;

  // ---- Life ----

  // Errors: kOutOfTrustedMemory, kOverlap.
  Result<RegionId> attach(Extent range, const AttachOptions& options) noexcept;
  // *gone: the region's book, to be finished without a lock; null: the pool drains. Errors:
  // kNotFound, kBusy, kPinned.
  Status detach(Heap& heap, RegionId id, DetachMode mode, Region** gone) noexcept;
  // The allocator ends: no other thread is here.
  void end(Pool& pool, Region** gone) noexcept;
  // Whoever may have ended what a draining pool waits for (a block, a pin) looks himself at the end
  // of the call (settle). Who cannot, in a nested call or behind the door, has all others look.
  void look_at_drains() noexcept { drains_wait_.store(true, std::memory_order_seq_cst); }
  bool drains_wait(const Heap& heap) const noexcept {
    return heap.drains || drains_wait_.load(std::memory_order_seq_cst);
  }
  // The book of a region whose pool has drained; null: there is no further one.
  Region* settle(Heap& heap) noexcept;

  // ---- What threads keep ----

  // Heaps of pools that have gone, or drain, go back.
  void tidy(Heap& heap) noexcept;
  // All that the thread keeps goes back.
  void leave_all(Heap& heap) noexcept;

  // ---- fork, and validation ----
  SpinLock& lists() noexcept EXCLAVE_RETURNS_LOCK(lists_) { return lists_; }
  template <class Visit>
  void each_pool(const Visit& visit) noexcept EXCLAVE_REQUIRES(lists_) {
    for (Pool* pool = pools_.at_or_after(0); pool != nullptr;
         pool = pools_.at_or_after(pool->listed_id + 1)) {
      visit(*pool);
    }
    // Whoever found one late may be looking at it still.
    for (Pool* pool = idle_pools_; pool != nullptr; pool = pool->next) visit(*pool);
  }
  bool is_unused() noexcept EXCLAVE_REQUIRES(lists_) {
    return pools_.at_or_after(0) == nullptr && idle_pools_ == nullptr;
  }

 private:
  std::uintptr_t take_from(PoolTable::Entry& entry, SizeClass c) noexcept;

  PoolTable* table_of(Heap& heap) noexcept;
  Pool* find(PoolTable* table, RegionId id) noexcept;
  Result<PlacedBlock> allocate_in(Heap& heap, Pool& pool, RegionId id, std::size_t size,
                                  const SizePlan& plan, bool reclaims) noexcept;
  Result<PlacedBlock> allocate_first(Heap& heap, Pool*& first, Pool* Pool::*next, std::size_t size,
                                     const SizePlan& plan, bool reclaims) noexcept
      EXCLAVE_REQUIRES(lists_);
  void note_use(Heap& heap, Pool& pool, RegionId id) noexcept;
  void keep(Heap& heap, Pool& pool, RegionId id) noexcept;
  PoolHeap* take_heap(Pool& pool) noexcept;
  void give_heap_back(PoolHeap& heap) noexcept;
  void leave(PoolTable::Entry& entry) noexcept;

  Pool* take_pool() noexcept EXCLAVE_REQUIRES(lists_);
  Status fill(Pool& pool, Region& region) noexcept EXCLAVE_REQUIRES(lists_);
  Device* device(DeviceTag tag) noexcept EXCLAVE_REQUIRES(lists_);
  // Null, or one that may have no pool (any more).
  void drop_device(Device* device) noexcept EXCLAVE_REQUIRES(lists_);
  void start_drain(Pool& pool) noexcept EXCLAVE_REQUIRES(lists_) EXCLAVE_REQUIRES(pool.lock);
  bool has_drained(Pool& pool) noexcept EXCLAVE_REQUIRES(pool.lock);
  // Takes the region out of the pool, the registry and the lists; *gone gets its book. Errors:
  // kPinned, without change; kWouldBlock: the library itself is at work on bytes of the pool. Its
  // door is shut then, so the work ends soon; whoever gives up opens it again.
  Status close(Pool& pool, Region** gone) noexcept EXCLAVE_REQUIRES(lists_)
      EXCLAVE_REQUIRES(pool.lock);

  BookStore& books_;
  Registry& registry_;
  const bool scrub_;
  std::atomic<bool> has_open_{false};
  std::atomic<bool> drains_wait_{false};

  alignas(kCacheLine) SpinLock lists_{LockRank::kPoolList};
  OrderedTree<Device, Device::ByTag> devices_ EXCLAVE_GUARDED_BY(lists_);
  OrderedTree<Pool, Pool::ById> pools_ EXCLAVE_GUARDED_BY(lists_);
  Pool* open_ EXCLAVE_GUARDED_BY(lists_) = nullptr;
  Pool* draining_ EXCLAVE_GUARDED_BY(lists_) = nullptr;
  Pool* idle_pools_ EXCLAVE_GUARDED_BY(lists_) = nullptr;
  PoolHeap* idle_heaps_ EXCLAVE_GUARDED_BY(lists_) = nullptr;
};

}  // namespace exclave
