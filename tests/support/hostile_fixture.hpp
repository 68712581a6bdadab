// An allocator on a hostile host, with what each of the host's threats is checked against.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "exclave/allocator.hpp"
#include "exclave/memory_calls.hpp"
#include "sim/hostile_host.hpp"

namespace exclave::testing_support {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// Growths are small, and everything free goes back at once, so that the host is asked often.
inline Config small_growths() {
  Config config;
  config.grow_min_bytes = 2 * kMiB;
  config.grow_max_bytes = 4 * kMiB;
  config.keep_free_bytes = 0;
  return config;
}

// Statistics without the counters of host calls and of lies, which do go up when something is
// refused.
inline std::vector<std::size_t> state_of(const Statistics& s) {
  return {s.reserved_bytes, s.live_bytes,  s.free_bytes + s.cached_bytes,
          s.overhead_bytes, s.grown_bytes, s.mapping_bytes,
          s.live_blocks,    s.regions,     s.pins};
}

// The blocks that the test holds: none may overlap another or the enclave (P2). Thread-safe.
class LiveBlocks {
 public:
  explicit LiveBlocks(Extent enclave) : enclave_(enclave) {}

  void add(untrusted_bytes block, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const Extent extent{block.address(), bytes};
    EXPECT_NE(extent.base, 0u);
    EXPECT_GT(extent.end(), extent.base) << "it wraps";
    EXPECT_FALSE(extent.overlaps(enclave_)) << "inside the enclave";
    const auto next = blocks_.lower_bound(extent.base);
    if (next != blocks_.end()) {
      EXPECT_GE(next->first, extent.end()) << "overlaps another";
    }
    if (next != blocks_.begin()) {
      const auto before = std::prev(next);
      EXPECT_LE(before->first + before->second, extent.base) << "overlaps another";
    }
    blocks_.emplace(extent.base, bytes);
  }
  bool empty() const {
    const std::lock_guard lock(mutex_);
    return blocks_.empty();
  }
  // Takes one out of the list; null if there is none.
  untrusted_bytes take(std::uint64_t random) {
    const std::lock_guard lock(mutex_);
    if (blocks_.empty()) return {};
    auto chosen = blocks_.begin();
    std::advance(chosen, static_cast<std::ptrdiff_t>(random % blocks_.size()));
    const auto block = untrusted_bytes::unsafe_from_address(chosen->first);
    blocks_.erase(chosen);
    return block;
  }

 private:
  Extent enclave_;
  mutable std::mutex mutex_;
  std::map<std::uintptr_t, std::size_t> blocks_;
};

class HostileHostFixture : public testing::Test {
 protected:
  void SetUp() override { start({}, small_growths()); }

  void start(const sim::HostileHost::Options& options, const Config& config) {
    allocator_.reset();
    memory_.reset();
    host_ = sim::HostileHost::create(options);
    ASSERT_NE(host_, nullptr);
    auto made = Allocator::create(host_->table(), config);
    ASSERT_TRUE(made.ok()) << error_text(made.error());
    allocator_.emplace(std::move(made.value()));
    memory_ = std::make_unique<ProcessEnclaveMemory>(host_->enclave_heap());
  }

  // Windows that the runtime declares, so that two lies that could not be seen otherwise are.
  void forbid_windows() {
    AttachOptions forbidden;
    forbidden.role = Role::kForbidden;
    ASSERT_TRUE(allocator_->attach(host_->forbidden_window(), forbidden).ok());
    ASSERT_TRUE(allocator_->attach(sim::HostileHost::host_stack(), forbidden).ok());
  }

  void TearDown() override {
    if (!allocator_) return;
    EXPECT_TRUE(allocator_->validate_books());
    allocator_.reset();
    EXPECT_THAT(host_->violations(), testing::IsEmpty());
    EXPECT_EQ(host_->trusted_bytes(), 0u) << "books were not given back";
    if (!leftovers_expected_) {
      EXPECT_THAT(host_->handed_out(), testing::IsEmpty());
    }
  }

  std::vector<std::size_t> state() const { return state_of(allocator_->statistics()); }

  std::unique_ptr<sim::HostileHost> host_;
  std::unique_ptr<ProcessEnclaveMemory> memory_;
  std::optional<Allocator> allocator_;
  // Set where a lie leaves honest memory with the library, or with nobody.
  bool leftovers_expected_ = false;
};

}  // namespace exclave::testing_support
