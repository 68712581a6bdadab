// Calls that never end, because a signal handler jumped out of them (siglongjmp, an exception).
//
// Their thread's heap was taken out of the table for the length of the call, so all that the thread
// asks for later would be refused. It gets another heap. The one that the call was at work on stays
// as it is, in the middle of whatever that was: its blocks can be freed, its slabs are not used
// again.
//
// The books stay sound even if the call does go on later: to them it is what another thread's call
// is. Only a lock that it holds must not be waited for.
#include "base/backoff.hpp"
#include "heap/core.hpp"

namespace exclave::core {

Status AllocatorCore::give_up_interrupted_call() noexcept {
  const std::uint32_t slot = assigned_thread_slot();
  if (slot >= kMaxThreadSlots || !is_inside(this)) return {};
  if (!holds_no_lock()) return Error::kReentered;
#if !defined(NDEBUG)
  forget_own_locks();
#endif
  {
    LockGuard guard(pools_.lists());
    // Attached pools have locks of their own, which were not looked at, and doors.
    if (!pools_.is_unused()) return Error::kReentered;
  }
  {
    LockGuard guard(heap_lists_);
    const Heap* const left = homes_[slot];
    // GCOVR_EXCL_BR_START: it is listed, but for a jump at one instruction
    for (Heap** link = &all_heaps_; *link != nullptr; link = &(*link)->next_heap) {
      // GCOVR_EXCL_BR_STOP
      if (*link != left) continue;
      *link = left->next_heap;
      break;
    }
  }
  homes_[slot] = nullptr;
  leave(mine(), &none_);
  return {};
}

// A lock that looks free once is not this thread's: the others' are given up soon. False: one never
// looked free.
bool AllocatorCore::holds_no_lock() noexcept {
  constexpr unsigned kMostLooks = 1u << 8;  // some milliseconds
  SpinLock* const locks[] = {&pools_.lists(),   &heap_lists_,   &orphans_lock_,
                             &registry_.lock(), &grown_.lock(), &books_.lock()};
  for (const SpinLock* const lock : locks) {
    Backoff backoff;
    for (unsigned looks = 0; !lock->looks_free(); ++looks) {
      if (looks == kMostLooks) return false;
      backoff.wait();
    }
  }
  return true;
}

}  // namespace exclave::core
