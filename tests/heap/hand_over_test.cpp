// Steps of the protocols between heaps, one at a time and in the order that does harm. models/ has
// all orders.
#include <gtest/gtest.h>

#include <thread>

#include "support/fake_allocator.hpp"
#include "support/sanitizers.hpp"
#include "support/stepped_call.hpp"

namespace exclave {
namespace {

using namespace testing_support;

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
  EXPECT_GT(pinned_live, 20u) << "the trap flag has no effect here";
  EXPECT_EQ(free(stays), Error::kNone);
}

}  // namespace
}  // namespace exclave
