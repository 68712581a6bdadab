// The life of a block. The fast paths come first; everything below them is where they end up now
// and then.
#include "access/copy.hpp"
#include "base/check.hpp"
#include "heap/core.hpp"
#include "region/verify.hpp"

namespace exclave::core {
namespace {

constexpr std::size_t kDefaultAlignment = 16;

// Errors: kInvalidArgument.
Result<SizePlan> plan_for(std::size_t size, std::size_t alignment) noexcept {
  if (size == 0 || size > PTRDIFF_MAX || !is_power_of_two(alignment) || alignment > kMaxAlignment) {
    return Error::kInvalidArgument;
  }
  SizePlan plan;
  if (size <= kMaxSmallBytes && alignment <= kMaxSmallAlignment) {
    plan.size_class =
        alignment <= kDefaultAlignment ? size_class_of(size) : size_class_of(size, alignment);
  }
  if (plan.size_class == kSizeClasses) {
    plan.pages = pages_for(size);
    plan.align_order = alignment <= kPageBytes ? 0 : floor_log2(alignment) - kPageShift;
  }
  return plan;
}

untrusted_bytes pointer(std::uintptr_t address) noexcept {
  return untrusted_bytes::unsafe_from_address(address);
}

}  // namespace

// ---- The fast paths ----

bool AllocatorCore::pop(SizeClass c, std::uintptr_t* block) noexcept {
  std::atomic<Heap*>& mine = this->mine();
  Heap* const heap = enter(mine);
  const bool done = heap->pop(c, block);
  leave(mine, heap);
  return done;
}

Result<untrusted_bytes> AllocatorCore::allocate(std::size_t size) noexcept {
  // size - 1: zero wraps, and goes the slow way to its error.
  if (EXCLAVE_LIKELY(size - 1 < small_fast_bytes_.load(std::memory_order_relaxed))) {
    std::uintptr_t block = 0;
    if (EXCLAVE_LIKELY(pop(size_class_fast(size), &block))) return pointer(block);
  }
  return allocate_slow(size);
}

Result<untrusted_bytes> AllocatorCore::allocate(std::size_t size, std::size_t alignment,
                                                Placement where) noexcept {
  if (is_power_of_two(alignment) && alignment <= kMaxSmallAlignment &&
      where.kind == Placement::Kind::kAnywhere) {
    if (alignment <= kDefaultAlignment) return allocate(size);
    const std::size_t rounded = align_up(size, alignment);
    // Zero, and what wraps when it is rounded up, come out as zero: rounded - 1 wraps again.
    if (rounded - 1 < small_fast_bytes_.load(std::memory_order_relaxed)) {
      const SizeClass c = size_class_fast(rounded);
      std::uintptr_t block = 0;
      // GCOVR_EXCL_BR_START: the class of a multiple of the alignment is one
      if (is_aligned(size_class_bytes(c), alignment) && pop(c, &block)) return pointer(block);
      // GCOVR_EXCL_BR_STOP
    } else if (size > kMaxSmallBytes) {
      return allocate_slow(size);  // runs of pages are aligned enough
    }
  }
  return allocate_slow(size, alignment, where);
}

Status AllocatorCore::deallocate(std::uintptr_t block) noexcept {
  std::atomic<Heap*>& mine = this->mine();
  Heap* const heap = enter(mine);
  const BookView books = books_.view();
  const BookRef found = grown_.slab_at(block);
  if (EXCLAVE_LIKELY(found != 0)) {
    Slab& slab = *books.at<Slab>(found);
    // What this thread's own heap owns nobody else changes, so the rest needs no second look.
    if (EXCLAVE_LIKELY(slab.owner.load(std::memory_order_acquire) == heap->fast_owner())) {
      std::atomic<SlotState>* state = nullptr;
      if (EXCLAVE_LIKELY(
              slab.find_state(block, &state) &&
              state->load(std::memory_order_relaxed) == SlotState::kLive &&
              heap->push(slab.size_class.load(std::memory_order_relaxed), block, state))) {
        leave(mine, heap);
        return {};
      }
    }
  }
  leave(mine, heap);
  return deallocate_slow(block);
}

// ---- What the fast paths leave over, in its most frequent forms ----

Result<untrusted_bytes> AllocatorCore::allocate_slow(std::size_t size) noexcept {
  if (size > kMaxSmallBytes && size <= kLongestClassedRun * kPageBytes &&
      small_fast_bytes_.load(std::memory_order_relaxed) != 0) {
    std::atomic<Heap*>& mine = this->mine();
    Heap* const heap = enter(mine);
    // No lock in a nested call.
    const std::uintptr_t block = is_own(heap) ? grown_.take_kept(pages_for(size)) : 0;
    leave(mine, heap);
    if (block != 0) return pointer(block);
  }
  return allocate_slow(size, kDefaultAlignment, Placement::anywhere());
}

Status AllocatorCore::deallocate_slow(std::uintptr_t block) noexcept {
  if (block == 0) return {};
  std::atomic<Heap*>& mine = this->mine();
  Heap* const heap = enter(mine);
  bool done = false;
  // A nested call may take no lock and touch no heap.
  if (is_own(heap) && !scrub_) {
    if (const BookRef mapped = grown_.slab_at(block); mapped != 0) {
      done = free_slot_live(*heap, *books_.at<Slab>(mapped), block);
    } else if (Region* const region = registry_.find(block); region != nullptr) {
      Slab* const slab = Heap::find_slab_in(books_, *region, block);
      done = slab != nullptr ? free_slot_live(*heap, *slab, block)
                             : is_aligned(block, kPageBytes) && grown_.keep_block(*region, block);
    }
  }
  leave(mine, heap);
  if (!done) return deallocate_told(block, nullptr, kDefaultAlignment);
  if (EXCLAVE_UNLIKELY(grown_.has_idle(config_.keep_free_bytes))) trim_to_config();
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
  if (theirs.shared() != nullptr) return false;
  return free_remote(mine, theirs, found, block).ok();
}

void AllocatorCore::trim_to_config() noexcept {
  Gate gate(*this);
  // GCOVR_EXCL_BR_START: no nested call comes here
  if (gate.status().ok()) give_idle_back(gate, config_.keep_free_bytes);
  // GCOVR_EXCL_BR_STOP
}

// ---- Allocation ----

Result<untrusted_bytes> AllocatorCore::allocate_slow(std::size_t size, std::size_t alignment,
                                                     Placement where) noexcept {
  for (bool rescued = false;; rescued = true) {
    Result<untrusted_bytes> block = Error::kOutOfMemory;
    {
      Gate gate(*this);
      if (!gate.status().ok()) return gate.status().error();
      block = allocate_placed(gate, size, alignment, where);
    }
    if (block.ok() || rescued || config_.rescue == nullptr) return block;
    switch (block.error()) {
      case Error::kOutOfMemory:
      case Error::kOutOfTrustedMemory:
      case Error::kQuota:
      case Error::kHostRefused:
      case Error::kHostLied:
        if (!config_.rescue(config_.rescue_context, size)) return block;
        break;
      default:
        return block;
    }
  }
}

Result<untrusted_bytes> AllocatorCore::allocate_placed(Gate& gate, std::size_t size,
                                                       std::size_t alignment,
                                                       Placement where) noexcept {
  const Result<SizePlan> plan = plan_for(size, alignment);
  if (!plan.ok()) return plan.error();
  switch (where.kind) {
    case Placement::Kind::kPool: {
      Pool* const pool = find_pool(where.pool);
      return pool != nullptr ? allocate_in(*pool, where.pool, size, *plan) : Error::kNotFound;
    }
    case Placement::Kind::kDevice:
      return allocate_on_device(where.device, size, *plan);
    case Placement::Kind::kAnywhere:
      break;
  }
  if (small_fast_bytes_.load(std::memory_order_relaxed) == 0) {
    const Result<untrusted_bytes> block = allocate_open(size, *plan);
    if (block.ok()) return block;
  }
  return plan->size_class != kSizeClasses ? allocate_small_slow(gate, plan->size_class)
                                          : allocate_pages(gate, *plan);
}

Result<untrusted_bytes> AllocatorCore::allocate_small_slow(Gate& gate, SizeClass c) noexcept {
  Heap& heap = gate.heap();
  for (;;) {
    if (std::uintptr_t block = 0; heap.pop(c, &block)) return pointer(block);
    if (heap.refill_slow(c) || adopt_orphan(heap, c)) continue;
    const Status added = heap.add_slab_slow(c, nullptr, false);
    if (added.ok()) continue;
    if (added.error() != Error::kOutOfMemory) return added.error();
    const Result<Region*> grown =
        grow(gate, slab_units(c, 0) * kUnitBytes, slab_units(c, 0) * kUnitBytes);
    if (grown.ok()) continue;
    // Last of all, what this thread keeps for other sizes.
    heap.flush_slow();
    if (heap.refill_slow(c) || heap.add_slab_slow(c, nullptr, true).ok()) continue;
    return grown.error();
  }
}

Result<untrusted_bytes> AllocatorCore::allocate_pages(Gate& gate, const SizePlan& plan) noexcept {
  // No region's books hold a longer block, so the host is not asked for one.
  if (plan.pages >> kUnitPayloadBits != 0) return Error::kOutOfMemory;
  std::uint64_t pages = round_run(plan.pages);
  Result<PageRun> run = grown_.allocate_block(pages, plan.align_order);
  // Others may take what was grown for us; not for ever.
  // GCOVR_EXCL_BR_START: others take it four times
  for (int tries = 0; !run.ok() && tries < 4; ++tries) {
    // GCOVR_EXCL_BR_STOP
    const Result<Region*> region =
        grow(gate, pages * kPageBytes, std::size_t{kPageBytes} << plan.align_order);
    if (region.ok()) {
      run = grown_.allocate_block_in(**region, pages, plan.align_order);
      continue;
    }
    gate.heap().flush_slow();
    run = grown_.allocate_block(pages, plan.align_order);
    if (run.ok()) break;
    if (pages == plan.pages) return region.error();
    pages = plan.pages;  // memory is short: to the page, then
    run = grown_.allocate_block(pages, plan.align_order);
  }
  if (!run.ok()) return run.error();  // GCOVR_EXCL_BR_LINE: as above
  return pointer(run->extent.base);
}

bool AllocatorCore::adopt_orphan(Heap& heap, SizeClass c) noexcept {
  if (!has_orphans_.load(std::memory_order_relaxed)) return false;
  LockGuard guard(orphans_.lock);
  if (orphans_.heap.wants_sweep()) orphans_.heap.fold_slow();
  const bool adopted = heap.adopt_slow(orphans_.heap, c);
  if (!orphans_.heap.has_slabs()) has_orphans_.store(false, std::memory_order_relaxed);
  return adopted;
}

// ---- Attached pools ----

Result<untrusted_bytes> AllocatorCore::allocate_in(Pool& pool, RegionId id, std::size_t size,
                                                   const SizePlan& plan) noexcept {
  LockGuard guard(pool.shared.lock);
  // GCOVR_EXCL_BR_START: detached before the lock
  if (pool.region == nullptr || pool.id != id || pool.draining) return Error::kNotFound;
  // GCOVR_EXCL_BR_STOP
  return allocate_in_locked(pool, size, plan);
}

Result<untrusted_bytes> AllocatorCore::allocate_in_locked(Pool& pool, std::size_t size,
                                                          const SizePlan& plan) noexcept {
  Region& region = *pool.region;
  if (region.largest_block != 0 && size > region.largest_block) return Error::kOutOfMemory;
  unsigned order = plan.align_order;
  SizeClass c = plan.size_class;
  if (region.boundary != 0) {
    // A power of two at its own alignment crosses no boundary that is at least as large.
    if (size > region.boundary) return Error::kOutOfMemory;
    if (c != kSizeClasses) {
      c = size_class_of(std::size_t{1} << ceil_log2(size_class_bytes(c)));
      // GCOVR_EXCL_BR_START: nor are classes above a boundary that the size is not above
      if (size_class_bytes(c) > region.boundary) c = kSizeClasses;
      // GCOVR_EXCL_BR_STOP
    }
    const unsigned whole = ceil_log2(pages_for(size));
    if (whole > order) order = whole;
  }
  Heap& heap = pool.shared.heap;
  if (heap.wants_sweep()) heap.fold_slow();
  pool.live -= heap.take_folded();

  std::uintptr_t block = 0;
  if (c != kSizeClasses) {
    if (!heap.pop(c, &block)) {
      if (!heap.refill_slow(c)) {
        bool added = heap.add_slab_slow(c, &region, true).ok();
        if (!added) {
          // What other classes keep may make room.
          heap.flush_slow();
          added = heap.add_slab_slow(c, &region, true).ok();
        }
        if (added) (void)heap.refill_slow(c);
      }
      (void)heap.pop(c, &block);
    }
  }
  if (block == 0) {
    Result<PageRun> run = pool.pages.allocate_block(pages_for(size), order);
    if (!run.ok()) {
      heap.flush_slow();
      run = pool.pages.allocate_block(pages_for(size), order);
    }
    if (!run.ok()) return run.error();
    block = run->extent.base;
  }
  pool.live += 1;
  return pointer(block);
}

// The pool that served last comes first, so full ones are not asked again and again.
Result<untrusted_bytes> AllocatorCore::allocate_on_device(DeviceTag tag, std::size_t size,
                                                          const SizePlan& plan) noexcept {
  LockGuard guard(pool_lists_);
  Device* const device = devices_.at_or_before(tag);
  if (tag == 0 || device == nullptr || device->tag != tag || device->first == nullptr)
    return Error::kNotFound;
  return allocate_first(device->first, &Pool::next, size, plan);
}

Result<untrusted_bytes> AllocatorCore::allocate_open(std::size_t size,
                                                     const SizePlan& plan) noexcept {
  LockGuard guard(pool_lists_);
  return allocate_first(open_, &Pool::next_open, size, plan);
}

Result<untrusted_bytes> AllocatorCore::allocate_first(Pool*& first, Pool* Pool::*next,
                                                      std::size_t size,
                                                      const SizePlan& plan) noexcept {
  for (Pool** link = &first; *link != nullptr; link = &((*link)->*next)) {
    Pool& pool = **link;
    const Result<untrusted_bytes> block = allocate_in(pool, pool.id, size, plan);
    if (!block.ok()) continue;
    *link = pool.*next;
    pool.*next = first;
    first = &pool;
    return block;
  }
  return Error::kOutOfMemory;
}

// ---- Zeroed, and moved ----

Result<untrusted_bytes> AllocatorCore::allocate_zeroed(std::size_t size, std::size_t alignment,
                                                       Placement where) noexcept {
  const Result<untrusted_bytes> block = allocate(size, alignment, where);
  // Slots are whole words, so the last word is ours, too.
  if (block.ok()) detail::fill_zero_bytes(block->address(), align_up(size, 8));
  return block;
}

Result<untrusted_bytes> AllocatorCore::reallocate(std::uintptr_t block, std::size_t size,
                                                  std::size_t alignment, Placement where) noexcept {
  if (block == 0) return allocate(size, alignment, where);
  const Result<SizePlan> plan = plan_for(size, alignment);
  if (!plan.ok()) return plan.error();
  const Result<Found> found = look_up(block);
  if (!found.ok()) return report(found.error(), block, size).error();
  const bool attached = !found->region->traits().grown;
  if (is_aligned(block, alignment)) {
    // In place: the size class is the same, or the tail pages can go.
    if (plan->size_class != kSizeClasses && found->usable == size_class_bytes(plan->size_class))
      return pointer(block);
    if (plan->size_class == kSizeClasses && found->usable >= plan->pages * kPageBytes) {
      std::uint64_t pages = attached ? plan->pages : round_run(plan->pages);
      // Memory was short when it was given, to the page (allocate_pages); so it stays.
      if (found->usable < pages * kPageBytes) pages = plan->pages;
      if (found->usable == pages * kPageBytes) return pointer(block);
      if (found->can_shrink) {
        Gate gate(*this);
        EXCLAVE_DCHECK(gate.status().ok());  // as a moment ago, in look_up
        PagePool* const pool =
            static_cast<PagePool*>(found->region->page_pool.load(std::memory_order_acquire));
        if (scrub_) {
          const std::size_t kept = pages * kPageBytes;
          detail::fill_zero_bytes(block + kept, found->usable - kept);
        }
        // GCOVR_EXCL_BR_START: a race
        if (pool != nullptr && pool->shrink_block(*found->region, block, pages).ok())
          return pointer(block);
        // GCOVR_EXCL_BR_STOP
      }
    }
  }
  // A block of an attached pool stays there unless another place is asked for.
  if (attached && where.kind == Placement::Kind::kAnywhere)
    where = Placement::in_pool(found->region->region_id());
  const Result<untrusted_bytes> moved = allocate(size, alignment, where);
  if (!moved.ok()) return moved;
  // Whole words: both ends are ours up to the next multiple of 8, and the tail needs no fences.
  const std::size_t words = align_up(size, 8);
  detail::copy_across_bytes(moved->address(), block, found->usable < words ? found->usable : words);
  if (const Status freed = deallocate(block); !freed.ok()) {
    (void)deallocate(moved->address());
    return freed.error();
  }
  return moved;
}

// ---- Growth ----

// Asks for more than is needed, so that the next blocks find it here; for just enough when that is
// refused.
Result<Region*> AllocatorCore::grow(Gate& gate, std::size_t bytes, std::size_t alignment) noexcept {
  bytes = align_up(bytes, kUnitBytes);
  std::size_t step = grown_bytes_.load(std::memory_order_relaxed);
  if (step < config_.grow_min_bytes) step = config_.grow_min_bytes;
  if (step > config_.grow_max_bytes) step = config_.grow_max_bytes;
  if (step > bytes) {
    const Result<Region*> region = grow_by(gate, step, alignment);
    if (region.ok()) return region;
  }
  const Result<Region*> region = grow_by(gate, bytes, alignment);
  if (region.error() != Error::kQuota || !grown_.has_idle(0)) return region;
  // What lies idle counts against the quota, and nothing in it was large enough.
  give_idle_back(gate, 0);
  return grow_by(gate, bytes, alignment);
}

Result<Region*> AllocatorCore::grow_by(Gate& gate, std::size_t bytes,
                                       std::size_t alignment) noexcept {
  std::size_t held = grown_bytes_.load(std::memory_order_relaxed);
  do {
    EXCLAVE_DCHECK(held <= config_.quota_bytes);  // it only grows here
    if (bytes > config_.quota_bytes - held) return Error::kQuota;
    // GCOVR_EXCL_BR_START: a race
  } while (!grown_bytes_.compare_exchange_weak(held, held + bytes, std::memory_order_relaxed));
  // GCOVR_EXCL_BR_STOP
  const auto refuse = [&](Error error) noexcept {
    grown_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
    return error;
  };

  // Large regions at the pagemap's grain need no leaves.
  constexpr std::size_t kGrain = std::size_t{4} << 20;
  if (alignment < kUnitBytes) alignment = kUnitBytes;
  if (bytes >= kGrain && alignment < kGrain) alignment = kGrain;
  HostReply reply{};
  {
    HostCall call(gate, reserve_calls_);
    reply = port_.host_reserve(port_.context, bytes, alignment);
  }
  const Result<Extent> range = verify_reply(reply, bytes, alignment, 0, registry_.enclave());
  if (!range.ok()) {
    if (range.error() == Error::kHostLied) count_lie();
    return refuse(range.error());
  }
  AttachOptions options;
  const Result<Region*> made = registry_.create(*range, options, true);
  Status inserted = made.ok() ? registry_.insert(**made) : Status(made.error());
  if (inserted.ok()) {
    inserted = grown_.add(**made);
    if (inserted.ok()) return *made;
    registry_.remove(**made);
  } else if (inserted.error() == Error::kOverlap) {
    // Someone's memory stands there: it is not for us to release.
    registry_.destroy(**made);
    count_lie();
    return refuse(Error::kHostLied);
  } else if (!made.ok() && registry_.overlaps(*range)) {
    count_lie();
    return refuse(Error::kHostLied);
  }
  if (made.ok()) registry_.destroy(**made);
  HostCall call(gate, release_calls_);
  // A host that does not take it back keeps it charged to the quota, as in give_idle_back.
  if (port_.host_release(port_.context, range->base, range->size) != 0) return inserted.error();
  return refuse(inserted.error());
}

void AllocatorCore::give_idle_back(Gate& gate, std::size_t keep_bytes) noexcept {
  while (grown_.has_idle(keep_bytes)) {
    Region* const region = grown_.take_idle(keep_bytes);
    if (region == nullptr) return;
    const Extent extent = region->extent();
    registry_.remove(*region);
    registry_.destroy(*region);
    HostCall call(gate, release_calls_);
    // A host that does not take it back keeps it charged to the quota: it still holds the memory.
    if (port_.host_release(port_.context, extent.base, extent.size) == 0) {
      grown_bytes_.fetch_sub(extent.size, std::memory_order_relaxed);
    }
  }
}

// ---- Frees ----

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
    const Result<SizePlan> made = plan_for(*size, alignment);
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
    if (grown_.has_idle(config_.keep_free_bytes)) give_idle_back(gate, config_.keep_free_bytes);
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
    if (owner.shared() == nullptr) return free_remote(gate.heap(), owner, found, block);
    bool moved = false;
    const Status freed = free_shared(gate, *owner.shared(), block, &moved);
    if (!moved) return freed;
  }
}

// A pinned block is kept until the last pin goes; anything else that is not live was free already.
Status AllocatorCore::free_unless_live(std::atomic<SlotState>* state) noexcept {
  SlotState expected = SlotState::kPinned;
  if (state->compare_exchange_strong(expected, SlotState::kPinnedFreed, std::memory_order_acq_rel))
    return {};
  return Error::kDoubleFree;
}

Status AllocatorCore::free_own(Heap& heap, const SlotRef& found, std::uintptr_t block) noexcept {
  std::atomic<SlotState>* const state = &found.slab->states()[found.slot];
  if (scrub_) {
    // Taken first, so that a second free at this moment is told, and scrubs nothing.
    SlotState expected = SlotState::kLive;
    if (!state->compare_exchange_strong(expected, SlotState::kRemote, std::memory_order_acq_rel))
      return free_unless_live(state);
    scrub_slot(found, block);
  } else if (state->load(std::memory_order_relaxed) != SlotState::kLive) {
    return free_unless_live(state);
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
  std::atomic<SlotState>* const state = &found.slab->states()[found.slot];
  const SizeClass c = found.slab->size_class.load(std::memory_order_relaxed);
  if (heap.push(c, block, state)) return;
  // Making room may give slabs back, but not this one: its slot is not free yet.
  heap.make_room_slow(c);
  if (!heap.push(c, block, state)) heap.give_back(*found.slab, state);
}

// What nested calls freed must not keep a draining pool.
void AllocatorCore::count_folded_locked(Pool& pool, Heap& heap) noexcept {
  if (pool.draining && heap.wants_sweep()) heap.fold_slow();
  pool.live -= heap.take_folded();
}

RegionId AllocatorCore::drained_locked(Pool& pool, Heap& heap) noexcept {
  count_folded_locked(pool, heap);
  return pool.draining && pool.live == 0 ? pool.id : RegionId{};
}

Status AllocatorCore::free_shared(Gate& gate, SharedHeap& shared, std::uintptr_t block,
                                  bool* moved) noexcept {
  Status freed;
  RegionId drained{};
  {
    LockGuard guard(shared.lock);
    // Verified again under the lock: the slab may have gone or changed hands.
    const SlotRef found = find_slot(block);
    // GCOVR_EXCL_BR_START: a race
    if (found.slot == Slab::kNoSlot ||
        // GCOVR_EXCL_BR_STOP
        found.slab->owner.load(std::memory_order_acquire) != shared.heap.self()) {
      *moved = true;
      return {};
    }
    freed = free_slot_locked(shared, found, block);
    if (shared.pool != nullptr) drained = drained_locked(*shared.pool, shared.heap);
  }
  if (drained) finish_drain(gate, *shared.pool, drained);
  return freed;
}

Status AllocatorCore::free_slot_locked(SharedHeap& shared, const SlotRef& found,
                                       std::uintptr_t block) noexcept {
  std::atomic<SlotState>* const state = &found.slab->states()[found.slot];
  // A nested free or a pin, which take no lock here, may come at any moment: who is first has it.
  SlotState expected = SlotState::kLive;
  if (!state->compare_exchange_strong(expected, SlotState::kRemote, std::memory_order_acq_rel))
    return free_unless_live(state);
  scrub_slot(found, block);
  if (shared.pool == nullptr) {
    // Orphaned slabs are adopted slab by slab, so none of their slots may stand on a stack.
    shared.heap.give_back(*found.slab, state);
  } else {
    take_own(shared.heap, found, block);
    shared.pool->live -= 1;
  }
  return {};
}

// Whoever frees a block that is free already may find its slab given back and cut anew before the
// state is marked. The mark holds the slab in place, so this second look is final. False: the mark,
// which stands on another block, is off again; unless the holder's own free came over it.
bool AllocatorCore::confirm_mark(const SlotRef& found, std::uintptr_t block) const noexcept {
  const SlotRef now = find_slot(block);
  // GCOVR_EXCL_BR_START: a race
  if (now.slab == found.slab && now.slot == found.slot) return true;
  // GCOVR_EXCL_BR_STOP
  // GCOVR_EXCL_START: as above
  SlotState expected = SlotState::kRemote;
  (void)found.slab->states()[found.slot].compare_exchange_strong(
      expected, SlotState::kLive, std::memory_order_acq_rel, std::memory_order_relaxed);
  return false;
  // GCOVR_EXCL_STOP
}

Status AllocatorCore::free_remote(Heap& mine, Heap& owner, const SlotRef& found,
                                  std::uintptr_t block) noexcept {
  std::atomic<SlotState>* const state = &found.slab->states()[found.slot];
  SlotState expected = SlotState::kLive;
  // Release pairs with the acquire in take_back: what the caller wrote about the block came before.
  // From here on the slot holds its slab in place.
  if (!state->compare_exchange_strong(expected, SlotState::kRemote, std::memory_order_acq_rel)) {
    return free_unless_live(state);
  }
  if (!confirm_mark(found, block)) return Error::kDoubleFree;  // GCOVR_EXCL_BR_LINE: a race
  scrub_slot(found, block);
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
      return Heap::defer(books_, *found.slab, state) ? Error::kNone : Error::kDoubleFree;
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
      if (found.slot == Slab::kNoSlot ||
          !Heap::defer(books_, *found.slab, &found.slab->states()[found.slot])) {
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
  const SlotRef found = find_slot(block);
  if (region == nullptr || found.slab == nullptr) return Error::kReentered;
  if (found.slot == Slab::kNoSlot) return Error::kInteriorFree;
  if (plan != nullptr &&
      !fits_plan({found.slab->slot_bytes.load(std::memory_order_relaxed), false, region}, *plan)) {
    return Error::kWrongSize;
  }
  std::atomic<SlotState>* const state = &found.slab->states()[found.slot];
  SlotState expected = SlotState::kLive;
  if (!state->compare_exchange_strong(expected, SlotState::kRemote, std::memory_order_acq_rel)) {
    return free_unless_live(state);
  }
  if (!confirm_mark(found, block)) return Error::kDoubleFree;  // GCOVR_EXCL_BR_LINE: a race
  scrub_slot(found, block);
  // GCOVR_EXCL_BR_START: a race
  if (!Heap::defer(books_, *found.slab, state)) return Error::kDoubleFree;
  // GCOVR_EXCL_BR_STOP
  Heap* const home = homes_[assigned_thread_slot()];
  if (home != nullptr && found.slab->owner.load(std::memory_order_relaxed) == home->self())
    home->note_nested_free(block);
  if (region->pool.load(std::memory_order_relaxed) != nullptr)
    nested_pool_frees_.store(true, std::memory_order_release);
  return {};
}

Status AllocatorCore::free_pages(Gate& gate, std::uintptr_t block) noexcept {
  Region* const region = registry_.find(block);
  if (region == nullptr || region->traits().role != Role::kPool) return Error::kForeignFree;
  Pool* const pool = static_cast<Pool*>(region->pool.load(std::memory_order_acquire));
  if (pool == nullptr) return free_grown_pages(*region, block);
  Status freed;
  RegionId drained{};
  {
    LockGuard guard(pool->shared.lock);
    if (pool->region != region) return Error::kForeignFree;  // GCOVR_EXCL_BR_LINE: a race
    freed = free_pages_locked(*pool, block);
    drained = drained_locked(*pool, pool->shared.heap);
  }
  if (drained) finish_drain(gate, *pool, drained);
  return freed;
}

Status AllocatorCore::free_grown_pages(Region& region, std::uintptr_t block) noexcept {
  bool kept = false;
  if (!scrub_) return grown_.free_block(region, block, &kept);
  // As long as it is scrubbed, it stands like one that a pin keeps: nobody has it.
  const Result<PageBlock> taken = grown_.take_block(region, block);
  if (!taken.ok()) return taken.error();
  if (taken->pinned) return {};  // the last unpin scrubs it
  detail::fill_zero_bytes(block, taken->extent.size);
  return grown_.free_unpinned_block(region, block);
}

Status AllocatorCore::free_pages_locked(Pool& pool, std::uintptr_t block) noexcept {
  bool kept = false;
  if (scrub_) {
    // It stands as long as the lock is held.
    const Result<PageBlock> live = pool.pages.find_block(*pool.region, block);
    if (!live.ok()) return live.error();
    if (!live->pinned) detail::fill_zero_bytes(block, live->extent.size);
  }
  const Status freed = pool.pages.free_block(*pool.region, block, &kept);
  if (freed.ok() && !kept) pool.live -= 1;
  return freed;
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
  Status freed;
  RegionId drained{};
  {
    LockGuard guard(pool->shared.lock);
    if (pool->id != id) return Error::kStale;  // GCOVR_EXCL_LINE: a race
    const SlotRef found = find_slot(block);
    if (found.slab != nullptr && found.slot == Slab::kNoSlot) return Error::kInteriorFree;
    freed = found.slab != nullptr ? free_slot_locked(pool->shared, found, block)
                                  : free_pages_locked(*pool, block);
    drained = drained_locked(*pool, pool->shared.heap);
  }
  if (drained) finish_drain(gate, *pool, drained);
  return freed;
}

void AllocatorCore::free_unpinned_slot(Gate& gate, Pool* pool, RegionId pool_id,
                                       std::uintptr_t block) noexcept {
  for (;;) {
    const SlotRef found = find_slot(block);
    if (found.slot == Slab::kNoSlot) return;  // GCOVR_EXCL_BR_LINE: a race
    const BookRef owner_ref = found.slab->owner.load(std::memory_order_acquire);
    if (owner_ref == 0) return;
    Heap& owner = *books_.at<Heap>(owner_ref);
    std::atomic<SlotState>* const state = &found.slab->states()[found.slot];
    SharedHeap* const shared = owner.shared();
    if ((shared != nullptr ? shared->pool : nullptr) != pool) return;  // GCOVR_EXCL_BR_LINE: a race
    if (shared == nullptr) {  // a thread's: the slot holds the slab in place
      if (owner_ref == gate.heap().self()) {
        owner.give_back(*found.slab, state);
      } else {
        (void)Heap::defer(books_, *found.slab, state);
      }
      return;
    }
    LockGuard guard(shared->lock);
    const SlotRef now = find_slot(block);
    // GCOVR_EXCL_BR_START: races
    if (now.slot == Slab::kNoSlot ||
        now.slab->owner.load(std::memory_order_acquire) != shared->heap.self()) {
      continue;  // GCOVR_EXCL_LINE: a race
    }
    // Not what stands there since the pool was revoked and the place attached again.
    if ((pool != nullptr && pool->id != pool_id) ||
        now.slab->states()[now.slot].load(std::memory_order_relaxed) != SlotState::kRemote) {
      return;  // GCOVR_EXCL_LINE: a race
    }
    // GCOVR_EXCL_BR_STOP
    shared->heap.give_back(*now.slab, &now.slab->states()[now.slot]);
    if (pool != nullptr) {
      pool->live -= 1;
      count_folded_locked(*pool, shared->heap);
    }
    return;
  }
}

void AllocatorCore::free_unpinned_pages(Pool* pool, RegionId pool_id,
                                        std::uintptr_t block) noexcept {
  Region* const region = registry_.find(block);
  if (region == nullptr) return;  // GCOVR_EXCL_BR_LINE: a race
  if (pool == nullptr) {
    (void)grown_.free_unpinned_block(*region, block);
    return;
  }
  LockGuard guard(pool->shared.lock);
  if (pool->region != region || pool->id != pool_id) return;          // GCOVR_EXCL_BR_LINE: a race
  if (!pool->pages.free_unpinned_block(*region, block).ok()) return;  // GCOVR_EXCL_BR_LINE: a race
  pool->live -= 1;
  count_folded_locked(*pool, pool->shared.heap);
}

Status AllocatorCore::deallocate_handle(std::uintptr_t block, RegionId region) noexcept {
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

// ---- What stands at an address ----

Result<AllocatorCore::Found> AllocatorCore::live_slot(Region& region,
                                                      const SlotRef& found) noexcept {
  if (found.slot == Slab::kNoSlot) return Error::kInteriorFree;
  const SlotState state = found.slab->states()[found.slot].load(std::memory_order_acquire);
  if (state != SlotState::kLive && state != SlotState::kPinned) return Error::kDoubleFree;
  return Found{found.slab->slot_bytes.load(std::memory_order_relaxed), false, &region};
}

Result<AllocatorCore::Found> AllocatorCore::live_pages(Region& region,
                                                       std::uintptr_t block) noexcept {
  PagePool* const pages = static_cast<PagePool*>(region.page_pool.load(std::memory_order_acquire));
  if (pages == nullptr) return Error::kForeignFree;
  const Result<PageBlock> run = pages->find_block(region, block);
  if (!run.ok()) return run.error();
  return Found{run->extent.size, !run->pinned, &region};
}

Result<AllocatorCore::Found> AllocatorCore::find_live(std::uintptr_t block) const noexcept {
  Region* const region = registry_.find(block);
  if (region == nullptr || region->unit_of(block) == nullptr) return Error::kForeignFree;
  const SlotRef found = find_slot(block);
  return found.slab != nullptr ? live_slot(*region, found) : live_pages(*region, block);
}

// Outside any gate: pages are looked up under a lock, so a nested call must be kept out; slots are
// not.
Result<AllocatorCore::Found> AllocatorCore::look_up(std::uintptr_t block) noexcept {
  Region* const region = registry_.find(block);
  if (region == nullptr || region->unit_of(block) == nullptr) return Error::kForeignFree;
  const SlotRef found = find_slot(block);
  if (found.slab != nullptr) return live_slot(*region, found);
  Gate gate(*this);
  if (!gate.status().ok()) return gate.status().error();
  return live_pages(*region, block);
}

// Is this what a request of the plan would have been given here?
bool AllocatorCore::fits_plan(const Found& found, const SizePlan& plan) const noexcept {
  if (plan.size_class == kSizeClasses) {
    const bool grown = found.region->traits().grown;
    return is_aligned(found.usable, kPageBytes) &&
           (grown ? may_serve_run(found.usable / kPageBytes, plan.pages)
                  : found.usable == plan.pages * kPageBytes);
  }
  const std::size_t bytes = size_class_bytes(plan.size_class);
  if (found.usable == bytes) return true;
  // Attached pools: powers of two under a boundary, or whole pages where no slab had room.
  if (found.region->traits().grown) return false;
  return (found.region->boundary != 0 && found.usable == std::size_t{1} << ceil_log2(bytes)) ||
         found.usable == pages_for(bytes) * kPageBytes;
}

Result<std::size_t> AllocatorCore::usable_size(std::uintptr_t block) noexcept {
  const Result<Found> found = look_up(block);
  if (!found.ok()) return found.error();
  return found->usable;
}

Result<RegionId> AllocatorCore::region_of(std::uintptr_t block) noexcept {
  const Result<Found> found = look_up(block);
  if (!found.ok()) return found.error();
  return found->region->region_id();
}

// ---- Reports ----

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
