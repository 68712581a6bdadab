// The lock, and the debug build's guard over ranks and host calls.
#include "base/spin_lock.hpp"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "exclave/result.hpp"

namespace exclave {
namespace {

TEST(SpinLockTest, OneThreadAtATime) {
  SpinLock lock(LockRank::kPages);
  std::uint64_t counter = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 20000; ++n) {
        const LockGuard guard(lock);
        counter += 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter, 80000u);
}

TEST(SpinLockTest, RanksMayBeTakenInAscendingOrder) {
  SpinLock lists(LockRank::kPoolList);
  SpinLock heap(LockRank::kHeap);
  SpinLock books(LockRank::kBooks);
  for (int i = 0; i < 2; ++i) {
    const LockGuard first(lists);
    const LockGuard second(heap);
    const LockGuard third(books);
  }
}

#if !defined(NDEBUG)
void take_in_descending_order() EXCLAVE_NO_THREAD_SAFETY_ANALYSIS {
  SpinLock pages(LockRank::kPages);
  SpinLock registry(LockRank::kRegistry);
  pages.lock();
  registry.lock();
}
void take_one_rank_twice() EXCLAVE_NO_THREAD_SAFETY_ANALYSIS {
  SpinLock first(LockRank::kHeap);
  SpinLock second(LockRank::kHeap);
  first.lock();
  second.lock();
}
void call_the_host_under_a_lock() EXCLAVE_NO_THREAD_SAFETY_ANALYSIS {
  SpinLock pages(LockRank::kPages);
  pages.lock();
  check_no_lock_held();
}

TEST(SpinLockDeathTest, DebugBuildStopsAtADescendingRank) {
  EXPECT_DEATH(take_in_descending_order(), "");
}
TEST(SpinLockDeathTest, DebugBuildStopsAtARankTwice) {
  EXPECT_DEATH(take_one_rank_twice(), "");
}
TEST(SpinLockDeathTest, Threat57DebugBuildStopsAtAHostCallUnderALock) {
  EXPECT_DEATH(call_the_host_under_a_lock(), "");
}
TEST(SpinLockTest, NoLockIsHeldAfterGuardsEnd) {
  {
    SpinLock lock(LockRank::kRegistry);
    const LockGuard guard(lock);
  }
  check_no_lock_held();
}
#endif

TEST(ErrorTextTest, EveryErrorHasALineOfItsOwn) {
  std::vector<std::string> seen;
  for (std::int32_t number = 0; number <= static_cast<std::int32_t>(Error::kTooManyThreads);
       ++number) {
    const std::string text = error_text(static_cast<Error>(number));
    EXPECT_NE(text, "unknown error") << number;
    for (const std::string& other : seen) EXPECT_NE(text, other);
    seen.push_back(text);
  }
  EXPECT_STREQ(error_text(static_cast<Error>(9999)), "unknown error");
}

}  // namespace
}  // namespace exclave
