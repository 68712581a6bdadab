// A free that the host stops after any one of its instructions, while another thread changes what
// stands at the address. THREATS 41: the second look that each free takes, without luck.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "heap/core.hpp"
#include "support/fake_allocator.hpp"
#include "support/sanitizers.hpp"
#include "support/stepped_call.hpp"
#include "support/worker.hpp"

namespace exclave {
namespace {

using namespace testing_support;

// What the owner makes of the slab while the stale free is stopped.
enum class Cut {
  kElsewhere,  // the book goes to a slab in another place; another slab stands here
  kAnew,       // the same book, the same place, other slots
};

class StoppedFreeTest : public FakeAllocatorTest,
                        public testing::WithParamInterface<std::tuple<Cut, std::size_t, bool>> {
 protected:
  // Of slots in 64 KiB. The books of the first two kinds of slabs are of one size, that of the
  // third is smaller.
  static constexpr std::size_t kSize = 5120;
  static constexpr std::size_t kOtherSize = 6144;
  static constexpr std::size_t kSizeWithSmallerBook = 12288;

  void SetUp() override {
    FakeAllocatorTest::SetUp();
    if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
    cut_ = std::get<0>(GetParam());
    slot_ = std::get<1>(GetParam());
    nested_ = std::get<2>(GetParam());
    keeps_region_ = FakeAllocatorTest::allocate(64);
  }
  void TearDown() override {
    if (keeps_region_ != 0) EXPECT_EQ(FakeAllocatorTest::free(keeps_region_), Error::kNone);
    FakeAllocatorTest::TearDown();
  }

  std::vector<std::uintptr_t> fill(std::size_t size, std::size_t count) {
    std::vector<std::uintptr_t> blocks;
    for (std::size_t i = 0; i < count; ++i) blocks.push_back(allocate(size));
    return blocks;
  }
  std::atomic<SlotState>* state_of(std::uintptr_t block) {
    const UnitEntry entry = allocator_->core()->registry().find(block)->unit_of(block)->load();
    Slab* const slab = slab_of<Slab>(BookView(port_.book_window().base), entry);
    return &slab->states()[slab->slot_at(block)];
  }

  Cut cut_ = Cut::kElsewhere;
  std::size_t slot_ = 0;
  bool nested_ = false;
  std::uintptr_t keeps_region_ = 0;
};

// The free finds its slot, then its owner frees the block, too, and the mark comes to stand on
// another one: that one stays live.
TEST_P(StoppedFreeTest, Threat41AMarkOnAnotherBlockIsTakenOff) {
  const SteppedCall stepper;
  Worker owner;
  unsigned marks = 0;
  bool first = false;
  bool more = true;
  for (std::uint64_t n = 1; more && !first && !HasFailure(); n += kStride) {
    // Whether the owner of the other block frees it before the mark is off: it saw the block live.
    for (const bool owner_frees_too : {false, true}) {
      std::uintptr_t stale = 0;
      std::vector<std::uintptr_t> old, now;
      std::atomic<SlotState>* state = nullptr;
      owner.run([&] {
        old = fill(kSize, slot_ + 1);
        stale = old[slot_];
        state = state_of(stale);
      });
      bool recycled = false;
      bool marked = false;
      int steps = 0;
      const auto recycle = [&] {
        first = free(stale) != Error::kNone;  // the stopped one
        if (first) return;
        for (const std::uintptr_t block : old) {
          if (block != stale) EXPECT_EQ(free(block), Error::kNone);
        }
        allocator_->flush_thread();
        if (cut_ == Cut::kElsewhere) now = fill(kSizeWithSmallerBook, 1);
        EXPECT_TRUE(now.empty() || now[0] == old[0]) << "it stands in the same place";
        const auto others = fill(cut_ == Cut::kElsewhere ? kSize : kOtherSize, slot_ + 1);
        EXPECT_EQ(state_of(others[slot_]), state) << "the same book";
        now.insert(now.end(), others.begin(), others.end());
        recycled = true;
      };
      const auto inside = [&] {
        if (!recycled) {
          owner.run(recycle);
          if (recycled && owner_frees_too) SteppedCall::stop_again(1);
        } else if (state->load() != SlotState::kRemote) {
          // Soon, if it found its slot before.
          if (++steps < 200) SteppedCall::stop_again(1);
        } else {
          marked = true;
          owner.run([&] {
            state->store(SlotState::kLive);
            EXPECT_EQ(free(now.back()), Error::kNone);
            now.pop_back();
          });
        }
      };
      Error told = Error::kBusy;
      {
        std::optional<core::AllocatorCore::Gate> inside_a_call;
        if (nested_) inside_a_call.emplace(*allocator_->core());
        more = SteppedCall::stopped_at(
            n, [&] { told = free(stale); }, inside);
      }
      allocator_->flush_thread();
      owner.run([&] {
        allocator_->flush_thread();
        const std::vector<std::uintptr_t>& live = recycled ? now : old;
        EXPECT_EQ(statistics().live_blocks, 1 + live.size() - (told == Error::kNone)) << n;
        for (const std::uintptr_t block : live) {
          // A bare pointer to a block that lives again is that block.
          const bool gone = block == stale && told == Error::kNone;
          EXPECT_EQ(free(block), gone ? Error::kDoubleFree : Error::kNone) << "at " << n;
        }
        allocator_->flush_thread();
      });
      marks += marked;
      EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
      EXPECT_EQ(statistics().live_blocks, 1u) << "at " << n;
    }
  }
  EXPECT_GT(marks, 0u) << "the trap flag has no effect here";
}

// Where the first slot is cut anew, the address names a live block again, and is one.
INSTANTIATE_TEST_SUITE_P(Slots, StoppedFreeTest,
                         testing::Values(std::tuple(Cut::kElsewhere, std::size_t{0}, false),
                                         std::tuple(Cut::kElsewhere, std::size_t{0}, true),
                                         std::tuple(Cut::kElsewhere, std::size_t{5}, false),
                                         std::tuple(Cut::kAnew, std::size_t{5}, false),
                                         std::tuple(Cut::kAnew, std::size_t{5}, true)));

// ---- A slab without a thread, that finds one while a free is stopped ----

class AdoptedMeanwhileTest : public FakeAllocatorTest {};

TEST_F(AdoptedMeanwhileTest, TheFreeGoesToTheNewOwner) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  const SteppedCall stepper;
  Worker other;
  const std::uintptr_t keeps_region = allocate(64);
  bool more = true;
  unsigned adopted = 0;
  for (std::uint64_t n = 1; more && !HasFailure(); n += 2 * kStride) {
    std::uintptr_t block = 0;
    std::uintptr_t stays = 0;
    std::thread([&] {
      block = allocate(5120);
      stays = allocate(5120);
    }).join();
    std::uintptr_t next = 0;
    Error told = Error::kBusy;
    bool held = false;
    more = SteppedCall::stopped_at(
        n, [&] { told = free(block); },
        [&] {
          other.start([&] { next = allocate(5120); });
          held = !other.wait_a_little();
        });
    other.wait();
    adopted += !held;
    EXPECT_EQ(told, Error::kNone) << "at " << n;
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
    allocator_->flush_thread();
    other.run([&] {
      allocator_->flush_thread();
      EXPECT_EQ(statistics().live_blocks, more ? 3u : 2u) << "at " << n;
      if (next != 0) EXPECT_EQ(free(next), Error::kNone) << "at " << n;
      EXPECT_EQ(free(stays), Error::kNone) << "at " << n;
      allocator_->flush_thread();
    });
    allocator_->trim();
  }
  EXPECT_GT(adopted, 20u) << "the trap flag has no effect here";
  EXPECT_EQ(free(keeps_region), Error::kNone);
}

// ---- Two detaches ----

class DetachedMeanwhileTest : public FakeAllocatorTest {
 protected:
  void SetUp() override {
    FakeAllocatorTest::SetUp();
    if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  }
};

// Detached by two at once: once, and no other pool instead.
TEST_F(DetachedMeanwhileTest, ADetachTakesNoOtherPool) {
  const SteppedCall stepper;
  Worker other;
  constexpr Extent kPool = range_at(0, 64 * kKiBytes);
  constexpr Extent kOlder = range_at(4 * kMiBytes, 64 * kKiBytes);
  for (const bool has_older : {false, true}) {
    if (has_older) attach(kOlder);
    std::uint64_t stride = 2 * kStride;
    bool more = true;
    for (std::uint64_t n = 1; more && !HasFailure(); n += stride) {
      attach(kPool);
      Error mine = Error::kBusy;
      Error its = Error::kBusy;
      bool held = false;
      more = SteppedCall::stopped_at(
          n, [&] { mine = allocator_->detach(kPool).error(); },
          [&] {
            other.start([&] { its = allocator_->detach(kPool).error(); });
            held = !other.wait_a_little();
            stride = held ? stride * 2 : 2 * kStride;
          });
      other.wait();
      EXPECT_TRUE(mine == Error::kNone || mine == Error::kNotFound) << "at " << n;
      EXPECT_NE(mine == Error::kNone, its == Error::kNone) << "at " << n;
      EXPECT_EQ(statistics().regions, has_older ? 1u : 0u) << "at " << n;
      if (its == Error::kNotFound && !held) break;
    }
  }
  EXPECT_TRUE(allocator_->query(kOlder.base, 1).ok());
  EXPECT_TRUE(allocator_->detach(kOlder).ok());
}

// ---- A pool that goes while a call is stopped ----

enum class Call {
  kFree,
  kFreeLast,
  kUnpin,
  kPin,
  kUsableSize,
  kRegionOf,
  kAllocate,
  kFreeHandle,
  kShrink,
};
enum class Meanwhile {
  kGone,        // revoked
  kThereAgain,  // and attached again, with blocks in the same places
  kElsewhere,   // and its book used for a pool in another place
  kDrains,
};

class PoolMeanwhileTest : public FakeAllocatorTest,
                          public testing::WithParamInterface<std::tuple<Call, Meanwhile, bool>> {
 protected:
  static constexpr Extent kHere = range_at(0, 128 * kKiBytes);
  static constexpr Extent kThere = range_at(4 * kMiBytes, 128 * kKiBytes);

  // Whatever the call answers, what else lives stays.
  void call(std::uintptr_t block, RegionId id, std::optional<PinId> pinned) {
    switch (std::get<Call>(GetParam())) {
      case Call::kFree:
      case Call::kFreeLast:
        told_ = free(block);
        break;
      case Call::kFreeHandle:
        told_ = allocator_->deallocate_handle(bytes_at(block), id).error();
        break;
      case Call::kUnpin:
        told_ = allocator_->unpin(*pinned).error();
        break;
      case Call::kPin:
        pin_ = allocator_->pin({block, 8});
        break;
      case Call::kUsableSize:
        (void)allocator_->usable_size(bytes_at(block));
        break;
      case Call::kRegionOf:
        region_ = allocator_->region_of(bytes_at(block));
        break;
      case Call::kShrink:
        made_ = allocator_->reallocate(bytes_at(block), kPageBytes, alignment_);
        break;
      case Call::kAllocate:
        made_ = allocator_->allocate(size_, alignment_, Placement::in_pool(id));
        break;
    }
  }

  // Two pages at their own alignment are a run: the shortest way through the page room.
  std::size_t size_ = std::get<bool>(GetParam()) ? 2 * kPageBytes : 64;
  std::size_t alignment_ = std::get<bool>(GetParam()) ? 2 * kPageBytes : 16;
  Error told_ = Error::kBusy;
  Result<PinId> pin_ = Error::kBusy;
  Result<RegionId> region_ = Error::kBusy;
  Result<untrusted_bytes> made_ = Error::kBusy;
};

TEST_P(PoolMeanwhileTest, Threat31WhatElseLivesStays) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  const Call what = std::get<Call>(GetParam());
  const Meanwhile meanwhile = std::get<Meanwhile>(GetParam());
  const SteppedCall stepper;
  Worker other;
  bool more = true;
  // Between a look and the lock under which it is repeated lie some dozens of instructions. While
  // the lock is held, one stop is as good as another.
  std::uint64_t stride = 3 * kStride;
  for (std::uint64_t n = 1; more && !HasFailure(); n += stride) {
    const RegionId id = attach(kHere);
    const std::uintptr_t block = allocate(size_, alignment_, Placement::in_pool(id));
    std::optional<PinId> pinned;
    if (what == Call::kUnpin) {
      pinned = pin({block, 8});
      EXPECT_EQ(free(block), Error::kNone);
    }
    if (what == Call::kFreeLast) EXPECT_TRUE(allocator_->detach(kHere, DetachMode::kDrain).ok());
    RegionId new_id{};
    std::vector<std::uintptr_t> now;
    Error revoked = Error::kBusy;
    bool held = false;
    const auto change = [&] {
      const DetachMode mode =
          meanwhile == Meanwhile::kDrains ? DetachMode::kDrain : DetachMode::kRevoke;
      revoked = allocator_->detach(kHere, mode).error();
      if (revoked != Error::kNone || meanwhile == Meanwhile::kGone ||
          meanwhile == Meanwhile::kDrains) {
        return;
      }
      new_id = attach(meanwhile == Meanwhile::kThereAgain ? kHere : kThere);
      const Placement in_new_one = Placement::in_pool(new_id);
      now = {allocate(size_, alignment_, in_new_one), allocate(64, 16, in_new_one)};
      EXPECT_EQ(now[0] == block, meanwhile == Meanwhile::kThereAgain);
    };
    told_ = Error::kBusy;
    pin_ = Error::kBusy;
    region_ = Error::kBusy;
    made_ = Error::kBusy;
    more = SteppedCall::stopped_at(
        n, [&] { call(block, id, pinned); },
        [&] {
          other.start(change);
          held = !other.wait_a_little();
          stride = held ? stride * 2 : 3 * kStride;
        });
    other.wait();
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
    SCOPED_TRACE(n);
    if (what == Call::kUnpin) EXPECT_EQ(told_, Error::kNone);
    if (region_.ok()) EXPECT_TRUE(*region_ == id || *region_ == new_id);
    if (pin_.ok()) EXPECT_TRUE(allocator_->unpin(*pin_).ok());
    const bool by_handle = what == Call::kFreeHandle;
    if (by_handle) EXPECT_TRUE(told_ == Error::kNone || told_ == Error::kStale);
    const bool frees = what == Call::kFree || what == Call::kFreeLast || by_handle;
    const bool was_new_one =
        frees && !by_handle && told_ == Error::kNone && statistics().live_blocks + 1 == now.size();
    for (const std::uintptr_t live : now) {
      const bool gone = live == block && was_new_one;
      EXPECT_EQ(free(live), gone ? Error::kDoubleFree : Error::kNone);
    }
    const bool stands = revoked != Error::kNone || meanwhile == Meanwhile::kDrains;
    if (made_.ok() && stands && what != Call::kShrink)
      EXPECT_EQ(free(made_->address()), Error::kNone);
    if (stands && !(frees && told_ == Error::kNone) && what != Call::kUnpin) {
      EXPECT_EQ(free(block), Error::kNone);
    }
    EXPECT_EQ(statistics().live_blocks, 0u);
    EXPECT_NE(allocator_->detach(kHere).error(), Error::kBusy);
    EXPECT_NE(allocator_->detach(kThere).error(), Error::kBusy);
    EXPECT_EQ(statistics().regions, 0u);
    if (revoked == Error::kNotFound && !held) break;  // it had gone by itself
  }
}

std::string name_of(const testing::TestParamInfo<PoolMeanwhileTest::ParamType>& tested) {
  constexpr const char* kCalls[] = {"Free",     "FreeLast", "Unpin",      "Pin",   "UsableSize",
                                    "RegionOf", "Allocate", "FreeHandle", "Shrink"};
  constexpr const char* kChanges[] = {"Gone", "ThereAgain", "Elsewhere", "Drains"};
  return std::string(kCalls[static_cast<int>(std::get<Call>(tested.param))]) +
         kChanges[static_cast<int>(std::get<Meanwhile>(tested.param))] +
         (std::get<bool>(tested.param) ? "Pages" : "Slot");
}

INSTANTIATE_TEST_SUITE_P(
    Slots, PoolMeanwhileTest,
    testing::Values(std::tuple(Call::kFree, Meanwhile::kGone, false),
                    std::tuple(Call::kFreeHandle, Meanwhile::kGone, false),
                    std::tuple(Call::kFreeHandle, Meanwhile::kThereAgain, false),
                    std::tuple(Call::kFreeHandle, Meanwhile::kElsewhere, false),
                    std::tuple(Call::kFree, Meanwhile::kThereAgain, false),
                    std::tuple(Call::kFree, Meanwhile::kElsewhere, false),
                    std::tuple(Call::kFreeLast, Meanwhile::kGone, false),
                    std::tuple(Call::kFreeLast, Meanwhile::kElsewhere, false),
                    std::tuple(Call::kUnpin, Meanwhile::kGone, false),
                    std::tuple(Call::kUnpin, Meanwhile::kThereAgain, false),
                    std::tuple(Call::kUnpin, Meanwhile::kElsewhere, false),
                    std::tuple(Call::kPin, Meanwhile::kElsewhere, false),
                    std::tuple(Call::kUsableSize, Meanwhile::kElsewhere, false),
                    std::tuple(Call::kRegionOf, Meanwhile::kThereAgain, false),
                    std::tuple(Call::kAllocate, Meanwhile::kElsewhere, false),
                    std::tuple(Call::kAllocate, Meanwhile::kDrains, false)),
    name_of);
INSTANTIATE_TEST_SUITE_P(Pages, PoolMeanwhileTest,
                         testing::Values(std::tuple(Call::kFree, Meanwhile::kGone, true),
                                         std::tuple(Call::kFreeHandle, Meanwhile::kThereAgain,
                                                    true),
                                         std::tuple(Call::kFree, Meanwhile::kElsewhere, true),
                                         std::tuple(Call::kUnpin, Meanwhile::kThereAgain, true),
                                         std::tuple(Call::kUnpin, Meanwhile::kElsewhere, true),
                                         std::tuple(Call::kUsableSize, Meanwhile::kGone, true),
                                         std::tuple(Call::kShrink, Meanwhile::kGone, true)),
                         name_of);

}  // namespace
}  // namespace exclave
