// A pin that comes while the block's own thread frees it, after any one instruction of the free.
// Allocator::pin forbids that, so the pin may keep nothing; but nothing may come to harm, either.
#include <gtest/gtest.h>

#include "support/fake_allocator.hpp"
#include "support/sanitizers.hpp"
#include "support/stepped_call.hpp"
#include "support/worker.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class LatePinnedMeanwhileTest : public FakeAllocatorTest {};

TEST_F(LatePinnedMeanwhileTest, EndsAsAnyOtherPin) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
  Worker worker;
  SteppedCall stepped;
  int pins = 0, went_away = 0;
  for (std::uint64_t n = 1;; ++n) {
    Config config;
    config.keep_free_bytes = 0;
    start(config);
    // The slow calls of both threads are behind them.
    worker.run([&] {
      const Result<untrusted_bytes> other = allocator_->allocate(32);
      ASSERT_TRUE(other.ok() && allocator_->deallocate(*other).ok());
      allocator_->flush_thread();
    });
    const std::uintptr_t block = allocate(64);
    Error freed = Error::kNone;
    Result<PinId> pin = Error::kNotFound;
    const bool stopped = SteppedCall::stopped_at(
        n, [&] { freed = free(block); },
        [&] { worker.run([&] {
                pin = allocator_->pin({block, 8});
              }); });
    EXPECT_EQ(freed, Error::kNone) << n;
    if (pin.ok()) {
      ++pins;
      allocator_->flush_thread();
      allocator_->trim();
      if (!allocator_->query(block, 1).ok()) ++went_away;
      EXPECT_TRUE(allocator_->unpin(*pin).ok()) << n;
    }
    allocator_->flush_thread();
    allocator_->trim();
    EXPECT_EQ(statistics().live_bytes, 0u) << n;
    EXPECT_TRUE(allocator_->validate_books()) << n;
    if (!stopped) break;
  }
  EXPECT_GT(pins, went_away);
  EXPECT_GT(went_away, 0);
}

}  // namespace
}  // namespace exclave
