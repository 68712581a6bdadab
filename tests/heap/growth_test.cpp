// Growth, quota, rescue, give-back with hysteresis, statistics, and calls that fail at their n-th
// use.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>

#include "base/units.hpp"
#include "slab/size_class.hpp"
#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class GrowthTest : public FakeAllocatorTest {
 protected:
  static Config config(std::size_t step, std::size_t keep) {
    Config made;
    made.grow_min_bytes = made.grow_max_bytes = step;
    made.keep_free_bytes = keep;
    return made;
  }
  std::uint64_t host_calls() { return port_.reserve_calls() + port_.release_calls(); }
};

TEST_F(GrowthTest, GrowthDoublesUpToItsLimit) {
  Config made;
  made.grow_min_bytes = kMiBytes;
  made.grow_max_bytes = 8 * kMiBytes;
  start(made);
  std::vector<std::size_t> sizes;
  std::size_t before = 0;
  while (sizes.size() < 7) {
    ASSERT_NE(allocate(200000), 0u);
    const std::size_t now = statistics().grown_bytes;
    if (now != before) sizes.push_back((now - before) / kMiBytes);
    before = now;
  }
  EXPECT_EQ(sizes, (std::vector<std::size_t>{1, 1, 2, 4, 8, 8, 8}));
}

TEST_F(GrowthTest, ConfigOutOfShapeIsRefused) {
  Config bad;
  bad.grow_min_bytes = SIZE_MAX;
  EXPECT_EQ(Allocator::create(port_.table(), bad).error(), Error::kInvalidArgument);
  bad = {};
  bad.grow_max_bytes = SIZE_MAX;
  EXPECT_EQ(Allocator::create(port_.table(), bad).error(), Error::kInvalidArgument);
  bad.grow_min_bytes = bad.grow_max_bytes = kAddressLimit;
  EXPECT_TRUE(Allocator::create(port_.table(), bad).ok()) << "the most that there can be";
  PortTable table = port_.table();
  table.host_release = nullptr;
  EXPECT_EQ(Allocator::create(table).error(), Error::kInvalidArgument);
  Config zero;
  zero.grow_min_bytes = zero.grow_max_bytes = zero.keep_free_bytes = 0;
  EXPECT_TRUE(Allocator::create(port_.table(), zero).ok()) << "the least is taken";
}

// Growth fails after the host gave, and the host does not take it back: it still counts.
TEST_F(GrowthTest, WhatTheHostDoesNotTakeBackAfterAFailedGrowthIsChargedToTheQuota) {
  Config made = config(4 * kMiBytes, 0);
  made.quota_bytes = 1536 * kMiBytes;
  start(made);
  ASSERT_NE(allocate(100), 0u);
  port_.set_trusted_left(0);  // less than the books of a region of a gigabyte
  port_.refuse_release(true);
  EXPECT_EQ(allocate_error(kGiBytes), Error::kOutOfTrustedMemory);
  ASSERT_EQ(port_.ranges_out(), 2u);
  port_.set_trusted_left(SIZE_MAX / 2);
  EXPECT_EQ(allocate_error(kGiBytes), Error::kQuota);
  EXPECT_EQ(port_.ranges_out(), 2u);
  EXPECT_NE(allocate(kMiBytes), 0u);
  port_.refuse_release(false);
  leftovers_expected_ = true;
}

// A thread for which there is no heap can still ask whether the books hold.
TEST_F(GrowthTest, BooksAreValidWithoutTrustedMemoryForAHeap) {
  start({});
  port_.set_trusted_left(0);
  EXPECT_EQ(allocate_error(100), Error::kOutOfTrustedMemory);
  EXPECT_TRUE(allocator_->validate_books());
  port_.set_trusted_left(SIZE_MAX / 2);
  EXPECT_NE(allocate(100), 0u);
}

TEST_F(GrowthTest, HostThatHasLittleIsAskedForLess) {
  port_.set_host_left(kMiBytes);  // less than one step
  const std::uintptr_t block = allocate(500000);
  EXPECT_NE(block, 0u);
  EXPECT_LE(statistics().grown_bytes, kMiBytes);
}

TEST_F(GrowthTest, RefusedGrowthIsToldAndChangesNothing) {
  port_.refuse(true);
  for (const std::size_t size : {64u, 100000u}) {
    EXPECT_EQ(allocate_error(size), Error::kHostRefused);
    EXPECT_EQ(statistics().reserved_bytes, 0u);
  }
  port_.refuse(false);
  EXPECT_NE(allocate(64), 0u);
}

TEST_F(GrowthTest, Threat61QuotaBoundsWhatTheHostIsAskedFor) {
  Config made = config(kMiBytes, 0);
  made.quota_bytes = 3 * kMiBytes + 100000;
  start(made);
  std::vector<std::uintptr_t> blocks;
  while (const std::uintptr_t block = allocate(100000)) blocks.push_back(block);
  EXPECT_EQ(allocate_error(100000), Error::kQuota);
  EXPECT_LE(statistics().grown_bytes, made.quota_bytes);
  EXPECT_GE(statistics().grown_bytes, 3 * kMiBytes);
  EXPECT_GE(blocks.size(), 24u);
  EXPECT_NE(allocate(64), 0u) << "what is there is still served";
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_NE(allocate(100000), 0u) << "and again";
}

TEST_F(GrowthTest, QuotaSmallerThanAStepStillServes) {
  Config made = config(4 * kMiBytes, 0);
  made.quota_bytes = 256 * kKiBytes;
  start(made);
  EXPECT_NE(allocate(64), 0u);
  EXPECT_LE(statistics().grown_bytes, made.quota_bytes);
}

// In whatever order: no more stays than may lie idle, and be kept at hand. A few small blocks that
// the thread keeps at hand would hold the regions where they lie.
TEST_F(GrowthTest, WhatIsFreedGoesBackInAnyOrder) {
  for (const std::size_t size : {1u << 10, 10u << 10, 70u << 10, 200u << 10, 1u << 20, 9u << 20}) {
    for (const bool in_order : {true, false}) {
      start({});
      std::vector<std::uintptr_t> blocks;
      for (std::size_t held = 0; held < 512 * kMiBytes; held += size)
        blocks.push_back(allocate(size));
      std::mt19937_64 random(size);
      if (!in_order) std::shuffle(blocks.begin(), blocks.end(), random);
      for (const std::uintptr_t block : blocks) ASSERT_EQ(free(block), Error::kNone);
      if (size <= kMaxSmallBytes) allocator_->flush_thread();
      EXPECT_LE(statistics().grown_bytes, 2 * Config{}.keep_free_bytes)
          << size << (in_order ? " in order" : " in any order");
    }
  }
}

// What comes again and again makes no host calls.
TEST_F(GrowthTest, BlocksThatComeAndGoStay) {
  for (const std::size_t size : {33 * kMiBytes, 65 * kMiBytes, 100 * kMiBytes, 250 * kMiBytes}) {
    start({});
    std::uint64_t calls = 0;
    for (int round = 0; round < 20; ++round) {
      const std::uintptr_t block = allocate(size);
      const std::uintptr_t other = allocate(64 * kKiBytes);
      EXPECT_EQ(free(block), Error::kNone);
      EXPECT_EQ(free(other), Error::kNone);
      if (round == 1) calls = host_calls();
    }
    EXPECT_EQ(host_calls(), calls) << size;
  }
}

TEST_F(GrowthTest, AHugeBlockGoesBackWhenItIsFreed) {
  EXPECT_EQ(free(allocate(kGiBytes)), Error::kNone);
  EXPECT_LE(statistics().grown_bytes, Config{}.keep_free_bytes);
}

TEST_F(GrowthTest, ReleaseThatTheHostRefusesStaysChargedToTheQuota) {
  Config made = config(kMiBytes, 0);
  made.quota_bytes = 2 * kMiBytes;
  start(made);
  leftovers_expected_ = true;
  port_.refuse_release(true);
  EXPECT_EQ(free(allocate(kMiBytes)), Error::kNone);
  EXPECT_EQ(statistics().reserved_bytes, 0u);
  EXPECT_NE(allocate(kMiBytes), 0u);
  EXPECT_EQ(allocate_error(kMiBytes), Error::kQuota) << "the host still holds the first";
}

TEST_F(GrowthTest, GrowthWithoutBooksThatTheHostKeepsStaysChargedToTheQuota) {
  Config made = config(kMiBytes, 0);
  made.quota_bytes = 2 * kMiBytes;
  start(made);
  leftovers_expected_ = true;
  // Use up what there is of books.
  AttachOptions options;
  options.role = Role::kMapping;
  for (std::size_t i = 0;; ++i) {
    if (!allocator_->attach(range_at(i * 2 * kPageBytes, kPageBytes), options).ok()) break;
    port_.set_trusted_left(0);
  }
  port_.refuse_release(true);
  EXPECT_EQ(allocate_error(kMiBytes), Error::kOutOfTrustedMemory);
  ASSERT_EQ(port_.ranges_out(), 1u);
  port_.set_trusted_left(SIZE_MAX / 2);
  EXPECT_NE(allocate(kMiBytes), 0u);
  EXPECT_EQ(allocate_error(kMiBytes), Error::kQuota) << "the host still holds the first";
}

// ---- Rescue ----

TEST_F(GrowthTest, RescueFreesSomethingAndTheRetryWorks) {
  struct Context {
    GrowthTest* test;
    std::vector<std::uintptr_t> blocks;
    std::size_t asked = 0;
    int calls = 0;
  } context{this, {}};
  Config made = config(kMiBytes, 64 * kMiBytes);
  made.quota_bytes = 2 * kMiBytes;
  made.rescue = [](void* c, std::size_t size) {
    Context& mine = *static_cast<Context*>(c);
    mine.calls += 1;
    mine.asked = size;
    if (mine.blocks.empty()) return false;
    for (const std::uintptr_t block : mine.blocks) EXPECT_EQ(mine.test->free(block), Error::kNone);
    mine.blocks.clear();
    return true;
  };
  made.rescue_context = &context;
  start(made);
  for (int i = 0; i < 2; ++i) context.blocks.push_back(allocate(kMiBytes));
  EXPECT_EQ(context.calls, 0);
  const std::uintptr_t rescued = allocate(kMiBytes);
  EXPECT_NE(rescued, 0u);
  EXPECT_EQ(context.calls, 1);
  EXPECT_EQ(context.asked, kMiBytes);
  // It says no: the error stands. It says yes in vain: asked once only.
  EXPECT_NE(allocate(kMiBytes), 0u);
  EXPECT_EQ(allocate_error(kMiBytes), Error::kQuota);
  EXPECT_EQ(context.calls, 2);
  context.blocks.push_back(allocate(64));
  EXPECT_EQ(allocate_error(kMiBytes), Error::kQuota);
  EXPECT_EQ(allocate_error(0), Error::kInvalidArgument);
  EXPECT_EQ(context.calls, context.blocks.empty() ? 4 : 3) << "not for bad arguments";
}

TEST_F(GrowthTest, RescueIsAskedForPoolsToo) {
  struct Context {
    GrowthTest* test;
    std::uintptr_t block = 0;
  } context{this};
  Config made;
  made.rescue = [](void* c, std::size_t) {
    Context& mine = *static_cast<Context*>(c);
    return mine.block != 0 && mine.test->free(std::exchange(mine.block, 0)) == Error::kNone;
  };
  made.rescue_context = &context;
  start(made);
  const RegionId id = attach(range_at(0, 64 * kKiBytes));
  context.block = allocate(64 * kKiBytes, 16, Placement::in_pool(id));
  EXPECT_NE(allocate(64 * kKiBytes, 16, Placement::in_pool(id)), 0u);
  EXPECT_EQ(allocate_error(64 * kKiBytes, 16, Placement::in_pool(id)), Error::kOutOfMemory);
}

// ---- Give-back ----

TEST_F(GrowthTest, FreeMemoryAboveWhatIsKeptGoesBack) {
  start(config(kMiBytes, 2 * kMiBytes));
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 10; ++i) blocks.push_back(allocate(kMiBytes));
  EXPECT_EQ(port_.ranges_out(), 10u);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(statistics().grown_bytes, 2 * kMiBytes) << "those that are kept at hand, too";
  EXPECT_EQ(port_.ranges_out(), 2u);
  EXPECT_EQ(statistics().host_release_calls, 8u);
}

TEST_F(GrowthTest, NoPingPongAtTheEdge) {
  start(config(kMiBytes, kMiBytes));
  std::vector<std::uintptr_t> kept;
  for (int i = 0; i < 3; ++i) kept.push_back(allocate(kMiBytes));
  EXPECT_EQ(free(allocate(64)), Error::kNone);
  EXPECT_EQ(free(allocate(kMiBytes)), Error::kNone);
  const std::uint64_t calls = host_calls();
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(free(allocate(kMiBytes)), Error::kNone);
    EXPECT_EQ(free(allocate(64)), Error::kNone);
  }
  EXPECT_EQ(host_calls(), calls);
}

TEST_F(GrowthTest, SmallBlocksLeaveTheirRegionsToGoBack) {
  start(config(kMiBytes, kMiBytes));
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 100000; ++i) blocks.push_back(allocate(64));
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_LE(statistics().grown_bytes, 3 * kMiBytes);
  allocator_->flush_thread();
  EXPECT_LE(statistics().grown_bytes, kMiBytes);
}

TEST_F(GrowthTest, TrimGivesEverythingBack) {
  std::vector<std::uintptr_t> blocks;
  for (std::size_t i = 0; i < 3000; ++i) blocks.push_back(allocate(1 + i * 37 % 50000));
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_NE(statistics().grown_bytes, 0u);
  allocator_->trim();
  EXPECT_EQ(statistics().grown_bytes, 0u);
  EXPECT_EQ(port_.ranges_out(), 0u);
  allocator_->trim();
  EXPECT_NE(allocate(64), 0u);
}

// ---- Statistics ----

TEST_F(GrowthTest, SumsHoldAtEveryQuietPoint) {
  const auto check = [&](const char* when) {
    EXPECT_TRUE(sums_up(statistics())) << when;
    EXPECT_TRUE(allocator_->validate_books()) << when;
  };
  check("at the start");
  const RegionId id = attach(range_at(kPageBytes, 37 * kPageBytes));
  attach_mapping(range_at(kMiBytes, 5 * kPageBytes));
  check("attached");
  std::vector<std::uintptr_t> blocks;
  std::size_t live = 0;
  for (std::size_t i = 0; i < 500; ++i) {
    const Placement where = i % 4 == 0 ? Placement::in_pool(id) : Placement::anywhere();
    const std::uintptr_t block = allocate(1 + i * 7919 % 45000, 16, where);
    if (block == 0) continue;
    blocks.push_back(block);
    live += usable(block);
    ASSERT_TRUE(sums_up(statistics())) << i;
  }
  EXPECT_EQ(statistics().live_bytes, live);
  EXPECT_EQ(statistics().live_blocks, blocks.size());
  EXPECT_EQ(statistics().mapping_bytes, 5 * kPageBytes);
  EXPECT_EQ(statistics().reserved_bytes, statistics().grown_bytes + 37 * kPageBytes);
  check("full");
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  check("freed");
  EXPECT_EQ(statistics().live_bytes, 0u);
  allocator_->flush_thread();
  check("flushed");
  EXPECT_EQ(statistics().cached_bytes - 0,
            statistics().reserved_bytes - statistics().free_bytes - statistics().overhead_bytes);
}

TEST_F(GrowthTest, RunsCoverEachPoolWithoutGaps) {
  const Extent pool = range_at(3 * kPageBytes, 200 * kPageBytes);
  const RegionId id = attach(pool);
  std::vector<std::uintptr_t> blocks;
  for (std::size_t i = 0; i < 60; ++i) {
    const std::uintptr_t block = allocate(1 + i * 977 % 20000, 16, Placement::in_pool(id));
    if (block != 0) blocks.push_back(block);
  }
  for (std::size_t i = 0; i < blocks.size(); i += 2) EXPECT_EQ(free(blocks[i]), Error::kNone);
  std::size_t live = 0;
  std::uintptr_t at = pool.base;
  while (at < pool.end()) {
    const Result<RunInfo> run = allocator_->next_run(at);
    ASSERT_TRUE(run.ok());
    ASSERT_EQ(run->extent.base, at);
    ASSERT_GT(run->extent.end(), at);
    live += run->live_slots;
    if (run->kind == RunInfo::Kind::kSlab) {
      EXPECT_LE(run->live_slots + run->cached_slots, run->slots);
    }
    at = run->extent.end();
  }
  EXPECT_EQ(at, pool.end());
  EXPECT_EQ(live, blocks.size() / 2);
  EXPECT_EQ(allocator_->next_run(pool.end()).error(), Error::kNotFound);
}

// ---- THREATS 63 ----

TEST_F(GrowthTest, Threat63TrustedMemoryFailsAtItsNthUse) {
  // Each time another call fails; what failed changed nothing, and the next call works.
  int succeeded_at = -1;
  for (std::uint64_t n = 1; n < 60 && succeeded_at < 0; ++n) {
    allocator_.reset();
    start(config(kMiBytes, 0));
    port_.fail_trusted_from(n);
    std::vector<std::uintptr_t> blocks;
    bool failed = false;
    const auto keep = [&](std::size_t size, Placement where = {}) {
      const Result<untrusted_bytes> block = allocator_->allocate(size, 16, where);
      if (block.ok()) {
        blocks.push_back(block->address());
      } else {
        failed |= block.error() == Error::kOutOfTrustedMemory;
        EXPECT_TRUE(block.error() == Error::kOutOfTrustedMemory ||
                    block.error() == Error::kOutOfMemory)
            << error_text(block.error());
      }
    };
    const Result<RegionId> id = allocator_->attach(range_at(0, kMiBytes));
    failed |= !id.ok();
    for (std::size_t i = 0; i < 400; ++i) {
      keep(1 + i * 331 % 60000);
      if (id.ok() && i % 5 == 0) keep(1 + i * 331 % 9000, Placement::in_pool(*id));
      if (i % 40 == 0 && !blocks.empty()) {
        const Result<PinId> pin = allocator_->pin({blocks.back(), 1});
        failed |= !pin.ok();
        if (pin.ok()) {
          EXPECT_TRUE(allocator_->unpin(*pin).ok());
        }
      }
      if (i % 3 == 0 && !blocks.empty()) {
        ASSERT_EQ(free(blocks[blocks.size() / 2]), Error::kNone);
        blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(blocks.size() / 2));
      }
    }
    port_.fail_trusted_from(0);
    ASSERT_TRUE(allocator_->validate_books()) << "n = " << n;
    EXPECT_TRUE(sums_up(statistics()));
    if (statistics().live_blocks != blocks.size()) {
      ADD_FAILURE() << "n = " << n << ": " << statistics().live_blocks << " for " << blocks.size();
    }
    if (!failed) succeeded_at = static_cast<int>(n);
    // With memory again everything works.
    keep(64);
    keep(3000);
    keep(100000);
    ASSERT_TRUE(allocator_->validate_books()) << "n = " << n;
    for (const std::uintptr_t block : blocks) ASSERT_EQ(free(block), Error::kNone);
    allocator_->trim();
    EXPECT_EQ(statistics().grown_bytes, 0u) << "n = " << n;
  }
  EXPECT_GT(succeeded_at, 3);
}

TEST_F(GrowthTest, Threat63ExactlyTheStackFailsWhileSlabsHaveRoom) {
  // Books of slabs are on the free lists, those of stacks are not: no slab may be taken in vain.
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 40; ++i) blocks.push_back(allocate(30000));
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  allocator_->flush_thread();
  port_.set_trusted_left(0);
  // Use up all plain books and the chunk that is open.
  std::vector<Extent> attached;
  for (std::size_t i = 0; i < 5000; ++i) {
    const Extent range = range_at(i * 2 * kPageBytes, kPageBytes);
    AttachOptions options;
    options.role = i % 2 == 0 ? Role::kMapping : Role::kPool;
    if (!allocator_->attach(range, options).ok()) break;
    attached.push_back(range);
  }
  const std::size_t before = statistics().overhead_bytes;
  (void)allocate(30000);
  (void)allocate(100);
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_LE(statistics().overhead_bytes, before + 300000);
  port_.set_trusted_left(SIZE_MAX / 2);
  std::vector<std::uintptr_t> more;
  for (int i = 0; i < 40; ++i) more.push_back(allocate(30000));
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(GrowthTest, Threat57HostCallsMayCallBackIn) {
  int depth = 0;
  start(config(kMiBytes, 0));
  port_.during_call = [&] {
    if (depth != 0) return;
    ++depth;
    const std::uintptr_t small = allocate(64);
    const std::uintptr_t large = allocate(70000);
    EXPECT_NE(small, 0u);
    EXPECT_NE(large, 0u);
    EXPECT_EQ(free(small), Error::kNone);
    EXPECT_EQ(free(large), Error::kNone);
    EXPECT_TRUE(sums_up(statistics()));
    --depth;
  };
  std::vector<std::uintptr_t> blocks;
  for (std::size_t i = 0; i < 300; ++i) blocks.push_back(allocate(1 + i * 331 % 90000));
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  allocator_->trim();
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(statistics().live_blocks, 0u);
  port_.during_call = nullptr;
}

}  // namespace
}  // namespace exclave
