// The debug build's guard over lock order and host calls.
#include <atomic>

#include "base/spin_lock.hpp"
#include "port/thread_slot.hpp"

#if !defined(NDEBUG)
namespace exclave {
namespace {

// One byte for each thread slot; a thread without one is not audited. Only its own thread touches a
// byte.
std::atomic<std::uint8_t> held[kMaxThreadSlots];

std::atomic<std::uint8_t>* mine() noexcept {
  const std::uint32_t slot = current_thread_slot();
  return slot < kMaxThreadSlots ? &held[slot] : nullptr;
}

}  // namespace

void note_lock(LockRank rank) noexcept {
  std::atomic<std::uint8_t>* ranks = mine();
  if (ranks == nullptr) return;
  const unsigned bit = 1u << static_cast<unsigned>(rank);
  const unsigned before = ranks->load(std::memory_order_relaxed);
  EXCLAVE_CHECK(before < bit);  // ascending order, none twice
  ranks->store(static_cast<std::uint8_t>(before | bit), std::memory_order_relaxed);
}

void note_unlock(LockRank rank) noexcept {
  std::atomic<std::uint8_t>* ranks = mine();
  if (ranks == nullptr) return;
  const unsigned bit = 1u << static_cast<unsigned>(rank);
  ranks->store(static_cast<std::uint8_t>(ranks->load(std::memory_order_relaxed) & ~bit),
               std::memory_order_relaxed);
}

void forget_other_threads_locks() noexcept {
  for (std::atomic<std::uint8_t>& ranks : held) ranks.store(0, std::memory_order_relaxed);
}

void forget_own_locks() noexcept {
  std::atomic<std::uint8_t>* const ranks = mine();
  EXCLAVE_CHECK(ranks != nullptr);  // it is inside a call
  ranks->store(0, std::memory_order_relaxed);
}

void check_no_lock_held() noexcept {
  std::atomic<std::uint8_t>* ranks = mine();
  EXCLAVE_CHECK(ranks == nullptr || ranks->load(std::memory_order_relaxed) == 0);
}

}  // namespace exclave
#endif
