// fork() while another thread has a memory call at the host: that thread is not in the child.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "support/end_child.hpp"
#include "support/page_host_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;
using Kind = PageHost::Kind;

constexpr std::uintptr_t kPlace = std::uintptr_t{0x3000} << 32;

class ForkInMemoryCall : public PageHostFixture {
 protected:
  // What the child answers, 0 to 255; -1: it did not end by itself.
  template <class Function>
  int in_child(const Function& function) {
    EXPECT_TRUE(allocator_->before_fork().ok());
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      allocator_->after_fork_in_child();
      host_->answer = nullptr;
      end_child(function());
    }
    allocator_->after_fork_in_parent();
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // Runs `visit` while another thread's call is at the host.
  template <class Call, class Visit>
  void while_at_host(Kind kind, const Call& call, const Visit& visit) {
    std::atomic<int> step{0};
    host_->answer = [&](const PageHost::Call& asked) -> std::optional<HostReply> {
      if (asked.kind == kind && step == 0) {
        step = 1;
        step.notify_all();
        step.wait(1);
      }
      return std::nullopt;
    };
    std::thread other([&] { call(); });
    step.wait(0);
    visit();
    step = 2;
    step.notify_all();
    other.join();
    host_->answer = nullptr;
  }
};

TEST_F(ForkInMemoryCall, NobodyWaitsForAThreadThatIsNotThere) {
  map(4, kPlace);
  ASSERT_EQ(calls_->mprotect(kPlace, kPage, PROT_READ), 0);
  while_at_host(
      Kind::kProtect, [&] { EXPECT_EQ(calls_->mprotect(kPlace + kPage, kPage, PROT_READ), 0); },
      [&] {
        EXPECT_EQ(in_child([&] {
                    // What holds before and after is promised, until somebody says more.
                    if (book(kPlace, 5) != "rrbb.") return 1;
                    if (calls_->mprotect(kPlace, 4 * kPage, kReadWrite) != 0) return 2;
                    if (regions() != 1) return 3;
                    if (calls_->munmap(kPlace, 4 * kPage) != 0) return 4;
                    return allocator_->validate_books() && regions() == 0 ? 0 : 5;
                  }),
                  0);
        EXPECT_EQ(book(kPlace, 5), "rrbb.");
      });
  EXPECT_EQ(book(kPlace, 5), "rrbb.");
}

// From a signal handler, or in a host call that calls back: the call goes on in both.
TEST_F(ForkInMemoryCall, ACallOfTheThreadThatForksGoesOnInTheChild) {
  map(4, kPlace);
  bool forked = false;
  int answer = -1;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kAdvise || forked) return std::nullopt;
    forked = true;
    answer = in_child([&] {
      if (calls_->munmap(kPlace, kPage) != -EBUSY) return 1;
      return book(kPlace, 4) == "bbbb" ? 0 : 2;
    });
    return std::nullopt;
  };
  EXPECT_EQ(calls_->madvise(kPlace, 4 * kPage, MADV_COLD), 0);
  EXPECT_EQ(answer, 0);
  host_->answer = nullptr;
}

}  // namespace
}  // namespace exclave
