// A lock that sleeps in the kernel: it is held across system calls.
#pragma once

#include <atomic>

#include "loader/syscalls.hpp"

namespace exclave::loader {

class Lock {
 public:
  void lock() noexcept {
    std::uint32_t seen = kFree;
    // Acquire pairs with the release in unlock.
    if (word_.compare_exchange_strong(seen, kHeld, std::memory_order_acquire)) return;
    while (word_.exchange(kWanted, std::memory_order_acquire) != kFree) {
      (void)system_call(__NR_futex, &word_, kWait, kWanted, 0);
    }
  }
  void unlock() noexcept {
    if (word_.exchange(kFree, std::memory_order_release) == kWanted) {
      (void)system_call(__NR_futex, &word_, kWake, 1);
    }
  }

 private:
  static constexpr std::uint32_t kFree = 0, kHeld = 1, kWanted = 2;
  static constexpr int kWait = 128, kWake = 129;  // FUTEX_PRIVATE_FLAG on both
  std::atomic<std::uint32_t> word_{kFree};
};

class Locked {
 public:
  explicit Locked(Lock& lock) noexcept : lock_(lock) { lock_.lock(); }
  ~Locked() { lock_.unlock(); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  Lock& lock_;
};

}  // namespace exclave::loader
