// The door of an attached pool: whatever the library itself does to bytes of the pool, without the
// pool's lock, it does behind the door.
//
// The library zeroes, copies and scrubs blocks. Detach promises that none of this is under way once
// it has answered. So it shuts the door first, waits until nobody is behind it, and only then takes
// the pool out of the books. Who zeroes or copies enters again for each piece, so the wait is short
// however long the block is.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "exclave/types.hpp"

namespace exclave {

class Door {
 public:
  // The most that is zeroed or copied between an enter and its leave.
  static constexpr std::size_t kPieceBytes = std::size_t{64} << 10;

  // Takes no lock, so a signal handler may call it. False: that pool is gone, or goes; nothing of
  // it may be touched.
  [[nodiscard]] bool enter(RegionId id) noexcept {
    enter_held();
    // Sequentially consistent like shut, which stores first and looks then: one of the two sees the
    // other. Pairs with open: the pool stands.
    if (open_for_.load(std::memory_order_seq_cst) == id.value) return true;
    leave();
    return false;
  }
  // The same where the pool cannot go meanwhile, because something else holds it: its lock, or a
  // pin and the registry's lock.
  void enter_held() noexcept { inside_.fetch_add(1, std::memory_order_seq_cst); }
  // Pairs with the load in shut: the bytes were touched before.
  void leave() noexcept { inside_.fetch_sub(1, std::memory_order_seq_cst); }

  // ---- Under the pool's lock ----

  void open(RegionId id) noexcept { open_for_.store(id.value, std::memory_order_seq_cst); }
  // Nobody enters any more. False: somebody is still inside.
  [[nodiscard]] bool shut() noexcept {
    open_for_.store(kShut, std::memory_order_seq_cst);
    return inside_.load(std::memory_order_seq_cst) == 0;
  }
  // In the child of a fork: who was inside is not there.
  void empty() noexcept { inside_.store(0, std::memory_order_relaxed); }

 private:
  static constexpr std::uint64_t kShut = ~std::uint64_t{0};  // no region's id

  std::atomic<std::uint64_t> open_for_{kShut};
  // Also, for a moment, those that find it shut.
  std::atomic<std::uint32_t> inside_{0};
};

}  // namespace exclave
