// Edges of the plan, and checks that stand before others: each alone.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "heap/core.hpp"
#include "page/run_class.hpp"
#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class GuardsTest : public FakeAllocatorTest {
 protected:
  RunInfo run_of(std::uintptr_t block) {
    const Result<RunInfo> run = allocator_->next_run(block);
    EXPECT_TRUE(run.ok());
    return *run;
  }
  Slab& slab_around(std::uintptr_t block) {
    const UnitEntry entry = allocator_->core()->registry().find(block)->unit_of(block)->load();
    return *slab_of<Slab>(BookView(port_.book_window().base), entry);
  }
  static AttachOptions open_to_all() {
    AttachOptions options;
    options.open_to_all = true;
    return options;
  }
};

TEST_F(GuardsTest, TheLongestSizeThatIsOne) {
  EXPECT_EQ(allocate_error(PTRDIFF_MAX), Error::kOutOfMemory);
  EXPECT_EQ(allocate_error(std::size_t{PTRDIFF_MAX} + 1), Error::kInvalidArgument);
}

TEST_F(GuardsTest, WhatIsASlotAndWhatARunOfPages) {
  const std::uintptr_t largest = allocate(kMaxSmallBytes);
  EXPECT_EQ(run_of(largest).kind, RunInfo::Kind::kSlab);
  EXPECT_EQ(run_of(largest).slot_bytes, kMaxSmallBytes);
  const std::uintptr_t longer = allocate(kMaxSmallBytes + 1);
  EXPECT_EQ(run_of(longer).kind, RunInfo::Kind::kBlock);
  const std::uintptr_t at_a_page = allocate(100, kPageBytes);
  EXPECT_EQ(run_of(at_a_page).kind, RunInfo::Kind::kSlab);
  // Slots of two pages are at hand, but a slab promises no such alignment.
  const std::uintptr_t slot = allocate(2 * kPageBytes);
  EXPECT_EQ(free(slot), Error::kNone);
  const std::uintptr_t wider = allocate(100, 2 * kPageBytes);
  EXPECT_EQ(run_of(wider).kind, RunInfo::Kind::kBlock);
  EXPECT_EQ(usable(wider), kPageBytes);
  for (const std::uintptr_t block : {largest, longer, at_a_page, wider})
    EXPECT_EQ(free(block), Error::kNone);
}

// What is at hand serves first: the smallest slot, an aligned one, a kept run. Then the pool does.
TEST_F(GuardsTest, APoolThatIsOpenToAllComesAfterWhatIsAtHand) {
  const Extent pool = range_at(0, kMiBytes);
  for (const std::size_t size : {std::size_t{1}, std::size_t{64}, std::size_t{100000}}) {
    for (const std::size_t alignment : {std::size_t{16}, std::size_t{64}}) {
      EXPECT_EQ(free(allocate(size, alignment)), Error::kNone);
      attach(pool, open_to_all());
      std::vector<std::uintptr_t> blocks{allocate(size, alignment)};
      EXPECT_FALSE(pool.contains(blocks.back())) << size << " at " << alignment;
      while (blocks.size() < 10000 && !pool.contains(blocks.back()))
        blocks.push_back(allocate(size, alignment));
      EXPECT_TRUE(pool.contains(blocks.back())) << size << " at " << alignment;
      for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
      EXPECT_TRUE(allocator_->detach(pool).ok());
    }
  }
}

TEST_F(GuardsTest, TheSecondPoolThatIsOpenToAllStaysOpen) {
  const Extent first = range_at(0, kMiBytes);
  const Extent second = range_at(4 * kMiBytes, kMiBytes);
  attach(first, open_to_all());
  attach(second, open_to_all());
  EXPECT_TRUE(allocator_->detach(first).ok());
  const std::uintptr_t block = allocate(64);
  EXPECT_TRUE(second.contains(block));
  EXPECT_EQ(free(block), Error::kNone);
}

// ---- Stacks ----

TEST_F(GuardsTest, AFlushLeavesTheSlabsOfTheSmallestSize) {
  const std::uintptr_t block = allocate(16);
  allocator_->flush_thread();
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(run_of(block).live_slots, 1u);
  EXPECT_EQ(free(block), Error::kNone);
}

// 16 MiB, beside the first slots of each size.
TEST_F(GuardsTest, AllStacksTogetherHoldNoMoreThanTheirLimit) {
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    std::vector<std::uintptr_t> blocks;
    const std::size_t size = size_class_bytes(c);
    const std::size_t count = 2 * kMiBytes / size < 2048 ? 2 * kMiBytes / size : 2048;
    for (std::size_t i = 0; i < count; ++i) blocks.push_back(allocate(size));
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  }
  std::size_t first_slots = 0;
  for (SizeClass c = 0; c < kSizeClasses; ++c) first_slots += 16 * size_class_bytes(c);
  EXPECT_LE(statistics().cached_bytes, 16 * kMiBytes + first_slots);
  EXPECT_GT(statistics().cached_bytes, 16 * kMiBytes) << "and use it";
}

// So that a block that comes and goes costs no run of pages each time.
TEST_F(GuardsTest, OneWhollyFreeSlabOfASizeStaysAtHand) {
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 100; ++i) blocks.push_back(allocate(kMaxSmallBytes));
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  int wholly_free = 0;
  Result<RegionInfo> region = allocator_->next_region(0);
  for (; region.ok(); region = allocator_->next_region(region->extent.end())) {
    for (std::uintptr_t at = region->extent.base; at < region->extent.end();) {
      const RunInfo run = run_of(at);
      at = run.extent.end();
      wholly_free += run.kind == RunInfo::Kind::kSlab && run.live_slots + run.cached_slots == 0;
    }
  }
  EXPECT_EQ(wholly_free, 1);
}

// ---- Out of memory, and near it ----

TEST_F(GuardsTest, GrowthLeavesWhatIsCached) {
  std::vector<std::uintptr_t> small, large;
  for (int i = 0; i < 100; ++i) small.push_back(allocate(64));
  for (const std::uintptr_t block : small) EXPECT_EQ(free(block), Error::kNone);
  const std::uint32_t cached = run_of(small[0]).cached_slots;
  ASSERT_GE(cached, 100u);
  while (port_.reserve_calls() < 2) large.push_back(allocate(40000));
  EXPECT_EQ(run_of(small[0]).cached_slots, cached);
  while (port_.reserve_calls() < 3) large.push_back(allocate(kMiBytes));
  EXPECT_EQ(run_of(small[0]).cached_slots, cached);
  for (const std::uintptr_t block : large) EXPECT_EQ(free(block), Error::kNone);
}

// Memory is there, on this thread's stack for another size alone.
TEST_F(GuardsTest, WhatIsKeptForOneSizeServesAnotherBeforeOutOfMemory) {
  Config config;
  config.grow_min_bytes = config.grow_max_bytes = 64 * kKiBytes;
  start(config);
  port_.set_host_left(64 * kKiBytes);
  std::vector<std::uintptr_t> blocks;
  while (const std::uintptr_t block = allocate(64)) blocks.push_back(block);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  ASSERT_NE(run_of(blocks[0]).cached_slots, 0u);
  const std::uintptr_t other = allocate(5000);
  EXPECT_NE(other, 0u);
  EXPECT_EQ(free(other), Error::kNone);
}

TEST_F(GuardsTest, TheSlabOfAnEndedThreadServesTheNext) {
  const std::uintptr_t keeps_region = allocate(1000);
  std::uintptr_t left = 0;
  std::thread([&] { left = allocate(64); }).join();
  const std::uintptr_t next = allocate(64);
  EXPECT_TRUE(run_of(left).extent.contains(next));
  for (const std::uintptr_t block : {keeps_region, left, next})
    EXPECT_EQ(free(block), Error::kNone);
}

// ---- The same in an attached pool ----

TEST_F(GuardsTest, APoolsSlabIsUsedUpBeforeThereIsASecondOne) {
  const Extent pool = range_at(0, 16 * kMiBytes);
  const Placement where = Placement::in_pool(attach(pool));
  const std::uintptr_t first = allocate(64, 16, where);
  const Extent slab = run_of(first).extent;
  for (std::uint32_t i = 1; i < run_of(first).slots; ++i)
    ASSERT_TRUE(slab.contains(allocate(64, 16, where))) << i;
  EXPECT_FALSE(slab.contains(allocate(64, 16, where)));
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
}

TEST_F(GuardsTest, APoolsNewSlabLeavesWhatIsCached) {
  const Extent pool = range_at(0, 16 * kMiBytes);
  const Placement where = Placement::in_pool(attach(pool));
  const std::uintptr_t stays = allocate(64, 16, where);
  // A thread keeps slots of a pool that it uses now and then.
  for (int i = 0; i < 20; ++i) EXPECT_EQ(free(allocate(64, 16, where)), Error::kNone);
  const std::uint32_t cached = run_of(stays).cached_slots;
  ASSERT_NE(cached, 0u);
  allocate(5000, 16, where);
  EXPECT_EQ(run_of(stays).cached_slots, cached);
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
}

TEST_F(GuardsTest, APoolsMemoryForOneSizeServesAnother) {
  const Extent pool = range_at(0, 4 * kUnitBytes);
  const Placement where = Placement::in_pool(attach(pool));
  std::vector<std::uintptr_t> blocks;
  while (const std::uintptr_t block = allocate(64, 16, where)) blocks.push_back(block);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  const std::uintptr_t other = allocate(1000, 16, where);
  EXPECT_EQ(run_of(other).kind, RunInfo::Kind::kSlab);
  EXPECT_EQ(free(other), Error::kNone);
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

TEST_F(GuardsTest, ABlockMayBeAsLongAsItsPoolsBoundary) {
  const Extent pool = range_at(0, kMiBytes);
  for (const std::size_t boundary : {kPageBytes, 64 * kKiBytes, 128 * kKiBytes}) {
    AttachOptions options;
    options.boundary = boundary;
    const Placement where = Placement::in_pool(attach(pool, options));
    const std::uintptr_t block = allocate(boundary, 16, where);
    EXPECT_NE(block, 0u);
    EXPECT_EQ(run_of(block).kind == RunInfo::Kind::kSlab, boundary <= kMaxSmallBytes);
    EXPECT_EQ(allocate(boundary + 1, 16, where), 0u);
    EXPECT_EQ(free(block), Error::kNone);
    EXPECT_TRUE(allocator_->detach(pool).ok());
  }
}

// A small pool gives little of itself to one class, but as much as one slot needs.
TEST_F(GuardsTest, SlabsOfSmallPools) {
  const auto first_run = [&](Extent range, std::size_t boundary, std::size_t size) {
    AttachOptions options;
    options.boundary = boundary;
    const RegionId id = attach(range, options);
    const RunInfo run = run_of(allocate(size, 16, Placement::in_pool(id)));
    EXPECT_TRUE(allocator_->detach(range, DetachMode::kRevoke).ok());
    return run;
  };
  const RunInfo little = first_run(range_at(0, kMiBytes), 0, 64);
  EXPECT_EQ(little.kind, RunInfo::Kind::kSlab);
  EXPECT_EQ(little.extent.size, kUnitBytes);
  // One sixty-fourth is no more than may be given.
  EXPECT_EQ(first_run(range_at(0, 64 * 4 * kUnitBytes), 0, 64).extent.size, 4 * kUnitBytes);
  EXPECT_EQ(first_run(range_at(0, 63 * 4 * kUnitBytes), 0, 64).extent.size, 2 * kUnitBytes);
  const RunInfo whole = first_run(range_at(0, kUnitBytes), 0, kUnitBytes);
  EXPECT_EQ(whole.kind, RunInfo::Kind::kSlab);
  EXPECT_EQ(whole.slots, 1u);
  EXPECT_EQ(first_run(range_at(0, kUnitBytes), kUnitBytes, kUnitBytes).kind, RunInfo::Kind::kSlab);
  // Four slots are enough.
  EXPECT_EQ(first_run(range_at(0, kMiBytes), 0, 2 * kPageBytes).extent.size, 2 * kUnitBytes);
  // What is no whole unit will do, too, unless a slot might cross a boundary there.
  const Extent edge = range_at(kPageBytes, 2 * kPageBytes);
  EXPECT_EQ(first_run(edge, 0, 64).kind, RunInfo::Kind::kSlab);
  EXPECT_EQ(first_run(edge, kPageBytes, 64).kind, RunInfo::Kind::kBlock);
}

// ---- Pins ----

// As long as its region: still one block, which is not handed out again.
TEST_F(GuardsTest, Threat50APinnedBlockMayBeAllOfAGrownRegion) {
  Config config;
  config.grow_min_bytes = config.grow_max_bytes = kMiBytes;
  config.keep_free_bytes = 0;
  start(config);
  const std::uintptr_t block = allocate(kMiBytes);
  const Extent region = allocator_->query(block, 1)->extent;
  ASSERT_EQ(region, (Extent{block, kMiBytes}));
  const PinId pinned = pin(region);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_TRUE(allocator_->query(block, kMiBytes).ok());
  const std::uintptr_t other = allocate(kMiBytes);
  EXPECT_NE(other, block);
  EXPECT_TRUE(allocator_->unpin(pinned).ok());
  EXPECT_EQ(free(other), Error::kNone);
}

TEST_F(GuardsTest, TheHighestPageCanBePinned) {
  const Extent page{kAddressLimit - kPageBytes, kPageBytes};
  attach_mapping(page);
  const PinId pinned = pin(page);
  EXPECT_EQ(allocator_->detach(page).error(), Error::kPinned);
  EXPECT_TRUE(allocator_->unpin(pinned).ok());
  EXPECT_EQ(allocator_->pin({page.base, UINTPTR_MAX - page.base}).error(), Error::kNotFound);
  EXPECT_TRUE(allocator_->detach(page).ok());
}

TEST_F(GuardsTest, TheHighestDeviceAddressIsOne) {
  AttachOptions options;
  options.device_base = UINT64_MAX - kPageBytes;
  const Extent page = range_at(0, kPageBytes);
  attach(page, options);
  EXPECT_EQ(*allocator_->device_address(bytes_at(page.base)), UINT64_MAX - kPageBytes);
  EXPECT_TRUE(allocator_->detach(page).ok());
  options.device_base += 1;
  EXPECT_EQ(allocator_->attach(page, options).error(), Error::kInvalidArgument);
}

// ---- Attaching ----

TEST_F(GuardsTest, OnlyPoolsLimitTheirBlocks) {
  AttachOptions options;
  options.role = Role::kMapping;
  options.largest_block = 1;
  EXPECT_EQ(allocator_->attach(range_at(0, kMiBytes), options).error(), Error::kInvalidArgument);
  options.largest_block = 0;
  options.boundary = kPageBytes;
  EXPECT_EQ(allocator_->attach(range_at(0, kMiBytes), options).error(), Error::kInvalidArgument);
}

// Books are there for a pool, but for no device that would know it.
TEST_F(GuardsTest, APoolWithoutABookForItsDeviceIsNotAttached) {
  const Extent pool = range_at(0, kMiBytes);
  const Extent mapping = range_at(4 * kMiBytes, kMiBytes);
  attach(pool);
  attach_mapping(mapping);
  port_.set_trusted_left(0);
  std::vector<PinId> pins;
  for (;;) {
    const Result<PinId> pinned = allocator_->pin(mapping);
    if (!pinned.ok()) break;
    pins.push_back(*pinned);
  }
  EXPECT_TRUE(allocator_->detach(pool).ok());
  AttachOptions options;
  options.device = 7;
  EXPECT_EQ(allocator_->attach(pool, options).error(), Error::kOutOfTrustedMemory);
  EXPECT_FALSE(allocator_->query(pool.base, 1).ok());
  port_.set_trusted_left(SIZE_MAX / 2);
  for (const PinId pinned : pins) EXPECT_TRUE(allocator_->unpin(pinned).ok());
  attach(pool, options);
  EXPECT_NE(allocate(64, 16, Placement::on_device(7)), 0u);
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
}

// There are four thousand million of them.
TEST_F(GuardsTest, DeviceTagsLeaveNoBooks) {
  const Extent pool = range_at(0, kMiBytes);
  AttachOptions options;
  options.device = 1;
  const RegionId first = attach(pool, options);
  // This thread notes which pools it uses; and what a refused attach keeps for the next one is kept
  // once.
  EXPECT_EQ(free(allocate(64, 16, Placement::in_pool(first))), Error::kNone);
  EXPECT_EQ(allocator_->attach(pool, options).error(), Error::kOverlap);
  const std::size_t used = statistics().trusted_used_bytes;
  for (options.device = 2; options.device < 1000; ++options.device)
    EXPECT_EQ(allocator_->attach(pool, options).error(), Error::kOverlap);
  EXPECT_EQ(statistics().trusted_used_bytes, used) << "refused";
  for (; options.device < 2000; ++options.device) {
    const Extent other = range_at(4 * kMiBytes, kMiBytes);
    attach(other, options);
    EXPECT_NE(allocate(64, 16, Placement::on_device(options.device)), 0u);
    EXPECT_TRUE(allocator_->detach(other, DetachMode::kRevoke).ok());
    EXPECT_EQ(allocate_error(64, 16, Placement::on_device(options.device)), Error::kNotFound);
  }
  EXPECT_EQ(statistics().trusted_used_bytes, used) << "gone";
  EXPECT_EQ(allocator_->query(pool.base, 1)->id, first);
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

// ---- Growth in place ----

TEST_F(GuardsTest, ABlockThatGrowsInPlaceGetsARoundLength) {
  const std::uintptr_t block = allocate(20 * kPageBytes);
  const Result<untrusted_bytes> longer = allocator_->reallocate(bytes_at(block), 33 * kPageBytes);
  ASSERT_TRUE(longer.ok());
  EXPECT_EQ(longer->address(), block);
  EXPECT_EQ(*allocator_->usable_size(*longer), round_run(33) * kPageBytes);
  EXPECT_GT(round_run(33), 33u);
  EXPECT_EQ(free(block), Error::kNone);
}

// ---- Moves that scrub ----

TEST_F(GuardsTest, ScrubbingTouchesNothingThatStays) {
  alignas(64 * kPageBytes) static std::byte memory[64 * kPageBytes];
  const Extent range{reinterpret_cast<std::uintptr_t>(memory), sizeof memory};
  Config config;
  config.scrub_on_free = true;
  start(config);
  const Placement where = Placement::in_pool(attach(range));
  const auto byte_at = [](std::uintptr_t address) -> std::byte& {
    return *reinterpret_cast<std::byte*>(address);
  };
  // What is refused, or moves to a slot, loses nothing on its way.
  const std::uintptr_t moves = allocate(18 * kPageBytes, 16, where);
  byte_at(moves) = std::byte{3};
  EXPECT_EQ(allocator_->reallocate(bytes_at(moves), 0).error(), Error::kInvalidArgument);
  EXPECT_EQ(byte_at(moves), std::byte{3});
  const auto slot = allocator_->reallocate(bytes_at(moves), 100);
  ASSERT_TRUE(slot.ok());
  EXPECT_EQ(byte_at(slot->address()), std::byte{3});
  EXPECT_EQ(free(slot->address()), Error::kNone);
  // Longer: there is no tail to scrub.
  const std::uintptr_t grows = allocate(18 * kPageBytes, 16, where);
  byte_at(grows) = std::byte{1};
  const auto grown = allocator_->reallocate(bytes_at(grows), 20 * kPageBytes);
  ASSERT_TRUE(grown.ok());
  EXPECT_EQ(byte_at(grown->address()), std::byte{1});
  EXPECT_EQ(free(grown->address()), Error::kNone);
  // Pinned: a device may still read it.
  const std::uintptr_t shrinks = allocate(20 * kPageBytes, 16, where);
  byte_at(shrinks + 19 * kPageBytes) = std::byte{2};
  const PinId pinned = pin({shrinks, 20 * kPageBytes});
  const auto shrunk = allocator_->reallocate(bytes_at(shrinks), 17 * kPageBytes);
  ASSERT_TRUE(shrunk.ok());
  EXPECT_EQ(byte_at(shrinks + 19 * kPageBytes), std::byte{2});
  EXPECT_TRUE(allocator_->unpin(pinned).ok());
  EXPECT_EQ(byte_at(shrinks + 19 * kPageBytes), std::byte{0});
  EXPECT_EQ(free(shrunk->address()), Error::kNone);
  // Unpinned, and still live.
  const std::uintptr_t lives = allocate(20 * kPageBytes, 16, where);
  byte_at(lives) = std::byte{4};
  EXPECT_TRUE(allocator_->unpin(pin({lives, 8})).ok());
  EXPECT_EQ(byte_at(lives), std::byte{4});
  EXPECT_EQ(free(lives), Error::kNone);
  EXPECT_TRUE(allocator_->detach(range).ok());
}

TEST_F(GuardsTest, WithoutBooksTheHostIsNotAskedForMore) {
  Config config;
  config.grow_min_bytes = config.grow_max_bytes = 64 * kMiBytes;
  start(config);
  std::vector<std::uintptr_t> blocks{allocate(64)};
  port_.set_trusted_left(0);
  Error error = Error::kNone;
  for (std::size_t size = 96; size < kMaxSmallBytes && error == Error::kNone; size += 16) {
    const Result<untrusted_bytes> block = allocator_->allocate(size);
    error = block.error();
    if (block.ok()) blocks.push_back(block->address());
  }
  EXPECT_EQ(error, Error::kOutOfTrustedMemory);
  EXPECT_EQ(port_.reserve_calls(), 1u);
  port_.set_trusted_left(SIZE_MAX / 2);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
}

TEST_F(GuardsTest, WithoutBooksAPoolIsNotAttached) {
  EXPECT_EQ(free(allocate(64)), Error::kNone);
  AttachOptions mapping;
  mapping.role = Role::kMapping;
  const Extent range = range_at(64 * kMiBytes, kMiBytes);
  const auto attach_page = [&](std::size_t i) {
    return allocator_->attach(range_at(i * 2 * kPageBytes, kPageBytes), mapping).ok();
  };
  ASSERT_TRUE(attach_page(0));
  port_.set_trusted_left(0);
  // Their books are the smallest.
  for (std::size_t i = 1; attach_page(i); ++i) ASSERT_LT(i, 1000u);
  EXPECT_EQ(allocator_->attach(range).error(), Error::kOutOfTrustedMemory);
  EXPECT_FALSE(allocator_->query(range.base, 1).ok());
  port_.set_trusted_left(SIZE_MAX / 2);
  attach(range);
}

// Their books are the largest, so regions have some left.
TEST_F(GuardsTest, WithoutABookForItAPoolIsNotAttached) {
  const auto range_of = [](std::size_t i) { return range_at(i * 2 * kUnitBytes, kUnitBytes); };
  std::size_t pools = 0;
  attach(range_of(pools));
  port_.set_trusted_left(0);
  Error told = Error::kNone;
  while (told == Error::kNone) told = allocator_->attach(range_of(++pools)).error();
  EXPECT_EQ(told, Error::kOutOfTrustedMemory);
  EXPECT_FALSE(allocator_->query(range_of(pools).base, 1).ok());
  port_.set_trusted_left(SIZE_MAX / 2);
  for (std::size_t i = 0; i < pools; ++i) EXPECT_TRUE(allocator_->detach(range_of(i)).ok());
}

TEST_F(GuardsTest, APinWithoutABookHoldsNothing) {
  const Extent pool = range_at(0, kMiBytes);
  const std::uintptr_t block = allocate(64, 16, Placement::in_pool(attach(pool)));
  port_.set_trusted_left(0);
  std::vector<PinId> pins;
  Result<PinId> pinned = Error::kNone;
  while ((pinned = allocator_->pin(pool)).ok()) pins.push_back(*pinned);
  EXPECT_EQ(pinned.error(), Error::kOutOfTrustedMemory);
  EXPECT_EQ(allocator_->pin({block, 8}).error(), Error::kOutOfTrustedMemory);
  for (const PinId id : pins) EXPECT_TRUE(allocator_->unpin(id).ok());
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_TRUE(allocator_->detach(pool).ok());
  port_.set_trusted_left(SIZE_MAX / 2);
}

// A region of the host's that is long needs books of its own for its units and for its pages.
TEST_F(GuardsTest, WithoutAnyOfItsBooksGrowthGoesBackToTheHost) {
  EXPECT_EQ(free(allocate(64)), Error::kNone);
  const std::size_t ranges = port_.ranges_out();
  std::uint64_t failed = 0;
  for (;; ++failed) {
    port_.fail_trusted_from(failed + 1);
    const Result<untrusted_bytes> block = allocator_->allocate(kGiBytes);
    port_.fail_trusted_from(0);
    if (block.ok()) {
      EXPECT_EQ(free(block->address()), Error::kNone);
      break;
    }
    EXPECT_EQ(block.error(), Error::kOutOfTrustedMemory);
    EXPECT_EQ(port_.ranges_out(), ranges);
    EXPECT_TRUE(allocator_->validate_books());
  }
  EXPECT_GE(failed, 2u) << "for want of the one, and of the other";
}

// An orphaned slab has room, and there is no stack to put it on.
// What was freed while the host was asked serves in its place.
TEST_F(GuardsTest, ARegionThatNobodyGotToUseGoesWithATrim) {
  std::vector<std::uintptr_t> blocks{allocate(5120)};
  bool freed = false;
  port_.during_call = [&] {
    if (std::exchange(freed, true)) return;
    EXPECT_EQ(free(blocks.back()), Error::kNone);
    blocks.pop_back();
  };
  while (!freed) blocks.push_back(allocate(5120));
  port_.during_call = nullptr;
  EXPECT_EQ(statistics().regions, 2u);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  allocator_->trim();
  EXPECT_EQ(statistics().regions, 0u);
}

TEST_F(GuardsTest, WithoutBooksNoSlabIsAdopted) {
  std::uintptr_t stays = 0;
  std::vector<std::uintptr_t> blocks{allocate(32)};
  std::thread([&] { stays = allocate(64); }).join();
  port_.set_trusted_left(0);
  for (std::size_t size = 96; size < kMaxSmallBytes; size += 16) {
    if (const std::uintptr_t block = allocate(size); block != 0) blocks.push_back(block);
  }
  AttachOptions mapping;
  mapping.role = Role::kMapping;
  std::size_t mappings = 0;
  while (allocator_->attach(range_at(mappings * 2 * kPageBytes, kPageBytes), mapping).ok())
    ++mappings;
  EXPECT_EQ(allocate_error(64), Error::kOutOfTrustedMemory);
  EXPECT_EQ(run_of(stays).owner, 0u) << "who has a stack may use it";
  port_.set_trusted_left(SIZE_MAX / 2);
  const std::uintptr_t next = allocate(64);
  EXPECT_EQ(run_of(next).extent.base, run_of(stays).extent.base);
  blocks.insert(blocks.end(), {stays, next});
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
}

// As for a moment while its pool is revoked.
TEST_F(GuardsTest, Threat31ASlabWithoutAnOwnerIsNobodys) {
  const RegionId id = attach(range_at(0, kMiBytes));
  const std::uintptr_t block = allocate(64, 16, Placement::in_pool(id));
  const BookRef owner = slab_around(block).owner.exchange(0);
  EXPECT_EQ(free(block), Error::kForeignFree);
  EXPECT_EQ(free(block, 64), Error::kForeignFree);
  EXPECT_EQ(allocator_->next_run(block).error(), Error::kNotFound);
  EXPECT_EQ(statistics().live_blocks, 0u) << "and the walk ends";
  slab_around(block).owner.store(owner);
  // Its book may serve another slab by then, too.
  const std::uintptr_t base = slab_around(block).base.exchange(block + kGiBytes);
  EXPECT_EQ(allocator_->next_run(block).error(), Error::kNotFound);
  slab_around(block).base.store(base);
  // Or none yet.
  const std::uint32_t bytes = slab_around(block).slot_bytes.exchange(0);
  EXPECT_EQ(allocator_->pin({block, 8}).error(), Error::kNotFound);
  slab_around(block).slot_bytes.store(bytes);
  const PinId pinned = pin({block, 8});
  EXPECT_EQ(free(block), Error::kNone);
  slab_around(block).owner.store(0);
  EXPECT_TRUE(allocator_->unpin(pinned).ok());
  slab_around(block).owner.store(owner);
  EXPECT_EQ(statistics().live_blocks, 0u);
  EXPECT_TRUE(allocator_->detach(range_at(0, kMiBytes), DetachMode::kRevoke).ok());
}

// As for a moment while it grows, and while it goes.
TEST_F(GuardsTest, Threat31ARegionWithoutPagesHasNoRuns) {
  const std::uintptr_t block = allocate(20 * kPageBytes);
  Region& region = *allocator_->core()->registry().find(block);
  void* const pages = region.page_pool.exchange(nullptr);
  EXPECT_EQ(allocator_->pin({block, 8}).error(), Error::kNotFound);
  EXPECT_EQ(allocator_->usable_size(bytes_at(block)).error(), Error::kForeignFree);
  region.page_pool.store(pages);
  EXPECT_EQ(free(block), Error::kNone);
}

// ---- Growth ----

TEST_F(GuardsTest, WhatLiesIdleMakesRoomUnderTheQuota) {
  Config config;
  config.grow_min_bytes = config.grow_max_bytes = kMiBytes;
  config.quota_bytes = 8 * kMiBytes;
  start(config);
  EXPECT_EQ(free(allocate(9 * kMiBytes / 2)), Error::kNone);
  const std::uintptr_t longer = allocate(7 * kMiBytes);
  EXPECT_NE(longer, 0u);
  EXPECT_EQ(free(longer), Error::kNone);
}

// While the host says no, another thread frees what is wanted.
TEST_F(GuardsTest, WhatIsFreedDuringARefusedGrowthServes) {
  Config config;
  config.grow_min_bytes = config.grow_max_bytes = kMiBytes;
  start(config);
  std::vector<std::uintptr_t> blocks{allocate(5120)};
  port_.refuse(true);
  while (const std::uintptr_t block = allocate(5120)) blocks.push_back(block);
  bool freed = false;
  port_.during_call = [&] {
    if (freed) return;
    freed = true;
    std::thread([&] {
      EXPECT_EQ(free(blocks.back()), Error::kNone);
      allocator_->flush_thread();
    }).join();
  };
  EXPECT_EQ(allocate(5120), blocks.back());
  EXPECT_TRUE(freed);
  port_.during_call = nullptr;
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
}

// Slabs that the slab map does not know are freed into more slowly.
TEST_F(GuardsTest, ShortSlabsAreMadeOnlyWhereTheHostGivesNoMore) {
  for (const bool gives : {true, false}) {
    Config config;
    config.grow_min_bytes = config.grow_max_bytes = kMiBytes;
    start(config);
    const std::uint64_t before = port_.reserve_calls();
    std::vector<std::uintptr_t> blocks;
    for (const std::size_t size : {512u, 256u, 128u, 64u, 32u})
      blocks.push_back(allocate(size * kKiBytes, 2 * kPageBytes));
    ASSERT_EQ(port_.reserve_calls(), before + 1);
    port_.refuse(!gives);
    blocks.push_back(allocate(64));
    EXPECT_EQ(run_of(blocks.back()).extent.size >= SlabMap::kGrainBytes, gives);
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  }
}

TEST_F(GuardsTest, OnlyLongRegionsStandAtWholeSegments) {
  Config config;
  config.grow_min_bytes = config.grow_max_bytes = 64 * kKiBytes;
  start(config);
  std::vector<std::uintptr_t> blocks;
  while (port_.reserve_calls() < 2) blocks.push_back(allocate(5000));
  EXPECT_EQ(allocator_->next_region(0)->extent.end(),
            allocator_->query(blocks.back(), 1)->extent.base);
  const std::uintptr_t segment = allocate(4 * kMiBytes);
  EXPECT_EQ(allocator_->query(segment, 1)->extent.base % (4 * kMiBytes), 0u);
  blocks.push_back(segment);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
}

// ---- Frees ----

TEST_F(GuardsTest, Threat43TheSizeIsLookedAtFirst) {
  const std::uintptr_t block = allocate(64);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(free(block, 0), Error::kWrongSize);
  EXPECT_EQ(free(0x5000, 0), Error::kWrongSize);
  EXPECT_EQ(free(0x5000, 64), Error::kForeignFree);
}

TEST_F(GuardsTest, Threat43WhatFitsAnotherPlaceIsWrong) {
  // As long as a page, but a slot; as in a pool with a boundary, but without one.
  const std::uintptr_t slot = allocate(kPageBytes);
  EXPECT_EQ(free(slot, 3000), Error::kWrongSize);
  EXPECT_EQ(free(slot, kPageBytes), Error::kNone);
  const Placement where = Placement::in_pool(attach(range_at(0, kMiBytes)));
  const std::uintptr_t block = allocate(128, 16, where);
  EXPECT_EQ(free(block, 100), Error::kWrongSize);
  EXPECT_EQ(free(block, 128), Error::kNone);
}

TEST_F(GuardsTest, HandlesAreStaleWhereNothingIs) {
  EXPECT_EQ(allocator_->deallocate_handle(bytes_at(0x5000), RegionId{}).error(), Error::kStale);
  const std::uintptr_t block = allocate(64);
  const RegionId id = *allocator_->region_of(bytes_at(block));
  {
    // This very thread is changing the region.
    const core::AllocatorCore::Gate inside(*allocator_->core());
    std::atomic<std::uint64_t>& sequence = allocator_->core()->registry().find(block)->sequence;
    sequence.store(sequence.load() + 1);
    EXPECT_EQ(allocator_->deallocate_handle(bytes_at(block), id).error(), Error::kReentered);
    EXPECT_EQ(allocator_->device_address(bytes_at(block)).error(), Error::kReentered);
    sequence.store(sequence.load() + 1);
  }
  EXPECT_TRUE(allocator_->deallocate_handle(bytes_at(block), id).ok());
  EXPECT_TRUE(misuses_.empty());
}

// The run of pages that a pool served is freed by its handle, too, and with the last one it drains.
TEST_F(GuardsTest, AHandleFreesARunOfAPool) {
  const Extent range = range_at(0, 4 * kMiBytes);
  const RegionId pool = attach(range);
  const std::uintptr_t block = allocate(kMiBytes, 16, Placement::in_pool(pool));
  EXPECT_EQ(allocator_->deallocate_handle(bytes_at(block + kPageBytes), pool).error(),
            Error::kInteriorFree);
  EXPECT_TRUE(allocator_->detach(range, DetachMode::kDrain).ok());
  EXPECT_TRUE(allocator_->query(block, 1).ok());
  EXPECT_TRUE(allocator_->deallocate_handle(bytes_at(block), pool).ok());
  EXPECT_FALSE(allocator_->query(block, 1).ok());
}

TEST_F(GuardsTest, AThreadWithoutBooksForAHeapIsTold) {
  const std::uintptr_t block = allocate(64);
  const RegionId pool = attach(range_at(0, kMiBytes));
  const std::uintptr_t in_pool = allocate(64, 16, Placement::in_pool(pool));
  port_.set_trusted_left(0);
  std::vector<std::thread> threads;
  std::atomic<bool> done = false;
  Error told = Error::kNone;
  // Each takes a heap; in the end there is none.
  for (int i = 0; i < 64 && told == Error::kNone; ++i) {
    std::atomic<bool> asked = false;
    threads.emplace_back([&] {
      told = free(0x5000) == Error::kOutOfTrustedMemory ? Error::kOutOfTrustedMemory : Error::kNone;
      if (told != Error::kNone) {
        EXPECT_EQ(allocator_->deallocate_handle(bytes_at(in_pool), pool).error(), told);
        allocator_->flush_thread();
        allocator_->trim();
        EXPECT_EQ(statistics().live_blocks, 0u) << "nobody can count";
      }
      asked = true;
      while (!done) std::this_thread::yield();
    });
    while (!asked) std::this_thread::yield();
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  port_.set_trusted_left(SIZE_MAX / 2);
  EXPECT_EQ(told, Error::kOutOfTrustedMemory);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(free(in_pool), Error::kNone) << "it is live still";
}

// Another thread's frees go by batch, as long as there are books for batches.
TEST_F(GuardsTest, FreesForAnotherThreadNeedNoBooks) {
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 12000; ++i) blocks.push_back(allocate(16));
  std::thread([&] {
    EXPECT_EQ(free(blocks[0]), Error::kNone);
    port_.set_trusted_left(0);
    for (std::size_t i = 1; i < blocks.size(); ++i) ASSERT_EQ(free(blocks[i]), Error::kNone) << i;
    port_.set_trusted_left(SIZE_MAX / 2);
  }).join();
  allocator_->flush_thread();
  EXPECT_EQ(statistics().live_blocks, 0u);
  EXPECT_EQ(statistics().cached_bytes, 0u);
}

// A few are kept back until their batch is full.
TEST_F(GuardsTest, AFewFreesForAnotherThreadAreNotSentYet) {
  const std::uintptr_t stays = allocate(64);
  const std::uintptr_t blocks[] = {allocate(64), allocate(64)};
  std::atomic<int> turn = 0;
  std::thread other([&] {
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
    turn = 1;
    while (turn != 2) std::this_thread::yield();
  });
  while (turn != 1) std::this_thread::yield();
  allocator_->flush_thread();
  EXPECT_EQ(run_of(stays).cached_slots, 2u);
  turn = 2;
  other.join();
  allocator_->flush_thread();
  EXPECT_EQ(run_of(stays).cached_slots, 0u);
  EXPECT_EQ(free(stays), Error::kNone);
}

// More owners than batches at a time: one of them has to go before it is full.
TEST_F(GuardsTest, FreesForManyThreadsInTurn) {
  constexpr int kOwners = Heap::kOutboxes + 1;
  std::uintptr_t blocks[kOwners] = {};
  std::atomic<int> turn = 0;
  std::vector<std::thread> owners;
  for (int i = 0; i < kOwners; ++i) {
    owners.emplace_back([&, i] {
      blocks[i] = allocate(64);
      turn += 1;
      while (turn <= kOwners) std::this_thread::yield();
      allocator_->flush_thread();
    });
    while (turn != i + 1) std::this_thread::yield();
  }
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kDoubleFree);
  allocator_->flush_thread();
  turn += 1;
  for (std::thread& owner : owners) owner.join();
  EXPECT_EQ(statistics().live_blocks, 0u);
  EXPECT_EQ(statistics().cached_bytes, 0u);
}

// Its owner freed it at the same moment, and its slab went.
TEST_F(GuardsTest, Threat41ABatchMayNameWhatIsGone) {
  const std::uintptr_t block = allocate(64);
  std::atomic<int> turn = 0;
  std::thread other([&] {
    EXPECT_EQ(free(block), Error::kNone);  // in a batch that is not sent
    turn = 1;
    while (turn != 2) std::this_thread::yield();
  });
  while (turn != 1) std::this_thread::yield();
  // The owner saw it live before the other marked it.
  Slab& slab = slab_around(block);
  slab.states()[slab.slot_at(block)].store(SlotState::kLive);
  EXPECT_EQ(free(block), Error::kNone);
  allocator_->trim();
  ASSERT_FALSE(allocator_->query(block, 1).ok());
  turn = 2;
  other.join();
  EXPECT_TRUE(misuses_.empty()) << "nobody can know yet";
  allocator_->flush_thread();
  ASSERT_EQ(misuses_.size(), 1u);
  EXPECT_EQ(misuses_[0].error, Error::kDoubleFree);
  EXPECT_EQ(misuses_[0].address, block);
}

// The handler's free came between the look and the store of the call that it interrupted, and the
// slab went.
TEST_F(GuardsTest, Threat41ANestedFreeMayNameWhatIsGone) {
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 100; ++i) blocks.push_back(allocate(kMaxSmallBytes));
  const std::uintptr_t block = blocks[50];
  {
    const core::AllocatorCore::Gate inside(*allocator_->core());
    EXPECT_EQ(free(block), Error::kNone);
  }
  Slab& slab = slab_around(block);
  slab.states()[slab.slot_at(block)].store(SlotState::kLive);
  for (const std::uintptr_t one : blocks) EXPECT_EQ(free(one), Error::kNone);
  ASSERT_NE(run_of(block).kind, RunInfo::Kind::kSlab);
  EXPECT_TRUE(misuses_.empty()) << "nobody has looked yet";
  allocator_->flush_thread();
  ASSERT_EQ(misuses_.size(), 1u);
  EXPECT_EQ(misuses_[0].error, Error::kDoubleFree);
  EXPECT_EQ(misuses_[0].address, block);
}

// Its owner freed it at the same moment, its slab went, and the owner ended.
TEST_F(GuardsTest, Threat41ABatchForAnEndedThreadMayNameWhatIsGone) {
  std::uintptr_t block = 0;
  std::atomic<int> turn = 0;
  const auto wait_for = [&](int n) {
    while (turn != n) std::this_thread::yield();
  };
  std::thread owner([&] {
    block = allocate(64);
    turn = 1;
    wait_for(2);
    // The owner saw it live before the other marked it.
    Slab& slab = slab_around(block);
    slab.states()[slab.slot_at(block)].store(SlotState::kLive);
    EXPECT_EQ(free(block), Error::kNone);
  });
  wait_for(1);
  EXPECT_EQ(free(block), Error::kNone);  // in a batch that is not sent
  turn = 2;
  owner.join();
  allocator_->trim();
  ASSERT_FALSE(allocator_->query(block, 1).ok());
  allocator_->flush_thread();
  EXPECT_EQ(statistics().live_blocks, 0u);
}

// The owner takes it back at once; anybody else leaves it for the owner.
TEST_F(GuardsTest, WhoUnpinsLastGivesBackOnlyWhatIsHisOwn) {
  const std::uintptr_t stays = allocate(64);
  for (const bool own : {true, false}) {
    const std::uint32_t before = run_of(stays).cached_slots;
    const std::uintptr_t block = allocate(64);
    const PinId pinned = pin({block, 8});
    EXPECT_EQ(free(block), Error::kNone);
    if (own) {
      EXPECT_TRUE(allocator_->unpin(pinned).ok());
    } else {
      std::thread([&] { EXPECT_TRUE(allocator_->unpin(pinned).ok()); }).join();
    }
    EXPECT_EQ(run_of(stays).cached_slots, own ? before - 1 : before);
    EXPECT_EQ(statistics().live_blocks, 1u);
  }
  EXPECT_EQ(free(stays), Error::kNone);
}

}  // namespace
}  // namespace exclave
