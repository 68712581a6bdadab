#include "slab/slab.hpp"

namespace exclave {
namespace {

constexpr std::uint32_t kWord = sizeof(std::uint64_t);

constexpr std::uint64_t kAllFree = 0;
constexpr std::uint64_t kAllCached =
    0x0101010101010101u * static_cast<unsigned>(SlotState::kCached);

}  // namespace

void Slab::open(const PageRun& run, BookRef region_ref, SizeClass c, BookRef owning_heap) noexcept {
  const std::uint32_t bytes = size_class_bytes(c);
  const std::uint32_t count = slots_in(run.extent.size, c);
  base.store(run.extent.base, std::memory_order_relaxed);
  slot_bytes.store(bytes, std::memory_order_relaxed);
  reciprocal.store(slot_reciprocal(bytes), std::memory_order_relaxed);
  slots.store(static_cast<std::uint16_t>(count), std::memory_order_relaxed);
  size_class.store(c, std::memory_order_relaxed);
  free_slots = static_cast<std::uint16_t>(count);
  hint = 0;
  region = region_ref;
  pages.store(static_cast<std::uint32_t>(run.extent.size / kPageBytes), std::memory_order_relaxed);
  next = prev = 0;
  listed_full = false;
  // The book came zeroed: every state is kFree. What lies past the last slot is none.
  for (std::uint32_t i = count; i < states_for(count); ++i)
    states()[i].store(SlotState::kNone, std::memory_order_relaxed);
  owner.store(owning_heap, std::memory_order_release);
}

// Release: in an attached pool a thread with a hint that is out of date may take the slot from
// here, and what its last holder did to the block came before.
std::uint32_t Slab::take(FreeSlot* out, std::uint32_t want) noexcept {
  const std::uint32_t words =
      static_cast<std::uint32_t>(ceil_div(slots.load(std::memory_order_relaxed), kWord));
  std::uint64_t* const states_by_eight = reinterpret_cast<std::uint64_t*>(states());
  if (want > free_slots) want = free_slots;
  std::uint32_t taken = 0;
  std::uint32_t word = hint;
  while (taken < want) {
    if (word == words) word = 0;
    const std::uint64_t eight = __atomic_load_n(&states_by_eight[word], __ATOMIC_RELAXED);
    if (eight == kAllFree && want - taken >= kWord) {
      __atomic_store_n(&states_by_eight[word], kAllCached, __ATOMIC_RELEASE);
      const std::uintptr_t first = block_at(word * kWord);
      const std::uint32_t step = slot_bytes.load(std::memory_order_relaxed);
      for (std::uint32_t i = 0; i < kWord; ++i)
        out[taken + i] = {first + std::uintptr_t{i} * step, &states()[word * kWord + i]};
      taken += kWord;
      ++word;
      continue;
    }
    if (any_zero_byte(eight) == 0) {
      ++word;
      continue;
    }
    for (std::uint32_t slot = word * kWord; slot < (word + 1) * kWord && taken < want; ++slot) {
      if (states()[slot].load(std::memory_order_relaxed) != SlotState::kFree) continue;
      states()[slot].store(SlotState::kCached, std::memory_order_release);
      out[taken++] = {block_at(slot), &states()[slot]};
    }
  }
  hint = static_cast<std::uint16_t>(word);
  free_slots = static_cast<std::uint16_t>(free_slots - taken);
  return taken;
}

std::uint32_t Slab::count(SlotState state) const noexcept {
  std::uint32_t n = 0;
  for (std::uint32_t i = 0; i < slots.load(std::memory_order_relaxed); ++i) {
    n += states()[i].load(std::memory_order_relaxed) == state;
  }
  return n;
}

}  // namespace exclave
