// An intrusive treap: nodes in key order, those with one key in the order of their addresses; O(log
// n) expected, however hostile the keys, because the priorities come from trusted randomness. Nodes
// may carry a summary of their subtree (Traits::update).
#pragma once

#include <cstdint>

#include "base/check.hpp"

namespace exclave {

template <class Node>
struct TreeLinks {
  Node* left = nullptr;
  Node* right = nullptr;
  std::uint64_t priority = 0;
};

// Traits: static TreeLinks<Node>& links(Node&); static std::uintptr_t key(const Node&); static void
// update(Node&).
template <class Node, class Traits>
class OrderedTree {
 public:
  void seed(std::uint64_t seed) noexcept { state_ = seed; }
  Node* root() const noexcept { return root_; }

  void insert(Node& node) noexcept {
    TreeLinks<Node>& links = Traits::links(node);
    links = {nullptr, nullptr, next_priority()};
    insert_at(root_, node);
  }

  // Precondition: the node is in the tree, under its present key.
  void erase(Node& node) noexcept { erase_at(root_, node); }

  // What update() calculates from the node itself changed; or its key, but not the order.
  // Precondition: the node is in the tree, and no other has its key.
  void refresh(Node& node) noexcept { refresh_at(root_, node); }

  // The last node whose key is at most `key`, or null.
  Node* at_or_before(std::uintptr_t key) const noexcept {
    Node* best = nullptr;
    for (Node* n = root_; n != nullptr;) {
      if (Traits::key(*n) <= key) {
        best = n;
        n = Traits::links(*n).right;
      } else {
        n = Traits::links(*n).left;
      }
    }
    return best;
  }
  // The first node whose key is at least `key`, or null.
  Node* at_or_after(std::uintptr_t key) const noexcept {
    Node* best = nullptr;
    for (Node* n = root_; n != nullptr;) {
      if (Traits::key(*n) >= key) {
        best = n;
        n = Traits::links(*n).left;
      } else {
        n = Traits::links(*n).right;
      }
    }
    return best;
  }

  // Order, heap property and summaries of every node; returns the number of nodes, or -1.
  std::int64_t validate() const noexcept { return validate_at(root_, 0, UINTPTR_MAX, UINT64_MAX); }

 private:
  std::uint64_t next_priority() noexcept {
    // splitmix64: the seed is secret, so the shape of the tree cannot be steered.
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) >> 1;
  }

  // A total order: equal keys on one side only would make a list.
  static bool comes_before(const Node& a, const Node& b) noexcept {
    if (Traits::key(a) != Traits::key(b)) return Traits::key(a) < Traits::key(b);
    return reinterpret_cast<std::uintptr_t>(&a) < reinterpret_cast<std::uintptr_t>(&b);
  }

  void insert_at(Node*& where, Node& node) noexcept {
    if (where == nullptr) {
      where = &node;
    } else if (Traits::links(node).priority > Traits::links(*where).priority) {
      split(where, node, Traits::links(node).left, Traits::links(node).right);
      where = &node;
    } else if (comes_before(node, *where)) {
      insert_at(Traits::links(*where).left, node);
    } else {
      insert_at(Traits::links(*where).right, node);
    }
    Traits::update(*where);
  }

  // Everything before `node` to low, the rest to high.
  void split(Node* tree, const Node& node, Node*& low, Node*& high) noexcept {
    if (tree == nullptr) {
      low = high = nullptr;
      return;
    }
    TreeLinks<Node>& links = Traits::links(*tree);
    Node* rest = nullptr;
    if (comes_before(*tree, node)) {
      split(links.right, node, rest, high);
      links.right = rest;
      low = tree;
    } else {
      split(links.left, node, low, rest);
      links.left = rest;
      high = tree;
    }
    Traits::update(*tree);
  }

  Node* merge(Node* low, Node* high) noexcept {
    if (low == nullptr) return high;
    if (high == nullptr) return low;
    Node* top = nullptr;
    if (Traits::links(*low).priority > Traits::links(*high).priority) {
      Traits::links(*low).right = merge(Traits::links(*low).right, high);
      top = low;
    } else {
      Traits::links(*high).left = merge(low, Traits::links(*high).left);
      top = high;
    }
    Traits::update(*top);
    return top;
  }

  void erase_at(Node*& where, Node& node) noexcept {
    EXCLAVE_CHECK(where != nullptr);
    if (where == &node) {
      where = merge(Traits::links(node).left, Traits::links(node).right);
      return;
    }
    TreeLinks<Node>& links = Traits::links(*where);
    erase_at(comes_before(node, *where) ? links.left : links.right, node);
    Traits::update(*where);
  }

  void refresh_at(Node* where, Node& node) noexcept {
    EXCLAVE_CHECK(where != nullptr);
    if (where != &node) {
      TreeLinks<Node>& links = Traits::links(*where);
      refresh_at(comes_before(node, *where) ? links.left : links.right, node);
    }
    Traits::update(*where);
  }

  std::int64_t validate_at(Node* n, std::uintptr_t low, std::uintptr_t high,
                           std::uint64_t priority) const noexcept {
    if (n == nullptr) return 0;
    const TreeLinks<Node>& links = Traits::links(*n);
    const std::uintptr_t key = Traits::key(*n);
    // GCOVR_EXCL_BR_START: no tree of ours is out of order
    if (key < low || key > high || links.priority > priority || !Traits::summary_holds(*n))
      return -1;  // GCOVR_EXCL_LINE: as above
    const std::int64_t left = validate_at(links.left, low, key, links.priority);
    const std::int64_t right = validate_at(links.right, key, high, links.priority);
    return left < 0 || right < 0 ? -1 : left + right + 1;
    // GCOVR_EXCL_BR_STOP
  }

  Node* root_ = nullptr;
  std::uint64_t state_ = 0;
};

}  // namespace exclave
