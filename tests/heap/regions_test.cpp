// Attach and detach, the gone callback, and pins.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>
#include <utility>

#include "support/fake_allocator.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class RegionsTest : public FakeAllocatorTest {
 protected:
  struct Gone {
    RegionId id;
    Extent extent;
  };
  AttachOptions told(AttachOptions options = {}) {
    options.gone = [](void* context, std::uint64_t id, std::uintptr_t base, std::size_t size) {
      RegionsTest& test = *static_cast<RegionsTest*>(context);
      test.gone_.push_back({RegionId{id}, {base, size}});
      if (test.on_gone_) test.on_gone_();
    };
    options.gone_context = this;
    return options;
  }
  AttachOptions told_mapping() {
    AttachOptions options;
    options.role = Role::kMapping;
    return told(options);
  }
  Error detach(Extent range, DetachMode mode = DetachMode::kBusy) {
    return allocator_->detach(range, mode).error();
  }

  const Extent pool_ = range_at(0, kMiBytes);
  std::vector<Gone> gone_;
  std::function<void()> on_gone_;
};

// ---- Detach ----

TEST_F(RegionsTest, Threat28UnknownPartialAndGrownRangesAreNotFound) {
  attach(pool_);
  const std::uintptr_t grown = allocate(100000);
  const Extent grown_region = allocator_->query(grown, 1)->extent;
  for (const DetachMode mode : {DetachMode::kBusy, DetachMode::kDrain, DetachMode::kRevoke}) {
    EXPECT_EQ(detach(range_at(2 * kMiBytes, kPageBytes), mode), Error::kNotFound);
    EXPECT_EQ(detach({pool_.base, pool_.size - kPageBytes}, mode), Error::kNotFound);
    EXPECT_EQ(detach({pool_.base + kPageBytes, kPageBytes}, mode), Error::kNotFound);
    EXPECT_EQ(detach({pool_.base, pool_.size + kPageBytes}, mode), Error::kNotFound);
    EXPECT_EQ(detach({pool_.base - kPageBytes, pool_.size + kPageBytes}, mode), Error::kNotFound);
    EXPECT_EQ(detach(grown_region, mode), Error::kNotFound) << "never attached";
    EXPECT_EQ(detach({pool_.base, 0}, mode), Error::kInvalidArgument);
    EXPECT_EQ(detach({pool_.base + 1, kPageBytes}, mode), Error::kInvalidArgument);
    EXPECT_EQ(detach({UINTPTR_MAX - 4095, kPageBytes}, mode), Error::kInvalidArgument);
  }
  EXPECT_EQ(detach(pool_, static_cast<DetachMode>(3)), Error::kInvalidArgument);
  EXPECT_EQ(detach(pool_), Error::kNone);
  EXPECT_EQ(detach(pool_), Error::kNotFound);
}

TEST_F(RegionsTest, Threat29BusyRefusesWhileBlocksLive) {
  const RegionId id = attach(pool_, told());
  for (const std::size_t size : {64u, 100000u}) {
    const std::uintptr_t block = allocate(size, 16, Placement::in_pool(id));
    EXPECT_EQ(detach(pool_), Error::kBusy);
    EXPECT_EQ(free(block), Error::kNone);
  }
  EXPECT_TRUE(gone_.empty());
  EXPECT_EQ(detach(pool_), Error::kNone);
  ASSERT_EQ(gone_.size(), 1u);
  EXPECT_EQ(gone_[0].id, id);
  EXPECT_EQ(gone_[0].extent, pool_);
}

TEST_F(RegionsTest, Threat29DrainGoesWithTheLastBlock) {
  AttachOptions options;
  options.device = 3;
  options.open_to_all = true;
  const RegionId id = attach(pool_, told(options));
  const std::uintptr_t small = allocate(64, 16, Placement::in_pool(id));
  const std::uintptr_t large = allocate(100000, 16, Placement::in_pool(id));
  EXPECT_EQ(detach(pool_, DetachMode::kDrain), Error::kNone);
  EXPECT_TRUE(allocator_->query(pool_.base, 1)->draining);
  EXPECT_EQ(allocate_error(64, 16, Placement::in_pool(id)), Error::kNotFound);
  EXPECT_NE(allocate_error(64, 16, Placement::on_device(3)), Error::kNone);
  EXPECT_FALSE(pool_.contains(allocate(64)));
  EXPECT_EQ(detach(pool_), Error::kBusy);
  EXPECT_EQ(detach(pool_, DetachMode::kDrain), Error::kNone) << "once more is harmless";
  EXPECT_EQ(usable(large), 102400u) << "what lives can be used";
  EXPECT_EQ(free(small), Error::kNone);
  EXPECT_TRUE(gone_.empty());
  EXPECT_EQ(free(large), Error::kNone);
  ASSERT_EQ(gone_.size(), 1u);
  EXPECT_EQ(gone_[0].id, id);
  EXPECT_EQ(allocator_->query(pool_.base, 1).error(), Error::kNotFound);
}

TEST_F(RegionsTest, DrainOfAnUnusedPoolGoesAtOnce) {
  attach(pool_, told());
  EXPECT_EQ(detach(pool_, DetachMode::kDrain), Error::kNone);
  EXPECT_EQ(gone_.size(), 1u);
}

TEST_F(RegionsTest, DrainEndsOnTheThreadThatFreesLast) {
  const RegionId id = attach(pool_, told());
  const std::uintptr_t block = allocate(64, 16, Placement::in_pool(id));
  EXPECT_EQ(detach(pool_, DetachMode::kDrain), Error::kNone);
  std::thread([&] { EXPECT_EQ(free(block), Error::kNone); }).join();
  EXPECT_EQ(gone_.size(), 1u);
}

TEST_F(RegionsTest, RevokeGoesAtOnceWhateverLives) {
  const RegionId id = attach(pool_, told());
  for (std::size_t i = 0; i < 100; ++i) {
    ASSERT_NE(allocate(64 + i % 5 * 1000, 16, Placement::in_pool(id)), 0u);
  }
  EXPECT_EQ(detach(pool_, DetachMode::kRevoke), Error::kNone);
  EXPECT_EQ(gone_.size(), 1u);
  EXPECT_EQ(statistics().live_blocks, 0u);
}

TEST_F(RegionsTest, RevokeOfADrainingPoolGoesAtOnce) {
  const RegionId id = attach(pool_, told());
  const std::uintptr_t block = allocate(64, 16, Placement::in_pool(id));
  EXPECT_EQ(detach(pool_, DetachMode::kDrain), Error::kNone);
  EXPECT_EQ(detach(pool_, DetachMode::kRevoke), Error::kNone);
  EXPECT_EQ(gone_.size(), 1u);
  EXPECT_EQ(free(block), Error::kForeignFree);
  EXPECT_EQ(gone_.size(), 1u) << "told once";
}

TEST_F(RegionsTest, Threat32AttachAgainStartsAfresh) {
  std::vector<RegionId> ids;
  for (int life = 0; life < 20; ++life) {
    AttachOptions options;
    options.device = static_cast<DeviceTag>(life % 3);
    options.largest_block = life % 2 == 0 ? 1000 : 0;
    const RegionId id = attach(pool_, options);
    for (const RegionId before : ids) EXPECT_NE(id, before);
    ids.push_back(id);
    EXPECT_EQ(allocate(2000, 16, Placement::in_pool(id)) == 0, life % 2 == 0);
    EXPECT_EQ(allocate(500, 16, Placement::in_pool(id)) - pool_.base < pool_.size, true);
    EXPECT_EQ(detach(pool_, DetachMode::kRevoke), Error::kNone);
  }
  EXPECT_LT(statistics().trusted_bytes, kMiBytes) << "the books are used again";
}

TEST_F(RegionsTest, CallbackMayCallBackIn) {
  const Extent other = range_at(8 * kMiBytes, kMiBytes);
  std::uintptr_t from_callback = 0;
  bool inner = false;
  on_gone_ = [&] {
    if (std::exchange(inner, true)) return;
    from_callback = allocate(5000);
    EXPECT_NE(from_callback, 0u);
    attach(pool_);  // the very same place
    EXPECT_EQ(detach(pool_), Error::kNone);
    attach(other, told());
    EXPECT_EQ(detach(other), Error::kNone);  // a callback in a callback
  };
  for (const DetachMode mode : {DetachMode::kBusy, DetachMode::kRevoke}) {
    attach(pool_, told());
    EXPECT_EQ(detach(pool_, mode), Error::kNone);
  }
  EXPECT_EQ(gone_.size(), 3u);
  EXPECT_EQ(free(from_callback), Error::kNone);
}

TEST_F(RegionsTest, ForbiddenWindowsGoWholeOnly) {
  AttachOptions options;
  options.role = Role::kForbidden;
  attach(pool_, told(options));
  EXPECT_EQ(allocator_->query(pool_.base, 1).error(), Error::kNotFound);
  EXPECT_EQ(detach({pool_.base, kPageBytes}), Error::kNotFound);
  EXPECT_EQ(allocator_->pin({pool_.base, 8}).error(), Error::kNotFound);
  EXPECT_EQ(detach(pool_), Error::kNone);
  EXPECT_EQ(gone_.size(), 1u);
}

TEST_F(RegionsTest, AMappingLosesAnyPart) {
  attach(range_at(0, 10 * kPageBytes), told_mapping());
  const auto page = [&](std::size_t i) { return range_at(i * kPageBytes, kPageBytes); };
  for (const std::size_t i : {0u, 9u, 5u}) {
    EXPECT_EQ(detach(page(i)), Error::kNone);
    EXPECT_EQ(allocator_->query(page(i).base, 1).error(), Error::kNotFound);
    EXPECT_EQ(gone_.back().extent, page(i));
  }
  EXPECT_EQ(detach(range_at(4 * kPageBytes, 3 * kPageBytes)), Error::kNotFound) << "a hole";
  EXPECT_EQ(statistics().mapping_bytes, 7 * kPageBytes);
  EXPECT_EQ(detach(range_at(kPageBytes, 4 * kPageBytes)), Error::kNone);
  EXPECT_EQ(detach(range_at(6 * kPageBytes, 3 * kPageBytes)), Error::kNone);
  EXPECT_EQ(statistics().regions, 0u);
  std::size_t told = 0;
  for (const Gone& gone : gone_) told += gone.extent.size;
  EXPECT_EQ(told, 10 * kPageBytes) << "told of every page once";
}

TEST_F(RegionsTest, ADetachOverSeveralMappings) {
  attach(range_at(0, 4 * kPageBytes), told_mapping());
  attach(range_at(4 * kPageBytes, 4 * kPageBytes), told_mapping());
  EXPECT_EQ(detach(range_at(2 * kPageBytes, 4 * kPageBytes)), Error::kNone);
  EXPECT_EQ(gone_.size(), 2u);
  EXPECT_EQ(statistics().mapping_bytes, 4 * kPageBytes);
}

TEST_F(RegionsTest, ADetachThatHasNoBookForACutChangesNothing) {
  attach(range_at(0, 4 * kPageBytes), told_mapping());
  attach(range_at(4 * kPageBytes, 4 * kPageBytes), told_mapping());
  port_.set_trusted_left(0);
  AttachOptions other;
  other.role = Role::kMapping;
  for (std::size_t i = 8; allocator_->attach(range_at(i * 2 * kPageBytes, kPageBytes), other).ok();
       ++i) {
    ASSERT_LT(i, 1000u);
  }
  const std::size_t before = statistics().mapping_bytes;
  EXPECT_EQ(detach(range_at(0, 6 * kPageBytes)), Error::kOutOfTrustedMemory) << "of the last";
  EXPECT_EQ(detach(range_at(2 * kPageBytes, 6 * kPageBytes)), Error::kOutOfTrustedMemory);
  EXPECT_EQ(statistics().mapping_bytes, before);
  EXPECT_TRUE(allocator_->query(range_at(0, 1).base, 4 * kPageBytes).ok());
  EXPECT_TRUE(gone_.empty());
  port_.set_trusted_left(SIZE_MAX / 2);
  EXPECT_EQ(detach(range_at(0, 8 * kPageBytes)), Error::kNone) << "which needs no cut";
}

TEST_F(RegionsTest, OutOfTrustedMemoryChangesNothing) {
  const auto regions = [&] { return statistics().regions; };
  for (std::uint64_t n = 1; n < 12; ++n) {
    port_.fail_trusted_from(n);
    const Result<RegionId> id = allocator_->attach(range_at(0, 4 * kGiBytes));
    port_.fail_trusted_from(0);
    if (id.ok()) {
      EXPECT_EQ(detach(range_at(0, 4 * kGiBytes)), Error::kNone);
      break;
    }
    EXPECT_EQ(id.error(), Error::kOutOfTrustedMemory);
    EXPECT_EQ(regions(), 0u);
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_EQ(allocator_->query(range_at(0, 1).base, 1).error(), Error::kNotFound);
    ASSERT_LT(n, 11u);
  }
}

// ---- Pins ----

class PinsTest : public RegionsTest {
 protected:
  Error unpin(PinId id) { return allocator_->unpin(id).error(); }
};

TEST_F(PinsTest, APinnedPoolIsNeitherDetachedNorRevokedButServes) {
  const RegionId id = attach(pool_, told());
  const PinId pinned = pin(pool_);
  EXPECT_EQ(statistics().pins, 1u);
  for (const DetachMode mode : {DetachMode::kBusy, DetachMode::kDrain, DetachMode::kRevoke}) {
    EXPECT_EQ(detach(pool_, mode), Error::kPinned);
  }
  const std::uintptr_t block = allocate(64, 16, Placement::in_pool(id));
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(allocate(64, 16, Placement::in_pool(id)), block) << "blocks come and go";
  EXPECT_EQ(detach(pool_, DetachMode::kRevoke), Error::kPinned);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(unpin(pinned), Error::kNone);
  EXPECT_EQ(unpin(pinned), Error::kNotFound);
  EXPECT_EQ(detach(pool_), Error::kNone);
}

TEST_F(PinsTest, APinnedPoolDrainsWhenBothAreGone) {
  const RegionId id = attach(pool_, told());
  const std::uintptr_t block = allocate(64, 16, Placement::in_pool(id));
  const PinId first = pin(pool_);
  const PinId second = pin(pool_);
  EXPECT_EQ(detach(pool_, DetachMode::kDrain), Error::kNone);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_TRUE(gone_.empty());
  EXPECT_EQ(unpin(first), Error::kNone);
  EXPECT_TRUE(gone_.empty());
  EXPECT_EQ(unpin(second), Error::kNone);
  EXPECT_EQ(gone_.size(), 1u);
}

// The range is that of the pool, but a block is what it names, too.
TEST_F(PinsTest, AGrownRegionIsNobodysToPin) {
  const std::uintptr_t block = allocate(64);
  const Result<RegionInfo> region = allocator_->query(block, 64);
  ASSERT_TRUE(region.ok());
  EXPECT_EQ(allocator_->pin(region->extent).error(), Error::kNotFound);
  EXPECT_EQ(statistics().pins, 0u);
  EXPECT_EQ(free(block), Error::kNone);
}

TEST_F(PinsTest, Threat50ABlockAsLargeAsItsPoolIsKeptLikeAnyOther) {
  const Placement where = Placement::in_pool(attach(pool_, told()));
  const std::uintptr_t block = allocate(pool_.size, 16, where);
  ASSERT_EQ(block, pool_.base);
  const PinId first = pin(pool_);
  const PinId second = pin(pool_);
  EXPECT_EQ(detach(pool_, DetachMode::kRevoke), Error::kPinned);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(allocator_->allocate(pool_.size, 16, where).error(), Error::kOutOfMemory);
  // Now no block is live there, so this one is of the pool.
  const PinId registered = pin(pool_);
  EXPECT_EQ(unpin(first), Error::kNone);
  EXPECT_EQ(allocator_->allocate(64, 16, where).error(), Error::kOutOfMemory);
  EXPECT_EQ(unpin(second), Error::kNone);
  EXPECT_EQ(allocate(pool_.size, 16, where), block);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(detach(pool_), Error::kPinned);
  EXPECT_EQ(unpin(registered), Error::kNone);
  EXPECT_EQ(detach(pool_), Error::kNone);
}

class PinnedBlocksTest : public PinsTest,
                         public testing::WithParamInterface<std::tuple<std::size_t, bool>> {
 protected:
  void SetUp() override {
    PinsTest::SetUp();
    size_ = std::get<0>(GetParam());
    if (std::get<1>(GetParam())) where_ = Placement::in_pool(attach(pool_, told()));
  }
  std::size_t size_ = 0;
  Placement where_;
};

TEST_P(PinnedBlocksTest, Threat50FreedWhilePinnedIsNotHandedOutAgain) {
  const std::uintptr_t block = allocate(size_, 16, where_);
  const PinId pinned = pin({block + 10, 20});
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(free(block), Error::kDoubleFree);
  EXPECT_EQ(allocator_->usable_size(bytes_at(block)).error(), Error::kDoubleFree);
  const Statistics kept = statistics();
  EXPECT_EQ(kept.live_blocks, 0u);
  EXPECT_EQ(kept.live_bytes, 0u);
  EXPECT_TRUE(sums_up(kept));
  allocator_->flush_thread();
  allocator_->trim();
  // Everything that the pool has, or a lot.
  std::vector<std::uintptr_t> others;
  for (int i = 0; i < 200; ++i) {
    const std::uintptr_t other = allocate(size_, 16, where_);
    if (other == 0) break;
    EXPECT_FALSE((Extent{block, size_}.overlaps({other, size_})));
    others.push_back(other);
  }
  EXPECT_EQ(allocator_->pin({block, 1}).error(), Error::kNotFound) << "it is not live";
  EXPECT_EQ(unpin(pinned), Error::kNone);
  EXPECT_EQ(free(block), Error::kDoubleFree);
  for (const std::uintptr_t other : others) EXPECT_EQ(free(other), Error::kNone);
  EXPECT_EQ(statistics().live_blocks, 0u);
  EXPECT_TRUE(allocator_->validate_books());
  const std::uintptr_t again = allocate(size_, 16, where_);
  EXPECT_NE(again, 0u);
}

TEST_P(PinnedBlocksTest, EveryPinOfABlockCounts) {
  const std::uintptr_t block = allocate(size_, 16, where_);
  const PinId first = pin({block, size_});
  const PinId second = pin({block + size_ - 1, 1});
  const PinId third = pin({block, 1});
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(unpin(second), Error::kNone);
  EXPECT_EQ(unpin(first), Error::kNone);
  EXPECT_EQ(statistics().cached_bytes >= size_, true);
  EXPECT_EQ(free(block), Error::kDoubleFree);
  EXPECT_EQ(unpin(third), Error::kNone);
  allocator_->flush_thread();
  EXPECT_EQ(statistics().live_blocks, 0u);
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_P(PinnedBlocksTest, UnpinnedWhileLiveItIsOrdinaryAgain) {
  const std::uintptr_t block = allocate(size_, 16, where_);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(unpin(pin({block, 8})), Error::kNone);
  EXPECT_EQ(usable(block) >= size_, true);
  EXPECT_EQ(free(block, size_), Error::kNone);
  EXPECT_EQ(free(block), Error::kDoubleFree);
}

TEST_P(PinnedBlocksTest, ThreadsMayFreeAndUnpinWhatAnotherPinned) {
  const std::uintptr_t block = allocate(size_, 16, where_);
  PinId pinned{};
  std::thread([&] { pinned = pin({block, 8}); }).join();
  std::thread([&] { EXPECT_EQ(free(block), Error::kNone); }).join();
  EXPECT_EQ(free(block), Error::kDoubleFree);
  std::thread([&] { EXPECT_EQ(unpin(pinned), Error::kNone); }).join();
  EXPECT_EQ(free(block), Error::kDoubleFree);
  EXPECT_TRUE(allocator_->validate_books());
}

// Nobody may find it live for a moment and free it once more.
TEST_P(PinnedBlocksTest, ASecondFreeDuringTheLastUnpinIsRefused) {
  std::atomic<std::uintptr_t> target{0};
  std::atomic<bool> stop{false};
  std::atomic<bool> inside{false};
  std::atomic<int> seen{0};
  std::atomic<int> accepted{0};
  std::thread other([&] {
    while (!stop) {
      inside = true;
      if (const std::uintptr_t block = target; block != 0) {
        accepted += free(block) == Error::kNone;
        ++seen;
      }
      inside = false;
    }
  });
  for (int round = 0; round < 60; ++round) {
    const std::uintptr_t block = allocate(size_, 16, where_);
    ASSERT_NE(block, 0u);
    const PinId pinned = pin({block, 8});
    ASSERT_EQ(free(block), Error::kNone);
    const int before = seen;
    target = block;
    while (seen < before + 2) std::this_thread::yield();
    ASSERT_EQ(unpin(pinned), Error::kNone);
    target = 0;
    while (inside) std::this_thread::yield();
  }
  stop = true;
  other.join();
  EXPECT_EQ(accepted, 0);
  allocator_->flush_thread();
  EXPECT_EQ(statistics().live_blocks, 0u);
}

TEST_P(PinnedBlocksTest, TheLastUnpinAfterTheOwnersThreadEnded) {
  std::uintptr_t block = 0;
  PinId pinned{};
  std::thread([&] {
    block = allocate(size_, 16, where_);
    pinned = pin({block, 8});
    allocator_->flush_thread();
  }).join();
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(unpin(pinned), Error::kNone);
  EXPECT_EQ(free(block), Error::kDoubleFree);
  EXPECT_EQ(statistics().live_blocks, 0u);
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_NE(allocate(size_, 16, where_), 0u);
}

TEST_P(PinnedBlocksTest, ThePinnedBlockKeepsItsPool) {
  if (where_.kind == Placement::Kind::kAnywhere) return;
  const std::uintptr_t block = allocate(size_, 16, where_);
  const PinId pinned = pin({block, 8});
  EXPECT_EQ(detach(pool_, DetachMode::kRevoke), Error::kPinned);
  EXPECT_EQ(detach(pool_, DetachMode::kDrain), Error::kNone);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(detach(pool_, DetachMode::kRevoke), Error::kPinned);
  EXPECT_TRUE(gone_.empty());
  EXPECT_EQ(unpin(pinned), Error::kNone);
  EXPECT_EQ(gone_.size(), 1u) << "it was draining";
  EXPECT_EQ(free(block), Error::kForeignFree);
}

TEST_P(PinnedBlocksTest, GrownMemoryWithAPinIsNotGivenBack) {
  if (where_.kind != Placement::Kind::kAnywhere) return;
  const std::uintptr_t block = allocate(size_);
  const PinId pinned = pin({block, 8});
  EXPECT_EQ(free(block), Error::kNone);
  allocator_->trim();
  EXPECT_TRUE(allocator_->query(block, size_).ok());
  EXPECT_EQ(unpin(pinned), Error::kNone);
  allocator_->trim();
  EXPECT_EQ(statistics().reserved_bytes, 0u);
}

INSTANTIATE_TEST_SUITE_P(Sizes, PinnedBlocksTest,
                         testing::Combine(testing::Values(std::size_t{64}, std::size_t{20000},
                                                          std::size_t{40000}, std::size_t{100000}),
                                          testing::Bool()));

TEST_F(PinsTest, OnlyWhatIsWhollyOneThingIsPinned) {
  const RegionId id = attach(pool_);
  const std::uintptr_t first = allocate(64, 16, Placement::in_pool(id));
  const auto error = [&](Extent range) { return allocator_->pin(range).error(); };
  EXPECT_EQ(error({first, 0}), Error::kInvalidArgument);
  EXPECT_EQ(error({first, SIZE_MAX}), Error::kInvalidArgument);
  EXPECT_EQ(error({first, 65}), Error::kNotFound) << "over the block's end";
  EXPECT_EQ(error({first + 64, 1}), Error::kNotFound) << "a slot that is free";
  EXPECT_EQ(error({pool_.base + 500000, 1}), Error::kNotFound) << "free pages";
  EXPECT_EQ(error({pool_.base, pool_.size - 1}), Error::kNotFound);
  EXPECT_EQ(error({pool_.base, pool_.size + 1}), Error::kNotFound);
  EXPECT_EQ(error(range_at(8 * kMiBytes, 1)), Error::kNotFound);
  EXPECT_EQ(error(port_.enclave()), Error::kNotFound);
  EXPECT_EQ(error({UINTPTR_MAX - 1, 1}), Error::kNotFound);
  EXPECT_EQ(statistics().pins, 0u);
  EXPECT_EQ(unpin(PinId{}), Error::kNotFound);
  EXPECT_EQ(unpin(PinId{UINT64_MAX}), Error::kNotFound);
}

TEST_F(PinsTest, PinnedPagesOfMappingsStay) {
  attach(range_at(0, 8 * kPageBytes), told_mapping());
  attach(range_at(8 * kPageBytes, 8 * kPageBytes), told_mapping());
  // Over the edge of two mappings, and not on whole pages.
  const PinId pinned = pin(range_at(7 * kPageBytes + 100, kPageBytes));
  EXPECT_EQ(detach(range_at(7 * kPageBytes, kPageBytes)), Error::kPinned);
  EXPECT_EQ(detach(range_at(8 * kPageBytes, kPageBytes)), Error::kPinned);
  EXPECT_EQ(detach(range_at(0, 16 * kPageBytes)), Error::kPinned);
  EXPECT_EQ(statistics().mapping_bytes, 16 * kPageBytes) << "nothing changed";
  EXPECT_EQ(detach(range_at(6 * kPageBytes, kPageBytes)), Error::kNone);
  EXPECT_EQ(detach(range_at(9 * kPageBytes, kPageBytes)), Error::kNone);
  EXPECT_EQ(allocator_->pin(range_at(5 * kPageBytes, 2 * kPageBytes)).error(), Error::kNotFound);
  EXPECT_EQ(unpin(pinned), Error::kNone);
  EXPECT_EQ(detach(range_at(7 * kPageBytes, 2 * kPageBytes)), Error::kNone);
}

TEST_F(PinsTest, AllocatorThatEndsLeavesPinnedMemoryOutside) {
  const std::uintptr_t block = allocate(100);
  pin({block, 8});
  leftovers_expected_ = true;
  allocator_.reset();
  EXPECT_EQ(port_.ranges_out(), 1u) << "a device may still write there";
  EXPECT_EQ(port_.trusted_held(), 0u);
}

TEST_F(PinsTest, ManyPinsAreUndoneInAnyOrder) {
  std::vector<std::pair<std::uintptr_t, PinId>> pins;
  for (int i = 0; i < 3000; ++i) {
    const std::uintptr_t block = allocate(i % 10 == 0 ? 40000 : 100);
    pins.emplace_back(block, pin({block, 50}));
  }
  for (const auto& [block, id] : pins) EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(statistics().live_blocks, 0u);
  for (std::size_t i = 0; i < pins.size(); ++i) {
    EXPECT_EQ(unpin(pins[i * 7 % pins.size()].second), Error::kNone);
  }
  EXPECT_TRUE(allocator_->validate_books());
  allocator_->trim();
  EXPECT_EQ(statistics().reserved_bytes, 0u);
}

}  // namespace
}  // namespace exclave
