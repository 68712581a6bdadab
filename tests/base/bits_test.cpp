// Powers of two, alignment and overflow; extents and page ranges.
#include "base/bits.hpp"

#include <gtest/gtest.h>

#include "base/extents.hpp"
#include "base/units.hpp"

namespace exclave {
namespace {

TEST(BitsTest, PowersOfTwo) {
  EXPECT_FALSE(is_power_of_two(0));
  for (unsigned i = 0; i < 64; ++i) {
    const std::uint64_t power = std::uint64_t{1} << i;
    EXPECT_TRUE(is_power_of_two(power));
    EXPECT_EQ(floor_log2(power), i);
    EXPECT_EQ(ceil_log2(power), i);
    EXPECT_EQ(lowest_bit(power), i);
    if (i < 2) continue;
    EXPECT_FALSE(is_power_of_two(power + 1));
    EXPECT_FALSE(is_power_of_two(power - 1));
    EXPECT_EQ(floor_log2(power - 1), i - 1);
    EXPECT_EQ(ceil_log2(power - 1), i);
    EXPECT_EQ(floor_log2(power + 1), i);
    if (i != 63) {
      EXPECT_EQ(ceil_log2(power + 1), i + 1);
    }
    EXPECT_EQ(lowest_bit(power | std::uint64_t{1} << 63), i);
  }
  EXPECT_EQ(floor_log2(UINT64_MAX), 63u);
  EXPECT_EQ(ceil_log2(UINT64_MAX), 64u);
}

TEST(BitsTest, AlignmentRoundsToMultiples) {
  for (std::uint64_t alignment = 1; alignment <= 64; alignment *= 2) {
    for (std::uint64_t value = 0; value < 300; ++value) {
      EXPECT_EQ(align_down(value, alignment), value / alignment * alignment);
      EXPECT_EQ(align_up(value, alignment), (value + alignment - 1) / alignment * alignment);
      EXPECT_EQ(is_aligned(value, alignment), value % alignment == 0);
      EXPECT_EQ(ceil_div(value, alignment), (value + alignment - 1) / alignment);
    }
  }
}

TEST(BitsTest, Threat23CheckedAlignUpTellsOverflow) {
  std::uint64_t out = 7;
  EXPECT_TRUE(checked_align_up(UINT64_MAX - 4095, 4096, &out));
  EXPECT_EQ(out, UINT64_MAX - 4095);
  out = 7;
  EXPECT_FALSE(checked_align_up(UINT64_MAX - 4094, 4096, &out));
  EXPECT_FALSE(checked_align_up(UINT64_MAX, 2, &out));
  EXPECT_EQ(out, 7u);
  EXPECT_TRUE(checked_align_up(UINT64_MAX, 1, &out));
  EXPECT_EQ(out, UINT64_MAX);
}

TEST(BitsTest, CeilDivDoesNotOverflow) {
  EXPECT_EQ(ceil_div(UINT64_MAX, 2), std::uint64_t{1} << 63);
  EXPECT_EQ(ceil_div(UINT64_MAX, UINT64_MAX), 1u);
  EXPECT_EQ(pages_for(SIZE_MAX), std::uint64_t{1} << 52);
}

TEST(ExtentTest, OverlapIsOfBytes) {
  const Extent middle{0x2000, 0x1000};
  EXPECT_TRUE(middle.overlaps(middle));
  EXPECT_FALSE(middle.overlaps({0x1000, 0x1000}));
  EXPECT_FALSE(middle.overlaps({0x3000, 0x1000}));
  EXPECT_TRUE(middle.overlaps({0x1000, 0x1001}));
  EXPECT_TRUE(middle.overlaps({0x2fff, 0x1000}));
  EXPECT_TRUE(middle.overlaps({0x1000, 0x9000}));
  EXPECT_TRUE(middle.overlaps({0x2800, 1}));
  EXPECT_FALSE(middle.overlaps({0x2800, 0}));
  EXPECT_FALSE((Extent{0x2800, 0}.overlaps(middle)));
}

TEST(ExtentTest, CoversAndContains) {
  const Extent middle{0x2000, 0x1000};
  EXPECT_TRUE(middle.covers(middle));
  EXPECT_TRUE(middle.covers({0x2800, 0x800}));
  EXPECT_FALSE(middle.covers({0x2800, 0x801}));
  EXPECT_FALSE(middle.covers({0x1fff, 0x10}));
  EXPECT_FALSE(middle.covers({0x2800, SIZE_MAX})) << "a size that wraps";
  EXPECT_FALSE(middle.covers({UINTPTR_MAX, 1}));
  EXPECT_TRUE(middle.contains(0x2000));
  EXPECT_TRUE(middle.contains(0x2fff));
  EXPECT_FALSE(middle.contains(0x3000));
  EXPECT_FALSE(middle.contains(0x1fff));
}

TEST(ExtentTest, NoBytesLieWhereTheirAddressDoes) {
  const Extent middle{0x2000, 0x1000};
  EXPECT_TRUE(lies_in(middle, 0x2000, 0x1000));
  EXPECT_FALSE(lies_in(middle, 0x2001, 0x1000));
  EXPECT_TRUE(lies_in(middle, 0x2fff, 1));
  EXPECT_TRUE(lies_in(middle, 0x2fff, 0));
  for (const std::uintptr_t outside :
       {std::uintptr_t{0}, std::uintptr_t{0x1fff}, std::uintptr_t{0x3000}, UINTPTR_MAX}) {
    EXPECT_FALSE(lies_in(middle, outside, 0)) << outside;
    EXPECT_FALSE(lies_in(middle, outside, 1)) << outside;
  }
  EXPECT_FALSE(lies_in(middle, 0x2001, SIZE_MAX)) << "wraps";
}

TEST(PageRangeTest, OnlyWholePagesOfTheLowerHalf) {
  EXPECT_TRUE(is_page_range({0x1000, 0x1000}));
  EXPECT_TRUE(is_page_range({kAddressLimit - 0x1000, 0x1000}));
  EXPECT_FALSE(is_page_range({0x1000, 0})) << "empty";
  EXPECT_FALSE(is_page_range({0, 0x1000})) << "page zero";
  EXPECT_FALSE(is_page_range({0x1001, 0x1000}));
  EXPECT_FALSE(is_page_range({0x1000, 0x1001}));
  EXPECT_FALSE(is_page_range({kAddressLimit - 0x1000, 0x2000})) << "ends above the limit";
  EXPECT_FALSE(is_page_range({kAddressLimit, 0x1000}));
  EXPECT_FALSE(is_page_range({UINTPTR_MAX - 0xfff, 0x1000})) << "ends at 2^64";
  EXPECT_FALSE(is_page_range({0x1000, SIZE_MAX - 0xfff})) << "wraps";
}

// A memory call may be about page zero, and as far as the lower half goes.
TEST(PageRangeTest, TheRangeOfAMemoryCall) {
  Extent range{1, 2};
  for (const Extent bad : {Extent{0x1001, 0x1000}, Extent{0x1000, 0}, Extent{0x1000, SIZE_MAX},
                           Extent{0x1000, kAddressLimit}, Extent{kAddressLimit, 1},
                           Extent{0, kAddressLimit + 1}, Extent{UINTPTR_MAX - 0xfff, 0x2000}}) {
    EXPECT_FALSE(decode_pages(bad.base, bad.size, &range)) << bad.base << " " << bad.size;
    EXPECT_EQ(range, (Extent{1, 2}));
  }
  EXPECT_TRUE(decode_pages(0, kAddressLimit, &range));
  EXPECT_EQ(range, (Extent{0, kAddressLimit}));
  EXPECT_TRUE(decode_pages(0x1000, 1, &range));
  EXPECT_EQ(range, (Extent{0x1000, 0x1000}));
  EXPECT_TRUE(decode_pages(kAddressLimit - 0x1000, 0x1000, &range));
  EXPECT_EQ(range, (Extent{kAddressLimit - 0x1000, 0x1000}));
}

}  // namespace
}  // namespace exclave
