// THREATS 30 and 62: pools, mappings and grown regions come and go while others allocate, free,
// walk and count.
#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "support/page_host_fixture.hpp"

namespace exclave {
namespace {

using testing_support::kDevice;
using testing_support::kPage;
using testing_support::kReadWrite;
using testing_support::PageHostFixture;

constexpr std::uintptr_t kPools = std::uintptr_t{0x4000} << 32;
constexpr std::size_t kPoolBytes = 64 * kPage;
constexpr std::size_t kPoolCount = 8;

std::uintptr_t place_of(std::size_t pool) {
  return kPools + pool * 4 * kPoolBytes;
}

class Threat62_LookingWhileTheyComeAndGo : public PageHostFixture {
 protected:
  void SetUp() override {
    Config config;
    config.grow_min_bytes = 256 << 10;
    config.grow_max_bytes = 1 << 20;
    config.keep_free_bytes = 0;
    start(config);
    for (std::size_t i = 0; i < kPoolCount; ++i) host_->put_foreign({place_of(i), kPoolBytes});
  }
};

TEST_F(Threat62_LookingWhileTheyComeAndGo, WalksEndAndEveryFactIsWhole) {
  const auto begin = std::chrono::steady_clock::now();
  std::atomic<std::uint64_t> walks{0};
  std::atomic<std::uint64_t> coming{0};
  // On a busy machine longer, until there is something to see.
  const auto running = [&] {
    const auto spent = std::chrono::steady_clock::now() - begin;
    const bool seen = walks > 10 && coming > 10;
    return spent < std::chrono::milliseconds(1500) || (!seen && spent < std::chrono::seconds(20));
  };

  std::thread pools([&] {
    std::mt19937_64 random(1);
    while (running()) {
      const std::size_t i = random() % kPoolCount;
      AttachOptions options;
      options.device = static_cast<DeviceTag>(1 + i);
      const Extent extent{place_of(i), kPoolBytes};
      if (allocator_->attach(extent, options).ok()) coming.fetch_add(1);
      const Status gone =
          allocator_->detach({place_of(random() % kPoolCount), kPoolBytes},
                             random() % 2 == 0 ? DetachMode::kRevoke : DetachMode::kDrain);
      EXPECT_TRUE(gone.ok() || gone.error() == Error::kNotFound) << error_text(gone.error());
    }
  });
  std::thread mappings([&] {
    std::mt19937_64 random(2);
    while (running()) {
      const std::intptr_t at = calls_->mmap(0, 4 * kPage, kReadWrite, MAP_SHARED, kDevice, 0);
      ASSERT_GT(at, 0);
      EXPECT_EQ(calls_->mprotect(static_cast<std::uintptr_t>(at) + kPage, kPage, PROT_READ), 0);
      EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(at), 4 * kPage), 0);
    }
  });
  // THREATS 30: blocks of pools sit in its hands while the pools go.
  std::thread blocks([&] {
    std::mt19937_64 random(3);
    std::vector<untrusted_bytes> held;
    while (running()) {
      const std::size_t bytes = 1 + random() % 6000;
      const auto block =
          random() % 3 == 0
              ? allocator_->allocate(bytes)
              : allocator_->allocate(
                    bytes, 16,
                    Placement::on_device(static_cast<DeviceTag>(1 + random() % kPoolCount)));
      if (block.ok()) {
        held.push_back(*block);
      } else {
        EXPECT_TRUE(block.error() == Error::kNotFound || block.error() == Error::kOutOfMemory)
            << error_text(block.error());
      }
      if (held.size() > 200) {
        for (const untrusted_bytes old : held) {
          const Error freed = allocator_->deallocate(old).error();
          // Stale ones are told, whatever stands there now.
          EXPECT_TRUE(freed == Error::kNone || freed == Error::kForeignFree ||
                      freed == Error::kDoubleFree || freed == Error::kInteriorFree)
              << error_text(freed);
        }
        held.clear();
      }
    }
    for (const untrusted_bytes old : held) (void)allocator_->deallocate(old);
  });
  std::thread walker([&] {
    while (running()) {
      std::uintptr_t at = 0;
      std::size_t regions = 0;
      for (;;) {
        const auto region = allocator_->next_region(at);
        if (!region.ok()) break;
        ASSERT_GT(region->extent.end(), at) << "no progress";
        ASSERT_NE(region->id.value, 0u);
        ASSERT_EQ(region->extent.base % kPage, 0u);
        at = region->extent.end();
        ASSERT_LT(++regions, 10000u);
        // Runs of a region that may be gone by now.
        for (std::uintptr_t page = region->extent.base; page < at;) {
          const auto run = allocator_->next_run(page);
          if (!run.ok()) break;
          ASSERT_GT(run->extent.end(), page) << "no progress";
          page = run->extent.end();
        }
      }
      const Statistics s = allocator_->statistics();
      ASSERT_LE(s.live_bytes, std::size_t{1} << 32);
      walks.fetch_add(1);
    }
  });
  pools.join();
  mappings.join();
  blocks.join();
  walker.join();
  EXPECT_GT(walks.load(), 10u);
  EXPECT_GT(coming.load(), 10u);
  for (std::size_t i = 0; i < kPoolCount; ++i)
    (void)allocator_->detach({place_of(i), kPoolBytes}, DetachMode::kRevoke);
  EXPECT_TRUE(allocator_->validate_books());
  // Now that it is quiet, the sums are exact.
  const Statistics s = allocator_->statistics();
  EXPECT_EQ(s.live_bytes + s.cached_bytes + s.free_bytes + s.overhead_bytes, s.reserved_bytes);
  EXPECT_EQ(s.mapping_bytes, 0u);
  EXPECT_EQ(s.lies_refused, 0u);
}

}  // namespace
}  // namespace exclave
