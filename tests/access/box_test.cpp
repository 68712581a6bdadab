#include "exclave/box.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "exclave/process_port.hpp"
#include "guarded_memory.hpp"

namespace {

struct Order {
  std::uint32_t id;
  std::uint8_t code[7];
  std::uint8_t kind;
};
struct Odd {
  std::uint8_t bytes[13];
};

}  // namespace

EXCLAVE_BOUNDARY_SAFE(Order, id, code, kind);
EXCLAVE_BOUNDARY_SAFE(Odd, bytes);

namespace exclave {
namespace {

using access_test::GuardedMemory;

class HandleTest : public testing::Test {
 protected:
  void SetUp() override {
    auto port = ProcessPort::create();
    ASSERT_TRUE(port.ok()) << error_text(port.error());
    port_ = *port;
    auto allocator = Allocator::create(port_->table());
    ASSERT_TRUE(allocator.ok()) << error_text(allocator.error());
    allocator_ = std::move(*allocator);
  }
  void TearDown() override {
    if (port_ == nullptr) return;
    EXPECT_EQ(allocator_.statistics().live_blocks, 0u) << "a handle leaked its block";
    EXPECT_EQ(allocator_.statistics().misuse_refused, 0u);
    EXPECT_TRUE(allocator_.validate_books());
    allocator_ = Allocator();
    ProcessPort::destroy(port_);
  }

  // A pool of the caller's own, to be revoked.
  RegionId attach() {
    const auto region = allocator_.attach({pool_.address(), pool_.size()});
    EXPECT_TRUE(region.ok()) << error_text(region.error());
    return *region;
  }
  void revoke() {
    EXPECT_TRUE(allocator_.detach({pool_.address(), pool_.size()}, DetachMode::kRevoke).ok());
  }

  GuardedMemory pool_{64};
  ProcessPort* port_ = nullptr;
  Allocator allocator_;
};

using BoxTest = HandleTest;
using BlockTest = HandleTest;
using Threat32_AttachedAgain = HandleTest;
using Threat48_BoxPadding = HandleTest;

TEST_F(BoxTest, CarriesAnObject) {
  auto box = Box<Order>::create(allocator_, Order{7, {1, 2, 3}, 9});
  ASSERT_TRUE(box.ok()) << error_text(box.error());
  EXPECT_FALSE(box->stale());
  EXPECT_EQ(box->load()->id, 7u);
  EXPECT_EQ(box->load()->kind, 9);
  EXPECT_TRUE(box->store(Order{8, {}, 1}).ok());
  EXPECT_EQ(box->load()->id, 8u);
  EXPECT_EQ(allocator_.statistics().live_blocks, 1u);
  EXPECT_TRUE(box->reset().ok());
  EXPECT_FALSE(static_cast<bool>(*box));
  EXPECT_EQ(box->load().error(), Error::kInvalidArgument);
  EXPECT_EQ(box->store(Order{}).error(), Error::kInvalidArgument);
  EXPECT_FALSE(box->stale());
  EXPECT_TRUE(box->reset().ok());
}

TEST_F(BoxTest, MovesItsObject) {
  auto first = std::move(*Box<int>::create(allocator_, 1));
  auto second = std::move(*Box<int>::create(allocator_, 2));
  first = std::move(second);
  EXPECT_EQ(*first.load(), 2);
  EXPECT_FALSE(static_cast<bool>(second));  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(allocator_.statistics().live_blocks, 1u);
  Box<int> third = std::move(first);
  EXPECT_EQ(*third.load(), 2);
}

TEST_F(BoxTest, ReleaseGivesTheObjectUp) {
  auto box = std::move(*Box<std::uint64_t>::create(allocator_, 5));
  const untrusted_ptr<std::uint64_t> object = box.release();
  EXPECT_FALSE(static_cast<bool>(box));
  EXPECT_EQ(load(object), 5u);
  EXPECT_TRUE(allocator_.deallocate(untrusted_bytes::unsafe_from_address(object.address())).ok());
}

TEST_F(BoxTest, TellsWhenItsRegionIsRevoked) {
  const RegionId region = attach();
  auto box = std::move(*Box<int>::create(allocator_, 3, Placement::in_pool(region)));
  EXPECT_EQ(box.region(), region);
  revoke();
  EXPECT_TRUE(box.stale());
  EXPECT_EQ(box.load().error(), Error::kStale);
  EXPECT_EQ(box.store(4).error(), Error::kStale);
  EXPECT_EQ(box.pointer().error(), Error::kStale);
  EXPECT_EQ(box.reset().error(), Error::kStale);
}

TEST_F(Threat32_AttachedAgain, AStaleBoxIsToldThoughItsAddressIsLiveAgain) {
  auto old = std::move(*Box<std::uint64_t>::create(allocator_, 3, Placement::in_pool(attach())));
  const std::uintptr_t address = old.pointer()->address();
  revoke();
  const RegionId again = attach();
  // The new life hands out every slot, the old one's address among them.
  std::vector<Box<std::uint64_t>> boxes;
  bool same_address = false;
  while (true) {
    auto box = Box<std::uint64_t>::create(allocator_, 4, Placement::in_pool(again));
    if (!box) break;
    same_address = same_address || box->pointer()->address() == address;
    boxes.push_back(std::move(*box));
  }
  EXPECT_TRUE(same_address);
  EXPECT_TRUE(old.stale());
  EXPECT_EQ(old.load().error(), Error::kStale);
  EXPECT_EQ(old.store(9).error(), Error::kStale);
  EXPECT_EQ(old.reset().error(), Error::kStale);
  for (const auto& box : boxes) ASSERT_EQ(*box.load(), 4u);
  boxes.clear();
}

TEST_F(Threat48_BoxPadding, TheSlotBehindTheObjectIsZero) {
  pool_.fill(0xee);
  auto box = std::move(*Box<Odd>::create(allocator_, Odd{}, Placement::in_pool(attach())));
  const auto* outside = reinterpret_cast<const std::uint8_t*>(box.pointer()->address());
  for (int i = 0; i < 16; ++i) EXPECT_EQ(outside[i], 0) << i;
}

TEST_F(BlockTest, GivesItsBytes) {
  auto block = Block::create(allocator_, 100, 64);
  ASSERT_TRUE(block.ok());
  EXPECT_EQ(block->size(), 100u);
  const auto bytes = block->bytes();
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(bytes->size(), 100u);
  EXPECT_EQ(bytes->address() % 64, 0u);
  std::array<std::byte, 100> in{};
  in[99] = std::byte{7};
  EXPECT_TRUE(copy_out_padded(*bytes, in).ok());
  in = {};
  EXPECT_TRUE(copy_in(std::span(in), *bytes).ok());
  EXPECT_EQ(in[99], std::byte{7});
  Block none;
  EXPECT_EQ(none.bytes().error(), Error::kInvalidArgument);
  EXPECT_TRUE(none.reset().ok());
}

TEST_F(BlockTest, RefusalsAreTheAllocators) {
  EXPECT_EQ(Block::create(allocator_, 0).error(), Error::kInvalidArgument);
  EXPECT_EQ(Block::create(allocator_, 8, 3).error(), Error::kInvalidArgument);
  EXPECT_EQ(Block::create(allocator_, 8, 8, Placement::on_device(77)).error(), Error::kNotFound);
}

TEST_F(BlockTest, TellsWhenSomeoneElseFreedIt) {
  auto block = std::move(*Block::create(allocator_, 4096 * 4));
  ASSERT_TRUE(
      allocator_.deallocate(untrusted_bytes::unsafe_from_address(block.bytes()->address())).ok());
  EXPECT_TRUE(block.stale());
  EXPECT_EQ(block.bytes().error(), Error::kStale);
  static_cast<void>(block.release());
}

}  // namespace
}  // namespace exclave
