// The life of a block. The fast paths come first; everything below them is where they end up now
// and then.
#include "access/copy.hpp"
#include "base/check.hpp"
#include "heap/core.hpp"

namespace exclave::core {
namespace {

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
  if (EXCLAVE_LIKELY(size - 1 < kMaxSmallBytes)) {
    std::uintptr_t block = 0;
    if (EXCLAVE_LIKELY(pop(size_class_fast(size), &block))) return pointer(block);
  }
  return allocate_slow(size);
}

Result<untrusted_bytes> AllocatorCore::allocate(std::size_t size, std::size_t alignment,
                                                Placement where) noexcept {
  if (where.kind != Placement::Kind::kAnywhere) {
    if (EXCLAVE_LIKELY(alignment == kDefaultAlignment)) {
      std::atomic<Heap*>& mine = this->mine();
      Heap* const heap = enter(mine);
      PoolTable::Entry* entry = nullptr;
      std::uintptr_t block = 0;
      const PoolHeap::Popped popped = AttachedPools::take(*heap, size, where, &entry, &block);
      if (EXCLAVE_LIKELY(popped == PoolHeap::Popped::kBlock)) {
        leave(mine, heap);
        return pointer(block);
      }
      return allocate_placed(mine, *heap, size, where,
                             popped == PoolHeap::Popped::kAsk ? entry : nullptr, block);
    }
  } else if (is_power_of_two(alignment) && alignment <= kMaxSmallAlignment) {
    if (alignment <= kDefaultAlignment) return allocate(size);
    const std::size_t rounded = align_up(size, alignment);
    // Zero, and what wraps when it is rounded up, come out as zero: rounded - 1 wraps again.
    if (rounded - 1 < kMaxSmallBytes) {
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
  } else if (heap->pools != nullptr) {
    return deallocate_placed(mine, *heap, block);
  }
  leave(mine, heap);
  return deallocate_slow(block);
}

// A block that some attached pool is to serve. Inside a call, which ends here.
Result<untrusted_bytes> AllocatorCore::allocate_placed(std::atomic<Heap*>& mine, Heap& heap,
                                                       std::size_t size, Placement where,
                                                       PoolTable::Entry* asks,
                                                       std::uintptr_t block) noexcept {
  RegionId id{};
  block = asks != nullptr ? pools_.ask(*asks, block) : 0;
  if (block == 0) block = pools_.take_slow(heap, size, where, &id);
  leave(mine, &heap);
  if (pools_.drains_wait(heap)) Gate settles(*this);
  if (block != 0) return pointer(block);
  return allocate_slow(size, kDefaultAlignment, where);
}

// The same from what this thread keeps, or nothing.
PlacedBlock AllocatorCore::take_placed(std::size_t size, Placement where) noexcept {
  std::atomic<Heap*>& mine = this->mine();
  Heap* const heap = enter(mine);
  RegionId id{};
  const std::uintptr_t block = pools_.take_slow(*heap, size, where, &id);
  leave(mine, heap);
  if (pools_.drains_wait(*heap)) Gate settles(*this);
  return {pointer(block), id};
}

// A block of no grown slab, by a thread that uses attached pools. Inside a call, which ends here.
Status AllocatorCore::deallocate_placed(std::atomic<Heap*>& mine, Heap& heap,
                                        std::uintptr_t block) noexcept {
  PoolTable::Entry* const entry = heap.pools->holding(block);
  const AttachedPools::Given given =
      EXCLAVE_LIKELY(entry != nullptr) ? pools_.give(*entry, block) : AttachedPools::Given::kNot;
  if (EXCLAVE_LIKELY(given == AttachedPools::Given::kDone)) {
    leave(mine, &heap);
    return {};
  }
  if (given == AttachedPools::Given::kFinish) return finish_placed(mine, heap, *entry);
  leave(mine, &heap);
  return deallocate_slow(block);
}

Status AllocatorCore::finish_placed(std::atomic<Heap*>& mine, Heap& heap,
                                    PoolTable::Entry& entry) noexcept {
  pools_.finish_give(heap, entry);
  leave(mine, &heap);
  if (pools_.drains_wait(heap)) Gate settles(*this);
  return {};
}

// ---- Allocation: what the fast path leaves over, in its most frequent form first ----

std::uintptr_t AllocatorCore::take_kept(std::size_t size) noexcept {
  if (size <= kMaxSmallBytes || size > kLongestClassedRun * kPageBytes) return 0;
  std::atomic<Heap*>& mine = this->mine();
  Heap* const heap = enter(mine);
  // No lock in a nested call.
  const std::uintptr_t block = is_own(heap) ? grown_.take_kept(pages_for(size)) : 0;
  leave(mine, heap);
  return block;
}

Result<untrusted_bytes> AllocatorCore::allocate_slow(std::size_t size) noexcept {
  std::uintptr_t block = take_kept(size);
  if (block == 0 && pools_.has_open())
    block = take_placed(size, Placement::anywhere()).start.address();
  if (block != 0) return pointer(block);
  return allocate_slow(size, kDefaultAlignment, Placement::anywhere());
}

Result<untrusted_bytes> AllocatorCore::allocate_slow(std::size_t size, std::size_t alignment,
                                                     Placement where) noexcept {
  const Result<PlacedBlock> block = place_slow(size, alignment, where);
  if (!block.ok()) return block.error();
  return block->start;
}

Result<PlacedBlock> AllocatorCore::allocate_handle(std::size_t size, std::size_t alignment,
                                                   Placement where) noexcept {
  Result<PlacedBlock> block = place(size, alignment, where);
  // Grown memory is not revoked, and the block holds its region in place.
  if (block.ok() && !block->region)
    block->region = registry_.find(block->start.address())->region_id();
  return block;
}

Result<PlacedBlock> AllocatorCore::place(std::size_t size, std::size_t alignment,
                                         Placement where) noexcept {
  // As allocate does.
  const bool anywhere = where.kind == Placement::Kind::kAnywhere;
  std::uintptr_t block = 0;
  if (anywhere && alignment == kDefaultAlignment) {
    if (size - 1 >= kMaxSmallBytes) {
      block = take_kept(size);
    } else {
      (void)pop(size_class_fast(size), &block);
    }
  } else if (!anywhere && alignment == kDefaultAlignment) {
    const PlacedBlock placed = take_placed(size, where);
    if (placed.region) return placed;
  }
  if (block != 0) return PlacedBlock{pointer(block), {}};
  return place_slow(size, alignment, where);
}

Result<PlacedBlock> AllocatorCore::place_slow(std::size_t size, std::size_t alignment,
                                              Placement where) noexcept {
  for (bool rescued = false;; rescued = true) {
    Result<PlacedBlock> block = Error::kOutOfMemory;
    {
      Gate gate(*this);
      if (!gate.status().ok()) return gate.status().error();
      block = place_gated(gate, size, alignment, where);
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

Result<PlacedBlock> AllocatorCore::place_gated(Gate& gate, std::size_t size, std::size_t alignment,
                                               Placement where) noexcept {
  const Result<SizePlan> plan = SizePlan::of(size, alignment);
  if (!plan.ok()) return plan.error();
  if (where.kind == Placement::Kind::kPool || where.kind == Placement::Kind::kDevice)
    return pools_.allocate(gate.heap(), size, *plan, where, true);
  if (pools_.has_open()) {
    const Result<PlacedBlock> block =
        pools_.allocate(gate.heap(), size, *plan, Placement::anywhere(), false);
    if (block.ok()) return block;
  }
  const Result<untrusted_bytes> block = plan->size_class != kSizeClasses
                                            ? allocate_small_slow(gate, plan->size_class)
                                            : allocate_pages(gate, *plan);
  if (block.ok()) return PlacedBlock{*block, {}};
  // At last, what other threads keep of them.
  if (pools_.has_open()) {
    const Result<PlacedBlock> open =
        pools_.allocate(gate.heap(), size, *plan, Placement::anywhere(), true);
    if (open.ok()) return open;
  }
  return block.error();
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
  // A quota is used up to the page, but for the first eighth of it.
  const bool scarce = grown_bytes_.load(std::memory_order_relaxed) >= config_.quota_bytes / 8;
  std::uint64_t pages = scarce ? plan.pages : round_run(plan.pages);
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
  LockGuard guard(orphans_lock_);
  if (orphans_.wants_sweep()) orphans_.fold_slow();
  const bool adopted = heap.adopt_slow(orphans_, c);
  if (!orphans_.has_slabs()) has_orphans_.store(false, std::memory_order_relaxed);
  return adopted;
}

// ---- Zeroed, and moved ----

Result<untrusted_bytes> AllocatorCore::allocate_zeroed(std::size_t size, std::size_t alignment,
                                                       Placement where) noexcept {
  const Result<PlacedBlock> block = place(size, alignment, where);
  if (!block.ok()) return block.error();
  // Slots are whole words, so the last word is ours, too.
  if (const Status zeroed = zero_block(*block, align_up(size, 8)); !zeroed.ok()) {
    (void)free_placed(*block);
    return zeroed.error();
  }
  return block->start;
}

Result<untrusted_bytes> AllocatorCore::reallocate(std::uintptr_t block, std::size_t size,
                                                  std::size_t alignment, Placement where) noexcept {
  if (block == 0) return allocate(size, alignment, where);
  const Result<SizePlan> plan = SizePlan::of(size, alignment);
  if (!plan.ok()) return plan.error();
  const Result<Found> found = look_up(block);
  if (!found.ok()) return report(found.error(), block, size).error();
  const bool attached = !found->region->traits().grown;
  std::uint64_t boundary = kNoBoundary;
  if (is_aligned(block, alignment) && may_stay(*found, size, where, &boundary) &&
      resize_in_place(*found, block, *plan, boundary)) {
    return pointer(block);
  }
  // A block of an attached pool stays there unless another place is asked for.
  const PlacedBlock old{pointer(block), attached ? found->id : RegionId{}};
  if (attached && where.kind == Placement::Kind::kAnywhere) where = Placement::in_pool(old.region);
  const Result<PlacedBlock> moved = place(size, alignment, where);
  if (!moved.ok()) return moved.error();
  // Whole words: both ends are ours up to the next multiple of 8, and the tail needs no fences.
  const std::size_t words = align_up(size, 8);
  Status done = copy_block(*moved, old, found->usable < words ? found->usable : words);
  if (done.ok()) done = free_placed(old);
  if (!done.ok()) {
    (void)free_placed(*moved);
    return done.error();
  }
  return moved->start;
}

Status AllocatorCore::resize_in_place(std::uintptr_t block, std::size_t size) noexcept {
  const Result<SizePlan> plan = SizePlan::of(size, kDefaultAlignment);
  if (!plan.ok()) return plan.error();
  const Result<Found> found = look_up(block);
  if (!found.ok()) return found.error();
  std::uint64_t boundary = kNoBoundary;
  return may_stay(*found, size, Placement::anywhere(), &boundary) &&
                 resize_in_place(*found, block, *plan, boundary)
             ? Error::kNone
             : Error::kOutOfMemory;
}

// Would a block of that size be placed in the region where this one lies? *boundary: the region's.
bool AllocatorCore::may_stay(const Found& found, std::size_t size, Placement where,
                             std::uint64_t* boundary) noexcept {
  Pool* const pool = static_cast<Pool*>(found.region->pool.load(std::memory_order_acquire));
  if (pool == nullptr) return where.kind == Placement::Kind::kAnywhere;
  if (where.kind == Placement::Kind::kPool && where.pool != found.id) return false;
  // The first gate, where it is a slot: look_up needs none for these.
  Gate gate(*this);
  if (!gate.status().ok()) return false;
  LockGuard guard(pool->lock);
  if (pool->id != found.id) return false;  // GCOVR_EXCL_BR_LINE: a race
  const Region& region = *pool->region;
  *boundary = boundary_of(region);
  if (!may_hold(region, size)) return false;
  return where.kind != Placement::Kind::kDevice ||
         (where.device != 0 && where.device == region.traits().device);
}

// The size class is the same; or pages go, or join, at its end.
bool AllocatorCore::resize_in_place(const Found& found, std::uintptr_t block, const SizePlan& plan,
                                    std::uint64_t boundary) noexcept {
  if (plan.size_class != kSizeClasses) {
    // Pages stand in for a slot where no slab has room.
    return found.usable == size_class_bytes(plan.size_class) ||
           found.usable == size_class_bytes(class_within(plan.size_class, boundary));
  }
  const std::uint64_t have = found.usable / kPageBytes;
  std::uint64_t pages = found.region->traits().grown ? round_run(plan.pages) : plan.pages;
  // Memory was short when it was given, to the page (allocate_pages); so it stays.
  if (plan.pages <= have && have < pages) pages = plan.pages;
  if (found.usable == pages * kPageBytes) return true;
  if (!found.can_resize) return false;
  if (resize_pages(found, block, pages, boundary)) return true;
  return pages != plan.pages && resize_pages(found, block, plan.pages, boundary);
}

// False: there is no room; or somebody pinned it a moment ago, or frees it, which the caller is
// told of when it moves.
bool AllocatorCore::resize_pages(const Found& found, std::uintptr_t block, std::uint64_t pages,
                                 std::uint64_t boundary) noexcept {
  Gate gate(*this);
  EXCLAVE_DCHECK(gate.status().ok());  // as a moment ago, in look_up
  Region& region = *found.region;
  const bool grows = found.usable < pages * kPageBytes;
  Pool* const pool = static_cast<Pool*>(region.pool.load(std::memory_order_acquire));
  if (pool == nullptr) {
    if (region.region_id() != found.id) return false;  // GCOVR_EXCL_BR_LINE: a race
    return grows ? grown_.grow_block(region, block, pages).ok()
                 : cut_pages(grown_, region, block, pages);
  }
  LockGuard guard(pool->lock);
  if (pool->id != found.id) return false;  // GCOVR_EXCL_BR_LINE: a race
  if (!grows) return cut_pages(pool->pages, region, block, pages);
  // A pool that drains gives out nothing any more.
  return !pool->draining && pool->pages.grow_block(region, block, pages, boundary).ok();
}

bool AllocatorCore::cut_pages(PagePool& from, Region& region, std::uintptr_t block,
                              std::uint64_t pages) const noexcept {
  const auto becomes = scrub_ ? PagePool::Tail::kTaken : PagePool::Tail::kFree;
  const Result<Extent> tail = from.cut_block(region, block, pages, becomes);
  if (!tail.ok()) return false;  // GCOVR_EXCL_BR_LINE: a race
  if (scrub_) {
    detail::fill_zero_bytes(tail->base, tail->size);
    (void)from.free_unpinned_block(region, tail->base);
  }
  return true;
}

}  // namespace exclave::core
