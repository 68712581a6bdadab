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
  if (options.role == Role::kPool) return pools_.attach(range, options);
  const Result<Region*> made = registry_.create(range, options, false);
  if (!made.ok()) return made.error();
  const RegionId id = (*made)->region_id();
  const Status inserted = registry_.insert(**made);
  if (inserted.ok()) return id;
  registry_.destroy(**made);
  return inserted.error();
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
  if (id) {
    if (Status gone = pools_.detach(gate.heap(), id, mode, &window); !gone.ok()) return gone;
    if (window == nullptr) return {};  // it drains
    window->next_taken = nullptr;
  } else if (window == nullptr) {
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

void AllocatorCore::settle_drains(Gate& gate) noexcept {
  while (Region* const gone = pools_.settle(gate.heap())) finish_region(gate, *gone);
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
    if (pool != nullptr) {
      pools_.free_unpinned(*pool, pool_id, freed.base, is_slot);
    } else if (is_slot) {
      free_unpinned_slot(gate, freed.base);
    } else if (Region* const region = registry_.find(freed.base); region != nullptr) {
      (void)grown_.free_unpinned_block(*region, freed.base);
    }
    if (grown_.has_surplus(config_.keep_free_bytes)) give_idle_back(gate, config_.keep_free_bytes);
  }
  if (pool != nullptr) gate.heap().drains = true;
  return {};
}

}  // namespace exclave::core
