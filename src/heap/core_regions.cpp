// Regions as callers see them: attach and detach, questions, pins.
#include <new>

#include "access/copy.hpp"
#include "base/backoff.hpp"
#include "base/check.hpp"
#include "heap/core.hpp"
#include "region/verify.hpp"

namespace exclave::core {
namespace {

// Errors: kInvalidArgument.
Status check_options(Extent range, const AttachOptions& options) noexcept {
  const auto bits = static_cast<unsigned>(options.protection);
  if (bits > static_cast<unsigned>(Protection::kReadWrite)) return Error::kInvalidArgument;
  if (options.device_base != kNoDeviceAddress && options.device_base > UINT64_MAX - range.size) {
    return Error::kInvalidArgument;
  }
  if (options.role != Role::kPool) {
    const bool plain = !options.open_to_all && options.largest_block == 0 && options.boundary == 0;
    return plain && options.role <= Role::kForbidden ? Status{} : Error::kInvalidArgument;
  }
  if (options.protection != Protection::kReadWrite) return Error::kInvalidArgument;
  if (options.boundary == 0) return {};
  if (!is_power_of_two(options.boundary) || options.boundary < kPageBytes)
    return Error::kInvalidArgument;
  const bool agrees = options.device_base == kNoDeviceAddress ||
                      is_aligned(options.device_base - range.base, options.boundary);
  return agrees ? Status{} : Error::kInvalidArgument;
}

}  // namespace

// ---- Attach ----

Result<RegionId> AllocatorCore::attach(Extent range, const AttachOptions& options) noexcept {
  if (Status legal = check_outside(range, registry_.enclave()); !legal.ok()) return legal.error();
  if (Status shape = check_options(range, options); !shape.ok()) return shape.error();
  if (ending_) return Error::kNotPermitted;
  Gate gate(*this);
  if (!gate.status().ok()) return gate.status().error();
  if (options.role == Role::kPool) return attach_pool(range, options);
  const Result<Region*> made = registry_.create(range, options, false);
  if (!made.ok()) return made.error();
  const RegionId id = (*made)->region_id();
  const Status inserted = registry_.insert(**made);
  if (inserted.ok()) return id;
  registry_.destroy(**made);
  return inserted.error();
}

Pool* AllocatorCore::take_pool_locked() noexcept {
  if (Pool* const pool = idle_pools_; pool != nullptr) {
    idle_pools_ = pool->next;
    pool->next = nullptr;
    return pool;
  }
  void* const memory = books_.allocate(BookKind::kHeap, sizeof(Pool));
  if (memory == nullptr) return nullptr;
  Pool* const pool = ::new (memory) Pool(books_, registry_);
  LockGuard guard(pool->shared.lock);
  pool->shared.heap.set_self(books_.ref(&pool->shared.heap), false);
  return pool;
}

Device* AllocatorCore::device_locked(DeviceTag tag) noexcept {
  if (Device* const device = devices_.at_or_before(tag); device != nullptr && device->tag == tag)
    return device;
  void* const memory = books_.allocate(BookKind::kPlain, sizeof(Device));
  if (memory == nullptr) return nullptr;
  Device* const device = ::new (memory) Device;
  device->tag = tag;
  devices_.insert(*device);
  return device;
}

// A book only for as long as the device has a pool: there are as many tags as callers think of.
void AllocatorCore::drop_device_locked(Device* device) noexcept {
  if (device == nullptr || device->first != nullptr) return;
  devices_.erase(*device);
  books_.release(BookKind::kPlain, device, sizeof(Device));
}

Result<RegionId> AllocatorCore::attach_pool(Extent range, const AttachOptions& options) noexcept {
  LockGuard lists(pool_lists_);
  Device* const device = options.device != 0 ? device_locked(options.device) : nullptr;
  Pool* const pool = take_pool_locked();
  Status made = pool == nullptr || (options.device != 0 && device == nullptr)
                    ? Error::kOutOfTrustedMemory
                    : Error::kNone;
  Region* region = nullptr;
  if (made.ok()) {
    const Result<Region*> created = registry_.create(range, options, false);
    made = created.error();
    if (made.ok()) region = *created;
  }
  if (made.ok()) {
    LockGuard guard(pool->shared.lock);
    made = pool->pages.add(*region);
    if (made.ok()) {
      region->pool.store(pool, std::memory_order_release);
      const RegionId id = region->region_id();
      made = registry_.insert(*region);
      if (made.ok()) {
        pool->region = region;
        pool->id = id;
        pool->live = 0;
        pool->draining = false;
        pool->listed_id = id.value;
        pool->door.open(id);
        pools_.insert(*pool);
        if (device != nullptr) {
          pool->next = device->first;
          device->first = pool;
        }
        if (options.open_to_all) {
          pool->open_to_all = true;
          pool->next_open = open_;
          open_ = pool;
          small_fast_bytes_.store(0, std::memory_order_relaxed);
        }
        return id;
      }
      pool->pages.remove(*region);
    }
  }
  drop_device_locked(device);
  if (region != nullptr) registry_.destroy(*region);
  if (pool != nullptr) {
    pool->next = idle_pools_;
    idle_pools_ = pool;
  }
  return made.error();
}

Pool* AllocatorCore::find_pool(Heap& heap, RegionId id) noexcept {
  if (heap.named_id == id) return heap.named_pool;
  LockGuard guard(pool_lists_);
  Pool* const pool = pools_.at_or_before(id.value);
  if (pool == nullptr || pool->listed_id != id.value) return nullptr;
  heap.named_pool = pool;
  heap.named_id = id;
  return pool;
}

// ---- Detach ----

Status AllocatorCore::detach(Extent range, DetachMode mode) noexcept {
  if (!is_page_range(range) || mode > DetachMode::kRevoke) return Error::kInvalidArgument;
  Gate gate(*this);
  if (!gate.status().ok()) return gate.status();
  RegionId id{};
  Region* window = nullptr;
  {
    LockGuard guard(registry_.lock());
    Region* const region = registry_.region_at_locked(range.base);
    if (region == nullptr || region->traits().grown || region->taken_out) return Error::kNotFound;
    const Role role = region->traits().role;
    if (role != Role::kMapping && region->extent() != range) return Error::kNotFound;
    if (role == Role::kPool) {
      id = region->region_id();
    } else if (role == Role::kForbidden) {
      registry_.remove_locked(*region);
      window = region;
    }
  }
  if (id) return detach_pool(gate, id, mode);
  if (window == nullptr) {
    const Result<Region*> taken = take_mappings_out(range, false);
    if (!taken.ok()) return taken.error();
    window = *taken;
  }
  while (window != nullptr) {
    Region* const next = window->next_taken;
    finish_region(gate, *window);
    window = next_out(next);
  }
  return {};
}

Status AllocatorCore::detach_pool(Gate& gate, RegionId id, DetachMode mode) noexcept {
  // Some seconds: a piece of a block takes less than a millisecond, unless its thread is stopped.
  constexpr unsigned kMostLooks = 1u << 18;
  Region* gone = nullptr;
  Backoff backoff;
  for (unsigned looks = 0; gone == nullptr; ++looks) {
    if (looks != 0) backoff.wait();  // GCOVR_EXCL_BR_LINE: a race
    LockGuard lists(pool_lists_);
    Pool* const pool = pools_.at_or_before(id.value);
    // GCOVR_EXCL_BR_START: a race
    if (pool == nullptr || pool->listed_id != id.value) return Error::kNotFound;
    // GCOVR_EXCL_BR_STOP
    LockGuard guard(pool->shared.lock);
    pool->shared.heap.fold_slow();
    pool->live -= pool->shared.heap.take_folded();
    if (pool->live != 0 && mode == DetachMode::kBusy) {
      pool->door.open(id);  // an earlier look shut it
      LockGuard registry(registry_.lock());
      return registry_.is_pinned_locked(*pool->region) ? Error::kPinned : Error::kBusy;
    }
    if (pool->live != 0 && mode == DetachMode::kDrain) {
      pool->door.open(id);
      if (pool->draining) return {};
      pool->draining = true;
      pool->next_draining = draining_;
      draining_ = pool;
      LockGuard registry(registry_.lock());
      registry_.set_draining_locked(*pool->region, true);
      return {};
    }
    const Status closed = close_pool_locked(*pool, &gone);
    if (closed.ok()) break;
    const bool waits = closed.error() == Error::kWouldBlock;
    if (waits && looks != kMostLooks) continue;
    pool->door.open(id);
    return waits ? Error::kBusy : closed.error();
  }
  finish_region(gate, *gone);
  return {};
}

Status AllocatorCore::close_pool_locked(Pool& pool, Region** gone) noexcept {
  Region& region = *pool.region;
  {
    LockGuard registry(registry_.lock());
    if (registry_.is_pinned_locked(region)) return Error::kPinned;
    if (!pool.door.shut()) return Error::kWouldBlock;
    registry_.remove_locked(region);
  }
  pool.shared.heap.dissolve_slow();
  pool.pages.remove(region);
  pools_.erase(pool);
  if (Device* const device = devices_.at_or_before(region.traits().device); device != nullptr) {
    // GCOVR_EXCL_BR_START: it is listed
    for (Pool** link = &device->first; *link != nullptr; link = &(*link)->next) {
      // GCOVR_EXCL_BR_STOP
      if (*link != &pool) continue;
      *link = pool.next;
      break;
    }
    drop_device_locked(device);
  }
  if (pool.open_to_all) {
    Pool** link = &open_;
    while (*link != &pool) link = &(*link)->next_open;
    *link = pool.next_open;
    if (open_ == nullptr) small_fast_bytes_.store(kMaxSmallBytes, std::memory_order_relaxed);
  }
  if (pool.draining) {
    Pool** link = &draining_;
    while (*link != &pool) link = &(*link)->next_draining;
    *link = pool.next_draining;
  }
  pool.region = nullptr;
  pool.id = {};
  pool.listed_id = 0;
  pool.draining = pool.open_to_all = false;
  pool.next_open = nullptr;
  pool.next = idle_pools_;
  idle_pools_ = &pool;
  *gone = &region;
  return {};
}

// The last block of a draining pool was freed, or its last pin went.
void AllocatorCore::finish_drain(Gate& gate, Pool& pool, RegionId id) noexcept {
  Region* gone = nullptr;
  {
    LockGuard lists(pool_lists_);
    LockGuard guard(pool.shared.lock);
    // GCOVR_EXCL_BR_START: races
    if (pool.region == nullptr || pool.id != id || !pool.draining || pool.live != 0) return;
    // GCOVR_EXCL_BR_STOP
    close_drained_locked(pool, &gone);
  }
  if (gone != nullptr) finish_region(gate, *gone);
}

// It stays, and its last unpin comes back here, when it is pinned; and when the library is at work
// on its bytes (a call with a pointer to a block that was freed meanwhile): then the next call
// that ends comes back.
void AllocatorCore::close_drained_locked(Pool& pool, Region** gone) noexcept {
  if (close_pool_locked(pool, gone).error() != Error::kWouldBlock) return;
  // Who is inside leaves first and looks at this then; so it is stored first here, and then looked
  // whether he is gone.
  drains_wait_.store(true, std::memory_order_seq_cst);
  (void)close_pool_locked(pool, gone);
}

// Nobody may ever call in a draining pool again, so what a nested call freed there is looked at by
// the next call that is not nested, wherever it is.
void AllocatorCore::settle_drains(Gate& gate) noexcept {
  // Cleared first: a nested free during the walk asks again.
  drains_wait_.store(false, std::memory_order_seq_cst);
  for (Region* gone = nullptr;; gone = nullptr) {
    {
      LockGuard lists(pool_lists_);
      for (Pool* pool = draining_; pool != nullptr && gone == nullptr;) {
        Pool* const next = pool->next_draining;
        LockGuard guard(pool->shared.lock);
        if (drained_locked(*pool, pool->shared.heap)) close_drained_locked(*pool, &gone);
        pool = next;
      }
    }
    if (gone == nullptr) return;
    finish_region(gate, *gone);
  }
}

AllocatorCore::Farewell AllocatorCore::take_farewell(Region& region) noexcept {
  const Farewell farewell{region.gone, region.gone_context, region.region_id(), region.extent()};
  registry_.destroy(region);
  return farewell;
}

void AllocatorCore::finish_region(Gate& gate, Region& region) noexcept {
  const Farewell farewell = take_farewell(region);
  if (farewell.gone == nullptr) return;
  // The callback may call the allocator.
  gate.open();
  farewell.say();
  gate.close();
}

// ---- Questions ----

Result<untrusted_bytes> AllocatorCore::validate_range(std::uintptr_t address, std::size_t size,
                                                      Protection needed) const noexcept {
  const Result<RegionInfo> info = query(address, size);
  if (!info.ok()) return info.error();
  const auto have = static_cast<unsigned>(info->protection);
  const auto need = static_cast<unsigned>(needed);
  if ((have & need) != need) return Error::kNotPermitted;
  // The caller will touch it, and it may be an address that the host chose: no speculation past the
  // check (docs/threat-model.md, "Speculation").
  __builtin_ia32_lfence();
  return untrusted_bytes::unsafe_from_address(address);
}

Result<std::uint64_t> AllocatorCore::device_address(std::uintptr_t address) const noexcept {
  const Result<RegionInfo> info = query(address, 1);
  if (!info.ok()) return info.error();
  if (info->device_base == kNoDeviceAddress) return Error::kNotFound;
  return info->device_base + (address - info->extent.base);
}

// ---- Pins ----

Result<PinId> AllocatorCore::pin(Extent range) noexcept {
  std::uintptr_t end = 0;
  if (range.size == 0 || __builtin_add_overflow(range.base, range.size, &end))
    return Error::kInvalidArgument;
  Gate gate(*this);
  if (!gate.status().ok()) return gate.status().error();
  for (Backoff backoff;; backoff.wait()) {
    LockGuard guard(registry_.lock());
    Region* const region = registry_.region_at_locked(range.base);
    if (region == nullptr) return Error::kNotFound;
    switch (region->traits().role) {  // GCOVR_EXCL_BR_LINE: there is no other
      case Role::kForbidden:
        return Error::kNotFound;
      case Role::kMapping: {
        if (end > kAddressLimit) return Error::kNotFound;
        const Result<PinId> pin = pin_mappings_locked(whole_pages(range));
        if (pin.error() == Error::kWouldBlock)
          continue;  // another thread's call; it ends by itself
        return pin;
      }
      case Role::kPool:
        return pin_in_pool_locked(*region, range);
    }
  }
}

// Errors: kNotFound, kOutOfTrustedMemory; kBusy and kWouldBlock while a call of this or another
// thread is at the host: what mremap has not moved yet may go again.
Result<PinId> AllocatorCore::pin_mappings_locked(Extent pages) noexcept {
  for (std::uintptr_t at = pages.base; at < pages.end();) {
    Region* const piece = registry_.region_at_locked(at);
    if (piece == nullptr || piece->traits().role != Role::kMapping) return Error::kNotFound;
    if (piece->in_call != 0)
      return piece->in_call == current_thread_slot() + 1 ? Error::kBusy : Error::kWouldBlock;
    at = piece->extent().end();
  }
  return registry_.pins_locked().add(pages);
}

// A live block, or part of one; else the pool as a whole.
Result<PinId> AllocatorCore::pin_in_pool_locked(Region& region, Extent range) noexcept {
  if (!region.extent().covers(range)) return Error::kNotFound;
  PinTable& pins = registry_.pins_locked();
  const Result<PinId> pin = pins.add(range);
  if (!pin.ok()) return pin;
  const Status marked = mark_pinned(region, range);
  if (marked.ok()) return pin;
  if (range == region.extent() && !region.traits().grown) {
    pins.make_whole(*pin);
    region.pins += 1;
    return pin;
  }
  (void)pins.remove(*pin);
  return marked.error();
}

// The slot, or block of pages, that the address lies in.
Extent AllocatorCore::block_around(Region& region, std::uintptr_t address,
                                   std::atomic<SlotState>** state) noexcept {
  *state = nullptr;
  const SlotRef found = find_slot(address);
  if (found.slab != nullptr) {
    const std::uintptr_t offset = address - found.slab->base.load(std::memory_order_relaxed);
    const std::uint32_t bytes = found.slab->slot_bytes.load(std::memory_order_relaxed);
    if (bytes == 0) return {};
    const std::uint64_t slot = offset / bytes;
    if (slot >= found.slab->slots.load(std::memory_order_relaxed)) return {};
    *state = &found.slab->states()[slot];
    return {found.slab->block_at(static_cast<std::uint32_t>(slot)), bytes};
  }
  PagePool* const pages = static_cast<PagePool*>(region.page_pool.load(std::memory_order_acquire));
  if (pages == nullptr) return {};
  const Result<PageBlock> block = pages->block_around(region, address);
  return block.ok() ? block->extent : Extent{};
}

// Under the registry's lock, so that marks and pins change together. Errors: kNotFound.
Status AllocatorCore::mark_pinned(Region& region, Extent range) noexcept {
  std::atomic<SlotState>* state = nullptr;
  const Extent block = block_around(region, range.base, &state);
  if (block.empty() || !block.covers(range)) return Error::kNotFound;
  if (state == nullptr) {
    PagePool* const pages =
        static_cast<PagePool*>(region.page_pool.load(std::memory_order_acquire));
    return pages->pin_block(region, range).error();
  }
  SlotState expected = SlotState::kLive;
  if (state->compare_exchange_strong(expected, SlotState::kPinned, std::memory_order_acq_rel))
    return {};
  return expected == SlotState::kPinned ? Error::kNone : Error::kNotFound;
}

// The last pin of a slot goes, under the registry's lock. True: the block was freed before, and is
// kRemote: the unpin's to give back.
bool AllocatorCore::unpin_slot(std::atomic<SlotState>* state) noexcept {
  SlotState seen = SlotState::kPinned;
  // Each further round takes a free of another thread, for pins stand still.
  for (;;) {
    switch (seen) {
      case SlotState::kPinned:
        if (state->compare_exchange_strong(seen, SlotState::kLive, std::memory_order_acq_rel))
          return false;
        break;
      case SlotState::kPinnedTaken:
        // Its free goes on as one of a block that is not pinned (take_remotely).
        if (state->compare_exchange_strong(seen, SlotState::kRemote, std::memory_order_acq_rel))
          return false;
        break;
      case SlotState::kPinnedFreed:
        // It was freed once already, so it must not be live again, not for a moment. Nobody else
        // changes it: a plain store.
        state->store(SlotState::kRemote, std::memory_order_release);
        return true;
      default:
        return false;  // a free of its owner, who saw it live before the pin, went over that
    }
  }
}

Status AllocatorCore::unpin(PinId id) noexcept {
  Gate gate(*this);
  if (!gate.status().ok()) return gate.status();
  Pool* pool = nullptr;
  Extent freed{};
  RegionId pool_id{};
  bool is_slot = false;
  Door* door = nullptr;
  {
    LockGuard guard(registry_.lock());
    const Result<Pin> pin = registry_.pins_locked().remove(id);
    if (!pin.ok()) return pin.error();
    Region* const region = registry_.region_at_locked(pin->extent.base);
    // What is pinned stays, but for a block that its owner freed while it was being pinned, which
    // Allocator::pin forbids: nothing of that pin is left then.
    if (region == nullptr) return {};  // GCOVR_EXCL_BR_LINE: a race
    pool = static_cast<Pool*>(region->pool.load(std::memory_order_acquire));
    if (pin->whole_pool) {
      region->pins -= 1;
    } else if (region->traits().role == Role::kPool) {
      std::atomic<SlotState>* state = nullptr;
      const Extent block = block_around(*region, pin->extent.base, &state);
      if (block.empty()) return {};  // GCOVR_EXCL_BR_LINE: the same
      if (registry_.pins_locked().overlaps(block)) return {};
      pool_id = region->region_id();
      if (state == nullptr) {
        PagePool* const pages =
            static_cast<PagePool*>(region->page_pool.load(std::memory_order_acquire));
        const Result<PageBlock> unpinned = pages->unpin_block(*region, block.base);
        // GCOVR_EXCL_BR_START: it is there: just looked at
        if (unpinned.ok() && unpinned->freed) freed = block;
        // GCOVR_EXCL_BR_STOP
      } else {
        is_slot = true;
        if (unpin_slot(state)) freed = block;
      }
    }
    // Until now the pin held the pool; from now on the door does.
    if (scrub_ && pool != nullptr && !freed.empty()) {
      door = &pool->door;
      door->enter_held();
    }
  }
  if (!freed.empty()) {
    if (scrub_) scrub_kept(gate, door, freed);
    if (is_slot) {
      free_unpinned_slot(gate, pool, pool_id, freed.base);
    } else {
      free_unpinned_pages(pool, pool_id, freed.base);
    }
    if (grown_.has_surplus(config_.keep_free_bytes)) give_idle_back(gate, config_.keep_free_bytes);
  }
  if (pool != nullptr) {
    RegionId drained{};
    {
      LockGuard guard(pool->shared.lock);
      if (pool->draining && pool->live == 0) drained = pool->id;
    }
    if (drained) finish_drain(gate, *pool, drained);
  }
  return {};
}

}  // namespace exclave::core
