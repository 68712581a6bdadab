#include "base/backoff.hpp"

#include <gtest/gtest.h>

namespace exclave {
namespace {

// Counted in waits, not in time: a machine may stop between any two instructions.
TEST(BackoffTest, GrowsTwofoldToItsLongestWait) {
  Backoff backoff;
  unsigned waits = 0;
  for (; !backoff.is_long(); ++waits) {
    ASSERT_LT(waits, 100u);
    backoff.wait();
  }
  EXPECT_EQ(waits, 8u);
  backoff.wait();
  EXPECT_TRUE(backoff.is_long());
}

}  // namespace
}  // namespace exclave
