// The short way from an address to its slab: exact where it answers, silent elsewhere, small.
#include "page/slab_map.hpp"

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "page/page_pool.hpp"
#include "region/registry.hpp"
#include "support/books_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;

constexpr std::uintptr_t kBase = 0x200000000000;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kGrain = SlabMap::kGrainBytes;
constexpr BookRef kSlab = 0x1230, kOther = 0x4560;

class SlabMapTest : public BooksFixture {
 protected:
  // Every address of the range, by its edges and its grains.
  void expect_all(Extent range, BookRef slab) {
    for (std::uintptr_t at = range.base; at < range.end(); at += kUnitBytes)
      ASSERT_EQ(map_.find(at), slab) << std::hex << at;
    EXPECT_EQ(map_.find(range.end() - 1), slab);
  }

  SlabMap map_{books_};
};

TEST_F(SlabMapTest, SaysNothingBeforeThereIsARegion) {
  for (const std::uintptr_t at : {std::uintptr_t{0}, kBase, kAddressLimit, UINTPTR_MAX}) {
    EXPECT_EQ(map_.find(at), 0u);
    EXPECT_FALSE(map_.covers(at));
  }
  map_.enter({kBase, kGrain}, kSlab);
  EXPECT_EQ(map_.find(kBase), 0u);
  EXPECT_EQ(books_.used_bytes(), 0u);
}

TEST_F(SlabMapTest, GrainsThatLieWhollyInASlabNameIt) {
  map_.cover({kBase, 4 * kMiB}, 4 * kMiB);
  map_.enter({kBase + kGrain, 2 * kGrain}, kSlab);
  map_.enter({kBase + 3 * kGrain + kPageBytes, 2 * kGrain}, kOther);
  expect_all({kBase, kGrain}, 0);
  expect_all({kBase + kGrain, 2 * kGrain}, kSlab);
  expect_all({kBase + 3 * kGrain, kGrain}, 0);
  expect_all({kBase + 4 * kGrain, kGrain}, kOther);
  expect_all({kBase + 5 * kGrain, kGrain}, 0);
  map_.enter({kBase + kGrain, 2 * kGrain}, 0);
  expect_all({kBase, 4 * kGrain}, 0);
}

TEST_F(SlabMapTest, SlabsOfLessThanAGrainAreNotMapped) {
  map_.cover({kBase, 4 * kMiB}, 4 * kMiB);
  for (std::size_t at = 0; at < kGrain; at += kPageBytes) {
    map_.enter({kBase + at, kGrain - kPageBytes}, kSlab);
    map_.enter({kBase + at, kPageBytes}, kSlab);
  }
  expect_all({kBase, 4 * kGrain}, 0);
}

TEST_F(SlabMapTest, TheWindowGrowsBothWaysAndKeepsWhatItKnew) {
  for (const bool upward : {false, true}) {
    SlabMap map(books_);
    Extent region{kBase, 4 * kMiB};
    std::size_t total = 0;
    std::vector<std::pair<std::uintptr_t, BookRef>> slabs;
    for (unsigned i = 0; i < 9; ++i) {
      total += region.size;
      map.cover(region, total);
      ASSERT_TRUE(map.covers(region.base) && map.covers(region.end() - 1)) << i;
      slabs.emplace_back(region.base, 16 + 16 * i);
      map.enter({region.base, kGrain}, slabs.back().second);
      for (const auto& [base, slab] : slabs) ASSERT_EQ(map.find(base), slab) << i;
      const std::size_t size = 2 * region.size;
      region = upward ? Extent{region.end(), size} : Extent{region.base - size, size};
    }
  }
}

TEST_F(SlabMapTest, AllWindowsTogetherAreSmallBesideThePool) {
  std::size_t total = 0;
  for (std::uintptr_t at = kBase; total < 4096 * kMiB; at -= 32 * kMiB) {
    total += 32 * kMiB;
    map_.cover({at, 32 * kMiB}, total);
    ASSERT_TRUE(map_.covers(at));
  }
  EXPECT_LT(books_.used_bytes(), total / 4096);
}

TEST_F(SlabMapTest, ARegionThatIsCoveredCostsNothingMore) {
  const Extent region{kBase, 4 * kMiB};
  map_.cover(region, region.size);
  const std::size_t used = books_.used_bytes();
  map_.cover(region, region.size);
  EXPECT_EQ(books_.used_bytes(), used);
}

// 256 MiB, or eight times the pool's memory, are not too much for a window yet.
TEST_F(SlabMapTest, TheLargestWindowThatAPoolMayHave) {
  for (const std::size_t pool : {2 * kMiB, 64 * kMiB}) {
    const std::size_t window = pool == 2 * kMiB ? 256 * kMiB : 8 * pool;
    SlabMap map(books_);
    map.cover({kBase, 64 * kMiB}, 64 * kMiB);
    map.cover({kBase + window - kMiB, kMiB}, pool);
    EXPECT_TRUE(map.covers(kBase + window - 1)) << pool;
    EXPECT_FALSE(map.has_gaps());
    map.cover({kBase + window, kGrain}, pool);
    EXPECT_TRUE(map.has_gaps()) << "the next would be twice as large";
  }
}

// Regions of a host that puts each as far from the others as it can.
TEST_F(SlabMapTest, ScatteredRegionsDoNotMakeTheBooksLarge) {
  std::mt19937_64 random(5);
  std::size_t total = 0;
  for (int i = 0; i < 2000; ++i) {
    total += 4 * kMiB;
    const std::uintptr_t base = (random() % (kAddressLimit - 8 * kMiB)) / kMiB * kMiB;
    map_.cover({base, 4 * kMiB}, total);
    if (map_.covers(base)) {
      map_.enter({base, kGrain}, kSlab);
      EXPECT_EQ(map_.find(align_up(base, kGrain)), kSlab);
    }
  }
  EXPECT_LT(books_.used_bytes(), std::size_t{64} << 10);
}

TEST_F(SlabMapTest, TheEdgesOfTheAddressSpace) {
  for (const Extent& region : {Extent{kPageBytes, kMiB}, Extent{kAddressLimit - kMiB, kMiB}}) {
    SlabMap map(books_);
    map.cover(region, region.size);
    ASSERT_TRUE(map.covers(region.base) && map.covers(region.end() - 1));
    const std::uintptr_t grain = align_up(region.base, kGrain);
    map.enter({grain, kGrain}, kSlab);
    EXPECT_EQ(map.find(grain), kSlab);
    EXPECT_EQ(map.find(kAddressLimit), 0u);
    EXPECT_EQ(map.find(UINTPTR_MAX), 0u);
    EXPECT_EQ(map.find(grain ^ std::uintptr_t{1} << 63), 0u);
  }
}

TEST_F(SlabMapTest, WithoutTrustedMemoryItStaysAsItWas) {
  map_.cover({kBase, 4 * kMiB}, 4 * kMiB);
  map_.enter({kBase, kGrain}, kSlab);
  port_.set_trusted_left(0);
  // More than what is left of the store's own chunk.
  map_.cover({kBase - 900 * kMiB, 900 * kMiB}, 904 * kMiB);
  EXPECT_FALSE(map_.covers(kBase - 900 * kMiB));
  EXPECT_EQ(map_.find(kBase), kSlab);
  port_.set_trusted_left(SIZE_MAX / 2);
  map_.cover({kBase - 900 * kMiB, 900 * kMiB}, 904 * kMiB);
  EXPECT_TRUE(map_.covers(kBase - 900 * kMiB));
  EXPECT_EQ(map_.find(kBase), kSlab);
}

TEST_F(SlabMapTest, ReadersSeeTheSlabOrNothingWhileItComesAndGoesAndTheWindowGrows) {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0};
  map_.cover({kBase, 4 * kMiB}, 4 * kMiB);
  map_.enter({kBase + kGrain, kGrain}, kOther);
  std::thread reader([&] {
    while (!stop) {
      const BookRef seen = map_.find(kBase + 5);
      wrong += seen != 0 && seen != kSlab;
      wrong += map_.find(kBase + kGrain + 5) != kOther;  // stands all the time
    }
  });
  std::size_t total = 4 * kMiB;
  for (int i = 0; i < 2000; ++i) {
    map_.enter({kBase, kGrain}, kSlab);
    if (i % 200 == 0) {
      map_.cover({kBase - total, total}, 2 * total);
      total *= 2;
    }
    map_.enter({kBase, kGrain}, 0);
  }
  stop = true;
  reader.join();
  EXPECT_EQ(wrong, 0u);
}

// ---- As the pool uses it ----

TEST_F(SlabMapTest, ThePoolsSlabsAreMappedWhileTheyStand) {
  Registry registry(books_);
  PagePool pool(books_);
  PagePool attached(books_);  // does not map
  pool.map_slabs();
  for (const std::uintptr_t base : {kBase, kBase + 3 * kPageBytes + 64 * kMiB}) {
    Region& region = **registry.create({base, 4 * kMiB}, AttachOptions{}, true);
    ASSERT_TRUE(pool.add(region).ok());
  }
  std::mt19937_64 random(3);
  std::vector<PageRun> slabs;
  for (int step = 0; step < 3000; ++step) {
    if (random() % 2 == 0) {
      const std::uint64_t units = std::uint64_t{1} << random() % 6;
      const Result<PageRun> run = pool.allocate_slab(units);
      if (!run.ok()) continue;
      slabs.push_back(*run);
      pool.publish_slab(*run, 16 * static_cast<BookRef>(step + 1));
      const bool mapped = units * kUnitBytes >= kGrain;
      for (const std::uintptr_t at : {run->extent.base, run->extent.end() - 1})
        ASSERT_EQ(pool.slab_at(at), mapped ? 16u * static_cast<BookRef>(step + 1) : 0u);
    } else if (!slabs.empty()) {
      const std::size_t chosen = random() % slabs.size();
      const PageRun run = slabs[chosen];
      slabs[chosen] = slabs.back();
      slabs.pop_back();
      pool.free_slab(run);
      ASSERT_EQ(pool.slab_at(run.extent.base), 0u);
    }
    if (step % 16 == 0) {
      ASSERT_TRUE(pool.validate()) << step;
    }
  }
  EXPECT_TRUE(pool.validate());
  EXPECT_EQ(attached.slab_at(kBase), 0u);
}

// A region comes that no window can cover then; a later window, made for another region, covers it.
// The slabs that stood there stay unmapped, which is no contradiction.
TEST_F(SlabMapTest, SlabsFromBeforeTheWindowSayNothing) {
  Registry registry(books_);
  PagePool pool(books_);
  pool.map_slabs();
  const auto add = [&](std::uintptr_t base, std::size_t bytes) {
    Region& region = **registry.create({base, bytes}, AttachOptions{}, true);
    EXPECT_TRUE(pool.add(region).ok());
  };
  add(kBase, 4 * kMiB);
  const Result<PageRun> whole = pool.allocate_slab(4 * kMiB / kUnitBytes);
  ASSERT_TRUE(whole.ok());
  pool.publish_slab(*whole, kOther);
  // Far from the first, for a pool of this size.
  const std::uintptr_t far = kBase + 1024 * kMiB;
  add(far, 4 * kMiB);
  const Result<PageRun> early = pool.allocate_slab(kGrain / kUnitBytes);
  ASSERT_TRUE(early.ok());
  pool.publish_slab(*early, kSlab);
  ASSERT_GE(early->extent.base, far);
  EXPECT_EQ(pool.slab_at(early->extent.base), 0u);
  // Now the pool is large enough for a window over all of them.
  add(kBase + 1200 * kMiB, 256 * kMiB);
  EXPECT_TRUE(pool.validate());
  pool.free_slab(*early);
  EXPECT_TRUE(pool.validate());
  const Result<PageRun> late = pool.allocate_slab(256 * kMiB / kUnitBytes / 2);
  ASSERT_TRUE(late.ok());
  pool.publish_slab(*late, kSlab);
  EXPECT_EQ(pool.slab_at(late->extent.base), kSlab);
  EXPECT_TRUE(pool.validate());
}

}  // namespace
}  // namespace exclave
