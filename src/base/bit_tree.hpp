// A set of integers as bits with summary words above them: insert, erase and find in O(log64 n), a
// few cache lines. The words lie in storage that the owner supplies, zero-filled.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bits.hpp"

namespace exclave {

class BitTree {
 public:
  static constexpr std::uint64_t kNone = UINT64_MAX;

  // Words that a set of `bits` members needs, summaries included.
  static constexpr std::size_t words_for(std::uint64_t bits) noexcept {
    std::size_t total = 0;
    do {
      bits = ceil_div(bits, 64);
      total += bits;
    } while (bits > 1);
    return total;
  }

  constexpr BitTree() noexcept = default;
  // Precondition: words_for(bits) zero-filled words, bits >= 1.
  BitTree(std::uint64_t* words, std::uint64_t bits) noexcept : words_(words), bits_(bits) {}

  bool contains(std::uint64_t i) const noexcept { return (words_[i / 64] >> (i % 64)) & 1; }

  void insert(std::uint64_t i) noexcept {
    std::uint64_t* level = words_;
    for (std::uint64_t n = ceil_div(bits_, 64);; n = ceil_div(n, 64)) {
      std::uint64_t& word = level[i / 64];
      const std::uint64_t before = word;
      word |= std::uint64_t{1} << (i % 64);
      if (before != 0 || n == 1) return;
      level += n;
      i /= 64;
    }
  }

  void erase(std::uint64_t i) noexcept {
    std::uint64_t* level = words_;
    for (std::uint64_t n = ceil_div(bits_, 64);; n = ceil_div(n, 64)) {
      std::uint64_t& word = level[i / 64];
      word &= ~(std::uint64_t{1} << (i % 64));
      if (word != 0 || n == 1) return;
      level += n;
      i /= 64;
    }
  }

  // The least member that is at least `from`, or kNone.
  std::uint64_t find(std::uint64_t from) const noexcept {
    if (from >= bits_) return kNone;
    const std::uint64_t* starts[6];
    unsigned depth = 0;
    const std::uint64_t* level = words_;
    // Climb until a word has a member at or after the position, then descend by the lowest bit.
    for (std::uint64_t n = ceil_div(bits_, 64), i = from;; n = ceil_div(n, 64)) {
      starts[depth] = level;
      if (i / 64 < n) {
        const std::uint64_t word = level[i / 64] & (~std::uint64_t{0} << (i % 64));
        if (word != 0) {
          std::uint64_t found = (i & ~std::uint64_t{63}) + lowest_bit(word);
          while (depth > 0) found = found * 64 + lowest_bit(starts[--depth][found]);
          return found;
        }
      }
      if (n == 1) return kNone;
      level += n;
      i = i / 64 + 1;
      ++depth;
    }
  }

  // The greatest member that is at most `from`, or kNone. Precondition: from < bits.
  std::uint64_t find_back(std::uint64_t from) const noexcept {
    const std::uint64_t* starts[6];
    unsigned depth = 0;
    const std::uint64_t* level = words_;
    for (std::uint64_t n = ceil_div(bits_, 64), i = from;; n = ceil_div(n, 64)) {
      starts[depth] = level;
      const std::uint64_t word = level[i / 64] & (~std::uint64_t{0} >> (63 - i % 64));
      if (word != 0) {
        std::uint64_t found = (i & ~std::uint64_t{63}) + floor_log2(word);
        while (depth > 0) found = found * 64 + floor_log2(starts[--depth][found]);
        return found;
      }
      if (i < 64) return kNone;
      level += n;
      i = i / 64 - 1;
      ++depth;
    }
  }

  bool empty() const noexcept { return find(0) == kNone; }

 private:
  std::uint64_t* words_ = nullptr;
  std::uint64_t bits_ = 0;
};

}  // namespace exclave
