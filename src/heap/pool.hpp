// One attached region that blocks are placed in: its pages, its slabs, and the heaps that threads
// keep of it (pool_heap.hpp).
//
// A pool is never given back to the books, only used again, so that its lock can be taken by
// whoever found it, however late; then its id is looked at. All but the door is under the lock.
#pragma once

#include "base/ordered_tree.hpp"
#include "base/spin_lock.hpp"
#include "heap/door.hpp"
#include "heap/pool_heap.hpp"
#include "heap/size_plan.hpp"
#include "page/page_pool.hpp"

namespace exclave {

struct Pool {
  Pool(BookStore& books, Registry& registry) noexcept
      : pages(books), shared(books, registry, pages), books_(books), registry_(registry) {}

  // ---- Life ----

  bool is(RegionId wanted) const noexcept EXCLAVE_REQUIRES(lock) { return id == wanted; }
  // Errors: kOutOfTrustedMemory.
  void open(Region& of, RegionId with) noexcept EXCLAVE_REQUIRES(lock);
  // Every slab goes, with all that is in it, and the region is the pool's no more. Precondition:
  // marked, and the door is shut.
  void close() noexcept EXCLAVE_REQUIRES(lock);

  // ---- Blocks ----

  // mine: what the calling thread keeps of the pool; null: nothing. reclaims: where the pool is
  // short, what threads keep cached is taken back. Errors: kOutOfMemory.
  Result<std::uintptr_t> allocate(PoolHeap* mine, std::size_t size, const SizePlan& plan,
                                  bool reclaims) noexcept EXCLAVE_REQUIRES(lock);
  // Errors: kDoubleFree, kInteriorFree, kForeignFree.
  Status free(std::uintptr_t block, bool scrub) noexcept EXCLAVE_REQUIRES(lock);
  // The same, into the stack of the calling thread's heap. False, with nothing changed: it is no
  // live slot.
  bool free_to(PoolHeap& mine, std::uintptr_t block) noexcept EXCLAVE_REQUIRES(lock);
  // The same for a run of pages. False, with nothing changed: it is none.
  bool free_pages(std::uintptr_t block) noexcept EXCLAVE_REQUIRES(lock);
  // A slot that is `from` becomes free. False, with nothing changed: it is not, or not a slot.
  bool take_back(std::uintptr_t block, SlotState from) noexcept EXCLAVE_REQUIRES(lock);
  // The slot in this pool that starts at the address.
  SlotRef slot_at(std::uintptr_t address) const noexcept EXCLAVE_REQUIRES(lock);
  // The first block at the address or above it that somebody holds, or a pin; 0: none. The pool
  // must be marked, else blocks are handed out meanwhile.
  std::uintptr_t live_from(std::uintptr_t address) noexcept EXCLAVE_REQUIRES(lock);

  // ---- What threads keep of it ----

  // No thread's heap serves any more until it is settled.
  void mark() noexcept EXCLAVE_REQUIRES(lock);
  // Takes the last mark back, of those that it was the first for. Nothing was taken from them.
  void unmark() noexcept EXCLAVE_REQUIRES(lock);
  void join(PoolHeap& heap, Heap& home) noexcept EXCLAVE_REQUIRES(lock);
  // The thread of a marked heap drops its hints, and goes on.
  void settle(PoolHeap& heap) noexcept EXCLAVE_REQUIRES(lock);
  // The threads are to give their heaps back, in their next call that takes locks.
  void recall() noexcept EXCLAVE_REQUIRES(lock);
  // The thread gives the heap back. with: the id of the pool that it was taken for.
  void leave(PoolHeap& heap, RegionId with) noexcept EXCLAVE_REQUIRES(lock);

  PagePool pages;
  Door door;  // open while the pool is in use
  SpinLock lock{LockRank::kHeap};
  PoolHeap shared EXCLAVE_GUARDED_BY(lock);           // serves who keeps nothing of the pool
  Region* region EXCLAVE_GUARDED_BY(lock) = nullptr;  // null: not in use
  RegionId id EXCLAVE_GUARDED_BY(lock){};
  bool draining EXCLAVE_GUARDED_BY(lock) = false;
  // Of a pool that drains: below it no block is live, and none will be.
  std::uintptr_t drained_to EXCLAVE_GUARDED_BY(lock) = 0;

  // Guarded by AttachedPools' lock.
  TreeLinks<Pool> links{};
  std::uint64_t listed_id = 0;
  Pool* next = nullptr;  // of its device, or of the idle ones
  Pool* next_open = nullptr;
  Pool* next_draining = nullptr;
  bool open_to_all = false;

  bool validate() noexcept EXCLAVE_REQUIRES(lock);

  struct ById {  // its order in a tree
    static TreeLinks<Pool>& links(Pool& pool) noexcept { return pool.links; }
    static const TreeLinks<Pool>& links(const Pool& pool) noexcept { return pool.links; }
    static std::uintptr_t key(const Pool& pool) noexcept { return pool.listed_id; }
    static void update(Pool&) noexcept {}
    static bool summary_holds(const Pool&) noexcept { return true; }
  };

 private:
  std::uintptr_t place(PoolHeap* mine, std::size_t size, const SizePlan& plan) noexcept
      EXCLAVE_REQUIRES(lock);
  bool provide(PoolHeap& heap, SizeClass c) noexcept EXCLAVE_REQUIRES(lock);
  std::uintptr_t take_slot(PoolHeap& heap, SizeClass c) noexcept EXCLAVE_REQUIRES(lock);
  bool may_reclaim(const PoolHeap* mine) noexcept EXCLAVE_REQUIRES(lock);
  void reclaim(PoolHeap* mine) noexcept EXCLAVE_REQUIRES(lock);
  void bury(BookRef chain) noexcept EXCLAVE_REQUIRES(lock);
  void release_buried() noexcept EXCLAVE_REQUIRES(lock);
  bool may_be_hinted(Slab& slab) noexcept EXCLAVE_REQUIRES(lock);
  template <class Visit>
  void each_heap(const Visit& visit) noexcept EXCLAVE_REQUIRES(lock) {
    visit(shared);
    for (PoolHeap* heap = heaps_; heap != nullptr; heap = heap->next_in_pool) visit(*heap);
  }

  BookStore& books_;
  Registry& registry_;
  // Those that threads keep; also of regions that this pool was before, until they leave.
  PoolHeap* heaps_ EXCLAVE_GUARDED_BY(lock) = nullptr;
  std::uint64_t marks_ EXCLAVE_GUARDED_BY(lock) = 0;
  std::uint64_t reclaimed_at_ EXCLAVE_GUARDED_BY(lock) = 0;  // which of them was the last reclaim's
  BookRef buried_ EXCLAVE_GUARDED_BY(lock) = 0;              // books of slabs that are gone
};

// The pools of one device tag.
struct Device {
  TreeLinks<Device> links{};
  DeviceTag tag = 0;
  Pool* first = nullptr;

  struct ByTag {  // its order in a tree
    static TreeLinks<Device>& links(Device& device) noexcept { return device.links; }
    static const TreeLinks<Device>& links(const Device& device) noexcept { return device.links; }
    static std::uintptr_t key(const Device& device) noexcept { return device.tag; }
    static void update(Device&) noexcept {}
    static bool summary_holds(const Device&) noexcept { return true; }
  };
};

}  // namespace exclave
