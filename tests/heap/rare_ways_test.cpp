// Ways that are taken once in a long while: ports out of shape, blocks that go in the middle of a
// move, two threads that free one block at the same moment.
#include <gtest/gtest.h>

#include <cerrno>
#include <thread>
#include <utility>
#include <vector>

#include "access/machine_bus.hpp"
#include "heap/core.hpp"
#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class RareWaysTest : public FakeAllocatorTest {
 protected:
  // The state of a small block, as the books have it.
  std::atomic<SlotState>& state_of(std::uintptr_t block) {
    Region* const region = [&] {
      Registry& registry = allocator_->core()->registry();
      const LockGuard guard(registry.lock());
      return registry.region_at_locked(block);
    }();
    const BookView books(port_.book_window().base);
    Slab* const slab = slab_of<Slab>(books, region->unit_of(block)->load());
    return slab->states()[slab->slot_at(block)];
  }
  // Another thread frees the block at the same moment as its owner: the owner saw kLive, the other
  // marked it, and what the owner stores next hides the mark.
  void free_by_another_and_hide_it(std::uintptr_t block) {
    std::thread([&] {
      EXPECT_EQ(free(block), Error::kNone);
      allocator_->flush_thread();
    }).join();
    ASSERT_EQ(state_of(block).load(), SlotState::kRemote);
    state_of(block).store(SlotState::kLive);
    EXPECT_EQ(free(block), Error::kNone);
  }
};

TEST_F(RareWaysTest, PortWithAnyFunctionMissingIsRefused) {
  const auto refused = [&](auto PortTable::*function) {
    PortTable table = port_.table();
    table.*function = nullptr;
    return Allocator::create(table).error();
  };
  EXPECT_EQ(refused(&PortTable::enclave), Error::kInvalidArgument);
  EXPECT_EQ(refused(&PortTable::book_window), Error::kInvalidArgument);
  EXPECT_EQ(refused(&PortTable::trusted_reserve), Error::kInvalidArgument);
  EXPECT_EQ(refused(&PortTable::trusted_release), Error::kInvalidArgument);
  EXPECT_EQ(refused(&PortTable::entropy), Error::kInvalidArgument);
  EXPECT_EQ(refused(&PortTable::host_reserve), Error::kInvalidArgument);
  EXPECT_EQ(refused(&PortTable::host_release), Error::kInvalidArgument);
  EXPECT_EQ(refused(&PortTable::host_map), Error::kInvalidArgument);
  EXPECT_EQ(refused(&PortTable::host_unmap), Error::kInvalidArgument);
  EXPECT_EQ(refused(&PortTable::host_protect), Error::kInvalidArgument);
  EXPECT_EQ(refused(&PortTable::has_avx), Error::kNone) << "that one may be missing";
}

TEST_F(RareWaysTest, WideRegistersAreUsedWhenThePortSaysSo) {
  const bool before = access::wide_registers.exchange(false);
  PortTable table = port_.table();
  table.has_avx = [](void*) { return 0; };
  EXPECT_TRUE(Allocator::create(table).ok());
  EXPECT_FALSE(access::wide_registers);
  table.has_avx = [](void*) { return 1; };
  EXPECT_TRUE(Allocator::create(table).ok());
  EXPECT_TRUE(access::wide_registers);
  access::wide_registers = before;
}

TEST_F(RareWaysTest, PortWithoutTrustedMemoryOrEntropyIsRefused) {
  port_.set_trusted_left(0);
  EXPECT_EQ(Allocator::create(port_.table()).error(), Error::kOutOfTrustedMemory);
  port_.set_trusted_left(SIZE_MAX / 2);
  PortTable table = port_.table();
  table.entropy = [](void*, void*, std::size_t) { return 5; };
  const std::size_t held = port_.trusted_held();
  EXPECT_EQ(Allocator::create(table).error(), Error::kInvalidArgument);
  EXPECT_EQ(port_.trusted_held(), held);
}

TEST_F(RareWaysTest, BookWindowOutsideTheEnclaveIsRefusedAndNothingIsKept) {
  const std::size_t held = port_.trusted_held();
  PortTable table = port_.table();
  table.book_window = [](void*) -> exclave_extent { return {kPageBytes, kPageBytes}; };
  EXPECT_EQ(Allocator::create(table).error(), Error::kInvalidArgument);
  EXPECT_EQ(port_.trusted_held(), held);
}

TEST_F(RareWaysTest, AllocatorMovedOntoItselfAndOntoAnother) {
  const std::uintptr_t block = allocate(64);
  Allocator& same = *allocator_;
  *allocator_ = std::move(same);
  EXPECT_EQ(free(block), Error::kNone);
  auto second = Allocator::create(port_.table());
  ASSERT_TRUE(second.ok());
  const std::size_t held = port_.trusted_held();
  Allocator empty;
  empty = std::move(*second);
  *allocator_ = std::move(empty);
  EXPECT_LT(port_.trusted_held(), held) << "what it had before is gone";
  EXPECT_NE(allocate(64), 0u);
}

// ---- Two frees of one block at the same moment ----

TEST_F(RareWaysTest, FreeHiddenByItsOwnersIsToldWhenTheBatchIsFolded) {
  const std::uintptr_t block = allocate(64);
  free_by_another_and_hide_it(block);
  EXPECT_TRUE(misuses_.empty()) << "nobody can know yet";
  allocator_->flush_thread();
  ASSERT_EQ(misuses_.size(), 1u);
  EXPECT_EQ(misuses_[0].error, Error::kDoubleFree);
  EXPECT_EQ(misuses_[0].address, block);
  EXPECT_EQ(statistics().misuse_refused, 1u);
  EXPECT_EQ(statistics().live_blocks, 0u);
}

TEST_F(RareWaysTest, FreeHiddenByItsOwnersIsToldWhenTheOwnerEnds) {
  std::uintptr_t block = 0;
  std::thread([&] {
    block = allocate(64);
    free_by_another_and_hide_it(block);
  }).join();
  ASSERT_EQ(misuses_.size(), 1u);
  EXPECT_EQ(misuses_[0].error, Error::kDoubleFree);
  EXPECT_EQ(misuses_[0].address, block);
}

TEST_F(RareWaysTest, APinThatAFreeWentOverHoldsNothing) {
  const std::uintptr_t block = allocate(64);
  const PinId late = pin({block, 8});
  // The free saw it live before the pin.
  state_of(block).store(SlotState::kLive);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_TRUE(allocator_->unpin(late).ok());
  EXPECT_EQ(state_of(block).load(), SlotState::kCached) << "neither live nor free twice";
  EXPECT_EQ(allocate(64), block);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(statistics().live_blocks, 0u);
}

// ---- Moves ----

TEST_F(RareWaysTest, BlockThatTheRescueFreesInTheMiddleOfItsMoveIsTold) {
  struct Context {
    RareWaysTest* test;
    std::vector<std::uintptr_t> blocks;
  } context{this, {}};
  Config config;
  config.rescue = [](void* c, std::size_t) {
    Context& mine = *static_cast<Context*>(c);
    for (const std::uintptr_t block : mine.blocks) EXPECT_EQ(mine.test->free(block), Error::kNone);
    return !std::exchange(mine.blocks, {}).empty();
  };
  config.rescue_context = &context;
  start(config);
  alignas(64 * kPageBytes) static std::byte memory[64 * kPageBytes];
  const Extent range{reinterpret_cast<std::uintptr_t>(memory), sizeof memory};
  const Placement where = Placement::in_pool(attach(range));
  const std::uintptr_t first = allocate(40 * kPageBytes, 16, where);
  const std::uintptr_t block = allocate(18 * kPageBytes, 16, where);
  ASSERT_LT(first, block) << "so the new block comes to stand where the first was";
  context.blocks = {first, block};
  EXPECT_EQ(allocator_->reallocate(bytes_at(block), 30 * kPageBytes).error(), Error::kDoubleFree);
  EXPECT_EQ(statistics().live_blocks, 0u) << "the new block went, too";
  EXPECT_TRUE(allocator_->detach(range).ok());
}

TEST_F(RareWaysTest, PinnedPagesAreNotCutShortInPlace) {
  alignas(kPageBytes) static std::byte memory[64 * kPageBytes];
  const Extent range{reinterpret_cast<std::uintptr_t>(memory), sizeof memory};
  const Placement where = Placement::in_pool(attach(range));
  const std::uintptr_t block = allocate(20 * kPageBytes, 16, where);
  const PinId held = pin({block, 100});
  const auto moved = allocator_->reallocate(bytes_at(block), 17 * kPageBytes);
  ASSERT_TRUE(moved.ok());
  EXPECT_NE(moved->address(), block) << "a device may still write to all of it";
  EXPECT_TRUE(allocator_->unpin(held).ok());
  EXPECT_EQ(free(moved->address()), Error::kNone);
  EXPECT_TRUE(allocator_->detach(range).ok());
}

// ---- Lies ----

TEST_F(RareWaysTest, LiesAreCountedAndNotGivenBack) {
  Config config;
  config.grow_min_bytes = config.grow_max_bytes = kMiBytes;
  static HostReply reply;
  PortTable table = port_.table();
  table.host_reserve = [](void*, std::size_t, std::size_t) { return reply; };
  auto made = Allocator::create(table, config);
  ASSERT_TRUE(made.ok());
  ASSERT_TRUE(made->attach(range_at(0, 2 * kMiBytes)).ok());
  reply = {range_at(0, 1).base, 0};
  EXPECT_EQ(made->allocate(kMiBytes).error(), Error::kHostLied) << "something stands there";
  EXPECT_EQ(made->statistics().lies_refused, 1u);
  reply = {range_at(8 * kMiBytes, 1).base + 8, 0};
  EXPECT_EQ(made->allocate(kMiBytes).error(), Error::kHostLied) << "not a page's address";
  EXPECT_EQ(made->statistics().lies_refused, 2u);
  reply = {0, ENOMEM};
  EXPECT_EQ(made->allocate(kMiBytes).error(), Error::kHostRefused) << "which it may";
  EXPECT_EQ(made->statistics().lies_refused, 2u);
  EXPECT_EQ(port_.release_calls(), 0u);
}

TEST_F(RareWaysTest, OverlapIsALieAlsoWhenThereAreNoBooksToSeeItWith) {
  Config config;
  config.grow_min_bytes = config.grow_max_bytes = kMiBytes;
  start(config);
  leftovers_expected_ = true;
  PortTable table = port_.table();
  static std::uintptr_t known;
  table.host_reserve = [](void*, std::size_t, std::size_t) -> HostReply { return {known, 0}; };
  auto made = Allocator::create(table, config);
  ASSERT_TRUE(made.ok());
  known = FakePort::kAttachBase;
  ASSERT_TRUE(made->attach({known, 2 * kMiBytes}).ok());
  port_.set_trusted_left(0);
  for (std::size_t i = 1;; ++i) {
    AttachOptions options;
    options.role = Role::kMapping;
    if (!made->attach(range_at(i * 4 * kMiBytes, kPageBytes), options).ok()) break;
  }
  // The last ones share a segment: not a line is left.
  for (std::size_t i = 2;; i += 2) {
    AttachOptions options;
    options.role = Role::kMapping;
    if (!made->attach(range_at(4 * kMiBytes + i * kPageBytes, kPageBytes), options).ok()) break;
  }
  EXPECT_EQ(made->allocate(kMiBytes).error(), Error::kHostLied);
  EXPECT_EQ(made->statistics().lies_refused, 1u);
  // Nor the book of a region, in which a place would be looked up.
  for (std::size_t i = 1; i < 500; ++i) {
    AttachOptions options;
    options.role = Role::kMapping;
    const Extent page = range_at(4 * kMiBytes + i * 2 * kPageBytes, kPageBytes);
    if (!made->attach(page, options).ok()) break;
  }
  EXPECT_EQ(made->allocate(kMiBytes).error(), Error::kHostLied);
  EXPECT_EQ(made->statistics().lies_refused, 2u);
  EXPECT_EQ(port_.release_calls(), 0u) << "what stands there is not for us to give back";
  port_.set_trusted_left(SIZE_MAX / 2);
  EXPECT_TRUE(made->validate_books());
}

}  // namespace
}  // namespace exclave
