// The end of a block: what the fast path of deallocate (core_blocks.cpp) leaves over, in its most
// frequent forms first.
#include "access/copy.hpp"
#include "base/check.hpp"
#include "heap/core.hpp"

namespace exclave::core {

Status AllocatorCore::deallocate_slow(std::uintptr_t block) noexcept {
  if (block == 0) return {};
  std::atomic<Heap*>& mine = this->mine();
  Heap* const heap = enter(mine);
  bool done = false;
  // A nested call may take no lock and touch no heap.
  if (is_own(heap) && !scrub_) {
    if (const BookRef mapped = grown_.slab_at(block); mapped != 0) {
      done = free_slot_live(*heap, *books_.at<Slab>(mapped), block);
    } else if (Region* const region = registry_.find(block); region == nullptr) {
    } else if (Pool* const pool = static_cast<Pool*>(region->pool.load(std::memory_order_acquire));
               pool != nullptr) {
      done = pools_.free_live(*heap, *pool, *region, block);
    } else {
      Slab* const slab = Heap::find_slab_in(books_, *region, block);
      done = slab != nullptr ? free_slot_live(*heap, *slab, block)
                             : is_aligned(block, kPageBytes) && grown_.keep_block(*region, block);
    }
  }
  leave(mine, heap);
  if (!done) return deallocate_told(block, nullptr, kDefaultAlignment);
  if (EXCLAVE_UNLIKELY(grown_.has_surplus(config_.keep_free_bytes))) trim_to_config();
  // What a handler freed in the middle of this, or of a call before, which had no gate either.
  if (EXCLAVE_UNLIKELY(pools_.drains_wait(*heap))) Gate settles(*this);
  return {};
}

// A live block of a thread's heap: of this one where it lies in a small slab, or finds the stack
// full; or of another.
bool AllocatorCore::free_slot_live(Heap& mine, Slab& slab, std::uintptr_t block) noexcept {
  const SlotRef found{&slab, slab.slot_at(block)};
  const BookRef owner = slab.owner.load(std::memory_order_acquire);
  if (found.slot == Slab::kNoSlot || owner == 0 ||
      slab.states()[found.slot].load(std::memory_order_relaxed) != SlotState::kLive) {
    return false;
  }
  if (owner == mine.self()) return free_own(mine, found, block).ok();
  Heap& theirs = *books_.at<Heap>(owner);
  return theirs.kind() == Heap::Kind::kThread && free_remote(mine, theirs, found, block).ok();
}

Status AllocatorCore::deallocate_sized(std::uintptr_t block, std::size_t size,
                                       std::size_t alignment) noexcept {
  return deallocate_told(block, &size, alignment);
}

// size: null when the caller did not tell it.
Status AllocatorCore::deallocate_told(std::uintptr_t block, const std::size_t* size,
                                      std::size_t alignment) noexcept {
  if (block == 0) return {};
  const std::size_t told_size = size != nullptr ? *size : 0;
  SizePlan plan;
  if (size != nullptr) {
    const Result<SizePlan> made = SizePlan::of(*size, alignment);
    if (!made.ok() || !is_aligned(block, alignment))
      return report(Error::kWrongSize, block, told_size);
    plan = *made;
  }
  Status freed;
  {
    Gate gate(*this);
    if (gate.status().error() == Error::kReentered) {
      freed = deallocate_nested(block, size != nullptr ? &plan : nullptr);
      return freed.ok() ? freed : report(freed.error(), block, told_size);
    }
    if (!gate.status().ok()) return gate.status();
    freed = free_block(gate, block, size != nullptr ? &plan : nullptr);
    if (grown_.has_surplus(config_.keep_free_bytes)) give_idle_back(gate, config_.keep_free_bytes);
  }
  return freed.ok() ? freed : report(freed.error(), block, told_size);
}

Status AllocatorCore::free_block(Gate& gate, std::uintptr_t block, const SizePlan* plan) noexcept {
  for (;;) {
    if (plan != nullptr) {
      const Result<Found> live = find_live(block);
      if (!live.ok()) return live.error();
      if (!fits_plan(*live, *plan)) return Error::kWrongSize;
    }
    const SlotRef found = find_slot(block);
    if (found.slab == nullptr) return free_pages(gate, block);
    if (found.slot == Slab::kNoSlot) return Error::kInteriorFree;
    const BookRef owner_ref = found.slab->owner.load(std::memory_order_acquire);
    if (owner_ref == 0) return Error::kForeignFree;
    if (owner_ref == gate.heap().self()) return free_own(gate.heap(), found, block);
    Heap& owner = *books_.at<Heap>(owner_ref);
    if (owner.kind() == Heap::Kind::kThread) return free_remote(gate.heap(), owner, found, block);
    if (owner.kind() == Heap::Kind::kPool) return free_pages(gate, block);
    bool moved = false;
    const Status freed = free_orphan(block, &moved);
    if (!moved) return freed;
  }
}

Status AllocatorCore::free_own(Heap& heap, const SlotRef& found, std::uintptr_t block) noexcept {
  std::atomic<SlotState>* const state = &found.state();
  if (scrub_ || state->load(std::memory_order_relaxed) != SlotState::kLive) {
    // Taken first, so that a second free at this moment is told, and scrubs nothing.
    const Taking taking = take_slot(state, SlotState::kPinnedFreed);
    if (taking != Taking::kTaken) return status_of(taking);
    scrub_slot(found, block);
  }
  take_own(heap, found, block);
  return {};
}

// Once the slot is taken from its caller, and before it can be anybody else's.
void AllocatorCore::scrub_slot(const SlotRef& found, std::uintptr_t block) const noexcept {
  if (scrub_)
    detail::fill_zero_bytes(block, found.slab->slot_bytes.load(std::memory_order_relaxed));
}

// A slot that was kLive, or is kRemote by now, from its caller to its owner.
void AllocatorCore::take_own(Heap& heap, const SlotRef& found, std::uintptr_t block) noexcept {
  std::atomic<SlotState>* const state = &found.state();
  const SizeClass c = found.slab->size_class.load(std::memory_order_relaxed);
  if (heap.push(c, block, state)) return;
  // Making room may give slabs back, but not this one: its slot is not free yet.
  heap.make_room_slow(c);
  if (!heap.push(c, block, state)) heap.give_back(*found.slab, state);
}

Status AllocatorCore::free_orphan(std::uintptr_t block, bool* moved) noexcept {
  LockGuard guard(orphans_lock_);
  // Verified again under the lock: the slab may have gone or changed hands.
  const SlotRef found = find_slot(block);
  // GCOVR_EXCL_BR_START: a race
  if (found.slot == Slab::kNoSlot ||
      // GCOVR_EXCL_BR_STOP
      found.slab->owner.load(std::memory_order_acquire) != orphans_.self()) {
    *moved = true;
    return {};
  }
  // A nested free or a pin, which take no lock here, may come at any moment: who is first has it.
  const Taking taking = take_slot(&found.state(), SlotState::kPinnedFreed);
  if (taking != Taking::kTaken) return status_of(taking);
  scrub_slot(found, block);
  // Slabs are adopted one by one, so none of their slots may stand on a stack.
  orphans_.give_back(*found.slab, &found.state());
  return {};
}

// Whoever frees a block that is free already may find its slab given back and cut anew before the
// state is marked. The mark holds the slab in place, so this second look is final.
bool AllocatorCore::is_still(const SlotRef& found, std::uintptr_t block) const noexcept {
  const SlotRef now = find_slot(block);
  return now.slab == found.slab && now.slot == found.slot;  // GCOVR_EXCL_BR_LINE: a race
}

// Without the owner's lock or his thread; nested: without any lock. True: the slot is kRemote and
// this thread's, scrubbed. False: *freed says all.
bool AllocatorCore::take_remotely(const SlotRef& found, std::uintptr_t block, bool nested,
                                  Status* freed) noexcept {
  // Each try but the first two takes a pin or an unpin that another thread makes at the same time.
  constexpr unsigned kNestedTries = 16;
  std::atomic<SlotState>* const state = &found.state();
  // From here on the slot holds its slab in place.
  const Taking taking = nested ? try_take(state, SlotState::kPinnedTaken, kNestedTries)
                               : take_slot(state, SlotState::kPinnedTaken);
  *freed = status_of(taking);
  if (!freed->ok()) return false;
  const bool still = is_still(found, block);
  // GCOVR_EXCL_BR_START: races, which the stepped tests stop at
  if (!still) *freed = Error::kDoubleFree;
  if (taking == Taking::kKept) {
    SlotState expected = SlotState::kPinnedTaken;
    // It fails when the last pin has gone meanwhile: then the slot is kRemote, and this thread's.
    if (state->compare_exchange_strong(expected,
                                       still ? SlotState::kPinnedFreed : SlotState::kPinned,
                                       std::memory_order_acq_rel)) {
      return false;
    }
  }
  if (still) {
    scrub_slot(found, block);
    return true;
  }
  // GCOVR_EXCL_BR_STOP
  // GCOVR_EXCL_START: as above
  // The mark, which stands on another block, is off again; unless its holder's own free came over.
  SlotState expected = SlotState::kRemote;
  (void)state->compare_exchange_strong(expected, SlotState::kLive, std::memory_order_acq_rel,
                                       std::memory_order_relaxed);
  return false;
  // GCOVR_EXCL_STOP
}

Status AllocatorCore::free_remote(Heap& mine, Heap& owner, const SlotRef& found,
                                  std::uintptr_t block) noexcept {
  Status freed;
  if (!take_remotely(found, block, false, &freed)) return freed;
  Heap::Outbox& box = mine.outbox_for(owner.self());
  if (box.batch != nullptr && box.owner != owner.self()) {
    send(mine, *books_.at<Heap>(box.owner), *box.batch);
    box.batch = nullptr;
  }
  if (box.batch == nullptr) {
    box.batch = static_cast<Batch*>(books_.allocate(BookKind::kPlain, sizeof(Batch)));
    box.owner = owner.self();
    if (box.batch == nullptr)
      // GCOVR_EXCL_BR_START: a race
      return Heap::defer(books_, *found.slab, &found.state()) ? Error::kNone : Error::kDoubleFree;
    // GCOVR_EXCL_BR_STOP
  }
  box.batch->blocks[box.batch->count++] = block;
  if (box.batch->count == Batch::kBlocks) {
    send(mine, owner, *box.batch);
    box.batch = nullptr;
  }
  return {};
}

void AllocatorCore::send(Heap& mine, Heap& owner, Batch& batch) noexcept {
  owner.post(batch, batch);
  // The owner's thread may have ended meanwhile; then whoever sees it settles what lies there.
  if (!owner.active()) settle_abandoned(mine, owner);
}

void AllocatorCore::send_outboxes(Heap& heap) noexcept {
  for (unsigned i = 0; i < Heap::kOutboxes; ++i) {
    Heap::Outbox& box = heap.outboxes()[i];
    if (box.batch != nullptr) send(heap, *books_.at<Heap>(box.owner), *box.batch);
    box = {};
  }
}

// What was posted to a heap without a thread: its slabs have other owners by now, who find the
// slots by sweeping. A slot that is not kRemote any more was freed by its owner at the same moment.
void AllocatorCore::settle_abandoned(Heap& mine, Heap& abandoned) noexcept {
  for (Batch* batch = abandoned.take_inbox(); batch != nullptr;) {
    Batch* const next = batch->next;
    for (std::uint32_t i = 0; i < batch->count; ++i) {
      const SlotRef found = find_slot(batch->blocks[i]);
      // GCOVR_EXCL_BR_START: a race
      if (found.slot == Slab::kNoSlot || !Heap::defer(books_, *found.slab, &found.state())) {
        mine.count_double_free(batch->blocks[i]);
      }
      // GCOVR_EXCL_BR_STOP
    }
    books_.release(BookKind::kPlain, batch, sizeof(Batch));
    batch = next;
  }
}

// In a signal handler, inside another call of this thread: no lock, no list, only the state byte.
Status AllocatorCore::deallocate_nested(std::uintptr_t block, const SizePlan* plan) noexcept {
  Region* const region = registry_.find(block);
  if (region == nullptr) return Error::kReentered;
  const RegionId id{region->id.load(std::memory_order_acquire)};
  Pool* const pool = static_cast<Pool*>(region->pool.load(std::memory_order_acquire));
  if (pool == nullptr) return defer_nested(*region, block, plan);
  // Behind the door: the pool's lock may be what the interrupted call holds.
  if (!pool->door.enter(id)) return Error::kReentered;  // GCOVR_EXCL_BR_LINE: a race
  const Status freed = defer_nested(*region, block, plan);
  pool->door.leave();
  if (freed.ok()) pools_.note_deferred(*pool);
  return freed;
}

Status AllocatorCore::defer_nested(Region& region, std::uintptr_t block,
                                   const SizePlan* plan) noexcept {
  const SlotRef found = find_slot(block);
  if (found.slab == nullptr) return Error::kReentered;
  if (found.slot == Slab::kNoSlot) return Error::kInteriorFree;
  if (plan != nullptr &&
      !fits_plan({found.slab->slot_bytes.load(std::memory_order_relaxed), false, &region, {}},
                 *plan)) {
    return Error::kWrongSize;
  }
  Status freed;
  if (!take_remotely(found, block, true, &freed)) return freed;
  // GCOVR_EXCL_BR_START: a race
  if (!Heap::defer(books_, *found.slab, &found.state())) return Error::kDoubleFree;
  // GCOVR_EXCL_BR_STOP
  Heap* const home = homes_[assigned_thread_slot()];
  if (home != nullptr && found.slab->owner.load(std::memory_order_relaxed) == home->self())
    home->note_nested_free(block);
  return {};
}

// Pages, or anything of a pool.
Status AllocatorCore::free_pages(Gate& gate, std::uintptr_t block) noexcept {
  Region* const region = registry_.find(block);
  if (region == nullptr || region->traits().role != Role::kPool) return Error::kForeignFree;
  // Acquire: what is read after the id is no older.
  const RegionId id{region->id.load(std::memory_order_acquire)};
  Pool* const pool = static_cast<Pool*>(region->pool.load(std::memory_order_acquire));
  if (pool == nullptr) {
    bool kept = false;
    return free_run(grown_, *region, block, scrub_, &kept);
  }
  const Status freed = pools_.free(gate.heap(), *pool, id, block);
  return freed.error() == Error::kStale ? Error::kForeignFree : freed;
}

// A block of the pool that has this id, and of no other that stands in its place by now.
Status AllocatorCore::free_in_pool(Gate& gate, std::uintptr_t block, RegionId id) noexcept {
  // GCOVR_EXCL_START: a race
  Region* const region = registry_.find(block);
  Pool* const pool = region != nullptr
                         ? static_cast<Pool*>(region->pool.load(std::memory_order_acquire))
                         : nullptr;
  if (pool == nullptr) return Error::kStale;
  // GCOVR_EXCL_STOP
  return pools_.free(gate.heap(), *pool, id, block);
}

void AllocatorCore::free_unpinned_slot(Gate& gate, std::uintptr_t block) noexcept {
  for (;;) {
    const SlotRef found = find_slot(block);
    if (found.slot == Slab::kNoSlot) return;  // GCOVR_EXCL_BR_LINE: a race
    const BookRef owner_ref = found.slab->owner.load(std::memory_order_acquire);
    if (owner_ref == 0) return;
    Heap& owner = *books_.at<Heap>(owner_ref);
    std::atomic<SlotState>* const state = &found.state();
    if (owner.kind() == Heap::Kind::kPool) return;  // GCOVR_EXCL_BR_LINE: a race
    if (owner.kind() == Heap::Kind::kThread) {      // the slot holds the slab in place
      if (owner_ref == gate.heap().self()) {
        owner.give_back(*found.slab, state);
      } else {
        (void)Heap::defer(books_, *found.slab, state);
      }
      return;
    }
    LockGuard guard(orphans_lock_);
    const SlotRef now = find_slot(block);
    // GCOVR_EXCL_BR_START: races
    if (now.slot == Slab::kNoSlot ||
        now.slab->owner.load(std::memory_order_acquire) != orphans_.self()) {
      continue;  // GCOVR_EXCL_LINE: a race
    }
    if (now.state().load(std::memory_order_relaxed) != SlotState::kRemote) return;
    // GCOVR_EXCL_BR_STOP
    orphans_.give_back(*now.slab, &now.state());
    return;
  }
}

Status AllocatorCore::deallocate_handle(std::uintptr_t block, RegionId region) noexcept {
  std::atomic<Heap*>& mine = this->mine();
  Heap* const heap = enter(mine);
  if (PoolTable* const table = heap->pools; table != nullptr) {
    PoolTable::Entry* const entry = table->of(region);
    if (entry != nullptr && entry->extent.contains(block)) {
      const AttachedPools::Given given = pools_.give(*entry, block);
      if (given == AttachedPools::Given::kFinish) return finish_placed(mine, *heap, *entry);
      if (given == AttachedPools::Given::kDone) {
        leave(mine, heap);
        return {};
      }
    }
  }
  leave(mine, heap);
  const Result<RegionInfo> info = query(block, 1);
  if (info.error() == Error::kReentered) return Error::kReentered;
  if (!info.ok() || info->id != region) return Error::kStale;
  if (info->grown || info->role != Role::kPool) return deallocate(block);
  Status freed;
  {
    Gate gate(*this);
    if (gate.status().error() == Error::kReentered) {
      freed = deallocate_nested(block, nullptr);
    } else if (gate.status().ok()) {
      freed = free_in_pool(gate, block, region);
    } else {
      freed = gate.status();
    }
  }
  return freed.ok() ? freed : report(freed.error(), block, 0);
}

Status AllocatorCore::report(Error error, std::uintptr_t block, std::size_t size) noexcept {
  switch (error) {
    case Error::kDoubleFree:
    case Error::kInteriorFree:
    case Error::kForeignFree:
    case Error::kWrongSize:
      misuses_.fetch_add(1, std::memory_order_relaxed);
      if (config_.misuse != nullptr) {
        config_.misuse(config_.misuse_context, static_cast<std::int32_t>(error), block, size);
      }
      break;
    default:
      break;
  }
  return error;
}

}  // namespace exclave::core
