// Steps of the protocols between heaps, one at a time and in the order that does harm. models/ has
// all orders.
#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "support/fake_allocator.hpp"
#include "support/heap_fixture.hpp"
#include "support/sanitizers.hpp"
#include "support/stepped_call.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class HandOverTest : public HeapFixture {};

TEST_F(HandOverTest, Threat41WhatTheOwnerFreedMeanwhileIsNotDeferred) {
  // The owner looked at the state before the stranger marked it, and stored after.
  ASSERT_EQ(*state_, SlotState::kLive);
  *state_ = SlotState::kRemote;
  ASSERT_TRUE(owner_->push(kClass, slab_->block_at(0), state_));
  EXPECT_FALSE(Heap::defer(books_, *slab_, state_));
  EXPECT_EQ(*state_, SlotState::kCached) << "on the stack it must not be free in the slab, too";
  EXPECT_FALSE(owner_->wants_sweep());
  owner_->fold_slow();
  EXPECT_TRUE(owner_->validate());
}

TEST_F(HandOverTest, WhatWasDeferredBeforeAdoptionIsFoundThoughNobodyAsksForASweep) {
  // The request reached the old owner, between its hand-over and its passing the request on.
  owner_->flush_slow();
  *state_ = SlotState::kRemote;
  EXPECT_TRUE(Heap::defer(books_, *slab_, state_));
  const LockGuard guard(orphans_lock_);
  owner_->hand_over_slow(*orphans_);
  EXPECT_FALSE(orphans_->wants_sweep());
  ASSERT_TRUE(next_->adopt_slow(*orphans_, kClass));
  EXPECT_EQ(*state_, SlotState::kFree);
  EXPECT_TRUE(next_->validate() && orphans_->validate());
}

TEST_F(HandOverTest, WhatIsDeferredInASlabThatIsGoneAsksNobody) {
  // Its pool was revoked between the mark and the request.
  *state_ = SlotState::kRemote;
  slab_->owner = 0;
  EXPECT_TRUE(Heap::defer(books_, *slab_, state_));
  EXPECT_EQ(*state_, SlotState::kDeferred);
  EXPECT_FALSE(owner_->wants_sweep());
}

TEST_F(HandOverTest, WhoeverHasTheSlabMeanwhileIsAskedToSweep) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  const SteppedCall stepper;
  unsigned handed_over = 0;
  bool more = true;
  for (std::uint64_t n = 1; more && !HasFailure(); ++n) {
    *state_ = SlotState::kRemote;
    bool deferred = false;
    const auto hand_over = [&] {
      const LockGuard guard(orphans_lock_);
      // A request that came before goes with the slabs, as when a thread ends.
      const bool asked = owner_->wants_sweep();
      owner_->hand_over_slow(*orphans_);
      if (asked) orphans_->request_sweep();
    };
    more = SteppedCall::stopped_at(
        n, [&] { deferred = Heap::defer(books_, *slab_, state_); }, hand_over);
    if (!more) break;
    ++handed_over;
    EXPECT_TRUE(deferred) << "at " << n;
    const LockGuard guard(orphans_lock_);
    EXPECT_TRUE(orphans_->wants_sweep()) << "at " << n;
    orphans_->fold_slow();
    owner_->fold_slow();
    ASSERT_TRUE(owner_->adopt_slow(*orphans_, kClass)) << "at " << n;
    std::uintptr_t block = 0;
    ASSERT_TRUE(owner_->pop(kClass, &block) || owner_->refill_slow(kClass));
    if (block == 0) ASSERT_TRUE(owner_->pop(kClass, &block));
    state_ = &slab_->states()[slab_->slot_at(block)];
  }
  EXPECT_GT(handed_over, 5u) << "the trap flag has no effect here";
}

// A pool's block is freed, and pinned by another thread after any one instruction of that.
class PinnedMeanwhileTest : public FakeAllocatorTest {};

TEST_F(PinnedMeanwhileTest, ABlockOfAPoolIsCountedOnce) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  const SteppedCall stepper;
  const Placement in_pool = Placement::in_pool(attach(range_at(0, kMiBytes)));
  const std::uintptr_t stays = allocate(64, 16, in_pool);
  std::uint64_t pinned_live = 0;
  bool more = true;
  for (std::uint64_t n = 1; more && !HasFailure(); n += kStride) {
    const std::uintptr_t block = allocate(64, 16, in_pool);
    Result<PinId> pin = Error::kNotFound;
    Error freed = Error::kBusy;
    more = SteppedCall::stopped_at(
        n, [&] { freed = free(block); },
        [&] { std::thread([&] {
                pin = allocator_->pin({block, 64});
              }).join(); });
    EXPECT_EQ(freed, Error::kNone) << "at " << n;
    if (pin.ok()) {
      ++pinned_live;
      EXPECT_TRUE(allocator_->unpin(*pin).ok()) << "at " << n;
    }
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
    EXPECT_EQ(statistics().live_blocks, 1u) << "at " << n;
  }
  EXPECT_GT(pinned_live, 10u) << "the trap flag has no effect here";
  EXPECT_EQ(free(stays), Error::kNone);
}

// Owner and stranger free one block at the same moment, and the owner's thread ends before the
// stranger's batch comes: one of them is told all the same.
class AbandonedTest : public FakeAllocatorTest {};

TEST_F(AbandonedTest, Threat41ADoubleFreeIsToldThoughTheOwnerIsGone) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  const SteppedCall stepper;
  allocator_->flush_thread();  // not this thread's first call, below
  unsigned late = 0;
  bool more = true;
  for (std::uint64_t n = 1; more && !HasFailure(); n += kStride) {
    misuses_.clear();
    std::promise<std::uintptr_t> stopped;
    std::promise<void> freed_here;
    Error owner = Error::kNotFound;
    std::thread thread([&] {
      const std::uintptr_t block = allocate(64);
      const auto at_stop = [&] {
        stopped.set_value(block);
        freed_here.get_future().wait();
      };
      more = SteppedCall::stopped_at(
          n, [&] { owner = free(block); }, at_stop);
      if (!more) at_stop();
    });
    const std::uintptr_t block = stopped.get_future().get();
    const Error stranger = free(block);
    freed_here.set_value();
    thread.join();
    late += owner == Error::kNone && stranger == Error::kNone;
    allocator_->flush_thread();
    ASSERT_EQ(misuses_.size(), 1u) << "at " << n;
    EXPECT_EQ(misuses_[0].address, block);
    EXPECT_EQ(misuses_[0].error, Error::kDoubleFree);
    EXPECT_EQ(statistics().live_blocks, 0u) << "at " << n;
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
  }
  EXPECT_GT(late, 0u) << "the moment between the look and the store was not met";
}

}  // namespace
}  // namespace exclave
