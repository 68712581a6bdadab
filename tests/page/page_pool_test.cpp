// Blocks of pages, slabs and idle regions of one pool.
#include "page/page_pool.hpp"

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <vector>

#include "support/page_pool_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;

using PagePoolTest = PagePoolFixture;

TEST(UnitEntryTest, TagsAndPayloadsDoNotMix) {
  for (const UnitTag tag : {UnitTag::kSlab, UnitTag::kRuns, UnitTag::kLength}) {
    for (const std::uint32_t payload : {1u, 0x12345u, (1u << kUnitPayloadBits) - 1}) {
      const UnitEntry entry = make_unit(tag, payload);
      EXPECT_EQ(unit_tag(entry), tag);
      EXPECT_EQ(unit_payload(entry), payload);
    }
  }
  EXPECT_EQ(unit_tag(0), UnitTag::kNothing);
  const BookRef slab = 0x12345u << kBookTagBits;
  EXPECT_TRUE(is_slab(make_slab_unit(slab)));
  EXPECT_EQ(slab_ref(make_slab_unit(slab)), slab);
  for (const UnitTag tag : {UnitTag::kNothing, UnitTag::kRuns, UnitTag::kLength})
    EXPECT_FALSE(is_slab(make_unit(tag, 0x12345u)));
}

TEST(UnitEntryTest, RunsOfOneUnitAreApart) {
  UnitRuns runs;
  for (unsigned page = 0; page < 4; ++page) {
    runs.set_length(page, page + 1);
    runs.set_pinned(page, page % 2 == 0);
    runs.set_freed(page, page % 2 == 1);
  }
  for (unsigned page = 0; page < 4; ++page) {
    EXPECT_EQ(runs.length(page), page + 1);
    EXPECT_EQ(runs.pinned(page), page % 2 == 0);
    EXPECT_EQ(runs.freed(page), page % 2 == 1);
  }
  runs.set_length(2, 0);
  EXPECT_EQ(runs.length(1), 2u);
  EXPECT_EQ(runs.length(3), 4u);
  EXPECT_EQ(runs.payload >> kUnitPayloadBits, 0u);
}

TEST_F(PagePoolTest, BlocksOfEveryLengthAtEveryPageOfAUnit) {
  Region& region = add({kBase, 256 * kPageBytes});
  for (std::uint64_t lead = 0; lead < 4; ++lead) {
    for (std::uint64_t pages = 1; pages < 70; ++pages) {
      std::uintptr_t front = 0;
      if (lead != 0) front = pool_.allocate_block(lead, 0)->extent.base;
      const Result<PageRun> run = pool_.allocate_block(pages, 0);
      ASSERT_TRUE(run.ok());
      EXPECT_EQ(run->extent.size, pages * kPageBytes);
      const Result<PageBlock> found = pool_.find_block(region, run->extent.base);
      ASSERT_TRUE(found.ok());
      EXPECT_EQ(found->extent, run->extent);
      for (std::uintptr_t at = run->extent.base; at < run->extent.end(); at += kPageBytes / 2) {
        const Result<PageBlock> around = pool_.block_around(region, at);
        ASSERT_TRUE(around.ok());
        EXPECT_EQ(around->extent, run->extent);
        if (at != run->extent.base) {
          EXPECT_EQ(free(region, at), Error::kInteriorFree);
        }
      }
      ASSERT_TRUE(pool_.validate());
      EXPECT_EQ(free(region, run->extent.base), Error::kNone);
      EXPECT_EQ(free(region, run->extent.base), Error::kDoubleFree);
      EXPECT_FALSE(pool_.block_around(region, run->extent.base).ok());
      if (front != 0) {
        EXPECT_EQ(free(region, front), Error::kNone);
      }
      ASSERT_TRUE(pool_.validate());
    }
  }
}

TEST_F(PagePoolTest, KeptRunsJoinForARunLongerThanAnyThatIsKept) {
  Region& region = add({kBase, 4 * kLongestClassedRun * kPageBytes});
  pool_.keep_runs(SIZE_MAX / 2);
  std::uintptr_t runs[4];
  for (std::uintptr_t& run : runs) run = pool_.allocate_block(kLongestClassedRun, 0)->extent.base;
  for (const std::uintptr_t run : runs) EXPECT_EQ(free(region, run), Error::kNone);
  const Result<PageRun> all = pool_.allocate_block(4 * kLongestClassedRun, 0);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->extent, region.extent());
  EXPECT_EQ(free(region, kBase), Error::kNone);
}

TEST_F(PagePoolTest, ForeignAndUnknownAddressesAreTold) {
  Region& region = add({kBase, 16 * kPageBytes});
  EXPECT_EQ(free(region, kBase - kPageBytes), Error::kForeignFree);
  EXPECT_EQ(free(region, kBase + 16 * kPageBytes), Error::kForeignFree);
  EXPECT_EQ(free(region, kBase), Error::kDoubleFree) << "free pages";
  EXPECT_EQ(free(region, kBase + 1), Error::kDoubleFree);
  pool_.remove(region);
  EXPECT_EQ(free(region, kBase), Error::kForeignFree) << "not this pool's any more";
}

TEST_F(PagePoolTest, ABlockInOneRegionComesFromThereOrNotAtAll) {
  Region& region = add({kBase, 16 * kPageBytes});
  add({kBase + 64 * kPageBytes, 16 * kPageBytes});
  EXPECT_EQ(pool_.allocate_block_in(region, 0, 0).error(), Error::kOutOfMemory);
  EXPECT_EQ(pool_.allocate_block_in(region, 17, 0).error(), Error::kOutOfMemory);
  const Result<PageRun> run = pool_.allocate_block_in(region, 16, 0);
  ASSERT_TRUE(run.ok());
  EXPECT_EQ(run->extent, region.extent());
  EXPECT_EQ(pool_.allocate_block_in(region, 1, 0).error(), Error::kOutOfMemory) << "it is full";
  EXPECT_EQ(free(region, kBase), Error::kNone);
  pool_.remove(region);
  EXPECT_EQ(pool_.allocate_block_in(region, 1, 0).error(), Error::kOutOfMemory) << "it went";
}

TEST_F(PagePoolTest, LengthZeroAndAbsurdLengthsAreRefused) {
  add({kBase, 16 * kPageBytes});
  EXPECT_EQ(pool_.allocate_block(0, 0).error(), Error::kOutOfMemory);
  EXPECT_EQ(pool_.allocate_block(17, 0).error(), Error::kOutOfMemory);
  EXPECT_EQ(pool_.allocate_block(std::uint64_t{1} << 29, 0).error(), Error::kOutOfMemory);
  EXPECT_EQ(pool_.allocate_block(UINT64_MAX, 0).error(), Error::kOutOfMemory);
  EXPECT_EQ(pool_.allocate_block(1, 40).error(), Error::kOutOfMemory);
}

TEST_F(PagePoolTest, AbsurdLengthsInOneRegionAreRefusedToo) {
  Region& region = add({kBase, 16 * kPageBytes});
  EXPECT_EQ(pool_.allocate_block_in(region, std::uint64_t{1} << 29, 0).error(),
            Error::kOutOfMemory);
  EXPECT_EQ(pool_.allocate_block_in(region, UINT64_MAX, 0).error(), Error::kOutOfMemory);
}

TEST_F(PagePoolTest, NothingStandsOutsideItsRegions) {
  Region& region = add({kBase, 16 * kPageBytes});
  for (const std::uintptr_t outside : {kBase - 1, kBase + 16 * kPageBytes}) {
    EXPECT_EQ(pool_.block_around(region, outside).error(), Error::kNotFound);
    EXPECT_TRUE(pool_.piece_at(region, outside).extent.empty());
  }
  EXPECT_EQ(pool_.block_around(region, kBase).error(), Error::kNotFound) << "no block at all";
  EXPECT_EQ(pool_.pin_block(region, {kBase, 8}).error(), Error::kNotFound);
  pool_.remove(region);
  EXPECT_EQ(pool_.block_around(region, kBase).error(), Error::kNotFound);
  EXPECT_TRUE(pool_.piece_at(region, kBase).extent.empty());
}

TEST_F(PagePoolTest, ASlabThatIsNotFoundYetStandsThereAsSinglePages) {
  Region& region = add({kBase, 16 * kPageBytes});
  const Result<PageRun> slab = pool_.allocate_slab(4);
  ASSERT_TRUE(slab.ok());
  const PagePool::Piece piece = pool_.piece_at(region, slab->extent.base + kPageBytes + 5);
  EXPECT_EQ(piece.extent, (Extent{slab->extent.base + kPageBytes, kPageBytes}));
  EXPECT_EQ(piece.slab, 0u);
  pool_.free_slab(*slab);
}

// The length stands in 29 bits.
TEST_F(PagePoolTest, LengthsThatDoNotFitTheirEntryAreRefused) {
  constexpr std::uint64_t kLongest = std::uint64_t{1} << kUnitPayloadBits;
  Region& region = add({kBase, (kLongest + 1) * kPageBytes});
  EXPECT_EQ(pool_.allocate_block(kLongest, 0).error(), Error::kOutOfMemory);
  EXPECT_EQ(pool_.allocate_block_in(region, kLongest, 0).error(), Error::kOutOfMemory);
  const Result<PageRun> run = pool_.allocate_block(kLongest - 1, 0);
  ASSERT_TRUE(run.ok());
  EXPECT_EQ(pool_.find_block(region, run->extent.base)->extent, run->extent);
  pool_.remove(region);
}

// The next block in these units must not find the last one's length there.
TEST_F(PagePoolTest, AFreedBlockLeavesNothingInItsUnits) {
  Region& region = add({kBase, 64 * kPageBytes});
  for (const std::uint64_t pages : {1u, 4u, 14u, 15u, 16u, 64u}) {
    const Extent block = pool_.allocate_block(pages, 0)->extent;
    EXPECT_EQ(free(region, block.base), Error::kNone);
    for (std::uintptr_t at = kBase; at < kBase + 64 * kPageBytes; at += kUnitBytes)
      EXPECT_EQ(region.unit_of(at)->load(), 0u) << pages;
  }
}

TEST_F(PagePoolTest, PinnedBlockIsKeptUntilItIsUnpinnedAndFreedAgain) {
  Region& region = add({kBase, 4 * kPageBytes});
  const Extent block = pool_.allocate_block(4, 0)->extent;
  EXPECT_EQ(pool_.pin_block(region, {block.base, block.size + 1}).error(), Error::kNotFound);
  EXPECT_TRUE(pool_.pin_block(region, {block.base + 5000, 100}).ok());
  bool kept = false;
  EXPECT_TRUE(pool_.free_block(region, block.base, &kept).ok());
  EXPECT_TRUE(kept);
  EXPECT_EQ(pool_.free_block(region, block.base, &kept).error(), Error::kDoubleFree);
  EXPECT_EQ(pool_.find_block(region, block.base).error(), Error::kDoubleFree);
  EXPECT_EQ(pool_.pin_block(region, block).error(), Error::kNotFound) << "it was freed";
  EXPECT_FALSE(pool_.allocate_block(1, 0).ok());
  const Result<PageBlock> unpinned = pool_.unpin_block(region, block.base);
  ASSERT_TRUE(unpinned.ok());
  EXPECT_TRUE(unpinned->freed);
  // Never live again: it goes in one step.
  EXPECT_EQ(pool_.free_block(region, block.base, &kept).error(), Error::kDoubleFree);
  EXPECT_EQ(pool_.pin_block(region, block).error(), Error::kNotFound);
  EXPECT_TRUE(pool_.free_unpinned_block(region, block.base).ok());
  EXPECT_EQ(pool_.free_unpinned_block(region, block.base).error(), Error::kNotFound);
  const Result<PageRun> again = pool_.allocate_block(4, 0);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(pool_.free_unpinned_block(region, block.base).error(), Error::kNotFound) << "live";
  EXPECT_TRUE(pool_.pin_block(region, again->extent).ok());
  EXPECT_EQ(pool_.free_unpinned_block(region, block.base).error(), Error::kNotFound) << "pinned";
}

TEST_F(PagePoolTest, TakenBlocksStayWhereTheyAreUntilTheyAreFreed) {
  Region& region = add({kBase, 4 * kPageBytes});
  const Extent block = pool_.allocate_block(4, 0)->extent;
  EXPECT_EQ(pool_.take_block(region, block.base + kPageBytes).error(), Error::kInteriorFree);
  const Result<PageBlock> taken = pool_.take_block(region, block.base);
  ASSERT_TRUE(taken.ok());
  EXPECT_EQ(taken->extent, block);
  EXPECT_FALSE(taken->pinned);
  bool kept = false;
  EXPECT_EQ(pool_.take_block(region, block.base).error(), Error::kDoubleFree);
  EXPECT_EQ(pool_.free_block(region, block.base, &kept).error(), Error::kDoubleFree);
  EXPECT_EQ(pool_.find_block(region, block.base).error(), Error::kDoubleFree);
  EXPECT_EQ(pool_.pin_block(region, block).error(), Error::kNotFound);
  EXPECT_FALSE(pool_.allocate_block(1, 0).ok());
  EXPECT_TRUE(pool_.free_unpinned_block(region, block.base).ok());
  const Extent again = pool_.allocate_block(4, 0)->extent;
  // One that is pinned already goes with its last pin.
  EXPECT_TRUE(pool_.pin_block(region, again).ok());
  EXPECT_TRUE(pool_.take_block(region, again.base)->pinned);
  EXPECT_EQ(pool_.take_block(region, again.base).error(), Error::kDoubleFree);
  EXPECT_TRUE(pool_.unpin_block(region, again.base)->freed);
  EXPECT_TRUE(pool_.free_unpinned_block(region, again.base).ok());
}

TEST_F(PagePoolTest, ABlockIsCutInTwo) {
  Region& region = add({kBase, 64 * kPageBytes});
  for (const std::uint64_t before : {2u, 14u, 15u, 16u, 40u}) {
    for (std::uint64_t after = 1; after < before; ++after) {
      const Extent block = pool_.allocate_block(before, 0)->extent;
      const std::size_t kept = after * kPageBytes;
      const Tail becomes = after % 2 == 0 ? Tail::kFree : Tail::kTaken;
      const Result<Extent> tail = pool_.cut_block(region, block.base, after, becomes);
      ASSERT_TRUE(tail.ok());
      EXPECT_EQ(*tail, (Extent{block.base + kept, block.size - kept}));
      EXPECT_EQ(pool_.find_block(region, block.base)->extent.size, kept);
      EXPECT_EQ(free(region, tail->base), Error::kDoubleFree);
      ASSERT_TRUE(pool_.validate());
      EXPECT_EQ(pool_.free_unpinned_block(region, tail->base).ok(), becomes == Tail::kTaken);
      EXPECT_EQ(free(region, tail->base), Error::kDoubleFree);
      ASSERT_TRUE(pool_.validate());
      for (const std::uint64_t pages : {std::uint64_t{0}, after, after + 1})
        EXPECT_EQ(pool_.cut_block(region, block.base, pages, becomes).error(),
                  Error::kInvalidArgument);
      EXPECT_EQ(free(region, block.base), Error::kNone);
    }
  }
}

// Both ways of resizing.
TEST_F(PagePoolTest, OnlyALiveBlockThatNoPinHoldsIsResized) {
  Region& region = add({kBase, 64 * kPageBytes});
  const Extent pinned = pool_.allocate_block(4, 0)->extent;
  const auto cut = [&](std::uintptr_t address) {
    return pool_.cut_block(region, address, 1, Tail::kFree).error();
  };
  const auto grow = [&](std::uintptr_t address) {
    return pool_.grow_block(region, address, 5).error();
  };
  EXPECT_EQ(pool_.unpin_block(region, pinned.base + kPageBytes).error(), Error::kNotFound);
  EXPECT_EQ(pool_.unpin_block(region, kBase - kPageBytes).error(), Error::kNotFound);
  for (const auto& resize : {std::function<Error(std::uintptr_t)>(cut), {grow}}) {
    EXPECT_EQ(resize(kBase - kPageBytes), Error::kForeignFree);
    EXPECT_EQ(resize(pinned.base + kPageBytes), Error::kInteriorFree);
    EXPECT_EQ(resize(pinned.end()), Error::kDoubleFree);
    EXPECT_TRUE(pool_.pin_block(region, pinned).ok());
    EXPECT_EQ(resize(pinned.base), Error::kPinned);
    EXPECT_TRUE(pool_.unpin_block(region, pinned.base).ok());
  }
  EXPECT_TRUE(pool_.take_block(region, pinned.base).ok());
  EXPECT_EQ(cut(pinned.base), Error::kDoubleFree);
  EXPECT_EQ(grow(pinned.base), Error::kDoubleFree);
  EXPECT_TRUE(pool_.free_unpinned_block(region, pinned.base).ok());
}

TEST_F(PagePoolTest, Threat41TheTailIsNobodysAndTheHeadItsHolders) {
  Region& region = add({kBase, 4 * kPageBytes});
  const Extent block = pool_.allocate_block(4, 0)->extent;
  const std::uintptr_t tail = pool_.cut_block(region, block.base, 1, Tail::kTaken)->base;
  EXPECT_EQ(free(region, tail), Error::kDoubleFree);
  EXPECT_EQ(pool_.take_block(region, tail).error(), Error::kDoubleFree);
  EXPECT_EQ(pool_.cut_block(region, tail, 2, Tail::kFree).error(), Error::kDoubleFree);
  EXPECT_EQ(pool_.pin_block(region, {tail, 8}).error(), Error::kNotFound);
  EXPECT_FALSE(pool_.keep_block(region, tail));
  EXPECT_FALSE(pool_.allocate_block(1, 0).ok());
  EXPECT_EQ(pool_.grow_block(region, block.base, 2).error(), Error::kOutOfMemory);
  EXPECT_TRUE(pool_.pin_block(region, {block.base, 8}).ok());
  EXPECT_EQ(pool_.pin_block(region, {block.base, kPageBytes + 1}).error(), Error::kNotFound);
  EXPECT_FALSE(pool_.unpin_block(region, block.base)->freed);
  EXPECT_EQ(free(region, block.base), Error::kNone);
  EXPECT_TRUE(pool_.free_unpinned_block(region, tail).ok());
  EXPECT_EQ(pool_.allocate_block(4, 0)->extent, block);
  EXPECT_EQ(free(region, block.base), Error::kNone);
}

TEST_F(PagePoolTest, ABlockGrowsIntoFreePagesBehindIt) {
  // Starts in the middle of a unit: lengths change their place in its entries.
  Region& region = add({kBase + kPageBytes, 62 * kPageBytes});
  for (const std::uint64_t before : {1u, 2u, 13u, 14u, 15u, 16u, 40u}) {
    for (std::uint64_t after = before + 1; after <= 62; ++after) {
      const Extent block = pool_.allocate_block(before, 0)->extent;
      for (const std::uint64_t pages : {std::uint64_t{0}, before - 1, before})
        EXPECT_EQ(pool_.grow_block(region, block.base, pages).error(), Error::kInvalidArgument);
      ASSERT_TRUE(pool_.grow_block(region, block.base, after).ok());
      EXPECT_EQ(pool_.find_block(region, block.base)->extent.size, after * kPageBytes);
      EXPECT_EQ(pool_.grow_block(region, block.base, 63).error(), Error::kOutOfMemory);
      EXPECT_EQ(pool_.grow_block(region, block.base, std::uint64_t{1} << kUnitPayloadBits).error(),
                Error::kOutOfMemory);
      ASSERT_TRUE(pool_.validate());
      EXPECT_EQ(free(region, block.base), Error::kNone);
    }
  }
  const Extent block = pool_.allocate_block(2, 0)->extent;
  const Extent behind = pool_.allocate_block(2, 0)->extent;
  EXPECT_EQ(pool_.grow_block(region, block.base, 3).error(), Error::kOutOfMemory);
  EXPECT_EQ(free(region, behind.base), Error::kNone);
  // The pages from kBase + 1 on: the next multiple of four is three pages away.
  EXPECT_EQ(pool_.grow_block(region, block.base, 4, 4).error(), Error::kOutOfMemory);
  EXPECT_TRUE(pool_.grow_block(region, block.base, 3, 4).ok());
  EXPECT_EQ(free(region, block.base), Error::kNone);
}

TEST_F(PagePoolTest, SlabsAreAlignedToTheirSizeOrAGrainAndFoundByTheirUnits) {
  Region& region = add({kBase + kPageBytes, 1000 * kPageBytes});
  for (const std::uint64_t units : {1u, 2u, 4u, 8u, 16u}) {
    const Result<PageRun> run = pool_.allocate_slab(units);
    ASSERT_TRUE(run.ok());
    EXPECT_EQ(run->extent.size, units * kUnitBytes);
    EXPECT_TRUE(is_aligned(run->extent.base, std::min(units * kUnitBytes, SlabMap::kGrainBytes)));
    pool_.publish_slab(*run, 88);
    EXPECT_EQ(pool_.piece_at(region, run->extent.base + kPageBytes).slab, 88u);
    ASSERT_TRUE(pool_.validate());
    pool_.free_slab(*run);
    EXPECT_TRUE(pool_.piece_at(region, run->extent.base).free);
  }
}

TEST_F(PagePoolTest, EdgeSlabsTakeThePartialUnits) {
  struct Shape {
    std::uintptr_t base;
    std::size_t pages;
    std::vector<Extent> edges;
  };
  const Shape shapes[] = {
      {kBase + kPageBytes, 1, {{kBase + kPageBytes, kPageBytes}}},
      {kBase, 3, {{kBase, 3 * kPageBytes}}},
      {kBase + 3 * kPageBytes,
       2,
       {{kBase + 3 * kPageBytes, kPageBytes}, {kBase + 4 * kPageBytes, kPageBytes}}},
      {kBase, 8, {{kBase, 4 * kPageBytes}, {kBase + 4 * kPageBytes, 4 * kPageBytes}}},
      {kBase + 2 * kPageBytes,
       7,
       {{kBase + 2 * kPageBytes, 2 * kPageBytes}, {kBase + 8 * kPageBytes, kPageBytes}}},
  };
  for (const Shape& shape : shapes) {
    PagePool pool(books_);
    const Extent extent{shape.base, shape.pages * kPageBytes};
    Region& region = **registry_.create(extent, AttachOptions{}, false);
    ASSERT_TRUE(pool.add(region).ok());
    std::vector<PageRun> runs;
    for (const Extent& edge : shape.edges) {
      const Result<PageRun> run = pool.allocate_edge_slab(region);
      ASSERT_TRUE(run.ok());
      EXPECT_EQ(run->extent, edge);
      pool.publish_slab(*run, 8);
      runs.push_back(*run);
      EXPECT_TRUE(pool.validate());
    }
    EXPECT_FALSE(pool.allocate_edge_slab(region).ok());
    for (const PageRun& run : runs) pool.free_slab(run);
    EXPECT_TRUE(pool.validate());
    EXPECT_TRUE(pool.allocate_block(shape.pages, 0).ok());
    pool.remove(region);
    registry_.destroy(region);
  }
}

TEST_F(PagePoolTest, TheTightestRegionServes) {
  Region& large = add({kBase, 64 * kPageBytes});
  Region& small = add({kBase + 128 * kPageBytes, 4 * kPageBytes});
  EXPECT_EQ(pool_.allocate_block(3, 0)->region, &small);
  EXPECT_EQ(pool_.allocate_block(4, 0)->region, &large);
}

TEST_F(PagePoolTest, ManyRegionsThatAreTooSmallDoNotHideOneThatServes) {
  for (std::uintptr_t i = 0; i < 8; ++i) add({kBase + 64 * i * kPageBytes, 4 * kPageBytes});
  Region& large = add({kBase + 1024 * kPageBytes, 8 * kPageBytes});
  const Result<PageRun> run = pool_.allocate_block(5, 0);
  ASSERT_TRUE(run.ok());
  EXPECT_EQ(run->region, &large);
}

TEST_F(PagePoolTest, IdleRegionsAreTakenOnlyAboveWhatIsKept) {
  add({kBase, 16 * kPageBytes});
  add({kBase + 64 * kPageBytes, 16 * kPageBytes});
  EXPECT_TRUE(pool_.has_idle(31 * kPageBytes));
  EXPECT_FALSE(pool_.has_idle(32 * kPageBytes));
  EXPECT_EQ(pool_.take_idle(32 * kPageBytes), nullptr) << "there is not even so much";
  EXPECT_NE(pool_.take_idle(16 * kPageBytes), nullptr);
  EXPECT_EQ(pool_.take_idle(16 * kPageBytes), nullptr);
  EXPECT_TRUE(pool_.validate());
  const Result<PageRun> run = pool_.allocate_block(1, 0);
  EXPECT_EQ(pool_.take_idle(0), nullptr) << "a block lives in it";
  EXPECT_EQ(free(*run->region, run->extent.base), Error::kNone);
  EXPECT_NE(pool_.take_idle(0), nullptr);
}

TEST_F(PagePoolTest, WhatWasRefusedIsAskedForAgainOnceRegionsComeOrGo) {
  Region& one = add({kBase, 32 * kPageBytes});
  EXPECT_EQ(pool_.take_idle(16 * kPageBytes), nullptr);
  EXPECT_FALSE(pool_.has_surplus(16 * kPageBytes));
  Region& other = add({kBase + 1024 * kPageBytes, 16 * kPageBytes});
  EXPECT_TRUE(pool_.has_surplus(16 * kPageBytes));
  EXPECT_EQ(pool_.take_idle(32 * kPageBytes), &other);
  EXPECT_EQ(pool_.take_idle(16 * kPageBytes), nullptr);
  const Result<PageRun> run = pool_.allocate_block_in(one, 1, 0);
  EXPECT_EQ(free(one, run->extent.base), Error::kNone);
  EXPECT_TRUE(pool_.has_surplus(16 * kPageBytes));
}

// Else another thread's free gives it back before the request that it was grown for takes its part.
TEST_F(PagePoolTest, ANewRegionIsNotIdleBeforeItWasOfUse) {
  const Result<Region*> region = registry_.create({kBase, 64 * kPageBytes}, AttachOptions{}, true);
  ASSERT_TRUE(region.ok() && pool_.add(**region).ok());
  EXPECT_FALSE(pool_.has_idle(0));
  EXPECT_EQ(pool_.take_idle(0), nullptr);
  const Result<PageRun> run = pool_.allocate_block(1, 0);
  EXPECT_FALSE(pool_.has_idle(0));
  EXPECT_EQ(free(**region, run->extent.base), Error::kNone);
  EXPECT_EQ(pool_.take_idle(0), *region);
}

TEST_F(PagePoolTest, ANewRegionIsIdleOnceItsGraceHasEnded) {
  const Result<Region*> region = registry_.create({kBase, 64 * kPageBytes}, AttachOptions{}, true);
  ASSERT_TRUE(region.ok() && pool_.add(**region).ok());
  pool_.end_grace();
  EXPECT_TRUE(pool_.validate());
  EXPECT_EQ(pool_.take_idle(0), *region);
}

TEST_F(PagePoolTest, AsMuchAsMayStayStaysWhereItCan) {
  const auto sized = [&](std::uintptr_t i, std::size_t pages) -> Region& {
    return add({kBase + 1024 * i * kPageBytes, pages * kPageBytes});
  };
  Region& small = sized(0, 8);
  Region& large = sized(1, 32);
  Region& middle = sized(2, 12);
  Region& huge = sized(3, 512);
  const auto take = [&](std::size_t pages) { return pool_.take_idle(pages * kPageBytes); };
  EXPECT_EQ(take(50), &huge);
  EXPECT_TRUE(pool_.has_surplus(50 * kPageBytes));
  EXPECT_EQ(take(50), nullptr) << "each of them leaves less than may stay";
  EXPECT_FALSE(pool_.has_surplus(50 * kPageBytes)) << "nobody asks again";
  EXPECT_EQ(take(44), &small);
  EXPECT_EQ(take(12), &middle);
  EXPECT_EQ(take(8), nullptr);
  EXPECT_EQ(take(7), &large) << "more than four times what may stay";
  EXPECT_EQ(take(0), nullptr);
}

TEST_F(PagePoolTest, OutOfTrustedMemoryChangesNothing) {
  Region& region = **registry_.create({kBase, std::size_t{1} << 34}, AttachOptions{}, true);
  const std::size_t used = books_.used_bytes();
  port_.set_trusted_left(0);
  EXPECT_EQ(pool_.add(region).error(), Error::kOutOfTrustedMemory);
  EXPECT_EQ(books_.used_bytes(), used);
  // Room for the first of the two books only.
  port_.set_trusted_left(std::size_t{700} << 10);
  EXPECT_EQ(pool_.add(region).error(), Error::kOutOfTrustedMemory);
  EXPECT_EQ(books_.used_bytes(), used);
  port_.set_trusted_left(SIZE_MAX / 2);
  EXPECT_TRUE(pool_.add(region).ok());
  pool_.remove(region);
  EXPECT_EQ(books_.used_bytes(), used);
}

TEST_F(PagePoolTest, RandomBlocksAndSlabsKeepTheBooksRight) {
  std::vector<Region*> regions;
  for (std::uintptr_t i = 0; i < 4; ++i) {
    regions.push_back(
        &add({kBase + i * 1024 * kPageBytes + i * kPageBytes, (100 + 37 * i) * kPageBytes}));
  }
  std::map<std::uintptr_t, PageRun> blocks;
  std::vector<PageRun> slabs;
  std::mt19937_64 random(6);
  for (int step = 0; step < 4000; ++step) {
    switch (random() % 5) {
      case 0:
      case 1: {
        const Result<PageRun> run =
            pool_.allocate_block(1 + random() % 30, static_cast<unsigned>(random() % 3));
        if (run.ok()) {
          for (const auto& [base, other] : blocks) ASSERT_FALSE(other.extent.overlaps(run->extent));
          for (const PageRun& other : slabs) ASSERT_FALSE(other.extent.overlaps(run->extent));
          blocks.emplace(run->extent.base, *run);
        }
        break;
      }
      case 2: {
        const Result<PageRun> run = pool_.allocate_slab(std::uint64_t{1} << random() % 4);
        if (run.ok()) {
          for (const auto& [base, other] : blocks) ASSERT_FALSE(other.extent.overlaps(run->extent));
          for (const PageRun& other : slabs) ASSERT_FALSE(other.extent.overlaps(run->extent));
          pool_.publish_slab(*run, 96);
          slabs.push_back(*run);
        }
        break;
      }
      case 3:
        if (!blocks.empty()) {
          auto chosen = blocks.begin();
          std::advance(chosen, static_cast<std::ptrdiff_t>(random() % blocks.size()));
          ASSERT_EQ(free(*chosen->second.region, chosen->first), Error::kNone);
          blocks.erase(chosen);
        }
        break;
      default:
        if (!slabs.empty()) {
          std::swap(slabs[random() % slabs.size()], slabs.back());
          pool_.free_slab(slabs.back());
          slabs.pop_back();
        }
        break;
    }
    if (step % 16 == 0) {
      ASSERT_TRUE(pool_.validate()) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace exclave
