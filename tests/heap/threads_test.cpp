// Many threads: frees by others than the owner, threads that end, slots that are used again.
#include <gtest/gtest.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "exclave/memory_calls.hpp"
#include "port/thread_slot.hpp"
#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class ThreadsTest : public FakeAllocatorTest {
 protected:
  // Runs on a thread of its own, which ends before this returns.
  template <class F>
  static void on_a_thread(F body) {
    std::thread(body).join();
  }
  std::vector<std::uintptr_t> allocate_many(std::size_t count, std::size_t size) {
    std::vector<std::uintptr_t> blocks;
    for (std::size_t i = 0; i < count; ++i) blocks.push_back(allocate(size));
    return blocks;
  }
};

TEST_F(ThreadsTest, BlocksOutliveTheirThreadAndAreFreedByAnother) {
  std::vector<std::uintptr_t> blocks;
  on_a_thread([&] { blocks = allocate_many(100, 64); });
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(statistics().live_blocks, 100u);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(statistics().live_blocks, 0u);
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(ThreadsTest, SlabOfAnEndedThreadIsTakenOverWithBlocksThatWereFreedMeanwhile) {
  std::vector<std::uintptr_t> blocks;
  on_a_thread([&] { blocks = allocate_many(100, 64); });
  for (std::size_t i = 0; i < 50; ++i) EXPECT_EQ(free(blocks[i]), Error::kNone);
  // This thread's own stack is empty, so the orphaned slab is taken over.
  const std::uintptr_t mine = allocate(64);
  EXPECT_TRUE(allocator_->validate_books());
  const Statistics before = statistics();
  EXPECT_EQ(before.live_blocks, 51u);
  for (std::size_t i = 50; i < 100; ++i) EXPECT_EQ(free(blocks[i]), Error::kNone);
  EXPECT_EQ(free(mine), Error::kNone);
  EXPECT_TRUE(allocator_->validate_books());
  allocator_->trim();
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(statistics().reserved_bytes, 0u);
}

TEST_F(ThreadsTest, EndedThreadsCachesAreGivenBack) {
  on_a_thread([&] {
    for (const std::uintptr_t block : allocate_many(200, 48)) EXPECT_EQ(free(block), Error::kNone);
  });
  EXPECT_EQ(statistics().cached_bytes, 0u);
  allocator_->trim();
  EXPECT_EQ(statistics().reserved_bytes, 0u);
}

TEST_F(ThreadsTest, ThreadSlotIsUsedAgainAndStartsClean) {
  for (int round = 0; round < 50; ++round) {
    on_a_thread([&] {
      auto blocks = allocate_many(30, 32 + 16 * static_cast<std::size_t>(round % 5));
      for (std::size_t i = 0; i < blocks.size(); i += 2) EXPECT_EQ(free(blocks[i]), Error::kNone);
      for (std::size_t i = 1; i < blocks.size(); i += 2) EXPECT_EQ(free(blocks[i]), Error::kNone);
    });
    ASSERT_TRUE(allocator_->validate_books()) << round;
  }
  // One heap was used fifty times: the books did not grow with the number of threads.
  EXPECT_LT(statistics().trusted_bytes, 2 * kMiBytes);
}

TEST_F(ThreadsTest, PartlyFilledBatchesAreSentWhenTheirThreadEnds) {
  const std::vector<std::uintptr_t> blocks = allocate_many(7, 64);
  on_a_thread([&] {
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
    // Freed, though this thread has not sent them yet.
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kDoubleFree);
  });
  const Statistics sent = statistics();
  EXPECT_EQ(sent.live_blocks, 0u);
  allocator_->flush_thread();
  const Statistics folded = statistics();
  EXPECT_EQ(folded.cached_bytes, 0u);
  EXPECT_TRUE(sums_up(folded));
}

TEST_F(ThreadsTest, FlushSendsPartlyFilledBatches) {
  const std::vector<std::uintptr_t> blocks = allocate_many(7, 64);
  std::barrier meet(2);
  std::thread other([&] {
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
    allocator_->flush_thread();
    meet.arrive_and_wait();
    meet.arrive_and_wait();
  });
  meet.arrive_and_wait();
  allocator_->flush_thread();
  EXPECT_EQ(statistics().cached_bytes, 0u);
  EXPECT_EQ(statistics().live_blocks, 0u);
  meet.arrive_and_wait();
  other.join();
}

TEST_F(ThreadsTest, BatchForAnOwnerThatEndedMeanwhileIsSettled) {
  std::vector<std::uintptr_t> blocks;
  std::barrier meet(2);
  std::thread owner([&] {
    blocks = allocate_many(10, 64);
    meet.arrive_and_wait();  // allocated
    meet.arrive_and_wait();  // freed, into a batch that was not sent
  });
  meet.arrive_and_wait();
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  meet.arrive_and_wait();
  owner.join();
  EXPECT_TRUE(allocator_->validate_books());
  allocator_->flush_thread();  // sends to a heap without a thread
  EXPECT_TRUE(allocator_->validate_books());
  allocator_->trim();
  EXPECT_EQ(statistics().reserved_bytes, 0u) << "all was free";
}

TEST_F(ThreadsTest, BatchForAHeapThatHasANewThreadFindsItsSlabs) {
  std::vector<std::uintptr_t> blocks;
  std::barrier meet(2);
  std::thread owner([&] {
    blocks = allocate_many(10, 64);
    meet.arrive_and_wait();
    meet.arrive_and_wait();
  });
  meet.arrive_and_wait();
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  meet.arrive_and_wait();
  owner.join();
  // The heap goes to this new thread; the old slabs are orphans.
  on_a_thread([&] {
    const std::uintptr_t other_class = allocate(1000);
    std::thread([&] {}).join();
    EXPECT_EQ(free(other_class), Error::kNone);
  });
  std::barrier again(2);
  std::thread successor([&] {
    const std::uintptr_t block = allocate(2000);
    again.arrive_and_wait();
    again.arrive_and_wait();
    EXPECT_EQ(free(block), Error::kNone);
  });
  again.arrive_and_wait();
  allocator_->flush_thread();  // posts to a heap that is active, but not the slabs' owner
  again.arrive_and_wait();
  successor.join();
  EXPECT_TRUE(allocator_->validate_books());
  allocator_->trim();
  EXPECT_EQ(statistics().reserved_bytes, 0u);
}

TEST_F(ThreadsTest, ProducerAndConsumerKeepSteadyMemory) {
  constexpr std::size_t kRounds = 400;
  constexpr std::size_t kBurst = 100;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::uintptr_t> queue;
  bool done = false;
  std::thread consumer([&] {
    for (;;) {
      std::vector<std::uintptr_t> mine;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return done || !queue.empty(); });
        if (queue.empty()) return;
        mine.swap(queue);
      }
      changed.notify_all();
      for (const std::uintptr_t block : mine) ASSERT_EQ(free(block), Error::kNone);
    }
  });
  for (std::size_t round = 0; round < kRounds; ++round) {
    std::vector<std::uintptr_t> burst = allocate_many(kBurst, 64 + round % 3 * 500);
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return queue.size() < 4 * kBurst; });
    queue.insert(queue.end(), burst.begin(), burst.end());
    changed.notify_all();
  }
  {
    const std::lock_guard lock(mutex);
    done = true;
  }
  changed.notify_all();
  consumer.join();
  EXPECT_EQ(statistics().live_blocks, 0u);
  EXPECT_EQ(statistics().grown_bytes, 4 * kMiBytes) << "what was freed elsewhere comes back";
}

TEST_F(ThreadsTest, FreesWhileTheOwnersEnd) {
  // Each owner hands its blocks to the next one and ends at once.
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::uintptr_t> blocks;
    std::atomic<bool> ready = false;
    std::thread owner([&] {
      blocks = allocate_many(200, 32 + static_cast<std::size_t>(round % 4) * 16);
      ready = true;
    });
    while (!ready) std::this_thread::yield();
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      ASSERT_EQ(free(blocks[i]), Error::kNone);
      if (i == 150) allocator_->flush_thread();
    }
    owner.join();
    ASSERT_TRUE(allocator_->validate_books()) << round;
  }
  allocator_->flush_thread();
  allocator_->trim();
  EXPECT_EQ(statistics().reserved_bytes, 0u);
}

TEST_F(ThreadsTest, EveryBlockGoesToOneThreadOnly) {
  constexpr unsigned kThreads = 4;
  constexpr int kSteps = 20000;
  // Each thread holds blocks, and passes some on to its neighbour, who frees them.
  struct Mailbox {
    std::mutex mutex;
    std::vector<std::uintptr_t> blocks;
  };
  std::vector<Mailbox> mail(kThreads);
  std::vector<std::vector<std::pair<std::uintptr_t, std::size_t>>> held(kThreads);
  std::vector<std::thread> threads;
  for (unsigned me = 0; me < kThreads; ++me) {
    threads.emplace_back([&, me] {
      std::mt19937 random(me);
      for (int step = 0; step < kSteps; ++step) {
        const auto dice = random() % 100;
        if (dice < 50 || held[me].empty()) {
          const std::size_t size = 1 + random() % (random() % 8 == 0 ? 40000 : 600);
          const std::uintptr_t block = allocate(size);
          ASSERT_NE(block, 0u);
          held[me].emplace_back(block, size);
        } else {
          const std::size_t chosen = random() % held[me].size();
          const std::uintptr_t block = held[me][chosen].first;
          held[me][chosen] = held[me].back();
          held[me].pop_back();
          if (dice < 75) {
            ASSERT_EQ(free(block), Error::kNone);
          } else {
            Mailbox& box = mail[(me + 1) % kThreads];
            const std::lock_guard lock(box.mutex);
            box.blocks.push_back(block);
          }
        }
        if (step % 64 == 0) {
          std::vector<std::uintptr_t> mine;
          {
            const std::lock_guard lock(mail[me].mutex);
            mine.swap(mail[me].blocks);
          }
          for (const std::uintptr_t block : mine) ASSERT_EQ(free(block), Error::kNone);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(allocator_->validate_books());
  std::set<std::pair<std::uintptr_t, std::uintptr_t>> extents;
  for (const auto& blocks : held) {
    for (const auto& [block, size] : blocks) extents.emplace(block, block + size);
  }
  std::uintptr_t end = 0;
  for (const auto& [first, last] : extents) {
    EXPECT_GE(first, end) << "two live blocks overlap";
    end = last;
  }
  for (const auto& blocks : held) {
    for (const auto& [block, size] : blocks) EXPECT_EQ(free(block, size), Error::kNone);
  }
  for (Mailbox& box : mail) {
    for (const std::uintptr_t block : box.blocks) EXPECT_EQ(free(block), Error::kNone);
  }
  EXPECT_EQ(statistics().live_blocks, 0u);
}

// THREATS 41: both at once. One of the two frees wins, or both are counted and one is told later;
// nothing breaks.
TEST_F(ThreadsTest, Threat41DoubleFreesByTwoThreadsAtOnceHarmNothing) {
  std::atomic<std::uintptr_t> shared{0};
  std::atomic<int> turn{0};
  constexpr int kRounds = 4000;
  std::atomic<bool> stop = false;
  std::thread other([&] {
    int seen = 0;
    while (!stop) {
      const int now = turn.load(std::memory_order_acquire);
      if (now == seen) continue;
      seen = now;
      (void)free(shared.load());
      if (now % 16 == 0) allocator_->flush_thread();
    }
  });
  for (int round = 1; round <= kRounds; ++round) {
    const std::uintptr_t block = allocate(5000);
    ASSERT_NE(block, 0u);
    shared = block;
    turn.store(round, std::memory_order_release);
    for (int spin = 0; spin < round % 50; ++spin) __builtin_ia32_pause();
    (void)free(block);
    if (round % 7 == 0) allocator_->flush_thread();
  }
  stop = true;
  other.join();
  allocator_->flush_thread();
  EXPECT_TRUE(allocator_->validate_books());
}

// Stale frees that race with the slab's being given back and cut anew.
TEST_F(ThreadsTest, StaleFreesWhileSlabsAreRecycledHarmNothing) {
  std::atomic<bool> stop = false;
  std::vector<std::atomic<std::uintptr_t>> stale(8);
  std::thread other([&] {
    std::mt19937 random(3);
    while (!stop) {
      const std::uintptr_t block = stale[random() % stale.size()].load();
      if (block != 0) (void)allocator_->deallocate(bytes_at(block));
    }
  });
  std::mt19937 random(5);
  for (int round = 0; round < 3000; ++round) {
    const std::size_t size = 5000 + random() % 6 * 4096;
    std::vector<std::uintptr_t> blocks;
    for (int i = 0; i < 4; ++i) blocks.push_back(allocate(size));
    for (const std::uintptr_t block : blocks) (void)free(block);
    for (std::size_t i = 0; i < blocks.size(); ++i) stale[i] = blocks[i];
    allocator_->flush_thread();
  }
  stop = true;
  other.join();
  allocator_->flush_thread();
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(ThreadsTest, RevokeWhileOthersUseThePool) {
  AttachOptions options;
  options.device = 5;
  std::atomic<bool> stop = false;
  std::atomic<unsigned> begun = 0;
  std::vector<std::thread> threads;
  for (unsigned me = 0; me < 3; ++me) {
    threads.emplace_back([&, me] {
      std::mt19937 random(me);
      ++begun;
      while (!stop) {
        std::vector<std::uintptr_t> blocks;
        for (int i = 0; i < 20; ++i) {
          const std::uintptr_t block = allocate(16 + random() % 30000, 16, Placement::on_device(5));
          if (block != 0) blocks.push_back(block);
        }
        for (const std::uintptr_t block : blocks) {
          const Error freed = allocator_->deallocate(bytes_at(block)).error();
          // Stale, or another thread's block by now: a bare pointer cannot tell.
          ASSERT_TRUE(freed == Error::kNone || freed == Error::kForeignFree ||
                      freed == Error::kDoubleFree || freed == Error::kInteriorFree);
        }
      }
    });
  }
  // Else it may be over before they are here.
  while (begun != threads.size()) std::this_thread::yield();
  // A busy machine lets this thread come by less often.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  for (int round = 0; round < 300 && std::chrono::steady_clock::now() < end; ++round) {
    const Extent range = range_at(0, (1 + static_cast<std::size_t>(round) % 3) * kMiBytes);
    const Result<RegionId> id = allocator_->attach(range, options);
    ASSERT_TRUE(id.ok());
    std::this_thread::yield();
    ASSERT_TRUE(allocator_->detach(range, DetachMode::kRevoke).ok());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(statistics().regions, 0u);
}

TEST_F(ThreadsTest, ThreadBeyondTheLastSlotIsToldAndNothingChanges) {
  constexpr unsigned kThreads = 1100;
  std::mutex mutex;
  std::condition_variable changed;
  unsigned started = 0;
  bool go_home = false;
  std::atomic<unsigned> served{0};
  std::atomic<unsigned> refused{0};
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, std::size_t{128} << 10);
  const std::uintptr_t mine = allocate(64);
  struct Shared {
    std::function<void()> body;
  } shared;
  shared.body = [&] {
    const Result<untrusted_bytes> block = allocator_->allocate(64);
    if (block.ok()) {
      ++served;
    } else if (block.error() == Error::kTooManyThreads) {
      ++refused;
      EXPECT_EQ(free(mine), Error::kTooManyThreads);
      EXPECT_TRUE(allocator_->query(mine, 64).ok()) << "a query needs no slot";
      MemoryCalls calls(*allocator_, EnclaveMemoryTable{});
      EXPECT_EQ(calls.munmap(FakePort::kAttachBase, kPageBytes), -EAGAIN);
    }
    std::unique_lock lock(mutex);
    ++started;
    changed.notify_all();
    changed.wait(lock, [&] { return go_home; });
    lock.unlock();
    if (block.ok()) {
      EXPECT_EQ(free(block->address()), Error::kNone);
    }
  };
  std::vector<pthread_t> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    pthread_t thread;
    const int made = pthread_create(
        &thread, &small,
        [](void* context) -> void* {
          static_cast<Shared*>(context)->body();
          return nullptr;
        },
        &shared);
    if (made != 0) break;
    threads.push_back(thread);
  }
  pthread_attr_destroy(&small);
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return started == threads.size(); });
    if (refused != 0) {
      on_a_thread([&] {
        EXPECT_EQ(allocate_error(64), Error::kTooManyThreads);
        // Who has no slot can still look, and fork.
        EXPECT_TRUE(allocator_->validate_books());
        EXPECT_TRUE(allocator_->before_fork().ok());
        allocator_->after_fork_in_parent();
      });
    }
    go_home = true;
  }
  changed.notify_all();
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  if (threads.size() < kThreads) GTEST_SKIP() << "the system gives only " << threads.size();
  // The test's own thread has a slot, too. A signal handler that ran in the last moments of a
  // thread of an earlier test, after its destructors, may have kept one for good.
  EXPECT_LE(served, kMaxThreadSlots - 1);
  EXPECT_GE(served, kMaxThreadSlots - 100);
  EXPECT_EQ(refused, kThreads - served);
  EXPECT_EQ(free(mine), Error::kNone);
  EXPECT_EQ(statistics().live_blocks, 0u);
  // With slots free again a new thread is served.
  on_a_thread([&] { EXPECT_EQ(free(allocate(64)), Error::kNone); });
}

}  // namespace
}  // namespace exclave
