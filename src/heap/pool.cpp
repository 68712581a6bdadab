#include "heap/pool.hpp"

#include "access/copy.hpp"
#include "base/check.hpp"
#include "heap/free_steps.hpp"

namespace exclave {

// ---- Life ----

void Pool::open(Region& of, RegionId with) noexcept {
  region = &of;
  id = with;
  draining = false;
  drained_to = of.extent().base;
  door.open(with);
}

void Pool::close() noexcept {
  bury(shared.take_slabs_out(true));
  for (PoolHeap* heap = heaps_; heap != nullptr; heap = heap->next_in_pool)
    bury(heap->take_slabs_out(true));
  recall();
  pages.remove(*region);
  region = nullptr;
  id = {};
  draining = false;
}

// ---- Allocation ----

Result<std::uintptr_t> Pool::allocate(PoolHeap* mine, std::size_t size, const SizePlan& plan,
                                      bool reclaims) noexcept {
  if (!may_hold(*region, size)) return Error::kOutOfMemory;
  if (shared.wants_sweep()) {
    shared.forget_sweep();
    each_heap([](PoolHeap& heap) noexcept { heap.sweep_deferred(); });
  }
  std::uintptr_t block = place(mine, size, plan);
  if (block == 0 && reclaims && size <= region->extent().size && may_reclaim(mine)) {
    reclaim(mine);
    block = place(mine, size, plan);
  }
  if (block == 0) return Error::kOutOfMemory;
  return block;
}

// A slot, or pages where no slab has room; 0: neither.
std::uintptr_t Pool::place(PoolHeap* mine, std::size_t size, const SizePlan& plan) noexcept {
  const std::uint64_t boundary = boundary_of(*region);
  const SizeClass c = class_within(plan.size_class, boundary);
  if (c != kSizeClasses) {
    if (const std::uintptr_t block = take_slot(mine != nullptr ? *mine : shared, c); block != 0)
      return block;
  }
  const Result<PageRun> run = pages.allocate_block(pages_for(size), plan.align_order, boundary);
  return run.ok() ? run->extent.base : 0;
}

// Sees to it that the heap has a free slot of the class.
bool Pool::provide(PoolHeap& heap, SizeClass c) noexcept {
  if (heap.has_free(c) || heap.adopt_slow(shared, c)) return true;
  if (heap.add_slab(c, *region, marks_).ok()) return true;
  for (PoolHeap* other = heaps_; other != nullptr; other = other->next_in_pool) {
    if (other != &heap && heap.adopt_slow(*other, c)) return true;
  }
  return false;
}

std::uintptr_t Pool::take_slot(PoolHeap& heap, SizeClass c) noexcept {
  while (provide(heap, c)) {
    if (const std::uintptr_t block = heap.take(c); block != 0) return block;
  }
  return 0;
}

// Has something come together since the last time? A heap that was stopped by then has cached
// nothing since without the lock. So asking a full pool again and again is cheap.
bool Pool::may_reclaim(const PoolHeap* mine) noexcept {
  if (shared.keeps_some(false)) return true;
  for (const PoolHeap* heap = heaps_; heap != nullptr; heap = heap->next_in_pool) {
    const bool was_reclaimed = heap->is_marked() && heap->marked_at <= reclaimed_at_;
    if ((heap != mine && !was_reclaimed) || heap->keeps_some(heap == mine)) return true;
  }
  return false;
}

// The pool is short of memory: what threads keep cached goes back, and slabs that are free, then.
void Pool::reclaim(PoolHeap* mine) noexcept {
  mark();
  reclaimed_at_ = marks_;
  each_heap([](PoolHeap& heap) noexcept { heap.reclaim(); });
  bury(shared.take_slabs_out(false));
  for (PoolHeap* heap = heaps_; heap != nullptr; heap = heap->next_in_pool)
    bury(heap->take_slabs_out(false));
  if (mine != nullptr) settle(*mine);
}

// ---- Frees ----

SlotRef Pool::slot_at(std::uintptr_t address) const noexcept {
  Slab* const slab = Heap::find_slab_in(books_, *region, address);
  if (slab == nullptr || slab->owner.load(std::memory_order_relaxed) == 0) return {};
  return {slab, slab->slot_at(address)};
}

bool Pool::take_back(std::uintptr_t block, SlotState from) noexcept {
  const SlotRef found = slot_at(block);
  if (found.slot == Slab::kNoSlot) return false;
  PoolHeap& owner = *books_.at<PoolHeap>(found.slab->owner.load(std::memory_order_relaxed));
  return owner.take_back(*found.slab, &found.state(), from);
}

Status Pool::free(std::uintptr_t block, bool scrub) noexcept {
  const SlotRef found = slot_at(block);
  if (found.slab == nullptr) {
    bool kept = false;
    return free_run(pages, *region, block, scrub, &kept);
  }
  if (found.slot == Slab::kNoSlot) return Error::kInteriorFree;
  // Another thread, a nested free or a pin may come at any moment: who is first has it.
  const Taking taking = exclave::take_slot(registry_, &found.state(), SlotState::kPinnedFreed);
  if (taking != Taking::kTaken) return status_of(taking);
  if (scrub) detail::fill_zero_bytes(block, found.slab->slot_bytes.load(std::memory_order_relaxed));
  (void)take_back(block, SlotState::kRemote);
  return {};
}

bool Pool::free_to(PoolHeap& mine, std::uintptr_t block) noexcept {
  const SlotRef found = slot_at(block);
  if (found.slot == Slab::kNoSlot) return false;
  const SizeClass c = found.slab->size_class.load(std::memory_order_relaxed);
  if (!mine.has_room(c)) mine.flush_half(c, *region);
  const bool room = mine.has_room(c);
  std::atomic<SlotState>* const state = &found.state();
  SlotState expected = SlotState::kLive;
  if (!state->compare_exchange_strong(expected, room ? SlotState::kCached : SlotState::kRemote,
                                      std::memory_order_acq_rel)) {
    return false;
  }
  if (room) {
    mine.push_hint(c, block, state);
  } else {
    (void)take_back(block, SlotState::kRemote);
  }
  return true;
}

bool Pool::free_pages(std::uintptr_t block) noexcept {
  // Where a pin holds it, it stays, and that is nothing that is left over.
  bool kept = false;
  return is_aligned(block, kPageBytes) && pages.free_block(*region, block, &kept).ok();
}

// ---- What is live ----

namespace {

// kRemote, too: a stale free in a signal handler may have marked another holder's block for a
// moment (take_remotely).
bool is_held(SlotState state) noexcept {
  switch (state) {
    case SlotState::kLive:
    case SlotState::kRemote:
    case SlotState::kPinned:
    case SlotState::kPinnedFreed:
    case SlotState::kPinnedTaken:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::uintptr_t Pool::live_from(std::uintptr_t address) noexcept {
  const std::uintptr_t end = region->extent().end();
  for (std::uintptr_t at = address; at < end;) {
    const PagePool::Piece piece = pages.piece_at(*region, at);
    if (piece.slab == 0) {
      if (!piece.free) return piece.extent.base;
      at = piece.extent.end();
      continue;
    }
    const Slab& slab = *books_.at<Slab>(piece.slab);
    const Extent extent = slab.extent();
    const std::uint32_t slots = slab.slots.load(std::memory_order_relaxed);
    std::uint32_t slot =
        at == extent.base
            ? 0
            : static_cast<std::uint32_t>((at - extent.base) /
                                         slab.slot_bytes.load(std::memory_order_relaxed));
    if (slab.free_slots == slots) slot = slots;
    for (; slot < slots; ++slot) {
      // Sequentially consistent for pop_hint.
      if (is_held(slab.states()[slot].load(std::memory_order_seq_cst))) return slab.block_at(slot);
    }
    at = extent.end();
  }
  return 0;
}

// ---- What threads keep ----

void Pool::mark() noexcept {
  marks_ += 1;
  for (PoolHeap* heap = heaps_; heap != nullptr; heap = heap->next_in_pool) heap->mark(marks_);
}

void Pool::unmark() noexcept {
  for (PoolHeap* heap = heaps_; heap != nullptr; heap = heap->next_in_pool) {
    if (heap->marked_at == marks_) heap->settled();
  }
}

void Pool::join(PoolHeap& heap, Heap& home) noexcept {
  heap.next_in_pool = heaps_;
  heaps_ = &heap;
  heap.join(pages, home);
}

void Pool::settle(PoolHeap& heap) noexcept {
  heap.flush_hints(region);
  heap.settled();
  release_buried();
}

void Pool::recall() noexcept {
  for (PoolHeap* heap = heaps_; heap != nullptr; heap = heap->next_in_pool)
    heap->home->pools_wait.store(true, std::memory_order_relaxed);
}

void Pool::leave(PoolHeap& heap, RegionId with) noexcept {
  heap.flush_hints(is(with) ? region : nullptr);
  heap.hand_over_slow(shared);
  heap.drop_stacks();
  PoolHeap** link = &heaps_;
  while (*link != &heap) link = &(*link)->next_in_pool;
  *link = heap.next_in_pool;
  heap.mark(1);
  heap.set_label(0);
  release_buried();
}

bool Pool::validate() noexcept {
  bool sound = pages.validate() && region->extent().contains(drained_to);
  each_heap([&](PoolHeap& heap) noexcept { sound = sound && heap.validate(); });
  return sound;
}

// ---- Books of slabs that are gone ----

// Some thread may have a hint of one of its slots, or be looking at one: it joined before the slab
// went, and has not settled since.
bool Pool::may_be_hinted(Slab& slab) noexcept {
  for (PoolHeap* heap = heaps_; heap != nullptr; heap = heap->next_in_pool) {
    if (heap->is_marked() && PoolHeap::born(slab) < heap->marked_at) return true;
  }
  return false;
}

void Pool::bury(BookRef chain) noexcept {
  if (chain == 0) return;
  BookRef* last = &chain;
  while (*last != 0) last = &books_.at<Slab>(*last)->next;
  *last = buried_;
  buried_ = chain;
  release_buried();
}

void Pool::release_buried() noexcept {
  for (BookRef* link = &buried_; *link != 0;) {
    Slab& slab = *books_.at<Slab>(*link);
    if (may_be_hinted(slab)) {
      link = &slab.next;
      continue;
    }
    *link = slab.next;
    shared.release_book(slab);
  }
}

}  // namespace exclave
