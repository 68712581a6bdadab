// The areas of the enclave's range against a plain array of pages.
#include "memcall/area_tree.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <vector>

#include "support/books_fixture.hpp"

namespace exclave {
namespace {

constexpr AreaKind kA{3, 0};
constexpr AreaKind kB{1, 0};
constexpr AreaKind kSharedKind{3, AreaKind::kShared};

class AreaTreeTest : public testing_support::BooksFixture {
 protected:
  void open(PageNumber pages) {
    tree_.emplace(books_);
    tree_->open(pages, 42);
  }
  Area& add(PageNumber first, PageNumber count, AreaKind kind = kA) {
    EXPECT_TRUE(tree_->prepare(1));
    return tree_->settle(tree_->add({first, count}, kind, 1), kind);
  }
  std::optional<AreaTree> tree_;
};

TEST_F(AreaTreeTest, StretchesAreOneByBothEnds) {
  EXPECT_EQ((PageStretch{1, 2}), (PageStretch{1, 2}));
  EXPECT_FALSE((PageStretch{1, 2}) == (PageStretch{2, 2}));
  EXPECT_FALSE((PageStretch{1, 2}) == (PageStretch{1, 3}));
}

TEST_F(AreaTreeTest, FindsThePageAndTheFirstAreaOfARun) {
  open(100);
  EXPECT_EQ(tree_->at(0), nullptr);
  EXPECT_EQ(tree_->first_in({0, 100}), nullptr);
  Area& low = add(10, 5);
  Area& high = add(20, 5, kB);
  EXPECT_EQ(tree_->at(9), nullptr);
  EXPECT_EQ(tree_->at(10), &low);
  EXPECT_EQ(tree_->at(14), &low);
  EXPECT_EQ(tree_->at(15), nullptr);
  EXPECT_EQ(tree_->first_in({0, 10}), nullptr);
  EXPECT_EQ(tree_->first_in({0, 11}), &low);
  EXPECT_EQ(tree_->first_in({12, 50}), &low);
  EXPECT_EQ(tree_->first_in({15, 5}), nullptr);
  EXPECT_EQ(tree_->first_in({15, 6}), &high);
  EXPECT_EQ(tree_->first_in({25, 75}), nullptr);
}

TEST_F(AreaTreeTest, NeighboursOfOneKindAreOneArea) {
  open(100);
  add(10, 5);
  add(20, 5);
  EXPECT_EQ(tree_->count(), 2u);
  Area& all = add(15, 5);
  EXPECT_EQ(tree_->count(), 1u);
  EXPECT_EQ(all.run, (PageStretch{10, 15}));
  add(25, 5, kB);
  add(0, 10, kB);
  EXPECT_EQ(tree_->count(), 3u);
  add(30, 5, kSharedKind);
  add(35, 5, kSharedKind);
  EXPECT_EQ(tree_->count(), 5u) << "two shared mappings are not one";
  EXPECT_EQ(tree_->mapped_pages(), 40u);
  EXPECT_TRUE(tree_->validate());
}

TEST_F(AreaTreeTest, AnAreaUnderWayJoinsNobody) {
  open(100);
  Area& low = add(0, 10);
  low.in_call = 7;
  add(10, 10);
  EXPECT_EQ(tree_->count(), 2u);
  EXPECT_EQ(tree_->look({0, 1}, 7), AreaTree::Look::kMine);
  EXPECT_EQ(tree_->look({0, 20}, 8), AreaTree::Look::kElsewhere);
  EXPECT_EQ(tree_->look({10, 20}, 7), AreaTree::Look::kQuiet);
  tree_->at(10)->in_call = 8;
  tree_->settle(low, kA);
  EXPECT_EQ(tree_->count(), 2u) << "nor does one that another has under way";
  tree_->settle(*tree_->at(10), kA);
  EXPECT_EQ(tree_->count(), 1u);
}

TEST_F(AreaTreeTest, CutsAPartOutAndJoinsItAgain) {
  open(100);
  Area& whole = add(10, 30);
  ASSERT_TRUE(tree_->prepare(2));
  Area& part = tree_->cut_out(whole, {20, 10});
  EXPECT_EQ(part.run, (PageStretch{20, 10}));
  EXPECT_EQ(tree_->count(), 3u);
  EXPECT_EQ(tree_->mapped_pages(), 30u);
  EXPECT_EQ(tree_->settle(part, kA).run, (PageStretch{10, 30}));
  EXPECT_EQ(tree_->count(), 1u);
  EXPECT_TRUE(tree_->validate());
}

TEST_F(AreaTreeTest, TakesOutAndPutsBack) {
  open(100);
  add(0, 10);
  add(10, 10, kB);
  add(30, 10);
  ASSERT_TRUE(tree_->prepare(2));
  Area* const chain = tree_->take_out({5, 30});
  EXPECT_EQ(tree_->mapped_pages(), 10u);
  EXPECT_EQ(tree_->first_in({5, 30}), nullptr);
  ASSERT_NE(chain, nullptr);
  EXPECT_EQ(chain->run, (PageStretch{5, 5}));
  EXPECT_EQ(chain->next->run, (PageStretch{10, 10}));
  EXPECT_EQ(chain->next->next->run, (PageStretch{30, 5}));
  tree_->put_back(chain);
  EXPECT_EQ(tree_->count(), 3u);
  EXPECT_EQ(tree_->mapped_pages(), 30u);
  EXPECT_TRUE(tree_->validate());
  EXPECT_EQ(tree_->take_out({50, 10}), nullptr);
}

TEST_F(AreaTreeTest, TheHighestGapEndsAtTheLimit) {
  open(100);
  EXPECT_EQ(tree_->highest_gap(100, 100), 0u);
  EXPECT_EQ(tree_->highest_gap(101, 100), kNoPage);
  EXPECT_EQ(tree_->highest_gap(10, 50), 40u);
  EXPECT_EQ(tree_->highest_gap(1, 0), kNoPage);
  add(50, 10);
  add(80, 10);
  EXPECT_EQ(tree_->highest_gap(10, 100), 90u);
  EXPECT_EQ(tree_->highest_gap(20, 100), 60u);
  EXPECT_EQ(tree_->highest_gap(21, 100), 29u);
  EXPECT_EQ(tree_->highest_gap(10, 75), 65u);
  EXPECT_EQ(tree_->highest_gap(20, 75), 30u);
  EXPECT_EQ(tree_->highest_gap(51, 100), kNoPage);
}

// What is under way behind the run is none of its callers' business.
TEST_F(AreaTreeTest, LooksNoFurtherThanTheRun) {
  open(100);
  ASSERT_TRUE(tree_->prepare(3));
  tree_->add({10, 5}, kA, 0);
  tree_->add({15, 5}, kA, 7);
  tree_->add({30, 5}, kA, 8);
  EXPECT_EQ(tree_->look({10, 5}, 7), AreaTree::Look::kQuiet);
  EXPECT_EQ(tree_->look({10, 6}, 7), AreaTree::Look::kMine);
  EXPECT_EQ(tree_->look({10, 6}, 8), AreaTree::Look::kElsewhere);
  EXPECT_EQ(tree_->look({20, 10}, 8), AreaTree::Look::kQuiet);
  EXPECT_EQ(tree_->look({10, 21}, 8), AreaTree::Look::kMine);
}

// Were all areas walked over, it would take minutes.
TEST_F(AreaTreeTest, ASearchInVainIsShort) {
  constexpr PageNumber kAreas = 100000;
  open(2 * kAreas);
  for (PageNumber i = 0; i < kAreas; ++i) add(2 * i, 1);
  for (PageNumber i = 0; i < kAreas; ++i)
    ASSERT_EQ(tree_->highest_gap(2, 2 * kAreas - i % 2), kNoPage);
}

TEST_F(AreaTreeTest, SaysSoWhenThereAreNoBooks) {
  open(100);
  port_.fail_trusted_from(1);
  while (tree_->prepare(1)) {
    tree_->add({static_cast<PageNumber>(2 * tree_->count()), 1}, kA, 0);
    if (tree_->count() == 50) break;
  }
  EXPECT_FALSE(tree_->prepare(4096));
  port_.fail_trusted_from(0);
  EXPECT_TRUE(tree_->prepare(4096));
}

// Every operation, against pages that each know their area's kind.
TEST_F(AreaTreeTest, AgreesWithAnArrayOfPages) {
  constexpr PageNumber kPages = 200;
  open(kPages);
  std::mt19937 random(7);
  std::vector<int> pages(kPages, -1);  // -1: free; else the protection
  for (int step = 0; step < 20000; ++step) {
    const auto first = static_cast<PageNumber>(random() % kPages);
    const auto count = 1 + static_cast<PageNumber>(random() % std::min(kPages - first, 20u));
    const PageStretch run{first, count};
    ASSERT_TRUE(tree_->prepare(4));
    switch (random() % 4) {
      case 0:
      case 1: {
        tree_->discard(tree_->take_out(run));
        const AreaKind kind{static_cast<std::uint8_t>(random() % 3), 0};
        tree_->settle(tree_->add(run, AreaKind{}, 1), kind);
        std::fill_n(pages.begin() + first, count, kind.protection);
        break;
      }
      case 2:
        tree_->discard(tree_->take_out(run));
        std::fill_n(pages.begin() + first, count, -1);
        break;
      default:
        if (Area* const area = tree_->at(first); area != nullptr) {
          const PageNumber end = std::min(area->run.end(), run.end());
          Area& part = tree_->cut_out(*area, {first, end - first});
          tree_->settle(part, AreaKind{2, 0});
          std::fill(pages.begin() + first, pages.begin() + end, 2);
        }
    }
    ASSERT_TRUE(tree_->validate()) << step;
    for (PageNumber page = 0; page < kPages; ++page) {
      const Area* const area = tree_->at(page);
      ASSERT_EQ(area == nullptr ? -1 : area->kind.protection, pages[page]) << step;
    }
    // The highest gap, found by looking at each page.
    const auto wanted = 1 + static_cast<PageNumber>(random() % 30);
    const auto limit = static_cast<PageNumber>(random() % (kPages + 1));
    PageNumber expected = kNoPage;
    for (PageNumber place = limit < wanted ? 0 : limit - wanted + 1; place-- > 0;) {
      if (std::all_of(pages.begin() + place, pages.begin() + place + wanted,
                      [](int page) { return page < 0; })) {
        expected = place;
        break;
      }
    }
    ASSERT_EQ(tree_->highest_gap(wanted, limit), expected) << step;
  }
}

TEST_F(AreaTreeTest, AMillionAreasTakeACacheLineEach) {
  constexpr PageNumber kAreas = 1'000'000;
  open(2 * kAreas);
  const std::size_t before = books_.used_bytes();
  for (PageNumber i = 0; i < kAreas; ++i) {
    ASSERT_TRUE(tree_->prepare(1));
    tree_->add({2 * i, 1}, kA, 0);
  }
  EXPECT_EQ(tree_->count(), kAreas);
  EXPECT_EQ(books_.used_bytes() - before, kAreas * kCacheLine);
  EXPECT_EQ(tree_->highest_gap(1, 2 * kAreas), 2 * kAreas - 1);
  EXPECT_EQ(tree_->highest_gap(2, 2 * kAreas), kNoPage);
  tree_->remove(*tree_->at(1'000'000));
  EXPECT_EQ(tree_->highest_gap(2, 2 * kAreas), 1'000'000u);
  EXPECT_TRUE(tree_->validate());
}

}  // namespace
}  // namespace exclave
