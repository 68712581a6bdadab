#include "page/run_class.hpp"

#include <gtest/gtest.h>

namespace exclave {
namespace {

TEST(RunClassTest, LengthsAreRoundedUpByAtMostAQuarter) {
  for (std::uint64_t pages = 1; pages <= 2 * kLongestClassedRun; ++pages) {
    const std::uint64_t rounded = round_run(pages);
    ASSERT_GE(rounded, pages);
    ASSERT_LE((rounded - pages) * 4, pages);
    ASSERT_EQ(round_run(rounded), rounded);
    if (has_run_class(pages)) {
      ASSERT_EQ(run_class_pages(run_class_of(pages)), rounded) << pages;
      ASSERT_TRUE(has_run_class(rounded));
    } else {
      ASSERT_EQ(rounded, pages);
    }
  }
}

TEST(RunClassTest, EachClassIsTheNextLength) {
  std::uint64_t before = kShortestClassedRun - 1;
  for (unsigned c = 0; c < kRunClasses; ++c) {
    EXPECT_EQ(run_class_of(before + 1), c);
    EXPECT_EQ(run_class_of(run_class_pages(c)), c);
    before = run_class_pages(c);
  }
  EXPECT_FALSE(has_run_class(before + 1));
}

TEST(RunClassTest, ARequestMayBeServedByItsLengthAndByItsClass) {
  for (std::uint64_t asked = 1; asked <= 200; ++asked) {
    for (std::uint64_t given = 1; given <= 300; ++given)
      ASSERT_EQ(may_serve_run(given, asked), given == asked || given == round_run(asked));
  }
  EXPECT_FALSE(may_serve_run(20, 16)) << "without a class nothing is rounded";
  EXPECT_TRUE(may_serve_run(2048, 1793));
  EXPECT_FALSE(may_serve_run(2048, 1792));
  EXPECT_FALSE(may_serve_run(2049, 2048));
  EXPECT_TRUE(may_serve_run(2049, 2049));
}

}  // namespace
}  // namespace exclave
