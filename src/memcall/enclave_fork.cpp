// fork() and the areas: the child finds them as they stood at one moment, without the locks, and
// without what MADV_DONTFORK and MADV_WIPEONFORK kept from it.
#include "memcall/enclave_core.hpp"

namespace exclave::core {

Status EnclaveCore::before_fork() noexcept {
  const std::uint32_t slot = current_thread_slot();
  if (slot >= kMaxThreadSlots) return Error::kTooManyThreads;
  if (inside_[slot].load(std::memory_order_relaxed) != 0) return Error::kReentered;
  inside_[slot].store(kLocked, std::memory_order_relaxed);
  bool waits = false;
  for (Backoff backoff;; wait_for_others(&backoff)) {
    lock_.lock_for_fork();
    if (under_way_ == 0) break;
    lock_.unlock_after_fork();
    if (!waits) forks_waiting_.fetch_add(1, std::memory_order_relaxed);
    waits = true;
  }
  if (waits) forks_waiting_.fetch_sub(1, std::memory_order_relaxed);
  return {};
}

void EnclaveCore::after_fork_in_parent() noexcept {
  lock_.unlock_after_fork();
  inside_[current_thread_slot()].store(0, std::memory_order_relaxed);
}

// Others may have been about to wait for the lock; they are not here any more.
void EnclaveCore::after_fork_in_child() noexcept {
  for (std::atomic<std::uint8_t>& inside : inside_) inside.store(0, std::memory_order_relaxed);
  forks_waiting_.store(0, std::memory_order_relaxed);
  lock_.unlock_after_fork();
  // As on Linux, a child has no locks on memory.
  future_traits_.store(0, std::memory_order_relaxed);
  const auto me = static_cast<Mark>(current_thread_slot() + 1);
  for (PageNumber at = 0; Area* const area = next_for_child(me, &at);) bring_to_child(me, *area);
}

// Unlocks the areas from the page on, up to the next one whose pages are not those of the parent:
// marked; or null. *at: behind it.
Area* EnclaveCore::next_for_child(Mark me, PageNumber* at) noexcept {
  const PageNumber end = run_of(options_.range).count;
  const Section section(*this, me);
  while (Area* const area = areas_.first_in({*at, end - *at})) {
    *at = area->run.end();
    const AreaKind kind = area->kind.unlocked();
    if (kind.has(AreaKind::kDontFork | AreaKind::kWipeOnFork)) {
      areas_.set_kind(*area, kind);
      area->in_call = me;
      ++under_way_;
      return area;
    }
    if (kind != area->kind) (void)areas_.settle(*area, kind);
  }
  return nullptr;
}

// What MADV_DONTFORK and MADV_WIPEONFORK said of the area. The page operations may have seen to it
// already when they were told of the advice, or may know nothing of forks.
void EnclaveCore::bring_to_child(Mark me, Area& area) noexcept {
  const bool stays = !area.kind.has(AreaKind::kDontFork);
  {
    const Work work(*this, me);
    const Extent place = extent_of(area.run);
    // Nobody could be told of an error.
    (void)(stays ? zero(place, area.kind) : drop(place));
  }
  const Section section(*this, me);
  --under_way_;
  if (stays) {
    (void)areas_.settle(area, area.kind);
  } else {
    areas_.remove(area);
  }
}

}  // namespace exclave::core
