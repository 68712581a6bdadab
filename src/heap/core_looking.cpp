// What stands at an address; then statistics, iteration and validation, where everything is counted
// from the books when somebody asks, so that the fast paths count nothing.
#include "heap/core.hpp"

namespace exclave::core {

// ---- What stands at an address ----

Result<AllocatorCore::Found> AllocatorCore::live_slot(Region& region, RegionId id,
                                                      const SlotRef& found) noexcept {
  if (found.slot == Slab::kNoSlot) return Error::kInteriorFree;
  const SlotState state = found.state().load(std::memory_order_acquire);
  if (state != SlotState::kLive && state != SlotState::kPinned) return Error::kDoubleFree;
  return Found{found.slab->slot_bytes.load(std::memory_order_relaxed), false, &region, id};
}

Result<AllocatorCore::Found> AllocatorCore::live_pages(Region& region, RegionId id,
                                                       std::uintptr_t block) noexcept {
  PagePool* const pages = static_cast<PagePool*>(region.page_pool.load(std::memory_order_acquire));
  if (pages == nullptr) return Error::kForeignFree;
  const Result<PageBlock> run = pages->find_block(region, block);
  if (!run.ok()) return run.error();
  return Found{run->extent.size, !run->pinned, &region, id};
}

Result<AllocatorCore::Found> AllocatorCore::find_live(std::uintptr_t block) const noexcept {
  Region* const region = registry_.find(block);
  if (region == nullptr || region->unit_of(block) == nullptr) return Error::kForeignFree;
  // Acquire: what is read after the id is no older.
  const RegionId id{region->id.load(std::memory_order_acquire)};
  const SlotRef found = find_slot(block);
  return found.slab != nullptr ? live_slot(*region, id, found) : live_pages(*region, id, block);
}

// Outside any gate: pages are looked up under a lock, so a nested call must be kept out; slots are
// not.
Result<AllocatorCore::Found> AllocatorCore::look_up(std::uintptr_t block) noexcept {
  Region* const region = registry_.find(block);
  if (region == nullptr || region->unit_of(block) == nullptr) return Error::kForeignFree;
  const RegionId id{region->id.load(std::memory_order_acquire)};
  const SlotRef found = find_slot(block);
  if (found.slab != nullptr) return live_slot(*region, id, found);
  Gate gate(*this);
  if (!gate.status().ok()) return gate.status().error();
  return live_pages(*region, id, block);
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
  return found->id;
}

// ---- All that stands anywhere ----

Result<RegionInfo> AllocatorCore::next_region(std::uintptr_t address) noexcept {
  Gate gate(*this);
  if (!gate.status().ok()) return gate.status().error();
  return registry_.next(address);
}

Result<RunInfo> AllocatorCore::next_run(std::uintptr_t address) noexcept {
  Gate gate(*this);
  if (!gate.status().ok()) return gate.status().error();
  return run_at(address);
}

Result<RunInfo> AllocatorCore::run_at(std::uintptr_t address) noexcept {
  Region* const region = registry_.find(address);
  PagePool* const pages =
      region == nullptr ? nullptr
                        : static_cast<PagePool*>(region->page_pool.load(std::memory_order_acquire));
  if (pages == nullptr) return Error::kNotFound;
  const PagePool::Piece piece = pages->piece_at(*region, address);
  RunInfo info;
  info.extent = piece.extent;
  info.pinned = piece.pinned;
  if (piece.slab == 0) {
    info.kind = piece.free ? RunInfo::Kind::kFree : RunInfo::Kind::kBlock;
    if (!piece.free) (piece.freed ? info.cached_slots : info.live_slots) = 1;
    // GCOVR_EXCL_BR_START: a race
    return piece.extent.empty() ? Result<RunInfo>(Error::kNotFound) : info;
    // GCOVR_EXCL_BR_STOP
  }
  const Slab& slab = *books_.at<Slab>(piece.slab);
  const BookRef owner = slab.owner.load(std::memory_order_acquire);
  // GCOVR_EXCL_BR_START: a race
  if (owner == 0 || !slab.extent().contains(address)) return Error::kNotFound;
  // GCOVR_EXCL_BR_STOP
  info.kind = RunInfo::Kind::kSlab;
  info.extent = slab.extent();
  info.slot_bytes = slab.slot_bytes.load(std::memory_order_relaxed);
  info.slots = slab.slots.load(std::memory_order_relaxed);
  const std::uint32_t pinned = slab.count(SlotState::kPinned);
  const std::uint32_t kept =
      slab.count(SlotState::kPinnedFreed) + slab.count(SlotState::kPinnedTaken);
  info.live_slots = slab.count(SlotState::kLive) + pinned;
  info.cached_slots = slab.count(SlotState::kCached) + slab.count(SlotState::kRemote) +
                      slab.count(SlotState::kDeferred) + kept;
  info.pinned = pinned + kept != 0;
  info.owner = books_.at<Heap>(owner)->label();
  return info;
}

Statistics AllocatorCore::statistics() noexcept {
  Statistics s;
  Gate gate(*this);
  if (!gate.status().ok()) return s;
  for (std::uintptr_t at = 0;;) {
    const Result<RegionInfo> region = registry_.next(at);
    if (!region.ok()) break;
    at = region->extent.end();
    s.regions += 1;
    if (region->role == Role::kMapping) s.mapping_bytes += region->extent.size;
    if (region->role != Role::kPool) continue;
    s.reserved_bytes += region->extent.size;
    if (region->grown) s.grown_bytes += region->extent.size;
    for (std::uintptr_t page = region->extent.base; page < at;) {
      const Result<RunInfo> run = run_at(page);
      if (!run.ok()) break;  // GCOVR_EXCL_BR_LINE: a race
      page = run->extent.end();
      switch (run->kind) {  // GCOVR_EXCL_BR_LINE: there is no other
        case RunInfo::Kind::kFree:
          s.free_bytes += run->extent.size;
          break;
        case RunInfo::Kind::kBlock:
          s.live_blocks += run->live_slots;
          (run->live_slots != 0 ? s.live_bytes : s.cached_bytes) += run->extent.size;
          break;
        case RunInfo::Kind::kSlab: {
          const std::size_t slot = run->slot_bytes;
          s.live_blocks += run->live_slots;
          s.live_bytes += run->live_slots * slot;
          s.cached_bytes += run->cached_slots * slot;
          s.free_bytes += (run->slots - run->live_slots - run->cached_slots) * slot;
          s.overhead_bytes += run->extent.size - run->slots * slot;
          break;
        }
      }
    }
  }
  {
    LockGuard guard(registry_.lock());
    s.pins = registry_.pins_locked().count();
  }
  s.trusted_bytes = books_.reserved_bytes() + align_up(sizeof(AllocatorCore), kPageBytes);
  s.trusted_used_bytes = books_.used_bytes() + sizeof(AllocatorCore);
  s.host_reserve_calls = reserve_calls_.load(std::memory_order_relaxed);
  s.host_release_calls = release_calls_.load(std::memory_order_relaxed);
  s.host_map_calls = map_calls_.load(std::memory_order_relaxed);
  s.host_unmap_calls = unmap_calls_.load(std::memory_order_relaxed);
  s.host_protect_calls = protect_calls_.load(std::memory_order_relaxed);
  s.host_remap_calls = remap_calls_.load(std::memory_order_relaxed);
  s.host_advise_calls = advise_calls_.load(std::memory_order_relaxed);
  s.lies_refused = lies_.load(std::memory_order_relaxed);
  s.misuse_refused = misuses_.load(std::memory_order_relaxed);
  return s;
}

// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool AllocatorCore::validate() noexcept {
  Gate gate(*this);
  // A thread that can have no heap, for want of trusted memory or a slot, can still look.
  if (gate.status().error() == Error::kReentered || !registry_.validate() || !grown_.validate())
    return false;  // GCOVR_EXCL_LINE: as above
  LockGuard lists(heap_lists_);
  for (Heap* heap = all_heaps_; heap != nullptr; heap = heap->next_heap) {
    if (!heap->validate()) return false;
  }
  {
    LockGuard guard(orphans_lock_);
    if (!orphans_.validate()) return false;
  }
  std::size_t grown = 0;
  for (std::uintptr_t at = 0;;) {
    const Result<RegionInfo> info = registry_.next(at);
    if (!info.ok()) break;
    at = info->extent.end();
    if (info->grown) grown += info->extent.size;
    if (info->role != Role::kPool) continue;
    Region* const region = registry_.find(info->extent.base);
    // Every slab entry names a slab of this region whose extent holds the unit.
    for (std::uintptr_t page = info->extent.base; page < at;) {
      const Result<RunInfo> run = run_at(page);
      if (!run.ok() || !info->extent.covers(run->extent) || run->extent.end() <= page) return false;
      page = run->extent.end();
    }
    Pool* const pool = static_cast<Pool*>(region->pool.load(std::memory_order_acquire));
    if (info->grown != (pool == nullptr)) return false;
    if (pool == nullptr) continue;
    LockGuard guard(pool->lock);
    if (pool->region != region || !pool->is(info->id) || !pool->validate()) return false;
  }
  return grown <= grown_bytes_.load(std::memory_order_relaxed);
}
// GCOVR_EXCL_BR_STOP

}  // namespace exclave::core
