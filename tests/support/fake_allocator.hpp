// An allocator on a FakePort, whose books are checked when the test ends.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "exclave/allocator.hpp"
#include "support/fake_port.hpp"

namespace exclave::testing_support {

inline constexpr std::size_t kKiBytes = std::size_t{1} << 10;
inline constexpr std::size_t kMiBytes = std::size_t{1} << 20;
inline constexpr std::size_t kGiBytes = std::size_t{1} << 30;

inline untrusted_bytes bytes_at(std::uintptr_t address) {
  return untrusted_bytes::unsafe_from_address(address);
}

// live + cached + free + overhead == reserved
inline bool sums_up(const Statistics& s) {
  return s.live_bytes + s.cached_bytes + s.free_bytes + s.overhead_bytes == s.reserved_bytes;
}

// What Config::misuse was told.
struct Misuse {
  Error error;
  std::uintptr_t address;
  std::size_t size_bytes;
};

class FakeAllocatorTest : public testing::Test {
 protected:
  void SetUp() override { start({}); }

  void start(Config config) {
    allocator_.reset();
    misuses_.clear();
    config.misuse = [](void* context, std::int32_t error, std::uintptr_t address,
                       std::size_t size_bytes) {
      FakeAllocatorTest& test = *static_cast<FakeAllocatorTest*>(context);
      const std::lock_guard guard(test.misuses_mutex_);
      test.misuses_.push_back({static_cast<Error>(error), address, size_bytes});
    };
    config.misuse_context = this;
    auto made = Allocator::create(port_.table(), config);
    ASSERT_TRUE(made.ok()) << error_text(made.error());
    allocator_.emplace(std::move(made.value()));
  }

  void TearDown() override {
    if (!allocator_) return;
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_TRUE(sums_up(allocator_->statistics()));
    allocator_.reset();
    EXPECT_EQ(port_.trusted_held(), 0u) << "books were not given back";
    EXPECT_EQ(port_.bad_releases(), 0u);
    if (!leftovers_expected_) {
      EXPECT_EQ(port_.ranges_out(), 0u) << "grown regions were not given back";
    }
  }

 public:
  // ---- Shorthands: addresses for blocks, 0 for errors ----

  std::uintptr_t allocate(std::size_t size, std::size_t alignment = 16, Placement where = {}) {
    const Result<untrusted_bytes> block = allocator_->allocate(size, alignment, where);
    return block.ok() ? block->address() : 0;
  }
  Error allocate_error(std::size_t size, std::size_t alignment = 16, Placement where = {}) {
    return allocator_->allocate(size, alignment, where).error();
  }
  Error free(std::uintptr_t block) { return allocator_->deallocate(bytes_at(block)).error(); }
  Error free(std::uintptr_t block, std::size_t size, std::size_t alignment = 16) {
    return allocator_->deallocate(bytes_at(block), size, alignment).error();
  }
  std::size_t usable(std::uintptr_t block) {
    const Result<std::size_t> size = allocator_->usable_size(bytes_at(block));
    return size.ok() ? *size : 0;
  }
  // A pool at kAttachBase + offset.
  static constexpr Extent range_at(std::size_t offset, std::size_t size) {
    return {FakePort::kAttachBase + offset, size};
  }
  RegionId attach(Extent range, const AttachOptions& options = {}) {
    const Result<RegionId> id = allocator_->attach(range, options);
    EXPECT_TRUE(id.ok()) << error_text(id.error());
    return *id;
  }
  RegionId attach_mapping(Extent range, Protection protection = Protection::kReadWrite) {
    AttachOptions options;
    options.role = Role::kMapping;
    options.protection = protection;
    return attach(range, options);
  }
  PinId pin(Extent range) {
    const Result<PinId> id = allocator_->pin(range);
    EXPECT_TRUE(id.ok()) << error_text(id.error());
    return *id;
  }
  Statistics statistics() { return allocator_->statistics(); }

  FakePort port_;
  std::optional<Allocator> allocator_;
  std::mutex misuses_mutex_;
  std::vector<Misuse> misuses_;
  // Set where grown memory stays with the host: pinned, or release refused.
  bool leftovers_expected_ = false;
};

}  // namespace exclave::testing_support
