// A slab: whole units of one region, cut into equal slots for small blocks. Its book and one state
// byte for each slot lie in trusted memory; the slots themselves are never touched.
//
// The state byte is the whole truth about a slot: one compare against kLive tells a double free, a
// free of memory that was never handed out and a block already cached. The owning heap's thread
// writes states plainly; any other thread changes a state only by compare-and-swap away from kLive
// (or between the pinned states).
#pragma once

#include <atomic>
#include <cstdint>

#include "base/annotations.hpp"
#include "base/units.hpp"
#include "page/page_pool.hpp"
#include "port/book_store.hpp"
#include "slab/size_class.hpp"
#include "slab/slot_index.hpp"

namespace exclave {

enum class SlotState : std::uint8_t {
  kFree = 0,         // in the slab
  kLive = 1,         // held by the caller
  kCached = 2,       // on the owner's stack
  kRemote = 3,       // freed by another thread; on its way to the owner in a batch
  kDeferred = 4,     // freed in a nested call; the owner finds it by sweeping
  kPinned = 5,       // live, and pinned
  kPinnedFreed = 6,  // freed while pinned
  kPinnedTaken = 7,  // pinned; a free of another thread looks whether this is still its block
  kNone = 255,       // padding: no slot
};

// A free slot on a stack: the block, and where its state stands.
struct FreeSlot {
  std::uintptr_t block;
  std::atomic<SlotState>* state;
};

struct Slab {
  static constexpr std::uint32_t kNoSlot = UINT32_MAX;

  // ---- Read without a lock by frees; fixed while the slab stands ----
  std::atomic<std::uintptr_t> base{0};
  std::atomic<std::uint64_t> reciprocal{0};  // 2^64 / slot_bytes, rounded up
  // The heap; 0: the slab is gone. Release when written, acquire when read.
  std::atomic<BookRef> owner{0};
  std::atomic<std::uint32_t> slot_bytes{0};
  std::atomic<std::uint16_t> slots{0};
  std::atomic<SizeClass> size_class{0};
  // ---- The owner's ----
  bool listed_full = false;
  std::uint16_t free_slots = 0;  // slots in state kFree
  std::uint16_t hint = 0;        // where the search for one starts
  BookRef region = 0;
  std::atomic<std::uint32_t> pages{0};
  BookRef next = 0, prev = 0;  // the heap's list

  std::atomic<SlotState>* states() noexcept {
    return reinterpret_cast<std::atomic<SlotState>*>(this + 1);
  }
  const std::atomic<SlotState>* states() const noexcept {
    return reinterpret_cast<const std::atomic<SlotState>*>(this + 1);
  }
  static constexpr std::size_t book_bytes(std::uint32_t slots) noexcept {
    return sizeof(Slab) + states_for(slots);
  }

  // The state of the slot that starts exactly here; false if none does. Precondition: the address
  // lies in the slab, and this thread keeps the slab from changing. What is left over behind the
  // last slot has a state, too: kNone.
  [[gnu::always_inline]] bool find_state(std::uintptr_t address,
                                         std::atomic<SlotState>** state) noexcept {
    const std::uint64_t offset = address - base.load(std::memory_order_relaxed);
    const std::uint64_t inverse = reciprocal.load(std::memory_order_relaxed);
    const Uint128 product = multiply_wide(offset, inverse);
    if (EXCLAVE_UNLIKELY(!starts_slot(product, inverse))) return false;
    *state = &states()[slot_of(product)];
    return true;
  }

  // Which slot starts exactly here; kNoSlot if none does. Safe on a book that is being reused.
  std::uint32_t slot_at(std::uintptr_t address) const noexcept {
    const std::uint64_t offset = address - base.load(std::memory_order_relaxed);
    const std::uint64_t slot =
        slot_of(multiply_wide(offset, reciprocal.load(std::memory_order_relaxed)));
    if (EXCLAVE_UNLIKELY(!is_slot_at(slot, offset, slots.load(std::memory_order_relaxed),
                                     slot_bytes.load(std::memory_order_relaxed)))) {
      return kNoSlot;
    }
    return static_cast<std::uint32_t>(slot);
  }

  std::uintptr_t block_at(std::uint32_t slot) const noexcept {
    return base.load(std::memory_order_relaxed) +
           std::uint64_t{slot} * slot_bytes.load(std::memory_order_relaxed);
  }
  Extent extent() const noexcept {
    return {base.load(std::memory_order_relaxed),
            std::size_t{pages.load(std::memory_order_relaxed)} * kPageBytes};
  }

  // Fills in the book of a new slab; every slot is free.
  void open(const PageRun& run, BookRef region_ref, SizeClass c, BookRef owning_heap) noexcept;
  // Moves up to `want` free slots to `out`, marked kCached. The owner's.
  std::uint32_t take(FreeSlot* out, std::uint32_t want) noexcept;
  // How many slots are in the state, as far as can be seen now.
  std::uint32_t count(SlotState state) const noexcept;
};

static_assert(sizeof(Slab) == 48, "the first states share its line: small slabs are one line");

static_assert(sizeof(std::atomic<SlotState>) == 1 && std::atomic<SlotState>::is_always_lock_free);

// Slots that fit a run of these bytes.
constexpr std::uint32_t slots_in(std::size_t run_bytes, SizeClass c) noexcept {
  return static_cast<std::uint32_t>(run_bytes / size_class_bytes(c));
}

}  // namespace exclave
