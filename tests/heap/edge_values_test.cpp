// Values at the edge of what each operation takes, and the ways that only they take.
#include <gtest/gtest.h>

#include <vector>

#include "heap/core.hpp"
#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class EdgeValuesTest : public FakeAllocatorTest {
 protected:
  Error attach_error(const AttachOptions& options, Extent range = range_at(0, kMiBytes)) {
    const Result<RegionId> id = allocator_->attach(range, options);
    if (id.ok()) {
      EXPECT_TRUE(allocator_->detach(range).ok());
    }
    return id.error();
  }
};

// ---- Attach ----

TEST_F(EdgeValuesTest, WhatOnlyPoolsHaveAMappingIsRefused) {
  AttachOptions plain;
  plain.role = Role::kMapping;
  EXPECT_EQ(attach_error(plain), Error::kNone);
  AttachOptions open = plain;
  open.open_to_all = true;
  EXPECT_EQ(attach_error(open), Error::kInvalidArgument);
  AttachOptions largest = plain;
  largest.largest_block = 100;
  EXPECT_EQ(attach_error(largest), Error::kInvalidArgument);
  AttachOptions boundary = plain;
  boundary.boundary = kPageBytes;
  EXPECT_EQ(attach_error(boundary), Error::kInvalidArgument);
  AttachOptions unknown = plain;
  unknown.role = static_cast<Role>(static_cast<int>(Role::kForbidden) + 1);
  EXPECT_EQ(attach_error(unknown), Error::kInvalidArgument);
}

TEST_F(EdgeValuesTest, ABoundaryIsThatOfTheDeviceToo) {
  AttachOptions options;
  options.boundary = 64 * kKiBytes;
  EXPECT_EQ(attach_error(options), Error::kNone) << "no device's addresses";
  options.device_base = FakePort::kAttachBase + 64 * kKiBytes;
  EXPECT_EQ(attach_error(options), Error::kNone);
  options.device_base += kPageBytes;
  EXPECT_EQ(attach_error(options), Error::kInvalidArgument);
  options.boundary = kPageBytes;
  EXPECT_EQ(attach_error(options), Error::kNone);
  options.boundary = kPageBytes / 2;
  EXPECT_EQ(attach_error(options), Error::kInvalidArgument);
  options.boundary = 3 * kPageBytes;
  EXPECT_EQ(attach_error(options), Error::kInvalidArgument);
}

// ---- Detach ----

TEST_F(EdgeValuesTest, ADetachSaysWhetherAPinOrABlockIsInItsWay) {
  const Extent range = range_at(0, kMiBytes);
  const Placement where = Placement::in_pool(attach(range));
  const std::uintptr_t block = allocate(100, 16, where);
  EXPECT_EQ(allocator_->detach(range).error(), Error::kBusy);
  const PinId whole = pin(range);
  EXPECT_EQ(allocator_->detach(range).error(), Error::kPinned);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(allocator_->detach(range).error(), Error::kPinned);
  EXPECT_TRUE(allocator_->unpin(whole).ok());
  EXPECT_TRUE(allocator_->detach(range).ok());
}

TEST_F(EdgeValuesTest, PoolsOfOneDeviceGoInAnyOrder) {
  AttachOptions options;
  options.device = 7;
  options.open_to_all = true;
  for (std::size_t first = 0; first < 3; ++first) {
    for (std::size_t i = 0; i < 3; ++i) attach(range_at(i * kMiBytes, kMiBytes), options);
    for (std::size_t i = 0; i < 3; ++i) {
      const Extent gone = range_at((first + i) % 3 * kMiBytes, kMiBytes);
      EXPECT_TRUE(allocator_->detach(gone).ok());
      const std::uintptr_t block = allocate(100, 16, Placement::on_device(7));
      EXPECT_EQ(block != 0, i != 2) << "the others serve on";
      EXPECT_FALSE(gone.contains(block));
      if (block != 0) {
        EXPECT_EQ(free(block), Error::kNone);
      }
      EXPECT_TRUE(allocator_->validate_books());
    }
  }
}

// ---- Blocks ----

TEST_F(EdgeValuesTest, ABlockOfAPoolIsCutShortInItsPlace) {
  const Extent range = range_at(0, kMiBytes);
  const std::uintptr_t in_pool = allocate(60 * kPageBytes, 16, Placement::in_pool(attach(range)));
  const std::uintptr_t grown = allocate(64 * kPageBytes);
  for (const std::size_t pages : {33u, 21u, 17u}) {
    const auto attached = allocator_->reallocate(bytes_at(in_pool), pages * kPageBytes);
    ASSERT_TRUE(attached.ok());
    EXPECT_EQ(attached->address(), in_pool);
    EXPECT_EQ(usable(in_pool), pages * kPageBytes) << "to the page";
    const auto own = allocator_->reallocate(bytes_at(grown), pages * kPageBytes);
    ASSERT_TRUE(own.ok());
    EXPECT_EQ(own->address(), grown);
    EXPECT_EQ(usable(grown), round_run(std::uint64_t{pages}) * kPageBytes) << "to its length";
  }
  EXPECT_EQ(free(in_pool), Error::kNone);
  EXPECT_EQ(free(grown), Error::kNone);
}

TEST_F(EdgeValuesTest, WhatStandsIdleGoesBackBeforeTheQuotaRefuses) {
  Config config;
  config.quota_bytes = 4 * kMiBytes;
  config.grow_min_bytes = config.grow_max_bytes = kMiBytes;
  config.keep_free_bytes = 64 * kMiBytes;
  start(config);
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 3; ++i) blocks.push_back(allocate(kMiBytes - kPageBytes));
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(port_.ranges_out(), 3u) << "kept";
  allocator_->core()->trim();
  blocks.clear();
  for (std::size_t i = 0; i < 3; ++i) blocks.push_back(allocate(200 * kKiBytes + i));
  const std::uintptr_t filler = allocate(64);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(free(filler), Error::kNone);
  allocator_->flush_thread();
  EXPECT_NE(allocate(4 * kMiBytes), 0u);
  EXPECT_EQ(port_.ranges_out(), 1u);
  EXPECT_EQ(allocate_error(kMiBytes), Error::kQuota);
}

TEST_F(EdgeValuesTest, SizedFreesOfWhatIsNoBlockAreTold) {
  attach_mapping(range_at(0, kMiBytes));
  EXPECT_EQ(free(range_at(0, 1).base, 64), Error::kForeignFree);
  EXPECT_EQ(free(range_at(8 * kMiBytes, 1).base, 64), Error::kForeignFree);
  EXPECT_EQ(free(range_at(0, 1).base, 100000), Error::kForeignFree);
  EXPECT_EQ(misuses_.size(), 3u);
  EXPECT_EQ(allocator_->usable_size(bytes_at(range_at(0, 1).base)).error(), Error::kForeignFree);
}

TEST_F(EdgeValuesTest, SizedFreesUnderABoundaryKnowTheRoundedSize) {
  AttachOptions options;
  options.boundary = 64 * kKiBytes;
  const Placement where = Placement::in_pool(attach(range_at(0, kMiBytes), options));
  for (const std::size_t size : {40u, 100u, 700u, 5000u, 40000u}) {
    const std::uintptr_t block = allocate(size, 16, where);
    ASSERT_NE(block, 0u);
    EXPECT_EQ(usable(block), std::size_t{1} << ceil_log2(size));
    EXPECT_EQ(free(block, size * 2 + 16), Error::kWrongSize) << size;
    EXPECT_EQ(free(block, size / 4), Error::kWrongSize) << size;
    EXPECT_EQ(free(block, size), Error::kNone) << size;
  }
}

TEST_F(EdgeValuesTest, APlacementOfNoKindIsAnywhere) {
  Placement nowhere;
  nowhere.kind = static_cast<Placement::Kind>(9);
  const std::uintptr_t block = allocate(64, 16, nowhere);
  EXPECT_NE(block, 0u);
  EXPECT_EQ(free(block), Error::kNone);
}

TEST_F(EdgeValuesTest, ASlotIsNotCutShortToPages) {
  // Slots of 8 KiB; one that is aligned to 8 KiB becomes a block of pages.
  alignas(64 * kKiBytes) static std::byte memory[kMiBytes];
  const Extent range{reinterpret_cast<std::uintptr_t>(memory), sizeof memory};
  const Placement where = Placement::in_pool(attach(range));
  int moves = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uintptr_t block = allocate(8192, 16, where);
    if (!is_aligned(block, 8192)) continue;
    const auto moved = allocator_->reallocate(bytes_at(block), 4096, 8192);
    ASSERT_TRUE(moved.ok());
    EXPECT_NE(moved->address(), block);
    EXPECT_TRUE(is_aligned(moved->address(), 8192));
    EXPECT_EQ(usable(moved->address()), 4096u);
    EXPECT_EQ(free(block), Error::kDoubleFree) << "it moved away";
    ++moves;
  }
  EXPECT_NE(moves, 0);
  EXPECT_TRUE(allocator_->detach(range, DetachMode::kRevoke).ok());
}

// ---- Pins ----

TEST_F(EdgeValuesTest, PinsEndWhereTheirMappingsDo) {
  const Extent range = range_at(0, 4 * kPageBytes);
  attach_mapping(range);
  const RegionId pool = attach({range.end(), 4 * kPageBytes});
  EXPECT_TRUE(pool);
  EXPECT_EQ(allocator_->pin({range.base, range.size + 1}).error(), Error::kNotFound) << "a pool";
  EXPECT_EQ(allocator_->pin({range.base - 1, 2}).error(), Error::kNotFound) << "a hole";
  EXPECT_EQ(allocator_->pin({range.base, kAddressLimit}).error(), Error::kNotFound);
  EXPECT_EQ(allocator_->pin({range.base, SIZE_MAX}).error(), Error::kInvalidArgument);
  EXPECT_EQ(allocator_->pin({range.base, 0}).error(), Error::kInvalidArgument);
  EXPECT_TRUE(allocator_->unpin(pin({range.end() - 1, 1})).ok());
}

TEST_F(EdgeValuesTest, NothingBehindTheLastSlotIsPinned) {
  // Two slots of 28 KiB in 64 KiB.
  const std::uintptr_t block = allocate(28 * kKiBytes);
  const Result<RunInfo> slab = allocator_->next_run(block);
  ASSERT_TRUE(slab.ok());
  const std::size_t rest = slab->extent.size % slab->slot_bytes;
  ASSERT_NE(rest, 0u);
  EXPECT_EQ(allocator_->pin({slab->extent.end() - rest, 8}).error(), Error::kNotFound);
  EXPECT_EQ(allocator_->pin({slab->extent.end() - 8, 8}).error(), Error::kNotFound);
  const std::uintptr_t held = block + 28 * kKiBytes - 8;
  EXPECT_TRUE(allocator_->unpin(pin({held, 8})).ok());
  EXPECT_EQ(allocator_->pin({held, 9}).error(), Error::kNotFound) << "beyond the slot";
  EXPECT_EQ(free(block), Error::kNone);
}

TEST_F(EdgeValuesTest, ABlockAsLongAsItsGrownRegionIsPinnedAsABlock) {
  Config config;
  config.keep_free_bytes = 0;
  start(config);
  const std::uintptr_t block = allocate(64 * kMiBytes);
  const Result<RegionInfo> region = allocator_->query(block, 1);
  ASSERT_TRUE(region.ok());
  ASSERT_EQ(region->extent, (Extent{block, 64 * kMiBytes}));
  const PinId held = pin(region->extent);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(port_.ranges_out(), 1u) << "a device may still write there";
  EXPECT_EQ(allocator_->pin({block, 8}).error(), Error::kNotFound) << "it was freed";
  EXPECT_TRUE(allocator_->unpin(held).ok());
  EXPECT_EQ(port_.ranges_out(), 0u) << "with its last pin it went back";
}

TEST_F(EdgeValuesTest, APinThatGoesFirstLeavesTheDrainToTheLastBlock) {
  const Extent range = range_at(0, kMiBytes);
  const Placement where = Placement::in_pool(attach(range));
  for (const std::size_t size : {std::size_t{64}, 20 * kPageBytes}) {
    const std::uintptr_t stays = allocate(size, 16, where);
    EXPECT_NE(stays, 0u);
  }
  const std::uintptr_t slot = allocate(64, 16, where);
  const PinId held = pin({slot, 8});
  EXPECT_TRUE(allocator_->detach(range, DetachMode::kDrain).ok());
  EXPECT_EQ(free(slot), Error::kNone);
  EXPECT_TRUE(allocator_->unpin(held).ok());
  EXPECT_TRUE(allocator_->query(range.base, 1).ok()) << "two blocks still live there";
  EXPECT_TRUE(allocator_->detach(range, DetachMode::kRevoke).ok());
}

TEST_F(EdgeValuesTest, APinnedRegionStaysWithTheHostWhenItsAllocatorGoes) {
  leftovers_expected_ = true;
  const std::uintptr_t block = allocate(kMiBytes);
  pin({block, 8});
  allocator_.reset();
  EXPECT_EQ(port_.ranges_out(), 1u) << "a device may still write there";
}

// ---- Books that run out, each at one place ----

class LastBookTest : public FakeAllocatorTest {
 protected:
  // Single pages of one segment, each with a book, until there is none.
  std::vector<Extent> use_up_regions(std::size_t offset) {
    port_.set_trusted_left(0);
    std::vector<Extent> mappings;
    AttachOptions options;
    options.role = Role::kMapping;
    for (std::size_t i = 0;; ++i) {
      const Extent page = range_at(offset + i * 2 * kPageBytes, kPageBytes);
      const Result<RegionId> id = allocator_->attach(page, options);
      if (!id.ok()) {
        EXPECT_EQ(id.error(), Error::kOutOfTrustedMemory);
        return mappings;
      }
      mappings.push_back(page);
    }
  }
};

TEST_F(LastBookTest, OfARegionForAPool) {
  // A pool's own book lies ready, that of its region does not.
  const Extent before = range_at(0, kMiBytes);
  attach(before);
  EXPECT_TRUE(allocator_->detach(before).ok());
  use_up_regions(4 * kMiBytes);
  const Extent range = range_at(16 * kMiBytes, 3 * kMiBytes);
  const std::size_t regions = statistics().regions;
  EXPECT_EQ(allocator_->attach(range).error(), Error::kOutOfTrustedMemory);
  EXPECT_EQ(statistics().regions, regions);
  EXPECT_EQ(allocator_->query(range.base, 1).error(), Error::kNotFound);
  EXPECT_TRUE(allocator_->validate_books());
  port_.set_trusted_left(SIZE_MAX / 2);
  attach(range);
}

TEST_F(LastBookTest, OfAPin) {
  const std::uintptr_t slot = allocate(64);
  const std::uintptr_t pages = allocate(100000);
  port_.set_trusted_left(0);
  for (const std::uintptr_t block : {slot, pages}) {
    std::vector<PinId> pins;
    Result<PinId> id = allocator_->pin({block, 8});
    for (; id.ok(); id = allocator_->pin({block, 8})) pins.push_back(*id);
    EXPECT_EQ(id.error(), Error::kOutOfTrustedMemory);
    EXPECT_EQ(statistics().pins, pins.size());
    for (const PinId held : pins) EXPECT_TRUE(allocator_->unpin(held).ok());
    EXPECT_EQ(allocator_->next_run(block)->pinned, false);
    EXPECT_EQ(free(block), Error::kNone);
  }
  EXPECT_EQ(statistics().live_blocks, 0u);
}

TEST_F(LastBookTest, OfACutAtTheEndOfARange) {
  const Extent first = range_at(0, 4 * kPageBytes);
  const Extent second{first.end(), 4 * kPageBytes};
  attach_mapping(first);
  attach_mapping(second, Protection::kRead);
  use_up_regions(64 * kPageBytes);
  const std::size_t regions = statistics().regions;
  const Extent middle{first.base + kPageBytes, 6 * kPageBytes};
  EXPECT_EQ(allocator_->detach(middle).error(), Error::kOutOfTrustedMemory);
  EXPECT_EQ(allocator_->query(first.base, first.size)->extent, first);
  EXPECT_EQ(allocator_->query(second.base, second.size)->extent, second);
  EXPECT_EQ(statistics().regions, regions);
  port_.set_trusted_left(SIZE_MAX / 2);
  EXPECT_TRUE(allocator_->detach(middle).ok());
  EXPECT_FALSE(allocator_->query(first.base + kPageBytes, 1).ok());
  EXPECT_TRUE(allocator_->query(first.base, kPageBytes).ok());
  EXPECT_TRUE(allocator_->query(second.end() - kPageBytes, kPageBytes).ok());
}

}  // namespace
}  // namespace exclave
