// Blocks through the public face: sizes, alignment, placement, and what a call leaves as it was.
#include <gtest/gtest.h>

#include <map>

#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class BlocksTest : public FakeAllocatorTest {};

TEST_F(BlocksTest, EverySizeIsServedAlignedAndUsable) {
  std::map<std::uintptr_t, std::size_t> held;
  for (std::size_t size = 1; size <= 80000; size += 1 + size / 40) {
    const std::uintptr_t block = allocate(size);
    ASSERT_NE(block, 0u) << size;
    EXPECT_EQ(block % 16, 0u);
    const std::size_t bytes = usable(block);
    EXPECT_GE(bytes, size);
    EXPECT_EQ(bytes % 8, 0u) << "capacities are whole words";
    held.emplace(block, bytes);
  }
  std::uintptr_t end = 0;
  for (const auto& [block, bytes] : held) {
    EXPECT_GE(block, end) << "blocks overlap";
    end = block + bytes;
  }
  EXPECT_TRUE(allocator_->validate_books());
  for (const auto& [block, bytes] : held) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(statistics().live_blocks, 0u);
}

TEST_F(BlocksTest, EveryAlignmentUpToAGibibyteIsHonoured) {
  for (std::size_t alignment = 1; alignment <= kGiBytes; alignment *= 2) {
    for (const std::size_t size :
         {std::size_t{1}, std::size_t{100}, std::size_t{5000}, 3 * kMiBytes}) {
      const std::uintptr_t block = allocate(size, alignment);
      ASSERT_NE(block, 0u) << size << " at " << alignment;
      EXPECT_EQ(block % alignment, 0u);
      EXPECT_GE(usable(block), size);
      EXPECT_EQ(free(block, size, alignment), Error::kNone) << size << " at " << alignment;
    }
  }
}

TEST_F(BlocksTest, Threats21To24BadShapesAreRefusedWithoutAHostCall) {
  for (const std::size_t size :
       {std::size_t{0}, SIZE_MAX, std::size_t{PTRDIFF_MAX} + 1, SIZE_MAX - 4095}) {
    EXPECT_EQ(allocate_error(size), Error::kInvalidArgument) << size;
    EXPECT_EQ(allocate_error(size, 64), Error::kInvalidArgument) << size;
  }
  for (const std::size_t alignment :
       {std::size_t{0}, std::size_t{3}, std::size_t{24}, 2 * kGiBytes, SIZE_MAX}) {
    EXPECT_EQ(allocate_error(64, alignment), Error::kInvalidArgument) << alignment;
  }
  EXPECT_EQ(port_.reserve_calls(), 0u);
  const Extent pool = range_at(0, kMiBytes);
  const RegionId id = attach(pool);
  EXPECT_EQ(allocate_error(0, 16, Placement::in_pool(id)), Error::kInvalidArgument);
  EXPECT_EQ(allocate_error(64, 3, Placement::in_pool(id)), Error::kInvalidArgument);
  EXPECT_EQ(allocate_error(SIZE_MAX, 16, Placement::in_pool(id)), Error::kInvalidArgument);
}

TEST_F(BlocksTest, AbsurdSizesLeaveNothingBehind) {
  // More than any region can hold: nothing may be taken from the host for it.
  for (const std::size_t size : {std::size_t{PTRDIFF_MAX}, std::size_t{1} << 46,
                                 std::size_t{1} << 42, (std::size_t{1} << 41) + 1}) {
    EXPECT_NE(allocate_error(size), Error::kNone);
    EXPECT_EQ(statistics().grown_bytes, 0u) << size;
    EXPECT_EQ(port_.ranges_out(), 0u) << size;
  }
}

TEST_F(BlocksTest, ABlockOfATebibyteIsServed) {
  const std::uintptr_t block = allocate(kGiBytes << 10);
  ASSERT_NE(block, 0u);
  EXPECT_EQ(usable(block), kGiBytes << 10);
  // DESIGN: the books of whole pages are 0.1 % at most.
  EXPECT_LT(statistics().trusted_bytes, kGiBytes);
  EXPECT_EQ(free(block), Error::kNone);
  allocator_->trim();
}

TEST_F(BlocksTest, SteadyStateMakesNoHostCalls) {
  std::vector<std::uintptr_t> blocks;
  const auto churn = [&] {
    for (std::size_t i = 0; i < 2000; ++i) blocks.push_back(allocate(16 + i % 40 * 1000));
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
    blocks.clear();
  };
  churn();
  const std::uint64_t calls = port_.reserve_calls() + port_.release_calls();
  for (int i = 0; i < 5; ++i) churn();
  EXPECT_EQ(port_.reserve_calls() + port_.release_calls(), calls);
}

TEST_F(BlocksTest, BooksOfSmallBlocksStayUnderTwoPercent) {
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 1'600'000; ++i) blocks.push_back(allocate(64));
  const Statistics s = statistics();
  EXPECT_LT(s.trusted_used_bytes * 50, s.live_bytes);
  for (const std::uintptr_t block : blocks) ASSERT_EQ(free(block), Error::kNone);
}

// ---- Reallocate, in place: these never touch the memory ----

TEST_F(BlocksTest, ReallocateInPlaceKeepsTheAddress) {
  const std::uintptr_t small = allocate(100);
  EXPECT_EQ(allocator_->reallocate(bytes_at(small), 112)->address(), small);
  EXPECT_EQ(allocator_->reallocate(bytes_at(small), 97)->address(), small);
  const std::uintptr_t large = allocate(200000);
  EXPECT_EQ(allocator_->reallocate(bytes_at(large), 204800)->address(), large);
  EXPECT_EQ(usable(large), 56 * kPageBytes) << "four lengths for each doubling";
  EXPECT_EQ(allocator_->reallocate(bytes_at(large), 70000)->address(), large) << "the tail goes";
  EXPECT_EQ(usable(large), 20 * kPageBytes);
  EXPECT_EQ(allocator_->reallocate(bytes_at(large), 66000, 4096)->address(), large);
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(BlocksTest, ReallocateOfNullAllocatesAndOfBadPointersIsTold) {
  const Result<untrusted_bytes> block = allocator_->reallocate(untrusted_bytes{}, 100);
  ASSERT_TRUE(block.ok());
  EXPECT_EQ(allocator_->reallocate(bytes_at(block->address() + 8), 100).error(),
            Error::kInteriorFree);
  EXPECT_EQ(allocator_->reallocate(bytes_at(0x1234560), 100).error(), Error::kForeignFree);
  EXPECT_EQ(allocator_->reallocate(*block, 0).error(), Error::kInvalidArgument);
  EXPECT_EQ(allocator_->reallocate(*block, 100, 3).error(), Error::kInvalidArgument);
  EXPECT_EQ(allocator_->reallocate(*block, PTRDIFF_MAX, 16).ok(), false);
  EXPECT_EQ(usable(block->address()), 112u) << "untouched on error";
  EXPECT_EQ(free(block->address()), Error::kNone);
  EXPECT_EQ(allocator_->reallocate(*block, 100).error(), Error::kDoubleFree);
  EXPECT_EQ(misuses_.size(), 3u);
}

// ---- Placement ----

class PlacementTest : public FakeAllocatorTest {
 protected:
  static constexpr std::uintptr_t align_of_gibibyte() {
    return FakePort::kAttachBase + 8 * kGiBytes;
  }
};

TEST_F(PlacementTest, BlocksLieInTheirPool) {
  const Extent first = range_at(0, 4 * kMiBytes);
  const Extent second = range_at(64 * kMiBytes, 4 * kMiBytes);
  const RegionId one = attach(first);
  const RegionId other = attach(second);
  for (std::size_t size = 1; size < 300000; size = size * 2 + 1) {
    const std::uintptr_t a = allocate(size, 16, Placement::in_pool(one));
    const std::uintptr_t b = allocate(size, 16, Placement::in_pool(other));
    EXPECT_TRUE(first.covers({a, size})) << size;
    EXPECT_TRUE(second.covers({b, size})) << size;
    EXPECT_EQ(*allocator_->region_of(bytes_at(a)), one);
    EXPECT_EQ(*allocator_->region_of(bytes_at(b)), other);
  }
  EXPECT_EQ(port_.reserve_calls(), 0u);
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(PlacementTest, AnywhereNeverUsesPoolsThatAreNotOpen) {
  const Extent pool = range_at(0, 4 * kMiBytes);
  attach(pool);
  for (std::size_t i = 0; i < 100; ++i) EXPECT_FALSE(pool.contains(allocate(64 + i * 500)));
}

TEST_F(PlacementTest, OpenPoolsServeBeforeTheHostIsAsked) {
  const Extent pool = range_at(0, kMiBytes);
  AttachOptions options;
  options.open_to_all = true;
  attach(pool, options);
  std::vector<std::uintptr_t> blocks;
  while (port_.reserve_calls() == 0) {
    blocks.push_back(allocate(20000));
    ASSERT_NE(blocks.back(), 0u);
    ASSERT_LT(blocks.size(), 100u);
  }
  EXPECT_GT(blocks.size(), 40u);
  for (std::size_t i = 0; i + 1 < blocks.size(); ++i) EXPECT_TRUE(pool.contains(blocks[i]));
  EXPECT_FALSE(pool.contains(blocks.back()));
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_TRUE(allocator_->detach(pool).ok());
  EXPECT_FALSE(pool.contains(allocate(20000)));
}

TEST_F(PlacementTest, DeviceTagsFindAnyPoolOfTheDevice) {
  AttachOptions options;
  options.device = 7;
  const Extent first = range_at(0, 64 * kKiBytes);
  const Extent second = range_at(kMiBytes, 64 * kKiBytes);
  attach(first, options);
  attach(second, options);
  options.device = 8;
  const Extent foreign = range_at(2 * kMiBytes, 64 * kKiBytes);
  attach(foreign, options);
  std::size_t in_first = 0, in_second = 0;
  while (const std::uintptr_t block = allocate(8000, 16, Placement::on_device(7))) {
    in_first += first.contains(block);
    in_second += second.contains(block);
    EXPECT_FALSE(foreign.contains(block));
  }
  EXPECT_EQ(in_first, 8u);
  EXPECT_EQ(in_second, 8u);
  EXPECT_EQ(allocate_error(8000, 16, Placement::on_device(7)), Error::kOutOfMemory);
  EXPECT_EQ(allocate_error(8000, 16, Placement::on_device(9)), Error::kNotFound);
  EXPECT_EQ(allocate_error(8000, 16, Placement::on_device(0)), Error::kNotFound);
}

TEST_F(PlacementTest, UnknownPoolsAreNotFound) {
  EXPECT_EQ(allocate_error(64, 16, Placement::in_pool(RegionId{})), Error::kNotFound);
  EXPECT_EQ(allocate_error(64, 16, Placement::in_pool(RegionId{12345})), Error::kNotFound);
  const Extent range = range_at(0, kMiBytes);
  const RegionId mapping = attach_mapping(range);
  EXPECT_EQ(allocate_error(64, 16, Placement::in_pool(mapping)), Error::kNotFound);
  EXPECT_EQ(allocate_error(64, 16, Placement::on_device(1)), Error::kNotFound) << "nor a device";
  EXPECT_TRUE(allocator_->detach(range).ok());
  const RegionId pool = attach(range);
  EXPECT_TRUE(allocator_->detach(range).ok());
  EXPECT_EQ(allocate_error(64, 16, Placement::in_pool(pool)), Error::kNotFound);
  attach(range);
  EXPECT_EQ(allocate_error(64, 16, Placement::in_pool(pool)), Error::kNotFound)
      << "another life at the same place";
  EXPECT_EQ(allocate_error(64, 16, Placement::in_pool(RegionId{UINT64_MAX})), Error::kNotFound);
}

TEST_F(PlacementTest, APoolOfAnySizeIsOneBlockIfAskedFor) {
  for (const std::size_t pages : {1u, 2u, 3u, 4u, 5u, 7u, 13u, 64u, 1000u, 262145u}) {
    for (const std::size_t offset : {0u, 1u, 2u, 3u}) {
      const Extent range = range_at(offset * kPageBytes, pages * kPageBytes);
      const RegionId id = attach(range);
      const std::uintptr_t block = allocate(range.size, 16, Placement::in_pool(id));
      EXPECT_EQ(block, range.base) << pages << " pages at " << offset;
      EXPECT_EQ(usable(block), range.size);
      EXPECT_EQ(allocate_error(1, 16, Placement::in_pool(id)), Error::kOutOfMemory);
      EXPECT_EQ(free(block, range.size), Error::kNone) << pages << " pages at " << offset;
      EXPECT_TRUE(allocator_->validate_books());
      EXPECT_TRUE(allocator_->detach(range).ok());
    }
  }
}

TEST_F(PlacementTest, TinyPoolsServeSmallBlocksToTheLastPage) {
  for (const std::size_t pages : {1u, 2u, 3u, 5u, 6u}) {
    for (const std::size_t offset : {0u, 1u, 2u, 3u}) {
      const Extent range = range_at(offset * kPageBytes, pages * kPageBytes);
      const RegionId id = attach(range);
      std::vector<std::uintptr_t> blocks;
      while (const std::uintptr_t block = allocate(64, 16, Placement::in_pool(id))) {
        EXPECT_TRUE(range.covers({block, 64}));
        blocks.push_back(block);
      }
      EXPECT_EQ(blocks.size(), range.size / 64) << pages << " pages at " << offset;
      EXPECT_TRUE(allocator_->validate_books());
      EXPECT_TRUE(sums_up(statistics()));
      for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block, 64), Error::kNone);
      // And then others: what one class held is given up for another.
      const std::uintptr_t whole = allocate(range.size, 16, Placement::in_pool(id));
      EXPECT_EQ(whole, range.base) << pages << " pages at " << offset;
      EXPECT_TRUE(allocator_->detach(range, DetachMode::kRevoke).ok());
    }
  }
}

TEST_F(PlacementTest, SizedFreesAreRightWhereverAPoolPutTheBlock) {
  // Slabs, edge slabs, and pages where no slab had room.
  for (const std::size_t pages : {3u, 9u, 21u}) {
    const Extent range = range_at(kPageBytes, pages * kPageBytes);
    const RegionId id = attach(range);
    for (std::size_t size = 1; size <= range.size; size += 1 + size / 7) {
      for (const std::size_t alignment : {16u, 64u, 512u, 4096u}) {
        std::vector<std::uintptr_t> blocks;
        while (const std::uintptr_t block = allocate(size, alignment, Placement::in_pool(id))) {
          ASSERT_EQ(block % alignment, 0u);
          blocks.push_back(block);
        }
        for (const std::uintptr_t block : blocks) {
          ASSERT_EQ(free(block, size, alignment), Error::kNone)
              << size << " at " << alignment << " of " << pages << " pages";
        }
      }
    }
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_TRUE(allocator_->detach(range).ok());
  }
}

TEST_F(PlacementTest, AlignmentInPoolsIsOfTheAddressUpToAGibibyte) {
  // Holds exactly one multiple of a gibibyte.
  const Extent range{align_of_gibibyte() - 3 * kPageBytes, 7 * kPageBytes};
  const RegionId id = attach(range);
  const std::uintptr_t block = allocate(100, kGiBytes, Placement::in_pool(id));
  EXPECT_EQ(block, align_of_gibibyte());
  EXPECT_EQ(allocate_error(100, kGiBytes, Placement::in_pool(id)), Error::kOutOfMemory);
  EXPECT_EQ(free(block, 100, kGiBytes), Error::kNone);
}

TEST_F(PlacementTest, LargestBlockIsALimitOfSizes) {
  AttachOptions options;
  options.largest_block = 10000;
  const RegionId id = attach(range_at(0, kMiBytes), options);
  EXPECT_NE(allocate(10000, 16, Placement::in_pool(id)), 0u);
  EXPECT_EQ(allocate_error(10001, 16, Placement::in_pool(id)), Error::kOutOfMemory);
}

TEST_F(PlacementTest, NoBlockCrossesTheBoundary) {
  for (const std::size_t boundary : {4096u, 8192u, 65536u}) {
    AttachOptions options;
    options.boundary = boundary;
    options.device_base = 0x10000000 + 3 * kPageBytes;
    const Extent range = range_at(3 * kPageBytes, kMiBytes);
    const RegionId id = attach(range, options);
    for (std::size_t size = 1; size <= boundary; size += 1 + size / 5) {
      for (const std::size_t alignment : {16u, 256u, 4096u}) {
        std::vector<std::uintptr_t> blocks;
        for (int i = 0; i < 40; ++i) {
          const std::uintptr_t block = allocate(size, alignment, Placement::in_pool(id));
          if (block == 0) break;
          blocks.push_back(block);
          ASSERT_EQ(block / boundary, (block + size - 1) / boundary) << size;
          const std::uint64_t there = *allocator_->device_address(bytes_at(block));
          ASSERT_EQ(there / boundary, (there + size - 1) / boundary) << size;
          // Nor does what the caller may use.
          ASSERT_EQ(block / boundary, (block + usable(block) - 1) / boundary) << size;
        }
        ASSERT_FALSE(blocks.empty()) << size << " at " << alignment;
        for (const std::uintptr_t block : blocks) {
          ASSERT_EQ(free(block, size, alignment), Error::kNone) << size << " at " << alignment;
        }
      }
    }
    EXPECT_EQ(allocate_error(boundary + 1, 16, Placement::in_pool(id)), Error::kOutOfMemory);
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_TRUE(allocator_->detach(range).ok());
  }
}

TEST_F(PlacementTest, ConstraintsOutOfShapeAreRefused) {
  const Extent range = range_at(0, kMiBytes);
  const auto error = [&](const AttachOptions& options) {
    return allocator_->attach(range, options).error();
  };
  AttachOptions options;
  options.boundary = 3 * kPageBytes;
  EXPECT_EQ(error(options), Error::kInvalidArgument);
  options.boundary = 2048;
  EXPECT_EQ(error(options), Error::kInvalidArgument);
  options.boundary = 65536;
  options.device_base = kPageBytes;
  EXPECT_EQ(error(options), Error::kInvalidArgument) << "CPU and device do not agree";
  options.device_base = 5 * 65536;
  options.role = Role::kMapping;
  EXPECT_EQ(error(options), Error::kInvalidArgument) << "mappings have no boundary";
  options = {};
  options.role = Role::kMapping;
  options.open_to_all = true;
  EXPECT_EQ(error(options), Error::kInvalidArgument);
  options = {};
  options.protection = Protection::kRead;
  EXPECT_EQ(error(options), Error::kInvalidArgument) << "THREATS 37: a pool is writable";
  options = {};
  options.role = static_cast<Role>(3);
  EXPECT_EQ(error(options), Error::kInvalidArgument);
  options = {};
  options.role = Role::kMapping;
  options.protection = static_cast<Protection>(4);
  EXPECT_EQ(error(options), Error::kInvalidArgument);
  options = {};
  options.device_base = UINT64_MAX - kMiBytes + 1;
  EXPECT_EQ(error(options), Error::kInvalidArgument) << "device addresses wrap";
  EXPECT_EQ(statistics().regions, 0u);
}

TEST_F(PlacementTest, Threats25To27IllegalRangesAreRefused) {
  const auto error = [&](Extent range) { return allocator_->attach(range).error(); };
  const Extent enclave = port_.enclave();
  EXPECT_EQ(error({FakePort::kAttachBase, 0}), Error::kInvalidArgument);
  EXPECT_EQ(error({FakePort::kAttachBase + 1, kPageBytes}), Error::kInvalidArgument);
  EXPECT_EQ(error({FakePort::kAttachBase, 100}), Error::kInvalidArgument);
  EXPECT_EQ(error({UINTPTR_MAX - 0xfff, kPageBytes}), Error::kInvalidArgument);
  EXPECT_EQ(error({0, kPageBytes}), Error::kInvalidArgument);
  EXPECT_EQ(error({enclave.base, kPageBytes}), Error::kInsideEnclave);
  EXPECT_EQ(error({enclave.base - kPageBytes, 2 * kPageBytes}), Error::kInsideEnclave);
  attach(range_at(0, kMiBytes));
  EXPECT_EQ(error(range_at(0, kMiBytes)), Error::kOverlap);
  EXPECT_EQ(error(range_at(kMiBytes - kPageBytes, kMiBytes)), Error::kOverlap);
  const std::uintptr_t grown = allocate(100);
  EXPECT_EQ(error({grown & ~std::uintptr_t{4095}, kPageBytes}), Error::kOverlap);
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(PlacementTest, DeviceAddressesFollowTheBase) {
  AttachOptions options;
  options.device_base = 0x80030000;
  attach(range_at(0, kMiBytes), options);
  EXPECT_EQ(*allocator_->device_address(bytes_at(range_at(0, 1).base)), 0x80030000u);
  EXPECT_EQ(*allocator_->device_address(bytes_at(range_at(0, 1).base + 4711)), 0x80030000u + 4711);
  EXPECT_EQ(allocator_->device_address(bytes_at(range_at(kMiBytes, 1).base)).error(),
            Error::kNotFound);
  const std::uintptr_t grown = allocate(100);
  EXPECT_EQ(allocator_->device_address(bytes_at(grown)).error(), Error::kNotFound);
  EXPECT_EQ(allocator_->device_address(bytes_at(port_.enclave().base)).error(), Error::kNotFound);
}

TEST_F(PlacementTest, ManyTagsAndPoolsAreFoundByTheirOwn) {
  constexpr std::size_t kPools = 300;
  std::vector<RegionId> ids;
  for (std::size_t i = 0; i < kPools; ++i) {
    AttachOptions options;
    options.device = static_cast<DeviceTag>(1 + i % 100);
    ids.push_back(attach(range_at(i * kMiBytes, 64 * kKiBytes), options));
  }
  for (std::size_t i = 0; i < kPools; ++i) {
    const std::uintptr_t block = allocate(100, 16, Placement::in_pool(ids[i]));
    EXPECT_TRUE(range_at(i * kMiBytes, 64 * kKiBytes).contains(block));
    const std::uintptr_t other =
        allocate(100, 16, Placement::on_device(static_cast<DeviceTag>(1 + i % 100)));
    EXPECT_EQ((other - FakePort::kAttachBase) / kMiBytes % 100, i % 100);
  }
  for (std::size_t i = 0; i < kPools; ++i) {
    EXPECT_TRUE(
        allocator_->detach(range_at(i * kMiBytes, 64 * kKiBytes), DetachMode::kRevoke).ok());
  }
}

TEST_F(PlacementTest, ValidateAsksForTheProtection) {
  attach_mapping(range_at(0, kMiBytes), Protection::kRead);
  const std::uintptr_t at = range_at(0, 1).base;
  EXPECT_TRUE(allocator_->validate(at, 100, Protection::kRead).ok());
  EXPECT_EQ(allocator_->validate(at, 100).error(), Error::kNotPermitted);
  EXPECT_EQ(allocator_->validate(at, 100, Protection::kWrite).error(), Error::kNotPermitted);
  EXPECT_EQ(allocator_->validate(at, 2 * kMiBytes, Protection::kRead).error(), Error::kNotFound);
  EXPECT_TRUE(allocator_->validate(at, 0, Protection::kNone).ok());
}

}  // namespace
}  // namespace exclave
