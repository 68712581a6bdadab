// What is told when the allocator is destroyed: whose block lives, which region goes, in which
// order, and what the callbacks may call.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "heap/core.hpp"
#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class DestructionTest : public FakeAllocatorTest {
 protected:
  struct Told {
    std::uint64_t region;
    std::uintptr_t address;
    std::size_t bytes;
    bool operator==(const Told&) const = default;
  };

  void SetUp() override {
    Config config;
    config.keep_free_bytes = 0;
    config.leaked = [](void* context, std::uint64_t region, std::uintptr_t block,
                       std::size_t size) {
      DestructionTest& test = *static_cast<DestructionTest*>(context);
      EXPECT_TRUE(test.gone_.empty()) << "blocks come first";
      test.leaked_.push_back({region, block, size});
      if (test.on_leaked_) test.on_leaked_(block);
    };
    config.leaked_context = this;
    start(config);
    still_ = &*allocator_;
    leaked_.clear();
  }
  AttachOptions told(Role role = Role::kPool) {
    AttachOptions options;
    options.role = role;
    options.gone = [](void* context, std::uint64_t id, std::uintptr_t base, std::size_t size) {
      DestructionTest& test = *static_cast<DestructionTest*>(context);
      test.gone_.push_back({id, base, size});
      if (test.on_gone_) test.on_gone_(base);
    };
    options.gone_context = this;
    return options;
  }
  void destroy() { allocator_.reset(); }

  static constexpr Extent kMapping = range_at(0, 16 * kPageBytes);
  static constexpr Extent kPool = range_at(kMiBytes, kMiBytes);
  static constexpr Extent kWindow = range_at(4 * kMiBytes, kMiBytes);
  Allocator* still_ = nullptr;  // in its destructor the optional is empty already
  std::vector<Told> leaked_, gone_;
  std::function<void(std::uintptr_t)> on_leaked_, on_gone_;
};

TEST_F(DestructionTest, NothingIsToldWhereNothingIsLeft) {
  EXPECT_EQ(free(allocate(64)), Error::kNone);
  EXPECT_EQ(free(allocate(100000)), Error::kNone);
  attach(kPool, told());
  EXPECT_TRUE(still_->detach(kPool).ok());
  gone_.clear();
  destroy();
  EXPECT_TRUE(leaked_.empty());
  EXPECT_TRUE(gone_.empty());
}

TEST_F(DestructionTest, EachAttachedRegionIsToldInAscendingOrder) {
  const RegionId window = attach(kWindow, told(Role::kForbidden));
  const RegionId pool = attach(kPool, told());
  const RegionId mapping = attach(kMapping, told(Role::kMapping));
  attach(range_at(8 * kMiBytes, kMiBytes));  // without a callback
  destroy();
  EXPECT_EQ(gone_, (std::vector<Told>{{mapping.value, kMapping.base, kMapping.size},
                                      {pool.value, kPool.base, kPool.size},
                                      {window.value, kWindow.base, kWindow.size}}));
}

TEST_F(DestructionTest, AMappingThatLostItsMiddleIsToldInParts) {
  const RegionId id = attach(kMapping, told(Role::kMapping));
  EXPECT_TRUE(still_->detach({kMapping.base + 4 * kPageBytes, kPageBytes}).ok());
  gone_.clear();
  destroy();
  EXPECT_EQ(gone_,
            (std::vector<Told>{{id.value, kMapping.base, 4 * kPageBytes},
                               {id.value, kMapping.base + 5 * kPageBytes, 11 * kPageBytes}}));
}

TEST_F(DestructionTest, EachLiveBlockIsTold) {
  const RegionId pool = attach(kPool, told());
  const auto in_pool = Placement::in_pool(pool);
  std::vector<Told> expected;
  for (const auto& [size, where] : {std::pair<std::size_t, Placement>{24, in_pool},
                                    {24, in_pool},
                                    {5000, in_pool},
                                    {100000, in_pool},
                                    {40, {}},
                                    {200000, {}}}) {
    const std::uintptr_t block = allocate(size, 16, where);
    ASSERT_NE(block, 0u);
    expected.push_back({still_->region_of(bytes_at(block))->value, block, usable(block)});
  }
  const std::uintptr_t freed = allocate(24, 16, in_pool);
  EXPECT_EQ(free(freed), Error::kNone);
  // Pinned and freed: its caller has no more to do with it.
  const std::uintptr_t kept = allocate(24, 16, in_pool);
  pin({kept, 8});
  EXPECT_EQ(free(kept), Error::kNone);
  const std::uintptr_t pinned = expected.front().address;
  pin({pinned, 8});
  std::sort(expected.begin(), expected.end(),
            [](const Told& a, const Told& b) { return a.address < b.address; });
  destroy();
  EXPECT_EQ(leaked_, expected);
  EXPECT_EQ(gone_.size(), 1u);
}

TEST_F(DestructionTest, APinnedGrownBlockIsToldAndStaysOutside) {
  const std::uintptr_t block = allocate(100000);
  pin({block, 8});
  leftovers_expected_ = true;
  destroy();
  ASSERT_EQ(leaked_.size(), 1u);
  EXPECT_EQ(leaked_[0].address, block);
  EXPECT_EQ(port_.ranges_out(), 1u);
}

TEST_F(DestructionTest, WithoutACallbackBlocksGoQuietly) {
  start({});
  allocate(64);
  destroy();
  EXPECT_TRUE(leaked_.empty());
}

TEST_F(DestructionTest, TheFirstCallbackMayFree) {
  const RegionId pool = attach(kPool, told());
  for (const std::size_t size : {24u, 24u, 60000u, 3000u}) {
    ASSERT_NE(allocate(size), 0u);
    ASSERT_NE(allocate(size, 16, Placement::in_pool(pool)), 0u);
  }
  on_leaked_ = [this](std::uintptr_t block) {
    EXPECT_TRUE(still_->query(block, 1).ok());
    EXPECT_TRUE(still_->deallocate(bytes_at(block)).ok());
    EXPECT_EQ(still_->deallocate(bytes_at(block)).error(), Error::kDoubleFree);
    EXPECT_TRUE(still_->validate_books());
  };
  on_gone_ = [this](std::uintptr_t) { EXPECT_EQ(still_->statistics().live_blocks, 0u); };
  destroy();
  EXPECT_EQ(leaked_.size(), 8u);
  EXPECT_EQ(gone_.size(), 1u);
}

TEST_F(DestructionTest, TheFirstCallbackMayDetach) {
  const RegionId pool = attach(kPool);
  for (int i = 0; i != 3; ++i) ASSERT_NE(allocate(24, 16, Placement::in_pool(pool)), 0u);
  for (int i = 0; i != 3; ++i) ASSERT_NE(allocate(60000, 16, Placement::in_pool(pool)), 0u);
  on_leaked_ = [this](std::uintptr_t) {
    EXPECT_TRUE(still_->detach(kPool, DetachMode::kRevoke).ok());
  };
  destroy();
  EXPECT_EQ(leaked_.size(), 1u) << "the others went with their pool";
}

TEST_F(DestructionTest, GoneMayLookAndEndThings) {
  attach(kMapping, told(Role::kMapping));
  const RegionId pool = attach(kPool, told());
  const std::uintptr_t block = allocate(24, 16, Placement::in_pool(pool));
  const std::uintptr_t grown = allocate(24);
  const PinId whole = pin(kPool), part = pin({block, 8}), pages = pin({kMapping.base, 8});
  const PinId kept = pin({grown, 8});
  leftovers_expected_ = true;
  on_gone_ = [&](std::uintptr_t base) {
    EXPECT_TRUE(still_->validate_books());
    EXPECT_EQ(still_->query(base, 1).error(), Error::kNotFound) << "it has left the books";
    EXPECT_EQ(still_->attach(range_at(32 * kMiBytes, kMiBytes)).error(), Error::kNotPermitted);
    if (base == kMapping.base) {
      EXPECT_EQ(still_->unpin(pages).error(), Error::kNotFound) << "its pins went with it";
      EXPECT_TRUE(still_->query(kPool.base, 1).ok()) << "the next one stands";
      EXPECT_EQ(still_->statistics().pins, 3u);
      return;
    }
    EXPECT_EQ(still_->unpin(whole).error(), Error::kNotFound);
    EXPECT_EQ(still_->unpin(part).error(), Error::kNotFound);
    EXPECT_EQ(still_->deallocate_handle(bytes_at(block), pool).error(), Error::kStale);
    EXPECT_EQ(still_->deallocate(bytes_at(block)).error(), Error::kForeignFree);
    EXPECT_EQ(still_->statistics().pins, 1u);
    EXPECT_TRUE(still_->deallocate(bytes_at(grown)).ok());
    EXPECT_TRUE(still_->unpin(kept).ok());
    leftovers_expected_ = false;
  };
  destroy();
  EXPECT_EQ(gone_.size(), 2u);
}

TEST_F(DestructionTest, ADrainingPoolGoesToo) {
  AttachOptions options = told();
  options.device = 3;
  options.open_to_all = true;
  const RegionId pool = attach(kPool, options);
  ASSERT_NE(allocate(24, 16, Placement::in_pool(pool)), 0u);
  EXPECT_TRUE(still_->detach(kPool, DetachMode::kDrain).ok());
  EXPECT_TRUE(gone_.empty());
  destroy();
  EXPECT_EQ(leaked_.size(), 1u);
  EXPECT_EQ(gone_.size(), 1u);
}

// Told once, whoever ends it.
TEST_F(DestructionTest, GoneMayDetachAnother) {
  attach(kMapping, told(Role::kMapping));
  attach(kPool, told());
  on_gone_ = [&](std::uintptr_t base) {
    if (base == kMapping.base) EXPECT_TRUE(still_->detach(kPool).ok());
  };
  destroy();
  EXPECT_EQ(gone_.size(), 2u);
}

// Whoever jumped out of a call that was at work on a pool's bytes stays behind its door for ever.
TEST_F(DestructionTest, SomebodyBehindADoorDoesNotStopTheProgram) {
  attach(kPool, told());
  Region* const region = still_->core()->registry().find(kPool.base);
  static_cast<Pool*>(region->pool.load())->door.enter_held();
  destroy();
  EXPECT_EQ(gone_.size(), 1u);
}

TEST_F(DestructionTest, MoveAssignmentDestroysWhatWasThere) {
  attach(kPool, told());
  ASSERT_NE(allocate(24), 0u);
  auto another = Allocator::create(port_.table());
  ASSERT_TRUE(another.ok());
  *allocator_ = std::move(another.value());
  EXPECT_EQ(leaked_.size(), 1u);
  EXPECT_EQ(gone_.size(), 1u);
}

}  // namespace
}  // namespace exclave
