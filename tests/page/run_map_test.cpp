// Runs of pages against an array of pages.
#include "page/run_map.hpp"

#include <algorithm>
#include <bit>
#include <map>
#include <random>
#include <vector>

#include "support/books_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;

constexpr std::uint64_t kBasePage = std::uint64_t{0x200000000000} / kPageBytes;

class RunMapTest : public BooksFixture {
 protected:
  RunMap& make(std::uint64_t first_page, std::uint64_t pages) {
    RunMap* const map =
        RunMap::create(books_, {first_page * kPageBytes, std::size_t{pages} * kPageBytes});
    EXPECT_NE(map, nullptr);
    EXPECT_EQ(map->free_pages(), 0u);
    map->free(first_page, pages);
    EXPECT_EQ(map->free_pages(), pages);
    EXPECT_TRUE(map->validate());
    return *map;
  }
};

TEST_F(RunMapTest, ValidationTellsOfPagesThatWereFreedTwice) {
  for (const std::uint64_t pages : {1u, 2u, 7u, 64u}) {
    RunMap& map = make(kBasePage, 256);
    map.free(kBasePage + 64, pages);
    EXPECT_FALSE(map.validate()) << pages;
    RunMap::destroy(books_, &map);
  }
}

// One flag for each page, and the rules that a map must keep.
class PageArray {
 public:
  PageArray(std::uint64_t first, std::uint64_t pages) : first_(first), used_(pages, false) {}
  bool all(std::uint64_t page, std::uint64_t pages, bool used) const {
    if (page < first_ || page + pages > first_ + used_.size()) return false;
    for (std::uint64_t i = 0; i < pages; ++i) {
      if (used_[page - first_ + i] != used) return false;
    }
    return true;
  }
  void set(std::uint64_t page, std::uint64_t pages, bool used) {
    for (std::uint64_t i = 0; i < pages; ++i) used_[page - first_ + i] = used;
  }
  std::uint64_t free_end(std::uint64_t page) const {
    while (page < first_ + used_.size() && !used_[page - first_]) ++page;
    return page;
  }
  std::uint64_t free_pages() const {
    std::uint64_t n = 0;
    for (const bool used : used_) n += !used;
    return n;
  }
  // Does any free stretch hold such a run?
  bool fits(std::uint64_t pages, unsigned align_order, std::uint64_t boundary) const {
    const std::uint64_t step = std::uint64_t{1} << align_order;
    for (std::uint64_t at = align_up(first_, step); at + pages <= first_ + used_.size();
         at += step) {
      if (at / boundary == (at + pages - 1) / boundary && all(at, pages, false)) return true;
    }
    return false;
  }

 private:
  std::uint64_t first_;
  std::vector<bool> used_;
};

TEST_F(RunMapTest, WholeRegionOfAnySizeIsOneRun) {
  for (std::uint64_t pages = 1; pages < 200; ++pages) {
    for (const std::uint64_t offset : {0u, 1u, 2u, 3u, 5u, 63u}) {
      RunMap& map = make(kBasePage + offset, pages);
      EXPECT_EQ(map.allocate(pages, 0), kBasePage + offset) << pages << " at " << offset;
      EXPECT_EQ(map.free_pages(), 0u);
      EXPECT_EQ(map.orders_free(), 0u);
      EXPECT_EQ(map.allocate(1, 0), RunMap::kNone);
      EXPECT_TRUE(map.validate());
      map.free(kBasePage + offset, pages);
      EXPECT_TRUE(map.validate());
      EXPECT_EQ(map.allocate(pages + 1, 0), RunMap::kNone);
      RunMap::destroy(books_, &map);
    }
  }
}

TEST_F(RunMapTest, OddHugeRegionsAreOneRun) {
  for (const std::uint64_t pages : {262143u, 262144u, 262145u, 1000003u}) {
    RunMap& map = make(kBasePage + 12345, pages);
    EXPECT_EQ(map.allocate(pages, 0), kBasePage + 12345);
    map.free(kBasePage + 12345, pages);
    EXPECT_TRUE(map.validate());
    RunMap::destroy(books_, &map);
  }
}

TEST_F(RunMapTest, AlignmentUpToAGibibyteIsOfTheAddress) {
  constexpr unsigned kGibibyteOrder = 18;
  // Three gibibytes that start a page before a multiple of one.
  const std::uint64_t first = align_up(kBasePage, 1u << kGibibyteOrder) - 1;
  RunMap& map = make(first, 3u << kGibibyteOrder);
  for (unsigned order = 0; order <= kGibibyteOrder; ++order) {
    const std::uint64_t page = map.allocate(3, order);
    ASSERT_NE(page, RunMap::kNone) << order;
    EXPECT_TRUE(is_aligned(page, std::uint64_t{1} << order));
    map.free(page, 3);
  }
  // A long run at the widest alignment, though no single free block holds it.
  const std::uint64_t page = map.allocate((2u << kGibibyteOrder) + 5, kGibibyteOrder);
  EXPECT_EQ(page, first + 1);
  EXPECT_TRUE(map.validate());
  EXPECT_EQ(map.allocate(1, kGibibyteOrder), RunMap::kNone);
  RunMap::destroy(books_, &map);
}

TEST_F(RunMapTest, AlignmentWiderThanTheRegionIsFoundIfItIsThere) {
  // Five pages around a multiple of 1024 pages.
  const std::uint64_t multiple = align_up(kBasePage, 1024);
  RunMap& map = make(multiple - 2, 5);
  EXPECT_EQ(map.allocate(2, 10), multiple);
  EXPECT_EQ(map.allocate(1, 10), RunMap::kNone);
  EXPECT_TRUE(map.validate());
  RunMap::destroy(books_, &map);
}

TEST_F(RunMapTest, RunsAreJoinedAgainWhateverTheOrderOfTheFrees) {
  std::mt19937_64 random(4);
  for (const std::uint64_t offset : {0u, 3u}) {
    RunMap& map = make(kBasePage + offset, 1000);
    std::vector<std::uint64_t> pages;
    for (int i = 0; i < 1000; ++i) pages.push_back(map.allocate(1, 0));
    EXPECT_EQ(map.allocate(1, 0), RunMap::kNone);
    std::shuffle(pages.begin(), pages.end(), random);
    for (const std::uint64_t page : pages) map.free(page, 1);
    EXPECT_TRUE(map.validate());
    EXPECT_EQ(map.allocate(1000, 0), kBasePage + offset);
    RunMap::destroy(books_, &map);
  }
}

TEST_F(RunMapTest, SmallHolesInFrontDoNotHideALargeStretch) {
  // Two hundred holes of two pages, then one stretch of seven: five pages fit only there.
  constexpr std::uint64_t kHoles = 200;
  RunMap& map = make(kBasePage, 4 * kHoles + 64);
  map.take(kBasePage, 4 * kHoles + 64);
  for (std::uint64_t i = 0; i < kHoles; ++i) map.free(kBasePage + 4 * i, 2);
  const std::uint64_t stretch = kBasePage + 4 * kHoles + 9;
  map.free(stretch, 7);
  EXPECT_EQ(map.allocate(5, 0), stretch);
  EXPECT_TRUE(map.validate());
  RunMap::destroy(books_, &map);
}

TEST_F(RunMapTest, RunsArePutTogetherFromNeighbours) {
  // Free: [5, 11) of 16, blocks of 1, 2, 2 and 1: no block of four, but a run of six.
  RunMap& map = make(kBasePage, 16);
  map.take(kBasePage, 16);
  map.free(kBasePage + 5, 6);
  EXPECT_EQ(map.allocate(7, 0), RunMap::kNone);
  EXPECT_EQ(map.allocate(6, 0), kBasePage + 5);
  EXPECT_TRUE(map.validate());
  RunMap::destroy(books_, &map);
}

// Not the head of a longer run in front of it.
TEST_F(RunMapTest, TheTightestRunServesFirst) {
  for (const std::uint64_t pages : {2u, 5u}) {
    RunMap& map = make(kBasePage, 256);
    map.take(kBasePage, 256);
    map.free(kBasePage, 64);
    map.free(kBasePage + 65, pages);
    EXPECT_EQ(map.allocate(pages, 0), kBasePage + 65);
    EXPECT_EQ(map.allocate(pages, 0), kBasePage);
    RunMap::destroy(books_, &map);
  }
}

TEST_F(RunMapTest, AFreeStretchEndsWithTheRegion) {
  // Behind the bits of the last page stand those of the next order, the first of them set.
  RunMap& map = make(kBasePage, 64);
  map.take(kBasePage + 2, 61);
  EXPECT_EQ(map.free_end(kBasePage + 63), kBasePage + 64);
  EXPECT_EQ(map.free_end(kBasePage), kBasePage + 2);
  RunMap::destroy(books_, &map);
}

TEST(RunIndexTest, TheBitmapOfAnOrderHasABitForEachWindowThatBeginsBelowTheEnd) {
  EXPECT_EQ(windows_below(1, 0), 1u);
  EXPECT_EQ(windows_below(64, 0), 64u);
  EXPECT_EQ(windows_below(64, 3), 8u);
  EXPECT_EQ(windows_below(65, 3), 9u);
  EXPECT_EQ(windows_below(64, 7), 1u);
}

TEST(RunIndexTest, ARunIsPlacedAtTheFirstPageThatServes) {
  for (const std::uint64_t alignment : {1u, 2u, 8u, 64u}) {
    for (const std::uint64_t boundary :
         {std::uint64_t{1}, std::uint64_t{8}, std::uint64_t{32}, kNoBoundary}) {
      for (std::uint64_t pages = 1; pages <= std::min<std::uint64_t>(boundary, 40); ++pages) {
        const RunShape shape{pages, alignment, boundary};
        for (std::uint64_t start = 1000; start < 1070; ++start) {
          std::uint64_t first = start;
          while (first % alignment != 0 || first / boundary != (first + pages - 1) / boundary)
            ++first;
          ASSERT_EQ(place_run(start, shape), first) << pages << " at " << start;
          ASSERT_LE(first - start + pages, pages_that_fit(shape));
        }
      }
    }
  }
}

TEST_F(RunMapTest, ARunGrowsIntoTheFreePagesBehindIt) {
  RunMap& map = make(kBasePage, 100);
  const std::uint64_t run = map.allocate(10, 0);
  ASSERT_EQ(run, kBasePage);
  EXPECT_FALSE(map.extend(run, 101)) << "there is not so much";
  EXPECT_TRUE(map.extend(run, 20));
  EXPECT_EQ(map.free_pages(), 80u);
  EXPECT_EQ(map.start_of(run + 19), run);
  EXPECT_TRUE(map.validate());
  const std::uint64_t behind = map.allocate(1, 0);
  EXPECT_EQ(behind, run + 20);
  EXPECT_FALSE(map.extend(run, 21)) << "in use";
  EXPECT_EQ(map.start_of(run + 20), behind);
  EXPECT_TRUE(map.extend(behind, 80)) << "to the last page";
  EXPECT_EQ(map.free_pages(), 0u);
  EXPECT_FALSE(map.extend(behind, 81));
  map.free(run, 20);
  EXPECT_TRUE(map.validate());
  map.free(behind, 80);
  EXPECT_TRUE(map.validate());
  EXPECT_EQ(map.allocate(100, 0), run);
  RunMap::destroy(books_, &map);
}

TEST_F(RunMapTest, RandomRunsAgreeWithAPageArray) {
  struct Shape {
    std::uint64_t offset, pages;
  };
  for (const Shape shape : {Shape{0, 64}, Shape{1, 3}, Shape{3, 1}, Shape{2, 5}, Shape{7, 777},
                            Shape{0, 1024}, Shape{1023, 2049}}) {
    RunMap& map = make(kBasePage + shape.offset, shape.pages);
    PageArray array(kBasePage + shape.offset, shape.pages);
    std::map<std::uint64_t, std::uint64_t> held;
    std::mt19937_64 random(shape.pages);
    for (int step = 0; step < 3000; ++step) {
      if (random() % 2 == 0) {
        const std::uint64_t pages =
            1 + random() % (random() % 8 == 0 ? shape.pages : 1 + shape.pages / 16);
        const unsigned align = static_cast<unsigned>(random() % 4 == 0 ? random() % 11 : 0);
        const std::uint64_t boundary =
            random() % 4 == 0 ? std::bit_ceil(pages) << random() % 3 : kNoBoundary;
        const std::uint64_t page = map.allocate(pages, align, boundary);
        if (page == RunMap::kNone) {
          // Up to so many stretches the search is complete.
          if (shape.pages <= 64) {
            ASSERT_FALSE(array.fits(pages, align, boundary))
                << "step " << step << ": " << pages << " pages";
          }
        } else {
          ASSERT_TRUE(array.all(page, pages, false)) << "step " << step;
          ASSERT_TRUE(is_aligned(page, std::uint64_t{1} << align));
          ASSERT_EQ(page / boundary, (page + pages - 1) / boundary);
          array.set(page, pages, true);
          held.emplace(page, pages);
        }
      } else if (!held.empty()) {
        auto chosen = held.begin();
        std::advance(chosen, static_cast<std::ptrdiff_t>(random() % held.size()));
        std::uint64_t page = chosen->first;
        std::uint64_t pages = chosen->second;
        if (random() % 8 == 0) {
          const std::uint64_t longer = pages + 1 + random() % 4;
          const bool room = array.all(page + pages, longer - pages, false);
          ASSERT_EQ(map.extend(page, longer), room) << "step " << step;
          if (!room) continue;
          array.set(page, longer, true);
          chosen->second = longer;
          continue;
        }
        held.erase(chosen);
        if (pages > 1 && random() % 3 == 0) {
          // Only the tail, as a block that shrinks.
          const std::uint64_t kept = 1 + random() % (pages - 1);
          held.emplace(page, kept);
          page += kept;
          pages -= kept;
        }
        map.free(page, pages);
        array.set(page, pages, false);
      }
      const std::uint64_t at = kBasePage + shape.offset + random() % shape.pages;
      ASSERT_EQ(map.free_pages(), array.free_pages());
      ASSERT_EQ(map.is_free(at, 1), array.all(at, 1, false));
      ASSERT_EQ(map.free_end(at), array.free_end(at));
      if (step % 16 == 0) {
        ASSERT_TRUE(map.validate()) << "step " << step;
      }
    }
    for (const auto& [page, pages] : held) map.free(page, pages);
    ASSERT_TRUE(map.validate());
    EXPECT_EQ(map.allocate(shape.pages, 0), kBasePage + shape.offset);
    RunMap::destroy(books_, &map);
  }
}

TEST_F(RunMapTest, TakeAndIsFreeAreOfExactPages) {
  std::mt19937_64 random(8);
  RunMap& map = make(kBasePage + 3, 500);
  PageArray array(kBasePage + 3, 500);
  for (int step = 0; step < 2000; ++step) {
    const std::uint64_t page = kBasePage + 3 + random() % 500;
    const std::uint64_t pages = 1 + random() % std::min<std::uint64_t>(40, kBasePage + 503 - page);
    const bool free = array.all(page, pages, false);
    ASSERT_EQ(map.is_free(page, pages), free);
    if (free) {
      map.take(page, pages);
      array.set(page, pages, true);
    } else if (array.all(page, pages, true) &&
               map.start_of(page) == map.start_of(page + pages - 1)) {
      map.free(page, pages);
      array.set(page, pages, false);
    }
    ASSERT_EQ(map.free_pages(), array.free_pages());
    ASSERT_TRUE(map.validate());
  }
  RunMap::destroy(books_, &map);
}

TEST_F(RunMapTest, BooksAreATenthOfAPerMille) {
  const std::size_t before = books_.used_bytes();
  constexpr std::uint64_t kPages = std::uint64_t{1} << 20;
  // The worst place: just below a multiple of the size.
  RunMap& map = make(align_up(kBasePage, 2 * kPages) + kPages - 1, kPages);
  EXPECT_LT(books_.used_bytes() - before, kPages * kPageBytes / 5000);
  RunMap::destroy(books_, &map);
  EXPECT_EQ(books_.used_bytes(), before);
}

TEST_F(RunMapTest, OutOfTrustedMemoryIsNull) {
  port_.set_trusted_left(0);
  EXPECT_EQ(RunMap::create(books_, {kBasePage * kPageBytes, std::size_t{1} << 40}), nullptr);
}

}  // namespace
}  // namespace exclave
