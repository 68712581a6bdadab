// mmap: what reaches the host, what stays inside, and what is refused.
#include "support/page_host_fixture.hpp"

namespace exclave {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing_support::EnclaveRecorder;
using testing_support::kDevice;
using testing_support::kPage;
using testing_support::kReadWrite;
using testing_support::PageHost;
using testing_support::PageHostFixture;

using Kind = PageHost::Kind;

class MmapTest : public PageHostFixture {
 protected:
  std::intptr_t mmap_shared(std::uintptr_t address, std::size_t length, int more_flags = 0) {
    return calls_->mmap(address, length, kReadWrite, MAP_SHARED | more_flags, kDevice, 0);
  }
};

// ---- What the device understands, and we do not ----

TEST_F(MmapTest, OffsetsAreTokensThatPassUnchanged) {
  for (const std::uint64_t token :
       {0ull, 0x8000000ull, 0x10000000ull, 0x80030000ull, 0x100000000ull, 0x180000000ull, 1ull,
        0xfffffffffffff000ull, ~0ull}) {
    const std::intptr_t at = calls_->mmap(0, 2368, kReadWrite, MAP_SHARED, kDevice, token);
    ASSERT_GT(at, 0);
    EXPECT_THAT(host_->take_calls(),
                ElementsAre(PageHost::Call{
                    Kind::kMap, {0, kPage}, kReadWrite, MAP_SHARED, kDevice, token}));
  }
}

TEST_F(MmapTest, OddLengthsAreWholePages) {
  const struct {
    std::size_t asked, mapped;
  } cases[] = {{1, 1}, {2368, 1}, {4095, 1}, {4096, 1}, {4097, 2}, {9280, 3}, {460800, 113}};
  for (const auto& c : cases) {
    const std::intptr_t at = mmap_shared(0, c.asked);
    ASSERT_GT(at, 0);
    const auto base = static_cast<std::uintptr_t>(at);
    EXPECT_EQ(host_->take_calls()[0].extent, (Extent{0, c.mapped * kPage}));
    EXPECT_TRUE(allocator_->query(base, c.mapped * kPage).ok());
    EXPECT_FALSE(allocator_->query(base, c.mapped * kPage + 1).ok());
    // munmap by the odd length, as liburing does.
    EXPECT_EQ(calls_->munmap(base, c.asked), 0);
    EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap({base, c.mapped * kPage})));
  }
  EXPECT_EQ(regions(), 0u);
}

TEST_F(MmapTest, FlagsDescriptorAndProtectionPassUnchanged) {
  const int flags = MAP_SHARED | MAP_POPULATE | MAP_LOCKED | MAP_NORESERVE;
  ASSERT_GT(calls_->mmap(0, kPage, PROT_READ, flags, 123, 0), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::Call{Kind::kMap, {0, kPage}, PROT_READ, flags, 123, 0}));
}

TEST_F(MmapTest, BitsThatAreNoProtectionAreNotShownToTheHost) {
  ASSERT_GT(calls_->mmap(0, kPage, PROT_READ | 0x1018, MAP_SHARED, kDevice, 0), 0);
  EXPECT_EQ(host_->take_calls()[0].protection, PROT_READ);
}

TEST_F(MmapTest, AHintIsAHint) {
  const std::uintptr_t hint = std::uintptr_t{0x3000} << 32;
  EXPECT_EQ(mmap_shared(hint, kPage), static_cast<std::intptr_t>(hint));
  // Taken now: the host puts it elsewhere, and that is fine.
  const std::intptr_t other = mmap_shared(hint, kPage);
  EXPECT_GT(other, 0);
  EXPECT_NE(other, static_cast<std::intptr_t>(hint));
  // A hint into the enclave is not shown to the host.
  host_->take_calls();
  EXPECT_GT(mmap_shared(host_->enclave().base + 16 * kPage, kPage), 0);
  EXPECT_EQ(host_->take_calls()[0].extent.base, 0u);
  // The last page of the lower half is a place as good as any.
  constexpr std::uintptr_t kLast = (std::uintptr_t{1} << 47) - kPage;
  EXPECT_EQ(mmap_shared(kLast, kPage), static_cast<std::intptr_t>(kLast));
  EXPECT_EQ(mmap_shared(kLast, kPage, MAP_FIXED), static_cast<std::intptr_t>(kLast));
  host_->take_calls();
  // Nor one that no mapping can have.
  constexpr std::uintptr_t kLimit = std::uintptr_t{1} << 47;
  for (const std::uintptr_t beyond : {kLimit, kLimit - kPage, ~kPage + 1}) {
    EXPECT_GT(mmap_shared(beyond, 2 * kPage), 0);
    EXPECT_EQ(host_->take_calls()[0].extent.base, 0u) << std::hex << beyond;
  }
}

TEST_F(MmapTest, TheSamePagesStandSeveralTimesWithDifferentProtections) {
  const std::intptr_t both = calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0);
  const std::intptr_t read = calls_->mmap(0, kPage, PROT_READ, MAP_SHARED, kDevice, 0);
  const std::intptr_t none = calls_->mmap(0, kPage, PROT_NONE, MAP_SHARED, kDevice, 0);
  ASSERT_TRUE(both > 0 && read > 0 && none > 0);
  const auto allows = [this](std::intptr_t at, Protection needed) {
    return allocator_->validate(static_cast<std::uintptr_t>(at), kPage, needed).error();
  };
  EXPECT_EQ(allows(both, Protection::kReadWrite), Error::kNone);
  EXPECT_EQ(allows(read, Protection::kRead), Error::kNone);
  EXPECT_EQ(allows(read, Protection::kReadWrite), Error::kNotPermitted);
  EXPECT_EQ(allows(none, Protection::kRead), Error::kNotPermitted);
  EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(both), kPage), 0);
  EXPECT_EQ(allows(read, Protection::kRead), Error::kNone);
}

// A program that asks for low addresses keeps them in 32 bits.
using Threat13_HighAnswerToMap32Bit = MmapTest;
TEST_F(Threat13_HighAnswerToMap32Bit, IsRefusedAndNeverReturned) {
  constexpr std::uintptr_t kEnd = std::uintptr_t{1} << 31;
  host_->place_next_at(kEnd - 2 * kPage);
  EXPECT_EQ(mmap_shared(0, 2 * kPage, MAP_32BIT), static_cast<std::intptr_t>(kEnd - 2 * kPage));
  EXPECT_EQ(allocator_->statistics().lies_refused, 0u);
  for (const std::uintptr_t high : {kEnd - kPage, kEnd, std::uintptr_t{0x3000} << 32}) {
    host_->answer = [high](const PageHost::Call&) -> std::optional<HostReply> {
      return HostReply{high, 0};
    };
    const std::uint64_t lies = allocator_->statistics().lies_refused;
    EXPECT_EQ(mmap_shared(0, 2 * kPage, MAP_32BIT), -EPERM) << std::hex << high;
    EXPECT_EQ(allocator_->statistics().lies_refused, lies + 1);
    host_->answer = nullptr;
  }
  EXPECT_EQ(regions(), 1u);
  // As on Linux, a fixed address counts for more.
  const std::uintptr_t fixed = std::uintptr_t{0x3000} << 32;
  EXPECT_EQ(mmap_shared(fixed, kPage, MAP_32BIT | MAP_FIXED), static_cast<std::intptr_t>(fixed));
}

// ---- What stays inside ----

TEST_F(MmapTest, AnonymousMemoryGoesInsideWhateverThePolicySays) {
  enclave_.next_map = 0x1000;
  for (const int type : {MAP_PRIVATE, MAP_SHARED}) {
    EXPECT_EQ(calls_->mmap(0, 100, kReadWrite, type | MAP_ANONYMOUS, -1, 0), 0x1000);
    ASSERT_EQ(enclave_.calls.size(), 1u);
    EXPECT_EQ(enclave_.calls[0],
              (EnclaveRecorder::Call{'m', {0, 100}, kReadWrite, type | MAP_ANONYMOUS, -1, 0}));
    enclave_.calls.clear();
  }
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(regions(), 0u);
}

TEST_F(MmapTest, ThePolicyKeepsDescriptorsInside) {
  enclave_.outside = false;
  enclave_.next_map = -ENODEV;
  EXPECT_EQ(calls_->mmap(0, 9280, PROT_READ, MAP_SHARED, kDevice, 0x10000000), -ENODEV);
  ASSERT_EQ(enclave_.calls.size(), 1u);
  EXPECT_EQ(enclave_.calls[0],
            (EnclaveRecorder::Call{'m', {0, 9280}, PROT_READ, MAP_SHARED, kDevice, 0x10000000}));
  EXPECT_THAT(host_->take_calls(), IsEmpty());
}

TEST_F(MmapTest, AMappingOfNoKindIsRefusedBeforeItsPlaceIsLookedAt) {
  constexpr int kPlaced = MAP_ANONYMOUS | MAP_FIXED;
  for (const int type : {0, MAP_SHARED_VALIDATE, 4, 0xf}) {
    EXPECT_EQ(calls_->mmap(kPage, kPage, kReadWrite, type | kPlaced, -1, 0), -EINVAL) << type;
  }
  EXPECT_EQ(calls_->mmap(kPage, kPage, kReadWrite, MAP_PRIVATE | kPlaced, -1, 0), -ENOMEM);
  EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, 4, kDevice, 0), -EINVAL);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_THAT(enclave_.calls, IsEmpty());
}

TEST_F(MmapTest, WithoutAPolicyAllStaysInside) {
  EnclaveMemoryTable table = enclave_.table();
  table.lies_outside = nullptr;
  MemoryCalls calls(*allocator_, table);
  enclave_.next_map = 0x2000;
  EXPECT_EQ(calls.mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0), 0x2000);
  EXPECT_EQ(enclave_.calls.size(), 1u);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
}

TEST_F(MmapTest, InsideAtAFixedPlaceMustBeInsideTheEnclave) {
  const Extent enclave = host_->enclave();
  enclave_.outside = false;
  for (const std::uintptr_t place : {enclave.base - kPage, enclave.end() - kPage, enclave.end()}) {
    EXPECT_EQ(
        calls_->mmap(place, 2 * kPage, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
        -ENOMEM);
  }
  EXPECT_THAT(enclave_.calls, IsEmpty());
  enclave_.next_map = static_cast<std::intptr_t>(enclave.base);
  EXPECT_EQ(calls_->mmap(enclave.base, 2 * kPage, kReadWrite,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            enclave_.next_map);
  EXPECT_EQ(enclave_.calls.size(), 1u);
}

TEST_F(MmapTest, TheLongestLengthThereIsIsTheManagersToRefuse) {
  enclave_.next_map = -EAGAIN;
  EXPECT_EQ(calls_->mmap(0, std::size_t{1} << 47, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            -EAGAIN);
  EXPECT_EQ(enclave_.calls.size(), 1u);
}

// ---- What is refused ----

TEST_F(MmapTest, BadArgumentsReachNobody) {
  const std::uintptr_t place = std::uintptr_t{0x3000} << 32;
  const std::uintptr_t limit = std::uintptr_t{1} << 47;
  EXPECT_EQ(mmap_shared(0, 0), -EINVAL);
  EXPECT_EQ(mmap_shared(0, SIZE_MAX), -ENOMEM);
  EXPECT_EQ(mmap_shared(0, SIZE_MAX - kPage + 1), -ENOMEM);
  EXPECT_EQ(mmap_shared(0, limit + 1), -ENOMEM);
  EXPECT_EQ(mmap_shared(place + 1, kPage, MAP_FIXED), -EINVAL);
  EXPECT_EQ(calls_->mmap(host_->enclave().base + 1, kPage, kReadWrite,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            -EINVAL);
  EXPECT_LT(mmap_shared(limit, kPage, MAP_FIXED), 0);
  EXPECT_LT(mmap_shared(limit - kPage, 2 * kPage, MAP_FIXED), 0);
  EXPECT_LT(mmap_shared(UINTPTR_MAX - kPage + 1, kPage, MAP_FIXED), 0);
  EXPECT_LT(mmap_shared(UINTPTR_MAX - kPage + 1, 2 * kPage, MAP_FIXED), 0);
  EXPECT_LT(mmap_shared(0, kPage, MAP_FIXED), 0) << "page zero";
  for (const int type : {0, 4, 8, 15}) {
    EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, type, kDevice, 0), -EINVAL) << type;
  }
  EXPECT_EQ(mmap_shared(0, kPage, MAP_GROWSDOWN), -EINVAL);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_THAT(enclave_.calls, IsEmpty());
  EXPECT_EQ(regions(), 0u);
}

TEST_F(MmapTest, ExecutionIsNeverGrantedOutside) {
  for (const int protection : {PROT_EXEC, PROT_READ | PROT_EXEC, kReadWrite | PROT_EXEC}) {
    EXPECT_EQ(calls_->mmap(0, kPage, protection, MAP_SHARED, kDevice, 0), -EACCES);
  }
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  // Inside it is the runtime's business.
  enclave_.outside = false;
  enclave_.next_map = 0x1000;
  EXPECT_EQ(calls_->mmap(0, kPage, PROT_EXEC, MAP_PRIVATE, kDevice, 0), 0x1000);
}

// ---- Fixed addresses ----

class FixedTest : public MmapTest {
 protected:
  static constexpr std::uintptr_t kPlace = std::uintptr_t{0x3000} << 32;
};

TEST_F(FixedTest, FreeGround) {
  for (const int flag : {MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_FIXED | MAP_FIXED_NOREPLACE}) {
    EXPECT_EQ(mmap_shared(kPlace, 3 * kPage, flag), static_cast<std::intptr_t>(kPlace));
    EXPECT_EQ(book(kPlace, 4), "bbb.");
    // The host may only fill a gap: it is never told to replace.
    const auto calls = host_->take_calls();
    ASSERT_EQ(calls.size(), 1u);
    EXPECT_EQ(calls[0].flags, MAP_SHARED | MAP_FIXED_NOREPLACE);
    EXPECT_EQ(calls_->munmap(kPlace, 3 * kPage), 0);
    host_->take_calls();
  }
}

TEST_F(FixedTest, OwnMappingsAreReplacedInExactlyThesePages) {
  map(8, kPlace);
  EXPECT_EQ(calls_->mmap(kPlace + 2 * kPage, 3 * kPage, PROT_READ, MAP_SHARED | MAP_FIXED, kDevice,
                         0x80030000),
            static_cast<std::intptr_t>(kPlace + 2 * kPage));
  EXPECT_EQ(book(kPlace, 9), "bbrrrbbb.");
  EXPECT_EQ(table(kPlace, 9), "bbrrrbbb.");
  for (const auto& call : host_->take_calls()) {
    EXPECT_EQ(call.extent, pages(kPlace, 2, 3)) << "not these pages";
  }
}

TEST_F(FixedTest, ReplacesAcrossTwoMappingsAndAGap) {
  map(2, kPlace);
  map(2, kPlace + 4 * kPage);
  EXPECT_EQ(calls_->mmap(kPlace + kPage, 4 * kPage, PROT_READ, MAP_SHARED | MAP_FIXED, kDevice, 0),
            static_cast<std::intptr_t>(kPlace + kPage));
  EXPECT_EQ(book(kPlace, 7), "brrrrb.");
  EXPECT_EQ(table(kPlace, 7), "brrrrb.");
}

TEST_F(FixedTest, NoReplaceReplacesNothing) {
  map(2, kPlace + kPage);
  for (const std::size_t first : {0u, 1u, 2u}) {
    EXPECT_EQ(mmap_shared(kPlace + first * kPage, 2 * kPage, MAP_FIXED_NOREPLACE), -EEXIST);
  }
  EXPECT_EQ(book(kPlace, 4), ".bb.");
  EXPECT_THAT(host_->take_calls(), IsEmpty());
}

TEST_F(FixedTest, PoolsAreNeverReplaced) {
  attach_pool({kPlace + 2 * kPage, 16 * kPage});
  map(2, kPlace);
  for (const std::size_t first : {0u, 1u, 2u, 10u, 17u}) {
    EXPECT_EQ(mmap_shared(kPlace + first * kPage, 3 * kPage, MAP_FIXED), -EBUSY) << first;
    EXPECT_EQ(mmap_shared(kPlace + first * kPage, 3 * kPage, MAP_FIXED_NOREPLACE), -EEXIST)
        << first;
  }
  EXPECT_EQ(book(kPlace, 19), "bbPPPPPPPPPPPPPPPP.") << "the mappings before it went";
  EXPECT_THAT(host_->take_calls(), IsEmpty());
}

TEST_F(FixedTest, GrownMemoryIsNeverReplaced) {
  const auto block = allocator_->allocate(100000);
  ASSERT_TRUE(block.ok());
  host_->take_calls();
  const std::uintptr_t page = block->address() & ~(kPage - 1);
  EXPECT_EQ(mmap_shared(page, kPage, MAP_FIXED), -EBUSY);
  EXPECT_EQ(mmap_shared(page, kPage, MAP_FIXED_NOREPLACE), -EEXIST);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_TRUE(allocator_->deallocate(*block).ok());
}

TEST_F(FixedTest, ForbiddenWindowsAreNeverReplaced) {
  AttachOptions options;
  options.role = Role::kForbidden;
  ASSERT_TRUE(allocator_->attach({kPlace, kPage}, options).ok());
  EXPECT_EQ(mmap_shared(kPlace, kPage, MAP_FIXED), -EBUSY);
  EXPECT_EQ(mmap_shared(kPlace - kPage, 2 * kPage, MAP_FIXED_NOREPLACE), -EEXIST);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
}

TEST_F(FixedTest, PinnedPagesAreNotReplaced) {
  map(4, kPlace);
  const auto pin = allocator_->pin({kPlace + 2 * kPage + 100, 8});
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(mmap_shared(kPlace, 4 * kPage, MAP_FIXED), -EBUSY);
  EXPECT_EQ(book(kPlace, 4), "bbbb");
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(mmap_shared(kPlace, 2 * kPage, MAP_FIXED), static_cast<std::intptr_t>(kPlace));
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
  EXPECT_EQ(mmap_shared(kPlace, 4 * kPage, MAP_FIXED), static_cast<std::intptr_t>(kPlace));
}

TEST_F(FixedTest, UnknownMemoryIsNeverReplaced) {
  host_->put_foreign({kPlace + kPage, kPage});
  EXPECT_EQ(mmap_shared(kPlace, 3 * kPage, MAP_FIXED), -EBUSY);
  EXPECT_EQ(mmap_shared(kPlace, 3 * kPage, MAP_FIXED_NOREPLACE), -EEXIST);
  EXPECT_EQ(book(kPlace, 3), "...");
  EXPECT_TRUE(host_->is_mapped(kPlace + kPage));
  // Nor in a gap of what is replaced.
  map(1, kPlace);
  EXPECT_EQ(mmap_shared(kPlace, 3 * kPage, MAP_FIXED), -EBUSY);
  EXPECT_EQ(book(kPlace, 3), "b..");
}

TEST_F(FixedTest, TheEnclaveAndItsEdges) {
  const Extent enclave = host_->enclave();
  for (const int flag : {MAP_FIXED, MAP_FIXED_NOREPLACE}) {
    EXPECT_EQ(mmap_shared(enclave.base, kPage, flag), -EINVAL);
    EXPECT_EQ(mmap_shared(enclave.end() - kPage, kPage, flag), -EINVAL);
    EXPECT_EQ(mmap_shared(enclave.base - kPage, 2 * kPage, flag), -EINVAL);
    EXPECT_EQ(mmap_shared(enclave.end() - kPage, 2 * kPage, flag), -EINVAL);
    EXPECT_EQ(mmap_shared(enclave.base - kPage, enclave.size + 2 * kPage, flag), -EINVAL);
    EXPECT_THAT(host_->take_calls(), IsEmpty());
    // Exactly beside it is fine.
    const std::uintptr_t below = enclave.base - kPage;
    EXPECT_EQ(mmap_shared(below, kPage, flag), static_cast<std::intptr_t>(below));
    EXPECT_EQ(mmap_shared(enclave.end(), kPage, flag), static_cast<std::intptr_t>(enclave.end()));
    EXPECT_EQ(calls_->munmap(below, kPage), 0);
    EXPECT_EQ(calls_->munmap(enclave.end(), kPage), 0);
    host_->take_calls();
  }
}

// As the header promises, and as Linux does for a descriptor that cannot be mapped: the old pages
// stay.
TEST_F(FixedTest, WhenTheHostRefusesTheOldMappingStays) {
  map(4, kPlace);
  host_->answer = [](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind == Kind::kMap) return HostReply{0, EBADF};
    return std::nullopt;
  };
  EXPECT_EQ(mmap_shared(kPlace + kPage, 2 * kPage, MAP_FIXED), -EBADF);
  EXPECT_EQ(book(kPlace, 4), "bbbb");
  EXPECT_EQ(table(kPlace, 4), "bbbb");
}

// ---- Books ----

// The gap must be ours before the host may be told to replace: an answer that names another place
// does not make it so.
TEST_F(FixedTest, ALieAboutTheGapReplacesNothing) {
  map(2, kPlace);
  map(2, kPlace + 4 * kPage);
  for (const std::uintptr_t lie : {kPlace + 3 * kPage, kPlace + 64 * kPage, kPlace + 2 * kPage + 1,
                                   host_->enclave().base, std::uintptr_t{0}}) {
    const std::uint64_t lies = allocator_->statistics().lies_refused;
    host_->answer = [lie](const PageHost::Call& call) -> std::optional<HostReply> {
      if (call.kind == Kind::kMap && (call.flags & MAP_ANONYMOUS) != 0) return HostReply{lie, 0};
      return std::nullopt;
    };
    EXPECT_EQ(mmap_shared(kPlace + kPage, 4 * kPage, MAP_FIXED), -EPERM) << std::hex << lie;
    host_->answer = nullptr;
    EXPECT_EQ(allocator_->statistics().lies_refused, lies + 1);
    const Calls calls = host_->take_calls();
    EXPECT_EQ(calls.size(), 1u) << "only the gap was asked for";
    EXPECT_EQ(book(kPlace, 7), "bb..bb.");
    EXPECT_EQ(table(kPlace, 7), "bb..bb.");
  }
}

TEST_F(MmapTest, WithoutTrustedMemoryNothingStays) {
  std::set<std::intptr_t> answers;
  for (std::uint64_t n = 1; n < 40; ++n) {
    start(Config{});
    host_->starve_books_from(n);
    // Each at a place of its own, so that the pagemap needs books, too.
    for (std::uintptr_t i = 0; i < 12; ++i) {
      const std::uintptr_t place = (std::uintptr_t{0x3000} << 32) + (i << 36);
      const std::size_t before = host_->mapped_pages();
      const std::intptr_t at = mmap_shared(place, kPage, MAP_FIXED);
      answers.insert(at < 0 ? at : 0);
      EXPECT_EQ(host_->mapped_pages(), before + (at > 0 ? 1 : 0)) << "a page was lost outside";
      EXPECT_EQ(book(place, 1), at > 0 ? "b" : ".");
    }
    host_->starve_books_from(0);
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_GT(mmap_shared(0, kPage), 0) << "the next call must work";
  }
  EXPECT_THAT(answers, ElementsAre(-ENOMEM, 0));
}

}  // namespace
}  // namespace exclave
