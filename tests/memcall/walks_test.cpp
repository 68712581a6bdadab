// madvise, msync, mincore, mlock: which pages reach the host, which the manager, and in what order;
// mappings that come without an mmap.
#include "heap/core.hpp"
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

constexpr std::uintptr_t kPlace = std::uintptr_t{0x3000} << 32;

class WalksTest : public PageHostFixture {
 protected:
  static PageHost::Call advise(Extent extent, int advice) {
    return PageHost::advise(EXCLAVE_MADVISE, extent, advice);
  }
  void refuse(int error) {
    host_->answer = [error](const PageHost::Call& call) -> std::optional<HostReply> {
      if (call.kind != Kind::kAdvise && call.kind != Kind::kResident) return std::nullopt;
      return HostReply{0, error};
    };
  }
  // Two pages below the enclave and two above it, so that one range holds both sides.
  void map_around_the_enclave() {
    below_ = host_->enclave().base - 2 * kPage;
    above_ = host_->enclave().end();
    for (const std::uintptr_t place : {below_, above_}) {
      host_->place_next_at(place);
      ASSERT_GT(calls_->mmap(0, 2 * kPage, kReadWrite, MAP_SHARED, kDevice, 0), 0);
    }
    size_ = above_ + 2 * kPage - below_;
    host_->take_calls();
  }
  std::uintptr_t below_ = 0;
  std::uintptr_t above_ = 0;
  std::size_t size_ = 0;
};

TEST_F(WalksTest, OnlyMappingsReachTheHost) {
  map(2, kPlace);
  attach_pool({kPlace + 2 * kPage, 4 * kPage});
  map(1, kPlace + 8 * kPage);
  EXPECT_EQ(calls_->madvise(kPlace, 10 * kPage, MADV_DONTNEED), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), ElementsAre(advise(pages(kPlace, 0, 2), MADV_DONTNEED),
                                               advise(pages(kPlace, 8, 1), MADV_DONTNEED)));
  EXPECT_EQ(calls_->madvise(kPlace + 2 * kPage, 2 * kPage, MADV_DONTNEED), -ENOMEM) << "a pool";
  EXPECT_EQ(calls_->madvise(kPlace + 3 * kPage, 6 * kPage, MADV_DONTNEED), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), ElementsAre(advise(pages(kPlace, 8, 1), MADV_DONTNEED)));
  EXPECT_EQ(calls_->mlock(kPlace, 10 * kPage), -ENOMEM);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::advise(EXCLAVE_MLOCK, pages(kPlace, 0, 2), 0)));
  EXPECT_EQ(calls_->mlock2(kPlace, 1, MLOCK_ONFAULT), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::advise(EXCLAVE_MLOCK, pages(kPlace, 0, 1), MLOCK_ONFAULT)));
  EXPECT_EQ(calls_->munlock(kPlace, kPage + 1), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::advise(EXCLAVE_MUNLOCK, pages(kPlace, 0, 2), 0)));
  EXPECT_EQ(calls_->msync(kPlace + kPage, 8 * kPage, MS_SYNC), -ENOMEM);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::advise(EXCLAVE_MSYNC, pages(kPlace, 1, 1), MS_SYNC),
                          PageHost::advise(EXCLAVE_MSYNC, pages(kPlace, 8, 1), MS_SYNC)));
  EXPECT_EQ(calls_->msync(kPlace + kPage, 8 * kPage, MS_ASYNC), -ENOMEM);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::advise(EXCLAVE_MSYNC, pages(kPlace, 1, 1), MS_ASYNC)));
  EXPECT_EQ(regions(), 3u);
}

TEST_F(WalksTest, EachSideIsServedInAscendingOrder) {
  map_around_the_enclave();
  EXPECT_EQ(calls_->madvise(below_, size_, MADV_COLD), 0);
  EXPECT_THAT(host_->take_calls(), ElementsAre(advise({below_, 2 * kPage}, MADV_COLD),
                                               advise({above_, 2 * kPage}, MADV_COLD)));
  const Extent enclave = host_->enclave();
  EXPECT_THAT(enclave_.calls,
              ElementsAre(EnclaveRecorder::Call{'a', enclave, EXCLAVE_MADVISE, MADV_COLD}));
  EXPECT_EQ(calls_->mlock(below_, size_), 0);
  EXPECT_EQ(host_->take_calls().size(), 2u);
  enclave_.next_answer = -ENOMEM;
  EXPECT_EQ(calls_->madvise(below_, size_, MADV_COLD), -ENOMEM);
  EXPECT_EQ(host_->take_calls().size(), 2u) << "a hole inside: the rest is done";
  EXPECT_EQ(calls_->mlock(below_, size_), -ENOMEM);
  EXPECT_EQ(host_->take_calls().size(), 1u) << "and here it is not";
  EXPECT_EQ(calls_->madvise(below_, size_, MADV_POPULATE_READ), -ENOMEM);
  EXPECT_EQ(host_->take_calls().size(), 1u);
  enclave_.next_answer = -EACCES;
  EXPECT_EQ(calls_->madvise(below_, size_, MADV_COLD), -EACCES);
  EXPECT_EQ(host_->take_calls().size(), 1u);
  enclave_.calls.clear();
  refuse(EINVAL);
  EXPECT_EQ(calls_->madvise(below_, size_, MADV_COLD), -EINVAL);
  EXPECT_THAT(enclave_.calls, IsEmpty());
  host_->answer = nullptr;
  EXPECT_EQ(calls_->mlock(below_ - kPage, size_), -ENOMEM) << "a hole before all";
  EXPECT_THAT(enclave_.calls, IsEmpty());
}

TEST_F(WalksTest, AHoleStopsSomeAndIsSkippedByOthers) {
  map_around_the_enclave();
  const std::uintptr_t before = below_ - kPage;
  EXPECT_EQ(calls_->madvise(before, size_, MADV_COLD), -ENOMEM);
  EXPECT_EQ(enclave_.calls.size(), 1u) << "the inside is served behind a hole";
  EXPECT_EQ(host_->take_calls().size(), 2u);
  enclave_.calls.clear();
  for (const int advice : {MADV_POPULATE_READ, MADV_POPULATE_WRITE}) {
    EXPECT_EQ(calls_->madvise(before, size_, advice), -ENOMEM);
  }
  std::vector<unsigned char> vector(size_ / kPage);
  EXPECT_EQ(calls_->mincore(before, size_, vector.data()), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_THAT(enclave_.calls, IsEmpty());
  // A hole inside.
  enclave_.next_answer = -ENOMEM;
  EXPECT_EQ(calls_->mlock(host_->enclave().base, size_ - 2 * kPage), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(calls_->mincore(host_->enclave().base, size_ - 2 * kPage, vector.data()), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
}

TEST_F(WalksTest, ShapesThatAreNoneReachNobody) {
  map(4, kPlace);
  EXPECT_EQ(calls_->madvise(kPlace, SIZE_MAX, MADV_COLD), -EINVAL);
  EXPECT_EQ(calls_->madvise(kPlace, SIZE_MAX - kPage, MADV_COLD), -EINVAL);
  EXPECT_EQ(calls_->msync(kPlace, SIZE_MAX - kPage, MS_SYNC), -ENOMEM);
  EXPECT_EQ(calls_->msync(kPlace, kPage, 8), -EINVAL);
  EXPECT_EQ(calls_->mlock(kPlace, SIZE_MAX - kPage), -EINVAL);
  EXPECT_EQ(calls_->mlock2(kPlace, kPage, 2), -EINVAL);
  EXPECT_EQ(calls_->munlock(kPlace, SIZE_MAX - kPage), -EINVAL);
  EXPECT_EQ(calls_->mincore(kPlace, SIZE_MAX, nullptr), -ENOMEM);
  for (const int flags : {0, 8, MCL_ONFAULT}) EXPECT_EQ(calls_->mlockall(flags), -EINVAL);
  // And what is of no length has nothing to say.
  EXPECT_EQ(calls_->madvise(kPlace, 0, MADV_COLD), 0);
  EXPECT_EQ(calls_->msync(kPlace, 0, MS_SYNC), 0);
  EXPECT_EQ(calls_->mlock(kPlace, 0), 0);
  EXPECT_EQ(calls_->mincore(kPlace, 0, nullptr), 0);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_THAT(enclave_.calls, IsEmpty());
}

TEST_F(WalksTest, EveryAdviceOfLinuxReachesTheHost) {
  map(1, kPlace);
  for (int advice = -1; advice < 110; ++advice) {
    const bool known = (advice >= 0 && advice <= 4) || (advice >= 8 && advice <= 25);
    EXPECT_EQ(calls_->madvise(kPlace, kPage, advice), known ? 0 : -EINVAL) << advice;
    EXPECT_EQ(host_->take_calls().size(), known ? 1u : 0u) << advice;
  }
}

TEST_F(WalksTest, WhatTheManagerDoesNotHaveIsSaid) {
  map_around_the_enclave();
  EnclaveMemoryTable without = enclave_.table();
  without.advise = nullptr;
  without.resident = nullptr;
  without.lock_all = nullptr;
  MemoryCalls calls(*allocator_, without);
  EXPECT_EQ(calls.madvise(below_, size_, MADV_COLD), -ENOSYS);
  std::vector<unsigned char> vector(size_ / kPage);
  EXPECT_EQ(calls.mincore(below_, size_, vector.data()), -ENOSYS);
  EXPECT_EQ(calls.mlockall(MCL_CURRENT), -ENOSYS);
}

TEST_F(WalksTest, MincoreFillsTheVectorFromBothSides) {
  map_around_the_enclave();
  std::vector<unsigned char> vector(size_ / kPage + 1, 0xee);
  EXPECT_EQ(calls_->mincore(below_, size_, vector.data()), 0);
  for (std::size_t i = 0; i < size_ / kPage; ++i) ASSERT_EQ(vector[i], 1) << i;
  EXPECT_EQ(vector.back(), 0xee);
  EXPECT_EQ(calls_->mincore(below_ - kPage, 2 * kPage, vector.data()), -ENOMEM);
  EXPECT_EQ(calls_->mincore(above_, 3 * kPage, vector.data()), -ENOMEM);
  for (const int error : {EAGAIN, ENOMEM, E2BIG, -1}) {
    refuse(error);
    EXPECT_EQ(calls_->mincore(above_, kPage, vector.data()),
              error == EAGAIN || error == ENOMEM ? -error : -EIO);
  }
  host_->answer = nullptr;
  enclave_.next_answer = -ENOMEM;
  EXPECT_EQ(calls_->mincore(below_, size_, vector.data()), -ENOMEM);
}

TEST_F(WalksTest, NothingIsMappedBeyondTheLowerHalf) {
  constexpr std::uintptr_t kLimit = std::uintptr_t{1} << 47;
  host_->place_next_at(kLimit - kPage);
  ASSERT_GT(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0), 0);
  host_->take_calls();
  EXPECT_EQ(calls_->madvise(kLimit - kPage, 2 * kPage, MADV_COLD), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), ElementsAre(advise({kLimit - kPage, kPage}, MADV_COLD)));
  EXPECT_EQ(calls_->madvise(kLimit, kPage, MADV_COLD), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  unsigned char byte = 0;
  EXPECT_EQ(calls_->madvise(kLimit - kPage, kPage, MADV_COLD), 0) << "up to it";
  EXPECT_EQ(calls_->mincore(kLimit - kPage, kPage, &byte), 0);
  EXPECT_EQ(calls_->mincore(kLimit - kPage, kPage + 1, &byte), -ENOMEM);
}

TEST_F(WalksTest, ErrnosOfTheHostAreThoseThatLinuxDocuments) {
  map(1, kPlace);
  for (int error = -1; error < 140; ++error) {
    if (error == 0) continue;
    refuse(error);
    const auto expected = [error](std::initializer_list<int> documented) {
      return std::count(documented.begin(), documented.end(), error) != 0 ? -error : -EIO;
    };
    EXPECT_EQ(
        calls_->madvise(kPlace, kPage, MADV_COLD),
        expected({EACCES, EAGAIN, EBADF, EBUSY, EFAULT, EHWPOISON, EINVAL, ENOMEM, ENOSYS, EPERM}));
    EXPECT_EQ(calls_->msync(kPlace, kPage, MS_SYNC), expected({EBUSY, EINVAL, ENOMEM, ENOSYS}));
    EXPECT_EQ(calls_->mlock(kPlace, kPage), expected({EAGAIN, EINVAL, ENOMEM, ENOSYS, EPERM}));
    EXPECT_EQ(calls_->munlock(kPlace, kPage), expected({EAGAIN, EINVAL, ENOMEM, ENOSYS, EPERM}));
  }
}

TEST_F(WalksTest, PinnedPagesAreNotTakenAway) {
  map(4, kPlace);
  const auto pin = allocator_->pin(pages(kPlace, 1, 1));
  ASSERT_TRUE(pin.ok());
  for (const int advice :
       {MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE, MADV_REMOVE, MADV_PAGEOUT}) {
    EXPECT_EQ(calls_->madvise(kPlace, 4 * kPage, advice), -EBUSY) << advice;
  }
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(calls_->madvise(kPlace, 4 * kPage, MADV_COLD), 0);
  // The flag's number is that of MADV_DONTNEED.
  static_assert(MS_SYNC == MADV_DONTNEED);
  EXPECT_EQ(calls_->msync(kPlace, 4 * kPage, MS_SYNC), 0);
  EXPECT_EQ(calls_->madvise(kPlace + 2 * kPage, kPage, MADV_REMOVE), 0);
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
  EXPECT_EQ(calls_->madvise(kPlace, 4 * kPage, MADV_DONTNEED), 0);
}

TEST_F(WalksTest, APinOnEitherSideChangesNothingOnAny) {
  map_around_the_enclave();
  const auto pin = allocator_->pin({above_ + kPage, 1});
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(calls_->madvise(below_, size_, MADV_DONTNEED), -EBUSY);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_THAT(enclave_.calls, IsEmpty());
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
  EXPECT_EQ(calls_->madvise(below_, size_, MADV_DONTNEED), 0);
}

// Whether the pins allow it cannot be told then, so the pages inside stay, too.
TEST_F(WalksTest, ACallInsideACallChangesNothingOnEitherSide) {
  map_around_the_enclave();
  const std::uintptr_t inside = host_->enclave().base;
  const core::AllocatorCore::Gate inside_a_call(*allocator_->core());
  EXPECT_EQ(calls_->madvise(inside, above_ + kPage - inside, MADV_DONTNEED), -EBUSY);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_THAT(enclave_.calls, IsEmpty());
}

TEST_F(WalksTest, APinnedBlockInAPoolIsNotInTheWay) {
  map(1, kPlace);
  const RegionId pool = attach_pool({kPlace + kPage, 16 * kPage});
  map(1, kPlace + 17 * kPage);
  const auto block = allocator_->allocate(100, 16, Placement::in_pool(pool));
  ASSERT_TRUE(block.ok());
  const auto pin = allocator_->pin({block->address(), 100});
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(calls_->madvise(kPlace, 18 * kPage, MADV_DONTNEED), -ENOMEM) << "a hole";
  EXPECT_EQ(host_->take_calls().size(), 2u);
  EXPECT_EQ(calls_->madvise(kPlace, 19 * kPage, MADV_DONTNEED), -ENOMEM) << "and one behind all";
  EXPECT_EQ(host_->take_calls().size(), 2u);
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
  EXPECT_TRUE(allocator_->deallocate(*block).ok());
}

TEST_F(WalksTest, APinThatComesMeanwhileHolds) {
  map(1, kPlace);
  map(1, kPlace + 2 * kPage);
  PinId pin{};
  host_->answer = [&](const PageHost::Call&) -> std::optional<HostReply> {
    const auto made = allocator_->pin({kPlace + 2 * kPage, 8});
    EXPECT_TRUE(made.ok());
    pin = *made;
    return std::nullopt;
  };
  EXPECT_EQ(calls_->madvise(kPlace, 3 * kPage, MADV_DONTNEED), -EBUSY);
  host_->answer = nullptr;
  EXPECT_THAT(host_->take_calls(), ElementsAre(advise(pages(kPlace, 0, 1), MADV_DONTNEED)));
  EXPECT_TRUE(allocator_->unpin(pin).ok());
}

// As on Linux, where pages that nobody may touch are no failure of mlockall.
TEST_F(WalksTest, WhatCannotBeTouchedDoesNotKeepTheRestFromBeingLocked) {
  map(1, kPlace, PROT_NONE);
  map(2, kPlace + 8 * kPage);
  host_->answer = [](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.extent.base != kPlace) return std::nullopt;
    return HostReply{0, ENOMEM};
  };
  EXPECT_EQ(calls_->mlockall(MCL_CURRENT), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::advise(EXCLAVE_MLOCK, pages(kPlace, 0, 1), 0),
                          PageHost::advise(EXCLAVE_MLOCK, pages(kPlace, 8, 2), 0)));
  EXPECT_EQ(calls_->mlock(kPlace, kPage), -ENOMEM);
  EXPECT_EQ(calls_->munlockall(), -ENOMEM) << "it may be locked still";
  host_->take_calls();
  refuse(EPERM);
  EXPECT_EQ(calls_->mlockall(MCL_CURRENT), -EPERM);
  EXPECT_EQ(host_->take_calls().size(), 1u);
  host_->answer = nullptr;
}

TEST_F(WalksTest, AllMappingsAreLocked) {
  map(1, kPlace);
  attach_pool({kPlace + 2 * kPage, 4 * kPage});
  map(2, kPlace + 8 * kPage);
  EXPECT_EQ(calls_->mlockall(MCL_FUTURE), 0);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(calls_->mlockall(MCL_CURRENT | MCL_ONFAULT), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::advise(EXCLAVE_MLOCK, pages(kPlace, 0, 1), MLOCK_ONFAULT),
                          PageHost::advise(EXCLAVE_MLOCK, pages(kPlace, 8, 2), MLOCK_ONFAULT)));
  EXPECT_EQ(calls_->munlockall(), 0);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::advise(EXCLAVE_MUNLOCK, pages(kPlace, 0, 1), 0),
                          PageHost::advise(EXCLAVE_MUNLOCK, pages(kPlace, 8, 2), 0)));
  EXPECT_THAT(enclave_.calls,
              ElementsAre(EnclaveRecorder::Call{'l', {}, 0, MCL_FUTURE},
                          EnclaveRecorder::Call{'l', {}, 0, MCL_CURRENT | MCL_ONFAULT},
                          EnclaveRecorder::Call{'l', {}, 0, 0}));
  enclave_.next_answer = -EPERM;
  EXPECT_EQ(calls_->mlockall(MCL_CURRENT), -EPERM);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
}

TEST_F(WalksTest, OnePieceIsOneAgainAfterwards) {
  map(4, kPlace);
  EXPECT_EQ(calls_->mprotect(kPlace, kPage, PROT_READ), 0);
  EXPECT_EQ(calls_->madvise(kPlace, 4 * kPage, MADV_COLD), 0);
  EXPECT_EQ(regions(), 2u);
  EXPECT_EQ(calls_->mprotect(kPlace, kPage, kReadWrite), 0);
  EXPECT_EQ(regions(), 1u);
}

// ---- Mappings that come without an mmap ----

TEST_F(WalksTest, AdoptedMappingsAreTheApplications) {
  host_->put_mapping(pages(kPlace, 0, 3));
  EXPECT_EQ(calls_->adopt(kPlace, 2 * kPage + 1, PROT_READ), 0);
  EXPECT_EQ(book(kPlace, 4), "rrr.");
  EXPECT_EQ(calls_->mprotect(kPlace, kPage, kReadWrite), 0);
  EXPECT_EQ(calls_->give_up(kPlace, 4 * kPage), -EINVAL) << "not all of it";
  EXPECT_EQ(book(kPlace, 4), "brr.");
  EXPECT_EQ(calls_->give_up(kPlace, 3 * kPage), 0);
  EXPECT_EQ(book(kPlace, 4), "....");
  EXPECT_EQ(host_->mapped_pages(), 3u) << "the host was not asked: it is told by another call";
  EXPECT_EQ(calls_->give_up(kPlace, 3 * kPage), -EINVAL);
  EXPECT_EQ(calls_->give_up(kPlace + 1, kPage), -EINVAL);
}

TEST_F(WalksTest, WhoAttachedIsToldWhatWasGivenUp) {
  host_->put_mapping(pages(kPlace, 0, 3));
  unsigned gone = 0;
  AttachOptions options;
  options.role = Role::kMapping;
  options.gone_context = &gone;
  options.gone = [](void* told, std::uint64_t, std::uintptr_t, std::size_t) {
    ++*static_cast<unsigned*>(told);
  };
  ASSERT_TRUE(allocator_->attach(pages(kPlace, 0, 3), options).ok());
  const std::size_t used = allocator_->statistics().trusted_used_bytes;
  EXPECT_EQ(calls_->give_up(kPlace, 3 * kPage), 0);
  EXPECT_EQ(gone, 1u);
  EXPECT_LT(allocator_->statistics().trusted_used_bytes, used);
}

TEST_F(WalksTest, WhatCannotBeAMappingIsNotAdopted) {
  map(1, kPlace);
  const Extent enclave = host_->enclave();
  EXPECT_EQ(calls_->adopt(kPlace + kPage, 0, PROT_READ), -EINVAL);
  EXPECT_EQ(calls_->adopt(kPlace + kPage, SIZE_MAX, PROT_READ), -EINVAL);
  EXPECT_EQ(calls_->adopt(kPage, (std::size_t{1} << 47) + 1, PROT_READ), -EINVAL);
  EXPECT_EQ(calls_->adopt(kPlace + kPage, kPage, 0x10), -EINVAL);
  EXPECT_EQ(calls_->adopt(kPlace + kPage, kPage, PROT_EXEC), -EACCES);
  EXPECT_EQ(allocator_->statistics().lies_refused, 0u);
  const std::uintptr_t lies[] = {0,
                                 1,
                                 kPlace,
                                 kPlace - kPage,
                                 enclave.base,
                                 enclave.base - kPage,
                                 std::uintptr_t{1} << 47,
                                 ~std::uintptr_t{0}};
  std::uint64_t told = 1;
  EXPECT_EQ(calls_->adopt(kPage, std::size_t{1} << 47, PROT_READ), -EPERM) << "no place is so long";
  for (const std::uintptr_t lie : lies) {
    EXPECT_EQ(calls_->adopt(lie, 2 * kPage, PROT_READ), -EPERM) << std::hex << lie;
    EXPECT_EQ(allocator_->statistics().lies_refused, ++told);
  }
  host_->starve_books_from(1);
  std::uintptr_t place = kPlace + 64 * kPage;
  int answer = 0;
  for (; (answer = calls_->adopt(place, kPage, PROT_READ)) == 0; place += 2 * kPage) {
  }
  EXPECT_EQ(answer, -ENOMEM);
  host_->starve_books_from(0);
}

TEST_F(WalksTest, PinnedMappingsAreNotGivenUp) {
  map(2, kPlace);
  const auto pin = allocator_->pin({kPlace, 1});
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(calls_->give_up(kPlace, 2 * kPage), -EBUSY);
  EXPECT_EQ(book(kPlace, 2), "bb");
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
}

TEST_F(WalksTest, RegistrationByAddressIsForTheApplicationsPagesOutside) {
  map(2, kPlace);
  map(1, kPlace + 2 * kPage, PROT_READ);
  attach_pool({kPlace + 3 * kPage, 4 * kPage});
  const auto is = [this](std::uintptr_t at, std::size_t size) {
    return calls_->is_application_memory(at, size);
  };
  EXPECT_TRUE(is(kPlace, 3 * kPage)) << "several mappings";
  EXPECT_TRUE(is(kPlace + 5, 3 * kPage - 5)) << "any byte";
  EXPECT_TRUE(is(kPlace, 0));
  EXPECT_FALSE(is(kPlace, 3 * kPage + 1)) << "a pool";
  EXPECT_FALSE(is(kPlace + 3 * kPage, 1));
  EXPECT_FALSE(is(kPlace - 1, 2));
  EXPECT_FALSE(is(kPlace - 1, 0));
  EXPECT_FALSE(is(kPlace, SIZE_MAX));
  EXPECT_FALSE(is(kPlace, SIZE_MAX - kPlace)) << "up to the end of everything";
  EXPECT_FALSE(is(host_->enclave().base, 1));
}

// Inside a call of this very thread.
TEST_F(WalksTest, ANestedCallIsBusyWhereTheOtherIs) {
  map(2, kPlace);
  unsigned calls = 0;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kAdvise || ++calls != 1) return std::nullopt;
    EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_COLD), -EBUSY);
    unsigned char vector[2];
    EXPECT_EQ(calls_->mincore(kPlace, kPage, vector), -EBUSY);
    EXPECT_EQ(calls_->give_up(kPlace, kPage), -EBUSY);
    EXPECT_EQ(calls_->munmap(kPlace, kPage), -EBUSY);
    return std::nullopt;
  };
  EXPECT_EQ(calls_->madvise(kPlace, 2 * kPage, MADV_COLD), 0);
  EXPECT_EQ(book(kPlace, 2), "bb");
}

}  // namespace
}  // namespace exclave
