// A sorted list of disjoint ranges, each with what its owner wants to know of it. For the port's
// own small books: changes are O(n) moves, look-ups O(log n). Memory is asked for ahead, by
// ensure_room, so that nothing else can fail.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace exclave::process {

// Piece: trivially copyable, with an unsigned `base` and `size` whose sum does not wrap.
template <class Piece>
class PieceList {
  static_assert(std::is_trivially_copyable_v<Piece>);

 public:
  PieceList() noexcept = default;
  ~PieceList() { std::free(pieces_); }
  PieceList(const PieceList&) = delete;
  PieceList& operator=(const PieceList&) = delete;

  std::size_t count() const noexcept { return count_; }
  Piece& operator[](std::size_t index) noexcept {
    assert(index < count_);
    return pieces_[index];
  }

  // false: out of memory, and nothing changed.
  bool ensure_room(std::size_t more) noexcept {
    if (capacity_ - count_ >= more) return true;
    const std::size_t wanted = 2 * (count_ + more) + 16;
    auto* const grown = static_cast<Piece*>(std::realloc(pieces_, wanted * sizeof(Piece)));
    if (grown == nullptr) return false;
    pieces_ = grown;
    capacity_ = wanted;
    return true;
  }

  // The first piece that ends above the address; count() if there is none.
  std::size_t first_ending_above(std::uint64_t address) const noexcept {
    std::size_t low = 0;
    std::size_t high = count_;
    while (low < high) {
      const std::size_t middle = low + (high - low) / 2;
      if (pieces_[middle].base + pieces_[middle].size > address) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  // Needs room. The piece must fit between its neighbours.
  void insert(std::size_t index, const Piece& piece) noexcept {
    std::memmove(pieces_ + index + 1, pieces_ + index, (count_ - index) * sizeof(Piece));
    pieces_[index] = piece;
    ++count_;
  }

  void erase(std::size_t index) noexcept {
    --count_;
    std::memmove(pieces_ + index, pieces_ + index + 1, (count_ - index) * sizeof(Piece));
  }

 private:
  Piece* pieces_ = nullptr;
  std::size_t count_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace exclave::process
