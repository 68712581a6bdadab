// Slots and their states.
#include "slab/slab.hpp"

#include <random>
#include <set>
#include <vector>

#include "support/books_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;

constexpr std::uintptr_t kBase = 0x200000000000;

class SlabTest : public BooksFixture {
 protected:
  Slab& make(SizeClass c, std::size_t bytes, std::uintptr_t base = kBase) {
    const std::size_t book = Slab::book_bytes(slots_in(bytes, c));
    Slab* const slab = static_cast<Slab*>(books_.allocate(BookKind::kSlab, book));
    EXPECT_NE(slab, nullptr);
    slab->open(PageRun{nullptr, {base, bytes}}, 5, c, 9);
    return *slab;
  }
};

TEST_F(SlabTest, OpenFillsInTheBook) {
  Slab& slab = make(3, 4 * kUnitBytes);
  EXPECT_EQ(slab.slots, 1024u);
  EXPECT_EQ(slab.slot_bytes, 64u);
  EXPECT_EQ(slab.free_slots, 1024u);
  EXPECT_EQ(slab.owner, 9u);
  EXPECT_EQ(slab.region, 5u);
  EXPECT_EQ(slab.extent(), (Extent{kBase, 4 * kUnitBytes}));
  EXPECT_EQ(slab.count(SlotState::kFree), 1024u);
  EXPECT_EQ(slab.count(SlotState::kLive), 0u);
}

TEST_F(SlabTest, EveryAddressOfEveryClassIsASlotExactlyWhereOneStarts) {
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    for (const std::size_t bytes : {std::size_t{kPageBytes}, slab_units(c, 4) * kUnitBytes}) {
      if (slots_in(bytes, c) == 0) continue;
      Slab& slab = make(c, bytes);
      std::uint32_t expected = 0;
      for (std::uintptr_t at = kBase; at < kBase + bytes; ++at) {
        const bool start =
            expected < slab.slots && at == kBase + std::uintptr_t{expected} * size_class_bytes(c);
        const std::uint32_t slot = slab.slot_at(at);
        if (start) {
          ASSERT_EQ(slot, expected);
          ASSERT_EQ(slab.block_at(slot), at);
          ++expected;
        } else {
          ASSERT_EQ(slot, Slab::kNoSlot) << "class " << int{c} << " at " << at - kBase;
        }
      }
      ASSERT_EQ(expected, slab.slots);
      books_.release(BookKind::kSlab, &slab, Slab::book_bytes(slots_in(bytes, c)));
    }
  }
}

// The one multiplication of the fast path says the same as the careful look, in a slab of every
// class and number of units, at every byte: at a start the slot's state, elsewhere none, and behind
// the last slot a state that is none.
TEST_F(SlabTest, FindStateAgreesWithSlotAtAtEveryByte) {
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    for (std::uint64_t units = 1; units <= slab_units(c, 4); units *= 2) {
      const std::size_t bytes = units * kUnitBytes;
      if (slots_in(bytes, c) == 0) continue;
      Slab& slab = make(c, bytes);
      for (std::uintptr_t at = kBase; at < kBase + bytes; ++at) {
        const std::uint32_t slot = slab.slot_at(at);
        std::atomic<SlotState>* state = nullptr;
        if (!slab.find_state(at, &state)) {
          ASSERT_EQ(slot, Slab::kNoSlot) << "class " << int{c} << " at " << at - kBase;
        } else if (slot != Slab::kNoSlot) {
          ASSERT_EQ(state, &slab.states()[slot]);
        } else {
          ASSERT_EQ(state, &slab.states()[slab.slots]) << "class " << int{c};
          ASSERT_EQ(*state, SlotState::kNone) << "class " << int{c} << " at " << at - kBase;
        }
      }
      books_.release(BookKind::kSlab, &slab, Slab::book_bytes(slots_in(bytes, c)));
    }
  }
}

// All of the states that take() and find_state may look at are there, and no slot's neighbour is
// taken for one.
TEST_F(SlabTest, WhatPadsTheStatesIsNoSlot) {
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    const std::size_t bytes = slab_units(c, 0) * kUnitBytes;
    Slab& slab = make(c, bytes);
    const std::uint32_t slots = slab.slots;
    const std::uint32_t states = static_cast<std::uint32_t>(Slab::book_bytes(slots) - sizeof(Slab));
    ASSERT_GT(states, slots);
    for (std::uint32_t i = slots; i < states; ++i) ASSERT_EQ(slab.states()[i], SlotState::kNone);
    std::vector<FreeSlot> out(states);
    ASSERT_EQ(slab.take(out.data(), states), slots);
    for (std::uint32_t i = slots; i < states; ++i) ASSERT_EQ(slab.states()[i], SlotState::kNone);
  }
}

TEST_F(SlabTest, WildAddressesAreNoSlots) {
  std::mt19937_64 random(2);
  for (const SizeClass c : {SizeClass{0}, SizeClass{8}, SizeClass{37}, SizeClass{70},
                            static_cast<SizeClass>(kSizeClasses - 1)}) {
    const std::size_t bytes = slab_units(c, 4) * kUnitBytes;
    Slab& slab = make(c, bytes);
    for (const std::uintptr_t at : {std::uintptr_t{0}, kBase - 1, kBase + bytes, UINTPTR_MAX,
                                    kBase + (std::uintptr_t{1} << 32), kBase - slab.slot_bytes}) {
      EXPECT_EQ(slab.slot_at(at), Slab::kNoSlot) << std::hex << at;
    }
    for (int i = 0; i < 200000; ++i) {
      const std::uintptr_t at = random() >> (random() % 40);
      if (at >= kBase && at < kBase + bytes) continue;
      ASSERT_EQ(slab.slot_at(at), Slab::kNoSlot) << std::hex << at;
      // Multiples of the slot size, far away.
      const std::uintptr_t far = kBase + random() % (std::uintptr_t{1} << 40) * slab.slot_bytes;
      if (far - kBase >= bytes) {
        ASSERT_EQ(slab.slot_at(far), Slab::kNoSlot) << std::hex << far;
      }
    }
  }
}

TEST_F(SlabTest, ABookThatWasGivenBackHasNoSlots) {
  Slab& slab = make(3, 4 * kUnitBytes);
  books_.release(BookKind::kSlab, &slab, Slab::book_bytes(1024));
  EXPECT_EQ(slab.owner, 0u);
  for (const std::uintptr_t at : {kBase, kBase + 64, std::uintptr_t{0}}) {
    EXPECT_EQ(slab.slot_at(at), Slab::kNoSlot);
  }
}

TEST_F(SlabTest, TakeGivesEachSlotOnce) {
  for (const SizeClass c : {SizeClass{0}, SizeClass{11}, SizeClass{60}}) {
    const std::size_t bytes = slab_units(c, 4) * kUnitBytes;
    Slab& slab = make(c, bytes);
    std::set<std::uintptr_t> blocks;
    std::vector<FreeSlot> out(100);
    while (const std::uint32_t n = slab.take(out.data(), 37)) {
      ASSERT_LE(n, 37u);
      for (std::uint32_t i = 0; i < n; ++i) {
        EXPECT_TRUE(blocks.insert(out[i].block).second);
        EXPECT_EQ(*out[i].state, SlotState::kCached);
        EXPECT_NE(slab.slot_at(out[i].block), Slab::kNoSlot);
        EXPECT_EQ(out[i].state, &slab.states()[slab.slot_at(out[i].block)]);
      }
    }
    EXPECT_EQ(blocks.size(), slab.slots);
    EXPECT_EQ(slab.free_slots, 0u);
    EXPECT_EQ(slab.count(SlotState::kFree), 0u);
  }
}

TEST_F(SlabTest, TakeWritesNoMoreThanItIsAskedFor) {
  for (std::uint32_t want = 1; want <= 33; ++want) {
    Slab& slab = make(0, kUnitBytes);
    std::vector<FreeSlot> out(want + 1, FreeSlot{7, nullptr});
    EXPECT_EQ(slab.take(out.data(), want), want);
    EXPECT_EQ(out[want].block, 7u) << want;
  }
}

TEST_F(SlabTest, TakeFindsTheFewFreeSlotsWhereverTheyAre) {
  Slab& slab = make(2, kUnitBytes);
  std::vector<FreeSlot> all(slab.slots);
  ASSERT_EQ(slab.take(all.data(), slab.slots), all.size());
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    std::set<std::uintptr_t> given;
    for (int i = 0; i < 1 + round % 9; ++i) {
      const FreeSlot& slot = all[random() % all.size()];
      if (!given.insert(slot.block).second) continue;
      slot.state->store(SlotState::kFree);
      slab.free_slots = static_cast<std::uint16_t>(slab.free_slots + 1);
    }
    std::vector<FreeSlot> out(16);
    const std::uint32_t n = slab.take(out.data(), 16);
    ASSERT_EQ(n, given.size());
    for (std::uint32_t i = 0; i < n; ++i) EXPECT_EQ(given.count(out[i].block), 1u);
  }
}

}  // namespace
}  // namespace exclave
