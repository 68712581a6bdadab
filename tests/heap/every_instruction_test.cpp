// THREATS 56, without luck: the signal comes after each single instruction of a call, by the trap
// flag, and its handler calls again.
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include "support/fake_allocator.hpp"
#include "support/sanitizers.hpp"
#include "support/stepped_call.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class EveryInstructionTest : public FakeAllocatorTest {
 protected:
  void SetUp() override {
    FakeAllocatorTest::SetUp();
    if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
    stepper_.emplace();
    // Memory is there already: no call below reaches the host, where a nested call may do anything.
    keeps_region_ = allocate(64);
    allocator_->flush_thread();
  }
  void TearDown() override {
    if (!kSanitized) {
      EXPECT_EQ(free(keeps_region_), Error::kNone);
    }
    FakeAllocatorTest::TearDown();
  }

  // For n = 1, 2, ... until the body is through, or up to `most`.
  static void each(const std::function<bool(std::uint64_t n)>& attempt,
                   std::uint64_t most = UINT64_MAX) {
    std::uint64_t n = 1;
    while (n <= most && attempt(n) && !HasFatalFailure()) ++n;
    EXPECT_GT(n, 20u) << "the trap flag has no effect here";
  }

  std::uintptr_t keeps_region_ = 0;
  std::optional<SteppedCall> stepper_;
};

TEST_F(EveryInstructionTest, Threat56ANestedAllocationIsServedOrTold) {
  for (const std::size_t size : {std::size_t{64}, std::size_t{100000}}) {
    each([&](std::uint64_t n) {
      // Something at hand for both.
      const std::uintptr_t a = allocate(size);
      const std::uintptr_t b = allocate(size);
      EXPECT_EQ(free(a), Error::kNone);
      EXPECT_EQ(free(b), Error::kNone);
      std::uintptr_t outer = 0;
      Result<untrusted_bytes> inner = Error::kNotFound;
      const bool more = SteppedCall::stopped_at(
          n, [&] { outer = allocate(size); }, [&] { inner = allocator_->allocate(size); });
      EXPECT_NE(outer, 0u) << n;
      EXPECT_EQ(free(outer), Error::kNone);
      if (inner.ok()) {
        EXPECT_NE(inner->address(), outer) << n;
        EXPECT_EQ(free(inner->address()), Error::kNone);
      } else {
        EXPECT_EQ(inner.error(), more ? Error::kReentered : Error::kNotFound);
      }
      EXPECT_EQ(statistics().live_blocks, 1u) << n;
      return more;
    });
  }
  EXPECT_TRUE(misuses_.empty());
}

// The interrupted call may be a pop or a push, which looks for nothing. Then the next free that is
// more than a push does, wherever it is.
TEST_F(EveryInstructionTest, Threat56ADrainThatEndsInAHandlerIsSettledByTheNextFree) {
  const Extent drains = range_at(64 * kGiBytes, kMiBytes);
  const RegionId stays = attach(range_at(66 * kGiBytes, kMiBytes));
  unsigned settled_later = 0;
  each([&](std::uint64_t n) {
    const RegionId id = attach(drains);
    const std::uintptr_t last = allocate(64, 16, Placement::in_pool(id));
    const std::uintptr_t other = allocate(64, 16, Placement::in_pool(stays));
    EXPECT_TRUE(allocator_->detach(drains, DetachMode::kDrain).ok());
    std::uintptr_t outer = 0;
    Error inner = Error::kNotFound;
    const bool more = SteppedCall::stopped_at(
        n, [&] { outer = allocate(64); }, [&] { inner = free(last); });
    EXPECT_EQ(inner, more ? Error::kNone : Error::kNotFound) << n;
    if (!more) EXPECT_EQ(free(last), Error::kNone);
    settled_later += allocator_->query(drains.base, 1).ok();
    EXPECT_EQ(free(other), Error::kNone);
    EXPECT_FALSE(allocator_->query(drains.base, 1).ok()) << n;
    EXPECT_EQ(free(outer), Error::kNone);
    return more;
  });
  EXPECT_GT(settled_later, 0u);
}

TEST_F(EveryInstructionTest, Threat56ADrainThatEndsInAHandlerInsideAFreeGoesWithThatFree) {
  const Extent drains = range_at(64 * kGiBytes, kMiBytes);
  const RegionId stays = attach(range_at(66 * kGiBytes, kMiBytes));
  unsigned late = 0;
  unsigned stops = 0;
  each([&](std::uint64_t n) {
    const RegionId id = attach(drains);
    const std::uintptr_t last = allocate(64, 16, Placement::in_pool(id));
    const std::uintptr_t other = allocate(64, 16, Placement::in_pool(stays));
    EXPECT_TRUE(allocator_->detach(drains, DetachMode::kDrain).ok());
    const bool more = SteppedCall::stopped_at(
        n, [&] { EXPECT_EQ(free(other), Error::kNone); },
        [&] { EXPECT_EQ(free(last), Error::kNone) << n; });
    if (!more) EXPECT_EQ(free(last), Error::kNone);
    // Where the call had looked already, the next one does.
    late += allocator_->query(drains.base, 1).ok();
    ++stops;
    EXPECT_EQ(free(allocate(64, 16, Placement::in_pool(stays))), Error::kNone);
    EXPECT_FALSE(allocator_->query(drains.base, 1).ok()) << n;
    return more;
  });
  EXPECT_LT(late, stops / 4) << "of " << stops;
}

TEST_F(EveryInstructionTest, Threat56ANestedReallocationInAPoolIsServedOrTold) {
  const RegionId id = attach(range_at(64 * kGiBytes, kMiBytes));
  const std::uintptr_t slot = allocate(64, 16, Placement::in_pool(id));
  const std::uintptr_t pages = allocate(100000, 16, Placement::in_pool(id));
  for (const auto& [block, size] :
       {std::pair{slot, std::size_t{60}}, {pages, std::size_t{99000}}}) {
    each([&, block = block, size = size](std::uint64_t n) {
      std::uintptr_t outer = 0;
      Error inner = Error::kNotFound;
      const bool more = SteppedCall::stopped_at(
          n, [&] { outer = allocate(64, 16, Placement::in_pool(id)); },
          [&] { inner = allocator_->reallocate(bytes_at(block), size).error(); });
      EXPECT_TRUE(!more || inner == Error::kNone || inner == Error::kReentered)
          << n << ' ' << error_text(inner);
      EXPECT_EQ(free(outer), Error::kNone);
      return more;
    });
  }
  EXPECT_EQ(free(slot), Error::kNone);
  EXPECT_EQ(free(pages), Error::kNone);
}

TEST_F(EveryInstructionTest, Threat56ANestedFreeOfAnotherBlockIsServedOrTold) {
  for (const std::size_t size : {std::size_t{64}, std::size_t{100000}}) {
    each([&](std::uint64_t n) {
      const std::uintptr_t mine = allocate(size);
      const std::uintptr_t other = allocate(size);
      Error inner = Error::kNotFound;
      Error outer = Error::kNotFound;
      const bool more = SteppedCall::stopped_at(
          n, [&] { outer = free(mine); }, [&] { inner = free(other); });
      EXPECT_EQ(outer, Error::kNone) << n;
      if (more && size == 64) {
        EXPECT_EQ(inner, Error::kNone) << n;
      }
      if (inner != Error::kNone) {
        EXPECT_EQ(free(other), Error::kNone) << n;
      }
      EXPECT_EQ(statistics().live_blocks, 1u) << n;
      return more;
    });
  }
  EXPECT_TRUE(misuses_.empty());
  EXPECT_TRUE(allocator_->validate_books());
}

// Wherever the second free comes, the block is free once, and one free is told: at once, or by the
// next sweep when the handler came between the free's look at the state and its change.
TEST_F(EveryInstructionTest, Threat41ADoubleFreeInsideTheFreeIsTold) {
  for (const std::size_t size : {std::size_t{64}, std::size_t{100000}}) {
    unsigned late = 0;
    each([&](std::uint64_t n) {
      misuses_.clear();
      const std::uintptr_t block = allocate(size);
      Error inner = Error::kNotFound;
      Error outer = Error::kNotFound;
      const bool more = SteppedCall::stopped_at(
          n, [&] { outer = free(block); }, [&] { inner = free(block); });
      EXPECT_TRUE(outer == Error::kNone || inner == Error::kNone) << n;
      late += outer == Error::kNone && inner == Error::kNone;
      const std::uintptr_t a = allocate(size);
      const std::uintptr_t b = allocate(size);
      EXPECT_NE(a, b) << n;
      EXPECT_EQ(free(a), Error::kNone) << n;
      EXPECT_EQ(free(b), Error::kNone) << n;
      allocator_->flush_thread();
      EXPECT_EQ(misuses_.size(), more && inner != Error::kReentered ? 1u : 0u) << n;
      for (const Misuse& told : misuses_) {
        EXPECT_EQ(told.error, Error::kDoubleFree) << n;
        EXPECT_EQ(told.address, block) << n;
      }
      EXPECT_EQ(statistics().live_blocks, 1u) << n;
      EXPECT_TRUE(allocator_->validate_books()) << n;
      return more;
    });
    if (size == 64) {
      EXPECT_GT(late, 0u) << "the window that the sweep looks after is not there any more";
    } else {
      EXPECT_EQ(late, 0u) << "a nested free of pages is told kReentered";
    }
  }
}

// A pool's blocks are freed under its lock, which a handler cannot take.
TEST_F(EveryInstructionTest, Threat41ADoubleFreeInsideTheFreeOfAPoolsBlockIsToldAtOnce) {
  const Placement in_pool = Placement::in_pool(attach(range_at(0, kMiBytes)));
  each([&](std::uint64_t n) {
    misuses_.clear();
    const std::uintptr_t block = allocate(64, 16, in_pool);
    Error inner = Error::kNotFound;
    Error outer = Error::kNotFound;
    const bool more = SteppedCall::stopped_at(
        n, [&] { outer = free(block); }, [&] { inner = free(block); });
    if (more) {
      EXPECT_TRUE((outer == Error::kNone && inner == Error::kDoubleFree) ||
                  (outer == Error::kDoubleFree && inner == Error::kNone))
          << n;
      EXPECT_EQ(misuses_.size(), 1u) << n;
    }
    EXPECT_EQ(statistics().live_blocks, 1u) << n;
    EXPECT_TRUE(allocator_->validate_books()) << n;
    return more;
  });
  EXPECT_TRUE(allocator_->detach(range_at(0, kMiBytes)).ok());
}

// Behind a door that it would have to wait for, or under a lock, it is told so; never kBusy, which
// whoever waits for himself hears in the end.
TEST_F(EveryInstructionTest, Threat56ARevokeInsideAReallocationDoesNotWaitForItself) {
  const Extent range = range_at(0, kMiBytes);
  unsigned refused = 0;
  each([&](std::uint64_t n) {
    const RegionId pool = attach(range);
    const std::uintptr_t block = allocate(100000, 16, Placement::in_pool(pool));
    Error told = Error::kNone;
    const bool more = SteppedCall::stopped_at(
        n, [&] { (void)allocator_->reallocate(bytes_at(block), 90000); },
        [&] { told = allocator_->detach(range, DetachMode::kRevoke).error(); });
    EXPECT_TRUE(told == Error::kNone || told == Error::kReentered) << n << error_text(told);
    refused += told == Error::kReentered;
    EXPECT_EQ(allocator_->detach(range, DetachMode::kRevoke).ok(), told != Error::kNone || !more)
        << n;
    return more;
  });
  EXPECT_GT(refused, 0u);
}

// The handler may be the first to call on this thread, and get its heap.
TEST_F(EveryInstructionTest, Threat56AThreadsFirstCallLosesNoHeap) {
  for (const bool frees : {false, true}) {
    const std::uint64_t kMost = 300;
    each(
        [&](std::uint64_t n) {
          bool more = false;
          std::uintptr_t outer = 0;
          Result<untrusted_bytes> inner = Error::kNotFound;
          const std::uintptr_t block = allocate(64);
          allocator_->flush_thread();
          std::thread([&] {
            const auto body = [&] { frees ? (void)free(block) : (void)(outer = allocate(64)); };
            more = SteppedCall::stopped_at(n, body, [&] { inner = allocator_->allocate(64); });
          }).join();
          if (outer != 0) {
            EXPECT_EQ(free(outer), Error::kNone) << n;
          }
          if (inner.ok()) {
            EXPECT_EQ(free(inner->address()), Error::kNone) << n;
          }
          if (!frees) {
            EXPECT_NE(outer, 0u) << n;
            EXPECT_EQ(free(block), Error::kNone) << n;
          }
          allocator_->flush_thread();
          EXPECT_EQ(statistics().cached_bytes, 0u) << "in a heap that is nobody's, at " << n;
          EXPECT_EQ(statistics().live_blocks, 1u) << n;
          return more && !HasFailure();
        },
        kMost);
  }
}

}  // namespace
}  // namespace exclave
