// Where the process port puts its regions: side by side, and in nobody's way.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "port_holder.hpp"
#include "support/sanitizers.hpp"

namespace exclave {
namespace {

using testing_support::kSanitized;

class ProcessPortRegions : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer chooses the place itself";
  }
  // What a test leaves would stand in the way of the next one.
  void TearDown() override {
    for (const auto& [address, bytes] : held_) port_->host_release(address, bytes);
  }
  std::uintptr_t reserve(std::size_t bytes) {
    const HostReply reply = port_->host_reserve(bytes, kPageBytes);
    EXPECT_EQ(reply.error, 0);
    const std::lock_guard guard(lock_);
    held_[reply.address] = bytes;
    return reply.address;
  }
  void release(std::uintptr_t address) {
    ASSERT_EQ(port_->host_release(address, held_.at(address)), 0);
    held_.erase(address);
  }

  PortHolder port_ = make_port({.shared = GetParam()});

 private:
  std::mutex lock_;
  std::map<std::uintptr_t, std::size_t> held_;
};
INSTANTIATE_TEST_SUITE_P(Backing, ProcessPortRegions, testing::Bool(),
                         [](const auto& param) { return param.param ? "Shared" : "Private"; });

// The kernel's own choice would be below whatever was mapped last.
TEST_P(ProcessPortRegions, RegionsLieSideBySideWhateverIsMappedBetween) {
  constexpr std::size_t kBytes = 4 * kMiB;
  constexpr std::size_t kBetween = std::size_t{64} << 30;
  const std::uintptr_t first = reserve(kBytes);
  std::vector<void*> between;
  for (std::uintptr_t i = 1; i < 16; ++i) {
    between.push_back(
        mmap(nullptr, kBetween, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    ASSERT_NE(between.back(), MAP_FAILED);
    EXPECT_EQ(reserve(kBytes), first - i * kBytes);
  }
  for (void* const mapped : between) munmap(mapped, kBetween);
}

TEST_P(ProcessPortRegions, RegionsThatComeAndGoDoNotWander) {
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  const std::uintptr_t stays = reserve(kBytes);
  const std::uintptr_t goes = reserve(kBytes);
  EXPECT_EQ(goes, stays - kBytes);
  EXPECT_EQ(reserve(kBytes), goes - kBytes);
  for (int i = 0; i < 100; ++i) {
    release(goes);
    ASSERT_EQ(reserve(kBytes), goes) << "into the hole";
  }
  release(goes - kBytes);
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(reserve(kBytes), goes - kBytes) << "at the end";
    release(goes - kBytes);
  }
}

TEST_P(ProcessPortRegions, ARegionThatFitsNowhereHereDoesNotMoveTheOthers) {
  const std::uintptr_t first = reserve(kMiB);
  EXPECT_EQ(port_->host_reserve(std::size_t{120} << 40, kPageBytes).error, ENOMEM);
  EXPECT_EQ(reserve(kMiB), first - kMiB);
}

TEST_P(ProcessPortRegions, WhatStandsWhereTheNextRegionWouldGoStays) {
  const std::uintptr_t first = reserve(kMiB);
  void* const theirs = mmap(bytes_at(first - kMiB), kMiB, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  ASSERT_EQ(theirs, bytes_at(first - kMiB));
  std::memset(theirs, 0x77, kMiB);
  for (int i = 0; i < 4; ++i) {
    std::memset(bytes_at(reserve(kMiB)), 0x11, kMiB);
  }
  const auto* const bytes = static_cast<const unsigned char*>(theirs);
  EXPECT_TRUE(std::all_of(bytes, bytes + kMiB, [](unsigned char c) { return c == 0x77; }));
  // And the next ones are side by side again.
  const std::uintptr_t again = reserve(kMiB);
  EXPECT_EQ(reserve(kMiB), again - kMiB);
  munmap(theirs, kMiB);
}

TEST_P(ProcessPortRegions, HolesThatJoinServeAsOne) {
  const std::uintptr_t first = reserve(kMiB);
  const std::uintptr_t second = reserve(kMiB);
  const std::uintptr_t third = reserve(kMiB);
  release(second);
  release(third);
  for (std::uintptr_t i = 1; i < 8; ++i) EXPECT_EQ(reserve(kMiB), first - i * kMiB);
}

TEST_P(ProcessPortRegions, HugeOnesLieElsewhere) {
  const std::uintptr_t first = reserve(kMiB);
  constexpr std::size_t kHuge = std::size_t{20} << 30;
  for (int i = 0; i < 100; ++i) {
    const HostReply reply = port_->host_reserve(kHuge, kPageBytes);
    if (reply.error != 0) GTEST_SKIP() << "the system has less memory";
    ASSERT_EQ(port_->host_release(reply.address, kHuge), 0);
  }
  EXPECT_EQ(reserve(kMiB), first - kMiB);
}

TEST_P(ProcessPortRegions, AnAlignmentThatNoZoneGivesTakesNone) {
  const std::uintptr_t first = reserve(kMiB);
  for (int i = 0; i < 100; ++i) {
    const HostReply reply = port_->host_reserve(kPageBytes, std::size_t{256} << 30);
    ASSERT_EQ(reply.error, 0);
    ASSERT_EQ(port_->host_release(reply.address, kPageBytes), 0);
  }
  EXPECT_EQ(reserve(kMiB), first - kMiB);
}

// Of a port whose books grow where nothing is reserved for them, and of many others.
TEST_P(ProcessPortRegions, RegionsLieInNoPortsOwnRange) {
  const PortHolder far = make_port({.reserve_books = false});
  constexpr int kMorePortsThanZones = 70;
  std::vector<std::pair<PortHolder, std::uintptr_t>> ports;
  for (int i = 0; i < kMorePortsThanZones; ++i) {
    PortHolder port = make_port({.book_bytes = 64 * kMiB, .enclave_bytes = 64 * kMiB});
    const std::uintptr_t place = port->host_reserve(kMiB, kPageBytes).address;
    EXPECT_NE(place, 0u);
    EXPECT_FALSE(far->enclave().overlaps({place, kMiB})) << i;
    ports.emplace_back(std::move(port), place);
  }
  for (const auto& [port, place] : ports) EXPECT_EQ(port->host_release(place, kMiB), 0);
}

TEST_P(ProcessPortRegions, TwoPortsKeepApart) {
  constexpr std::uintptr_t kEach = 64;
  const PortHolder other = make_port({.shared = GetParam()});
  const std::uintptr_t ours = reserve(kMiB);
  const std::uintptr_t theirs = other->host_reserve(kMiB, kPageBytes).address;
  for (std::uintptr_t i = 1; i < kEach; ++i) {
    EXPECT_EQ(reserve(kMiB), ours - i * kMiB);
    EXPECT_EQ(other->host_reserve(kMiB, kPageBytes).address, theirs - i * kMiB);
  }
  for (std::uintptr_t i = 0; i < kEach; ++i)
    EXPECT_EQ(other->host_release(theirs - i * kMiB, kMiB), 0);
}

TEST_P(ProcessPortRegions, ThreadsThatReserveAtOnceLieTogether) {
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kEach = 64;
  std::array<std::vector<std::uintptr_t>, kThreads> places;
  std::vector<std::thread> threads;
  for (std::vector<std::uintptr_t>& mine : places) {
    threads.emplace_back([this, &mine] {
      for (std::size_t i = 0; i < kEach; ++i) mine.push_back(reserve(kMiB));
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<std::uintptr_t> all;
  for (const auto& mine : places) all.insert(all.end(), mine.begin(), mine.end());
  std::sort(all.begin(), all.end());
  for (std::size_t i = 1; i < all.size(); ++i) EXPECT_EQ(all[i], all[i - 1] + kMiB);
}

TEST_P(ProcessPortRegions, ReserveKeepsErrno) {
  for (int i = 0; i < 3; ++i) {
    errno = EBUSY;
    const std::uintptr_t address = reserve(kMiB);
    EXPECT_EQ(errno, EBUSY);
    if (i == 1) release(address);
  }
}

}  // namespace
}  // namespace exclave
