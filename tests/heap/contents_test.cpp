// What the allocator writes into blocks, on real memory: zeros, copies when a block moves, and
// scrubbing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "exclave/process_port.hpp"
#include "heap/core.hpp"
#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class ContentsTest : public testing::Test {
 protected:
  void SetUp() override {
    const Result<ProcessPort*> port = ProcessPort::create();
    ASSERT_TRUE(port.ok());
    port_ = *port;
    start({});
  }
  void start(const Config& config) {
    allocator_.reset();
    auto made = Allocator::create(port_->table(), config);
    ASSERT_TRUE(made.ok());
    allocator_.emplace(std::move(made.value()));
  }
  void TearDown() override {
    if (allocator_) {
      EXPECT_TRUE(allocator_->validate_books());
    }
    allocator_.reset();
    if (port_ != nullptr) ProcessPort::destroy(port_);
  }
  static unsigned char* raw(untrusted_bytes block) {
    return static_cast<unsigned char*>(block.unsafe_raw());
  }
  static void fill(untrusted_bytes block, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) raw(block)[i] = static_cast<unsigned char>(i * 7 + 1);
  }
  static bool filled(untrusted_bytes block, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) {
      if (raw(block)[i] != static_cast<unsigned char>(i * 7 + 1)) return false;
    }
    return true;
  }
  static bool zero(untrusted_bytes block, std::size_t first, std::size_t end) {
    for (std::size_t i = first; i < end; ++i) {
      if (raw(block)[i] != 0) return false;
    }
    return true;
  }
  Config scrubbing() {
    Config config;
    config.scrub_on_free = true;
    return config;
  }

  ProcessPort* port_ = nullptr;
  std::optional<Allocator> allocator_;
};

TEST_F(ContentsTest, ZeroedBlocksAreZeroWhateverStoodThere) {
  for (const std::size_t size : {1u, 7u, 8u, 9u, 100u, 4096u, 30000u, 33000u, 100001u}) {
    const untrusted_bytes dirty = *allocator_->allocate(size);
    std::memset(raw(dirty), 0xee, *allocator_->usable_size(dirty));
    EXPECT_TRUE(allocator_->deallocate(dirty).ok());
    const untrusted_bytes block = *allocator_->allocate_zeroed(size);
    EXPECT_EQ(block, dirty) << "the same memory";
    EXPECT_TRUE(zero(block, 0, size)) << size;
    EXPECT_TRUE(allocator_->deallocate(block).ok());
  }
}

TEST_F(ContentsTest, ZeroingStaysInsideTheBlock) {
  const untrusted_bytes low = *allocator_->allocate(16);
  const untrusted_bytes middle = *allocator_->allocate(16);
  const untrusted_bytes high = *allocator_->allocate(16);
  ASSERT_EQ(high.address(), middle.address() + 16);
  std::memset(raw(low), 0x11, 48);
  EXPECT_TRUE(allocator_->deallocate(middle).ok());
  EXPECT_EQ(*allocator_->allocate_zeroed(3), middle);
  EXPECT_TRUE(zero(middle, 0, 8));
  EXPECT_EQ(raw(low)[15], 0x11);
  EXPECT_EQ(raw(high)[0], 0x11);
}

TEST_F(ContentsTest, ZeroedErrorsAreThoseOfAllocate) {
  EXPECT_EQ(allocator_->allocate_zeroed(0).error(), Error::kInvalidArgument);
  EXPECT_EQ(allocator_->allocate_zeroed(SIZE_MAX).error(), Error::kInvalidArgument);
  EXPECT_EQ(allocator_->allocate_zeroed(8, 3).error(), Error::kInvalidArgument);
}

TEST_F(ContentsTest, ReallocateTakesTheContentsAlong) {
  for (const std::size_t from : {1u, 13u, 100u, 5000u, 40000u, 200000u}) {
    for (const std::size_t to : {1u, 8u, 300u, 4000u, 33000u, 500000u}) {
      const untrusted_bytes block = *allocator_->allocate(from);
      fill(block, from);
      const Result<untrusted_bytes> moved = allocator_->reallocate(block, to);
      ASSERT_TRUE(moved.ok());
      EXPECT_TRUE(filled(*moved, std::min(from, to))) << from << " to " << to;
      EXPECT_GE(*allocator_->usable_size(*moved), to);
      if (*moved != block) {
        EXPECT_EQ(allocator_->deallocate(block).error(), Error::kDoubleFree);
      }
      EXPECT_TRUE(allocator_->deallocate(*moved, to).ok());
    }
  }
}

TEST_F(ContentsTest, ReallocateMovesForAnAlignment) {
  untrusted_bytes block = *allocator_->allocate(100);
  if (block.address() % 4096 == 0) block = *allocator_->allocate(100);
  fill(block, 100);
  const Result<untrusted_bytes> moved = allocator_->reallocate(block, 100, 4096);
  ASSERT_TRUE(moved.ok());
  EXPECT_EQ(moved->address() % 4096, 0u);
  EXPECT_TRUE(filled(*moved, 100));
}

TEST_F(ContentsTest, ReallocateThatFailsLeavesTheBlock) {
  Config config;
  config.quota_bytes = 4 * kMiBytes;
  start(config);
  const untrusted_bytes block = *allocator_->allocate(1000);
  fill(block, 1000);
  EXPECT_EQ(allocator_->reallocate(block, 64 * kMiBytes).error(), Error::kQuota);
  EXPECT_TRUE(filled(block, 1000));
  EXPECT_TRUE(allocator_->deallocate(block, 1000).ok());
}

TEST_F(ContentsTest, ReallocateStaysInItsPoolAndMovesWhenAnotherIsAskedFor) {
  // Memory of our own for two pools.
  static unsigned char memory[2 * kMiBytes] __attribute__((aligned(4096)));
  const Extent first{reinterpret_cast<std::uintptr_t>(memory), kMiBytes};
  const Extent second{first.end(), kMiBytes};
  const RegionId one = *allocator_->attach(first);
  const RegionId other = *allocator_->attach(second);
  untrusted_bytes block = *allocator_->allocate(100, 16, Placement::in_pool(one));
  fill(block, 100);
  block = *allocator_->reallocate(block, 50000);
  EXPECT_TRUE(first.contains(block.address()));
  EXPECT_TRUE(filled(block, 100));
  block = *allocator_->reallocate(block, 70000, 16, Placement::in_pool(other));
  EXPECT_TRUE(second.contains(block.address()));
  EXPECT_TRUE(filled(block, 100));
  EXPECT_TRUE(allocator_->deallocate(block).ok());
  EXPECT_TRUE(allocator_->detach(first).ok());
  EXPECT_TRUE(allocator_->detach(second).ok());
}

TEST_F(ContentsTest, ReallocateOfAPinnedBlockMovesAndKeepsTheOld) {
  const untrusted_bytes block = *allocator_->allocate(100000);
  fill(block, 100000);
  const PinId pin = *allocator_->pin({block.address(), 10});
  EXPECT_EQ(*allocator_->reallocate(block, 99999), block) << "as many pages as before";
  const Result<untrusted_bytes> moved = allocator_->reallocate(block, 50000);
  ASSERT_TRUE(moved.ok());
  EXPECT_NE(*moved, block);
  EXPECT_TRUE(filled(*moved, 50000));
  EXPECT_EQ(allocator_->deallocate(block).error(), Error::kDoubleFree);
  EXPECT_TRUE(allocator_->unpin(pin).ok());
}

TEST_F(ContentsTest, ScrubbedBlocksAreZeroAfterTheFree) {
  start(scrubbing());
  for (const std::size_t size : {1u, 100u, 5000u, 32768u, 40000u, 300000u}) {
    const untrusted_bytes block = *allocator_->allocate(size);
    const std::size_t usable = *allocator_->usable_size(block);
    std::memset(raw(block), 0xaa, usable);
    EXPECT_TRUE(allocator_->deallocate(block).ok());
    EXPECT_TRUE(zero(block, 0, usable)) << size;
  }
}

// Blocks that come again come scrubbed, from the stack of their class and from kept runs alike.
TEST_F(ContentsTest, ScrubbedBlocksAreZeroWhenTheyComeAgain) {
  start(scrubbing());
  for (const std::size_t size : {64u, 5000u, 65536u, 100000u, 300000u}) {
    untrusted_bytes before{};
    for (int round = 0; round < 5; ++round) {
      const untrusted_bytes block = *allocator_->allocate(size);
      const std::size_t usable = *allocator_->usable_size(block);
      if (round != 0) {
        EXPECT_EQ(block, before) << size;
      }
      EXPECT_TRUE(zero(block, 0, usable)) << size;
      std::memset(raw(block), 0xaa, usable);
      // Freed with and without its size.
      EXPECT_TRUE(
          (round % 2 == 0 ? allocator_->deallocate(block) : allocator_->deallocate(block, size))
              .ok());
      EXPECT_EQ(allocator_->deallocate(block).error(), Error::kDoubleFree);
      before = block;
    }
  }
}

TEST_F(ContentsTest, BadFreesScrubNothing) {
  start(scrubbing());
  const untrusted_bytes block = *allocator_->allocate(256);
  fill(block, 256);
  EXPECT_EQ(allocator_->deallocate(bytes_at(block.address() + 16)).error(), Error::kInteriorFree);
  EXPECT_EQ(allocator_->deallocate(block, 4000).error(), Error::kWrongSize);
  EXPECT_TRUE(filled(block, 256));
}

TEST_F(ContentsTest, AHandleFreesAPoolsBlockScrubbed) {
  start(scrubbing());
  static unsigned char memory[kMiBytes] __attribute__((aligned(4096)));
  const Extent place{reinterpret_cast<std::uintptr_t>(memory), kMiBytes};
  const RegionId id = *allocator_->attach(place);
  for (const std::size_t size : {100u, 40000u, 100000u}) {
    const untrusted_bytes block = *allocator_->allocate(size, 16, Placement::in_pool(id));
    std::memset(raw(block), 0xaa, size);
    EXPECT_TRUE(allocator_->deallocate_handle(block, id).ok());
    EXPECT_TRUE(zero(block, 0, size)) << size;
    EXPECT_EQ(allocator_->deallocate_handle(block, id).error(), Error::kDoubleFree) << size;
    const untrusted_bytes pinned = *allocator_->allocate(size, 16, Placement::in_pool(id));
    std::memset(raw(pinned), 0xaa, size);
    const PinId pin = *allocator_->pin({pinned.address(), 8});
    EXPECT_TRUE(allocator_->deallocate_handle(pinned, id).ok());
    EXPECT_EQ(raw(pinned)[0], 0xaa) << "a device may still read it";
    EXPECT_TRUE(allocator_->unpin(pin).ok());
    EXPECT_TRUE(zero(pinned, 0, size)) << size;
  }
  EXPECT_TRUE(allocator_->detach(place).ok());
}

TEST_F(ContentsTest, PinnedBlocksAreScrubbedWhenTheyReallyGo) {
  start(scrubbing());
  for (const std::size_t size : {100u, 100000u}) {
    const untrusted_bytes block = *allocator_->allocate(size);
    fill(block, size);
    const PinId pin = *allocator_->pin({block.address(), 1});
    EXPECT_TRUE(allocator_->deallocate(block).ok());
    EXPECT_TRUE(filled(block, size)) << "a device may still work on " << size;
    EXPECT_TRUE(allocator_->unpin(pin).ok());
    EXPECT_TRUE(zero(block, 0, size)) << size;
  }
}

TEST_F(ContentsTest, TheTailThatAShrinkingBlockLosesIsScrubbed) {
  start(scrubbing());
  const untrusted_bytes block = *allocator_->allocate(200000);
  fill(block, 200000);
  const Result<untrusted_bytes> shrunk = allocator_->reallocate(block, 70000);
  ASSERT_TRUE(shrunk.ok());
  ASSERT_EQ(*shrunk, block);
  EXPECT_TRUE(filled(block, 70000));
  EXPECT_TRUE(zero(block, 81920, 200000));
}

class ReallocateInPoolsTest : public ContentsTest {
 protected:
  static constexpr std::size_t kPoolBytes = kMiBytes;

  void SetUp() override {
    ContentsTest::SetUp();
    static unsigned char memory[2 * kPoolBytes] __attribute__((aligned(kPoolBytes)));
    std::memset(memory, 0x55, sizeof memory);
    first_ = {reinterpret_cast<std::uintptr_t>(memory), kPoolBytes};
    second_ = {first_.end(), kPoolBytes};
  }
  RegionId attach(Extent range, DeviceTag device, std::size_t largest_block) {
    AttachOptions options;
    options.device = device;
    options.largest_block = largest_block;
    return *allocator_->attach(range, options);
  }
  Result<untrusted_bytes> resize(untrusted_bytes block, std::size_t size, Placement where = {}) {
    return allocator_->reallocate(block, size, 16, where);
  }

  Extent first_, second_;
};

TEST_F(ReallocateInPoolsTest, ABlockStaysOnlyWhereItCouldBePlaced) {
  for (const std::size_t size : {5000u, 90000u}) {
    const RegionId here = attach(first_, 3, size);
    const RegionId there = attach(second_, 4, 0);
    untrusted_bytes block = *allocator_->allocate(size, 16, Placement::in_pool(here));
    fill(block, size);
    // It fits in place, and is longer than the pool may give.
    EXPECT_EQ(resize(block, size + 50).error(), Error::kOutOfMemory);
    for (const Placement where :
         {Placement::anywhere(), Placement::in_pool(here), Placement::on_device(3)}) {
      EXPECT_EQ(*resize(block, size - 8, where), block);
    }
    // What is asked for and is not there.
    for (const Placement where : {Placement::in_pool({there.value + 1}), Placement::in_pool({}),
                                  Placement::on_device(5), Placement::on_device(0)}) {
      EXPECT_EQ(resize(block, size, where).error(), Error::kNotFound);
    }
    EXPECT_TRUE(filled(block, size)) << "as it was";
    for (const Placement where : {Placement::in_pool(there), Placement::on_device(3),
                                  Placement::on_device(4), Placement::in_pool(here)}) {
      const Result<untrusted_bytes> moved = resize(block, size, where);
      ASSERT_TRUE(moved.ok());
      const bool to_first = where.device == 3 || where.pool == here;
      EXPECT_TRUE((to_first ? first_ : second_).contains(moved->address()));
      block = *moved;
      EXPECT_TRUE(filled(block, size));
    }
    EXPECT_TRUE(allocator_->deallocate(block).ok());
    // Grown memory is no pool, and on no device.
    untrusted_bytes grown = *allocator_->allocate(size);
    fill(grown, size);
    EXPECT_EQ(resize(grown, size, Placement::on_device(0)).error(), Error::kNotFound);
    EXPECT_EQ(resize(grown, size, Placement::in_pool(*allocator_->region_of(grown))).error(),
              Error::kNotFound);
    grown = *resize(grown, size, Placement::in_pool(here));
    EXPECT_TRUE(first_.contains(grown.address()));
    EXPECT_TRUE(filled(grown, size));
    EXPECT_TRUE(allocator_->deallocate(grown).ok());
    EXPECT_TRUE(allocator_->detach(first_).ok());
    EXPECT_TRUE(allocator_->detach(second_).ok());
  }
}

// No more than the old block has, and no more than the new one holds: to the word.
TEST_F(ReallocateInPoolsTest, AsMuchIsCopiedAsBothHold) {
  const RegionId here = attach(first_, 0, 0);
  const RegionId there = attach(second_, 0, 0);
  struct Sizes {
    std::size_t from, to, copied;
  };
  for (const Sizes& sizes :
       {Sizes{64, 200, 64}, Sizes{200, 64, 64}, Sizes{1000, 61, 64}, Sizes{61, 1000, 64},
        Sizes{100000, 50000, 50000}, Sizes{50000, 100000, 53248}}) {
    std::memset(raw(bytes_at(second_.base)), 0x55, kPoolBytes);
    const untrusted_bytes block = *allocator_->allocate(sizes.from, 16, Placement::in_pool(here));
    std::memset(raw(bytes_at(first_.base)), 0x33, kPoolBytes);  // its neighbours' bytes, too
    std::memset(raw(block), 0x77, *allocator_->usable_size(block));
    const untrusted_bytes moved = *resize(block, sizes.to, Placement::in_pool(there));
    const unsigned char* const bytes = raw(bytes_at(second_.base));
    EXPECT_EQ(std::count(bytes, bytes + kPoolBytes, 0x77), static_cast<long>(sizes.copied))
        << sizes.from << " to " << sizes.to;
    EXPECT_EQ(std::count(bytes, bytes + kPoolBytes, 0x55),
              static_cast<long>(kPoolBytes - sizes.copied));
    EXPECT_EQ(std::count(raw(moved), raw(moved) + sizes.copied, 0x77),
              static_cast<long>(sizes.copied));
    EXPECT_TRUE(allocator_->deallocate(moved).ok());
  }
  EXPECT_TRUE(allocator_->detach(first_).ok());
  EXPECT_TRUE(allocator_->detach(second_).ok());
}

// 33 MiB do not fit beside themselves, nor do 60.
TEST_F(ContentsTest, ABlockGrowsWhereNothingStandsBehindIt) {
  constexpr std::size_t kPool = 64 * kMiBytes;
  const HostReply memory = port_->host_reserve(kPool, kPageBytes);
  ASSERT_EQ(memory.error, 0);
  const Extent range{memory.address, kPool};
  const Placement where = Placement::in_pool(*allocator_->attach(range));
  untrusted_bytes block = *allocator_->allocate(33 * kMiBytes, 16, where);
  fill(block, 33 * kMiBytes);
  EXPECT_EQ(*allocator_->reallocate(block, 60 * kMiBytes), block);
  EXPECT_EQ(*allocator_->usable_size(block), 60 * kMiBytes);
  EXPECT_TRUE(filled(block, 33 * kMiBytes));
  // Up to the next block, and no further.
  const untrusted_bytes behind = *allocator_->allocate(kMiBytes, 16, where);
  EXPECT_EQ(allocator_->reallocate(block, 60 * kMiBytes + 1).error(), Error::kOutOfMemory);
  EXPECT_TRUE(allocator_->deallocate(behind).ok());
  EXPECT_EQ(*allocator_->reallocate(block, kPool), block);
  EXPECT_EQ(allocator_->reallocate(block, kPool + 1).error(), Error::kOutOfMemory);
  EXPECT_EQ(*allocator_->usable_size(block), kPool);
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_TRUE(allocator_->deallocate(block).ok());
  EXPECT_TRUE(allocator_->detach(range).ok());
  EXPECT_EQ(port_->host_release(range.base, range.size), 0);
}

TEST_F(ContentsTest, AGrownBlockGrowsInItsRegion) {
  untrusted_bytes block = *allocator_->allocate(100000);
  const untrusted_bytes start = block;
  fill(block, 100000);
  unsigned moves = 0;
  for (std::size_t size = 150000; size < 2 * kMiBytes; size += 50000) {
    const untrusted_bytes before = block;
    block = *allocator_->reallocate(block, size);
    moves += block != before;
    EXPECT_GE(*allocator_->usable_size(block), size);
    EXPECT_TRUE(filled(block, 100000));
  }
  EXPECT_EQ(moves, 0u);
  EXPECT_EQ(block, start);
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_TRUE(allocator_->deallocate(block).ok());
}

// Lengths are rounded so that runs of few lengths come back; not where only the length itself fits.
TEST_F(ContentsTest, ABlockGrowsToThePageWhereNoMoreIsFree) {
  const untrusted_bytes block = *allocator_->allocate(320 * kPageBytes);
  const untrusted_bytes behind = *allocator_->allocate(40 * kPageBytes);
  const untrusted_bytes fence = *allocator_->allocate(40 * kPageBytes);
  ASSERT_EQ(behind.address(), block.address() + 320 * kPageBytes);
  ASSERT_EQ(fence.address(), behind.address() + 40 * kPageBytes);
  EXPECT_TRUE(allocator_->deallocate(behind).ok());
  allocator_->trim();
  EXPECT_EQ(*allocator_->reallocate(block, 350 * kPageBytes), block);
  EXPECT_EQ(*allocator_->usable_size(block), 350 * kPageBytes) << "384 would be the rounded length";
  EXPECT_TRUE(allocator_->deallocate(block).ok());
  EXPECT_TRUE(allocator_->deallocate(fence).ok());
}

// For whoever has a better way to move a block than to copy it.
TEST_F(ContentsTest, ResizeInPlaceMovesNothing) {
  const auto resize = [this](untrusted_bytes block, std::size_t size) {
    return allocator_->core()->resize_in_place(block.address(), size).error();
  };
  untrusted_bytes block = *allocator_->allocate(100);
  EXPECT_EQ(resize(block, 0), Error::kInvalidArgument);
  EXPECT_EQ(resize(block, 101), Error::kNone) << "the slot is as large";
  EXPECT_EQ(resize(block, 1000), Error::kOutOfMemory) << "it would move";
  EXPECT_EQ(*allocator_->usable_size(block), 112u);
  EXPECT_TRUE(allocator_->deallocate(block).ok());
  EXPECT_EQ(resize(block, 100), Error::kDoubleFree);
  block = *allocator_->allocate(50 * kPageBytes);
  EXPECT_EQ(resize(block, 100 * kPageBytes), Error::kNone);
  EXPECT_GE(*allocator_->usable_size(block), 100 * kPageBytes);
  EXPECT_EQ(resize(block, kMiBytes << 20), Error::kOutOfMemory);
  EXPECT_TRUE(allocator_->deallocate(block).ok());
}

TEST_F(ReallocateInPoolsTest, ASlotThatKeepsToABoundaryStaysForEachSizeOfItsOwn) {
  AttachOptions options;
  options.boundary = kPageBytes;
  const Placement bounded = Placement::in_pool(*allocator_->attach(first_, options));
  const untrusted_bytes block = *allocator_->allocate(900, 16, bounded);
  EXPECT_EQ(*allocator_->usable_size(block), 1024u) << "a power of two crosses none";
  EXPECT_EQ(*resize(block, 800), block);
  EXPECT_EQ(*resize(block, 1024), block);
  const untrusted_bytes moved = *resize(block, 500);
  EXPECT_NE(moved, block);
  EXPECT_TRUE(allocator_->deallocate(moved).ok());
  EXPECT_TRUE(allocator_->detach(first_).ok());
}

TEST_F(ReallocateInPoolsTest, ABlockGrowsOnlyAsItCouldBePlaced) {
  AttachOptions options;
  options.boundary = 128 * kKiBytes;
  const Placement bounded = Placement::in_pool(*allocator_->attach(first_, options));
  untrusted_bytes block = *allocator_->allocate(80000, 16, bounded);
  untrusted_bytes next = *allocator_->allocate(80000, 16, bounded);
  EXPECT_TRUE(allocator_->deallocate(next).ok());
  for (const std::size_t size : {90000u, 131072u}) {
    block = *resize(block, size);
    EXPECT_EQ(block.address() / options.boundary, (block.address() + size - 1) / options.boundary);
  }
  EXPECT_EQ(resize(block, 131073).error(), Error::kOutOfMemory);
  // Whoever waits for the last block waits for one that does not grow.
  EXPECT_TRUE(allocator_->detach(first_, DetachMode::kDrain).ok());
  EXPECT_EQ(*resize(block, 80000), block);
  EXPECT_EQ(resize(block, 90000).error(), Error::kNotFound);
  EXPECT_TRUE(allocator_->deallocate(block).ok());
  // A pin holds a block as it is.
  const Placement where = Placement::in_pool(attach(second_, 0, 0));
  block = *allocator_->allocate(80000, 16, where);
  const PinId pin = *allocator_->pin({block.address(), 80000});
  const untrusted_bytes moved = *resize(block, 90000);
  EXPECT_NE(moved, block);
  EXPECT_TRUE(allocator_->unpin(pin).ok());
  EXPECT_TRUE(allocator_->deallocate(moved).ok());
  EXPECT_TRUE(allocator_->detach(second_).ok());
}

// For an alignment above a page a run is wanted, which a slot that lies well does not become.
TEST_F(ContentsTest, ReallocateOfASlotThatFailsScrubsNothing) {
  start(scrubbing());
  const HostReply memory = port_->host_reserve(64 * kPageBytes, kPageBytes);
  ASSERT_EQ(memory.error, 0);
  const Extent range{memory.address, 64 * kPageBytes};
  const Placement where = Placement::in_pool(*allocator_->attach(range));
  untrusted_bytes block;
  for (bool lies_well = false;;) {
    const Result<untrusted_bytes> next = allocator_->allocate(2 * kPageBytes, 16, where);
    if (!next.ok()) break;
    if (!lies_well) block = *next;
    lies_well |= next->address() % (2 * kPageBytes) == 0;
  }
  while (allocator_->allocate(kPageBytes, 16, where).ok()) {
  }
  ASSERT_EQ(block.address() % (2 * kPageBytes), 0u);
  fill(block, 2 * kPageBytes);
  EXPECT_EQ(allocator_->reallocate(block, kPageBytes, 2 * kPageBytes).error(), Error::kOutOfMemory);
  EXPECT_TRUE(filled(block, 2 * kPageBytes));
  EXPECT_TRUE(allocator_->detach(range, DetachMode::kRevoke).ok());
  EXPECT_EQ(port_->host_release(range.base, range.size), 0);
}

}  // namespace
}  // namespace exclave
