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

// What the parent had not unmapped yet is the child's.
TEST_F(ForkInMemoryCall, PlacesStillToGoStandAgainInTheChild) {
  map(2, kPlace);
  map(2, kPlace + 4 * kPage);
  while_at_host(
      Kind::kUnmap, [&] { EXPECT_EQ(calls_->munmap(kPlace, 6 * kPage), 0); },
      [&] {
        EXPECT_EQ(book(kPlace, 6), "......");
        EXPECT_EQ(in_child([&] {
                    if (book(kPlace, 6) != "....bb") return 1;
                    if (calls_->munmap(kPlace, 6 * kPage) != 0) return 2;
                    return allocator_->validate_books() && regions() == 0 ? 0 : 3;
                  }),
                  0);
      });
  EXPECT_EQ(regions(), 0u);
}

// ---- MADV_DONTFORK ----

using Threat72_MappingsThatAForkLeavesOut = ForkInMemoryCall;
TEST_F(Threat72_MappingsThatAForkLeavesOut, TheChildsBooksDoNotHaveThem) {
  map(6, kPlace);
  EXPECT_EQ(calls_->madvise(kPlace + kPage, 4 * kPage, MADV_DONTFORK), 0);
  EXPECT_EQ(calls_->madvise(kPlace + 3 * kPage, kPage, MADV_DOFORK), 0);
  EXPECT_EQ(regions(), 5u);
  // What was cut from it, and what it grows to, is of its kind.
  EXPECT_EQ(calls_->mprotect(kPlace + kPage, kPage, PROT_READ), 0);
  EXPECT_EQ(in_child([&] {
              if (book(kPlace, 6) != "b..b.b" || regions() != 3) return 1;
              if (calls_->mprotect(kPlace + kPage, kPage, PROT_READ) != -ENOMEM) return 2;
              if (calls_->munmap(kPlace, 6 * kPage) != 0 || regions() != 0) return 3;
              return allocator_->validate_books() ? 0 : 4;
            }),
            0);
  EXPECT_EQ(book(kPlace, 6), "brbbbb");
  EXPECT_EQ(calls_->madvise(kPlace, 6 * kPage, MADV_DOFORK), 0);
  EXPECT_EQ(calls_->mprotect(kPlace, 6 * kPage, kReadWrite), 0);
  EXPECT_EQ(regions(), 1u) << "one again";
  EXPECT_EQ(in_child([&] { return book(kPlace, 6) == "bbbbbb" ? 0 : 1; }), 0);
}

TEST_F(Threat72_MappingsThatAForkLeavesOut, WhatTheHostRefusesIsAsBefore) {
  map(2, kPlace);
  EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_DONTFORK), 0);
  host_->answer = [](const PageHost::Call& call) -> std::optional<HostReply> {
    return call.kind == Kind::kAdvise ? std::optional(HostReply{0, EPERM}) : std::nullopt;
  };
  EXPECT_EQ(calls_->madvise(kPlace + kPage, kPage, MADV_DONTFORK), -EPERM);
  EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_DOFORK), -EPERM);
  host_->answer = nullptr;
  EXPECT_EQ(in_child([&] { return book(kPlace, 2) == ".b" ? 0 : 1; }), 0);
}

TEST_F(Threat72_MappingsThatAForkLeavesOut, AlsoWhileAnotherThreadsAdviceIsAtTheHost) {
  map(2, kPlace);
  for (const int advice : {MADV_DONTFORK, MADV_DOFORK}) {
    while_at_host(
        Kind::kAdvise, [&] { EXPECT_EQ(calls_->madvise(kPlace, kPage, advice), 0); },
        [&] {
          EXPECT_EQ(in_child([&] {
                      if (book(kPlace, 2) != ".b") return 1;
                      return calls_->munmap(kPlace, 2 * kPage) == 0 && regions() == 0 ? 0 : 2;
                    }),
                    0)
              << "the host may have done it";
        });
  }
  EXPECT_EQ(in_child([&] { return book(kPlace, 2) == "bb" ? 0 : 1; }), 0);
}

TEST_F(Threat72_MappingsThatAForkLeavesOut, AlsoWhenTheyAreStillToGo) {
  map(2, kPlace);
  map(2, kPlace + 4 * kPage);
  EXPECT_EQ(calls_->madvise(kPlace + 4 * kPage, 2 * kPage, MADV_DONTFORK), 0);
  while_at_host(
      Kind::kUnmap, [&] { EXPECT_EQ(calls_->munmap(kPlace, 6 * kPage), 0); },
      [&] {
        EXPECT_EQ(
            in_child([&] {
              if (regions() != 0 || !allocator_->validate_books()) return 1;
              // The place is anybody's.
              AttachOptions options;
              options.role = Role::kMapping;
              return allocator_->attach({kPlace + 4 * kPage, 2 * kPage}, options).ok() ? 0 : 2;
            }),
            0);
      });
}

// From a handler, or a host call that calls back: it goes on, so its book stays.
TEST_F(Threat72_MappingsThatAForkLeavesOut, ButForACallOfTheThreadThatForks) {
  map(2, kPlace);
  bool forked = false;
  int answer = -1;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kAdvise || forked) return std::nullopt;
    forked = true;
    answer = in_child([&] { return book(kPlace, 2) == "bb" && regions() == 2 ? 0 : 1; });
    return std::nullopt;
  };
  EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_DONTFORK), 0);
  EXPECT_EQ(answer, 0);
  host_->answer = nullptr;
}

// Memory that a device writes to is what MADV_DONTFORK is for.
TEST_F(Threat72_MappingsThatAForkLeavesOut, TheirPinsAreNoneInTheChild) {
  map(2, kPlace);
  map(1, kPlace + 4 * kPage);
  const auto first = allocator_->pin({kPlace, 8});
  const auto second = allocator_->pin({kPlace, 2 * kPage});
  const auto other = allocator_->pin({kPlace + 4 * kPage, 8});
  ASSERT_TRUE(first.ok() && second.ok() && other.ok());
  EXPECT_EQ(calls_->madvise(kPlace, 2 * kPage, MADV_DONTFORK), 0);
  EXPECT_EQ(in_child([&] {
              // Whatever comes to stand there is not pinned.
              const Extent pool{kPlace, 64 * kPage};
              if (calls_->munmap(kPlace + 4 * kPage, kPage) != -EBUSY) return 1;
              if (!allocator_->unpin(*other).ok()) return 2;
              if (calls_->munmap(kPlace + 4 * kPage, kPage) != 0) return 3;
              if (!allocator_->attach(pool).ok()) return 4;
              if (allocator_->unpin(*first).error() != Error::kNotFound) return 5;
              if (allocator_->unpin(*second).error() != Error::kNotFound) return 6;
              return allocator_->detach(pool).ok() && allocator_->validate_books() ? 0 : 7;
            }),
            0);
  EXPECT_EQ(calls_->munmap(kPlace, kPage), -EBUSY);
  for (const auto& pin : {first, second, other}) EXPECT_TRUE(allocator_->unpin(*pin).ok());
}

TEST_F(Threat72_MappingsThatAForkLeavesOut, WithoutTrustedMemoryNothingChanges) {
  map(4, kPlace);
  // Mappings of a page each, until the books are full and a cut has no room.
  constexpr std::size_t kSegment = 1024;  // pages for which the pagemap has one leaf
  AttachOptions options;
  options.role = Role::kMapping;
  const auto attach = [&](std::size_t page) {
    return allocator_->attach({kPlace + (kSegment + page) * kPage, kPage}, options).ok();
  };
  for (std::size_t i = 0; i < 64; ++i) ASSERT_TRUE(attach(i * kSegment));
  host_->starve_books_from(1);
  std::size_t page = 1;
  while (page % kSegment == 0 || attach(page)) ++page;
  ASSERT_LT(page, 64 * kSegment);
  EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_DONTFORK), -EAGAIN) << "ENOMEM tells of holes";
  EXPECT_EQ(calls_->madvise(kPlace, 4 * kPage, MADV_DONTFORK), 0) << "this needs no cut";
  host_->starve_books_from(0);
  EXPECT_EQ(book(kPlace, 4), "bbbb");
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
