// mmap and mprotect where more than one thing goes wrong at once, and where two threads meet.
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "heap/core.hpp"
#include "support/hostile_fixture.hpp"
#include "support/page_host_fixture.hpp"
#include "support/process_fixture.hpp"
#include "support/worker.hpp"

namespace exclave {
namespace {

using namespace testing_support;

constexpr std::uintptr_t kPlace = std::uintptr_t{0x1234} << 32;

class ReplacementTest : public PageHostFixture {
 protected:
  // Two mappings of one page with a hole between them, over which the tests map.
  void SetUp() override {
    PageHostFixture::SetUp();
    map(1, kPlace);
    map(1, kPlace + 2 * kPage);
  }
  std::intptr_t replace() {
    return calls_->mmap(kPlace, 3 * kPage, kReadWrite, MAP_SHARED | MAP_FIXED, kDevice, 0);
  }
};

TEST_F(ReplacementTest, EveryTypeOfMappingButNoneIsTaken) {
  for (const int type : {MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE}) {
    const std::intptr_t at = calls_->mmap(0, kPage, kReadWrite, type, kDevice, 0);
    ASSERT_GT(at, 0) << type;
    EXPECT_EQ(book(static_cast<std::uintptr_t>(at), 1), "b") << type;
  }
  EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, 0, kDevice, 0), -EINVAL);
}

TEST_F(ReplacementTest, HostThatPointsIntoTheEnclaveLies) {
  host_->answer = [this](const PageHost::Call&) -> std::optional<HostReply> {
    return HostReply{host_->enclave().base, 0};
  };
  EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0), -EPERM);
  host_->answer = nullptr;
  EXPECT_EQ(allocator_->statistics().lies_refused, 1u);
}

// EEXIST in answer to MAP_FIXED is EBUSY to the program, which has not asked for less than to
// replace; in any other call it is told as it comes.
TEST_F(ReplacementTest, WhereNothingIsReplacedTheHostsEexistIsTold) {
  host_->answer = [](const PageHost::Call&) -> std::optional<HostReply> {
    return HostReply{0, EEXIST};
  };
  EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0), -EEXIST);
  EXPECT_EQ(
      calls_->mmap(kPlace + kPage, kPage, kReadWrite, MAP_SHARED | MAP_FIXED_NOREPLACE, kDevice, 0),
      -EEXIST);
  EXPECT_EQ(calls_->mmap(kPlace + kPage, kPage, kReadWrite, MAP_SHARED | MAP_FIXED, kDevice, 0),
            -EBUSY);
  host_->answer = nullptr;
}

// As from a signal handler: what needs the books outside is refused, and nothing has changed.
TEST_F(ReplacementTest, ACallInsideACallIsRefusedOutside) {
  const core::AllocatorCore::Gate inside_a_call(*allocator_->core());
  EXPECT_EQ(calls_->munmap(kPlace, kPage), -EBUSY);
  EXPECT_EQ(calls_->mprotect(kPlace, kPage, PROT_READ), -EBUSY);
  EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0), -EBUSY);
  EXPECT_THAT(host_->take_calls(), testing::IsEmpty());
  EXPECT_EQ(table(kPlace, 3), "b.b");
  // The enclave's own memory needs none of it.
  const std::uintptr_t inside = host_->enclave().base;
  EXPECT_EQ(calls_->mprotect(inside, kPage, PROT_READ), 0);
  EXPECT_EQ(calls_->munmap(inside, kPage), 0);
  unsigned char byte = 0;
  EXPECT_EQ(calls_->madvise(inside, kPage, MADV_COLD), 0);
  EXPECT_EQ(calls_->mincore(inside, kPage, &byte), 0);
  EXPECT_EQ(enclave_.calls.size(), 4u);
  EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_COLD), -EBUSY);
  EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_DONTNEED), -EBUSY);
  EXPECT_EQ(calls_->madvise(inside, kPage, MADV_DONTNEED), 0);
  EXPECT_EQ(calls_->mlockall(MCL_CURRENT), -EBUSY);
  EXPECT_EQ(calls_->mincore(kPlace, kPage, &byte), -EBUSY);
  EXPECT_EQ(calls_->mremap(kPlace, kPage, 2 * kPage, MREMAP_MAYMOVE, 0), -EBUSY);
  EXPECT_EQ(calls_->adopt(kPlace + 8 * kPage, kPage, PROT_READ), -EBUSY);
  EXPECT_EQ(calls_->give_up(kPlace, kPage), -EBUSY);
  EXPECT_THAT(host_->take_calls(), testing::IsEmpty());
}

TEST_F(ReplacementTest, HostThatFillsTheHoleElsewhereLies) {
  host_->answer = [](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != PageHost::Kind::kMap) return std::nullopt;
    return HostReply{call.extent.base + kPage, 0};
  };
  EXPECT_EQ(replace(), -EPERM);
  host_->answer = nullptr;
  EXPECT_EQ(allocator_->statistics().lies_refused, 1u);
  EXPECT_EQ(book(kPlace, 3), "b.b") << "all stands as it did";
}

TEST_F(ReplacementTest, APlaceCannotBeTakenMeanwhile) {
  // While the hole is filled nothing of it stands in the books, but it may have to stand there
  // again.
  host_->answer = [this](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != PageHost::Kind::kMap) return std::nullopt;
    AttachOptions options;
    options.role = Role::kMapping;
    options.protection = Protection::kRead;
    EXPECT_EQ(allocator_->attach({kPlace, kPage}, options).error(), Error::kOverlap);
    return HostReply{0, ENOMEM};
  };
  EXPECT_EQ(replace(), -ENOMEM);
  host_->answer = nullptr;
  EXPECT_EQ(book(kPlace, 3), "b.b");
}

TEST_F(ReplacementTest, OverlapIsALieAlsoWhenThereAreNoBooksToSeeItWith) {
  host_->starve_books_from(1);
  AttachOptions options;
  options.role = Role::kMapping;
  for (std::uintptr_t at = kPlace + 64 * kPage; allocator_->attach({at, kPage}, options).ok();)
    at += 2 * kPage;
  host_->answer = [](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != PageHost::Kind::kMap) return std::nullopt;
    return HostReply{kPlace, 0};
  };
  host_->take_calls();
  EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0), -EPERM);
  EXPECT_EQ(host_->take_calls().size(), 1u) << "and nothing is unmapped";
  host_->answer = nullptr;
  host_->starve_books_from(0);
  EXPECT_EQ(book(kPlace, 3), "b.b");
}

class TwoProtectsTest : public HostileHostFixture {};

TEST_F(TwoProtectsTest, SecondWaitsForTheFirstAndIsWhatHolds) {
  const OwnedDescriptor file(memfd_of(kPage));
  MemoryCalls calls(*allocator_, bind_enclave_memory(*memory_));
  const std::intptr_t at = calls.mmap(0, kPage, kReadWrite, MAP_SHARED, file.get(), 0);
  ASSERT_GT(at, 0);
  const auto page = static_cast<std::uintptr_t>(at);
  host_->hold(sim::HostCall::kProtect);
  std::thread first([&] { EXPECT_EQ(calls.mprotect(page, kPage, PROT_READ), 0); });
  ASSERT_TRUE(host_->wait_until_held(1));
  std::atomic<bool> done{false};
  std::thread second([&] {
    EXPECT_EQ(calls.mprotect(page, kPage, PROT_NONE), 0);
    done = true;
  });
  EXPECT_FALSE(done_before_it_waits(second.native_handle(), [&] { return done.load(); }));
  EXPECT_EQ(host_->calls(sim::HostCall::kProtect), 1u) << "the second has not asked yet";
  host_->let_go();
  first.join();
  second.join();
  EXPECT_EQ(allocator_->query(page, kPage)->protection, Protection::kNone);
  EXPECT_EQ(calls.munmap(page, kPage), 0);
}

}  // namespace
}  // namespace exclave
