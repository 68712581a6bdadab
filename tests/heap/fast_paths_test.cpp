// What the short ways of allocate and deallocate must tell as the long ones do: frees found by unit
// entries, freed runs that are kept at hand, pools that open and close, books that run out.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <map>
#include <random>
#include <thread>

#include "slab/size_class.hpp"
#include "support/fake_allocator.hpp"
#include "support/sanitizers.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class FastPathsTest : public FakeAllocatorTest {
 protected:
  // Here and on another thread, told once each.
  void expect_refused(std::uintptr_t block, Error expected) {
    const std::size_t told = misuses_.size();
    EXPECT_EQ(free(block), expected) << std::hex << block;
    std::thread([&] { EXPECT_EQ(free(block), expected) << std::hex << block; }).join();
    EXPECT_EQ(misuses_.size(), told + 2);
  }
};

// ---- Small blocks ----

TEST_F(FastPathsTest, Threat42WhatIsLeftOverBehindTheLastSlotIsNoBlock) {
  unsigned slabs_with_slack = 0;
  for (SizeClass c = 0; c < kSizeClasses; c = static_cast<SizeClass>(c + 3)) {
    const std::uintptr_t block = allocate(size_class_bytes(c));
    const Result<RunInfo> run = allocator_->next_run(block);
    ASSERT_TRUE(run.ok());
    ASSERT_EQ(run->kind, RunInfo::Kind::kSlab);
    const std::uintptr_t slack = run->extent.base + std::size_t{run->slots} * run->slot_bytes;
    if (slack != run->extent.end()) {
      ++slabs_with_slack;
      expect_refused(slack, Error::kInteriorFree);
      expect_refused(run->extent.end() - 8, Error::kInteriorFree);
    }
    // A slot that was never handed out.
    const std::uintptr_t last = slack - run->slot_bytes;
    if (last != block) expect_refused(last, Error::kDoubleFree);
    EXPECT_EQ(free(block), Error::kNone);
    expect_refused(block, Error::kDoubleFree);
  }
  EXPECT_GT(slabs_with_slack, 10u);
}

TEST_F(FastPathsTest, Threat42OneBitMakesAnAddressForeign) {
  const std::uintptr_t block = allocate(64);
  for (unsigned bit = 28; bit < 64; ++bit) {
    const std::uintptr_t other = block ^ (std::uintptr_t{1} << bit);
    if (other != 0) expect_refused(other, Error::kForeignFree);
  }
  expect_refused(block + 32 * kGiBytes, Error::kForeignFree);
  expect_refused(block - 32 * kGiBytes, Error::kForeignFree);
  EXPECT_EQ(free(block), Error::kNone);
}

// Neither a region's edge nor its neighbour's pages change whose block an address is.
TEST_F(FastPathsTest, PoolsThatShareAUnitOrASegmentKeepTheirBlocksApart) {
  struct Neighbour {
    Extent extent;
    RegionId id{};
    std::vector<std::uintptr_t> blocks{};
  };
  std::vector<Neighbour> pools;
  std::size_t at = 32 * kGiBytes - 5 * kPageBytes;  // over the edge of a window
  for (const std::size_t pages : {3u, 4u, 5u, 6u, 1u, 1500u, 7u, 1030u, 2u}) {
    pools.push_back({range_at(at, pages * kPageBytes)});
    pools.back().id = attach(pools.back().extent);
    at += pages * kPageBytes;
  }
  for (Neighbour& pool : pools) {
    for (std::size_t i = 0; i < 2000; ++i) {
      const std::size_t size = pool.extent.size < 64 * kPageBytes ? 16 + i % 200 : 16 + i % 4000;
      const std::uintptr_t block = allocate(size, 16, Placement::in_pool(pool.id));
      if (block == 0) continue;
      ASSERT_TRUE(pool.extent.covers({block, size}));
      ASSERT_EQ(*allocator_->region_of(bytes_at(block)), pool.id);
      pool.blocks.push_back(block);
    }
    EXPECT_FALSE(pool.blocks.empty());
  }
  EXPECT_TRUE(allocator_->validate_books());
  for (Neighbour& pool : pools) {
    for (std::size_t i = 0; i < pool.blocks.size(); ++i) {
      EXPECT_EQ(free(pool.blocks[i] + 8), Error::kInteriorFree);
      EXPECT_EQ(free(pool.blocks[i]), Error::kNone);
      EXPECT_EQ(free(pool.blocks[i]), Error::kDoubleFree);
    }
    EXPECT_TRUE(allocator_->detach(pool.extent).ok());
    EXPECT_EQ(free(pool.blocks[0]), Error::kForeignFree);
    EXPECT_TRUE(allocator_->validate_books());
  }
}

// Where a pool stood, grown memory, and a pool again.
TEST_F(FastPathsTest, Threat32AddressesThatChangeHandsAreLookedUpAnew) {
  const Extent range = range_at(0, 8 * kMiBytes);
  std::vector<std::uintptr_t> stale;
  for (int round = 0; round < 20; ++round) {
    const RegionId id = attach(range);
    std::vector<std::uintptr_t> blocks;
    for (std::size_t i = 0; i < 100; ++i) {
      const std::uintptr_t block = allocate(100 + 1000 * i, 16, Placement::in_pool(id));
      if (block != 0) blocks.push_back(block);
    }
    EXPECT_GT(blocks.size(), 50u);
    const std::vector<std::uintptr_t> mine{allocate(64), allocate(100000)};
    for (const std::uintptr_t block : stale) {
      // A bare pointer to an address that is live again is taken for the new block.
      if (std::find(blocks.begin(), blocks.end(), block) == blocks.end())
        EXPECT_NE(free(block), Error::kNone);
    }
    for (const std::uintptr_t block : mine) EXPECT_EQ(free(block), Error::kNone);
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_TRUE(allocator_->detach(range, DetachMode::kRevoke).ok());
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kForeignFree);
    stale = blocks;
  }
}

// ---- Freed runs that are kept at hand ----

TEST_F(FastPathsTest, AKeptRunServesItsLength) {
  constexpr std::size_t kPage = kPageBytes;
  const std::uintptr_t block = allocate(24 * kPage);
  EXPECT_EQ(free(block), Error::kNone);
  expect_refused(block, Error::kDoubleFree);
  expect_refused(block + kPage, Error::kInteriorFree);
  EXPECT_EQ(usable(block), 0u);
  EXPECT_EQ(allocator_->pin({block, 1}).error(), Error::kNotFound);
  EXPECT_TRUE(sums_up(statistics()));
  EXPECT_EQ(statistics().live_bytes, 0u);
  EXPECT_NE(allocate(17 * kPage), block);
  const std::uintptr_t again = allocate(21 * kPage);
  EXPECT_EQ(again, block);
  EXPECT_EQ(usable(again), 24 * kPage);
  // Sizes that were not asked for.
  for (const std::size_t pages : {1u, 16u, 17u, 20u, 25u, 28u, 2000u})
    EXPECT_EQ(free(again, pages * kPage), Error::kWrongSize) << pages;
  EXPECT_EQ(free(again, 21 * kPage), Error::kNone);
  EXPECT_EQ(free(again, 21 * kPage), Error::kDoubleFree);
}

TEST_F(FastPathsTest, Threat43RunsWithoutAClassAreFreedByTheirLengthOnly) {
  constexpr std::size_t kPage = kPageBytes;
  const std::uintptr_t longest = allocate(2049 * kPage);
  EXPECT_EQ(free(longest, 2048 * kPage), Error::kWrongSize);
  EXPECT_EQ(free(longest, 2047 * kPage), Error::kWrongSize);
  EXPECT_EQ(free(longest, 2049 * kPage), Error::kNone);
  const std::uintptr_t aligned = allocate(17 * kPage, 8192);
  EXPECT_EQ(free(aligned, 16 * kPage, 8192), Error::kWrongSize);
  EXPECT_EQ(free(aligned, 17 * kPage, 8192), Error::kNone);
}

TEST_F(FastPathsTest, ARunGivenToThePageIsFreedByTheSizeItWasReallocatedTo) {
  constexpr std::size_t kPage = kPageBytes;
  // Memory is short: 66 pages, and not the 80 of their class.
  port_.set_host_left(68 * kPage);
  const std::uintptr_t block = allocate(66 * kPage);
  ASSERT_NE(block, 0u);
  ASSERT_EQ(usable(block), 66 * kPage);
  EXPECT_EQ(allocator_->reallocate(bytes_at(block), 65 * kPage)->address(), block);
  EXPECT_EQ(free(block, 65 * kPage), Error::kNone);
}

TEST_F(FastPathsTest, KeptRunsComeApartBeforeTheHostIsAsked) {
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 32; ++i) blocks.push_back(allocate(32 * kPageBytes));
  const std::uint64_t calls = port_.reserve_calls();
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  port_.refuse(true);
  const std::uintptr_t large = allocate(kMiBytes + 1);
  EXPECT_NE(large, 0u);
  std::vector<std::uintptr_t> small;
  for (int i = 0; i < 5000; ++i) small.push_back(allocate(128));
  for (const std::uintptr_t block : small) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(free(large), Error::kNone);
  EXPECT_EQ(port_.reserve_calls(), calls);
}

TEST_F(FastPathsTest, NothingIsKeptWhenNothingMayLieFree) {
  Config config;
  config.keep_free_bytes = 0;
  start(config);
  const std::uintptr_t block = allocate(kMiBytes);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(statistics().reserved_bytes, 0u);
  EXPECT_EQ(free(block), Error::kForeignFree);
}

TEST_F(FastPathsTest, KeptRunsGoBackWithTheRest) {
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 100; ++i) blocks.push_back(allocate(kMiBytes));
  for (const std::uintptr_t block : blocks) {
    EXPECT_EQ(free(block), Error::kNone);
    ASSERT_TRUE(allocator_->validate_books());
  }
  // keep_free_bytes, and what is still needed of one more region.
  EXPECT_LE(statistics().reserved_bytes, 128 * kMiBytes);
  allocator_->trim();
  EXPECT_EQ(statistics().reserved_bytes, 0u);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kForeignFree);
}

TEST_F(FastPathsTest, Threat41DoubleFreesOfLargeBlocksByTwoThreadsAreToldOnce) {
  std::uintptr_t shared = 0;
  std::atomic<int> freed{0};
  constexpr int kRounds = 1000;
  std::barrier meet(2);
  std::thread other([&] {
    for (int round = 0; round < kRounds; ++round) {
      meet.arrive_and_wait();
      freed += free(shared) == Error::kNone;
      meet.arrive_and_wait();
    }
  });
  for (int round = 0; round < kRounds; ++round) {
    shared = allocate(80000 + 20000 * static_cast<std::size_t>(round % 9));
    freed = 0;
    meet.arrive_and_wait();
    freed += free(shared) == Error::kNone;
    meet.arrive_and_wait();
    EXPECT_EQ(freed, 1) << round;
  }
  other.join();
  EXPECT_EQ(misuses_.size(), std::size_t{kRounds});
}

// ---- Pools open to all ----

TEST_F(FastPathsTest, OpenPoolsComeAndGoWhileOthersAllocate) {
  const Extent range = range_at(0, 4 * kMiBytes);
  AttachOptions open;
  open.open_to_all = true;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned me = 0; me < 2; ++me) {
    threads.emplace_back([&, me] {
      std::mt19937 random(me);
      std::map<std::uintptr_t, std::size_t> held;
      while (!stop || !held.empty()) {
        if (!stop && held.size() < 50 && random() % 2 == 0) {
          const std::size_t size = 1 + random() % (random() % 4 == 0 ? 200000 : 500);
          const std::uintptr_t block = allocate(size);
          ASSERT_NE(block, 0u);
          ASSERT_TRUE(held.emplace(block, size).second);
        } else if (!held.empty()) {
          auto chosen = held.begin();
          std::advance(chosen, static_cast<std::ptrdiff_t>(random() % held.size()));
          ASSERT_EQ(free(chosen->first), Error::kNone);
          held.erase(chosen);
        }
      }
    });
  }
  int gone = 0;
  const int rounds = kSanitized ? 20 : 60;
  for (int round = 0; round < rounds; ++round) {
    ASSERT_TRUE(allocator_->attach(range, open).ok());
    for (int i = 0; i < 20; ++i) std::this_thread::yield();
    Status left = allocator_->detach(range, DetachMode::kDrain);
    ASSERT_TRUE(left.ok());
    while (allocator_->query(range.base, 1).ok()) std::this_thread::yield();
    ++gone;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(gone, rounds);
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(statistics().live_blocks, 0u);
  // The short way is open again: nothing but this thread's stack is asked.
  const std::uintptr_t block = allocate(64);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(allocate(64), block);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_FALSE(range.contains(block));
}

// ---- Books that run out ----

// Not one more byte of trusted memory: blocks come until there are none, every free works, here and
// from another thread, and nothing is lost.
TEST_F(FastPathsTest, Threat63WithoutTrustedMemoryFreesStillWork) {
  for (const bool warm : {false, true}) {
    std::map<std::uintptr_t, std::size_t> held;
    const auto grab = [&](std::size_t size) {
      const std::uintptr_t block = allocate(size);
      if (block == 0) return false;
      const auto [it, added] = held.emplace(block, size);
      EXPECT_TRUE(added);
      if (it != held.begin()) EXPECT_LE(std::prev(it)->first + std::prev(it)->second, block);
      if (std::next(it) != held.end()) EXPECT_LE(block + size, std::next(it)->first);
      return true;
    };
    for (std::size_t i = 0; i < (warm ? 400u : 10u); ++i) grab(1 + i * 997 % 200000);
    port_.set_trusted_left(0);
    std::mt19937 random(4);
    std::vector<std::uintptr_t> for_other;
    std::uint64_t refused = 0;
    for (int step = 0; step < 20000; ++step) {
      const std::size_t size = 1 + random() % (random() % 3 == 0 ? 300000 : 3000);
      if (random() % 5 < 3) {
        refused += !grab(size);
      } else if (!held.empty()) {
        auto chosen = held.lower_bound(random() % 2 == 0 ? 0 : held.rbegin()->first);
        if (random() % 4 == 0) {
          for_other.push_back(chosen->first);
        } else {
          ASSERT_EQ(free(chosen->first, chosen->second), Error::kNone);
          ASSERT_NE(free(chosen->first), Error::kNone);
        }
        held.erase(chosen);
      }
    }
    EXPECT_GT(refused, 0u);
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_TRUE(sums_up(statistics()));
    // A thread that has no heap yet can do nothing without books, and says so.
    std::atomic<std::uint64_t> unfreed{0};
    std::thread([&] {
      for (const std::uintptr_t block : for_other) {
        const Error freed = free(block);
        if (freed != Error::kNone) {
          ASSERT_EQ(freed, Error::kOutOfTrustedMemory);
          ++unfreed;
        }
      }
    }).join();
    if (unfreed != 0) {
      ASSERT_EQ(unfreed, for_other.size());
      for (const std::uintptr_t block : for_other) ASSERT_EQ(free(block), Error::kNone);
    }
    port_.set_trusted_left(SIZE_MAX / 2);
    EXPECT_EQ(statistics().live_blocks, held.size());
    for (const auto& [block, size] : held) ASSERT_EQ(free(block, size), Error::kNone);
    EXPECT_EQ(statistics().live_blocks, 0u);
    EXPECT_TRUE(allocator_->validate_books());
    allocator_->trim();
    EXPECT_EQ(statistics().reserved_bytes, 0u);
  }
}

}  // namespace
}  // namespace exclave
