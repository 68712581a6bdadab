// Memory calls with an allocator on a hostile host: a block, and a mapping of eight pages.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/hostile_fixture.hpp"

namespace exclave::testing_support {

inline constexpr int kRw = PROT_READ | PROT_WRITE;

// What the manual pages of the calls document, and nothing of the host's choice.
inline const std::set<int> kKnownErrnos = {-EACCES, -EAGAIN,    -EBADF,   -EBUSY,     -EEXIST,
                                           -EINVAL, -EIO,       -ENFILE,  -ENODEV,    -ENOMEM,
                                           -EPERM,  -EOVERFLOW, -ETXTBSY, -EOPNOTSUPP};

class MemoryCallsOnHostileHost : public HostileHostFixture {
 protected:
  void SetUp() override {
    HostileHostFixture::SetUp();
    ASSERT_NO_FATAL_FAILURE(forbid_windows());
    file_ = memfd_create("device", MFD_CLOEXEC);
    ASSERT_EQ(ftruncate(file_, static_cast<off_t>(kFileBytes)), 0);
    calls_.emplace(*allocator_, bind_enclave_memory(*memory_));
    const auto first = allocator_->allocate(kMiB);
    ASSERT_TRUE(first.ok());
    first_ = *first;
    mapping_ = map(8 * kPageBytes);
    ASSERT_GT(mapping_, 0);
  }
  void TearDown() override {
    if (allocator_) {
      EXPECT_TRUE(allocator_->deallocate(first_).ok());
      // Mappings are the application's: it unmaps them, and so does this test.
      for (auto region = allocator_->next_region(0); region.ok();
           region = allocator_->next_region(region->extent.end())) {
        if (region->role == Role::kMapping) {
          EXPECT_EQ(calls_->munmap(region->extent.base, region->extent.size), 0);
        }
      }
    }
    HostileHostFixture::TearDown();
    close(file_);
  }

  std::intptr_t map(std::size_t bytes, std::uintptr_t address = 0, int more_flags = 0) {
    return calls_->mmap(address, bytes, kRw, MAP_SHARED | more_flags, file_, 0);
  }
  std::uintptr_t mapping(std::size_t page = 0) const {
    return static_cast<std::uintptr_t>(mapping_) + page * kPageBytes;
  }
  bool is_mapped(std::size_t page, Protection protection = Protection::kReadWrite) const {
    return allocator_->validate(mapping(page), kPageBytes, protection).ok();
  }

  // Every region but the pools: where it lies, what it is, what it allows.
  std::vector<std::string> books() const {
    EXPECT_TRUE(allocator_->validate_books());
    std::vector<std::string> lines;
    for (auto region = allocator_->next_region(0); region.ok();
         region = allocator_->next_region(region->extent.end())) {
      EXPECT_FALSE(region->extent.overlaps(host_->enclave()));
      if (region->role == Role::kPool) continue;
      char line[80];
      (void)std::snprintf(line, sizeof line, "%zx+%zx role %d, %d", region->extent.base,
                          region->extent.size, static_cast<int>(region->role),
                          static_cast<int>(region->protection));
      lines.emplace_back(line);
    }
    return lines;
  }
  std::uint64_t lies_told() const { return allocator_->statistics().lies_refused; }
  // What the host answered to the last call of the kind.
  HostReply last_reply(sim::HostCall call) const {
    HostReply reply{0, -1};
    for (const auto& event : host_->events()) {
      if (event.call == call) reply = event.reply;
    }
    return reply;
  }

  static constexpr std::size_t kFileBytes = 64 * kMiB;
  int file_ = -1;
  std::optional<MemoryCalls> calls_;
  untrusted_bytes first_;
  std::intptr_t mapping_ = 0;
};

// Random calls of several threads while the host lies at random.
struct Campaign {
  std::uint64_t seed;
  unsigned percent;  // of its answers are lies
  unsigned threads;
};
inline const auto kCampaigns =
    testing::Values(Campaign{1, 0, 1}, Campaign{2, 20, 1}, Campaign{3, 60, 1}, Campaign{4, 20, 4});
inline std::string campaign_name(const testing::TestParamInfo<Campaign>& param) {
  return std::to_string(param.param.seed) + "_" + std::to_string(param.param.percent) + "percent_" +
         std::to_string(param.param.threads) + "threads";
}

class CampaignOnHostileHost : public MemoryCallsOnHostileHost,
                              public testing::WithParamInterface<Campaign> {
 protected:
  virtual void one_thread(std::uint64_t seed) = 0;
  void lie_all_the_time() {
    leftovers_expected_ = true;
    host_->tolerate_overlaps(true);
    host_->lie_at_random(GetParam().percent);
    std::vector<std::thread> threads;
    for (unsigned t = 1; t < GetParam().threads; ++t) {
      threads.emplace_back([this, t] { one_thread(GetParam().seed * 100 + t); });
    }
    one_thread(GetParam().seed);
    for (auto& thread : threads) thread.join();
    host_->lie_at_random(0);
    EXPECT_TRUE(allocator_->validate_books());
  }
};

inline std::vector<sim::Lie> lies_about(sim::HostCall call) {
  std::vector<sim::Lie> lies;
  for (int i = 1; i <= static_cast<int>(sim::kLastLie); ++i) {
    if (fits(static_cast<sim::Lie>(i), call)) lies.push_back(static_cast<sim::Lie>(i));
  }
  return lies;
}
inline std::string lie_name(const testing::TestParamInfo<sim::Lie>& param) {
  return name_of(param.param);
}
}  // namespace exclave::testing_support
