// Signal handlers that leave malloc and free by siglongjmp, at each of their instructions.
#include <errno.h>
#include <gtest/gtest.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <thread>

#include "support/stepped_call.hpp"

namespace {

using exclave::testing_support::kStride;
using exclave::testing_support::SteppedCall;

sigjmp_buf g_before;

// Runs the body and jumps out of it behind its n-th instruction. False: it has fewer.
bool left_at(std::uint64_t n, const std::function<void()>& body) {
  static const std::function<void()> leave = [] { siglongjmp(g_before, 1); };
  if (sigsetjmp(g_before, 1) != 0) return true;
  (void)SteppedCall::stopped_at(n, body, leave);
  return false;
}

// Blocks of the test's own, none upon another.
class Blocks {
 public:
  void take(std::size_t size) {
    auto* const block = static_cast<unsigned char*>(malloc(size));
    ASSERT_NE(block, nullptr) << size;
    const auto start = reinterpret_cast<std::uintptr_t>(block);
    const auto next = live_.lower_bound(start);
    EXPECT_TRUE(next == live_.end() || next->first >= start + size);
    EXPECT_TRUE(next == live_.begin() || std::prev(next)->second <= start);
    memset(block, 0x5a, size);
    live_.emplace(start, start + size);
  }
  void give_back_half() {
    bool keep = false;
    for (auto it = live_.begin(); it != live_.end(); keep = !keep) {
      if (keep) {
        ++it;
        continue;
      }
      free(reinterpret_cast<void*>(it->first));
      it = live_.erase(it);
    }
  }

 private:
  std::map<std::uintptr_t, std::uintptr_t> live_;
};

class JumpsTest : public ::testing::Test {
 protected:
  SteppedCall stepped_;
};

// Where a thread's own heap serves no lock is held, so each jump leaves a thread that goes on.
TEST_F(JumpsTest, OutOfAnOwnHeap) {
  Blocks blocks;
  for (int i = 0; i < 100; ++i) blocks.take(48);
  static void* volatile block = nullptr;
  const std::array<std::function<void()>, 2> bodies = {[] { block = malloc(48); },
                                                       [] { free(block); }};
  for (const std::function<void()>& body : bodies) {
    std::uint64_t at = 1;
    for (bool left = true; left; at += kStride) {
      block = malloc(48);
      free(malloc(48));  // its stacks are neither empty nor full
      ASSERT_NE(block, nullptr);
      left = left_at(at, body);
      for (const std::size_t size : {48u, 48u, 200u, 100000u}) blocks.take(size);
      ASSERT_FALSE(HasFailure()) << at;
    }
    EXPECT_GT(at, 20u);
    blocks.give_back_half();
  }
  // So do other threads, and the child of a fork.
  std::thread([&blocks] { blocks.give_back_half(); }).join();
  const pid_t child = fork();
  if (child == 0) {
    blocks.give_back_half();
    blocks.take(48);
    _exit(HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// Anywhere else: who jumps out with a lock held has no malloc any more, and is told so.
TEST_F(JumpsTest, OutOfLongWays) {
  static void* volatile block = nullptr;
  // A run of pages comes and goes; a size that no block had yet wants a slab.
  const std::array<std::function<void()>, 3> bodies = {
      [] { block = malloc(300000); }, [] { free(block); }, [] { block = malloc(3333); }};
  for (const std::function<void()>& body : bodies) {
    int gone_on = 0, refused = 0;
    bool left = true;
    for (std::uint64_t at = 1; left; at += 31) {
      const pid_t child = fork();
      if (child == 0) {
        alarm(20);
        block = malloc(300000);
        if (!left_at(at, body)) _exit(3);
        int served = 0;
        for (const std::size_t size : {40u, 200u, 100000u, 40u}) {
          void* const after = malloc(size);
          if (after != nullptr) memset(after, 1, size), ++served;
          free(after);
        }
        _exit(served == 4 ? 0 : served == 0 && errno == ENOMEM ? 1 : 2);
      }
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      ASSERT_TRUE(WIFEXITED(status)) << at << ": signal " << WTERMSIG(status);
      ASSERT_NE(WEXITSTATUS(status), 2) << at;
      gone_on += WEXITSTATUS(status) == 0 ? 1 : 0;
      refused += WEXITSTATUS(status) == 1 ? 1 : 0;
      left = WEXITSTATUS(status) != 3;
    }
    EXPECT_GT(gone_on, 0);
    RecordProperty("gone_on", gone_on);
    RecordProperty("refused", refused);
  }
}

// A handler that is still inside the call hears no more than before: its end is to come.
TEST_F(JumpsTest, WhoIsStillInsideIsRefused) {
  for (const bool alternate : {false, true}) {
    static std::array<unsigned char, 1u << 16> memory;
    stack_t stack{};
    stack.ss_sp = memory.data();
    stack.ss_size = memory.size();
    stack.ss_flags = alternate ? 0 : SS_DISABLE;
    ASSERT_EQ(sigaltstack(&stack, nullptr), 0);
    struct sigaction action {};
    ASSERT_EQ(sigaction(SIGTRAP, nullptr, &action), 0);
    action.sa_flags |= alternate ? SA_ONSTACK : 0;
    ASSERT_EQ(sigaction(SIGTRAP, &action, nullptr), 0);

    static int refused = 0, served = 0;
    refused = served = 0;
    static void* volatile block = nullptr;
    void* inner = nullptr;
    bool inside = true;
    for (std::uint64_t at = 1; inside; at += kStride) {
      const std::function<void()> nested = [&inner] {
        inner = malloc(48);
        (inner == nullptr ? refused : served) += 1;
      };
      inside = SteppedCall::stopped_at(
          at, [] { block = malloc(48); }, nested);
      ASSERT_NE(block, nullptr);
      ASSERT_NE(block, inner);
      free(block);
      free(inner);
      inner = nullptr;
    }
    EXPECT_GT(refused, 0);
    EXPECT_GT(served, 0);
  }
}

}  // namespace
