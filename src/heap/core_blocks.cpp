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

// In pages, as the page room takes it.
std::uint64_t boundary_of(const Region& region) noexcept {
  return region.boundary == 0 ? kNoBoundary : region.boundary >> kPageShift;
}

// The class that serves where no block may cross such a boundary, which the size is not above: a
// power of two at its own alignment crosses none that is at least as large.
SizeClass class_within(SizeClass c, std::uint64_t boundary) noexcept {
  if (c == kSizeClasses || boundary == kNoBoundary) return c;
  return size_class_of(std::size_t{1} << ceil_log2(size_class_bytes(c)));
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

// ---- Allocation: what the fast path leaves over, in its most frequent form first ----

std::uintptr_t AllocatorCore::take_kept(std::size_t size) noexcept {
  if (size <= kMaxSmallBytes || size > kLongestClassedRun * kPageBytes ||
      small_fast_bytes_.load(std::memory_order_relaxed) == 0) {
    return 0;
  }
  std::atomic<Heap*>& mine = this->mine();
  Heap* const heap = enter(mine);
  // No lock in a nested call.
  const std::uintptr_t block = is_own(heap) ? grown_.take_kept(pages_for(size)) : 0;
  leave(mine, heap);
  return block;
}

Result<untrusted_bytes> AllocatorCore::allocate_slow(std::size_t size) noexcept {
  if (const std::uintptr_t block = take_kept(size); block != 0) return pointer(block);
  return allocate_slow(size, kDefaultAlignment, Placement::anywhere());
}

Result<SizePlan> SizePlan::of(std::size_t size, std::size_t alignment) noexcept {
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
  if (alignment == kDefaultAlignment && where.kind == Placement::Kind::kAnywhere) {
    std::uintptr_t block = 0;
    if (size - 1 >= small_fast_bytes_.load(std::memory_order_relaxed)) {
      block = take_kept(size);
    } else {
      (void)pop(size_class_fast(size), &block);
    }
    if (block != 0) return PlacedBlock{pointer(block), {}};
  }
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
  switch (where.kind) {
    case Placement::Kind::kPool: {
      Pool* const pool = find_pool(gate.heap(), where.pool);
      if (pool == nullptr) return Error::kNotFound;
      return allocate_in(*pool, where.pool, size, *plan);
    }
    case Placement::Kind::kDevice:
      return allocate_on_device(where.device, size, *plan);
    case Placement::Kind::kAnywhere:
      break;
  }
  if (small_fast_bytes_.load(std::memory_order_relaxed) == 0) {
    const Result<PlacedBlock> block = allocate_open(size, *plan);
    if (block.ok()) return block;
  }
  const Result<untrusted_bytes> block = plan->size_class != kSizeClasses
                                            ? allocate_small_slow(gate, plan->size_class)
                                            : allocate_pages(gate, *plan);
  if (!block.ok()) return block.error();
  return PlacedBlock{*block, {}};
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
  LockGuard guard(orphans_.lock);
  if (orphans_.heap.wants_sweep()) orphans_.heap.fold_slow();
  const bool adopted = heap.adopt_slow(orphans_.heap, c);
  if (!orphans_.heap.has_slabs()) has_orphans_.store(false, std::memory_order_relaxed);
  return adopted;
}

// ---- Attached pools ----

Result<PlacedBlock> AllocatorCore::allocate_in(Pool& pool, RegionId id, std::size_t size,
                                               const SizePlan& plan) noexcept {
  LockGuard guard(pool.shared.lock);
  // GCOVR_EXCL_BR_START: detached before the lock
  if (pool.region == nullptr || pool.id != id || pool.draining) return Error::kNotFound;
  // GCOVR_EXCL_BR_STOP
  const Result<untrusted_bytes> block = allocate_in_locked(pool, size, plan);
  if (!block.ok()) return block.error();
  return PlacedBlock{*block, id};
}

Result<untrusted_bytes> AllocatorCore::allocate_in_locked(Pool& pool, std::size_t size,
                                                          const SizePlan& plan) noexcept {
  Region& region = *pool.region;
  if (region.largest_block != 0 && size > region.largest_block) return Error::kOutOfMemory;
  if (region.boundary != 0 && size > region.boundary) return Error::kOutOfMemory;
  const std::uint64_t boundary = boundary_of(region);
  const SizeClass c = class_within(plan.size_class, boundary);
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
    Result<PageRun> run = pool.pages.allocate_block(pages_for(size), plan.align_order, boundary);
    if (!run.ok()) {
      heap.flush_slow();
      run = pool.pages.allocate_block(pages_for(size), plan.align_order, boundary);
    }
    if (!run.ok()) return run.error();
    block = run->extent.base;
  }
  pool.live += 1;
  return pointer(block);
}

// The pool that served last comes first, so full ones are not asked again and again.
Result<PlacedBlock> AllocatorCore::allocate_on_device(DeviceTag tag, std::size_t size,
                                                      const SizePlan& plan) noexcept {
  LockGuard guard(pool_lists_);
  Device* const device = devices_.at_or_before(tag);
  if (tag == 0 || device == nullptr || device->tag != tag) return Error::kNotFound;
  return allocate_first(device->first, &Pool::next, size, plan);
}

Result<PlacedBlock> AllocatorCore::allocate_open(std::size_t size, const SizePlan& plan) noexcept {
  LockGuard guard(pool_lists_);
  return allocate_first(open_, &Pool::next_open, size, plan);
}

Result<PlacedBlock> AllocatorCore::allocate_first(Pool*& first, Pool* Pool::*next, std::size_t size,
                                                  const SizePlan& plan) noexcept {
  for (Pool** link = &first; *link != nullptr; link = &((*link)->*next)) {
    Pool& pool = **link;
    const Result<PlacedBlock> block = allocate_in(pool, pool.id, size, plan);
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
  LockGuard guard(pool->shared.lock);
  if (pool->id != found.id) return false;  // GCOVR_EXCL_BR_LINE: a race
  const Region& region = *pool->region;
  *boundary = boundary_of(region);
  if (region.largest_block != 0 && size > region.largest_block) return false;
  if (region.boundary != 0 && size > region.boundary) return false;
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
  LockGuard guard(pool->shared.lock);
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
