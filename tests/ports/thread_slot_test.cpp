// The thread slots of the process port.
#include "port/thread_slot.hpp"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <condition_variable>
#include <cstdio>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/spin_lock.hpp"
#include "exclave/process_port.hpp"
#include "support/kernel_answers.hpp"
#include "support/sanitizers.hpp"
#include "support/stepped_call.hpp"

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

using testing_support::in_a_child;
using testing_support::kSanitized;
using testing_support::SteppedCall;

// A hook that stays until it is let go, and counts how often it runs.
struct Slow {
  Gate gate;
  std::atomic<int> runs{0};
  std::atomic<bool> finished{false};

  static void hook(void* context, std::uint32_t) noexcept {
    auto& with = *static_cast<Slow*>(context);
    ++with.runs;
    with.gate.arrive_and_wait();
    with.finished = true;
  }
};

// Returns when the thread, which does nothing else, waits for something.
void wait_until_it_waits(pid_t thread) {
  const std::string path = "/proc/self/task/" + std::to_string(thread) + "/stat";
  for (char state = 'R'; state != 'S'; std::this_thread::yield()) {
    FILE* const stat = fopen(path.c_str(), "r");
    ASSERT_NE(stat, nullptr);
    EXPECT_EQ(fscanf(stat, "%*d (%*[^)]) %c", &state), 1);
    fclose(stat);
  }
}

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
  EXPECT_EQ(current_thread_slot(), own) << "who has one keeps it";
  // Who never had one ends without a hook.
  std::atomic<int> hooks = 0;
  const auto hook =
      +[](void* context, std::uint32_t) noexcept { ++*static_cast<std::atomic<int>*>(context); };
  ASSERT_TRUE(register_thread_exit(hook, &hooks));
  std::thread([] { EXPECT_EQ(current_thread_slot(), kNoThreadSlot); }).join();
  EXPECT_EQ(hooks, 0);
  unregister_thread_exit(hook, &hooks);
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

// In the last round, when no destructor of ours will run any more.
TEST(ThreadSlot, WhatIsClaimedInTheLastRoundOfDestructorsIsNotLost) {
  if (testing_support::kThreadSanitized) GTEST_SKIP() << "it has ended with the thread by then";
  current_thread_slot();  // our key exists first, so its destructor runs first
  static thread_local int rounds;
  static pthread_key_t later;
  ASSERT_EQ(pthread_key_create(&later,
                               [](void* value) {
                                 if (++rounds == PTHREAD_DESTRUCTOR_ITERATIONS) {
                                   current_thread_slot();
                                 } else {
                                   pthread_setspecific(later, value);
                                 }
                               }),
            0);
  for (std::uint32_t i = 0; i < kMaxThreadSlots + 100; ++i) {
    std::thread([] { pthread_setspecific(later, &later); }).join();
  }
  pthread_key_delete(later);
  // As many at once as ever.
  std::uint32_t slot = kNoThreadSlot;
  for (std::uint32_t i = 0; i <= kMaxThreadSlots && slot == kNoThreadSlot; ++i)
    std::thread([&] { slot = current_thread_slot(); }).join();
  EXPECT_NE(slot, kNoThreadSlot);
  constexpr unsigned kAtOnce = 100;
  Gate gate;
  std::atomic<unsigned> with_slot{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kAtOnce; ++i) {
    threads.emplace_back([&] {
      with_slot += current_thread_slot() != kNoThreadSlot;
      gate.arrive_and_wait();
    });
  }
  gate.wait_for(kAtOnce);
  EXPECT_EQ(with_slot, kAtOnce);
  gate.open();
  for (std::thread& thread : threads) thread.join();
}

TEST(ThreadExitHooks, UnregisterWaitsForAHookThatRuns) {
  Slow slow;
  ASSERT_TRUE(register_thread_exit(Slow::hook, &slow));
  std::thread ending([] { current_thread_slot(); });
  slow.gate.wait_for(1);
  std::atomic<bool> returned{false};
  std::atomic<pid_t> waiting{0};
  std::thread remover([&] {
    waiting = gettid();
    unregister_thread_exit(Slow::hook, &slow);
    EXPECT_TRUE(slow.finished);
    returned = true;
  });
  // A stalled hook holds up nobody else: not other threads' ends, not registration.
  Record record;
  Listener one{&record, 1};
  ASSERT_TRUE(register_thread_exit(note_call, &one));
  unregister_thread_exit(note_call, &one);
  while (waiting == 0) std::this_thread::yield();
  wait_until_it_waits(waiting);
  EXPECT_FALSE(returned);
  // It is nobody's hook any more: it does not run again, and there is nothing to unregister.
  std::thread([] { current_thread_slot(); }).join();
  EXPECT_EQ(slow.runs, 1);
  unregister_thread_exit(Slow::hook, &slow);
  EXPECT_FALSE(slow.finished);
  slow.gate.open();
  ending.join();
  remover.join();
  EXPECT_TRUE(returned);
}

// Pages are all that a process has a limited number of.
TEST(ThreadExitHooks, TakeNoMemoryWhenTheyAreGone) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer takes memory as it likes";
  const auto mapped_pages = [] {
    std::size_t pages = 0;
    FILE* const statm = fopen("/proc/self/statm", "r");
    EXPECT_EQ(fscanf(statm, "%zu", &pages), 1);
    fclose(statm);
    return pages;
  };
  Record record;
  Listener one{&record, 1};
  const std::size_t before = mapped_pages();
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(register_thread_exit(note_call, &one));
    unregister_thread_exit(note_call, &one);
  }
  EXPECT_LT(mapped_pages(), before + 100);
}

TEST(ThreadExitHooks, WithoutMemoryForOneItSaysSo) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself takes memory";
  EXPECT_EQ(in_a_child([] {
              if (!testing_support::hold_memory()) return 1;
              Record record;
              Listener one{&record, 1};
              return register_thread_exit(note_call, &one) ? 2 : 0;
            }),
            0);
}

// ---- After fork ----

// The child has one thread: what others were in the middle of does not end there.
TEST(ThreadSlotAfterFork, AHookThatRanElsewhereIsNotWaitedFor) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's own threads do not come along";
  static Slow* slow = nullptr;
  Slow here;
  slow = &here;
  ASSERT_TRUE(register_thread_exit(Slow::hook, slow));
  std::thread ending([] { current_thread_slot(); });
  here.gate.wait_for(1);
  EXPECT_EQ(in_a_child([] {
              ProcessPort::forget_other_threads();
              unregister_thread_exit(Slow::hook, slow);
              return 0;
            }),
            0);
  here.gate.open();
  ending.join();
  unregister_thread_exit(Slow::hook, slow);
}

// Takes them all. None of them is this thread's.
std::size_t count_free_slots() {
  std::size_t count = 0;
  for (std::uint32_t slot = 0;; ++count) {
    slot = detail::claim_thread_slot();
    if (slot == kNoThreadSlot) return count;
    if (slot == assigned_thread_slot()) return SIZE_MAX;
  }
}

TEST(ThreadSlotAfterFork, OnlyTheChildsOwnSlotIsTaken) {
  ASSERT_LT(current_thread_slot(), kMaxThreadSlots);
  EXPECT_EQ(in_a_child([] {
              (void)count_free_slots();
              ProcessPort::forget_other_threads();
              return count_free_slots() == kMaxThreadSlots - 1 ? 0 : 1;
            }),
            0);
  // Of a thread that has none.
  std::thread([] {
    EXPECT_EQ(in_a_child([] {
                (void)count_free_slots();
                ProcessPort::forget_other_threads();
                return count_free_slots() == kMaxThreadSlots ? 0 : 1;
              }),
              0);
  }).join();
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
    // The handler may have been given one while the lowest was already claimed.
    ASSERT_TRUE(slot == lowest || slot == lowest + 8) << slot;
  }
  std::uint32_t after = kNoThreadSlot;
  std::thread([&] { after = current_thread_slot(); }).join();
  EXPECT_EQ(after, lowest) << "a slot leaked";
  sigaction(SIGUSR1, &before, nullptr);
}

// Stops a thread's first question. False: it has fewer instructions.
bool stopped_in_first_question(std::uint64_t n, const std::function<void()>& inside,
                               std::uint32_t* slot) {
  const SteppedCall stepper;
  return SteppedCall::stopped_at(
      n, [&] { *slot = current_thread_slot(); }, inside);
}

// There is no slot left; then there are some, and the handler gets one: it is the thread's, and the
// only one that is taken. In a child, whose first thread has none.
TEST(Threat56_SignalInTheMiddle, WhoIsRefusedGivesNothingBack) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  std::thread([] {
    EXPECT_EQ(in_a_child([] {
                bool more = true;
                int wrong = 0;
                std::uint64_t n = 1;
                for (; more && wrong == 0; ++n) {
                  (void)count_free_slots();
                  std::thread([&] {
                    std::uint32_t slot = 0;
                    std::uint32_t in_handler = kNoThreadSlot;
                    const auto inside = [&] {
                      ProcessPort::forget_other_threads();
                      in_handler = current_thread_slot();
                    };
                    more = stopped_in_first_question(n, inside, &slot);
                    if (!more) return;
                    if (in_handler != 0 || current_thread_slot() != 0) wrong = 1;
                    if (slot != 0 && slot != kNoThreadSlot) wrong = 2;
                    if (count_free_slots() != kMaxThreadSlots - 1) wrong = 3;
                  }).join();
                  ProcessPort::forget_other_threads();
                }
                return n > 20 ? wrong : 4;
              }),
              0);
  }).join();
}

std::size_t count_free_keys() {
  std::vector<pthread_key_t> keys;
  for (pthread_key_t key; pthread_key_create(&key, nullptr) == 0;) keys.push_back(key);
  for (const pthread_key_t key : keys) pthread_key_delete(key);
  return keys.size();
}

// The process' very first question: the handler's makes the key for the ends of threads, too. One
// of the two is given back.
TEST(Threat56_SignalInTheMiddle, TheProcessEndsUpWithOneKey) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a process of its own, in which nobody asked
  static std::uint64_t n;
  const auto ask_first = [] {
    int code = 0;
    // What the question calls is bound by now.
    (void)count_free_keys();
    (void)pthread_setspecific(PTHREAD_KEYS_MAX, nullptr);
    for (n = 1; code == 0; ++n) {
      code = in_a_child([] {
        const std::size_t keys = count_free_keys();
        std::uint32_t slot = 0;
        std::uint32_t in_handler = 0;
        const bool stopped = stopped_in_first_question(
            n, [&] { in_handler = current_thread_slot(); }, &slot);
        if (count_free_keys() != keys - 1) return 1;
        return stopped ? 0 : 100;
      });
    }
    testing_support::end_child(code == 100 && n > 20 ? 0 : code);
  };
  EXPECT_EXIT(ask_first(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace exclave
