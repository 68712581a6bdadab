// A free that the host stops after any one of its instructions, while another thread changes what
// stands at the address. THREATS 41: the second look that each free takes, without luck.
#include <gtest/gtest.h>

#include <atomic>
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
#include "support/state_test.hpp"
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

class StoppedFreeTest : public StateTest,
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

// The same with a pin on the other block, which keeps its pin, and goes by nobody's free but its
// holder's; also when that pin is the last and goes while the mark stands.
TEST_P(StoppedFreeTest, Threat65AMarkOnAPinnedBlockIsTakenOff) {
  const SteppedCall stepper;
  Worker owner;
  unsigned marks = 0;
  bool first = false;
  bool more = true;
  for (std::uint64_t n = 1; more && !first && !HasFailure(); n += kStride) {
    for (const bool unpinned_meanwhile : {false, true}) {
      std::vector<std::uintptr_t> old, now;
      std::optional<PinId> pinned;
      std::atomic<SlotState>* state = nullptr;
      owner.run([&] { old = fill(kSize, slot_ + 1); });
      const std::uintptr_t stale = old[slot_];
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
        const auto others = fill(cut_ == Cut::kElsewhere ? kSize : kOtherSize, slot_ + 1);
        now.insert(now.end(), others.begin(), others.end());
        pinned = pin({now.back(), 8});
        state = state_of(now.back());
        recycled = true;
      };
      const auto unpin = [&] {
        if (!pinned) return;
        EXPECT_TRUE(allocator_->unpin(*pinned).ok());
        pinned.reset();
      };
      const auto inside = [&] {
        if (!recycled) {
          owner.run(std::ref(recycle));
          if (recycled) SteppedCall::stop_again(1);
        } else if (state->load() == SlotState::kPinned) {
          if (++steps < 200) SteppedCall::stop_again(1);
        } else {
          marked = true;
          if (unpinned_meanwhile) owner.run(std::ref(unpin));
        }
      };
      Error told = Error::kBusy;
      {
        std::optional<core::AllocatorCore::Gate> inside_a_call;
        if (nested_) inside_a_call.emplace(*allocator_->core());
        more = SteppedCall::stopped_at(
            n, [&] { told = free(stale); }, inside);
      }
      marks += marked;
      allocator_->flush_thread();
      owner.run([&] {
        unpin();
        allocator_->flush_thread();
        const std::vector<std::uintptr_t>& live = recycled ? now : old;
        for (const std::uintptr_t block : live) {
          const bool gone = block == stale && told == Error::kNone;
          EXPECT_EQ(free(block), gone ? Error::kDoubleFree : Error::kNone) << "at " << n;
        }
        allocator_->flush_thread();
      });
      // A bare pointer to a block that lives again is that block.
      const bool names_a_live_one = !recycled || now.front() == stale;
      if (!names_a_live_one) EXPECT_NE(told, Error::kNone) << "at " << n;
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

// ---- An unpin of what was freed, which waits for a lock ----

class UnpinMeanwhileTest : public StateTest {
 protected:
  void SetUp() override {
    StateTest::SetUp();
    if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  }
};

// The pool's own lock, while it is revoked: nothing of it is left then.
TEST_F(UnpinMeanwhileTest, Threat31ItsPoolMayGo) {
  const SteppedCall stepper;
  Worker other;
  constexpr Extent kPool = range_at(0, 128 * kKiBytes);
  unsigned waited = 0;
  bool more = true;
  for (std::uint64_t n = 1; more && !HasFailure(); n += kStride) {
    const std::uintptr_t block = allocate(64, 16, Placement::in_pool(attach(kPool)));
    const PinId pinned = pin({block, 8});
    EXPECT_EQ(free(block), Error::kNone);
    Error revoked = Error::kBusy;
    Error unpinned = Error::kBusy;
    bool held = false;
    more = SteppedCall::stopped_at(
        n, [&] { revoked = allocator_->detach(kPool, DetachMode::kRevoke).error(); },
        [&] {
          other.start([&] { unpinned = allocator_->unpin(pinned).error(); });
          held = !other.wait_a_little();
        });
    other.wait();
    EXPECT_EQ(unpinned, Error::kNone) << "at " << n;
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
    EXPECT_EQ(statistics().live_blocks, 0u) << "at " << n;
    waited += held && revoked == Error::kNone;
    if (revoked == Error::kPinned) EXPECT_TRUE(allocator_->detach(kPool).ok()) << "at " << n;
    EXPECT_EQ(statistics().regions, 0u) << "at " << n;
    // The next stops are behind its look at the pins.
    if (waited != 0 && revoked == Error::kPinned) break;
  }
  EXPECT_GT(waited, 0u) << "the trap flag has no effect here";
}

// That of the slabs whose threads ended: a thread takes the slab over. So for a free.
TEST_F(UnpinMeanwhileTest, ItsSlabMayBeAdopted) {
  const SteppedCall stepper;
  Worker other;
  const std::uintptr_t keeps_region = allocate(64);
  for (const bool is_unpin : {true, false}) {
    unsigned waited = 0;
    bool more = true;
    for (std::uint64_t n = 1; more && !HasFailure(); n += kStride) {
      std::uintptr_t stays = 0;
      std::uintptr_t block = 0;
      PinId pinned{};
      std::thread([&] {
        stays = allocate(5120);
        block = allocate(5120);
        if (!is_unpin) return;
        pinned = pin({block, 8});
        EXPECT_EQ(free(block), Error::kNone);
      }).join();
      const BookRef orphans = slab_around(block).owner.load();
      std::uintptr_t next = 0;
      Error told = Error::kBusy;
      bool held = false;
      bool adopted = false;  // before the call
      const auto call = [&] {
        told = is_unpin ? allocator_->unpin(pinned).error() : free(block);
        // What goes by batch is sent.
        allocator_->flush_thread();
      };
      more = SteppedCall::stopped_at(
          n, [&] { next = allocate(5120); },
          [&] {
            adopted = slab_around(block).owner.load() != orphans;
            other.start(call);
            held = !other.wait_a_little();
          });
      other.wait();
      if (!more) call();
      waited += held;
      EXPECT_EQ(told, Error::kNone) << "at " << n;
      EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
      allocator_->flush_thread();
      EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
      EXPECT_EQ(statistics().live_blocks, 3u) << "at " << n;
      for (const std::uintptr_t live : {stays, next}) EXPECT_EQ(free(live), Error::kNone);
      allocator_->trim();
      if (adopted) break;
    }
    EXPECT_GT(waited, 0u) << "the trap flag has no effect here";
  }
  EXPECT_EQ(free(keeps_region), Error::kNone);
}

// Its pool goes, and the host gives the place for others to use: what another thread frees there,
// and its owner has not taken back yet, is not the unpin's to pass on.
TEST_F(UnpinMeanwhileTest, Threat31WhatTheHostGaveInItsPlaceIsLeftAlone) {
  const SteppedCall stepper;
  Worker owner, other;
  constexpr Extent kPool{FakePort::kFirstAddress, 128 * kKiBytes};
  unsigned given = 0;
  bool more = true;
  bool held = false;
  for (std::uint64_t n = 1; more && !HasFailure(); n += (held ? 8 : 1) * kStride) {
    const std::uintptr_t block = allocate(64, 16, Placement::in_pool(attach(kPool)));
    const PinId pinned = pin({block, 8});
    EXPECT_EQ(free(block), Error::kNone);
    std::uintptr_t now = 0;
    bool late = false;
    const auto change = [&] {
      late = state_of(block)->load() == SlotState::kFree;
      if (allocator_->detach(kPool, DetachMode::kRevoke).ok()) now = allocate(64);
    };
    const auto free_now = [&] { EXPECT_EQ(free(now), Error::kNone); };
    more = SteppedCall::stopped_at(
        n, [&] { EXPECT_TRUE(allocator_->unpin(pinned).ok()); },
        [&] {
          owner.start(change);
          held = !owner.wait_a_little();
          if (!held && now != 0) other.run(free_now);
        });
    owner.wait();
    given += !held && now == block;
    if (held && now != 0) free_now();
    if (now == 0) EXPECT_TRUE(allocator_->detach(kPool).ok()) << "at " << n;
    other.run([&] { allocator_->flush_thread(); });
    allocator_->flush_thread();
    owner.run([&] { allocator_->flush_thread(); });
    EXPECT_TRUE(misuses_.empty()) << "at " << n;
    EXPECT_EQ(statistics().live_blocks, 0u) << "at " << n;
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
    allocator_->trim();
    if (late && !held) break;
  }
  EXPECT_GT(given, 0u) << "the trap flag has no effect here";
}

// Its owner saw it live before the pin, frees it over the unpin's mark and ends.
TEST_F(UnpinMeanwhileTest, Threat41WhatItsOwnerFreedAtTheSameMomentIsFreeOnce) {
  const SteppedCall stepper;
  const std::uintptr_t keeps_region = allocate(64);
  unsigned marked = 0;
  bool more = true;
  for (std::uint64_t n = 1; more && !HasFailure(); n += kStride) {
    std::uintptr_t block = 0;
    std::uintptr_t stays = 0;
    std::atomic<int> turn = 0;
    bool over_the_mark = false;
    bool deferred = false;
    std::thread owner([&] {
      block = allocate(5120);
      stays = allocate(5120);
      turn = 1;
      while (turn != 2) std::this_thread::yield();
      if (!over_the_mark) return;
      state_of(block)->store(SlotState::kLive);
      EXPECT_EQ(free(block), Error::kNone);
    });
    while (turn != 1) std::this_thread::yield();
    const PinId pinned = pin({block, 8});
    EXPECT_EQ(free(block), Error::kNone);
    const auto end_owner = [&] {
      turn = 2;
      owner.join();
    };
    more = SteppedCall::stopped_at(
        n, [&] { EXPECT_TRUE(allocator_->unpin(pinned).ok()); },
        [&] {
          // From then on the unpin holds no lock that the owner wants.
          const SlotState state = state_of(block)->load();
          over_the_mark = state == SlotState::kRemote;
          deferred = state == SlotState::kDeferred;
          if (over_the_mark) end_owner();
        });
    if (!over_the_mark) end_owner();
    marked += over_the_mark;
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
    allocator_->flush_thread();
    EXPECT_EQ(statistics().live_blocks, 2u) << "at " << n;
    EXPECT_EQ(free(stays), Error::kNone);
    allocator_->trim();
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
    if (deferred) break;
  }
  EXPECT_GT(marked, 0u) << "the trap flag has no effect here";
  EXPECT_EQ(free(keeps_region), Error::kNone);
}

// ---- A query while a region changes ----

class QueryMeanwhileTest : public FakeAllocatorTest {
 protected:
  // On a thread of its own, while the region's facts are open: it waits until they are not.
  template <class F>
  void waits_for(std::uintptr_t block, F meanwhile) {
    std::atomic<std::uint64_t>& sequence = allocator_->core()->registry().find(block)->sequence;
    sequence.store(sequence.load() + 1);
    std::atomic<bool> told = false;
    std::thread asks([&] {
      meanwhile();
      const Result<RegionInfo> region = allocator_->query(block, 1);
      told = true;
      EXPECT_EQ(region.error(), Error::kNone);
    });
    EXPECT_FALSE(done_before_it_waits(asks.native_handle(), [&] { return told.load(); }));
    sequence.store(sequence.load() + 1);
    asks.join();
  }
};

TEST_F(QueryMeanwhileTest, WhoIsInNoCallWaits) {
  const std::uintptr_t block = allocate(64);
  waits_for(block, [&] { EXPECT_EQ(free(allocate(64)), Error::kNone); });
  waits_for(block, [] {});
  EXPECT_EQ(free(block), Error::kNone);
}

// Threads without a slot share an entry in the table of heaps: what one does there is no call of
// another's.
TEST_F(QueryMeanwhileTest, WhoHasNoSlotIsInNoCall) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  const SteppedCall stepper;
  const std::uintptr_t block = allocate(64);
  for (std::uint64_t n = 1; n < 150 && !HasFailure(); n += 3) {
    std::thread([&] {
      Error told = Error::kBusy;
      SteppedCall::stopped_at(
          n, [&] { told = free(0x5000); }, [&] { waits_for(block, [] {}); });
      EXPECT_EQ(told, Error::kForeignFree) << n;
    }).join();
  }
  EXPECT_EQ(free(block), Error::kNone);
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
  kFreedAgain,  // the same; and the block there is freed while it is pinned, too
  kElsewhere,   // and its book used for a pool in another place
  kDrains,
};

class PoolMeanwhileTest : public StateTest,
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

  bool is_free(std::uintptr_t block) {
    if (!std::get<bool>(GetParam())) return state_of(block)->load() == SlotState::kFree;
    return allocator_->next_run(block)->kind == RunInfo::Kind::kFree;
  }
  // A block that takes the place of the one before, pinned and freed. A slot is as if its own unpin
  // had marked it, and not yet its pool's lock.
  void free_again(std::uintptr_t block) {
    pinned_again_ = pin({block, 8});
    EXPECT_EQ(free(block), Error::kNone);
    if (!std::get<bool>(GetParam())) {
      marked_ = state_of(block);
      marked_->store(SlotState::kRemote);
    }
  }
  // It is as it was left, and goes with its own pin alone.
  void unpin_again(std::uintptr_t block) {
    if (marked_ != nullptr) {
      EXPECT_EQ(marked_->load(), SlotState::kRemote);
      marked_->store(SlotState::kPinnedFreed);
    } else {
      EXPECT_EQ(allocator_->next_run(block)->kind, RunInfo::Kind::kBlock);
    }
    EXPECT_TRUE(allocator_->unpin(*pinned_again_).ok());
    pinned_again_.reset();
    marked_ = nullptr;
  }

  std::optional<PinId> pinned_again_;
  std::atomic<SlotState>* marked_ = nullptr;
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
  const bool closely = meanwhile == Meanwhile::kFreedAgain;  // what lies between two locks alone
  std::uint64_t stride = (closely ? 8 : 3) * kStride;
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
    bool late = false;
    const auto change = [&] {
      late = closely && is_free(block);
      const DetachMode mode =
          meanwhile == Meanwhile::kDrains ? DetachMode::kDrain : DetachMode::kRevoke;
      revoked = allocator_->detach(kHere, mode).error();
      if (revoked != Error::kNone || meanwhile == Meanwhile::kGone ||
          meanwhile == Meanwhile::kDrains) {
        return;
      }
      new_id = attach(meanwhile == Meanwhile::kElsewhere ? kThere : kHere);
      const Placement in_new_one = Placement::in_pool(new_id);
      now = {allocate(size_, alignment_, in_new_one), allocate(64, 16, in_new_one)};
      EXPECT_EQ(now[0] == block, meanwhile != Meanwhile::kElsewhere);
      if (meanwhile != Meanwhile::kFreedAgain) return;
      free_again(block);
      now.erase(now.begin());
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
          if (!closely) stride = held ? stride * 2 : 3 * kStride;
        });
    other.wait();
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
    SCOPED_TRACE(n);
    if (pinned_again_) unpin_again(block);
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
    if ((late || revoked == Error::kNotFound) && !held) break;  // it had gone by itself
  }
}

std::string name_of(const testing::TestParamInfo<PoolMeanwhileTest::ParamType>& tested) {
  constexpr const char* kCalls[] = {"Free",     "FreeLast", "Unpin",      "Pin",   "UsableSize",
                                    "RegionOf", "Allocate", "FreeHandle", "Shrink"};
  constexpr const char* kChanges[] = {"Gone", "ThereAgain", "FreedAgain", "Elsewhere", "Drains"};
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
                    std::tuple(Call::kUnpin, Meanwhile::kFreedAgain, false),
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
                                         std::tuple(Call::kUnpin, Meanwhile::kFreedAgain, true),
                                         std::tuple(Call::kUnpin, Meanwhile::kElsewhere, true),
                                         std::tuple(Call::kUsableSize, Meanwhile::kGone, true),
                                         std::tuple(Call::kShrink, Meanwhile::kGone, true)),
                         name_of);

}  // namespace
}  // namespace exclave
