// Ranges that a device has registered or that an I/O in flight uses. Guarded by the registry's
// lock.
#pragma once

#include "base/ordered_tree.hpp"
#include "exclave/allocator.hpp"
#include "exclave/result.hpp"
#include "port/book_store.hpp"

namespace exclave {

struct Pin {
  TreeLinks<Pin> links{};
  Extent extent{};
  std::uintptr_t max_end = 0;  // of this subtree: finds overlaps in O(log n)
  std::uint32_t index = 0;
  bool whole_pool = false;
};

class PinTable {
 public:
  explicit PinTable(BookStore& books) noexcept : books_(books) {}
  void seed(std::uint64_t seed) noexcept { tree_.seed(seed); }

  // Errors: kOutOfTrustedMemory.
  Result<PinId> add(Extent extent) noexcept;
  // Of a pin just added: it is of a whole pool.
  void make_whole(PinId id) noexcept;
  // The pin as it was. Errors: kNotFound.
  Result<Pin> remove(PinId id) noexcept;
  // All pins that overlap the range, of whole pools, too. O(all pins that there ever were at once).
  void remove_in(Extent range) noexcept;
  // Does a pin of blocks or pages (not of a whole pool) overlap the range?
  bool overlaps(Extent range) const noexcept { return first_in(range) != nullptr; }
  std::size_t count() const noexcept { return count_; }
  bool validate() const noexcept { return tree_.validate() >= 0; }

 private:
  struct Traits {
    static TreeLinks<Pin>& links(Pin& pin) noexcept { return pin.links; }
    static std::uintptr_t key(const Pin& pin) noexcept { return pin.extent.base; }
    static std::uintptr_t max_end_of(const Pin& pin) noexcept;
    static void update(Pin& pin) noexcept { pin.max_end = max_end_of(pin); }
    static bool summary_holds(const Pin& pin) noexcept { return pin.max_end == max_end_of(pin); }
  };
  // A slot outlives its pins; the serial tells their ids apart.
  struct Slot {
    Pin* pin = nullptr;
    std::uint32_t serial = 0;
    std::uint32_t next_free = 0;
  };

  const Pin* first_in(Extent range) const noexcept;
  PinId id_of(const Pin& pin) const noexcept {
    return PinId{(std::uint64_t{slots_[pin.index].serial} << 32) | (pin.index + 1)};
  }
  bool grow() noexcept;

  BookStore& books_;
  OrderedTree<Pin, Traits> tree_;
  Slot* slots_ = nullptr;
  std::uint32_t slot_count_ = 0;
  std::uint32_t first_free_ = 0;  // index + 1
  std::size_t count_ = 0;
};

}  // namespace exclave
