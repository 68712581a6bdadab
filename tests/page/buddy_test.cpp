// The buddy system against an array of pages.
#include "page/buddy.hpp"

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "support/books_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;

constexpr std::uint64_t kBasePage = std::uint64_t{0x200000000000} / kPageBytes;

class BuddyTest : public BooksFixture {
 protected:
  Buddy& make(std::uint64_t first_page, std::uint64_t pages) {
    Buddy* const buddy =
        Buddy::create(books_, {first_page * kPageBytes, std::size_t{pages} * kPageBytes});
    EXPECT_NE(buddy, nullptr);
    EXPECT_EQ(buddy->free_pages(), 0u);
    buddy->free(first_page, pages);
    EXPECT_EQ(buddy->free_pages(), pages);
    EXPECT_TRUE(buddy->validate());
    return *buddy;
  }
};

TEST_F(BuddyTest, ValidationTellsOfPagesThatWereFreedTwice) {
  for (const std::uint64_t pages : {1u, 2u, 7u, 64u}) {
    Buddy& buddy = make(kBasePage, 256);
    buddy.free(kBasePage + 64, pages);
    EXPECT_FALSE(buddy.validate()) << pages;
    Buddy::destroy(books_, &buddy);
  }
}

// One flag for each page, and the rules that a buddy must keep.
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
  bool fits(std::uint64_t pages, unsigned align_order) const {
    const std::uint64_t step = std::uint64_t{1} << align_order;
    for (std::uint64_t at = align_up(first_, step); at + pages <= first_ + used_.size();
         at += step) {
      if (all(at, pages, false)) return true;
    }
    return false;
  }

 private:
  std::uint64_t first_;
  std::vector<bool> used_;
};

TEST_F(BuddyTest, WholeRegionOfAnySizeIsOneRun) {
  for (std::uint64_t pages = 1; pages < 200; ++pages) {
    for (const std::uint64_t offset : {0u, 1u, 2u, 3u, 5u, 63u}) {
      Buddy& buddy = make(kBasePage + offset, pages);
      EXPECT_EQ(buddy.allocate(pages, 0), kBasePage + offset) << pages << " at " << offset;
      EXPECT_EQ(buddy.free_pages(), 0u);
      EXPECT_EQ(buddy.orders_free(), 0u);
      EXPECT_EQ(buddy.allocate(1, 0), Buddy::kNone);
      EXPECT_TRUE(buddy.validate());
      buddy.free(kBasePage + offset, pages);
      EXPECT_TRUE(buddy.validate());
      EXPECT_EQ(buddy.allocate(pages + 1, 0), Buddy::kNone);
      EXPECT_EQ(buddy.allocate(0, 0), Buddy::kNone);
      Buddy::destroy(books_, &buddy);
    }
  }
}

TEST_F(BuddyTest, OddHugeRegionsAreOneRun) {
  for (const std::uint64_t pages : {262143u, 262144u, 262145u, 1000003u}) {
    Buddy& buddy = make(kBasePage + 12345, pages);
    EXPECT_EQ(buddy.allocate(pages, 0), kBasePage + 12345);
    buddy.free(kBasePage + 12345, pages);
    EXPECT_TRUE(buddy.validate());
    Buddy::destroy(books_, &buddy);
  }
}

TEST_F(BuddyTest, AlignmentUpToAGibibyteIsOfTheAddress) {
  constexpr unsigned kGibibyteOrder = 18;
  // Three gibibytes that start a page before a multiple of one.
  const std::uint64_t first = align_up(kBasePage, 1u << kGibibyteOrder) - 1;
  Buddy& buddy = make(first, 3u << kGibibyteOrder);
  for (unsigned order = 0; order <= kGibibyteOrder; ++order) {
    const std::uint64_t page = buddy.allocate(3, order);
    ASSERT_NE(page, Buddy::kNone) << order;
    EXPECT_TRUE(is_aligned(page, std::uint64_t{1} << order));
    buddy.free(page, 3);
  }
  // A long run at the widest alignment, though no single free block holds it.
  const std::uint64_t page = buddy.allocate((2u << kGibibyteOrder) + 5, kGibibyteOrder);
  EXPECT_EQ(page, first + 1);
  EXPECT_TRUE(buddy.validate());
  EXPECT_EQ(buddy.allocate(1, kGibibyteOrder), Buddy::kNone);
  Buddy::destroy(books_, &buddy);
}

TEST_F(BuddyTest, AlignmentWiderThanTheRegionIsFoundIfItIsThere) {
  // Five pages around a multiple of 1024 pages.
  const std::uint64_t multiple = align_up(kBasePage, 1024);
  Buddy& buddy = make(multiple - 2, 5);
  EXPECT_EQ(buddy.allocate(2, 10), multiple);
  EXPECT_EQ(buddy.allocate(1, 10), Buddy::kNone);
  EXPECT_TRUE(buddy.validate());
  Buddy::destroy(books_, &buddy);
}

TEST_F(BuddyTest, RunsAreJoinedAgainWhateverTheOrderOfTheFrees) {
  std::mt19937_64 random(4);
  for (const std::uint64_t offset : {0u, 3u}) {
    Buddy& buddy = make(kBasePage + offset, 1000);
    std::vector<std::uint64_t> pages;
    for (int i = 0; i < 1000; ++i) pages.push_back(buddy.allocate(1, 0));
    EXPECT_EQ(buddy.allocate(1, 0), Buddy::kNone);
    std::shuffle(pages.begin(), pages.end(), random);
    for (const std::uint64_t page : pages) buddy.free(page, 1);
    EXPECT_TRUE(buddy.validate());
    EXPECT_EQ(buddy.allocate(1000, 0), kBasePage + offset);
    Buddy::destroy(books_, &buddy);
  }
}

TEST_F(BuddyTest, SmallHolesInFrontDoNotHideALargeStretch) {
  // Two hundred holes of two pages, then one stretch of seven: five pages fit only there.
  constexpr std::uint64_t kHoles = 200;
  Buddy& buddy = make(kBasePage, 4 * kHoles + 64);
  buddy.take(kBasePage, 4 * kHoles + 64);
  for (std::uint64_t i = 0; i < kHoles; ++i) buddy.free(kBasePage + 4 * i, 2);
  const std::uint64_t stretch = kBasePage + 4 * kHoles + 9;
  buddy.free(stretch, 7);
  EXPECT_EQ(buddy.allocate(5, 0), stretch);
  EXPECT_TRUE(buddy.validate());
  Buddy::destroy(books_, &buddy);
}

TEST_F(BuddyTest, RunsArePutTogetherFromNeighbours) {
  // Free: [5, 11) of 16, blocks of 1, 2, 2 and 1: no block of four, but a run of six.
  Buddy& buddy = make(kBasePage, 16);
  buddy.take(kBasePage, 16);
  buddy.free(kBasePage + 5, 6);
  EXPECT_EQ(buddy.allocate(7, 0), Buddy::kNone);
  EXPECT_EQ(buddy.allocate(6, 0), kBasePage + 5);
  EXPECT_TRUE(buddy.validate());
  Buddy::destroy(books_, &buddy);
}

TEST_F(BuddyTest, TheTightestBlockServes) {
  // Free: a block of eight pages, and behind it one of two.
  Buddy& buddy = make(kBasePage, 32);
  buddy.take(kBasePage, 32);
  buddy.free(kBasePage, 8);
  buddy.free(kBasePage + 16, 2);
  EXPECT_EQ(buddy.allocate(2, 0), kBasePage + 16);
  EXPECT_EQ(buddy.allocate(2, 0), kBasePage);
  Buddy::destroy(books_, &buddy);
}

TEST_F(BuddyTest, AFreeStretchEndsWithTheRegion) {
  // Behind the bits of the last page stand those of the next order, the first of them set.
  Buddy& buddy = make(kBasePage, 64);
  buddy.take(kBasePage + 2, 61);
  EXPECT_EQ(buddy.free_end(kBasePage + 63), kBasePage + 64);
  EXPECT_EQ(buddy.free_end(kBasePage), kBasePage + 2);
  Buddy::destroy(books_, &buddy);
}

TEST(BuddyIndexTest, TheBitmapOfAnOrderHasABitForEachBlockThatBeginsBelowTheEnd) {
  EXPECT_EQ(blocks_below(1, 0), 1u);
  EXPECT_EQ(blocks_below(64, 0), 64u);
  EXPECT_EQ(blocks_below(64, 3), 8u);
  EXPECT_EQ(blocks_below(65, 3), 9u);
  EXPECT_EQ(blocks_below(64, 7), 1u);
}

TEST_F(BuddyTest, RandomRunsAgreeWithAPageArray) {
  struct Shape {
    std::uint64_t offset, pages;
  };
  for (const Shape shape : {Shape{0, 64}, Shape{1, 3}, Shape{3, 1}, Shape{2, 5}, Shape{7, 777},
                            Shape{0, 1024}, Shape{1023, 2049}}) {
    Buddy& buddy = make(kBasePage + shape.offset, shape.pages);
    PageArray array(kBasePage + shape.offset, shape.pages);
    std::map<std::uint64_t, std::uint64_t> held;
    std::mt19937_64 random(shape.pages);
    for (int step = 0; step < 3000; ++step) {
      if (random() % 2 == 0) {
        const std::uint64_t pages =
            1 + random() % (random() % 8 == 0 ? shape.pages : 1 + shape.pages / 16);
        const unsigned align = static_cast<unsigned>(random() % 4 == 0 ? random() % 11 : 0);
        const std::uint64_t page = buddy.allocate(pages, align);
        if (page == Buddy::kNone) {
          // Up to so many stretches the search is complete.
          if (shape.pages <= 64) {
            ASSERT_FALSE(array.fits(pages, align)) << "step " << step << ": " << pages << " pages";
          }
        } else {
          ASSERT_TRUE(array.all(page, pages, false)) << "step " << step;
          ASSERT_TRUE(is_aligned(page, std::uint64_t{1} << align));
          array.set(page, pages, true);
          held.emplace(page, pages);
        }
      } else if (!held.empty()) {
        auto chosen = held.begin();
        std::advance(chosen, static_cast<std::ptrdiff_t>(random() % held.size()));
        std::uint64_t page = chosen->first;
        std::uint64_t pages = chosen->second;
        held.erase(chosen);
        if (pages > 1 && random() % 3 == 0) {
          // Only the tail, as a block that shrinks.
          const std::uint64_t kept = 1 + random() % (pages - 1);
          held.emplace(page, kept);
          page += kept;
          pages -= kept;
        }
        buddy.free(page, pages);
        array.set(page, pages, false);
      }
      const std::uint64_t at = kBasePage + shape.offset + random() % shape.pages;
      ASSERT_EQ(buddy.free_pages(), array.free_pages());
      ASSERT_EQ(buddy.is_free(at, 1), array.all(at, 1, false));
      ASSERT_EQ(buddy.free_end(at), array.free_end(at));
      if (step % 16 == 0) {
        ASSERT_TRUE(buddy.validate()) << "step " << step;
      }
    }
    for (const auto& [page, pages] : held) buddy.free(page, pages);
    ASSERT_TRUE(buddy.validate());
    EXPECT_EQ(buddy.allocate(shape.pages, 0), kBasePage + shape.offset);
    Buddy::destroy(books_, &buddy);
  }
}

TEST_F(BuddyTest, TakeAndIsFreeAreOfExactPages) {
  std::mt19937_64 random(8);
  Buddy& buddy = make(kBasePage + 3, 500);
  PageArray array(kBasePage + 3, 500);
  for (int step = 0; step < 2000; ++step) {
    const std::uint64_t page = kBasePage + 3 + random() % 500;
    const std::uint64_t pages = 1 + random() % std::min<std::uint64_t>(40, kBasePage + 503 - page);
    const bool free = array.all(page, pages, false);
    ASSERT_EQ(buddy.is_free(page, pages), free);
    if (free) {
      buddy.take(page, pages);
      array.set(page, pages, true);
    } else if (array.all(page, pages, true)) {
      buddy.free(page, pages);
      array.set(page, pages, false);
    }
    ASSERT_EQ(buddy.free_pages(), array.free_pages());
    ASSERT_TRUE(buddy.validate());
  }
  Buddy::destroy(books_, &buddy);
}

TEST_F(BuddyTest, BooksAreATenthOfAPerMille) {
  const std::size_t before = books_.used_bytes();
  constexpr std::uint64_t kPages = std::uint64_t{1} << 20;
  // The worst place: just below a multiple of the size.
  Buddy& buddy = make(align_up(kBasePage, 2 * kPages) + kPages - 1, kPages);
  EXPECT_LT(books_.used_bytes() - before, kPages * kPageBytes / 5000);
  Buddy::destroy(books_, &buddy);
  EXPECT_EQ(books_.used_bytes(), before);
}

TEST_F(BuddyTest, OutOfTrustedMemoryIsNull) {
  port_.set_trusted_left(0);
  EXPECT_EQ(Buddy::create(books_, {kBasePage * kPageBytes, std::size_t{1} << 40}), nullptr);
}

}  // namespace
}  // namespace exclave
