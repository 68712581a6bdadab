// Every bad free is told, changes nothing, and is told to the handler. THREATS 41 to 43, and 31.
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class BadFreesTest : public FakeAllocatorTest {
 protected:
  // The free answers so, the handler is told the same, and nothing moved.
  void expect_refused(std::uintptr_t block, Error expected) {
    const Statistics before = statistics();
    const std::size_t told = misuses_.size();
    EXPECT_EQ(free(block), expected) << std::hex << block;
    expect_unchanged(before, told, block, expected, 0);
  }
  void expect_refused(std::uintptr_t block, std::size_t size, std::size_t alignment,
                      Error expected) {
    const Statistics before = statistics();
    const std::size_t told = misuses_.size();
    EXPECT_EQ(free(block, size, alignment), expected)
        << std::hex << block << ", " << size << " at " << alignment;
    expect_unchanged(before, told, block, expected, size);
  }
  void expect_unchanged(const Statistics& before, std::size_t told, std::uintptr_t block,
                        Error expected, std::size_t size) {
    const Statistics after = statistics();
    EXPECT_EQ(after.live_bytes, before.live_bytes);
    EXPECT_EQ(after.live_blocks, before.live_blocks);
    EXPECT_EQ(after.misuse_refused, before.misuse_refused + 1);
    EXPECT_TRUE(allocator_->validate_books());
    ASSERT_EQ(misuses_.size(), told + 1);
    EXPECT_EQ(misuses_.back().error, expected);
    EXPECT_EQ(misuses_.back().address, block);
    EXPECT_EQ(misuses_.back().size_bytes, size);
  }
};

// Small ones in slabs, and whole pages; grown, and in a pool.
class BadFreesEverywhereTest : public BadFreesTest,
                               public testing::WithParamInterface<std::tuple<std::size_t, bool>> {
 protected:
  void SetUp() override {
    BadFreesTest::SetUp();
    size_ = std::get<0>(GetParam());
    if (std::get<1>(GetParam())) where_ = Placement::in_pool(attach(range_at(0, 4 * kMiBytes)));
    // A neighbour on either side.
    neighbours_.push_back(BadFreesTest::allocate(size_, 16, where_));
    block_ = BadFreesTest::allocate(size_, 16, where_);
    neighbours_.push_back(BadFreesTest::allocate(size_, 16, where_));
    ASSERT_NE(block_, 0u);
  }

  std::size_t size_ = 0;
  Placement where_;
  std::uintptr_t block_ = 0;
  std::vector<std::uintptr_t> neighbours_;
};

TEST_P(BadFreesEverywhereTest, Threat41DoubleFreeBySameThread) {
  EXPECT_EQ(free(block_), Error::kNone);
  expect_refused(block_, Error::kDoubleFree);
  expect_refused(block_, Error::kDoubleFree);
  expect_refused(block_, size_, 16, Error::kDoubleFree);
}

TEST_P(BadFreesEverywhereTest, Threat41DoubleFreeByAnotherThread) {
  EXPECT_EQ(free(block_), Error::kNone);
  std::thread([&] { expect_refused(block_, Error::kDoubleFree); }).join();
}

TEST_P(BadFreesEverywhereTest, Threat41FreedByAnotherThreadThenByTheOwner) {
  std::thread([&] {
    EXPECT_EQ(free(block_), Error::kNone);
    expect_refused(block_, Error::kDoubleFree);
  }).join();
  expect_refused(block_, Error::kDoubleFree);
  allocator_->flush_thread();
  EXPECT_NE(free(block_), Error::kNone);
}

TEST_P(BadFreesEverywhereTest, Threat41DoubleFreeAfterAFlush) {
  EXPECT_EQ(free(block_), Error::kNone);
  allocator_->flush_thread();
  expect_refused(block_, Error::kDoubleFree);
}

TEST_P(BadFreesEverywhereTest, Threat42InteriorPointers) {
  for (const std::size_t offset :
       {std::size_t{1}, std::size_t{8}, std::size_t{15}, size_ / 2, size_ - 1}) {
    if (offset == 0) continue;
    expect_refused(block_ + offset, Error::kInteriorFree);
  }
  EXPECT_EQ(free(block_), Error::kNone);
}

TEST_P(BadFreesEverywhereTest, Threat43WrongSizesAndAlignments) {
  const std::size_t wrong_sizes[] = {size_ * 2, size_ / 2, size_ + size_ / 2 + 16, 0, SIZE_MAX};
  for (const std::size_t wrong : wrong_sizes) {
    expect_refused(block_, wrong, 16, Error::kWrongSize);
  }
  expect_refused(block_, size_, 3, Error::kWrongSize);
  expect_refused(block_, size_, 0, Error::kWrongSize);
  expect_refused(block_, size_, kGiBytes, Error::kWrongSize);
  EXPECT_EQ(free(block_, size_), Error::kNone);
}

// Slots of one page and a quarter: no run of one page, though they hold one, and though some of
// them lie at the alignment that only runs have.
TEST_F(BadFreesTest, Threat43ASlotIsNoRunOfPages) {
  std::vector<std::uintptr_t> blocks;
  std::size_t aligned = 0;
  for (int i = 0; i < 64; ++i) {
    const std::uintptr_t block = allocate(5120);
    ASSERT_EQ(usable(block), 5120u);
    blocks.push_back(block);
    if (block % 8192 != 0) continue;
    ++aligned;
    expect_refused(block, 4096, 8192, Error::kWrongSize);
  }
  EXPECT_GT(aligned, 0u);
  for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block, 5120), Error::kNone);
}

TEST_P(BadFreesEverywhereTest, UsableSizeAndRegionTellWithoutTheHandler) {
  EXPECT_EQ(free(block_), Error::kNone);
  EXPECT_EQ(allocator_->usable_size(bytes_at(block_)).error(), Error::kDoubleFree);
  EXPECT_EQ(allocator_->region_of(bytes_at(block_)).error(), Error::kDoubleFree);
  EXPECT_EQ(allocator_->usable_size(bytes_at(neighbours_[0] + 8)).error(), Error::kInteriorFree);
  EXPECT_EQ(allocator_->usable_size(bytes_at(0x1000)).error(), Error::kForeignFree);
  EXPECT_TRUE(misuses_.empty());
}

INSTANTIATE_TEST_SUITE_P(Sizes, BadFreesEverywhereTest,
                         testing::Combine(testing::Values(std::size_t{64}, std::size_t{5000},
                                                          std::size_t{32768}, std::size_t{100000},
                                                          std::size_t{14 * 4096}),
                                          testing::Bool()));

TEST_F(BadFreesTest, NullIsNoBlock) {
  EXPECT_EQ(free(0), Error::kNone);
  EXPECT_EQ(free(0, 100), Error::kNone);
  EXPECT_TRUE(misuses_.empty());
}

TEST_F(BadFreesTest, Threat42ForeignAddresses) {
  const std::uintptr_t block = allocate(64);
  int on_the_stack = 0;
  const std::uintptr_t foreign[] = {
      1,
      16,
      0x1000,
      UINTPTR_MAX,
      UINTPTR_MAX - 15,
      std::uintptr_t{1} << 47,
      0x8000000000000000,
      port_.enclave().base,
      port_.enclave().base + 4096,
      reinterpret_cast<std::uintptr_t>(&on_the_stack),
      FakePort::kAttachBase,
      block + (std::uintptr_t{1} << 40),
  };
  for (const std::uintptr_t address : foreign) expect_refused(address, Error::kForeignFree);
}

TEST_F(BadFreesTest, Threat42NeverHandedOut) {
  const std::uintptr_t block = allocate(64);
  // The slab's later slots, its tail, and free pages behind it.
  expect_refused(block + 64, Error::kDoubleFree);
  expect_refused(block + 640, Error::kDoubleFree);
  expect_refused(block + 2 * kMiBytes, Error::kDoubleFree);
  const std::uintptr_t odd = allocate(4100);  // 4608-byte slots, whose slabs have tails
  for (std::uintptr_t at = odd + 4608; at < odd + 28 * 4608 + 2000; at += 1231) {
    EXPECT_NE(free(at), Error::kNone) << at - odd;
  }
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(BadFreesTest, MappingsAndForbiddenWindowsHoldNoBlocks) {
  attach_mapping(range_at(0, kMiBytes));
  AttachOptions options;
  options.role = Role::kForbidden;
  attach(range_at(2 * kMiBytes, kMiBytes), options);
  expect_refused(range_at(0, 1).base, Error::kForeignFree);
  expect_refused(range_at(4096, 1).base, Error::kForeignFree);
  expect_refused(range_at(2 * kMiBytes, 1).base, Error::kForeignFree);
}

TEST_F(BadFreesTest, Threat31FreeAfterRevokeHurtsNothing) {
  const Extent range = range_at(0, kMiBytes);
  const RegionId id = attach(range);
  const std::uintptr_t small = allocate(64, 16, Placement::in_pool(id));
  const std::uintptr_t large = allocate(50000, 16, Placement::in_pool(id));
  EXPECT_TRUE(allocator_->detach(range, DetachMode::kRevoke).ok());
  expect_refused(small, Error::kForeignFree);
  expect_refused(large, Error::kForeignFree);
  EXPECT_EQ(allocator_->deallocate_handle(bytes_at(small), id).error(), Error::kStale);
  // The same place, another life.
  const RegionId again = attach(range);
  EXPECT_EQ(free(small), Error::kDoubleFree);
  EXPECT_EQ(free(large), Error::kDoubleFree);
  const std::uintptr_t reused = allocate(64, 16, Placement::in_pool(again));
  EXPECT_EQ(reused, small);
  const std::size_t told = misuses_.size();
  EXPECT_EQ(allocator_->deallocate_handle(bytes_at(small), id).error(), Error::kStale);
  EXPECT_EQ(misuses_.size(), told) << "handles are told alone";
  EXPECT_EQ(usable(reused), 64u);
  EXPECT_TRUE(allocator_->deallocate_handle(bytes_at(small), again).ok());
}

TEST_F(BadFreesTest, GivenBackMemoryIsForeign) {
  const std::uintptr_t block = allocate(kMiBytes);
  EXPECT_EQ(free(block), Error::kNone);
  allocator_->trim();
  expect_refused(block, Error::kForeignFree);
}

TEST_F(BadFreesTest, HandlerMayCallBackIn) {
  struct Context {
    Allocator* allocator;
    std::uintptr_t to_free;
    int calls = 0;
  } context{nullptr, 0};
  Config config;
  config.misuse = [](void* c, std::int32_t, std::uintptr_t, std::size_t) {
    Context& mine = *static_cast<Context*>(c);
    mine.calls += 1;
    EXPECT_TRUE(mine.allocator->deallocate(bytes_at(mine.to_free)).ok());
    const Result<untrusted_bytes> block = mine.allocator->allocate(200000);
    EXPECT_TRUE(block.ok());
    EXPECT_TRUE(mine.allocator->deallocate(*block).ok());
  };
  config.misuse_context = &context;
  auto made = Allocator::create(port_.table(), config);
  ASSERT_TRUE(made.ok());
  Allocator& allocator = *made;
  context.allocator = &allocator;
  for (const std::size_t size : {64u, 100000u}) {
    context.to_free = allocator.allocate(64)->address();
    const untrusted_bytes block = *allocator.allocate(size);
    EXPECT_TRUE(allocator.deallocate(block).ok());
    EXPECT_EQ(allocator.deallocate(block).error(), Error::kDoubleFree);
  }
  EXPECT_EQ(context.calls, 2);
  EXPECT_TRUE(allocator.validate_books());
}

TEST_F(BadFreesTest, WithoutAHandlerTheErrorIsTheAnswer) {
  auto made = Allocator::create(port_.table());
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(made->deallocate(bytes_at(0x5000)).error(), Error::kForeignFree);
}

TEST_F(BadFreesTest, Threat41AHandleIsToldLikeAPointer) {
  const Extent range = range_at(0, kMiBytes);
  const RegionId id = attach(range);
  const auto free_handle = [&](std::uintptr_t at, RegionId region) {
    return allocator_->deallocate_handle(bytes_at(at), region).error();
  };
  for (const std::size_t size : {std::size_t{100}, std::size_t{40000}}) {
    const std::uintptr_t block = allocate(size, 16, Placement::in_pool(id));
    EXPECT_EQ(free_handle(block + 8, id), Error::kInteriorFree) << size;
    EXPECT_EQ(free_handle(block, RegionId{id.value + 1}), Error::kStale) << size;
    EXPECT_EQ(free_handle(block, id), Error::kNone) << size;
    EXPECT_EQ(free_handle(block, id), Error::kDoubleFree) << size;
  }
  EXPECT_EQ(misuses_.size(), 4u) << "a stale handle is no misuse";
  const Extent mapped = range_at(4 * kMiBytes, kPageBytes);
  EXPECT_EQ(free_handle(mapped.base, attach_mapping(mapped)), Error::kForeignFree);
  // The last block of a draining pool goes by its handle, too.
  const std::uintptr_t last = allocate(100, 16, Placement::in_pool(id));
  EXPECT_TRUE(allocator_->detach(range, DetachMode::kDrain).ok());
  EXPECT_EQ(free_handle(last, id), Error::kNone);
  EXPECT_EQ(allocator_->query(range.base, 1).error(), Error::kNotFound);
  EXPECT_TRUE(allocator_->detach(mapped).ok());
}

}  // namespace
}  // namespace exclave
