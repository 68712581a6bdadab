// Life of the allocator, and its threads.
#include "heap/core.hpp"

#include <new>

#include "access/copy.hpp"
#include "base/check.hpp"

namespace exclave::core {
namespace {

constexpr std::size_t kCoreBytes = align_up(sizeof(AllocatorCore), kPageBytes);

// Growth is in whole units, at least one slab's worth.
Status adjust(Config& config) noexcept {
  constexpr std::size_t kLeast = std::size_t{256} << 10;
  if (config.grow_min_bytes > kAddressLimit || config.grow_max_bytes > kAddressLimit)
    return Error::kInvalidArgument;
  if (config.grow_min_bytes < kLeast) config.grow_min_bytes = kLeast;
  if (config.grow_max_bytes < config.grow_min_bytes) config.grow_max_bytes = config.grow_min_bytes;
  config.grow_min_bytes = align_up(config.grow_min_bytes, kUnitBytes);
  config.grow_max_bytes = align_up(config.grow_max_bytes, kUnitBytes);
  return {};
}

}  // namespace

AllocatorCore::AllocatorCore(const PortTable& port, const Config& config) noexcept
    : port_(port),
      config_(config),
      registry_(books_),
      grown_(books_),
      pools_(books_, registry_, config.scrub_on_free),
      scrub_(config.scrub_on_free),
      orphans_(books_, registry_, grown_, Heap::Kind::kOrphans),
      none_(books_, registry_, grown_, Heap::Kind::kThread),
      busy_(books_, registry_, grown_, Heap::Kind::kThread) {
  for (std::atomic<Heap*>& heap : heaps_) heap.store(&none_, std::memory_order_relaxed);
}

Result<AllocatorCore*> AllocatorCore::create(const PortTable& port, const Config& config) noexcept {
  if (port.enclave == nullptr || port.book_window == nullptr || port.trusted_reserve == nullptr ||
      port.trusted_release == nullptr || port.entropy == nullptr || port.host_reserve == nullptr ||
      port.host_release == nullptr || port.host_map == nullptr || port.host_unmap == nullptr ||
      port.host_protect == nullptr) {
    return Error::kInvalidArgument;
  }
  Config adjusted = config;
  if (Status shape = adjust(adjusted); !shape.ok()) return shape.error();
  void* const memory = port.trusted_reserve(port.context, kCoreBytes);
  if (memory == nullptr) return Error::kOutOfTrustedMemory;
  AllocatorCore* const core = ::new (memory) AllocatorCore(port, adjusted);
  if (Status opened = core->open(); !opened.ok()) {
    port.trusted_release(port.context, memory, kCoreBytes);
    return opened.error();
  }
  if (port.has_avx != nullptr && port.has_avx(port.context) != 0) detail::use_wide_registers();
  return core;
}

Status AllocatorCore::open() noexcept {
  if (Status window = books_.open(port_); !window.ok()) return window;
  {
    LockGuard guard(orphans_lock_);
    orphans_.set_self(books_.ref(&orphans_), false);
  }
  std::uint64_t seed = 0;
  if (port_.entropy(port_.context, &seed, sizeof(seed)) != 0) return Error::kInvalidArgument;
  const exclave_extent enclave = port_.enclave(port_.context);
  registry_.open({enclave.base, enclave.size}, seed);
  pools_.seed(seed + 1);
  grown_.keep_runs(config_.keep_free_bytes);
  grown_.map_slabs();
  // GCOVR_EXCL_BR_START: the process port has a page left
  return register_thread_exit(&on_thread_exit, this) ? Status{} : Error::kOutOfTrustedMemory;
  // GCOVR_EXCL_BR_STOP
}

void AllocatorCore::destroy(AllocatorCore* core) noexcept {
  unregister_thread_exit(&on_thread_exit, core);
  core->ending_ = true;
  if (core->config_.leaked != nullptr) core->tell_leaks();
  core->end_attached();
  core->release_grown();
  const PortTable port = core->port_;
  core->books_.close();
  port.trusted_release(port.context, core, kCoreBytes);
}

// The callback may free blocks and detach pools, so each look is taken afresh.
void AllocatorCore::tell_leaks() noexcept {
  const auto tell = [this](RegionId id, std::uintptr_t block) noexcept {
    if (const Result<Found> live = find_live(block); live.ok())
      config_.leaked(config_.leaked_context, id.value, block, live->usable);
  };
  for (std::uintptr_t at = 0;;) {
    const Result<RegionInfo> region = registry_.next(at);
    if (!region.ok()) return;
    at = region->extent.end();
    for (std::uintptr_t page = region->extent.base; page < at;) {
      const Result<RunInfo> run = run_at(page);
      if (!run.ok()) break;  // no pool, or no more
      page = run->extent.end();
      if (run->kind == RunInfo::Kind::kBlock) tell(region->id, run->extent.base);
      if (run->kind != RunInfo::Kind::kSlab) continue;
      const std::uintptr_t first = run->extent.base;
      for (std::uint32_t slot = 0; slot < run->slots; ++slot)
        tell(region->id, first + std::size_t{slot} * run->slot_bytes);
    }
  }
}

void AllocatorCore::end_attached() noexcept {
  for (std::uintptr_t at = 0;;) {
    const Result<RegionInfo> info = registry_.next(at);
    if (!info.ok()) return;
    at = info->extent.end();
    if (info->grown) continue;
    Region* gone = registry_.find(info->extent.base);
    Pool* const pool = static_cast<Pool*>(gone->pool.load(std::memory_order_acquire));
    {
      LockGuard guard(registry_.lock());
      // What would be unpinned later is not there any more.
      if (registry_.is_pinned_locked(*gone)) registry_.pins_locked().remove_in(gone->extent());
      gone->pins = 0;
      if (pool == nullptr) registry_.remove_locked(*gone);
    }
    if (pool != nullptr) {
      pools_.end(*pool, &gone);
    }
    take_farewell(*gone).say();
  }
}

// Used or not; pinned ones stay outside, for a device may still write there.
void AllocatorCore::release_grown() noexcept {
  for (std::uintptr_t at = 0;;) {
    const Result<RegionInfo> info = registry_.next(at);
    if (!info.ok()) return;
    at = info->extent.end();
    bool pinned = false;
    {
      LockGuard guard(registry_.lock());
      pinned = registry_.is_pinned_locked(*registry_.region_at_locked(info->extent.base));
    }
    if (!pinned) (void)port_.host_release(port_.context, info->extent.base, info->extent.size);
  }
}

// ---- Threads ----

AllocatorCore::Gate::Gate(AllocatorCore& core) noexcept : core_(core) {
  const std::uint32_t slot = current_thread_slot();
  if (slot >= kMaxThreadSlots) {
    status_ = Error::kTooManyThreads;
    return;
  }
  mine_ = &core.heaps_[slot + 1];
  heap_ = core.enter(*mine_);
  if (heap_ == &core.none_) heap_ = core.take_heap_slow(slot);
  if (heap_ == nullptr) {
    status_ = Error::kOutOfTrustedMemory;
    leave(*mine_, &core.none_);
  } else if (heap_ == &core.busy_) {
    status_ = Error::kReentered;
  } else if (heap_->pools_wait.load(std::memory_order_relaxed)) {
    core.pools_.tidy(*heap_);
  }
}

Heap* AllocatorCore::take_heap_slow(std::uint32_t slot) noexcept {
  // GCOVR_EXCL_BR_START: a signal at one instruction
  if (homes_[slot] != nullptr) return homes_[slot];
  // GCOVR_EXCL_BR_STOP
  LockGuard guard(heap_lists_);
  Heap* heap = idle_heaps_;
  if (heap != nullptr) {
    idle_heaps_ = heap->next_idle;
  } else {
    void* const memory = books_.allocate(BookKind::kHeap, sizeof(Heap));
    if (memory == nullptr) return nullptr;
    heap = ::new (memory) Heap(books_, registry_, grown_, Heap::Kind::kThread);
    heap->set_self(books_.ref(heap), !scrub_);
    heap->next_heap = all_heaps_;
    all_heaps_ = heap;
  }
  heap->set_label(slot + 1);
  heap->set_active(true);
  homes_[slot] = heap;
  return heap;
}

void AllocatorCore::on_thread_exit(void* context, std::uint32_t slot) noexcept {
  AllocatorCore& core = *static_cast<AllocatorCore*>(context);
  std::atomic<Heap*>& mine = core.heaps_[slot + 1];
  // A thread that ends in the middle of a call (pthread_exit in a signal handler) leaves its heap
  // as it is: its blocks can be freed, its slabs are not used again.
  // GCOVR_EXCL_BR_START: no test unwinds out of a call
  Heap* const heap = core.enter(mine) != &core.busy_ ? core.homes_[slot] : nullptr;
  // GCOVR_EXCL_BR_STOP
  if (heap != nullptr) {
    core.retire_heap_slow(*heap);
  } else if (Heap* const left = core.homes_[slot]; left != nullptr) {
    // What it was at work on may go.
    for (Door* const door : left->visits) {
      if (door != nullptr) door->leave();
    }
  }
  core.homes_[slot] = nullptr;
  // The next thread of this slot starts afresh.
  leave(mine, &core.none_);
}

// The thread is ending: its slabs go to the orphans, where the next thread finds them.
void AllocatorCore::retire_heap_slow(Heap& heap) noexcept {
  send_outboxes(heap);
  pools_.leave_all(heap);
  heap.flush_slow();
  {
    LockGuard guard(orphans_lock_);
    heap.hand_over_slow(orphans_);
    if (orphans_.has_slabs()) has_orphans_.store(true, std::memory_order_relaxed);
  }
  // Whoever posts from now on sees that nobody is there; what was posted before is settled here.
  heap.set_active(false);
  settle_abandoned(heap, heap);
  // GCOVR_EXCL_START: only what is deferred since the flush, and before set_active
  if (heap.wants_sweep()) {
    LockGuard guard(orphans_lock_);
    orphans_.request_sweep();
  }
  // GCOVR_EXCL_STOP
  heap.set_label(0);
  if (heap.has_double_frees()) report_folded(heap);
  LockGuard guard(heap_lists_);
  heap.next_idle = idle_heaps_;
  idle_heaps_ = &heap;
}

void AllocatorCore::flush_thread() noexcept {
  Gate gate(*this);
  if (!gate.status().ok()) return;
  send_outboxes(gate.heap());
  pools_.leave_all(gate.heap());
  gate.heap().flush_slow();
  if (grown_.has_surplus(config_.keep_free_bytes)) give_idle_back(gate, config_.keep_free_bytes);
}

void AllocatorCore::trim() noexcept {
  Gate gate(*this);
  if (!gate.status().ok()) return;
  send_outboxes(gate.heap());
  pools_.leave_all(gate.heap());
  gate.heap().flush_slow();
  {
    LockGuard guard(orphans_lock_);
    orphans_.flush_slow();
  }
  grown_.join_kept_runs();
  grown_.end_grace();
  give_idle_back(gate, 0);
}

void AllocatorCore::report_folded(Heap& heap) noexcept {
  std::uintptr_t last = 0;
  for (std::uint64_t n = heap.take_double_frees(&last); n != 0; --n)
    (void)report(Error::kDoubleFree, last, 0);
}

}  // namespace exclave::core
