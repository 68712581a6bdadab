#include "heap/attached_pools.hpp"

#include <new>

#include "base/backoff.hpp"
#include "base/check.hpp"

namespace exclave {

void AttachedPools::seed(std::uint64_t seed) noexcept {
  LockGuard guard(lists_);
  devices_.seed(seed);
  pools_.seed(seed + 1);
}

// ---- Attach ----

Pool* AttachedPools::take_pool() noexcept {
  if (Pool* const pool = idle_pools_; pool != nullptr) {
    idle_pools_ = pool->next;
    pool->next = nullptr;
    return pool;
  }
  void* const memory = books_.allocate(BookKind::kHeap, sizeof(Pool));
  if (memory == nullptr) return nullptr;
  Pool* const pool = ::new (memory) Pool(books_, registry_);
  LockGuard guard(pool->lock);
  pool->shared.set_self(books_.ref(&pool->shared), false);
  return pool;
}

Device* AttachedPools::device(DeviceTag tag) noexcept {
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
void AttachedPools::drop_device(Device* device) noexcept {
  if (device == nullptr || device->first != nullptr) return;
  devices_.erase(*device);
  books_.release(BookKind::kPlain, device, sizeof(Device));
}

// The region is the pool's, and in the registry.
Status AttachedPools::fill(Pool& pool, Region& region) noexcept {
  LockGuard guard(pool.lock);
  if (Status added = pool.pages.add(region); !added.ok()) return added;
  region.pool.store(&pool, std::memory_order_release);
  const RegionId id = region.region_id();
  if (Status inserted = registry_.insert(region); !inserted.ok()) {
    pool.pages.remove(region);
    return inserted;
  }
  pool.open(region, id);
  pool.listed_id = id.value;
  pools_.insert(pool);
  return {};
}

Result<RegionId> AttachedPools::attach(Extent range, const AttachOptions& options) noexcept {
  LockGuard guard(lists_);
  Device* const of = options.device != 0 ? device(options.device) : nullptr;
  Pool* const pool = take_pool();
  Status made = pool == nullptr || (options.device != 0 && of == nullptr)
                    ? Error::kOutOfTrustedMemory
                    : Error::kNone;
  Region* region = nullptr;
  if (made.ok()) {
    const Result<Region*> created = registry_.create(range, options, false);
    made = created.error();
    if (made.ok()) {
      region = *created;
      made = fill(*pool, *region);
    }
  }
  if (!made.ok()) {
    drop_device(of);
    if (region != nullptr) registry_.destroy(*region);
    if (pool != nullptr) {
      pool->next = idle_pools_;
      idle_pools_ = pool;
    }
    return made.error();
  }
  if (of != nullptr) {
    pool->next = of->first;
    of->first = pool;
  }
  if (options.open_to_all) {
    pool->open_to_all = true;
    pool->next_open = open_;
    open_ = pool;
    has_open_.store(true, std::memory_order_relaxed);
  }
  return RegionId{pool->listed_id};
}

// ---- Detach ----

Status AttachedPools::detach(Heap& heap, RegionId id, DetachMode mode, Region** gone) noexcept {
  // Some seconds: a piece of a block takes less than a millisecond, unless its thread is stopped.
  constexpr unsigned kMostLooks = 1u << 18;
  *gone = nullptr;
  Backoff backoff;
  for (unsigned looks = 0; *gone == nullptr; ++looks) {
    if (looks != 0) backoff.wait();  // GCOVR_EXCL_BR_LINE: a race
    LockGuard lists(lists_);
    Pool* const pool = pools_.at_or_before(id.value);
    // GCOVR_EXCL_BR_START: a race
    if (pool == nullptr || pool->listed_id != id.value) return Error::kNotFound;
    // GCOVR_EXCL_BR_STOP
    LockGuard guard(pool->lock);
    // The states are looked at once before the wait, and once after.
    if (looks != 0 && looks != kMostLooks && !pool->door.shut()) continue;
    pool->mark();
    if (mode != DetachMode::kRevoke && pool->live_from(pool->drained_to) != 0) {
      pool->door.open(id);  // an earlier look shut it
      if (mode == DetachMode::kDrain) {
        start_drain(*pool);
        return {};
      }
      if (!pool->draining) pool->unmark();
      LockGuard registry(registry_.lock());
      return registry_.is_pinned_locked(*pool->region) ? Error::kPinned : Error::kBusy;
    }
    const Status closed = close(*pool, gone);
    if (closed.ok()) break;
    const bool waits = closed.error() == Error::kWouldBlock;
    if (waits && looks != kMostLooks) continue;
    pool->door.open(id);
    return waits ? Error::kBusy : closed.error();
  }
  tidy(heap);
  return {};
}

void AttachedPools::start_drain(Pool& pool) noexcept {
  if (pool.draining) return;
  pool.draining = true;
  pool.recall();
  pool.next_draining = draining_;
  draining_ = &pool;
  LockGuard registry(registry_.lock());
  registry_.set_draining_locked(*pool.region, true);
}

Status AttachedPools::close(Pool& pool, Region** gone) noexcept {
  Region& region = *pool.region;
  {
    LockGuard registry(registry_.lock());
    if (registry_.is_pinned_locked(region)) return Error::kPinned;
    if (!pool.door.shut()) return Error::kWouldBlock;
    registry_.remove_locked(region);
  }
  const bool drained = pool.draining;
  pool.close();
  pools_.erase(pool);
  if (Device* const device = devices_.at_or_before(region.traits().device); device != nullptr) {
    // GCOVR_EXCL_BR_START: it is listed
    for (Pool** link = &device->first; *link != nullptr; link = &(*link)->next) {
      // GCOVR_EXCL_BR_STOP
      if (*link != &pool) continue;
      *link = pool.next;
      break;
    }
    drop_device(device);
  }
  if (pool.open_to_all) {
    Pool** link = &open_;
    while (*link != &pool) link = &(*link)->next_open;
    *link = pool.next_open;
    if (open_ == nullptr) has_open_.store(false, std::memory_order_relaxed);
  }
  if (drained) {
    Pool** link = &draining_;
    while (*link != &pool) link = &(*link)->next_draining;
    *link = pool.next_draining;
  }
  pool.listed_id = 0;
  pool.open_to_all = false;
  pool.next_open = nullptr;
  pool.next = idle_pools_;
  idle_pools_ = &pool;
  *gone = &region;
  return {};
}

void AttachedPools::end(Pool& pool, Region** gone) noexcept {
  LockGuard lists(lists_);
  LockGuard guard(pool.lock);
  // No pin is left, nor anybody behind the door but who jumped out of a call (Door).
  pool.door.empty();
  pool.mark();
  const Status closed = close(pool, gone);
  EXCLAVE_CHECK(closed.ok());
}

// ---- Drains ----

// A pool that drains is marked, so each free of it comes by here after its swap; where a nested
// call frees, or somebody leaves the door or a pin, they ask for a look.
bool AttachedPools::has_drained(Pool& pool) noexcept {
  if (!pool.draining) return false;
  const std::uintptr_t live = pool.live_from(pool.drained_to);
  // No block becomes live any more, so nothing below needs a second look.
  if (live != 0) pool.drained_to = live;
  return live == 0;
}

Region* AttachedPools::settle(Heap& heap) noexcept {
  heap.drains = false;
  // Cleared first: whoever asks during the walk asks again.
  drains_wait_.store(false, std::memory_order_seq_cst);
  LockGuard lists(lists_);
  for (Pool* pool = draining_; pool != nullptr;) {
    Pool* const next = pool->next_draining;
    LockGuard guard(pool->lock);
    if (has_drained(*pool)) {
      // It stays when it is pinned, and its last unpin asks for a look; and when the library is at
      // work on its bytes (a call with a pointer to a block that was freed meanwhile): then the
      // next call that ends looks again.
      Region* gone = nullptr;
      if (close(*pool, &gone).error() == Error::kWouldBlock) {
        // Who is inside leaves first and looks at this then; so it is stored first here, and then
        // looked whether he is gone.
        look_at_drains();
        (void)close(*pool, &gone);
      }
      if (gone != nullptr) {
        heap.drains = true;  // there may be further ones
        return gone;
      }
    }
    pool = next;
  }
  return nullptr;
}

}  // namespace exclave
