// The steps of a free that grown memory and attached pools share.
#pragma once

#include "page/page_pool.hpp"
#include "region/registry.hpp"
#include "slab/slab.hpp"

namespace exclave {

// What a free got of the slot that it marked.
enum class Taking : std::uint8_t {
  kTaken,    // it was kLive, and is kRemote: this free's
  kKept,     // it was kPinned, and is what the caller asked for: the last unpin's
  kNotLive,  // it was free already
  kMoving,   // nothing: pins came and went at each try
};

// Takes a slot from its caller: kLive becomes kRemote, kPinned becomes `kept`. Anything else was
// free already. A failed exchange tells what it found, and that is looked at: a pin or an unpin
// may have come since the last look, and then the block was live all the time. Release pairs with
// the acquire of whoever takes the slot next: what the caller wrote about the block came before.
Taking try_take(std::atomic<SlotState>* state, SlotState kept, unsigned tries) noexcept;
// The same, and never kMoving, whenever the host lets the threads run that pin and unpin: pins
// change under the registry's lock.
Taking take_slot(Registry& registry, std::atomic<SlotState>* state, SlotState kept) noexcept;
Status status_of(Taking taking) noexcept;

// A block of pages. kept: by a pin, and the last unpin frees it. scrub: it is zeroed before anybody
// else can have it.
Status free_run(PagePool& pages, Region& region, std::uintptr_t block, bool scrub,
                bool* kept) noexcept;

}  // namespace exclave
