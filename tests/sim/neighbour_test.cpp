// The neighbour: it writes where it was told, nowhere else, only while it may, and dies with its
// parent.
#include "sim/neighbour.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "sim/hostile_host.hpp"

namespace exclave::sim {
namespace {

constexpr std::size_t kPages = 64;
constexpr std::size_t kBytes = kPages * kPageBytes;

class NeighbourTest : public testing::Test {
 protected:
  void SetUp() override {
    file_ = memfd_create("test", MFD_CLOEXEC);
    ASSERT_EQ(ftruncate(file_, static_cast<off_t>(kBytes)), 0);
    memory_ = static_cast<unsigned char*>(
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0));
    ASSERT_NE(memory_, MAP_FAILED);
  }
  void TearDown() override {
    munmap(memory_, kBytes);
    close(file_);
  }
  std::unique_ptr<Neighbour> start(Neighbour::Mode mode = Neighbour::Mode::kEverything) {
    auto neighbour = Neighbour::start({.descriptor = file_, .mode = mode});
    EXPECT_NE(neighbour, nullptr);
    return neighbour;
  }
  bool untouched(std::size_t from_page, std::size_t pages) const {
    const auto* const at = memory_ + from_page * kPageBytes;
    return std::all_of(at, at + pages * kPageBytes, [](unsigned char byte) { return byte == 0; });
  }
  std::vector<unsigned char> snapshot() const { return {memory_, memory_ + kBytes}; }

  int file_ = -1;
  unsigned char* memory_ = nullptr;
};

TEST_F(NeighbourTest, WritesNothingBeforeItIsTold) {
  const auto neighbour = start();
  EXPECT_TRUE(neighbour->alive());
  EXPECT_FALSE(neighbour->wait_for_bytes(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(untouched(0, kPages));
  EXPECT_EQ(neighbour->bytes_written(), 0u);
}

TEST_F(NeighbourTest, WritesEveryByteOfItsExtentsAndNoOther) {
  for (const auto mode : {Neighbour::Mode::kEverything, Neighbour::Mode::kRandomPages}) {
    std::fill(memory_, memory_ + kBytes, static_cast<unsigned char>(0));
    const auto neighbour = start(mode);
    ASSERT_TRUE(neighbour->add(4 * kPageBytes, 8 * kPageBytes));
    ASSERT_TRUE(neighbour->add(20 * kPageBytes, kPageBytes));
    // Random pages need luck to meet each of nine.
    ASSERT_TRUE(neighbour->wait_for_bytes(400 * kPageBytes));
    neighbour->stop();
    for (const std::size_t page : {4u, 5u, 6u, 7u, 8u, 9u, 10u, 11u, 20u})
      EXPECT_FALSE(untouched(page, 1)) << page;
    EXPECT_TRUE(untouched(0, 4));
    EXPECT_TRUE(untouched(12, 8));
    EXPECT_TRUE(untouched(21, kPages - 21));
  }
}

TEST_F(NeighbourTest, TheBytesKeepChanging) {
  const auto neighbour = start();
  ASSERT_TRUE(neighbour->add(0, kBytes));
  ASSERT_TRUE(neighbour->wait_for_bytes(2 * kBytes));
  neighbour->pause();
  const auto first = snapshot();
  neighbour->resume();
  ASSERT_TRUE(neighbour->wait_for_bytes(2 * kBytes));
  neighbour->pause();
  const auto second = snapshot();
  std::size_t same = 0;
  for (std::size_t i = 0; i < kBytes; ++i) same += first[i] == second[i];
  EXPECT_LT(same, kBytes / 100) << "random bytes agree once in 256";
}

TEST_F(NeighbourTest, PauseAndRemoveHoldAtOnce) {
  const auto neighbour = start();
  ASSERT_TRUE(neighbour->add(0, 8 * kPageBytes));
  ASSERT_TRUE(neighbour->add(8 * kPageBytes, 8 * kPageBytes));
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(neighbour->wait_for_bytes(kPageBytes));
    neighbour->pause();
    const auto before = snapshot();
    const std::uint64_t count = neighbour->bytes_written();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(before, snapshot());
    EXPECT_EQ(neighbour->bytes_written(), count);
    EXPECT_FALSE(neighbour->wait_for_bytes(1)) << "it would never return";
    neighbour->resume();
  }
  neighbour->remove(0, 4 * kPageBytes);  // not an extent: ignored
  neighbour->remove(0, 8 * kPageBytes);
  const auto before = snapshot();
  ASSERT_TRUE(neighbour->wait_for_bytes(32 * kPageBytes));
  const auto after = snapshot();
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + 8 * kPageBytes, after.begin()));
  EXPECT_FALSE(
      std::equal(before.begin() + 8 * kPageBytes, before.end(), after.begin() + 8 * kPageBytes));
}

TEST_F(NeighbourTest, RestsBetweenPages) {
  const auto neighbour = Neighbour::start(
      {.descriptor = file_, .mode = Neighbour::Mode::kRandomPages, .rest_microseconds = 2000});
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(neighbour->add(0, kBytes));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const std::uint64_t written = neighbour->bytes_written();
  // It may have been longer.
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
  EXPECT_LE(static_cast<double>(written / kPageBytes), 10 + spent.count() / 0.002);
}

TEST_F(NeighbourTest, RefusesOddRangesAndTooMany) {
  const auto neighbour = start();
  EXPECT_FALSE(neighbour->add(0, 0));
  EXPECT_FALSE(neighbour->add(1, kPageBytes));
  EXPECT_FALSE(neighbour->add(0, 100));
  for (std::size_t i = 0; i < Neighbour::kMaxExtents; ++i)
    ASSERT_TRUE(neighbour->add(0, kPageBytes));
  EXPECT_FALSE(neighbour->add(0, kPageBytes));
  neighbour->stop();
  EXPECT_FALSE(neighbour->alive());
  EXPECT_FALSE(neighbour->add(0, kPageBytes));
  neighbour->remove(0, kPageBytes);
  neighbour->pause();
  neighbour->stop();
}

TEST_F(NeighbourTest, SomebodyKillsIt) {
  const auto neighbour = start();
  ASSERT_TRUE(neighbour->add(0, kBytes));
  kill(neighbour->process(), SIGKILL);
  while (neighbour->alive()) std::this_thread::yield();
  EXPECT_FALSE(neighbour->wait_for_bytes(UINT64_MAX / 2));
  neighbour->pause();  // must not wait for ever
  EXPECT_FALSE(neighbour->add(0, kPageBytes));
}

TEST_F(NeighbourTest, DiesWithItsParent) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t parent = fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    const auto neighbour = Neighbour::start({.descriptor = file_});
    if (neighbour == nullptr || !neighbour->add(0, kBytes)) _exit(1);
    const pid_t process = neighbour->process();
    if (write(ends[1], &process, sizeof process) != sizeof process) _exit(1);
    for (;;) ::pause();
  }
  close(ends[1]);  // if the child cannot start one, the read ends
  pid_t process = 0;
  ASSERT_EQ(read(ends[0], &process, sizeof process), static_cast<ssize_t>(sizeof process));
  EXPECT_EQ(kill(process, 0), 0);
  kill(parent, SIGKILL);  // no destructor runs
  ASSERT_EQ(waitpid(parent, nullptr, 0), parent);
  // An orphan that nobody reaps stays a zombie, so the proof is that the bytes come to rest.
  bool at_rest = false;
  for (int i = 0; i < 100 && !at_rest; ++i) {
    const auto before = snapshot();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    at_rest = before == snapshot();
  }
  EXPECT_TRUE(at_rest);
  close(ends[0]);
}

TEST_F(NeighbourTest, StartsWhileOtherThreadsRun) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stop) delete[] new char[1000];
    });
  }
  for (int i = 0; i < 20; ++i) {
    const auto neighbour = start();
    ASSERT_TRUE(neighbour->add(0, kBytes));
    EXPECT_TRUE(neighbour->wait_for_bytes(kPageBytes));
  }
  stop = true;
  for (auto& thread : threads) thread.join();
}

TEST(NeighbourOfAPort, FollowsWhatTheHostHandsOut) {
  const auto host = HostileHost::create({.shared = true});
  ASSERT_NE(host, nullptr);
  std::unique_ptr<Neighbour> neighbour;
  host->on_memory([&](Extent extent, bool added) {
    if (neighbour == nullptr) neighbour = Neighbour::start(host->honest(), extent.base, {});
    const auto backing = host->honest().shared_backing(extent.base);
    ASSERT_TRUE(backing.ok());
    if (added) {
      EXPECT_TRUE(neighbour->add(*backing));
    } else {
      neighbour->remove(*backing);
    }
  });
  for (int round = 0; round < 5; ++round) {
    const HostReply reply = host->host_reserve(kBytes, kPageBytes);
    ASSERT_EQ(reply.error, 0);
    ASSERT_TRUE(neighbour->wait_for_bytes(2 * kBytes));
    const auto* const bytes = reinterpret_cast<const volatile unsigned char*>(reply.address);
    EXPECT_TRUE(bytes[0] != 0 || bytes[1] != 0 || bytes[2] != 0 || bytes[3] != 0);
    EXPECT_EQ(host->host_release(reply.address, kBytes), 0);
    EXPECT_FALSE(neighbour->wait_for_bytes(1));
  }
}

}  // namespace
}  // namespace exclave::sim
