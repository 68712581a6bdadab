#include "heap/free_steps.hpp"

#include "access/copy.hpp"
#include "base/spin_lock.hpp"

namespace exclave {

Taking try_take(std::atomic<SlotState>* state, SlotState kept, unsigned tries) noexcept {
  SlotState seen = SlotState::kLive;
  for (; tries != 0; --tries) {
    const bool pinned = seen == SlotState::kPinned;
    if (state->compare_exchange_strong(seen, pinned ? kept : SlotState::kRemote,
                                       std::memory_order_acq_rel)) {
      return pinned ? Taking::kKept : Taking::kTaken;
    }
    if (seen != SlotState::kLive && seen != SlotState::kPinned) return Taking::kNotLive;
  }
  return Taking::kMoving;
}

Taking take_slot(Registry& registry, std::atomic<SlotState>* state, SlotState kept) noexcept {
  constexpr unsigned kEither = 2;  // one try for a live block, one for a pinned one
  const Taking taking = try_take(state, kept, kEither);
  if (taking != Taking::kMoving) return taking;
  LockGuard guard(registry.lock());
  return try_take(state, kept, kEither);
}

Status status_of(Taking taking) noexcept {
  switch (taking) {
    case Taking::kNotLive:
      return Error::kDoubleFree;
    case Taking::kMoving:        // GCOVR_EXCL_LINE: a race
      return Error::kReentered;  // GCOVR_EXCL_LINE
    default:
      return {};
  }
}

Status free_run(PagePool& pages, Region& region, std::uintptr_t block, bool scrub,
                bool* kept) noexcept {
  if (!scrub) return pages.free_block(region, block, kept);
  // As long as it is scrubbed, it stands like one that a pin keeps: nobody has it.
  const Result<PageBlock> taken = pages.take_block(region, block);
  if (!taken.ok()) return taken.error();
  *kept = taken->pinned;
  if (*kept) return {};
  detail::fill_zero_bytes(block, taken->extent.size);
  return pages.free_unpinned_block(region, block);
}

}  // namespace exclave
