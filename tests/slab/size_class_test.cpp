// Every small size, one by one.
#include "slab/size_class.hpp"

#include <gtest/gtest.h>

#include "slab/slab.hpp"

namespace exclave {
namespace {

TEST(SizeClassTest, EverySizeFitsItsClassAndNoSmallerOne) {
  for (std::size_t bytes = 1; bytes <= kMaxSmallBytes; ++bytes) {
    const SizeClass c = size_class_of(bytes);
    ASSERT_LT(c, kSizeClasses);
    ASSERT_GE(size_class_bytes(c), bytes);
    if (c != 0) {
      ASSERT_LT(size_class_bytes(static_cast<SizeClass>(c - 1)), bytes);
    }
  }
}

TEST(SizeClassTest, TheTableAgrees) {
  for (std::size_t bytes = 1; bytes <= kMaxSmallBytes; ++bytes)
    ASSERT_EQ(size_class_fast(bytes), size_class_of(bytes)) << bytes;
}

TEST(SizeClassTest, ClassesGrowAndAreMultiplesOfSixteen) {
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    EXPECT_EQ(size_class_bytes(c) % 16, 0u) << "copies out never need the slow path";
    EXPECT_EQ(size_class_of(size_class_bytes(c)), c);
    if (c != 0) {
      EXPECT_GT(size_class_bytes(c), size_class_bytes(static_cast<SizeClass>(c - 1)));
    }
  }
}

TEST(SizeClassTest, AtMostAnEighthIsLostAbove128Bytes) {
  for (std::size_t bytes = 1; bytes <= kMaxSmallBytes; ++bytes) {
    const std::size_t lost = size_class_bytes(size_class_of(bytes)) - bytes;
    if (bytes <= 128) {
      ASSERT_LT(lost, 16u);
    } else {
      ASSERT_LE(lost * 8, bytes);
    }
  }
}

TEST(SizeClassTest, WiderAlignmentGivesTheFirstClassWhoseSlotsAreAligned) {
  for (std::size_t alignment = 32; alignment <= kMaxSmallAlignment; alignment *= 2) {
    for (std::size_t bytes = 1; bytes <= kMaxSmallBytes; bytes += 1 + bytes / 50) {
      SizeClass expected = kSizeClasses;
      for (SizeClass c = size_class_of(bytes); c < kSizeClasses; ++c) {
        if (size_class_bytes(c) % alignment == 0) {
          expected = c;
          break;
        }
      }
      ASSERT_EQ(size_class_of(bytes, alignment), expected) << bytes << " at " << alignment;
    }
  }
}

TEST(SizeClassTest, SlabsHoldSeveralSlotsAndWasteLittle) {
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    const std::size_t bytes = slab_units(c, 4) * kUnitBytes;
    const std::uint32_t slots = slots_in(bytes, c);
    EXPECT_GE(slots, 8u);
    EXPECT_LE(slots, UINT16_MAX) << "slots are counted in 16 bits";
    EXPECT_LE((bytes - std::size_t{slots} * size_class_bytes(c)) * 8, bytes) << "the tail";
    // DESIGN: at most 2 % of the managed bytes for 64-byte blocks.
    if (size_class_bytes(c) >= 64) {
      EXPECT_LE(Slab::book_bytes(slots) * 50, bytes);
    }
  }
}

}  // namespace
}  // namespace exclave
