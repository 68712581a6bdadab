// mprotect: page by page as Linux does it, and the books never promise more than the host gave.
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

class MprotectTest : public PageHostFixture {
 protected:
  static constexpr std::uintptr_t kPlace = std::uintptr_t{0x3000} << 32;

  int mprotect_pages(std::size_t first, std::size_t count, int protection) {
    return calls_->mprotect(kPlace + first * kPage, count * kPage, protection);
  }
  Extent at(std::size_t first, std::size_t count) { return pages(kPlace, first, count); }
};

TEST_F(MprotectTest, BadArgumentsReachNobody) {
  map(2, kPlace);
  EXPECT_EQ(calls_->mprotect(kPlace + 1, kPage, PROT_READ), -EINVAL);
  EXPECT_EQ(calls_->mprotect(kPlace + 1, 0, PROT_READ), -EINVAL);
  EXPECT_EQ(calls_->mprotect(kPlace, 0, PROT_READ), 0);
  EXPECT_EQ(calls_->mprotect(kPlace, kPage, 16), -EINVAL);
  EXPECT_EQ(calls_->mprotect(kPlace, kPage, -1), -EINVAL);
  EXPECT_EQ(calls_->mprotect(kPlace, SIZE_MAX, PROT_READ), -ENOMEM);
  EXPECT_EQ(calls_->mprotect(kPlace, UINTPTR_MAX - kPlace + 1, PROT_READ), -ENOMEM);
  EXPECT_EQ(calls_->mprotect(UINTPTR_MAX - kPage + 1, kPage, PROT_READ), -ENOMEM);
  EXPECT_EQ(calls_->mprotect(std::uintptr_t{1} << 47, kPage, PROT_READ), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_THAT(enclave_.calls, IsEmpty());
  EXPECT_EQ(book(kPlace, 2), "bb");
}

TEST_F(MprotectTest, ExecutionIsRefusedWhereAnyPageLiesOutside) {
  const Extent enclave = host_->enclave();
  map(1, kPlace);
  map(1, enclave.base - kPage);
  EXPECT_EQ(mprotect_pages(0, 1, PROT_READ | PROT_EXEC), -EACCES);
  EXPECT_EQ(calls_->mprotect(enclave.base - kPage, 2 * kPage, PROT_READ | PROT_EXEC), -EACCES);
  EXPECT_EQ(calls_->mprotect(enclave.end() - kPage, 2 * kPage, PROT_READ | PROT_EXEC), -EACCES);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_THAT(enclave_.calls, IsEmpty());
  EXPECT_EQ(calls_->mprotect(enclave.base, kPage, PROT_READ | PROT_EXEC), 0) << "inside it may be";
  EXPECT_EQ(enclave_.calls.size(), 1u);
}

TEST_F(MprotectTest, WhatLiesOutsideIsNotTheEnclaves) {
  map(1, kPlace);
  EXPECT_EQ(mprotect_pages(0, 1, PROT_READ), 0);
  EXPECT_THAT(enclave_.calls, IsEmpty());
}

TEST_F(MprotectTest, NothingIsMappedBeyondTheLowerHalf) {
  constexpr std::uintptr_t kLimit = std::uintptr_t{1} << 47;
  map(1, kLimit - kPage);
  EXPECT_EQ(calls_->mprotect(kLimit - kPage, 2 * kPage, PROT_READ), -ENOMEM);
  EXPECT_EQ(book(kLimit - kPage, 1), "r") << "up to there it is done";
  EXPECT_EQ(calls_->mprotect(kLimit - kPage, kPage, kReadWrite), 0);
  EXPECT_EQ(calls_->mprotect(kLimit, kPage, PROT_READ), -ENOMEM);
  host_->answer = [](const PageHost::Call&) { return HostReply{0, EACCES}; };
  EXPECT_EQ(calls_->mprotect(kLimit - kPage, 2 * kPage, PROT_READ), -EACCES) << "what came first";
}

TEST_F(MprotectTest, EveryProtectionIsReflected) {
  map(1, kPlace);
  const struct {
    int bits;
    const char* book;
    Error reads, writes, both;
  } cases[] = {
      {PROT_NONE, "n", Error::kNotPermitted, Error::kNotPermitted, Error::kNotPermitted},
      {PROT_READ, "r", Error::kNone, Error::kNotPermitted, Error::kNotPermitted},
      {PROT_WRITE, "w", Error::kNotPermitted, Error::kNone, Error::kNotPermitted},
      {kReadWrite, "b", Error::kNone, Error::kNone, Error::kNone},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(mprotect_pages(0, 1, c.bits), 0);
    EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::protect(at(0, 1), c.bits)));
    EXPECT_EQ(book(kPlace, 1), c.book);
    EXPECT_EQ(allocator_->validate(kPlace, 8, Protection::kRead).error(), c.reads);
    EXPECT_EQ(allocator_->validate(kPlace, 8, Protection::kWrite).error(), c.writes);
    EXPECT_EQ(allocator_->validate(kPlace, 8, Protection::kReadWrite).error(), c.both);
  }
}

using Threat33_EdgePagesProtected = MprotectTest;
TEST_F(Threat33_EdgePagesProtected, EveryPartOfFivePages) {
  for (std::size_t first = 0; first < 5; ++first) {
    for (std::size_t count = 1; first + count <= 5; ++count) {
      map(5, kPlace);
      EXPECT_EQ(mprotect_pages(first, count, PROT_READ), 0);
      EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::protect(at(first, count), PROT_READ)));
      std::string expected = "bbbbb";
      expected.replace(first, count, count, 'r');
      EXPECT_EQ(book(kPlace, 5), expected);
      EXPECT_EQ(table(kPlace, 5), expected);
      EXPECT_TRUE(allocator_->validate_books());
      EXPECT_EQ(calls_->munmap(kPlace, 5 * kPage), 0);
      host_->take_calls();
    }
  }
}
TEST_F(Threat33_EdgePagesProtected, OddLengthsAreWholePages) {
  map(3, kPlace);
  EXPECT_EQ(calls_->mprotect(kPlace, kPage + 1, PROT_READ), 0);
  EXPECT_EQ(book(kPlace, 3), "rrb");
}

using Threat34_AcrossRegionsProtected = MprotectTest;
TEST_F(Threat34_AcrossRegionsProtected, TwoNeighboursInOrder) {
  map(3, kPlace);
  map(3, kPlace + 3 * kPage);
  EXPECT_EQ(mprotect_pages(2, 2, PROT_READ), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::protect(at(2, 1), PROT_READ),
                                               PageHost::protect(at(3, 1), PROT_READ)));
  EXPECT_EQ(book(kPlace, 6), "bbrrbb");
}
TEST_F(Threat34_AcrossRegionsProtected, ToTheFirstHoleAndNoFurther) {
  map(2, kPlace);
  map(2, kPlace + 3 * kPage);
  EXPECT_EQ(mprotect_pages(1, 4, PROT_READ), -ENOMEM);
  EXPECT_EQ(book(kPlace, 5), "br.bb");
  EXPECT_EQ(table(kPlace, 5), "br.bb");
  EXPECT_EQ(mprotect_pages(2, 2, PROT_READ), -ENOMEM);
  EXPECT_EQ(book(kPlace, 5), "br.bb");
  EXPECT_EQ(calls_->mprotect(kPlace + 10 * kPage, kPage, PROT_READ), -ENOMEM);
}
TEST_F(Threat34_AcrossRegionsProtected, PoolsAndUnknownMemoryAreHoles) {
  const Extent pool{kPlace + 2 * kPage, 16 * kPage};
  attach_pool(pool);
  map(2, kPlace);
  map(1, pool.end());
  host_->put_foreign({pool.end() + kPage, kPage});
  EXPECT_EQ(mprotect_pages(2, 1, PROT_NONE), -ENOMEM);
  EXPECT_EQ(mprotect_pages(0, 19, PROT_NONE), -ENOMEM);
  EXPECT_EQ(calls_->mprotect(pool.end(), 2 * kPage, PROT_READ), -ENOMEM);
  EXPECT_EQ(book(kPlace, 20), "nnPPPPPPPPPPPPPPPPr.");
  const auto grown = allocator_->allocate(8000);
  ASSERT_TRUE(grown.ok());
  host_->take_calls();
  EXPECT_EQ(calls_->mprotect(grown->address() & ~(kPage - 1), kPage, PROT_NONE), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_TRUE(allocator_->deallocate(*grown).ok());
}

using Threat35_EnclaveEdgeProtected = MprotectTest;
TEST_F(Threat35_EnclaveEdgeProtected, EachSideIsServedInOrder) {
  const Extent enclave = host_->enclave();
  map(1, enclave.base - kPage);
  map(1, enclave.end());
  EXPECT_EQ(calls_->mprotect(enclave.base - kPage, enclave.size + 2 * kPage, PROT_READ), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::protect({enclave.base - kPage, kPage}, PROT_READ),
                          PageHost::protect({enclave.end(), kPage}, PROT_READ)));
  ASSERT_EQ(enclave_.calls.size(), 1u);
  EXPECT_EQ(enclave_.calls[0], (EnclaveRecorder::Call{'p', enclave, PROT_READ}));
}
TEST_F(Threat35_EnclaveEdgeProtected, AHoleInsideStopsTheWalk) {
  const Extent enclave = host_->enclave();
  map(1, enclave.base - kPage);
  map(1, enclave.end());
  enclave_.next_answer = -ENOMEM;
  EXPECT_EQ(calls_->mprotect(enclave.base - kPage, enclave.size + 2 * kPage, PROT_READ), -ENOMEM);
  EXPECT_EQ(book(enclave.base - kPage, 1) + book(enclave.end(), 1), "rb");
}
TEST_F(Threat35_EnclaveEdgeProtected, AHoleOutsideStopsBeforeTheEnclave) {
  const Extent enclave = host_->enclave();
  EXPECT_EQ(calls_->mprotect(enclave.base - kPage, 2 * kPage, PROT_READ), -ENOMEM);
  EXPECT_THAT(enclave_.calls, IsEmpty());
}

// ---- The host fails ----

using Threat36_HostFailsToProtect = MprotectTest;
TEST_F(Threat36_HostFailsToProtect, TheNthPieceKeepsItsProtection) {
  for (unsigned n = 1; n <= 4; ++n) {
    for (std::size_t i = 0; i < 4; ++i) map(2, kPlace + i * 2 * kPage);
    host_->answer = [n, seen = 0u](const PageHost::Call& call) mutable -> std::optional<HostReply> {
      if (call.kind == Kind::kProtect && ++seen == n) return HostReply{0, EACCES};
      return std::nullopt;
    };
    EXPECT_EQ(mprotect_pages(1, 6, PROT_READ), -EACCES);
    const char* expected[] = {"bbbbbbbb", "brbbbbbb", "brrrbbbb", "brrrrrbb"};
    EXPECT_EQ(book(kPlace, 8), expected[n - 1]);
    EXPECT_EQ(table(kPlace, 8), expected[n - 1]);
    host_->answer = nullptr;
    EXPECT_EQ(calls_->munmap(kPlace, 8 * kPage), 0);
  }
}
TEST_F(Threat36_HostFailsToProtect, ARefusedPartGrowsTogetherAgain) {
  map(5, kPlace);
  host_->answer = [](const PageHost::Call&) -> std::optional<HostReply> {
    return HostReply{0, EACCES};
  };
  for (std::size_t first = 0; first < 5; ++first)
    EXPECT_EQ(mprotect_pages(first, 1, PROT_READ), -EACCES);
  EXPECT_EQ(regions(), 1u);
  EXPECT_TRUE(allocator_->query(kPlace, 5 * kPage).ok());
}
TEST_F(Threat36_HostFailsToProtect,
       WhileTheHostIsAskedNothingMoreIsPromisedThanHoldsBeforeAndAfter) {
  const struct {
    int before, wanted;
    const char* meanwhile;
  } cases[] = {{kReadWrite, PROT_READ, "r"},
               {PROT_READ, kReadWrite, "r"},
               {PROT_READ, PROT_WRITE, "n"},
               {kReadWrite, PROT_NONE, "n"},
               {PROT_NONE, kReadWrite, "n"}};
  for (const auto& c : cases) {
    map(1, kPlace, c.before);
    std::string seen;
    host_->answer = [&](const PageHost::Call&) -> std::optional<HostReply> {
      seen = book(kPlace, 1);
      return std::nullopt;
    };
    EXPECT_EQ(mprotect_pages(0, 1, c.wanted), 0);
    EXPECT_EQ(seen, c.meanwhile);
    host_->answer = nullptr;
    EXPECT_EQ(calls_->munmap(kPlace, kPage), 0);
  }
}
TEST_F(Threat36_HostFailsToProtect, WithoutTrustedMemoryTheRestIsUntouched) {
  std::set<int> answers;
  for (std::uint64_t n = 1; n < 5; ++n) {
    start(Config{});
    host_->starve_books_from(n);
    std::uintptr_t base = kPlace;
    for (int i = 0; i < 40; ++i, base += std::uintptr_t{64} << 20) {
      if (calls_->mmap(base, 16 << 20, kReadWrite, MAP_SHARED | MAP_FIXED, kDevice, 0) < 0) break;
      const int answer = calls_->mprotect(base + 3 * kPage, 8 << 20, PROT_READ);
      answers.insert(answer);
      const std::string expected = answer == 0 ? "bbbrrr" : "bbbbbb";
      EXPECT_EQ(book(base, 6), expected);
      EXPECT_EQ(table(base, 6), expected);
    }
    host_->starve_books_from(0);
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_EQ(calls_->munmap(0, std::uintptr_t{1} << 47), 0);
    EXPECT_EQ(host_->mapped_pages(), 0u);
  }
  EXPECT_THAT(answers, ElementsAre(-ENOMEM, 0));
}

// ---- In pieces, and whole again ----

TEST_F(MprotectTest, TogglingDoesNotGrowTheBooks) {
  map(64, kPlace);
  const std::size_t before = regions();
  std::size_t used = 0;
  for (int round = 0; round < 50; ++round) {
    for (std::size_t page = 0; page < 64; page += 2) {
      EXPECT_EQ(mprotect_pages(page, 1, PROT_READ), 0);
    }
    EXPECT_EQ(regions(), 64u);
    for (std::size_t page = 0; page < 64; page += 2) {
      EXPECT_EQ(mprotect_pages(page, 1, kReadWrite), 0);
    }
    EXPECT_EQ(regions(), before);
    EXPECT_TRUE(allocator_->query(kPlace, 64 * kPage).ok());
    const std::size_t now = allocator_->statistics().trusted_used_bytes;
    if (round != 0) {
      EXPECT_EQ(now, used);
    }
    used = now;
  }
}
TEST_F(MprotectTest, MappingsOfDifferentLivesNeverGrowTogether) {
  map(2, kPlace);
  map(2, kPlace + 2 * kPage);
  EXPECT_EQ(mprotect_pages(0, 4, PROT_READ), 0);
  EXPECT_EQ(mprotect_pages(0, 4, kReadWrite), 0);
  EXPECT_EQ(regions(), 2u);
  EXPECT_FALSE(allocator_->query(kPlace, 4 * kPage).ok()) << "two regions, not one";
}
TEST_F(MprotectTest, PiecesKeepIdentityAndDeviceAddress) {
  AttachOptions options;
  options.role = Role::kMapping;
  options.device = 9;
  options.device_base = std::uint64_t{1} << 40;
  host_->put_mapping(at(0, 5));
  const auto id = allocator_->attach(at(0, 5), options);
  ASSERT_TRUE(id.ok());
  EXPECT_EQ(mprotect_pages(2, 1, PROT_READ), 0);
  for (std::size_t i = 0; i < 5; ++i) {
    const auto info = allocator_->query(kPlace + i * kPage, 1);
    ASSERT_TRUE(info.ok());
    EXPECT_EQ(info->id, *id);
    EXPECT_EQ(info->device, 9u);
    const auto address =
        allocator_->device_address(untrusted_bytes::unsafe_from_address(kPlace + i * kPage + 7));
    ASSERT_TRUE(address.ok());
    EXPECT_EQ(*address, options.device_base + i * kPage + 7);
  }
}
TEST_F(MprotectTest, PinnedPagesMayChangeProtection) {
  map(2, kPlace);
  const auto pin = allocator_->pin(at(0, 2));
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(mprotect_pages(0, 1, PROT_READ), 0);
  EXPECT_EQ(book(kPlace, 2), "rb");
  EXPECT_EQ(calls_->munmap(kPlace, kPage), -EBUSY);
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
}

using Threat37_ReadOnly = MprotectTest;
TEST_F(Threat37_ReadOnly, NoBlockIsEverPlacedInAMapping) {
  // A mapping can turn read-only at any time; so it never becomes a pool, and a pool never turns
  // read-only.
  map(64, kPlace);
  const auto id = allocator_->query(kPlace, 1)->id;
  EXPECT_EQ(allocator_->allocate(16, 16, Placement::in_pool(id)).error(), Error::kNotFound);
  AttachOptions read_only;
  read_only.protection = Protection::kRead;
  EXPECT_EQ(allocator_->attach(at(100, 16), read_only).error(), Error::kInvalidArgument);
  const Extent pool{kPlace + 200 * kPage, 64 * kPage};
  const RegionId pool_id = attach_pool(pool);
  EXPECT_EQ(calls_->mprotect(pool.base, pool.size, PROT_READ), -ENOMEM);
  EXPECT_EQ(allocator_->query(pool.base, 1)->protection, Protection::kReadWrite);
  const auto block = allocator_->allocate(16, 16, Placement::in_pool(pool_id));
  ASSERT_TRUE(block.ok());
  EXPECT_TRUE(allocator_->deallocate(*block).ok());
}

using Threat38_NoAccessOnLiveBlocks = MprotectTest;
TEST_F(Threat38_NoAccessOnLiveBlocks, TheApplicationCannotTakeThemAwayAndTheBooksDoNotNeedThem) {
  const auto block = allocator_->allocate(3 * kPage);
  ASSERT_TRUE(block.ok());
  host_->take_calls();
  const std::uintptr_t page = block->address() & ~(kPage - 1);
  EXPECT_EQ(calls_->mprotect(page, kPage, PROT_NONE), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  // No page of this host exists at all, so to free it is to do so without a look at it.
  EXPECT_TRUE(allocator_->deallocate(*block).ok());
  EXPECT_EQ(allocator_->deallocate(*block).error(), Error::kDoubleFree);
}

// ---- Calls from inside a call ----

TEST_F(MprotectTest, TheHostCallsBackIn) {
  map(3, kPlace);
  map(1, kPlace + 8 * kPage);
  bool inside = false;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kProtect || inside) return std::nullopt;
    inside = true;
    // The page that is at the host cannot be waited for by the thread that waits for the host.
    EXPECT_EQ(mprotect_pages(1, 1, PROT_NONE), -EBUSY);
    EXPECT_EQ(calls_->munmap(kPlace + kPage, kPage), -EBUSY) << "just this page";
    EXPECT_EQ(calls_->munmap(kPlace, 3 * kPage), -EBUSY);
    EXPECT_EQ(calls_->munmap(kPlace + kPage, kPage), -EBUSY) << "that page alone";
    EXPECT_EQ(allocator_->detach(at(0, 3)).error(), Error::kBusy);
    EXPECT_EQ(calls_->mmap(kPlace, 3 * kPage, kReadWrite, MAP_SHARED | MAP_FIXED, kDevice, 0),
              -EBUSY);
    // Everything else works.
    EXPECT_EQ(mprotect_pages(0, 1, PROT_READ), 0);
    EXPECT_EQ(mprotect_pages(8, 1, PROT_READ), 0);
    EXPECT_EQ(calls_->munmap(kPlace + 8 * kPage, kPage), 0);
    EXPECT_GT(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0), 0);
    const auto block = allocator_->allocate(100);
    EXPECT_TRUE(block.ok());
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
    return std::nullopt;
  };
  EXPECT_EQ(mprotect_pages(1, 1, PROT_READ), 0);
  EXPECT_TRUE(inside);
  EXPECT_EQ(book(kPlace, 9), "rrb......");
  EXPECT_EQ(regions(), 3u + 1u) << "two pieces, the mapping made inside, and the grown region";
}

}  // namespace
}  // namespace exclave
