// Blocks of attached pools, and what threads keep of the pools.
#include <new>

#include "heap/attached_pools.hpp"
#include "heap/free_steps.hpp"

namespace exclave {
namespace {

// The largest block that such a region serves.
std::size_t most_of(const Region& region) noexcept {
  std::size_t most = kMaxSmallBytes;
  if (region.largest_block != 0 && region.largest_block < most) most = region.largest_block;
  return region.boundary != 0 && region.boundary < most ? region.boundary : most;
}

}  // namespace

// ---- The fast paths, and what they leave over ----

std::uintptr_t AttachedPools::take_slow(Heap& heap, std::size_t size, Placement where, RegionId* id,
                                        SizeClass c) noexcept {
  PoolTable* const table = heap.pools;
  if (table == nullptr || size - 1 >= kMaxSmallBytes) return 0;
  if (c == kSizeClasses) c = size_class_fast(size);
  for (PoolTable::Entry& entry : table->entries) {
    if (!entry.id || !entry.serves(where) || size > entry.small_bytes) continue;
    const std::uintptr_t block = take_from(entry, class_within(c, entry.boundary));
    if (block == 0) continue;
    table->last = &entry;
    *id = entry.id;
    return block;
  }
  return 0;
}

std::uintptr_t AttachedPools::take_from(PoolTable::Entry& entry, SizeClass c) noexcept {
  for (;;) {
    std::uintptr_t block = 0;
    switch (entry.heap->pop_hint(c, &block)) {
      case PoolHeap::Popped::kBlock:
        return block;
      case PoolHeap::Popped::kNone:
        return 0;
      case PoolHeap::Popped::kAgain:
        break;
      case PoolHeap::Popped::kAsk:
        return ask(entry, block);
    }
  }
}

// The slot was taken while somebody looks at the pool's slots: the lock says what became of it.
std::uintptr_t AttachedPools::ask(PoolTable::Entry& entry, std::uintptr_t block) noexcept {
  Pool& pool = *entry.pool;
  LockGuard guard(pool.lock);
  if (!pool.is(entry.id)) return 0;
  if (pool.draining) {
    // Somebody may have pinned it meanwhile.
    (void)pool.free(block, false);
    entry.heap->home->drains = true;
    return 0;
  }
  if (entry.heap->is_marked()) pool.settle(*entry.heap);
  return block;
}

// The slot was freed while somebody looks at the pool's slots.
void AttachedPools::finish_give(Heap& heap, PoolTable::Entry& entry) noexcept {
  Pool& pool = *entry.pool;
  LockGuard guard(pool.lock);
  if (!pool.is(entry.id)) return;
  if (pool.draining) {
    heap.drains = true;
  } else if (entry.heap->is_marked()) {
    pool.settle(*entry.heap);
  }
}

// ---- Allocation ----

Pool* AttachedPools::find(PoolTable* table, RegionId id) noexcept {
  if (table != nullptr && table->named_id == id) return table->named_pool;
  LockGuard guard(lists_);
  Pool* const pool = pools_.at_or_before(id.value);
  if (pool == nullptr || pool->listed_id != id.value) return nullptr;
  if (table != nullptr) {
    table->named_pool = pool;
    table->named_id = id;
  }
  return pool;
}

Result<PlacedBlock> AttachedPools::allocate(Heap& heap, std::size_t size, const SizePlan& plan,
                                            Placement where, bool reclaims) noexcept {
  if (RegionId id{}; plan.size_class != kSizeClasses) {
    const std::uintptr_t kept = take_slow(heap, size, where, &id, plan.size_class);
    if (kept != 0) return PlacedBlock{untrusted_bytes::unsafe_from_address(kept), id};
  }
  Pool* used = nullptr;
  Result<PlacedBlock> block = Error::kNotFound;
  switch (where.kind) {
    case Placement::Kind::kPool:
      used = find(table_of(heap), where.pool);
      if (used == nullptr) return Error::kNotFound;
      block = allocate_in(heap, *used, where.pool, size, plan, reclaims);
      break;
    case Placement::Kind::kDevice: {
      LockGuard guard(lists_);
      Device* const device = devices_.at_or_before(where.device);
      if (where.device == 0 || device == nullptr || device->tag != where.device)
        return Error::kNotFound;
      block = allocate_first(heap, device->first, &Pool::next, size, plan, false);
      if (!block.ok() && reclaims)
        block = allocate_first(heap, device->first, &Pool::next, size, plan, true);
      used = device->first;
      break;
    }
    case Placement::Kind::kAnywhere: {
      LockGuard guard(lists_);
      block = allocate_first(heap, open_, &Pool::next_open, size, plan, reclaims);
      used = open_;
      break;
    }
  }
  if (block.ok() && plan.size_class != kSizeClasses) note_use(heap, *used, block->region);
  return block;
}

Result<PlacedBlock> AttachedPools::allocate_in(Heap& heap, Pool& pool, RegionId id,
                                               std::size_t size, const SizePlan& plan,
                                               bool reclaims) noexcept {
  PoolTable::Entry* const entry = heap.pools != nullptr ? heap.pools->of(id) : nullptr;
  LockGuard guard(pool.lock);
  // GCOVR_EXCL_BR_START: detached before the lock
  if (!pool.is(id) || pool.draining) return Error::kNotFound;
  // GCOVR_EXCL_BR_STOP
  PoolHeap* const mine = entry != nullptr ? entry->heap : nullptr;
  if (mine != nullptr && mine->is_marked()) pool.settle(*mine);
  const Result<std::uintptr_t> block = pool.allocate(mine, size, plan, reclaims);
  if (!block.ok()) return block.error();
  return PlacedBlock{untrusted_bytes::unsafe_from_address(*block), id};
}

// The pool that served last comes first, so full ones are not asked again and again.
Result<PlacedBlock> AttachedPools::allocate_first(Heap& heap, Pool*& first, Pool* Pool::*next,
                                                  std::size_t size, const SizePlan& plan,
                                                  bool reclaims) noexcept {
  for (Pool** link = &first; *link != nullptr; link = &((*link)->*next)) {
    Pool& pool = **link;
    const Result<PlacedBlock> block =
        allocate_in(heap, pool, {pool.listed_id}, size, plan, reclaims);
    if (!block.ok()) continue;
    *link = pool.*next;
    pool.*next = first;
    first = &pool;
    return block;
  }
  return Error::kOutOfMemory;
}

// ---- Frees ----

bool AttachedPools::free_live(Heap& heap, Pool& pool, const Region& region,
                              std::uintptr_t block) noexcept {
  RegionId id{};
  {
    LockGuard guard(pool.lock);
    if (pool.region != &region || pool.draining) return false;
    id = pool.id;
    PoolTable::Entry* const entry = heap.pools != nullptr ? heap.pools->of(id) : nullptr;
    if (entry != nullptr) {
      if (entry->heap->is_marked()) pool.settle(*entry->heap);
      return pool.free_to(*entry->heap, block) || pool.free_pages(block);
    }
    if (!pool.take_back(block, SlotState::kLive)) return pool.free_pages(block);
  }
  note_use(heap, pool, id);
  return true;
}

Status AttachedPools::free(Heap& heap, Pool& pool, RegionId id, std::uintptr_t block) noexcept {
  LockGuard guard(pool.lock);
  if (!pool.is(id)) return Error::kStale;  // GCOVR_EXCL_BR_LINE: a race
  const Status freed = pool.free(block, scrub_);
  if (pool.draining) heap.drains = true;
  return freed;
}

void AttachedPools::free_unpinned(Pool& pool, RegionId id, std::uintptr_t block,
                                  bool is_slot) noexcept {
  LockGuard guard(pool.lock);
  // Not what stands there since the pool was revoked and the place attached again.
  if (!pool.is(id)) return;  // GCOVR_EXCL_BR_LINE: a race
  if (is_slot) {
    (void)pool.take_back(block, SlotState::kRemote);
  } else {
    (void)pool.pages.free_unpinned_block(*pool.region, block);
  }
}

void AttachedPools::note_deferred(Pool& pool) noexcept EXCLAVE_NO_THREAD_SAFETY_ANALYSIS {
  pool.shared.request_sweep();
  look_at_drains();
}

// ---- What threads keep ----

PoolTable* AttachedPools::table_of(Heap& heap) noexcept {
  if (heap.pools == nullptr) {
    if (void* const memory = books_.allocate(BookKind::kPlain, sizeof(PoolTable));
        memory != nullptr) {
      heap.pools = ::new (memory) PoolTable;
    }
  }
  return heap.pools;
}

// The thread used the pool under its lock.
void AttachedPools::note_use(Heap& heap, Pool& pool, RegionId id) noexcept {
  PoolTable* const table = table_of(heap);
  if (table == nullptr || scrub_) return;
  if (PoolTable::Entry* const entry = table->of(id); entry != nullptr) {
    table->last = entry;
    entry->refills += 1;
    return;
  }
  if (table->streak_of != id) {
    table->streak_of = id;
    table->streak = 0;
  }
  if (++table->streak == PoolTable::kStreak) {
    table->streak = 0;
    keep(heap, pool, id);
  }
}

PoolHeap* AttachedPools::take_heap(Pool& pool) noexcept {
  LockGuard guard(lists_);
  if (PoolHeap* const heap = idle_heaps_; heap != nullptr) {
    idle_heaps_ = heap->next_in_pool;
    return heap;
  }
  void* const memory = books_.allocate(BookKind::kHeap, sizeof(PoolHeap));
  if (memory == nullptr) return nullptr;
  PoolHeap* const heap = ::new (memory) PoolHeap(books_, registry_, pool.pages);
  heap->set_self(books_.ref(heap), false);
  return heap;
}

void AttachedPools::give_heap_back(PoolHeap& heap) noexcept {
  LockGuard guard(lists_);
  heap.next_in_pool = idle_heaps_;
  idle_heaps_ = &heap;
}

// A heap of the pool for the thread, in place of the one that it used least.
void AttachedPools::keep(Heap& heap, Pool& pool, RegionId id) noexcept {
  PoolTable& table = *heap.pools;
  PoolTable::Entry* entry = nullptr;
  for (PoolTable::Entry& other : table.entries) {
    // The one that was used last may need no refills.
    if (other.id && &other == table.last) continue;
    const bool is_less =
        entry == nullptr || !other.id || (entry->id && other.refills < entry->refills);
    if (is_less) entry = &other;
  }
  for (PoolTable::Entry& other : table.entries) other.refills /= 2;
  if (entry->id) leave(*entry);
  PoolHeap* const fresh = take_heap(pool);
  if (fresh == nullptr) return;
  {
    LockGuard guard(pool.lock);
    if (pool.is(id) && !pool.draining) {  // GCOVR_EXCL_BR_LINE: it goes meanwhile
      pool.join(*fresh, heap);
      const Region& region = *pool.region;
      entry->heap = fresh;
      entry->pool = &pool;
      entry->extent = region.extent();
      entry->units = pool.region->units();
      entry->first_unit = region.first_unit.load(std::memory_order_relaxed);
      entry->small_bytes = most_of(region);
      entry->plain_bytes = region.boundary == 0 ? entry->small_bytes : 0;
      entry->boundary = boundary_of(region);
      entry->device = region.traits().device;
      entry->open_to_all = pool.open_to_all;
      entry->id = id;
    }
  }
  table.last = entry;
  if (!entry->id) give_heap_back(*fresh);  // GCOVR_EXCL_BR_LINE: as above
}

void AttachedPools::leave(PoolTable::Entry& entry) noexcept {
  PoolHeap& heap = *entry.heap;
  {
    LockGuard guard(entry.pool->lock);
    entry.pool->leave(heap, entry.id);
  }
  entry = {};
  give_heap_back(heap);
}

void AttachedPools::tidy(Heap& heap) noexcept {
  heap.pools_wait.store(false, std::memory_order_relaxed);
  if (heap.pools == nullptr) return;
  for (PoolTable::Entry& entry : heap.pools->entries) {
    if (!entry.id) continue;
    bool stays = false;
    {
      LockGuard guard(entry.pool->lock);
      stays = entry.pool->is(entry.id) && !entry.pool->draining;
    }
    if (!stays) leave(entry);
  }
}

void AttachedPools::leave_all(Heap& heap) noexcept {
  if (heap.pools == nullptr) return;
  for (PoolTable::Entry& entry : heap.pools->entries) {
    if (entry.id) leave(entry);
  }
  books_.release(BookKind::kPlain, heap.pools, sizeof(PoolTable));
  heap.pools = nullptr;
}

}  // namespace exclave
