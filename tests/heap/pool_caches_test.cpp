// What threads keep of attached pools: it serves without a lock, it keeps no pool and no byte from
// anybody else, and its books are bounded.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <set>
#include <thread>
#include <vector>

#include "base/units.hpp"
#include "exclave/process_port.hpp"
#include "support/sanitizers.hpp"
#include "support/state_test.hpp"
#include "support/stepped_call.hpp"
#include "support/worker.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class PoolCachesTest : public StateTest {
 protected:
  static constexpr std::size_t kSize = 64;
  static constexpr unsigned kUses = 20;  // more than earn a pool its place

  // The calling thread keeps slots of the pool from now on.
  void use(Placement where, std::size_t size = kSize) {
    for (unsigned i = 0; i < kUses; ++i) {
      const Result<untrusted_bytes> block = allocator_->allocate(size, 16, where);
      ASSERT_TRUE(block.ok());
      ASSERT_TRUE(allocator_->deallocate(*block).ok());
    }
  }
  // Until there is no more.
  std::vector<std::uintptr_t> fill(Placement where, std::size_t size = kSize) {
    std::vector<std::uintptr_t> blocks;
    for (;;) {
      const Result<untrusted_bytes> block = allocator_->allocate(size, 16, where);
      if (!block.ok()) return blocks;
      blocks.push_back(block->address());
    }
  }
  void free_all(const std::vector<std::uintptr_t>& blocks) {
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  }
  // How many blocks of the size such a pool holds, by one thread that comes by for the first time.
  std::size_t capacity_of(Extent pool, std::size_t size = kSize) {
    const RegionId id = attach(pool);
    std::size_t capacity = 0;
    std::thread([&] { capacity = fill(Placement::in_pool(id), size).size(); }).join();
    EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
    return capacity;
  }
  std::uint32_t cached_beside(std::uintptr_t block) {
    return allocator_->next_run(block)->cached_slots;
  }
};

TEST_F(PoolCachesTest, TheEighthUseInARowIsTheFirstToKeepSlots) {
  const Placement where = Placement::in_pool(attach(range_at(0, kMiBytes)));
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 8; ++i) blocks.push_back(allocate(kSize, 16, where));
  EXPECT_EQ(cached_beside(blocks[0]), 0u);
  blocks.push_back(allocate(kSize, 16, where));
  EXPECT_GT(cached_beside(blocks.back()), 0u);
  free_all(blocks);
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_TRUE(allocator_->detach(range_at(0, kMiBytes)).ok());
}

TEST_F(PoolCachesTest, FreesEarnAPlaceToo) {
  const Placement where = Placement::in_pool(attach(range_at(0, kMiBytes)));
  std::vector<std::uintptr_t> blocks;
  std::thread([&] {
    for (int i = 0; i < 40; ++i) blocks.push_back(allocate(kSize, 16, where));
  }).join();
  EXPECT_EQ(cached_beside(blocks[0]), 0u) << "the thread has ended";
  free_all(blocks);
  std::uint32_t cached = 0;
  for (const std::uintptr_t block : blocks) cached = std::max(cached, cached_beside(block));
  EXPECT_GT(cached, 0u);
  EXPECT_TRUE(allocator_->detach(range_at(0, kMiBytes)).ok());
}

// Neither does it have to wake.
TEST_F(PoolCachesTest, AnIdleThreadKeepsNoPool) {
  const Extent pool = range_at(0, kMiBytes);
  Worker idle;
  for (const DetachMode mode : {DetachMode::kBusy, DetachMode::kDrain, DetachMode::kRevoke}) {
    const RegionId id = attach(pool);
    idle.run([&] { use(Placement::in_pool(id)); });
    EXPECT_TRUE(allocator_->detach(pool, mode).ok());
    EXPECT_FALSE(allocator_->query(pool.base, 1).ok());
    EXPECT_TRUE(allocator_->validate_books());
    // Nor does the next one that comes to the same place take what was kept for its own.
    const RegionId next = attach(pool);
    idle.run([&] {
      EXPECT_EQ(allocate_error(kSize, 16, Placement::in_pool(id)), Error::kNotFound);
      EXPECT_NE(allocate(kSize, 16, Placement::in_pool(next)), 0u);
    });
    EXPECT_EQ(allocator_->detach(pool).error(), Error::kBusy);
    EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
  }
}

TEST_F(PoolCachesTest, AfterARefusedDetachTheThreadsGoOn) {
  const Extent pool = range_at(0, kMiBytes);
  const Placement where = Placement::in_pool(attach(pool));
  use(where);
  const std::uintptr_t stays = allocate(kSize, 16, where);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(allocator_->detach(pool).error(), Error::kBusy);
    use(where);
    EXPECT_TRUE(allocator_->validate_books());
  }
  EXPECT_EQ(free(stays), Error::kNone);
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

TEST_F(PoolCachesTest, ADrainEndsWithTheLastBlockThatItsThreadKeptThePoolFor) {
  const Extent pool = range_at(0, kMiBytes);
  const Placement where = Placement::in_pool(attach(pool));
  use(where);
  const std::uintptr_t first = allocate(kSize, 16, where);
  const std::uintptr_t last = allocate(100000, 16, where);
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kDrain).ok());
  EXPECT_EQ(allocate_error(kSize, 16, where), Error::kNotFound);
  EXPECT_EQ(free(first), Error::kNone);
  EXPECT_TRUE(allocator_->query(pool.base, 1).ok());
  EXPECT_EQ(free(last), Error::kNone);
  EXPECT_FALSE(allocator_->query(pool.base, 1).ok());
}

// ---- To the last byte ----

TEST_F(PoolCachesTest, WhatIdleThreadsKeepServesWhoComesShort) {
  const Extent pool = range_at(0, 4 * kUnitBytes);
  const std::size_t capacity = capacity_of(pool);
  const Placement where = Placement::in_pool(attach(pool));
  Worker idle[3];
  for (Worker& thread : idle) {
    thread.run([&] {
      use(where);
      use(where, 1024);
    });
  }
  for (int round = 0; round < 3; ++round) {
    const std::vector<std::uintptr_t> blocks = fill(where);
    EXPECT_EQ(std::set<std::uintptr_t>(blocks.begin(), blocks.end()).size(), capacity);
    free_all(blocks);
    EXPECT_TRUE(allocator_->validate_books());
    const std::uintptr_t whole = allocate(pool.size, 16, where);
    EXPECT_EQ(whole, pool.base) << "and is whole again";
    EXPECT_EQ(free(whole), Error::kNone);
    for (Worker& thread : idle) thread.run([&] { use(where); });
  }
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

// The detach that was refused had stopped the idle thread's heap, and taken nothing back.
TEST_F(PoolCachesTest, WhatIdleThreadsKeepServesAfterARefusedRevoke) {
  const Extent pool = range_at(0, 4 * kUnitBytes);
  const std::size_t capacity = capacity_of(pool);
  const Placement where = Placement::in_pool(attach(pool));
  Worker idle;
  idle.run([&] { use(where); });
  const PinId pinned = pin(pool);
  EXPECT_EQ(allocator_->detach(pool, DetachMode::kRevoke).error(), Error::kPinned);
  EXPECT_EQ(fill(where).size(), capacity);
  EXPECT_TRUE(allocator_->unpin(pinned).ok());
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
}

TEST_F(PoolCachesTest, WhatAnotherThreadFreedServesItsMaker) {
  const Extent pool = range_at(0, 4 * kUnitBytes);
  const std::size_t capacity = capacity_of(pool);
  const Placement where = Placement::in_pool(attach(pool));
  Worker consumer;
  for (int round = 0; round < 3; ++round) {
    const std::vector<std::uintptr_t> blocks = fill(where);
    EXPECT_EQ(blocks.size(), capacity);
    consumer.run([&] { free_all(blocks); });
  }
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

// Not even where its state lay, another pool's slots have theirs by then.
TEST_F(PoolCachesTest, ASlotThatWasTakenBackServesNobodyFromItsHint) {
  const Extent pool = range_at(0, 4 * kMiBytes);
  const Placement where = Placement::in_pool(attach(pool));
  Worker idle;
  idle.run([&] { use(where); });
  const std::uintptr_t whole = allocate(pool.size, 16, where);
  EXPECT_EQ(whole, pool.base);
  const Extent other = range_at(kGiBytes, 4 * kMiBytes);
  const Placement elsewhere = Placement::in_pool(attach(other));
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 2000; ++i) blocks.push_back(allocate(kSize, 16, elsewhere));
  // So that the first slots are those that stay cached.
  std::reverse(blocks.begin(), blocks.end());
  free_all(blocks);
  idle.run([&] {
    for (int i = 0; i < 100; ++i) EXPECT_EQ(allocate_error(kSize, 16, where), Error::kOutOfMemory);
  });
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(free(whole), Error::kNone);
  EXPECT_TRUE(allocator_->detach(pool).ok());
  EXPECT_TRUE(allocator_->detach(other).ok());
}

TEST_F(PoolCachesTest, ManyThreadsShareAFewPages) {
  const Extent pool = range_at(0, 4 * kPageBytes);
  const std::size_t capacity = capacity_of(pool);
  const Placement where = Placement::in_pool(attach(pool));
  std::atomic<std::uint64_t> served{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        std::vector<std::uintptr_t> blocks;
        for (int i = 0; i < 40; ++i) {
          const Result<untrusted_bytes> block = allocator_->allocate(kSize, 16, where);
          if (block.ok()) blocks.push_back(block->address());
        }
        served += blocks.size();
        free_all(blocks);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(served.load(), 8u * 300);
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(fill(where).size(), capacity);
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
}

// Who is served elsewhere does not take it back.
TEST_F(PoolCachesTest, AFullPoolThatIsOpenToAllLeavesThreadsWhatTheyKeep) {
  AttachOptions options;
  options.open_to_all = true;
  const Extent pool = range_at(0, kMiBytes);
  const Placement where = Placement::in_pool(attach(pool, options));
  std::uintptr_t theirs = 0;
  Worker other;
  other.run([&] {
    use(where);
    theirs = allocate(kSize, 16, where);
  });
  const std::uintptr_t fills = allocate(900 * 1024, 16, where);
  const std::uint32_t cached = cached_beside(theirs);
  ASSERT_GT(cached, 0u);
  for (int i = 0; i < 3; ++i) {
    const std::uintptr_t elsewhere = allocate(200 * 1024);
    EXPECT_FALSE(pool.contains(elsewhere));
    EXPECT_EQ(free(elsewhere), Error::kNone);
  }
  EXPECT_EQ(cached_beside(theirs), cached);
  // Before a request is refused, it does.
  port_.refuse(true);
  std::vector<std::uintptr_t> rest;
  while (const std::uintptr_t block = allocate(kSize)) rest.push_back(block);
  EXPECT_EQ(cached_beside(theirs), 0u);
  port_.refuse(false);
  free_all(rest);
  EXPECT_EQ(free(theirs), Error::kNone);
  EXPECT_EQ(free(fills), Error::kNone);
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

// ---- Constraints ----

TEST_F(PoolCachesTest, WhatIsKeptKeepsToTheBoundaryAndTheLargestBlock) {
  const Extent pool = range_at(0, 4 * kMiBytes);
  AttachOptions options;
  options.boundary = 8192;
  options.largest_block = 3000;
  const Placement where = Placement::in_pool(attach(pool, options));
  for (int round = 0; round < 3; ++round) {
    std::vector<std::uintptr_t> blocks;
    for (std::size_t size = 1; size <= 3000; size += 7) {
      blocks.push_back(allocate(size, 16, where));
      ASSERT_NE(blocks.back(), 0u) << size;
      EXPECT_EQ(blocks.back() / 8192, (blocks.back() + size - 1) / 8192) << size;
    }
    for (std::size_t size = 3001; size < 3020; ++size)
      EXPECT_EQ(allocate_error(size, 16, where), Error::kOutOfMemory);
    const std::uintptr_t aligned = allocate(100, 1024, where);
    EXPECT_EQ(aligned % 1024, 0u);
    blocks.push_back(aligned);
    free_all(blocks);
  }
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

TEST_F(PoolCachesTest, ADeviceIsServedFromWhatIsKeptOfAnyOfItsPools) {
  AttachOptions options;
  options.device = 7;
  const Extent first = range_at(0, 4 * kUnitBytes);
  const Extent second = range_at(kGiBytes, 4 * kUnitBytes);
  attach(first, options);
  attach(second, options);
  const Placement where = Placement::on_device(7);
  const std::vector<std::uintptr_t> blocks = fill(where);
  EXPECT_EQ(static_cast<std::size_t>(
                std::count_if(blocks.begin(), blocks.end(),
                              [&](std::uintptr_t block) { return first.contains(block); })),
            blocks.size() / 2);
  free_all(blocks);
  EXPECT_EQ(fill(where).size(), blocks.size());
  EXPECT_TRUE(allocator_->detach(first, DetachMode::kRevoke).ok());
  EXPECT_TRUE(allocator_->detach(second, DetachMode::kRevoke).ok());
}

// ---- Bad frees ----

TEST_F(PoolCachesTest, EachBadFreeOfWhatIsKeptIsTold) {
  const Extent pool = range_at(0, kMiBytes);
  const RegionId id = attach(pool);
  const Placement where = Placement::in_pool(id);
  use(where);
  const std::uintptr_t block = allocate(kSize, 16, where);
  EXPECT_EQ(free(block + 8), Error::kInteriorFree);
  EXPECT_EQ(free(block, 5 * kSize), Error::kWrongSize);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(free(block), Error::kDoubleFree);
  EXPECT_EQ(allocator_->deallocate_handle(bytes_at(block), id).error(), Error::kDoubleFree);
  EXPECT_EQ(free(pool.base + kMiBytes / 2), Error::kDoubleFree) << "never handed out";
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
  EXPECT_EQ(free(block), Error::kForeignFree) << "gone";
  const RegionId next = attach(pool);
  use(Placement::in_pool(next));
  EXPECT_EQ(allocator_->deallocate_handle(bytes_at(block), id).error(), Error::kStale);
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

TEST_F(PoolCachesTest, AHandleGivesBackWhatIsItsOwnOnly) {
  const Extent pool = range_at(0, kMiBytes);
  const RegionId gone = attach(pool);
  use(Placement::in_pool(gone));
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kDrain).ok());
  const RegionId id = attach(pool);
  use(Placement::in_pool(id));
  const Result<PlacedBlock> block = allocator_->allocate_handle(kSize, 16, Placement::in_pool(id));
  ASSERT_TRUE(block.ok());
  EXPECT_EQ(block->region, id);
  EXPECT_EQ(allocator_->deallocate_handle(block->start, gone).error(), Error::kStale);
  EXPECT_EQ(allocator_->deallocate_handle(block->start, {}).error(), Error::kStale);
  EXPECT_TRUE(allocator_->deallocate_handle(block->start, id).ok());
  EXPECT_EQ(allocator_->deallocate_handle(block->start, id).error(), Error::kDoubleFree);
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

TEST_F(PoolCachesTest, APinnedBlockIsNotKept) {
  const Extent pool = range_at(0, kMiBytes);
  const Placement where = Placement::in_pool(attach(pool));
  use(where);
  const std::uintptr_t block = allocate(kSize, 16, where);
  const PinId pinned = pin({block, 8});
  EXPECT_EQ(free(block), Error::kNone);
  for (unsigned i = 0; i < 2000; ++i) EXPECT_NE(allocate(kSize, 16, where), block);
  EXPECT_EQ(allocator_->detach(pool).error(), Error::kPinned);
  EXPECT_TRUE(allocator_->unpin(pinned).ok());
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
}

// ---- Books ----

TEST_F(PoolCachesTest, AThreadKeepsEightPoolsAtMost) {
  constexpr std::size_t kPools = 100;
  std::vector<Placement> places;
  for (std::size_t i = 0; i < kPools; ++i)
    places.push_back(Placement::in_pool(attach(range_at(i * kGiBytes, kMiBytes))));
  const auto used = [&] { return statistics().trusted_used_bytes; };
  for (std::size_t i = 0; i < 8; ++i) use(places[i]);
  const std::size_t eight = used();
  std::size_t most = eight;
  for (const Placement& where : places) {
    use(where);
    most = std::max(most, used());
  }
  // Each pool has a slab now, whose book takes less than a stack did.
  EXPECT_LT(most, eight + kPools * 2048);
  EXPECT_TRUE(allocator_->validate_books());
  allocator_->flush_thread();
  for (std::size_t i = 0; i < kPools; ++i)
    EXPECT_TRUE(allocator_->detach(range_at(i * kGiBytes, kMiBytes)).ok());
}

TEST_F(PoolCachesTest, TheNinthPoolLeavesTheOneThatWasUsedLast) {
  std::vector<std::uintptr_t> blocks;
  for (std::size_t i = 0; i < 9; ++i) {
    const Placement where = Placement::in_pool(attach(range_at(i * kGiBytes, kMiBytes)));
    use(where);
    blocks.push_back(allocate(kSize, 16, where));
  }
  std::size_t kept = 0;
  for (const std::uintptr_t block : blocks) kept += cached_beside(block) != 0;
  EXPECT_EQ(kept, 8u);
  EXPECT_GT(cached_beside(blocks[7]), 0u);
  EXPECT_GT(cached_beside(blocks[8]), 0u);
  for (std::size_t i = 0; i < 9; ++i)
    EXPECT_TRUE(allocator_->detach(range_at(i * kGiBytes, kMiBytes), DetachMode::kRevoke).ok());
}

TEST_F(PoolCachesTest, WhatAThreadGivesBackServesTheNextOne) {
  const Extent pool = range_at(0, kMiBytes);
  const Placement where = Placement::in_pool(attach(pool));
  const auto once = [&] { std::thread([&] { use(where); }).join(); };
  once();
  const std::size_t used = statistics().trusted_used_bytes;
  for (int i = 0; i < 50; ++i) once();
  EXPECT_EQ(statistics().trusted_used_bytes, used);
  use(where);
  allocator_->flush_thread();
  EXPECT_EQ(statistics().trusted_used_bytes, used);
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

// The slabs' books, which hints of an idle thread speak of, go when it comes by again.
TEST_F(PoolCachesTest, BooksOfAGonePoolGoWithTheLastThreadThatKnewThem) {
  const Extent pool = range_at(0, kMiBytes);
  Worker idle;
  const auto round = [&] {
    const RegionId id = attach(pool);
    idle.run([&] { use(Placement::in_pool(id), 16); });
    EXPECT_TRUE(allocator_->detach(pool).ok());
  };
  const auto comes_by = [&] { idle.run([&] { EXPECT_EQ(free(1), Error::kForeignFree); }); };
  round();
  comes_by();
  const std::size_t used = statistics().trusted_used_bytes;
  for (int i = 0; i < 20; ++i) round();
  EXPECT_GT(statistics().trusted_used_bytes, used);
  EXPECT_LT(statistics().trusted_used_bytes, used + 100000) << "and no more of them";
  comes_by();
  EXPECT_EQ(statistics().trusted_used_bytes, used);
}

// Without books a thread keeps nothing, and is served all the same.
TEST_F(PoolCachesTest, WithoutBooksEachBlockComesUnderTheLock) {
  const Extent pool = range_at(0, kMiBytes);
  const Placement where = Placement::in_pool(attach(pool));
  const std::uintptr_t stays = allocate(kSize, 16, where);
  EXPECT_NE(allocate(kSize, 16, where), 0u);
  for (std::size_t left = 0; left < 16384; left += 64) {
    std::thread([&] {
      if (!allocator_->allocate(16).ok()) return;  // no heap
      port_.set_trusted_left(left);
      use(where);
      port_.set_trusted_left(SIZE_MAX / 2);
    }).join();
    ASSERT_TRUE(allocator_->validate_books()) << left;
  }
  EXPECT_EQ(free(stays), Error::kNone);
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
}

// ---- In the middle of it, after each instruction ----

class PoolCachesSteppedTest : public PoolCachesTest {
 protected:
  void SetUp() override {
    PoolCachesTest::SetUp();
    if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
    capacity_ = capacity_of(kPool);
  }
  void attach_used() {
    id_ = attach(kPool);
    use(in_pool());
  }
  Placement in_pool() const { return Placement::in_pool(id_); }
  // The body is stopped after each of its instructions in turn, and the other thread does its task
  // then; where the body holds a lock, later. prepare and check come around each turn.
  void each(const std::function<void()>& prepare, const std::function<void()>& body,
            const std::function<void()>& task, const std::function<void(std::uint64_t)>& check) {
    const SteppedCall stepper;
    std::uint64_t beside = 0;
    bool more = true;
    for (std::uint64_t n = 1; more && !HasFailure(); ++n) {
      prepare();
      bool held = false;
      more = SteppedCall::stopped_at(n, body, [&] {
        other_.start(task);
        held = !other_.wait_a_little();
      });
      if (more) {
        other_.wait();
      } else {
        other_.run(task);
      }
      beside += !held;
      check(n);
      EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
    }
    EXPECT_GT(beside, 5u) << "the trap flag has no effect here";
  }
  // The pool is empty in the end, and then goes.
  void clear(std::uint64_t n) {
    EXPECT_EQ(statistics().live_blocks, 0u) << "at " << n;
    EXPECT_TRUE(allocator_->detach(kPool).ok()) << "at " << n;
  }

  static constexpr Extent kPool = range_at(0, 2 * kUnitBytes);
  std::size_t capacity_ = 0;
  RegionId id_{};
  Worker other_;
};

class TakeTest : public PoolCachesSteppedTest {
 protected:
  void take_beside(const std::function<void()>& task,
                   const std::function<void(std::uint64_t)>& check) {
    each([this] { attach_used(); }, [this] { taken_ = allocator_->allocate(kSize, 16, in_pool()); },
         task, check);
  }
  void detach_beside(DetachMode mode) {
    take_beside([this, mode] { detached_ = allocator_->detach(kPool, mode).error(); },
                [this, mode](std::uint64_t n) {
                  const bool stands = allocator_->query(kPool.base, 1).ok();
                  if (!taken_.ok()) EXPECT_EQ(taken_.error(), Error::kNotFound) << "at " << n;
                  switch (mode) {
                    case DetachMode::kBusy:
                      EXPECT_EQ(detached_, taken_.ok() ? Error::kBusy : Error::kNone) << "at " << n;
                      EXPECT_EQ(stands, taken_.ok()) << "at " << n;
                      break;
                    case DetachMode::kDrain:
                      EXPECT_EQ(detached_, Error::kNone) << "at " << n;
                      EXPECT_EQ(stands, taken_.ok()) << "at " << n;
                      break;
                    case DetachMode::kRevoke:
                      EXPECT_EQ(detached_, Error::kNone) << "at " << n;
                      EXPECT_FALSE(stands) << "at " << n;
                      return;
                  }
                  if (!stands) return;
                  EXPECT_EQ(free(taken_->address()), Error::kNone) << "at " << n;
                  if (mode == DetachMode::kDrain) {
                    EXPECT_FALSE(allocator_->query(kPool.base, 1).ok()) << "at " << n;
                  } else {
                    clear(n);
                  }
                });
  }

  Result<untrusted_bytes> taken_ = Error::kNotFound;
  Error detached_ = Error::kNone;
};

TEST_F(TakeTest, BesideABusyDetach) {
  detach_beside(DetachMode::kBusy);
}
TEST_F(TakeTest, BesideADrain) {
  detach_beside(DetachMode::kDrain);
}
TEST_F(TakeTest, BesideARevoke) {
  detach_beside(DetachMode::kRevoke);
}

TEST_F(TakeTest, BesideOneWhoComesShort) {
  std::vector<std::uintptr_t> others;
  take_beside([&] { others = fill(in_pool()); },
              [&](std::uint64_t n) {
                std::set<std::uintptr_t> all(others.begin(), others.end());
                EXPECT_EQ(all.size(), others.size()) << "at " << n;
                if (taken_.ok()) EXPECT_TRUE(all.insert(taken_->address()).second) << "at " << n;
                EXPECT_EQ(all.size(), capacity_) << "at " << n;
                free_all({all.begin(), all.end()});
                clear(n);
              });
}

// The pool goes and another one comes to its place, with the same books.
TEST_F(TakeTest, BesideARevokeAndAnAttach) {
  RegionId next{};
  std::uintptr_t others = 0;
  take_beside(
      [&] {
        EXPECT_TRUE(allocator_->detach(kPool, DetachMode::kRevoke).ok());
        next = attach(kPool);
        use(Placement::in_pool(next));
        others = allocate(kSize, 16, Placement::in_pool(next));
      },
      [&](std::uint64_t n) {
        EXPECT_EQ(statistics().live_blocks, 1u) << "at " << n;
        EXPECT_EQ(*allocator_->region_of(bytes_at(others)), next) << "at " << n;
        EXPECT_EQ(free(others), Error::kNone) << "at " << n;
        clear(n);
      });
}

// What it took for a moment is nobody's, and it is served by another pool: the drain ends.
TEST_F(TakeTest, BesideADrainOfOneOfTwoPools) {
  const Extent second = range_at(kGiBytes, kMiBytes);
  AttachOptions options;
  options.device = 7;
  const Placement of_second = Placement::in_pool(attach(second, options));
  each(
      [&] {
        id_ = attach(kPool, options);
        use(of_second);
        use(in_pool());
      },
      [&] { taken_ = allocator_->allocate(kSize, 16, Placement::on_device(7)); },
      [&] { EXPECT_TRUE(allocator_->detach(kPool, DetachMode::kDrain).ok()); },
      [&](std::uint64_t n) {
        ASSERT_TRUE(taken_.ok()) << "at " << n;
        EXPECT_EQ(allocator_->query(kPool.base, 1).ok(), kPool.contains(taken_->address()))
            << "at " << n;
        EXPECT_EQ(free(taken_->address()), Error::kNone) << "at " << n;
        EXPECT_FALSE(allocator_->query(kPool.base, 1).ok()) << "at " << n;
      });
  EXPECT_TRUE(allocator_->detach(second).ok());
}

class GiveTest : public PoolCachesSteppedTest {
 protected:
  void give_beside(const std::function<void()>& task,
                   const std::function<void(std::uint64_t)>& check) {
    each(
        [this] {
          attach_used();
          block_ = allocate(kSize, 16, in_pool());
        },
        [this] { given_ = free(block_); }, task, check);
  }

  std::uintptr_t block_ = 0;
  Error given_ = Error::kNone;
};

TEST_F(GiveTest, BesideABusyDetach) {
  Error detached = Error::kNone;
  give_beside([&] { detached = allocator_->detach(kPool).error(); },
              [&](std::uint64_t n) {
                EXPECT_EQ(given_, Error::kNone) << "at " << n;
                if (detached != Error::kNone) {
                  EXPECT_EQ(detached, Error::kBusy) << "at " << n;
                  clear(n);
                }
              });
}

TEST_F(GiveTest, BesideADrain) {
  give_beside([&] { EXPECT_TRUE(allocator_->detach(kPool, DetachMode::kDrain).ok()); },
              [&](std::uint64_t n) {
                EXPECT_EQ(given_, Error::kNone) << "at " << n;
                EXPECT_FALSE(allocator_->query(kPool.base, 1).ok()) << "at " << n;
              });
}

// The child has the books of a pool whose last block is freed, and not the thread that was to say
// so.
TEST_F(GiveTest, BesideADrainAndAFork) {
  const SteppedCall stepper;
  // The swap comes soon, and some instructions after the look before it.
  for (std::uint64_t n = 1; n < 100 && !HasFailure(); n += 5) {
    attach_used();
    const std::uintptr_t last = allocate(kSize, 16, in_pool());
    std::atomic<SlotState>* const state = state_of(last);
    bool drains = false;
    int child_ended_with = -1;
    const auto forks = [&] {
      EXPECT_TRUE(allocator_->before_fork().ok());
      const pid_t child = fork();
      if (child == 0) {
        ProcessPort::forget_other_threads();
        allocator_->after_fork_in_child();
        const bool is_live = statistics().live_blocks != 0;
        _exit(is_live || !allocator_->query(kPool.base, 1).ok() ? 0 : 1);
      }
      allocator_->after_fork_in_parent();
      int status = 0;
      EXPECT_EQ(waitpid(child, &status, 0), child);
      child_ended_with = WIFEXITED(status) ? WEXITSTATUS(status) : 99;
    };
    bool held = false;
    const bool stopped = SteppedCall::stopped_at(
        n, [&] { EXPECT_EQ(free(last), Error::kNone); },
        [&] {
          if (!drains) {
            drains = true;
            other_.run([&] { EXPECT_TRUE(allocator_->detach(kPool, DetachMode::kDrain).ok()); });
          }
          if (state->load() == SlotState::kLive) return SteppedCall::stop_again(1);
          other_.start(forks);
          held = !other_.wait_a_little(std::chrono::milliseconds(100));
        });
    other_.wait();
    EXPECT_TRUE(held || !stopped || child_ended_with <= 0) << "at " << n;
    if (allocator_->query(kPool.base, 1).ok()) EXPECT_TRUE(allocator_->detach(kPool).ok());
  }
}

TEST_F(GiveTest, BesideARevokeAndAnAttach) {
  std::uintptr_t others = 0;
  give_beside(
      [&] {
        EXPECT_TRUE(allocator_->detach(kPool, DetachMode::kRevoke).ok());
        const RegionId next = attach(kPool);
        use(Placement::in_pool(next));
        // Not at the same address: that free would be right.
        std::vector<std::uintptr_t> blocks;
        do {
          blocks.push_back(allocate(kSize, 16, Placement::in_pool(next)));
        } while (blocks.back() == block_);
        others = blocks.back();
        blocks.pop_back();
        free_all(blocks);
      },
      [&](std::uint64_t n) {
        EXPECT_TRUE(given_ == Error::kNone || given_ == Error::kForeignFree ||
                    given_ == Error::kDoubleFree)
            << "at " << n << ' ' << error_text(given_);
        EXPECT_EQ(statistics().live_blocks, 1u) << "at " << n;
        EXPECT_EQ(free(others), Error::kNone) << "at " << n;
        clear(n);
      });
}

TEST_F(GiveTest, BesideOneWhoComesShort) {
  std::vector<std::uintptr_t> others;
  give_beside([&] { others = fill(in_pool()); },
              [&](std::uint64_t n) {
                EXPECT_EQ(given_, Error::kNone) << "at " << n;
                const std::set<std::uintptr_t> all(others.begin(), others.end());
                EXPECT_EQ(all.size(), others.size()) << "at " << n;
                EXPECT_GE(all.size() + 1, capacity_) << "at " << n;
                free_all(others);
                clear(n);
              });
}

TEST_F(GiveTest, Threat41BesideASecondFree) {
  Error second = Error::kNone;
  give_beside([&] { second = free(block_); },
              [&](std::uint64_t n) {
                EXPECT_NE(given_ == Error::kNone, second == Error::kNone) << "at " << n;
                EXPECT_EQ(given_ == Error::kNone ? second : given_, Error::kDoubleFree)
                    << "at " << n;
                clear(n);
              });
}

}  // namespace
}  // namespace exclave
