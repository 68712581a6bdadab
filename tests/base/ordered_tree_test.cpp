// The treap against std::multimap, with a summary (the largest value of each subtree).
#include "base/ordered_tree.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace exclave {
namespace {

struct Item {
  TreeLinks<Item> links{};
  std::uintptr_t key = 0;
  std::uint64_t value = 0;
  std::uint64_t largest = 0;  // of the subtree
};

struct ItemTraits {
  static TreeLinks<Item>& links(Item& item) noexcept { return item.links; }
  static const TreeLinks<Item>& links(const Item& item) noexcept { return item.links; }
  static std::uintptr_t key(const Item& item) noexcept { return item.key; }
  static std::uint64_t largest_of(const Item& item) noexcept {
    std::uint64_t most = item.value;
    if (item.links.left != nullptr) most = std::max(most, item.links.left->largest);
    if (item.links.right != nullptr) most = std::max(most, item.links.right->largest);
    return most;
  }
  static void update(Item& item) noexcept { item.largest = largest_of(item); }
  static bool summary_holds(const Item& item) noexcept { return item.largest == largest_of(item); }
};

using Tree = OrderedTree<Item, ItemTraits>;

std::size_t height(const Item* item) {
  return item == nullptr ? 0 : 1 + std::max(height(item->links.left), height(item->links.right));
}

TEST(OrderedTreeTest, EmptyTreeFindsNothing) {
  const Tree tree;
  EXPECT_EQ(tree.root(), nullptr);
  EXPECT_EQ(tree.at_or_before(UINTPTR_MAX), nullptr);
  EXPECT_EQ(tree.at_or_after(0), nullptr);
  EXPECT_EQ(tree.validate(), 0);
}

TEST(OrderedTreeTest, FindsNeighboursOnBothSides) {
  Tree tree;
  tree.seed(1);
  std::vector<Item> items(3);
  for (std::size_t i = 0; i < 3; ++i) {
    items[i].key = 10 * (i + 1);
    tree.insert(items[i]);
  }
  EXPECT_EQ(tree.at_or_before(9), nullptr);
  EXPECT_EQ(tree.at_or_before(10), &items[0]);
  EXPECT_EQ(tree.at_or_before(19), &items[0]);
  EXPECT_EQ(tree.at_or_before(UINTPTR_MAX), &items[2]);
  EXPECT_EQ(tree.at_or_after(0), &items[0]);
  EXPECT_EQ(tree.at_or_after(11), &items[1]);
  EXPECT_EQ(tree.at_or_after(30), &items[2]);
  EXPECT_EQ(tree.at_or_after(31), nullptr);
}

TEST(OrderedTreeTest, ValidationTellsOfWhatIsOutOfOrder) {
  Tree tree;
  tree.seed(1);
  std::vector<Item> items(7);
  for (std::size_t i = 0; i < items.size(); ++i) {
    items[i].key = 10 * (i + 1);
    items[i].value = i;
    tree.insert(items[i]);
  }
  ASSERT_EQ(tree.validate(), 7);
  for (Item& item : items) {
    const Item before = item;
    item.key = item.key < 40 ? 1000 : 1;
    EXPECT_EQ(tree.validate(), -1) << "the key of " << before.key;
    item = before;
    if (&item != tree.root()) {
      item.links.priority = UINT64_MAX;
      EXPECT_EQ(tree.validate(), -1) << "the priority of " << before.key;
      item = before;
    }
    item.largest += 1;
    EXPECT_EQ(tree.validate(), -1) << "the summary of " << before.key;
    item = before;
  }
  EXPECT_EQ(tree.validate(), 7);
}

TEST(OrderedTreeTest, RandomOperationsAgreeWithAMap) {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    Tree tree;
    tree.seed(seed);
    std::mt19937_64 random(seed);
    std::vector<Item> items(600);
    std::multimap<std::uintptr_t, Item*> model;
    std::vector<Item*> out;
    for (Item& item : items) out.push_back(&item);
    for (int step = 0; step < 6000; ++step) {
      if ((random() % 2 == 0 || model.empty()) && !out.empty()) {
        Item* const item = out.back();
        out.pop_back();
        // Few keys, so that many are equal.
        item->key = random() % 200;
        item->value = random() % 1000;
        tree.insert(*item);
        model.emplace(item->key, item);
      } else {
        auto chosen = model.lower_bound(random() % 200);
        if (chosen == model.end()) chosen = model.begin();
        tree.erase(*chosen->second);
        out.push_back(chosen->second);
        model.erase(chosen);
      }
      ASSERT_EQ(tree.validate(), static_cast<std::int64_t>(model.size())) << "step " << step;
      const std::uintptr_t key = random() % 210;
      const auto after = model.lower_bound(key);
      const Item* const found = tree.at_or_after(key);
      ASSERT_EQ(found != nullptr, after != model.end());
      if (found != nullptr) {
        ASSERT_EQ(found->key, after->first);
      }
      const auto before = model.upper_bound(key);
      const Item* const back = tree.at_or_before(key);
      ASSERT_EQ(back != nullptr, before != model.begin());
      if (back != nullptr) {
        ASSERT_EQ(back->key, std::prev(before)->first);
      }
      std::uint64_t largest = 0;
      for (const auto& [k, item] : model) largest = std::max(largest, item->value);
      ASSERT_EQ(tree.root() == nullptr ? 0 : tree.root()->largest, largest);
    }
  }
}

TEST(OrderedTreeTest, SortedKeysMakeNoList) {
  Tree tree;
  tree.seed(42);
  std::vector<Item> items(100000);
  for (std::size_t i = 0; i < items.size(); ++i) {
    items[i].key = i;
    tree.insert(items[i]);
  }
  EXPECT_EQ(tree.validate(), 100000);
  EXPECT_LT(height(tree.root()), 60u);
  for (Item& item : items) tree.erase(item);
  EXPECT_EQ(tree.root(), nullptr);
}

TEST(OrderedTreeTest, EqualKeysMakeNoList) {
  Tree tree;
  tree.seed(42);
  std::vector<Item> items(100000);
  for (Item& item : items) {
    item.key = 7;
    tree.insert(item);
  }
  EXPECT_EQ(tree.validate(), 100000);
  EXPECT_LT(height(tree.root()), 60u);
  std::vector<Item*> order;
  for (Item& item : items) order.push_back(&item);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  for (Item* const item : order) tree.erase(*item);
  EXPECT_EQ(tree.root(), nullptr);
}

TEST(OrderedTreeTest, EqualPrioritiesAreInOrder) {
  Tree tree;
  tree.seed(1);
  std::vector<Item> items(7);
  for (Item& item : items) tree.insert(item);
  for (Item& item : items) item.links.priority = 5;
  EXPECT_EQ(tree.validate(), 7);
}

TEST(OrderedTreeTest, ShapeDependsOnTheSeed) {
  std::vector<Item> first(100), second(100);
  Tree one, other;
  one.seed(1);
  other.seed(2);
  for (std::size_t i = 0; i < 100; ++i) {
    first[i].key = second[i].key = i;
    one.insert(first[i]);
    other.insert(second[i]);
  }
  EXPECT_NE(one.root()->key, other.root()->key);
}

TEST(OrderedTreeTest, ValidateSeesAWrongOrderAndAWrongSummary) {
  Tree tree;
  tree.seed(3);
  std::vector<Item> items(50);
  for (std::size_t i = 0; i < items.size(); ++i) {
    items[i].key = i;
    items[i].value = i;
    tree.insert(items[i]);
  }
  ASSERT_EQ(tree.validate(), 50);
  items[20].key = 40;
  EXPECT_EQ(tree.validate(), -1);
  items[20].key = 20;
  items[20].value = 4000;
  EXPECT_EQ(tree.validate(), -1);
}

}  // namespace
}  // namespace exclave
