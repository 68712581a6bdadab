// How much of a pool, and of a quota, blocks of one size can use, wherever the pool starts.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "base/units.hpp"
#include "slab/size_class.hpp"
#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class FillTest : public FakeAllocatorTest {
 protected:
  // Allocates until it is refused; sorted by address.
  std::vector<std::uintptr_t> fill(std::size_t size, Placement where) {
    std::vector<std::uintptr_t> blocks;
    while (const std::uintptr_t block = allocate(size, 16, where)) blocks.push_back(block);
    std::sort(blocks.begin(), blocks.end());
    return blocks;
  }
  void free_all(std::vector<std::uintptr_t>& blocks, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (const std::uintptr_t block : blocks) ASSERT_EQ(free(block), Error::kNone);
  }
};

// Pages from the left edge of a large aligned place at which pools start in these tests.
constexpr std::size_t kStarts[] = {0, 1, 3, 17, 511};

double percent(std::size_t part, std::size_t whole) {
  return static_cast<double>(part) * 100 / static_cast<double>(whole);
}

TEST_F(FillTest, APoolHoldsAsManyBlocksOfPagesAsFit) {
  for (const std::size_t pool : {std::size_t{64} * kMiBytes, std::size_t{5} * kMiBytes + 4096,
                                 std::size_t{300} * kKiBytes}) {
    for (const std::size_t start : kStarts) {
      const Extent range = range_at(start * kPageBytes, pool);
      const RegionId id = attach(range);
      for (const std::size_t size : {65 * kKiBytes, 68 * kKiBytes, 96 * kKiBytes, 129 * kKiBytes,
                                     260 * kKiBytes, 320 * kKiBytes, 1028 * kKiBytes, 2 * kMiBytes,
                                     20 * kMiBytes, 32 * kMiBytes, 33 * kMiBytes, 64 * kMiBytes}) {
        const std::size_t fit = pool / align_up(size, kPageBytes);
        std::vector<std::uintptr_t> blocks = fill(size, Placement::in_pool(id));
        ASSERT_EQ(blocks.size(), fit) << size << " in " << pool << " at page " << start;
        // Every other one goes, in any order, and as many find room again.
        std::vector<std::uintptr_t> others;
        for (std::size_t i = 0; i < blocks.size(); i += 2) others.push_back(blocks[i]);
        for (std::size_t i = 0; i < others.size(); ++i)
          blocks.erase(std::find(blocks.begin(), blocks.end(), others[i]));
        const std::size_t freed = others.size();
        free_all(others, size);
        others = fill(size, Placement::in_pool(id));
        EXPECT_EQ(others.size(), freed);
        free_all(others, size + 1);
        free_all(blocks, size + 2);
        ASSERT_TRUE(allocator_->validate_books());
        const std::uintptr_t whole = allocate(pool, 16, Placement::in_pool(id));
        EXPECT_EQ(whole, range.base) << "all of it joined again";
        EXPECT_EQ(free(whole), Error::kNone);
      }
      EXPECT_TRUE(allocator_->detach(range, DetachMode::kBusy).ok());
    }
  }
}

// A slab is cut into whole slots, and its last one may not fit.
TEST_F(FillTest, APoolHoldsSmallBlocksButForTheEndsOfSlabs) {
  constexpr std::size_t kPool = 8 * kMiBytes;
  for (const std::size_t start : {0u, 3u, 511u}) {
    const Extent range = range_at(start * kPageBytes, kPool);
    const RegionId id = attach(range);
    for (const std::size_t size : {64u, 100u, 1000u, 4096u, 5000u, 9000u, 20000u, 40000u, 65536u}) {
      std::vector<std::uintptr_t> blocks = fill(size, Placement::in_pool(id));
      const std::size_t bytes = blocks.size() * size_class_bytes(size_class_of(size));
      EXPECT_GE(percent(bytes, kPool), 93) << size << " at page " << start;
      free_all(blocks, size);
    }
    EXPECT_TRUE(allocator_->detach(range, DetachMode::kBusy).ok());
  }
}

TEST_F(FillTest, APoolWithABoundaryIsUsedUpToIt) {
  constexpr std::size_t kPool = 16 * kMiBytes;
  constexpr std::size_t kBoundary = kMiBytes;
  AttachOptions options;
  options.boundary = kBoundary;
  for (const std::size_t start : kStarts) {
    const Extent range = range_at(start * kPageBytes, kPool);
    const RegionId id = attach(range, options);
    for (const std::size_t size :
         {65 * kKiBytes, 129 * kKiBytes, 260 * kKiBytes, 1024 * kKiBytes}) {
      std::vector<std::uintptr_t> blocks = fill(size, Placement::in_pool(id));
      for (const std::uintptr_t block : blocks)
        ASSERT_EQ(block / kBoundary, (block + size - 1) / kBoundary);
      // The parts before the first multiple and behind the last one hold what they can.
      std::size_t fit = 0;
      for (std::uintptr_t at = range.base; at < range.end();) {
        const std::uintptr_t end = std::min(align_up(at + 1, kBoundary), range.end());
        fit += (end - at) / align_up(size, kPageBytes);
        at = end;
      }
      EXPECT_EQ(blocks.size(), fit) << size << " at page " << start;
      free_all(blocks, size);
    }
    EXPECT_TRUE(allocator_->detach(range, DetachMode::kBusy).ok());
  }
}

TEST_F(FillTest, AQuotaIsUsedUp) {
  constexpr std::size_t kQuota = 256 * kMiBytes;
  for (const std::size_t size : {65 * kKiBytes, 129 * kKiBytes, 260 * kKiBytes, 1028 * kKiBytes,
                                 1500 * kKiBytes, 20 * kMiBytes}) {
    Config config;
    config.quota_bytes = kQuota;
    start(config);
    // Blocks of 20 MiB leave parts of regions over that hold none.
    const double fit = size < 2 * kMiBytes ? 95 : 70;
    std::vector<std::uintptr_t> blocks = fill(size, {});
    EXPECT_GE(percent(blocks.size() * align_up(size, kPageBytes), kQuota), fit) << size;
    EXPECT_LE(statistics().grown_bytes, kQuota);
    free_all(blocks, size);
    blocks = fill(size, {});
    EXPECT_GE(percent(blocks.size() * align_up(size, kPageBytes), kQuota), fit) << size << " again";
    free_all(blocks, size + 1);
  }
}

}  // namespace
}  // namespace exclave
