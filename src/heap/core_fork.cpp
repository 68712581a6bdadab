// fork(): the child has the books as they stood at one moment, and one thread.
//
// Every lock is taken before and given up after, in both processes, so nothing that a lock guards
// is half done in the child. What other threads do without a lock, in their own heaps, cannot be
// stopped: a heap whose thread was in no call at that moment is whole, and its slabs go to the
// orphans; one in the middle of a call stays as it is: its blocks can be freed, its slabs are not
// used again.
#include "heap/core.hpp"
#include "port/thread_slot.hpp"

namespace exclave::core {

// All of them, in the order of their ranks. Several of one rank at once are nobody else's, so it is
// enough that the pools' lists come first.
template <class Function>
void AllocatorCore::each_lock(const Function& apply) noexcept EXCLAVE_NO_THREAD_SAFETY_ANALYSIS {
  apply(pools_.lists());
  apply(heap_lists_);
  apply(orphans_lock_);
  pools_.each_pool([&](Pool& pool) noexcept { apply(pool.lock); });
  apply(registry_.lock());
  apply(grown_.lock());
  pools_.each_pool([&](Pool& pool) noexcept { apply(pool.pages.lock()); });
  apply(books_.lock());
}

Status AllocatorCore::before_fork() noexcept {
  const std::uint32_t slot = assigned_thread_slot();
  Heap* heap = &none_;
  if (slot < kMaxThreadSlots) {
    heap = enter(heaps_[slot + 1]);
    // From a signal handler inside a call: some of the locks may be this thread's own.
    if (heap == &busy_) return Error::kReentered;
  }
  each_lock([](SpinLock& lock) noexcept { lock.lock_for_fork(); });
  forking_heap_ = heap;
  return {};
}

// The heap of this thread, which stays entered.
Heap* AllocatorCore::leave_fork() noexcept EXCLAVE_NO_THREAD_SAFETY_ANALYSIS {
  Heap* const heap = forking_heap_;
  // The pools' lists are the last to go: the walk needs them.
  SpinLock* const first = &pools_.lists();
  each_lock([first](SpinLock& lock) noexcept {
    if (&lock != first) lock.unlock_after_fork();
  });
  first->unlock_after_fork();
  return heap;
}

void AllocatorCore::after_fork_in_parent() noexcept {
  Heap* const heap = leave_fork();
  if (assigned_thread_slot() < kMaxThreadSlots) leave(mine(), heap);
}

void AllocatorCore::after_fork_in_child() noexcept {
#if !defined(NDEBUG)
  forget_other_threads_locks();
#endif
  Heap* const own = leave_fork();
  registry_.after_fork_in_child(assigned_thread_slot() + 1);
  Heap* heap = nullptr;
  {
    LockGuard guard(heap_lists_);
    heap = all_heaps_;
    idle_heaps_ = nullptr;
  }
  {
    LockGuard guard(pools_.lists());
    // Other threads were at work on bytes of these; this one is not, or before_fork had refused.
    pools_.each_pool([](Pool& pool) noexcept { pool.door.empty(); });
  }
  // Some of them may have been about to say that a drain has ended.
  pools_.look_at_drains();
  // This thread's own heap is in the middle of a call, too: this one.
  for (; heap != nullptr; heap = heap->next_heap) {
    const std::uint32_t label = heap->label();
    if (label == 0) {
      // Idle, or as good as that: its thread was on the last steps of giving it up.
      LockGuard guard(heap_lists_);
      heap->next_idle = idle_heaps_;
      idle_heaps_ = heap;
    } else if (homes_[label - 1] == heap &&  // else: left in a call, before an earlier fork
               heaps_[label].load(std::memory_order_relaxed) != &busy_) {
      retire_heap_slow(*heap);
    }
  }
  for (std::uint32_t slot = 0; slot < kMaxThreadSlots; ++slot) {
    if (slot == assigned_thread_slot()) continue;
    homes_[slot] = nullptr;
    leave(heaps_[slot + 1], &none_);
  }
  // GCOVR_EXCL_BR_START: the audit of locks has given it one
  if (assigned_thread_slot() < kMaxThreadSlots) leave(mine(), own);
  // GCOVR_EXCL_BR_STOP
}

}  // namespace exclave::core
