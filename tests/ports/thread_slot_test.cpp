// The thread slots of the process port.
#include "port/thread_slot.hpp"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "base/spin_lock.hpp"

namespace exclave {
namespace {

// Holds threads at a point until all of them are there and the test lets them go.
class Gate {
 public:
  void arrive_and_wait() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  void wait_for(unsigned threads) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= threads; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned arrived_ = 0;
  bool open_ = false;
};

TEST(ThreadSlot, IsTheSameAtEveryQuestion) {
  const std::uint32_t slot = current_thread_slot();
  EXPECT_LT(slot, kMaxThreadSlots);
  EXPECT_EQ(current_thread_slot(), slot);
}

TEST(ThreadSlot, IsUniqueAmongLiveThreadsAndTheLowestFree) {
  const std::uint32_t own = current_thread_slot();
  constexpr unsigned kThreads = 64;
  std::mutex mutex;
  std::set<std::uint32_t> slots{own};
  Gate gate;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      const std::uint32_t slot = current_thread_slot();
      {
        const std::lock_guard lock(mutex);
        EXPECT_TRUE(slots.insert(slot).second) << slot << " given out twice";
      }
      gate.arrive_and_wait();
      EXPECT_EQ(current_thread_slot(), slot);
    });
  }
  gate.wait_for(kThreads);
  EXPECT_EQ(slots.size(), kThreads + 1);
  EXPECT_EQ(*slots.rbegin(), 8 * kThreads) << "there was a lower free one";
  for (const std::uint32_t slot : slots) EXPECT_EQ(slot % 8, 0u) << "two share a cache line";
  gate.open();
  for (auto& thread : threads) thread.join();
}

TEST(ThreadSlot, IsGivenBackAtThreadExit) {
  std::uint32_t first = kNoThreadSlot;
  std::thread([&] { first = current_thread_slot(); }).join();
  for (int i = 0; i < 2000; ++i) {
    std::uint32_t again = kNoThreadSlot;
    std::thread([&] { again = current_thread_slot(); }).join();
    ASSERT_EQ(again, first);
  }
}

TEST(ThreadSlot, TheThreadAfterTheLastSlotGetsNoneAndLaterOne) {
  const std::uint32_t own = current_thread_slot();
  ASSERT_LT(own, kMaxThreadSlots);
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 256 << 10);
  struct Shared {
    Gate gate;
    std::atomic<unsigned> with_slot{0};
  } shared;
  std::vector<pthread_t> threads(kMaxThreadSlots - 1);
  for (auto& thread : threads) {
    ASSERT_EQ(pthread_create(
                  &thread, &small,
                  [](void* context) -> void* {
                    auto& with = *static_cast<Shared*>(context);
                    if (current_thread_slot() < kMaxThreadSlots) ++with.with_slot;
                    with.gate.arrive_and_wait();
                    return nullptr;
                  },
                  &shared),
              0);
  }
  shared.gate.wait_for(kMaxThreadSlots - 1);
  EXPECT_EQ(shared.with_slot, kMaxThreadSlots - 1);

  Gate late;
  std::uint32_t before = 0;
  std::uint32_t after = kNoThreadSlot;
  std::thread one_more([&] {
    before = current_thread_slot();
    EXPECT_EQ(current_thread_slot(), kNoThreadSlot);
    // Its locks are not audited, and hold all the same.
    SpinLock lock(LockRank::kPages);
    { const LockGuard guard(lock); }
#if !defined(NDEBUG)
    check_no_lock_held();
#endif
    late.arrive_and_wait();
    after = current_thread_slot();
  });
  late.wait_for(1);
  EXPECT_EQ(before, kNoThreadSlot);
  shared.gate.open();
  for (auto thread : threads) pthread_join(thread, nullptr);
  late.open();
  one_more.join();
  EXPECT_LT(after, kMaxThreadSlots);
  pthread_attr_destroy(&small);
}

struct Record {
  std::mutex mutex;
  std::vector<std::pair<int, std::uint32_t>> calls;  // which hook, the slot
};
struct Listener {
  Record* record;
  int number;
};
void note_call(void* context, std::uint32_t slot) noexcept {
  const auto& listener = *static_cast<Listener*>(context);
  EXPECT_EQ(current_thread_slot(), slot) << "the slot must still be the thread's own";
  const std::lock_guard lock(listener.record->mutex);
  listener.record->calls.emplace_back(listener.number, slot);
}

TEST(ThreadExitHooks, RunInTheOrderOfRegistrationOnTheEndingThread) {
  Record record;
  Listener one{&record, 1};
  Listener two{&record, 2};
  ASSERT_TRUE(register_thread_exit(note_call, &one));
  ASSERT_TRUE(register_thread_exit(note_call, &two));
  std::uint32_t slot = kNoThreadSlot;
  std::thread([&] { slot = current_thread_slot(); }).join();
  EXPECT_EQ(record.calls, (std::vector<std::pair<int, std::uint32_t>>{{1, slot}, {2, slot}}));

  record.calls.clear();
  unregister_thread_exit(note_call, &one);
  std::thread([&] { slot = current_thread_slot(); }).join();
  EXPECT_EQ(record.calls, (std::vector<std::pair<int, std::uint32_t>>{{2, slot}}));

  record.calls.clear();
  unregister_thread_exit(note_call, &two);
  unregister_thread_exit(note_call, &two);  // unknown by now
  std::thread([&] { slot = current_thread_slot(); }).join();
  EXPECT_TRUE(record.calls.empty());
}

TEST(ThreadExitHooks, OnlyTheOneThatIsNamedGoes) {
  Record record;
  Listener one{&record, 1};
  Listener two{&record, 2};
  const auto other = +[](void* context, std::uint32_t slot) noexcept { note_call(context, slot); };
  ASSERT_TRUE(register_thread_exit(note_call, &one));
  ASSERT_TRUE(register_thread_exit(other, &one));
  ASSERT_TRUE(register_thread_exit(other, &two));
  unregister_thread_exit(other, &two);
  std::thread([] { current_thread_slot(); }).join();
  EXPECT_EQ(record.calls.size(), 2u);
  for (const auto& [number, slot] : record.calls) EXPECT_EQ(number, 1);
  unregister_thread_exit(other, &one);
  unregister_thread_exit(other, &one);  // unknown by now
  record.calls.clear();
  std::thread([] { current_thread_slot(); }).join();
  EXPECT_EQ(record.calls.size(), 1u);
  unregister_thread_exit(note_call, &one);
}

TEST(ThreadExitHooks, AreSilentForAThreadThatNeverAsked) {
  Record record;
  Listener one{&record, 1};
  ASSERT_TRUE(register_thread_exit(note_call, &one));
  std::thread([] {}).join();
  EXPECT_TRUE(record.calls.empty());
  unregister_thread_exit(note_call, &one);
}

// A destructor that runs after ours and uses the library again: a new slot, and the hooks once
// more.
TEST(ThreadExitHooks, RunAgainWhenALaterDestructorAsksAnew) {
  current_thread_slot();  // our key exists first, so its destructor runs first
  static std::uint32_t asked_late;
  asked_late = kNoThreadSlot;
  pthread_key_t later;
  ASSERT_EQ(pthread_key_create(&later, [](void*) { asked_late = current_thread_slot(); }), 0);
  Record record;
  Listener one{&record, 1};
  ASSERT_TRUE(register_thread_exit(note_call, &one));
  std::uint32_t slot = kNoThreadSlot;
  std::thread([&] {
    slot = current_thread_slot();
    pthread_setspecific(later, &record);
  }).join();
  EXPECT_EQ(asked_late, slot) << "the lowest free one is the one just given back";
  EXPECT_EQ(record.calls, (std::vector<std::pair<int, std::uint32_t>>{{1, slot}, {1, slot}}));
  std::uint32_t next = kNoThreadSlot;
  std::thread([&] { next = current_thread_slot(); }).join();
  EXPECT_EQ(next, slot) << "the second slot leaked";
  unregister_thread_exit(note_call, &one);
  pthread_key_delete(later);
}

TEST(ThreadExitHooks, UnregisterWaitsForAHookThatRuns) {
  struct Slow {
    Gate gate;
    std::atomic<bool> finished{false};
  } slow;
  const auto hook = +[](void* context, std::uint32_t) noexcept {
    auto& with = *static_cast<Slow*>(context);
    with.gate.arrive_and_wait();
    with.finished = true;
  };
  ASSERT_TRUE(register_thread_exit(hook, &slow));
  std::thread ending([] { current_thread_slot(); });
  slow.gate.wait_for(1);
  std::atomic<bool> returned{false};
  std::thread remover([&] {
    unregister_thread_exit(hook, &slow);
    EXPECT_TRUE(slow.finished);
    returned = true;
  });
  // A stalled hook holds up nobody else: not other threads' ends, not registration.
  Record record;
  Listener one{&record, 1};
  ASSERT_TRUE(register_thread_exit(note_call, &one));
  unregister_thread_exit(note_call, &one);
  EXPECT_FALSE(returned);
  slow.gate.open();
  ending.join();
  remover.join();
  EXPECT_TRUE(returned);
}

TEST(ThreadExitHooks, SurviveThreadsAndRegistrationsAtOnce) {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> calls{0};
  std::vector<std::thread> registrars;
  for (int i = 0; i < 2; ++i) {
    registrars.emplace_back([&] {
      const auto hook = +[](void* context, std::uint32_t slot) noexcept {
        EXPECT_LT(slot, kMaxThreadSlots);
        auto* const word = static_cast<std::atomic<std::uint64_t>*>(context);
        EXPECT_NE(word->fetch_add(1), UINT64_MAX / 2) << "called after unregister";
      };
      while (!stop) {
        std::atomic<std::uint64_t> own{0};
        EXPECT_TRUE(register_thread_exit(hook, &own));
        std::this_thread::yield();
        unregister_thread_exit(hook, &own);
        calls += own.exchange(UINT64_MAX / 2);
      }
    });
  }
  for (int round = 0; round < 200; ++round) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) threads.emplace_back([] { current_thread_slot(); });
    for (auto& thread : threads) thread.join();
  }
  stop = true;
  for (auto& thread : registrars) thread.join();
}

// THREATS 56: a signal handler asks first, or in the middle of the first question.
TEST(Threat56_SignalInTheMiddle, TheThreadEndsUpWithOneSlot) {
  struct sigaction action = {};
  struct sigaction before = {};
  action.sa_handler = [](int) { current_thread_slot(); };
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  std::uint32_t lowest = kNoThreadSlot;
  std::thread([&] { lowest = current_thread_slot(); }).join();
  for (int i = 0; i < 500; ++i) {
    std::atomic<bool> running{false};
    std::uint32_t slot = kNoThreadSlot;
    std::atomic<bool> done{false};
    std::thread thread([&] {
      running = true;
      slot = current_thread_slot();
      EXPECT_EQ(current_thread_slot(), slot);
      while (!done) std::this_thread::yield();
    });
    while (!running) std::this_thread::yield();
    pthread_kill(thread.native_handle(), SIGUSR1);
    done = true;
    thread.join();
    ASSERT_LE(slot, lowest + 1);
  }
  std::uint32_t after = kNoThreadSlot;
  std::thread([&] { after = current_thread_slot(); }).join();
  EXPECT_EQ(after, lowest) << "a slot leaked";
  sigaction(SIGUSR1, &before, nullptr);
}

}  // namespace
}  // namespace exclave
