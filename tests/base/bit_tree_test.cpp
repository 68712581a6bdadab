// The summary bitmap against std::set.
#include "base/bit_tree.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

namespace exclave {
namespace {

struct TreeAndModel {
  explicit TreeAndModel(std::uint64_t size)
      : bits(size), words(BitTree::words_for(size) + 1, 0), tree(words.data(), size) {
    words.back() = kGuard;
  }
  void insert(std::uint64_t i) {
    tree.insert(i);
    model.insert(i);
  }
  void erase(std::uint64_t i) {
    tree.erase(i);
    model.erase(i);
  }
  std::uint64_t model_find(std::uint64_t from) const {
    const auto found = model.lower_bound(from);
    return found == model.end() ? BitTree::kNone : *found;
  }
  std::uint64_t model_find_back(std::uint64_t from) const {
    const auto found = model.upper_bound(from);
    return found == model.begin() ? BitTree::kNone : *std::prev(found);
  }
  ::testing::AssertionResult agree_at(std::uint64_t i) const {
    if (tree.contains(i) != (model.count(i) != 0) || tree.find(i) != model_find(i) ||
        tree.find_back(i) != model_find_back(i)) {
      return ::testing::AssertionFailure()
             << "at " << i << " of " << bits << ": find " << tree.find(i) << " for "
             << model_find(i) << ", find_back " << tree.find_back(i) << " for "
             << model_find_back(i);
    }
    return ::testing::AssertionSuccess();
  }

  static constexpr std::uint64_t kGuard = 0x123456789abcdef0;
  std::uint64_t bits;
  std::vector<std::uint64_t> words;
  BitTree tree;
  std::set<std::uint64_t> model;
};

// Sizes at the edges of words and of levels.
const std::uint64_t kSizes[] = {1,    2,    63,   64,     65,     127,    128,   129,
                                4095, 4096, 4097, 262143, 262144, 262145, 300001};

TEST(BitTreeTest, EmptySetHasNoMembers) {
  for (const std::uint64_t bits : kSizes) {
    const TreeAndModel t(bits);
    EXPECT_TRUE(t.tree.empty());
    EXPECT_EQ(t.tree.find(0), BitTree::kNone);
    EXPECT_EQ(t.tree.find(bits - 1), BitTree::kNone);
    EXPECT_EQ(t.tree.find_back(bits - 1), BitTree::kNone);
    EXPECT_EQ(t.tree.find_back(0), BitTree::kNone);
  }
}

TEST(BitTreeTest, SingleMemberIsFoundFromEverywhere) {
  for (const std::uint64_t bits : kSizes) {
    for (const std::uint64_t at : {std::uint64_t{0}, bits / 3, bits / 2, bits - 1}) {
      TreeAndModel t(bits);
      t.insert(at);
      for (const std::uint64_t from :
           {std::uint64_t{0}, at == 0 ? 0 : at - 1, at, std::min(at + 1, bits - 1), bits - 1}) {
        EXPECT_TRUE(t.agree_at(from));
      }
      EXPECT_EQ(t.tree.find(bits), BitTree::kNone) << "past the end";
      EXPECT_EQ(t.tree.find(UINT64_MAX), BitTree::kNone);
      t.erase(at);
      EXPECT_TRUE(t.tree.empty());
      EXPECT_TRUE(std::all_of(t.words.begin(), t.words.end() - 1, [](std::uint64_t word) {
        return word == 0;
      })) << "summaries were cleared, too";
    }
  }
}

TEST(BitTreeTest, FullSetIsFoundEverywhereAndUsesNoWordTooMany) {
  for (const std::uint64_t bits : {std::uint64_t{1}, std::uint64_t{64}, std::uint64_t{65},
                                   std::uint64_t{4096}, std::uint64_t{4161}}) {
    TreeAndModel t(bits);
    for (std::uint64_t i = 0; i < bits; ++i) t.insert(i);
    for (std::uint64_t i = 0; i < bits; ++i) EXPECT_TRUE(t.agree_at(i));
    EXPECT_EQ(t.words.back(), TreeAndModel::kGuard);
    for (std::uint64_t i = 0; i < bits; ++i) t.erase(bits - 1 - i);
    EXPECT_TRUE(t.tree.empty());
  }
}

TEST(BitTreeTest, InsertAndEraseAreIdempotent) {
  TreeAndModel t(5000);
  t.insert(4711);
  t.insert(4711);
  EXPECT_TRUE(t.agree_at(0));
  t.erase(4711);
  t.erase(4711);
  EXPECT_TRUE(t.tree.empty());
}

TEST(BitTreeTest, RandomOperationsAgreeWithASet) {
  for (const std::uint64_t bits : kSizes) {
    TreeAndModel t(bits);
    std::mt19937_64 random(bits);
    for (int step = 0; step < 3000; ++step) {
      // Near one place half of the time, so that words fill up and empty again.
      const std::uint64_t at =
          random() % 2 == 0 ? random() % bits : std::min(bits - 1, bits / 2 + random() % 130);
      if (random() % 5 < 3) {
        t.insert(at);
      } else if (random() % 2 == 0 && !t.model.empty()) {
        t.erase(t.model_find(0));
      } else {
        t.erase(at);
      }
      ASSERT_TRUE(t.agree_at(at)) << "step " << step;
      ASSERT_TRUE(t.agree_at(random() % bits)) << "step " << step;
    }
    EXPECT_EQ(t.words.back(), TreeAndModel::kGuard);
  }
}

TEST(BitTreeTest, WordsAreASixtyFourthAndABit) {
  EXPECT_EQ(BitTree::words_for(1), 1u);
  EXPECT_EQ(BitTree::words_for(64), 1u);
  EXPECT_EQ(BitTree::words_for(65), 3u);
  EXPECT_EQ(BitTree::words_for(4096), 65u);
  EXPECT_EQ(BitTree::words_for(4097), 65u + 2 + 1);
}

}  // namespace
}  // namespace exclave
