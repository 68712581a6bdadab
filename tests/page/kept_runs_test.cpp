// Freed runs that a pool of pages keeps at hand.
#include <algorithm>
#include <random>
#include <vector>

#include "support/page_pool_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class KeptRunsTest : public PagePoolFixture {
 protected:
  void SetUp() override {
    PagePoolFixture::SetUp();
    pool_.keep_runs(kLimit);
  }
  // A block of so many pages: of a class' length, or it is not kept.
  Extent block(std::uint64_t pages) {
    const Result<PageRun> run = pool_.allocate_block(pages, 0);
    EXPECT_TRUE(run.ok());
    return run->extent;
  }
  // By whichever way the runs come in.
  void keep(Region& region, Extent extent) {
    if (by_free_ ^= true) {
      EXPECT_EQ(free(region, extent.base), Error::kNone);
    } else {
      EXPECT_TRUE(pool_.keep_block(region, extent.base));
    }
    EXPECT_TRUE(pool_.validate());
  }

  static constexpr std::size_t kLimit = 256 * kPageBytes;
  bool by_free_ = false;
};

TEST_F(KeptRunsTest, AKeptRunIsFreeToEverybodyWhoAsks) {
  Region& region = add({kBase, 1024 * kPageBytes});
  for (int way = 0; way < 2; ++way) {
    const Extent run = block(20);
    keep(region, run);
    EXPECT_EQ(free(region, run.base), Error::kDoubleFree);
    EXPECT_FALSE(pool_.keep_block(region, run.base)) << "kept twice";
    for (const std::uintptr_t inside : {run.base + kPageBytes, run.base + 4 * kPageBytes,
                                        run.base + 8, run.end() - 1, run.end() - kPageBytes}) {
      EXPECT_FALSE(pool_.keep_block(region, inside));
      EXPECT_EQ(free(region, inside), Error::kInteriorFree);
    }
    EXPECT_EQ(pool_.find_block(region, run.base).error(), Error::kDoubleFree);
    EXPECT_EQ(pool_.block_around(region, run.base + 5000).error(), Error::kNotFound);
    EXPECT_EQ(pool_.cut_block(region, run.base, 17, Tail::kFree).error(), Error::kDoubleFree);
    EXPECT_EQ(pool_.grow_block(region, run.base, 24).error(), Error::kDoubleFree);
    EXPECT_EQ(pool_.pin_block(region, {run.base + 8, 8}).error(), Error::kNotFound);
    const PagePool::Piece piece = pool_.piece_at(region, run.base + 4 * kPageBytes);
    EXPECT_TRUE(piece.free);
    EXPECT_EQ(piece.extent, run);
    EXPECT_TRUE(pool_.validate());
    EXPECT_EQ(pool_.take_kept(20), run.base);
    EXPECT_EQ(pool_.take_kept(20), 0u) << "given once";
    const Result<PageBlock> live = pool_.find_block(region, run.base);
    ASSERT_TRUE(live.ok());
    EXPECT_EQ(live->extent, run);
    EXPECT_FALSE(live->freed);
  }
}

TEST_F(KeptRunsTest, OnlyTheStartOfALiveRunGivesItUp) {
  Region& region = add({kBase, 1024 * kPageBytes});
  const Extent run = block(20);
  for (const std::uintptr_t inside :
       {run.base + 8, run.base + kPageBytes - 1, run.base + kPageBytes, run.base + 4 * kPageBytes,
        run.end() - 1}) {
    EXPECT_FALSE(pool_.keep_block(region, inside));
  }
  EXPECT_FALSE(pool_.find_block(region, run.base)->freed);
  EXPECT_EQ(free(region, run.base), Error::kNone);
}

TEST_F(KeptRunsTest, LengthsWithoutAClassAreServedByNone) {
  add({kBase, 32768 * kPageBytes});
  pool_.keep_runs(std::size_t{32768} * kPageBytes);
  for (unsigned c = 0; c < kRunClasses; ++c) {
    const Result<PageRun> run = pool_.allocate_block(run_class_pages(c), 0);
    ASSERT_TRUE(run.ok());
    ASSERT_TRUE(pool_.keep_block(*run->region, run->extent.base));
  }
  for (std::uint64_t pages = 0; pages <= 16; ++pages)
    EXPECT_EQ(pool_.take_kept(pages), 0u) << pages;
  for (const std::uint64_t pages : {std::uint64_t{2049}, std::uint64_t{4096}, UINT64_MAX})
    EXPECT_EQ(pool_.take_kept(pages), 0u) << pages;
  EXPECT_TRUE(pool_.validate());
}

TEST_F(KeptRunsTest, ServesItsClass) {
  Region& region = add({kBase, 1024 * kPageBytes});
  const Extent run = block(24);
  for (std::uint64_t pages = 1; pages <= 48; ++pages) {
    keep(region, run);
    const bool serves = pages > 20 && pages <= 24;
    EXPECT_EQ(pool_.take_kept(pages), serves ? run.base : 0u) << pages;
    if (!serves) {
      EXPECT_EQ(pool_.take_kept(24), run.base);
    }
    EXPECT_TRUE(pool_.validate());
  }
  EXPECT_EQ(pool_.take_kept(0), 0u);
  EXPECT_EQ(pool_.take_kept(UINT64_MAX), 0u);
  EXPECT_EQ(pool_.take_kept(kLongestClassedRun), 0u);
}

TEST_F(KeptRunsTest, ALongerOneIsCutWhenNothingElseFits) {
  Region& region = add({kBase, 128 * kPageBytes});
  const Extent long_run = block(64);
  const Extent rest = block(64);
  keep(region, long_run);
  const Result<PageRun> cut = pool_.allocate_block(20, 0);
  ASSERT_TRUE(cut.ok());
  EXPECT_EQ(cut->extent, (Extent{long_run.base, 20 * kPageBytes}));
  EXPECT_TRUE(pool_.validate());
  EXPECT_EQ(pool_.take_kept(64), 0u);
  // The tail is free to all.
  const Result<PageRun> tail = pool_.allocate_block(32, 0);
  ASSERT_TRUE(tail.ok());
  EXPECT_TRUE(long_run.covers(tail->extent));
  EXPECT_EQ(free(region, cut->extent.base), Error::kNone);
  EXPECT_EQ(free(region, tail->extent.base), Error::kNone);
  EXPECT_EQ(free(region, rest.base), Error::kNone);
  EXPECT_EQ(free(region, long_run.base), Error::kDoubleFree);
}

TEST_F(KeptRunsTest, TheShortestThatServesIsCutAndNoOther) {
  Region& region = add({kBase, 96 * kPageBytes});
  const Extent longer = block(64);
  const Extent shorter = block(32);
  keep(region, longer);
  keep(region, shorter);
  const Result<PageRun> cut = pool_.allocate_block(20, 0);
  ASSERT_TRUE(cut.ok());
  EXPECT_EQ(cut->extent.base, shorter.base);
  EXPECT_EQ(pool_.take_kept(64), longer.base);
}

TEST_F(KeptRunsTest, ARequestWithoutAClassTakesThemApart) {
  for (const std::uint64_t pages : {1u, 8u, 16u}) {
    pool_.keep_runs(kLongestClassedRun * kPageBytes);
    Region& region = add({kBase, kLongestClassedRun * kPageBytes});
    const Extent run = block(kLongestClassedRun);
    EXPECT_TRUE(pool_.keep_block(region, run.base));
    const Result<PageRun> other = pool_.allocate_block(pages, 0);
    ASSERT_TRUE(other.ok()) << pages;
    EXPECT_EQ(other->extent.size, pages * kPageBytes);
    EXPECT_EQ(pool_.take_kept(kLongestClassedRun), 0u);
    EXPECT_TRUE(pool_.validate());
    pool_.remove(region);
    registry_.destroy(region);
  }
}

TEST_F(KeptRunsTest, ARequestThatNobodyCanServeTakesNoneApart) {
  Region& region = add({kBase, 64 * kPageBytes});
  const Extent run = block(64);
  keep(region, run);
  for (const std::uint64_t pages : {std::uint64_t{0}, std::uint64_t{1} << kUnitPayloadBits})
    EXPECT_EQ(pool_.allocate_block(pages, 0).error(), Error::kOutOfMemory);
  EXPECT_EQ(pool_.take_kept(64), run.base);
}

TEST_F(KeptRunsTest, TheLimitItselfIsWithin) {
  Region& region = add({kBase, 1024 * kPageBytes});
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(pool_.keep_block(region, block(64).base)) << i;
  EXPECT_FALSE(pool_.keep_block(region, block(64).base));
}

TEST_F(KeptRunsTest, OnlyWholeClassesWithinTheLimitAreKept) {
  Region& region = add({kBase, 4096 * kPageBytes});
  for (const std::uint64_t pages : {1u, 16u, 17u, 21u, 2049u}) {
    const Extent run = block(pages);
    EXPECT_FALSE(pool_.keep_block(region, run.base)) << pages;
    EXPECT_EQ(free(region, run.base), Error::kNone);
    EXPECT_EQ(pool_.take_kept(pages), 0u) << pages;
    EXPECT_FALSE(pool_.find_block(region, run.base).ok());
  }
  // 256 pages: 12 runs of 20, and 16 pages that none fits.
  std::vector<Extent> runs;
  for (int i = 0; i < 14; ++i) runs.push_back(block(20));
  for (std::size_t i = 0; i < runs.size(); ++i) {
    EXPECT_EQ(pool_.keep_block(region, runs[i].base), i < 12) << i;
    if (i >= 12) {
      EXPECT_EQ(free(region, runs[i].base), Error::kNone);
    }
    EXPECT_TRUE(pool_.validate());
  }
  std::size_t taken = 0;
  while (pool_.take_kept(20) != 0) ++taken;
  EXPECT_EQ(taken, 12u);
}

TEST_F(KeptRunsTest, TheyJoinWhenSomethingElseIsNeeded) {
  Region& region = add({kBase, 128 * kPageBytes});
  std::vector<Extent> runs;
  for (int i = 0; i < 4; ++i) runs.push_back(block(32));
  for (const Extent& run : runs) keep(region, run);
  // All pages are kept: a block that none of the runs serves takes all of them apart.
  const Result<PageRun> large = pool_.allocate_block(100, 0);
  ASSERT_TRUE(large.ok());
  EXPECT_TRUE(pool_.validate());
  EXPECT_EQ(pool_.take_kept(32), 0u);
  for (const Extent& run : runs) {
    if (run.base == large->extent.base) continue;
    EXPECT_EQ(free(region, run.base),
              large->extent.contains(run.base) ? Error::kInteriorFree : Error::kDoubleFree);
  }
}

TEST_F(KeptRunsTest, SlabsTakeThemApartToo) {
  Region& region = add({kBase, 32 * kPageBytes});
  keep(region, block(32));
  const Result<PageRun> slab = pool_.allocate_slab(8);
  ASSERT_TRUE(slab.ok());
  EXPECT_EQ(pool_.take_kept(32), 0u);
  EXPECT_EQ(free(region, kBase), Error::kInteriorFree) << "in use, and no block starts there";
  pool_.free_slab(*slab);
}

TEST_F(KeptRunsTest, RegionsWithNothingButKeptRunsAreIdle) {
  Region& region = add({kBase, 64 * kPageBytes});
  Region& other = add({kBase + 1024 * kPageBytes, 64 * kPageBytes});
  const Extent first = block(40);
  const Extent second = block(40);
  Region& of_first = region.extent().contains(first.base) ? region : other;
  Region& of_second = region.extent().contains(second.base) ? region : other;
  EXPECT_FALSE(pool_.has_idle(0));
  keep(of_first, first);
  EXPECT_TRUE(pool_.has_idle(63 * kPageBytes));
  EXPECT_FALSE(pool_.has_idle(64 * kPageBytes));
  EXPECT_EQ(pool_.take_kept(40), first.base);
  EXPECT_FALSE(pool_.has_idle(0)) << "somebody has it again";
  keep(of_first, first);
  EXPECT_EQ(pool_.allocate_block(20, 0)->region, &of_second) << "its own end is shortest";
  EXPECT_EQ(pool_.take_idle(0), &of_first);
  EXPECT_TRUE(pool_.validate());
  EXPECT_EQ(pool_.take_kept(40), 0u) << "its region is gone";
  EXPECT_FALSE(pool_.keep_block(of_first, first.base));
  EXPECT_EQ(pool_.take_idle(0), nullptr);
  EXPECT_EQ(free(of_second, second.base), Error::kNone);
}

TEST_F(KeptRunsTest, ARegionGoesWithAllThatIsKeptInIt) {
  constexpr std::uint64_t kLengths[] = {20, 24, 20, 28};
  Region* regions[3];
  std::vector<Extent> blocks;
  for (std::uintptr_t i = 0; i < 3; ++i)
    regions[i] = &add({kBase + 1024 * i * kPageBytes, 100 * kPageBytes});
  for (Region* const region : regions) {
    for (const std::uint64_t pages : kLengths)
      blocks.push_back(pool_.allocate_block_in(*region, pages, 0)->extent);
  }
  pool_.keep_runs(12 * 100 * kPageBytes);
  // In turns, so that each class has runs of all regions, in some order.
  for (std::size_t i = 0; i < 4; ++i) {
    for (std::size_t region = 0; region < 3; ++region)
      keep(*regions[region], blocks[region * 4 + i]);
  }
  ASSERT_NE(pool_.take_idle(200 * kPageBytes), nullptr);
  EXPECT_TRUE(pool_.validate());
  EXPECT_EQ(pool_.take_idle(200 * kPageBytes), nullptr);
  std::size_t left = 0;
  for (const std::uint64_t pages : kLengths) left += pool_.take_kept(pages) != 0;
  for (const std::uint64_t pages : kLengths) left += pool_.take_kept(pages) != 0;
  EXPECT_EQ(left, 8u) << "those of the two others";
  EXPECT_TRUE(pool_.validate());
}

TEST_F(KeptRunsTest, APinnedBlockIsKeptOnlyAfterTheUnpin) {
  Region& region = add({kBase, 64 * kPageBytes});
  const Extent run = block(20);
  ASSERT_TRUE(pool_.pin_block(region, {run.base + 5000, 100}).ok());
  EXPECT_FALSE(pool_.keep_block(region, run.base));
  bool kept = false;
  EXPECT_TRUE(pool_.free_block(region, run.base, &kept).ok());
  EXPECT_TRUE(kept) << "for its pin";
  EXPECT_EQ(pool_.take_kept(20), 0u) << "the device may still write there";
  EXPECT_FALSE(pool_.keep_block(region, run.base)) << "freed already";
  EXPECT_EQ(pool_.free_block(region, run.base, &kept).error(), Error::kDoubleFree);
  EXPECT_TRUE(pool_.validate());
  ASSERT_TRUE(pool_.unpin_block(region, run.base)->freed);
  EXPECT_FALSE(pool_.keep_block(region, run.base)) << "not live again";
  EXPECT_TRUE(pool_.free_unpinned_block(region, run.base).ok());
  EXPECT_EQ(pool_.take_kept(20), 0u);
  const Extent kept_run = block(20);
  EXPECT_TRUE(pool_.keep_block(region, kept_run.base));
  EXPECT_EQ(pool_.take_kept(20), kept_run.base);
  EXPECT_TRUE(pool_.pin_block(region, {kept_run.base, 8}).ok()) << "live again";
  EXPECT_TRUE(pool_.unpin_block(region, kept_run.base).ok());
}

TEST_F(KeptRunsTest, WithoutTrustedMemoryRunsJoinAtOnce) {
  pool_.keep_runs(SIZE_MAX / 2);
  Region& region = add({kBase, 80 * 32 * kPageBytes});
  std::vector<Extent> runs;
  for (int i = 0; i < 80; ++i) runs.push_back(block(20));
  // No list yet, and none to be had.
  std::vector<void*> hoard;
  port_.set_trusted_left(0);
  while (void* const book = books_.allocate(BookKind::kPlain, 384)) hoard.push_back(book);
  EXPECT_FALSE(pool_.keep_block(region, runs[0].base));
  EXPECT_EQ(free(region, runs[0].base), Error::kNone);
  EXPECT_EQ(free(region, runs[0].base), Error::kDoubleFree);
  EXPECT_EQ(pool_.take_kept(20), 0u);
  // One for the first sixteen; the longer one cannot be had.
  books_.release(BookKind::kPlain, hoard.back(), 384);
  hoard.pop_back();
  for (std::size_t i = 1; i < 40; ++i) {
    EXPECT_EQ(pool_.keep_block(region, runs[i].base), i <= 16) << i;
    if (i > 16) {
      EXPECT_EQ(free(region, runs[i].base), Error::kNone);
    }
    EXPECT_TRUE(pool_.validate());
  }
  port_.set_trusted_left(SIZE_MAX / 2);
  for (std::size_t i = 40; i < 80; ++i) EXPECT_TRUE(pool_.keep_block(region, runs[i].base)) << i;
  std::size_t taken = 0;
  while (pool_.take_kept(20) != 0) ++taken;
  EXPECT_EQ(taken, 56u);
}

TEST_F(KeptRunsTest, SoManyOfAClassAndNoMore) {
  constexpr std::size_t kMost = 1024;
  pool_.keep_runs(SIZE_MAX / 2);
  Region& region = add({kBase, std::size_t{32} * (kMost + 4) * kPageBytes});
  std::vector<Extent> runs;
  for (std::size_t i = 0; i < kMost + 2; ++i) runs.push_back(block(20));
  for (std::size_t i = 0; i < runs.size(); ++i)
    EXPECT_EQ(pool_.keep_block(region, runs[i].base), i < kMost) << i;
  EXPECT_EQ(free(region, runs.back().base), Error::kNone);
  EXPECT_TRUE(pool_.keep_block(region, block(24).base)) << "another class has its own";
  EXPECT_TRUE(pool_.validate());
}

TEST_F(KeptRunsTest, OnlyAnUnalignedRequestIsCutFromALongerOne) {
  Region& region = add({kBase + 4 * kPageBytes, 128 * kPageBytes});
  keep(region, block(128));
  const Result<PageRun> aligned = pool_.allocate_block(20, 5);
  ASSERT_TRUE(aligned.ok());
  EXPECT_TRUE(is_aligned(aligned->extent.base, 32 * kPageBytes));
  EXPECT_EQ(pool_.take_kept(128), 0u) << "it was taken apart";
  EXPECT_EQ(free(region, aligned->extent.base), Error::kNone);
}

TEST_F(KeptRunsTest, AKeptRunIsNotTakenForAPinnedOne) {
  Region& region = add({kBase, 128 * kPageBytes});
  const Extent run = block(20);
  keep(region, run);
  EXPECT_EQ(pool_.free_unpinned_block(region, run.base).error(), Error::kNotFound);
  EXPECT_TRUE(pool_.unpin_block(region, run.base)->freed);
  EXPECT_EQ(pool_.take_kept(20), run.base);
}

TEST_F(KeptRunsTest, ForeignAddressesAreNotKept) {
  Region& region = add({kBase, 64 * kPageBytes});
  PagePool other(books_);
  const Extent run = block(20);
  EXPECT_FALSE(other.keep_block(region, run.base)) << "another pool's";
  EXPECT_FALSE(pool_.keep_block(region, kBase - kPageBytes));
  EXPECT_FALSE(pool_.keep_block(region, kBase + 64 * kPageBytes));
  EXPECT_FALSE(pool_.keep_block(region, 0));
  EXPECT_FALSE(pool_.keep_block(region, UINTPTR_MAX));
  EXPECT_FALSE(pool_.keep_block(region, kBase + 40 * kPageBytes)) << "free pages";
  EXPECT_TRUE(pool_.keep_block(region, run.base));
  const Result<PageRun> slab = pool_.allocate_slab(2);
  ASSERT_TRUE(slab.ok());
  pool_.publish_slab(*slab, 96);
  EXPECT_FALSE(pool_.keep_block(region, slab->extent.base));
  pool_.free_slab(*slab);
}

TEST_F(KeptRunsTest, RandomRunsComeAndGo) {
  Region& region = add({kBase, 2048 * kPageBytes});
  std::map<std::uintptr_t, Extent> live;
  std::mt19937_64 random(9);
  for (int step = 0; step < 6000; ++step) {
    const std::uint64_t pages = round_run(1 + random() % 80);
    if (random() % 2 == 0) {
      Extent got{pool_.take_kept(pages), 0};
      if (got.base != 0) {
        got.size = pool_.find_block(region, got.base)->extent.size;
        ASSERT_TRUE(may_serve_run(got.size / kPageBytes, pages));
      } else if (const Result<PageRun> run = pool_.allocate_block(pages, 0); run.ok()) {
        got = run->extent;
      } else {
        continue;
      }
      for (const auto& [base, other] : live) ASSERT_FALSE(other.overlaps(got));
      live.emplace(got.base, got);
    } else if (!live.empty()) {
      auto chosen = live.begin();
      std::advance(chosen, static_cast<std::ptrdiff_t>(random() % live.size()));
      if (!pool_.keep_block(region, chosen->first)) {
        ASSERT_EQ(free(region, chosen->first), Error::kNone);
      }
      ASSERT_NE(free(region, chosen->first), Error::kNone);
      live.erase(chosen);
    }
    if (step % 16 == 0) {
      ASSERT_TRUE(pool_.validate()) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace exclave
