// The set of mapped pages, beside a plain array that knows the same.
#include "loader/page_set.hpp"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace exclave::loader {
namespace {

class PageSetTest : public ::testing::Test {
 protected:
  static constexpr std::uintptr_t kBase = 0x10000;
  static constexpr std::size_t kPages = 64 * 5 + 17;

  PageSetTest() : words_(PageSet::bytes_for(kPages * kPageBytes) / 8), pages_(kPages, false) {
    set_.open({kBase, kPages * kPageBytes}, words_.data());
  }
  static Extent extent(std::size_t first, std::size_t count) {
    return {kBase + first * kPageBytes, count * kPageBytes};
  }
  void change(std::size_t first, std::size_t count, bool mapped) {
    if (mapped) {
      set_.add(extent(first, count));
    } else {
      set_.remove(extent(first, count));
    }
    std::fill_n(pages_.begin() + static_cast<long>(first), count, mapped);
  }
  // The highest place, by looking at each.
  std::uintptr_t gap(std::size_t count, std::size_t alignment, std::uintptr_t limit) const {
    for (std::size_t first = kPages - count + 1; first-- > 0;) {
      const Extent place = extent(first, count);
      if (place.end() > limit || place.base % alignment != 0) continue;
      bool free = true;
      for (std::size_t i = first; i < first + count; ++i) free = free && !pages_[i];
      if (free) return place.base;
    }
    return 0;
  }
  void expect_alike() const {
    std::size_t count = 0, runs = 0;
    for (std::size_t i = 0; i < kPages; ++i) {
      ASSERT_EQ(set_.has(extent(i, 1).base), pages_[i]) << i;
      count += pages_[i];
      runs += pages_[i] && (i == 0 || !pages_[i - 1]);
    }
    ASSERT_EQ(set_.count(), count);
    ASSERT_EQ(set_.runs(), runs);
  }

  std::vector<std::uint64_t> words_;
  std::vector<bool> pages_;
  PageSet set_;
};

TEST_F(PageSetTest, ChangesAndRuns) {
  std::mt19937 random(5);
  for (int round = 0; round < 3000; ++round) {
    const std::size_t first = random() % kPages;
    const std::size_t count = 1 + random() % std::min<std::size_t>(kPages - first, 140);
    change(first, count, random() % 2 == 0);
    expect_alike();
    const std::size_t at = random() % kPages, most = kPages - at;
    std::size_t run = 1;
    while (run < most && pages_[at + run] == pages_[at]) ++run;
    ASSERT_EQ(set_.run_at(extent(at, most)), run * kPageBytes);
    ASSERT_EQ(set_.has_none_of(extent(at, most)), !pages_[at] && run == most);
  }
  EXPECT_EQ(set_.run_at({kBase, 0}), 0u);
  EXPECT_TRUE(set_.has_none_of({kBase, 0}));
}

TEST_F(PageSetTest, TheHighestGapIsFound) {
  std::mt19937 random(6);
  for (int round = 0; round < 3000; ++round) {
    const std::size_t first = random() % kPages;
    change(first, 1 + random() % std::min<std::size_t>(kPages - first, 40), random() % 3 != 0);
    for (const std::size_t count : {std::size_t{1}, std::size_t{2}, std::size_t{7}, std::size_t{64},
                                    std::size_t{65}, std::size_t{130}}) {
      for (const std::size_t alignment : {kPageBytes, 16 * kPageBytes}) {
        const std::uintptr_t limit = kBase + (random() % (kPages + 1)) * kPageBytes;
        ASSERT_EQ(set_.highest_gap(count * kPageBytes, alignment, limit),
                  gap(count, alignment, limit))
            << count << " " << alignment << " " << limit;
      }
    }
  }
}

TEST_F(PageSetTest, EdgesOfTheWindow) {
  const std::size_t all = kPages * kPageBytes;
  EXPECT_EQ(set_.highest_gap(all, kPageBytes, UINTPTR_MAX), kBase);
  EXPECT_EQ(set_.highest_gap(all + kPageBytes, kPageBytes, UINTPTR_MAX), 0u);
  EXPECT_EQ(set_.highest_gap(kPageBytes, kPageBytes, kBase), 0u);
  EXPECT_EQ(set_.highest_gap(kPageBytes, kPageBytes, 0), 0u);
  change(0, kPages, true);
  EXPECT_EQ(set_.highest_gap(kPageBytes, kPageBytes, UINTPTR_MAX), 0u);
  EXPECT_EQ(set_.runs(), 1u);
  change(3, 1, false);
  EXPECT_EQ(set_.highest_gap(kPageBytes, kPageBytes, UINTPTR_MAX), extent(3, 1).base);
}

}  // namespace
}  // namespace exclave::loader
