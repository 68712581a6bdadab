// The state of a slot is looked at, and may be made what another stopped call would make it.
#pragma once

#include <atomic>
#include <cstdint>

#include "heap/core.hpp"
#include "support/fake_allocator.hpp"

namespace exclave::testing_support {

class StateTest : public FakeAllocatorTest {
 protected:
  Slab& slab_around(std::uintptr_t block) {
    const UnitEntry entry = allocator_->core()->registry().find(block)->unit_of(block)->load();
    return *slab_of<Slab>(BookView(port_.book_window().base), entry);
  }
  std::atomic<SlotState>* state_of(std::uintptr_t block) {
    Slab& slab = slab_around(block);
    return &slab.states()[slab.slot_at(block)];
  }
};

}  // namespace exclave::testing_support
