// fork() between before_fork and after_fork: what the child finds of the other threads' heaps.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "exclave/exclave.hpp"
#include "heap/core.hpp"
#include "support/end_child.hpp"
#include "support/sanitizers.hpp"

namespace exclave {
namespace {

class Fork : public ::testing::Test {
 protected:
  void SetUp() override {
    const Result<ProcessPort*> made = ProcessPort::create();
    ASSERT_TRUE(made.ok());
    port_ = *made;
    Result<Allocator> allocator = Allocator::create(port_->table());
    ASSERT_TRUE(allocator.ok());
    allocator_ = std::make_unique<Allocator>(std::move(*allocator));
  }
  void TearDown() override {
    allocator_.reset();
    ProcessPort::destroy(port_);
  }

  // The child's answer, 0 to 255; -1 if it did not end by itself.
  template <class Function>
  int in_child(const Function& function) {
    EXPECT_TRUE(allocator_->before_fork().ok());
    port_->before_fork();
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      ProcessPort::forget_other_threads();
      port_->after_fork();
      allocator_->after_fork_in_child();
      testing_support::end_child(function());
    }
    port_->after_fork();
    allocator_->after_fork_in_parent();
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::vector<untrusted_bytes> allocate(int count, std::size_t size) {
    std::vector<untrusted_bytes> blocks;
    for (int i = 0; i < count; ++i) {
      const Result<untrusted_bytes> block = allocator_->allocate(size);
      if (block.ok()) blocks.push_back(*block);
    }
    return blocks;
  }
  int deallocate(const std::vector<untrusted_bytes>& blocks) {
    int failed = 0;
    for (const untrusted_bytes block : blocks) failed += !allocator_->deallocate(block).ok();
    return failed;
  }

  ProcessPort* port_ = nullptr;
  std::unique_ptr<Allocator> allocator_;
};

TEST_F(Fork, OfOneThreadChangesNothingInEither) {
  const std::vector<untrusted_bytes> blocks = allocate(1000, 100);
  EXPECT_EQ(in_child([&] {
              if (deallocate(blocks) != 0 || deallocate(allocate(3000, 5000)) != 0) return 1;
              return allocator_->validate_books() ? 0 : 2;
            }),
            0);
  EXPECT_EQ(deallocate(blocks), 0);
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(Fork, TheFreeMemoryOfTheOthersGoesToTheChild) {
  std::vector<untrusted_bytes> theirs;
  std::atomic<int> step{0};
  std::thread other([&] {
    theirs = allocate(20000, 64);
    for (std::size_t i = 0; i < theirs.size(); i += 2) (void)allocator_->deallocate(theirs[i]);
    step = 1;
    step.notify_one();
    step.wait(1);
  });
  step.wait(0);
  EXPECT_EQ(in_child([&] {
              const std::size_t before = allocator_->statistics().reserved_bytes;
              // As many as the other freed: they find room where those were.
              const std::vector<untrusted_bytes> mine = allocate(10000, 64);
              if (mine.size() != 10000) return 1;
              if (allocator_->statistics().reserved_bytes != before) return 2;
              for (std::size_t i = 1; i < theirs.size(); i += 2) {
                if (!allocator_->deallocate(theirs[i]).ok()) return 3;
                if (allocator_->deallocate(theirs[i]).error() != Error::kDoubleFree) return 4;
              }
              if (deallocate(mine) != 0) return 5;
              if (allocator_->statistics().live_blocks != 0) return 6;
              allocator_->trim();
              if (allocator_->statistics().reserved_bytes != 0) return 7;
              return allocator_->validate_books() ? 0 : 8;
            }),
            0);
  step = 2;
  step.notify_one();
  other.join();
  for (std::size_t i = 1; i < theirs.size(); i += 2)
    EXPECT_TRUE(allocator_->deallocate(theirs[i]).ok());
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(Fork, HeapsOfThreadsThatEndedBeforeServeTheChildsThreads) {
  for (int i = 0; i < 3; ++i) {
    std::thread([&] { EXPECT_EQ(deallocate(allocate(100, 64)), 0); }).join();
  }
  EXPECT_EQ(in_child([&] {
              const std::size_t before = allocator_->statistics().trusted_used_bytes;
              int failed = 0;
              std::thread([&] { failed = deallocate(allocate(1, 64)); }).join();
              if (failed != 0) return 1;
              // A heap is 20 KiB of books; what else the thread used went with it.
              if (allocator_->statistics().trusted_used_bytes > before + 16384) return 2;
              return allocator_->validate_books() ? 0 : 3;
            }),
            0);
}

TEST_F(Fork, PoolsThatWereDetachedServeAgainInTheChild) {
  const HostReply range = port_->host_reserve(1 << 20, kPageBytes);
  ASSERT_EQ(range.error, 0);
  const Extent extent{range.address, 1 << 20};
  ASSERT_TRUE(allocator_->attach(extent).ok() && allocator_->detach(extent).ok());
  // The book of a pool is kept for the next one, with its locks.
  EXPECT_EQ(in_child([&] {
              if (!allocator_->attach(extent).ok() || !allocator_->detach(extent).ok()) return 1;
              return allocator_->validate_books() ? 0 : 2;
            }),
            0);
  EXPECT_TRUE(allocator_->attach(extent).ok() && allocator_->detach(extent).ok());
  EXPECT_EQ(port_->host_release(extent.base, extent.size), 0);
}

TEST_F(Fork, AttachedPoolsAreThereInTheChild) {
  const HostReply range = port_->host_reserve(1 << 20, kPageBytes);
  ASSERT_EQ(range.error, 0);
  const Extent extent{range.address, 1 << 20};
  const Result<RegionId> pool = allocator_->attach(extent);
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ(in_child([&] {
              const Result<untrusted_bytes> block =
                  allocator_->allocate(100, 16, Placement::in_pool(*pool));
              if (!block.ok() || !allocator_->deallocate(*block).ok()) return 1;
              if (!allocator_->detach(extent).ok() || !allocator_->attach(extent).ok()) return 2;
              return allocator_->validate_books() ? 0 : 3;
            }),
            0);
  EXPECT_TRUE(allocator_->detach(extent).ok());
  EXPECT_EQ(port_->host_release(extent.base, extent.size), 0);
}

TEST_F(Fork, OfAThreadThatNeverCalledBefore) {
  const std::vector<untrusted_bytes> blocks = allocate(1000, 100);
  std::thread([&] {
    EXPECT_EQ(in_child([&] {
                if (deallocate(blocks) != 0 || deallocate(allocate(1000, 100)) != 0) return 1;
                return allocator_->validate_books() ? 0 : 2;
              }),
              0);
    EXPECT_EQ(deallocate(allocate(10, 100)), 0);
  }).join();
  EXPECT_EQ(deallocate(blocks), 0);
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(Fork, BlocksOfAThreadInTheMiddleOfACallAreFreedInTheChildAndInItsChild) {
  std::vector<untrusted_bytes> theirs;
  std::atomic<int> step{0};
  std::thread other([&] {
    theirs = allocate(100, 64);
    const core::AllocatorCore::Gate inside(*allocator_->core());
    step = 1;
    step.notify_one();
    step.wait(1);
  });
  step.wait(0);
  const auto free_one = [&](std::size_t i) {
    return allocator_->deallocate(theirs[i]).ok() &&
           allocator_->deallocate(theirs[i]).error() == Error::kDoubleFree &&
           allocator_->validate_books();
  };
  const auto is_used = [&] {
    const Result<RunInfo> slab = allocator_->next_run(theirs[0].address());
    const std::vector<untrusted_bytes> mine = allocate(100, 64);
    bool used = !slab.ok();
    for (const untrusted_bytes block : mine) used |= slab->extent.contains(block.address());
    return used || deallocate(mine) != 0;
  };
  // In the child nobody is left who would give that heap up; so it is as it was in the next one.
  EXPECT_EQ(in_child([&] {
              if (!free_one(0)) return 1;
              return in_child([&] { return !free_one(1) ? 2 : is_used() ? 3 : 0; });
            }),
            0);
  step = 2;
  step.notify_one();
  other.join();
  EXPECT_EQ(deallocate(theirs), 0);
  EXPECT_TRUE(allocator_->validate_books());
}

// The heap of a thread that is not in the child has gone to the orphans; nobody has it by its slot.
TEST_F(Fork, EachThreadOfTheChildHasAHeapOfItsOwn) {
  if (testing_support::kSanitized) GTEST_SKIP() << "a sanitizer starts no thread in such a child";
  std::atomic<int> step{0};
  std::thread other([&] {
    EXPECT_EQ(deallocate(allocate(100, 64)), 0);
    step = 1;
    step.notify_one();
    step.wait(1);
  });
  step.wait(0);
  EXPECT_EQ(in_child([&] {
              const auto owner_of_new_block = [&] {
                const Result<untrusted_bytes> block = allocator_->allocate(64);
                return block.ok() ? allocator_->next_run(block->address())->owner : 0;
              };
              // First of all, so that it has a thread slot before those that end.
              const std::uint32_t mine = owner_of_new_block();
              std::uint32_t first = 0, second = 0;
              std::thread([&] {
                first = owner_of_new_block();
                std::thread([&] { second = owner_of_new_block(); }).join();
              }).join();
              if (mine == 0 || first == 0 || second == 0) return 1;
              if (first == second || first == mine || second == mine) return 2;
              return allocator_->validate_books() ? 0 : 3;
            }),
            0);
  step = 2;
  step.notify_one();
  other.join();
}

TEST_F(Fork, TheChildsFirstThreadHasItsHeapInTheNextForkToo) {
  const std::vector<untrusted_bytes> theirs = allocate(10, 64);
  EXPECT_EQ(in_child([&] {
              int answer = -1;
              std::thread([&] {
                answer = in_child([&] {
                  // It is whole, so its slab serves.
                  const std::vector<untrusted_bytes> mine = allocate(1, 64);
                  if (mine.size() != 1) return 1;
                  const Result<RunInfo> slab = allocator_->next_run(mine[0].address());
                  if (!slab.ok() || slab->live_slots != theirs.size() + 1) return 2;
                  return allocator_->validate_books() ? 0 : 3;
                });
              }).join();
              return answer;
            }),
            0);
  EXPECT_EQ(deallocate(theirs), 0);
}

TEST_F(Fork, ThreadsInTheMiddleOfCallsDoNotHoldTheChildUp) {
  if (testing_support::kSanitized) GTEST_SKIP() << "a sanitizer's own locks hold the child up";
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stop) (void)deallocate(allocate(300, 40000));
    });
  }
  for (int round = 0; round < 30; ++round) {
    EXPECT_EQ(
        in_child([&] { return deallocate(allocate(500, 100)) + deallocate(allocate(50, 100000)); }),
        0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(allocator_->validate_books());
}

}  // namespace
}  // namespace exclave
