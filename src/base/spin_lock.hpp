// A spin lock with a rank. Ranks are taken in ascending order, and no host call is made under any
// of them: the debug build stops when either rule is broken. A thread never meets its own lock:
// nested calls are told apart before any lock is taken (AllocatorCore::Gate).
#pragma once

#include <atomic>
#include <cstdint>

#include "base/annotations.hpp"
#include "base/check.hpp"

namespace exclave {

// The whole order. docs/concurrency.md says what each guards.
enum class LockRank : std::uint8_t {
  kPoolList = 0,  // the lists of attached pools and of heaps
  kHeap = 1,      // a shared heap: an attached pool's, or that of threads that ended
  kRegistry = 2,  // the ordered regions, the writers of the pagemap, the pins
  kPages = 3,     // page runs of one pool of regions
  kAreas = 4,     // the areas of the enclave's own memory
  kBooks = 5,     // trusted memory for the books
};

// Ranks that the current thread holds, one bit each; debug builds only. Lives in port/, which knows
// the thread.
void note_lock(LockRank rank) noexcept;
void note_unlock(LockRank rank) noexcept;
void check_no_lock_held() noexcept;
// In the child of a fork, while no lock is held but for_fork.
void forget_other_threads_locks() noexcept;
// Of a call that was jumped out of while it took or gave up a lock, and holds none.
void forget_own_locks() noexcept;

class EXCLAVE_CAPABILITY("mutex") SpinLock {
 public:
  explicit constexpr SpinLock(LockRank rank) noexcept : rank_(rank) {}

  void lock() noexcept EXCLAVE_ACQUIRE() {
#if !defined(NDEBUG)
    note_lock(rank_);
#endif
    // Acquire pairs with the release in unlock: what the last holder wrote is seen.
    while (EXCLAVE_UNLIKELY(locked_.exchange(true, std::memory_order_acquire))) {
      while (locked_.load(std::memory_order_relaxed)) __builtin_ia32_pause();
    }
  }
  void unlock() noexcept EXCLAVE_RELEASE() {
    locked_.store(false, std::memory_order_release);
#if !defined(NDEBUG)
    note_unlock(rank_);
#endif
  }

  bool looks_free() const noexcept {
    return !locked_.load(std::memory_order_relaxed);
  }

  // For fork, which takes every lock there is, several of one rank: the audit does not see these.
  void lock_for_fork() noexcept EXCLAVE_NO_THREAD_SAFETY_ANALYSIS {
    while (locked_.exchange(true, std::memory_order_acquire)) __builtin_ia32_pause();
  }
  void unlock_after_fork() noexcept EXCLAVE_NO_THREAD_SAFETY_ANALYSIS {
    locked_.store(false, std::memory_order_release);
  }

 private:
  std::atomic<bool> locked_{false};
  [[maybe_unused]] LockRank rank_;  // for the debug build
};

class EXCLAVE_SCOPED_CAPABILITY LockGuard {
 public:
  explicit LockGuard(SpinLock& lock) noexcept EXCLAVE_ACQUIRE(lock) : lock_(lock) { lock_.lock(); }
  ~LockGuard() EXCLAVE_RELEASE() { lock_.unlock(); }
  LockGuard(const LockGuard&) = delete;
  LockGuard& operator=(const LockGuard&) = delete;

 private:
  SpinLock& lock_;
};

}  // namespace exclave
