// The allocator that puts the rooms together: thread heaps over grown regions, attached pools,
// growth and give-back, pins, and the look-ups that the public face answers with.
//
// Read core_blocks.cpp for the life of a block: allocate and deallocate come first there, and end
// in heap.hpp's pop and push; core_frees.cpp for its end, where a free is more than a push.
// core_contents.cpp zeroes and copies; core_growth.cpp asks the host for regions, core_regions.cpp
// has those that are attached, and pins, core_mappings.cpp what the memory calls take out,
// core_looking.cpp what stands at an address, statistics, iteration and validation.
#pragma once

#include <atomic>

#include "exclave/allocator.hpp"
#include "heap/attached_pools.hpp"
#include "heap/free_steps.hpp"
#include "heap/heap.hpp"
#include "heap/size_plan.hpp"
#include "page/page_pool.hpp"
#include "port/thread_slot.hpp"
#include "region/registry.hpp"

namespace exclave::core {

class AllocatorCore {
 public:
  static Result<AllocatorCore*> create(const PortTable& port, const Config& config) noexcept;
  static void destroy(AllocatorCore* core) noexcept;

  // ---- Blocks (core_blocks.cpp, core_frees.cpp); see Allocator ----
  Result<untrusted_bytes> allocate(std::size_t size) noexcept;
  Result<untrusted_bytes> allocate(std::size_t size, std::size_t alignment,
                                   Placement where) noexcept;
  Result<PlacedBlock> allocate_handle(std::size_t size, std::size_t alignment,
                                      Placement where) noexcept;
  Result<untrusted_bytes> allocate_zeroed(std::size_t size, std::size_t alignment,
                                          Placement where) noexcept;
  Result<untrusted_bytes> reallocate(std::uintptr_t block, std::size_t size, std::size_t alignment,
                                     Placement where) noexcept;
  // reallocate, but for the move. Errors, without change: as reallocate; kOutOfMemory: it would
  // move.
  Status resize_in_place(std::uintptr_t block, std::size_t size) noexcept;
  Status deallocate(std::uintptr_t block) noexcept;
  Status deallocate_sized(std::uintptr_t block, std::size_t size, std::size_t alignment) noexcept;
  Status deallocate_handle(std::uintptr_t block, RegionId region) noexcept;
  Result<std::size_t> usable_size(std::uintptr_t block) noexcept;
  Result<RegionId> region_of(std::uintptr_t block) noexcept;
  void flush_thread() noexcept;
  void trim() noexcept;

  // ---- Calls that were jumped out of (core_jumps.cpp) ----
  // For whoever knows that the call that this thread is inside never goes on: afterwards the thread
  // is inside no call, and gets another heap. The heap of that call is lost: the memory of its
  // slabs is not used again. Should the call go on nevertheless, then no book goes wrong, but its
  // later heap is lost, too. Errors, without change: kReentered, the call may hold a lock, or there
  // are attached pools, or were; where another thread held the lock another try succeeds.
  Status give_up_interrupted_call() noexcept;

  // ---- fork (core_fork.cpp); see Allocator ----
  Status before_fork() noexcept;
  void after_fork_in_parent() noexcept;
  void after_fork_in_child() noexcept;

  // ---- Regions (core_regions.cpp); see Allocator ----
  Result<RegionId> attach(Extent range, const AttachOptions& options) noexcept;
  Status detach(Extent range, DetachMode mode) noexcept;
  Result<PinId> pin(Extent range) noexcept;
  Status unpin(PinId id) noexcept;
  Result<RegionInfo> query(std::uintptr_t address, std::size_t size) const noexcept {
    return registry_.query(address, size, &is_inside, this);
  }
  Result<untrusted_bytes> validate_range(std::uintptr_t address, std::size_t size,
                                         Protection needed) const noexcept;
  Result<std::uint64_t> device_address(std::uintptr_t address) const noexcept;

  // ---- For the memory calls (core_mappings.cpp) ----
  // Takes every page of mappings in the range out of the books: a chain in ascending order, by
  // Region::next_taken. Each mapping is a hole for everybody from now on. The first one has left
  // its place; the others' places are reserved until next_out. kNone: all are reserved, the first
  // one, too. holes_ok: skip what is not a mapping; else kNotFound. Errors, without change:
  // kNotFound, kPinned, kBusy (a call of this very thread is under way there), kOutOfTrustedMemory.
  enum class Leaves : bool { kFirst, kNone };
  Result<Region*> take_mappings_out(Extent range, bool holes_ok,
                                    Leaves leaves = Leaves::kFirst) noexcept;
  // The next of the chain, which has left its place now; null: there is none.
  Region* next_out(Region* next) noexcept {
    if (next != nullptr) registry_.leave_place(*next);
    return next;
  }
  class Gate;
  // The host unmapped it: tells the owner, with no lock held, and gives the book back.
  void finish_region(Gate& gate, Region& region) noexcept;

  Registry& registry() noexcept { return registry_; }
  const Config& config() const noexcept { return config_; }
  // Counted host calls, with no lock held and the gate open.
  HostReply host_map(Gate& gate, const MapRequest& request) noexcept;
  int host_unmap(Gate& gate, Extent range) noexcept;
  int host_protect(Gate& gate, Extent range, int protection) noexcept;
  // Optional in the port's table; ENOSYS where it has none.
  HostReply host_remap(Gate& gate, Extent from, std::size_t new_size, int flags,
                       std::uintptr_t to) noexcept;
  int host_advise(Gate& gate, RangeCall what, Extent range, int argument) noexcept;
  int host_resident(Gate& gate, Extent range, unsigned char* vector) noexcept;
  void count_lie() noexcept { lies_.fetch_add(1, std::memory_order_relaxed); }

  // ---- Looking (core_looking.cpp); see Allocator ----
  Statistics statistics() noexcept;
  Result<RegionInfo> next_region(std::uintptr_t address) noexcept;
  Result<RunInfo> next_run(std::uintptr_t address) noexcept;
  bool validate() noexcept;

  // Keeps this thread's heap for itself while a slow operation runs: in the table stands busy_
  // instead, so that a nested call, from a signal handler, finds nothing that it could disturb.
  class Gate {
   public:
    explicit Gate(AllocatorCore& core) noexcept;
    ~Gate() {
      if (!status_.ok()) return;
      if (core_.pools_.drains_wait(*heap_)) core_.settle_drains(*this);
      open();
      if (heap_->has_double_frees()) core_.report_folded(*heap_);
    }
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;
    // kReentered, kTooManyThreads, kOutOfTrustedMemory.
    Status status() const noexcept { return status_; }
    Heap& heap() const noexcept { return *heap_; }
    // Around what may call the allocator again: host calls and callbacks.
    void open() noexcept { leave(*mine_, heap_); }
    void close() noexcept { (void)core_.enter(*mine_); }

   private:
    AllocatorCore& core_;
    std::atomic<Heap*>* mine_ = nullptr;
    Heap* heap_ = nullptr;
    Status status_;
  };

 private:
  explicit AllocatorCore(const PortTable& port, const Config& config) noexcept;
  Status open() noexcept;
  // The parts of destroy, in their order.
  void tell_leaks() noexcept;
  void end_attached() noexcept;
  void release_grown() noexcept;

  // ---- Threads ----
  // This thread's entry in the table of heaps. A thread without a slot has the first, which none
  // owns. The port keeps slots below kMaxThreadSlots.
  std::atomic<Heap*>& mine() noexcept { return heaps_[std::uint32_t{assigned_thread_slot() + 1}]; }
  // Takes the heap out of the table for the length of a call. Relaxed: only its own thread and that
  // thread's signal handlers read the entry.
  Heap* enter(std::atomic<Heap*>& mine) noexcept {
    Heap* const heap = mine.load(std::memory_order_relaxed);
    mine.store(&busy_, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    return heap;
  }
  static void leave(std::atomic<Heap*>& mine, Heap* heap) noexcept {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    mine.store(heap, std::memory_order_relaxed);
  }
  bool is_own(const Heap* heap) const noexcept { return heap != &none_ && heap != &busy_; }
  // Is this thread inside a call already, so that this one comes from a signal handler?
  static bool is_inside(const void* context) noexcept {
    const AllocatorCore& core = *static_cast<const AllocatorCore*>(context);
    const std::uint32_t slot = assigned_thread_slot();
    return slot != kNoThreadSlot &&
           core.heaps_[slot + 1].load(std::memory_order_relaxed) == &core.busy_;
  }
  Heap* take_heap_slow(std::uint32_t slot) noexcept;
  static void on_thread_exit(void* context, std::uint32_t slot) noexcept;
  void retire_heap_slow(Heap& heap) noexcept;
  template <class Function>
  void each_lock(const Function& apply) noexcept;
  Heap* leave_fork() noexcept;
  bool holds_no_lock() noexcept;

  // ---- Allocation ----
  [[gnu::always_inline]] inline bool pop(SizeClass c, std::uintptr_t* block) noexcept;
  [[gnu::noinline]] Result<untrusted_bytes> allocate_slow(std::size_t size) noexcept;
  Result<untrusted_bytes> allocate_slow(std::size_t size, std::size_t alignment,
                                        Placement where) noexcept;
  [[gnu::noinline]] Result<untrusted_bytes> allocate_placed(std::atomic<Heap*>& mine, Heap& heap,
                                                            std::size_t size, Placement where,
                                                            PoolTable::Entry* asks,
                                                            std::uintptr_t block) noexcept;
  PlacedBlock take_placed(std::size_t size, Placement where) noexcept;
  // A run that is kept at hand, or 0.
  [[gnu::always_inline]] inline std::uintptr_t take_kept(std::size_t size) noexcept;
  // A block and the id of the attached pool that it lies in; the null id: it is grown memory. The
  // id is read under the pool's lock, with which the block is taken, so it is never that of a pool
  // that came to the same place later.
  Result<PlacedBlock> place(std::size_t size, std::size_t alignment, Placement where) noexcept;
  Result<PlacedBlock> place_slow(std::size_t size, std::size_t alignment, Placement where) noexcept;
  Result<PlacedBlock> place_gated(Gate& gate, std::size_t size, std::size_t alignment,
                                  Placement where) noexcept;
  Result<untrusted_bytes> allocate_small_slow(Gate& gate, SizeClass c) noexcept;
  Result<untrusted_bytes> allocate_pages(Gate& gate, const SizePlan& plan) noexcept;
  bool adopt_orphan(Heap& heap, SizeClass c) noexcept;
  struct Found;
  bool may_stay(const Found& found, std::size_t size, Placement where,
                std::uint64_t* boundary) noexcept;
  bool resize_in_place(const Found& found, std::uintptr_t block, const SizePlan& plan,
                       std::uint64_t boundary) noexcept;
  bool resize_pages(const Found& found, std::uintptr_t block, std::uint64_t pages,
                    std::uint64_t boundary) noexcept;
  bool cut_pages(PagePool& from, Region& region, std::uintptr_t block,
                 std::uint64_t pages) const noexcept;

  // ---- Contents (core_contents.cpp) ----
  // What must not go while a block is touched. door: null for grown memory.
  struct Owner {
    Door* door = nullptr;
    RegionId region{};
  };
  class Visit;
  // region: the null id for grown memory.
  Owner owner_of(std::uintptr_t block, RegionId region) noexcept;
  template <class Work>
  Status touch(std::size_t size, const Owner& to, const Owner& from, const Work& work) noexcept;
  // Errors: kNotFound, the pool of the block that is written goes; kStale, that of the block that
  // is read; kReentered.
  Status zero_block(const PlacedBlock& block, std::size_t size) noexcept;
  Status copy_block(const PlacedBlock& to, const PlacedBlock& from, std::size_t size) noexcept;
  // Behind the door, which was entered and is left; null: grown memory.
  static void scrub_kept(Gate& gate, Door* entered, Extent block) noexcept;
  Status free_placed(const PlacedBlock& block) noexcept;

  // One host call: counted, under no lock, and with the gate open, for the host may call back in.
  class HostCall {
   public:
    HostCall(Gate& gate, std::atomic<std::uint64_t>& count) noexcept : gate_(gate) {
      count.fetch_add(1, std::memory_order_relaxed);
#if !defined(NDEBUG)
      check_no_lock_held();
#endif
      gate_.open();
    }
    ~HostCall() {
      gate_.close();
    }
    HostCall(const HostCall&) = delete;
    HostCall& operator=(const HostCall&) = delete;

   private:
    Gate& gate_;
  };

  // ---- Growth ----
  Result<Region*> grow(Gate& gate, std::size_t bytes, std::size_t alignment) noexcept;
  Result<Region*> grow_by(Gate& gate, std::size_t bytes, std::size_t alignment) noexcept;
  void give_idle_back(Gate& gate, std::size_t keep_bytes) noexcept;

  // ---- Frees ----
  [[gnu::noinline]] Status deallocate_slow(std::uintptr_t block) noexcept;
  [[gnu::noinline]] Status deallocate_placed(std::atomic<Heap*>& mine, Heap& heap,
                                             std::uintptr_t block) noexcept;
  [[gnu::noinline]] Status finish_placed(std::atomic<Heap*>& mine, Heap& heap,
                                         PoolTable::Entry& entry) noexcept;
  bool free_slot_live(Heap& mine, Slab& slab, std::uintptr_t block) noexcept;
  // The slab and slot that an address names, or none. Safe with any address.
  SlotRef find_slot(std::uintptr_t address) const noexcept {
    return Heap::find_slot(books_, registry_, grown_, address);
  }
  void trim_to_config() noexcept;
  Status deallocate_told(std::uintptr_t block, const std::size_t* size,
                         std::size_t alignment) noexcept;
  Status deallocate_nested(std::uintptr_t block, const SizePlan* plan) noexcept;
  Status defer_nested(Region& region, std::uintptr_t block, const SizePlan* plan) noexcept;
  Status free_block(Gate& gate, std::uintptr_t block, const SizePlan* plan) noexcept;
  Status free_own(Heap& heap, const SlotRef& found, std::uintptr_t block) noexcept;
  static void take_own(Heap& heap, const SlotRef& found, std::uintptr_t block) noexcept;
  Status free_orphan(std::uintptr_t block, bool* moved) noexcept;
  Status free_in_pool(Gate& gate, std::uintptr_t block, RegionId id) noexcept;
  // What was freed while it was pinned goes when the last pin does: a slot that is kRemote, a block
  // of pages that is marked freed and pinned.
  void free_unpinned_slot(Gate& gate, std::uintptr_t block) noexcept;
  Status free_remote(Heap& mine, Heap& owner, const SlotRef& found, std::uintptr_t block) noexcept;
  Status free_pages(Gate& gate, std::uintptr_t block) noexcept;
  void scrub_slot(const SlotRef& found, std::uintptr_t block) const noexcept;
  Taking take_slot(std::atomic<SlotState>* state, SlotState kept) noexcept {
    return exclave::take_slot(registry_, state, kept);
  }
  bool is_still(const SlotRef& found, std::uintptr_t block) const noexcept;
  bool take_remotely(const SlotRef& found, std::uintptr_t block, bool nested,
                     Status* freed) noexcept;
  // mine: counts the double frees that come to light.
  void send(Heap& mine, Heap& owner, Batch& batch) noexcept;
  void send_outboxes(Heap& heap) noexcept;
  void settle_abandoned(Heap& mine, Heap& abandoned) noexcept;
  Status report(Error error, std::uintptr_t block, std::size_t size) noexcept;
  void report_folded(Heap& heap) noexcept;

  // next_run, inside a gate.
  Result<RunInfo> run_at(std::uintptr_t address) noexcept;

  struct Found {
    std::size_t usable = 0;
    bool can_resize = false;  // in place: a run of pages that no pin holds
    Region* region = nullptr;
    // Read before all else: a block of a region that came to the same place meanwhile is not taken
    // for one of this region.
    RegionId id{};
  };
  // Errors: kForeignFree, kInteriorFree, kDoubleFree.
  Result<Found> find_live(std::uintptr_t block) const noexcept;
  Result<Found> look_up(std::uintptr_t block) noexcept;
  static Result<Found> live_slot(Region& region, RegionId id, const SlotRef& found) noexcept;
  static Result<Found> live_pages(Region& region, RegionId id, std::uintptr_t block) noexcept;
  bool fits_plan(const Found& found, const SizePlan& plan) const noexcept;

  // Errors: kPinned, kBusy, kNotFound; kWouldBlock while another thread's call is under way there.
  Status look_at_mappings_locked(Extent range, bool holes_ok, Region** first,
                                 Region** last) noexcept EXCLAVE_REQUIRES(registry_.lock());

  // ---- Pools and pins ----
  // What is told of a region whose book is given back.
  struct Farewell {
    void (*gone)(void* context, std::uint64_t region_id, std::uintptr_t base,
                 std::size_t size_bytes);
    void* context;
    RegionId id;
    Extent extent;
    void say() const noexcept {
      if (gone != nullptr) gone(context, id.value, extent.base, extent.size);
    }
  };
  // Gives the book back. The callback may be called once the gate is open.
  Farewell take_farewell(Region& region) noexcept;
  void settle_drains(Gate& gate) noexcept;
  Result<PinId> pin_mappings_locked(Extent pages) noexcept EXCLAVE_REQUIRES(registry_.lock());
  Result<PinId> pin_in_pool_locked(Region& region, Extent range) noexcept
      EXCLAVE_REQUIRES(registry_.lock());
  Status mark_pinned(Region& region, Extent range) noexcept;
  static bool unpin_slot(std::atomic<SlotState>* state) noexcept;
  Extent block_around(Region& region, std::uintptr_t address,
                      std::atomic<SlotState>** state) noexcept;

  // ---- Read by every call; written at creation ----
  // Blocks start at pages, so the first line of each page is where all their first words compete in
  // the cache: nothing that every call reads lies there.
  [[maybe_unused]] std::byte first_line_[kCacheLine];
  BookStore books_;
  PortTable port_;
  Config config_;
  Registry registry_;
  PagePool grown_;
  AttachedPools pools_;
  bool scrub_ = false;
  bool ending_ = false;  // destroy has begun: only its own thread calls
  // On lines that nothing else is on, for each thread writes its entry in every call (ports give
  // out slots eight apart). By thread slot + 1. none_: that thread has no heap yet; busy_: it is
  // inside a call.
  alignas(kCacheLine) std::atomic<Heap*> heaps_[kMaxThreadSlots + 1];
  // By thread slot: the heap that its thread was given; null: none. A signal handler may have been
  // the first to get one, after the interrupted call read none_ from the table and before it stored
  // busy_ there, and so the table forgot it. Only written while the table says busy_.
  Heap* homes_[kMaxThreadSlots] = {};

  // ---- Written now and then ----
  alignas(kCacheLine) SpinLock heap_lists_{LockRank::kPoolList};
  Heap* all_heaps_ EXCLAVE_GUARDED_BY(heap_lists_) = nullptr;
  Heap* idle_heaps_ EXCLAVE_GUARDED_BY(heap_lists_) = nullptr;
  Heap* forking_heap_ = nullptr;  // of the thread that holds every lock for its fork
  // The slabs of threads that ended.
  SpinLock orphans_lock_{LockRank::kHeap};
  Heap orphans_ EXCLAVE_GUARDED_BY(orphans_lock_);
  // Stand in for a thread's heap. Nothing is ever on their stacks, and no slab is theirs, so the
  // fast paths go their slow way.
  Heap none_;
  Heap busy_;
  Door no_door_;  // stays shut
  std::atomic<bool> has_orphans_{false};

  std::atomic<std::size_t> grown_bytes_{0};
  std::atomic<std::uint64_t> reserve_calls_{0}, release_calls_{0}, map_calls_{0}, unmap_calls_{0},
      protect_calls_{0}, remap_calls_{0}, advise_calls_{0};
  std::atomic<std::uint64_t> lies_{0}, misuses_{0};
};

}  // namespace exclave::core
