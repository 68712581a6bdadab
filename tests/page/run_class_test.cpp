#include "page/run_class.hpp"

#include <gtest/gtest.h>

namespace exclave {
namespace {

TEST(RunClassTest, LengthsAreRoundedUpByAtMostAnEighth) {
  for (std::uint64_t pages = 1; pages <= 2 * kLongestClassedRun; ++pages) {
    const std::uint64_t rounded = round_run(pages);
    ASSERT_GE(rounded, pages);
    ASSERT_LE((rounded - pages) * 8, pages);
    ASSERT_EQ(round_run(rounded), rounded);
    const bool classed = pages >= kShortestClassedRun && pages <= kLongestClassedRun;
    ASSERT_EQ(run_class_of(rounded) != kNoRunClass, classed) << pages;
    if (!classed) {
      ASSERT_EQ(rounded, pages);
    }
  }
}

TEST(RunClassTest, ClassesAreNumberedInOrderWithoutGaps) {
  unsigned next = 0;
  for (std::uint64_t pages = 1; pages <= 2 * kLongestClassedRun; ++pages) {
    if (run_class_of(pages) == kNoRunClass) continue;
    ASSERT_EQ(run_class_of(pages), next++) << pages;
  }
  EXPECT_EQ(next, kRunClasses);
}

}  // namespace
}  // namespace exclave
