// munmap: exactly the application's pages go, in the books and at the host, and nothing else ever
// does.
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

class MunmapTest : public PageHostFixture {
 protected:
  static constexpr std::uintptr_t kPlace = std::uintptr_t{0x3000} << 32;

  int munmap_pages(std::size_t first, std::size_t count) {
    return calls_->munmap(kPlace + first * kPage, count * kPage);
  }
  Extent at(std::size_t first, std::size_t count) { return pages(kPlace, first, count); }
};

TEST_F(MunmapTest, BadArgumentsReachNobody) {
  map(2, kPlace);
  EXPECT_EQ(calls_->munmap(kPlace, 0), -EINVAL);
  EXPECT_EQ(calls_->munmap(kPlace + 1, kPage), -EINVAL);
  EXPECT_EQ(calls_->munmap(kPlace, SIZE_MAX), -EINVAL);
  EXPECT_EQ(calls_->munmap(kPlace, UINTPTR_MAX - kPlace + 1), -EINVAL);
  EXPECT_EQ(calls_->munmap(UINTPTR_MAX - kPage + 1, kPage), -EINVAL);
  EXPECT_EQ(calls_->munmap(std::uintptr_t{1} << 47, kPage), -EINVAL);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_THAT(enclave_.calls, IsEmpty());
  EXPECT_EQ(book(kPlace, 2), "bb");
}

TEST_F(MunmapTest, NothingThereIsNoError) {
  EXPECT_EQ(munmap_pages(0, 100), 0);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
}

using Threat33_EdgePages = MunmapTest;
TEST_F(Threat33_EdgePages, FirstMiddleAndLastPage) {
  map(5, kPlace);
  EXPECT_EQ(munmap_pages(0, 1), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap(at(0, 1))));
  EXPECT_EQ(munmap_pages(2, 1), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap(at(2, 1))));
  EXPECT_EQ(munmap_pages(4, 1), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap(at(4, 1))));
  EXPECT_EQ(book(kPlace, 6), ".b.b..");
  EXPECT_EQ(table(kPlace, 6), ".b.b..");
  EXPECT_EQ(regions(), 2u);
  EXPECT_EQ(munmap_pages(0, 5), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::unmap(at(1, 1)), PageHost::unmap(at(3, 1))));
  EXPECT_EQ(regions(), 0u);
}
TEST_F(Threat33_EdgePages, EveryPartOfFivePages) {
  for (std::size_t first = 0; first < 5; ++first) {
    for (std::size_t count = 1; first + count <= 5; ++count) {
      map(5, kPlace);
      EXPECT_EQ(munmap_pages(first, count), 0);
      EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap(at(first, count))));
      std::string expected = "bbbbb";
      expected.replace(first, count, count, '.');
      EXPECT_EQ(book(kPlace, 5), expected);
      EXPECT_EQ(table(kPlace, 5), expected);
      EXPECT_TRUE(allocator_->validate_books());
      EXPECT_EQ(munmap_pages(0, 5), 0);
    }
  }
}

using Threat34_AcrossRegions = MunmapTest;
TEST_F(Threat34_AcrossRegions, TwoNeighbours) {
  map(3, kPlace);
  map(3, kPlace + 3 * kPage);
  EXPECT_EQ(munmap_pages(2, 2), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::unmap(at(2, 1)), PageHost::unmap(at(3, 1))));
  EXPECT_EQ(book(kPlace, 6), "bb..bb");
}
TEST_F(Threat34_AcrossRegions, HolesAreSkipped) {
  map(2, kPlace + 1 * kPage);
  map(1, kPlace + 5 * kPage);
  map(3, kPlace + 8 * kPage);
  EXPECT_EQ(munmap_pages(0, 10), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap(at(1, 2)), PageHost::unmap(at(5, 1)),
                                               PageHost::unmap(at(8, 2))));
  EXPECT_EQ(book(kPlace, 12), "..........b.");
}
TEST_F(Threat34_AcrossRegions, AWholeAddressSpaceTakesTheMappingsOnly) {
  const Extent pool{kPlace + 64 * kPage, 64 * kPage};
  attach_pool(pool);
  const auto grown = allocator_->allocate(5000);
  ASSERT_TRUE(grown.ok());
  map(2, kPlace);
  map(1, kPlace + (std::uintptr_t{1} << 44));
  EXPECT_EQ(calls_->munmap(0, std::uintptr_t{1} << 47), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::unmap(at(0, 2)),
                          PageHost::unmap({kPlace + (std::uintptr_t{1} << 44), kPage})));
  ASSERT_EQ(enclave_.calls.size(), 1u);
  EXPECT_EQ(enclave_.calls[0], (EnclaveRecorder::Call{'u', host_->enclave()}));
  EXPECT_TRUE(allocator_->query(pool.base, pool.size).ok());
  EXPECT_TRUE(allocator_->deallocate(*grown).ok());
}

using Threat35_EnclaveEdge = MunmapTest;
TEST_F(Threat35_EnclaveEdge, EachSideIsServed) {
  const Extent enclave = host_->enclave();
  map(2, enclave.base - 2 * kPage);
  map(2, enclave.end());
  // Below and inside.
  EXPECT_EQ(calls_->munmap(enclave.base - kPage, 3 * kPage), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap({enclave.base - kPage, kPage})));
  ASSERT_EQ(enclave_.calls.size(), 1u);
  EXPECT_EQ(enclave_.calls[0], (EnclaveRecorder::Call{'u', {enclave.base, 2 * kPage}}));
  enclave_.calls.clear();
  // Inside and above.
  EXPECT_EQ(calls_->munmap(enclave.end() - kPage, 2 * kPage), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap({enclave.end(), kPage})));
  ASSERT_EQ(enclave_.calls.size(), 1u);
  EXPECT_EQ(enclave_.calls[0], (EnclaveRecorder::Call{'u', {enclave.end() - kPage, kPage}}));
  enclave_.calls.clear();
  // All three.
  EXPECT_EQ(calls_->munmap(enclave.base - 2 * kPage, enclave.size + 4 * kPage), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap({enclave.base - 2 * kPage, kPage}),
                                               PageHost::unmap({enclave.end() + kPage, kPage})));
  ASSERT_EQ(enclave_.calls.size(), 1u);
  EXPECT_EQ(enclave_.calls[0], (EnclaveRecorder::Call{'u', enclave}));
  EXPECT_EQ(regions(), 0u);
}
TEST_F(Threat35_EnclaveEdge, ExactlyInsideIsTheEnclavesAlone) {
  const Extent enclave = host_->enclave();
  map(1, enclave.base - kPage);
  map(1, enclave.end());
  enclave_.next_answer = -EINVAL;
  EXPECT_EQ(calls_->munmap(enclave.base, enclave.size), -EINVAL) << "its answer is the answer";
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(regions(), 2u);
}
TEST_F(Threat35_EnclaveEdge, APinOnEitherSideChangesNothingOnAny) {
  const Extent enclave = host_->enclave();
  map(1, enclave.base - kPage);
  map(1, enclave.end());
  for (const std::uintptr_t pinned : {enclave.base - kPage, enclave.end()}) {
    const auto pin = allocator_->pin({pinned, 1});
    ASSERT_TRUE(pin.ok());
    EXPECT_EQ(calls_->munmap(enclave.base - kPage, enclave.size + 2 * kPage), -EBUSY);
    EXPECT_THAT(host_->take_calls(), IsEmpty());
    EXPECT_THAT(enclave_.calls, IsEmpty());
    EXPECT_EQ(book(enclave.base - kPage, 1) + book(enclave.end(), 1), "bb");
    EXPECT_TRUE(allocator_->unpin(*pin).ok());
  }
}

// ---- What never reaches the host ----

using Threat40_WhatIsNotTheApplications = MunmapTest;
TEST_F(Threat40_WhatIsNotTheApplications, PoolsAreSkipped) {
  const Extent pool{kPlace + 2 * kPage, 16 * kPage};
  const RegionId id = attach_pool(pool);
  map(2, kPlace);
  map(2, pool.end());
  const auto block = allocator_->allocate(100, 16, Placement::in_pool(id));
  ASSERT_TRUE(block.ok());
  EXPECT_EQ(calls_->munmap(kPlace, 20 * kPage), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::unmap(at(0, 2)), PageHost::unmap({pool.end(), 2 * kPage})));
  EXPECT_EQ(book(kPlace, 20), "..PPPPPPPPPPPPPPPP..");
  EXPECT_TRUE(allocator_->deallocate(*block).ok());
}
TEST_F(Threat40_WhatIsNotTheApplications, GrownMemoryIsSkipped) {
  const auto block = allocator_->allocate(100);
  ASSERT_TRUE(block.ok());
  host_->take_calls();
  EXPECT_EQ(calls_->munmap(block->address() & ~(kPage - 1), kPage), 0);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_TRUE(allocator_->query(block->address(), 100).ok());
  EXPECT_TRUE(allocator_->deallocate(*block).ok());
}
TEST_F(Threat40_WhatIsNotTheApplications, UnknownMemoryIsSkipped) {
  host_->put_foreign(at(0, 10));
  EXPECT_EQ(munmap_pages(0, 10), 0);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
}
TEST_F(Threat40_WhatIsNotTheApplications, ForbiddenWindowsAreSkipped) {
  AttachOptions options;
  options.role = Role::kForbidden;
  host_->put_foreign(at(0, 4));
  ASSERT_TRUE(allocator_->attach(at(0, 4), options).ok());
  EXPECT_EQ(munmap_pages(0, 4), 0);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(allocator_->attach(at(0, 4)).error(), Error::kOverlap) << "the window is gone";
}
TEST_F(Threat40_WhatIsNotTheApplications, APinnedBlockInAPoolIsNotInTheWay) {
  const Extent pool{kPlace + 2 * kPage, 16 * kPage};
  const RegionId id = attach_pool(pool);
  map(2, kPlace);
  const auto block = allocator_->allocate(100, 16, Placement::in_pool(id));
  ASSERT_TRUE(block.ok());
  const auto pin = allocator_->pin({block->address(), 100});
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(munmap_pages(0, 18), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap(at(0, 2))));
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
  EXPECT_TRUE(allocator_->deallocate(*block).ok());
}

// ---- Pins ----

TEST_F(MunmapTest, PinnedPagesStayAndSoDoesEverythingElse) {
  map(2, kPlace);
  map(3, kPlace + 2 * kPage);
  // One byte on the last page of the second.
  const auto pin = allocator_->pin({kPlace + 5 * kPage - 1, 1});
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(munmap_pages(0, 5), -EBUSY);
  EXPECT_EQ(munmap_pages(4, 1), -EBUSY);
  EXPECT_EQ(allocator_->detach(at(2, 3)).error(), Error::kPinned);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(book(kPlace, 5), "bbbbb");
  EXPECT_EQ(munmap_pages(0, 4), 0) << "what is not pinned may go";
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
  EXPECT_EQ(munmap_pages(4, 1), 0);
  EXPECT_EQ(allocator_->unpin(*pin).error(), Error::kNotFound);
}
TEST_F(MunmapTest, APinAcrossTwoMappingsHoldsBoth) {
  map(2, kPlace);
  map(2, kPlace + 2 * kPage);
  const auto pin = allocator_->pin({kPlace + 2 * kPage - 8, 16});
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(munmap_pages(1, 1), -EBUSY);
  EXPECT_EQ(munmap_pages(2, 1), -EBUSY);
  EXPECT_EQ(munmap_pages(0, 1), 0);
  EXPECT_EQ(munmap_pages(3, 1), 0);
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
}

// ---- The host fails ----

class Threat36_HostFails : public MunmapTest {
 protected:
  // The n-th host call of the kind (1: the first) gets this answer.
  void fail(Kind kind, unsigned n, int error) {
    host_->answer = [kind, n, error,
                     seen = 0u](const PageHost::Call& call) mutable -> std::optional<HostReply> {
      if (call.kind == kind && ++seen == n) return HostReply{0, error};
      return std::nullopt;
    };
  }
};

TEST_F(Threat36_HostFails, TheNthPieceOfMunmapStaysAndNoOther) {
  for (unsigned n = 1; n <= 4; ++n) {
    for (std::size_t i = 0; i < 4; ++i) map(2, kPlace + i * 3 * kPage);
    fail(Kind::kUnmap, n, ENOMEM);
    EXPECT_EQ(munmap_pages(0, 12), -ENOMEM);
    std::string expected(12, '.');
    expected.replace((n - 1) * 3, 2, "bb");
    EXPECT_EQ(book(kPlace, 12), expected);
    EXPECT_EQ(table(kPlace, 12), expected);
    EXPECT_EQ(regions(), 1u);
    EXPECT_TRUE(allocator_->validate_books());
    host_->answer = nullptr;
    EXPECT_EQ(munmap_pages(0, 12), 0) << "the next call must work";
    EXPECT_EQ(regions(), 0u);
  }
}
TEST_F(Threat36_HostFails, ARefusedPartStandsAsBefore) {
  map(5, kPlace);
  for (std::size_t first = 0; first < 5; ++first) {
    fail(Kind::kUnmap, 1, EPERM);
    EXPECT_EQ(munmap_pages(first, 1), -EPERM);
    EXPECT_EQ(book(kPlace, 5), "bbbbb");
    EXPECT_TRUE(allocator_->validate_books());
  }
  EXPECT_TRUE(allocator_->query(kPlace, 5 * kPage).ok()) << "one mapping in pieces for ever";
  EXPECT_EQ(regions(), 1u);
}
TEST_F(Threat36_HostFails, TheFirstRefusalIsTheAnswer) {
  map(1, kPlace);
  map(1, kPlace + 2 * kPage);
  host_->answer = [n = 0](const PageHost::Call&) mutable -> std::optional<HostReply> {
    return HostReply{0, n++ == 0 ? EPERM : ENOMEM};
  };
  EXPECT_EQ(munmap_pages(0, 3), -EPERM);
  EXPECT_EQ(book(kPlace, 3), "b.b");
}
TEST_F(Threat36_HostFails, OnlyErrnosOfLinuxComeThrough) {
  map(1, kPlace);
  const struct {
    int said, told;
  } cases[] = {{EINVAL, -EINVAL}, {ENOMEM, -ENOMEM}, {EPERM, -EPERM},
               {EINTR, -EIO},     {-1, -EIO},        {-ENOMEM, -EIO},
               {4096, -EIO},      {INT32_MIN, -EIO}, {INT32_MAX, -EIO}};
  for (const auto& c : cases) {
    host_->answer = [&c](const PageHost::Call&) -> std::optional<HostReply> {
      return HostReply{0, c.said};
    };
    EXPECT_EQ(munmap_pages(0, 1), c.told) << c.said;
    EXPECT_EQ(calls_->mprotect(kPlace, kPage, PROT_READ), c.told) << c.said;
    EXPECT_EQ(book(kPlace, 1), "b");
  }
}
TEST_F(Threat36_HostFails, OutsideFailsThenInsideIsLeftAlone) {
  const Extent enclave = host_->enclave();
  map(1, enclave.base - kPage);
  fail(Kind::kUnmap, 1, ENOMEM);
  EXPECT_EQ(calls_->munmap(enclave.base - kPage, 2 * kPage), -ENOMEM);
  EXPECT_THAT(enclave_.calls, IsEmpty());
  EXPECT_EQ(book(enclave.base - kPage, 1), "b");
}
TEST_F(Threat36_HostFails, WithoutTrustedMemoryNothingChanges) {
  // A cut in the middle needs books, for two regions and leaves; at the n-th there are none.
  std::set<int> answers;
  for (std::uint64_t n = 1; n < 5; ++n) {
    start(Config{});
    std::uintptr_t at = kPlace;
    std::vector<std::uintptr_t> bases;
    host_->starve_books_from(n);
    for (int i = 0; i < 40; ++i, at += std::uintptr_t{64} << 20) {
      const std::intptr_t mapped =
          calls_->mmap(at, 16 << 20, kReadWrite, MAP_SHARED | MAP_FIXED, kDevice, 0);
      if (mapped < 0) break;
      bases.push_back(at);
    }
    for (const std::uintptr_t base : bases) {
      const std::size_t before = host_->mapped_pages();
      const int answer = calls_->munmap(base + 5 * kPage, (8 << 20) + kPage);
      answers.insert(answer);
      ASSERT_TRUE(answer == 0 || answer == -ENOMEM);
      if (answer != 0) {
        EXPECT_EQ(host_->mapped_pages(), before);
        EXPECT_TRUE(allocator_->query(base + 5 * kPage, kPage).ok());
        EXPECT_TRUE(allocator_->query(base + (15 << 20), kPage).ok());
      }
    }
    host_->starve_books_from(0);
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_EQ(calls_->munmap(0, std::uintptr_t{1} << 47), 0);
    EXPECT_EQ(host_->mapped_pages(), 0u);
  }
  EXPECT_THAT(answers, ElementsAre(-ENOMEM, 0));
}

// ---- The hole is somebody else's before we know it ----

using Threat40_HoleTakenMeanwhile = MunmapTest;
TEST_F(Threat40_HoleTakenMeanwhile, ByAnotherMmapBeforeMunmapReturns) {
  map(3, kPlace);
  bool inside = false;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kUnmap || inside) return std::nullopt;
    inside = true;
    // The pages are gone from the books already: nobody may use them.
    EXPECT_EQ(book(kPlace, 3), "b.b");
    EXPECT_EQ(host_->host_unmap(call.extent.base, call.extent.size), 0);
    // Now another thread's mmap gets the hole, before munmap has come home.
    host_->place_next_at(call.extent.base);
    EXPECT_EQ(calls_->mmap(0, kPage, PROT_READ, MAP_SHARED, kDevice, 0x10000000),
              static_cast<std::intptr_t>(call.extent.base));
    return HostReply{0, 0};
  };
  EXPECT_EQ(munmap_pages(1, 1), 0);
  EXPECT_EQ(book(kPlace, 3), "brb") << "the new mapping stands in the hole";
  EXPECT_EQ(allocator_->statistics().lies_refused, 0u);
}
TEST_F(Threat40_HoleTakenMeanwhile, AndThenTheHostSaysItRefused) {
  // The host lies: it gave the hole away and claims that it did not unmap. The new mapping counts.
  map(3, kPlace);
  bool inside = false;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kUnmap || inside) return std::nullopt;
    inside = true;
    EXPECT_EQ(host_->host_unmap(call.extent.base, call.extent.size), 0);
    host_->place_next_at(call.extent.base);
    EXPECT_GT(calls_->mmap(0, kPage, PROT_READ, MAP_SHARED, kDevice, 0), 0);
    return HostReply{0, ENOMEM};
  };
  EXPECT_EQ(munmap_pages(1, 1), -ENOMEM);
  EXPECT_EQ(book(kPlace, 3), "brb");
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(munmap_pages(0, 3), 0);
  EXPECT_EQ(regions(), 0u);
}
TEST_F(Threat40_HoleTakenMeanwhile, TheOwnerOfALostMappingIsToldOnce) {
  // As above with a mapping that the caller attached: its callback must not be lost.
  struct Gone {
    int times = 0;
    Extent extent{};
  } gone;
  AttachOptions options;
  options.role = Role::kMapping;
  options.gone = [](void* context, std::uint64_t, std::uintptr_t base, std::size_t bytes) {
    auto& g = *static_cast<Gone*>(context);
    ++g.times;
    g.extent = {base, bytes};
  };
  options.gone_context = &gone;
  host_->put_mapping({kPlace, kPage});
  ASSERT_TRUE(allocator_->attach({kPlace, kPage}, options).ok());
  bool inside = false;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kUnmap || inside) return std::nullopt;
    inside = true;
    EXPECT_EQ(host_->host_unmap(call.extent.base, call.extent.size), 0);
    host_->place_next_at(call.extent.base);
    EXPECT_GT(calls_->mmap(0, kPage, PROT_READ, MAP_SHARED, kDevice, 0), 0);
    return HostReply{0, ENOMEM};
  };
  EXPECT_EQ(munmap_pages(0, 1), -ENOMEM);
  EXPECT_EQ(gone.times, 1);
  EXPECT_EQ(gone.extent, (Extent{kPlace, kPage}));
}
TEST_F(Threat40_HoleTakenMeanwhile, AFalseSuccessLeavesTheBooksEmpty) {
  map(2, kPlace);
  host_->answer = [](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind == Kind::kUnmap) return HostReply{0, 0};
    return std::nullopt;
  };
  EXPECT_EQ(munmap_pages(0, 2), 0);
  EXPECT_EQ(book(kPlace, 2), "..");
  EXPECT_FALSE(allocator_->validate(kPlace, 1, Protection::kRead).ok());
}

// ---- Attached mappings ----

TEST_F(MunmapTest, AnAttachedMappingIsTheApplicationsToo) {
  int gone = 0;
  AttachOptions options;
  options.role = Role::kMapping;
  options.device = 3;
  options.device_base = 0x10000;
  options.gone = [](void* context, std::uint64_t, std::uintptr_t, std::size_t) {
    ++*static_cast<int*>(context);
  };
  options.gone_context = &gone;
  host_->put_mapping(at(0, 4));
  ASSERT_TRUE(allocator_->attach(at(0, 4), options).ok());
  EXPECT_EQ(munmap_pages(1, 1), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap(at(1, 1))));
  EXPECT_EQ(gone, 1);
  const auto address =
      allocator_->device_address(untrusted_bytes::unsafe_from_address(kPlace + 2 * kPage + 5));
  ASSERT_TRUE(address.ok());
  EXPECT_EQ(*address, 0x10000u + 2 * kPage + 5) << "device addresses survive the cut";
  EXPECT_EQ(munmap_pages(0, 4), 0);
  EXPECT_EQ(gone, 3) << "each part once";
}
TEST_F(MunmapTest, DetachDoesNotCallTheHost) {
  map(4, kPlace);
  EXPECT_TRUE(allocator_->detach(at(1, 2)).ok());
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(book(kPlace, 4), "b..b");
  EXPECT_EQ(table(kPlace, 4), "bbbb");
  EXPECT_EQ(munmap_pages(0, 4), 0);
  EXPECT_EQ(table(kPlace, 4), ".bb.") << "what was detached is nobody's: not passed on";
}

}  // namespace
}  // namespace exclave
