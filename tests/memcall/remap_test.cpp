// mremap outside: what reaches the host, what the books say, and a host that lies.
#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "port/thread_slot.hpp"
#include "support/page_host_fixture.hpp"
#include "support/worker.hpp"

namespace exclave {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing_support::done_before_it_waits;
using testing_support::EnclaveRecorder;
using testing_support::kDevice;
using testing_support::kPage;
using testing_support::kReadWrite;
using testing_support::PageHost;
using testing_support::PageHostFixture;

using Kind = PageHost::Kind;

constexpr std::uintptr_t kPlace = std::uintptr_t{0x3000} << 32;
constexpr std::uintptr_t kOther = kPlace + 64 * kPage;
constexpr int kTo = MREMAP_MAYMOVE | MREMAP_FIXED;
constexpr int kKeep = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;

class RemapTest : public PageHostFixture {
 protected:
  std::intptr_t remap(std::uintptr_t at, std::size_t old_pages, std::size_t new_pages, int flags,
                      std::uintptr_t to = 0) {
    return calls_->mremap(at, old_pages * kPage, new_pages * kPage, flags, to);
  }
  static std::intptr_t answer(std::uintptr_t at) { return static_cast<std::intptr_t>(at); }
  // The host's next answer to mremap.
  void next_remap(HostReply reply) {
    host_->answer = [reply](const PageHost::Call& call) -> std::optional<HostReply> {
      if (call.kind != Kind::kRemap) return std::nullopt;
      return reply;
    };
  }
  // Books and host agree on each of the first pages of both places.
  void expect_agreement() {
    EXPECT_EQ(book(kPlace, 16), table(kPlace, 16));
    EXPECT_EQ(book(kOther, 16), table(kOther, 16));
    EXPECT_TRUE(allocator_->validate_books());
  }
  std::uint64_t lies() { return allocator_->statistics().lies_refused; }
};

TEST_F(RemapTest, ShrinkUnmapsTheTail) {
  map(4, kPlace);
  EXPECT_EQ(remap(kPlace, 4, 2, 0), answer(kPlace));
  EXPECT_THAT(host_->take_calls(), ElementsAre(PageHost::unmap(pages(kPlace, 2, 2))));
  EXPECT_EQ(remap(kPlace, 2, 2, 0), answer(kPlace));
  EXPECT_EQ(calls_->mremap(kPlace, 2 * kPage - 5, 2 * kPage - 7, 0, 0), answer(kPlace));
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(book(kPlace, 5), "bb...");
}

TEST_F(RemapTest, GrowsWhereItStands) {
  map(2, kPlace, PROT_READ);
  EXPECT_EQ(remap(kPlace, 2, 4, MREMAP_MAYMOVE), answer(kPlace));
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::remap(pages(kPlace, 0, 2), {0, 4 * kPage}, 0)));
  EXPECT_EQ(regions(), 1u) << "one mapping, as before";
  EXPECT_EQ(remap(kPlace + 3 * kPage, 1, 2, 0), answer(kPlace + 3 * kPage)) << "the end of it";
  EXPECT_EQ(book(kPlace, 6), "rrrrr.");
  EXPECT_EQ(allocator_->statistics().host_remap_calls, 2u);
  expect_agreement();
}

TEST_F(RemapTest, WithoutRoomBehindItMovesOrStays) {
  map(2, kPlace);
  map(1, kPlace + 2 * kPage, PROT_READ);
  EXPECT_EQ(remap(kPlace, 2, 3, 0), -ENOMEM);
  EXPECT_EQ(remap(kPlace, 1, 2, 0), -ENOMEM) << "its own pages stand there";
  EXPECT_THAT(host_->take_calls(), IsEmpty()) << "the books know";
  host_->put_foreign(pages(kPlace, 3, 1));
  EXPECT_EQ(remap(kPlace + 2 * kPage, 1, 2, 0), -ENOMEM) << "the host knows";
  const std::intptr_t at = remap(kPlace, 2, 3, MREMAP_MAYMOVE);
  ASSERT_GT(at, 0);
  EXPECT_EQ(book(kPlace, 4), "..r.");
  EXPECT_EQ(book(static_cast<std::uintptr_t>(at), 4), "bbb.");
  EXPECT_EQ(table(static_cast<std::uintptr_t>(at), 4), "bbb.");
  EXPECT_EQ(host_->mapped_pages(), 4u);
}

TEST_F(RemapTest, MovesToAFixedPlace) {
  map(4, kPlace);
  EXPECT_EQ(remap(kPlace + kPage, 2, 3, kTo, kOther), answer(kOther));
  EXPECT_EQ(book(kPlace, 5), "b..b.");
  EXPECT_EQ(book(kOther, 4), "bbb.");
  expect_agreement();
  // The place was made the application's before anything moved.
  const auto calls = host_->take_calls();
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0].kind, Kind::kMap);
  EXPECT_EQ(calls[0].flags & (MAP_FIXED | MAP_FIXED_NOREPLACE), MAP_FIXED_NOREPLACE);
  EXPECT_EQ(calls[1], PageHost::remap(pages(kPlace, 1, 2), pages(kOther, 0, 3), kTo));
}

TEST_F(RemapTest, AFixedPlaceIsReplaced) {
  map(2, kPlace);
  map(1, kOther, PROT_READ);
  map(1, kOther + 2 * kPage, PROT_READ);
  EXPECT_EQ(remap(kPlace, 2, 3, kTo, kOther), answer(kOther));
  EXPECT_EQ(book(kOther, 4), "bbb.");
  expect_agreement();
  EXPECT_EQ(regions(), 1u);
}

TEST_F(RemapTest, TheTailGoesFirstWhenItShrinksAndMoves) {
  map(4, kPlace);
  EXPECT_EQ(remap(kPlace, 4, 2, kTo, kOther), answer(kOther));
  EXPECT_EQ(book(kPlace, 5), ".....");
  EXPECT_EQ(book(kOther, 3), "bb.");
  expect_agreement();
}

TEST_F(RemapTest, TheOldPlaceStaysIfAsked) {
  map(2, kPlace, PROT_READ);
  EXPECT_EQ(remap(kPlace, 2, 2, kKeep | MREMAP_FIXED, kOther), answer(kOther));
  EXPECT_EQ(book(kPlace, 3), "rr.");
  EXPECT_EQ(book(kOther, 3), "rr.");
  expect_agreement();
  EXPECT_GT(remap(kOther + kPage, 1, 1, kKeep), 0);
  EXPECT_EQ(host_->mapped_pages(), 5u);
}

TEST_F(RemapTest, OldLengthZeroIsASecondView) {
  map(2, kPlace);
  EXPECT_EQ(remap(kPlace, 0, 2, 0), -ENOMEM) << "not where it stands";
  EXPECT_EQ(remap(kPlace, 0, 2, kTo, kOther), answer(kOther));
  EXPECT_EQ(book(kPlace, 3), "bb.");
  EXPECT_EQ(book(kOther, 3), "bb.");
  expect_agreement();
}

TEST_F(RemapTest, FactsMoveWithTheMapping) {
  host_->put_mapping(pages(kPlace, 0, 4));
  AttachOptions options;
  options.role = Role::kMapping;
  options.protection = Protection::kReadWrite;
  options.device = 9;
  options.device_base = 0x10000;
  static int gone;
  gone = 0;
  options.gone = [](void*, std::uint64_t, std::uintptr_t, std::size_t) { ++gone; };
  const auto id = allocator_->attach(pages(kPlace, 0, 4), options);
  ASSERT_TRUE(id.ok());
  EXPECT_EQ(remap(kPlace + 2 * kPage, 2, 2, kTo, kOther), answer(kOther));
  EXPECT_EQ(remap(kPlace + kPage, 1, 1, kKeep | MREMAP_FIXED, kOther + 8 * kPage),
            answer(kOther + 8 * kPage));
  EXPECT_EQ(remap(kOther, 2, 3, 0), answer(kOther));
  EXPECT_EQ(gone, 0) << "it lives on";
  const auto info = allocator_->query(kOther, kPage);
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->id.value, id->value);
  EXPECT_EQ(info->device, 9u);
  EXPECT_EQ(info->device_base, 0x10000u + 2 * kPage);
  EXPECT_EQ(info->extent.size, 2 * kPage);
  const auto grown = allocator_->query(kOther + 2 * kPage, kPage);
  EXPECT_EQ(grown->id.value, id->value);
  EXPECT_EQ(grown->device, 9u);
  EXPECT_EQ(allocator_->query(kOther + 8 * kPage, 1)->device_base, 0x10000u + kPage);
  EXPECT_EQ(calls_->munmap(kOther, 3 * kPage), 0);
  EXPECT_EQ(gone, 2) << "in two parts: only one has device addresses";
}

class Threat68_DeviceAddresses : public RemapTest {
 protected:
  void attach(std::size_t count, std::uint64_t device_base) {
    host_->put_mapping(pages(kPlace, 0, count));
    AttachOptions options;
    options.role = Role::kMapping;
    options.device_base = device_base;
    ASSERT_TRUE(allocator_->attach(pages(kPlace, 0, count), options).ok());
  }
  Result<std::uint64_t> device_page(std::uintptr_t place, std::size_t n) {
    return allocator_->device_address(untrusted_bytes::unsafe_from_address(place + n * kPage));
  }
  void expect_none(std::uintptr_t place, std::size_t first, std::size_t end) {
    for (std::size_t n = first; n < end; ++n)
      EXPECT_EQ(device_page(place, n).error(), Error::kNotFound) << n;
  }
  void expect_from(std::uintptr_t place, std::size_t count, std::uint64_t base) {
    for (std::size_t n = 0; n < count; ++n)
      EXPECT_EQ(*device_page(place, n), base + n * kPage) << n;
  }
};

// The page behind the last one would have the value that says that there is none; those behind it
// would begin again at 0.
TEST_F(Threat68_DeviceAddresses, WhatGrowsInPlaceHasNone) {
  for (const std::uint64_t base : {std::uint64_t{0x10000}, UINT64_MAX - 4 * kPage}) {
    attach(4, base);
    EXPECT_EQ(remap(kPlace, 4, 7, 0), answer(kPlace));
    expect_from(kPlace, 4, base);
    expect_none(kPlace, 4, 7);
    // Nor do calls that end afterwards, and join what is one.
    EXPECT_EQ(calls_->madvise(kPlace, 7 * kPage, MADV_COLD), 0);
    expect_from(kPlace, 4, base);
    expect_none(kPlace, 4, 7);
    EXPECT_EQ(calls_->munmap(kPlace, 7 * kPage), 0);
    EXPECT_EQ(regions(), 0u);
  }
}

TEST_F(Threat68_DeviceAddresses, WhatGrowsAsItMovesHasNone) {
  attach(3, UINT64_MAX - 3 * kPage);
  EXPECT_EQ(remap(kPlace + kPage, 2, 5, kTo, kOther), answer(kOther));
  expect_none(kOther, 0, 5);
  expect_from(kPlace, 1, UINT64_MAX - 3 * kPage);
  EXPECT_EQ(remap(kPlace, 1, 1, kTo, kOther + 8 * kPage), answer(kOther + 8 * kPage));
  expect_from(kOther + 8 * kPage, 1, UINT64_MAX - 3 * kPage);
}

// Its pages went; other ones stand there now.
TEST_F(Threat68_DeviceAddresses, WhatItsPagesLeftHasNone) {
  attach(3, 0x10000);
  EXPECT_EQ(remap(kPlace, 3, 3, kKeep | MREMAP_FIXED, kOther), answer(kOther));
  expect_from(kOther, 3, 0x10000);
  expect_none(kPlace, 0, 3);
}

TEST_F(RemapTest, WhatComesToStandInAnotherOrderKeepsItsDeviceAddresses) {
  host_->put_mapping(pages(kPlace, 0, 4));
  AttachOptions options;
  options.role = Role::kMapping;
  options.protection = Protection::kReadWrite;
  options.device_base = 0x10000;
  ASSERT_TRUE(allocator_->attach(pages(kPlace, 0, 4), options).ok());
  ASSERT_EQ(remap(kPlace + 3 * kPage, 1, 1, kTo, kPlace + kPage), answer(kPlace + kPage));
  // Every call that ends joins what is one.
  EXPECT_EQ(calls_->madvise(kPlace, 3 * kPage, MADV_COLD), 0);
  const auto device_page = [this](std::size_t n) {
    return *allocator_->device_address(untrusted_bytes::unsafe_from_address(kPlace + n * kPage));
  };
  EXPECT_EQ(device_page(0), 0x10000u);
  EXPECT_EQ(device_page(1), 0x10000u + 3 * kPage);
  EXPECT_EQ(device_page(2), 0x10000u + 2 * kPage);
  EXPECT_EQ(regions(), 3u);
}

TEST_F(RemapTest, WhatComesToStandBesideItsLikeIsOneWithIt) {
  map(8, kPlace);
  ASSERT_EQ(calls_->munmap(kPlace + 4 * kPage, 2 * kPage), 0);
  EXPECT_EQ(remap(kPlace, 2, 2, kTo, kPlace + 4 * kPage), answer(kPlace + 4 * kPage));
  EXPECT_EQ(book(kPlace, 9), "..bbbbbb.");
  EXPECT_EQ(regions(), 1u) << "as after every other call";
  expect_agreement();
}

// ---- What is refused ----

TEST_F(RemapTest, BadArgumentsReachNobody) {
  map(4, kPlace);
  map(1, kPlace + 4 * kPage, PROT_READ);
  const Extent enclave = host_->enclave();
  EXPECT_EQ(remap(kPlace, 1, 1, 8), -EINVAL);
  EXPECT_EQ(remap(kPlace, 1, 1, MREMAP_FIXED, kOther), -EINVAL);
  EXPECT_EQ(remap(kPlace, 1, 1, MREMAP_DONTUNMAP), -EINVAL);
  EXPECT_EQ(remap(kPlace, 1, 2, kKeep), -EINVAL);
  EXPECT_EQ(remap(kPlace + 1, 1, 1, 0), -EINVAL);
  EXPECT_EQ(remap(kPlace, 1, 0, 0), -EINVAL);
  EXPECT_EQ(calls_->mremap(kPlace, kPage, SIZE_MAX, 0, 0), -EINVAL);
  EXPECT_EQ(remap(kPlace, 1, 1, kTo, kOther + 1), -EINVAL);
  EXPECT_EQ(remap(kPlace, 4, 4, kTo, kPlace + kPage), -EINVAL) << "overlap";
  EXPECT_EQ(remap(kPlace, 1, 1, kTo, (std::uintptr_t{1} << 47)), -EINVAL);
  EXPECT_EQ(calls_->mremap(kPlace, kPage, std::size_t{1} << 48, kTo, kOther), -EINVAL);
  EXPECT_EQ(calls_->mremap(kPlace, std::size_t{1} << 48, kPage, kTo, kOther), -EINVAL);
  EXPECT_EQ(calls_->mremap(kPlace, kPage, std::size_t{1} << 48, MREMAP_MAYMOVE, 0), -ENOMEM);
  EXPECT_EQ(remap(kPlace, 1, 1, kTo, enclave.base), -EINVAL) << "the other side";
  EXPECT_EQ(remap(kPlace, 2, 2, kTo, enclave.base - kPage), -EINVAL);
  EXPECT_EQ(remap(kPlace + 8 * kPage, 1, 1, 0), -EFAULT);
  EXPECT_EQ(remap(kPlace, 5, 6, MREMAP_MAYMOVE), -EFAULT) << "two mappings";
  EXPECT_EQ(remap(kPlace, 5, 5, kTo, kOther), -EFAULT);
  EXPECT_EQ(remap(kPlace, 5, 5, kKeep), -EFAULT);
  EXPECT_EQ(remap(kPlace, 6, 7, MREMAP_MAYMOVE), -EFAULT) << "a hole";
  for (const PageHost::Call& call : host_->take_calls()) EXPECT_NE(call.kind, Kind::kRemap);
  EXPECT_EQ(book(kPlace, 6), "bbbbr.");
  expect_agreement();
}

// Before anything is unmapped, and without a word to the host.
TEST_F(RemapTest, WhatIsRefusedCostsNoTail) {
  map(4, kPlace);
  const Extent enclave = host_->enclave();
  EXPECT_EQ(remap(kPlace, 4, 2, kTo, enclave.base), -EINVAL);
  EXPECT_EQ(remap(kPlace, 4, 2, kTo, kOther + 1), -EINVAL);
  EXPECT_EQ(remap(kPlace, 4, 2, kTo, (std::uintptr_t{1} << 47) - kPage), -EINVAL);
  EXPECT_EQ(calls_->mremap(kPlace, kPage, std::size_t{1} << 47, MREMAP_MAYMOVE, 0), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EXPECT_EQ(book(kPlace, 4), "bbbb");
  const auto calls_inside = [&](std::uintptr_t to) {
    enclave_.calls.clear();
    EXPECT_EQ(remap(enclave.base, 4, 2, kTo, to), -EINVAL) << std::hex << to;
    return enclave_.calls.size();
  };
  // But for the question whether there is a page.
  EXPECT_EQ(calls_inside(enclave.base + 8 * kPage + 1), 1u);
  EXPECT_EQ(calls_inside(enclave.end() - kPage), 1u);
  EXPECT_EQ(calls_inside(kPlace), 1u);
  EXPECT_EQ(calls_inside(enclave.base + kPage), 1u) << "overlap";
}

TEST_F(RemapTest, AMappingBesideTheEnclaveEndsThere) {
  const std::uintptr_t below = host_->enclave().base - kPage;
  map(1, below);
  EXPECT_EQ(remap(below, 2, 2, kTo, kOther), -EFAULT);
  EXPECT_EQ(remap(below, 2, 3, MREMAP_MAYMOVE), -EFAULT);
  EXPECT_EQ(remap(below, 1, 2, 0), -ENOMEM);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
}

TEST_F(RemapTest, ATableWithoutAnyFunctionIsNotCalled) {
  MemoryCalls calls(*allocator_, EnclaveMemoryTable{});
  const std::uintptr_t inside = host_->enclave().base;
  EXPECT_EQ(calls.mmap(0, kPage, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), -ENOSYS);
  EXPECT_EQ(calls.munmap(inside, kPage), -ENOSYS);
  EXPECT_EQ(calls.mprotect(inside, kPage, kReadWrite), -ENOSYS);
}

TEST_F(RemapTest, AManagerWithoutTheCallDoesNotConcernTheOutside) {
  EnclaveMemoryTable without = enclave_.table();
  without.remap = nullptr;
  MemoryCalls calls(*allocator_, without);
  map(2, kPlace);
  EXPECT_EQ(calls.mremap(kPlace, 2 * kPage, 3 * kPage, 0, 0), answer(kPlace));
  EXPECT_EQ(calls.mremap(host_->enclave().base, kPage, 2 * kPage, 0, 0), -ENOSYS);
}

TEST_F(RemapTest, PoolsAreNotMovedAndNotReplaced) {
  attach_pool({kPlace, 4 * kPage});
  map(2, kOther);
  EXPECT_EQ(remap(kPlace, 1, 2, MREMAP_MAYMOVE), -EFAULT);
  EXPECT_EQ(remap(kOther, 2, 2, kTo, kPlace), -EBUSY);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  // Nor what no region knows.
  host_->put_foreign(pages(kPlace, 8, 1));
  EXPECT_EQ(remap(kOther, 2, 2, kTo, kPlace + 7 * kPage), -EBUSY);
  EXPECT_EQ(book(kOther, 2), "bb");
}

TEST_F(RemapTest, PinnedPagesGrowButDoNotMove) {
  map(2, kPlace);
  const auto pin = allocator_->pin({kPlace, kPage});
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(remap(kPlace, 2, 3, 0), answer(kPlace));
  EXPECT_EQ(remap(kPlace, 3, 3, kTo, kOther), -EBUSY);
  EXPECT_EQ(remap(kPlace, 3, 3, kKeep), -EBUSY);
  EXPECT_EQ(remap(kPlace + kPage, 1, 1, kTo, kPlace), -EBUSY) << "nor are they replaced";
  EXPECT_EQ(book(kPlace, 4), "bbb.");
  expect_agreement();
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
}

// They stand in the books already, but go again when the host refuses.
TEST_F(RemapTest, PagesThatHaveNotLandedYetAreNotPinned) {
  map(2, kPlace);
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kRemap) return std::nullopt;
    EXPECT_EQ(allocator_->pin({kOther + kPage, 8}).error(), Error::kBusy);
    return HostReply{0, ENOMEM};
  };
  EXPECT_EQ(remap(kPlace, 2, 2, kTo, kOther), -ENOMEM);
  EXPECT_EQ(allocator_->statistics().pins, 0u);
  EXPECT_EQ(allocator_->pin({kOther + kPage, 8}).error(), Error::kNotFound);
  expect_agreement();
}

TEST_F(RemapTest, APinWaitsForAnotherThreadsCall) {
  map(2, kPlace);
  std::atomic<bool> at_host = false;
  std::atomic<bool> go_on = false;
  std::atomic<bool> pinned = false;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kRemap) return std::nullopt;
    at_host = true;
    while (!go_on) std::this_thread::yield();
    return std::nullopt;
  };
  std::thread mover([&] { EXPECT_EQ(remap(kPlace, 2, 2, kTo, kOther), answer(kOther)); });
  while (!at_host) std::this_thread::yield();
  std::thread pinner([&] {
    EXPECT_TRUE(allocator_->pin({kOther, 8}).ok());
    pinned = true;
  });
  EXPECT_FALSE(done_before_it_waits(pinner.native_handle(), [&] { return pinned.load(); }));
  go_on = true;
  mover.join();
  pinner.join();
  EXPECT_EQ(calls_->munmap(kOther, kPage), -EBUSY);
  expect_agreement();
}

TEST_F(RemapTest, AHostWithoutTheCallSaysSo) {
  PortTable without = host_->table();
  without.host_remap = nullptr;
  without.host_advise = nullptr;
  without.host_resident = nullptr;
  calls_.reset();
  auto made = Allocator::create(without);
  ASSERT_TRUE(made.ok());
  allocator_.emplace(std::move(made.value()));
  calls_.emplace(*allocator_, enclave_.table());
  map(2, kPlace);
  EXPECT_EQ(remap(kPlace, 2, 3, 0), -ENOSYS);
  EXPECT_EQ(remap(kPlace, 2, 3, kTo, kOther), -ENOSYS);
  EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_DONTNEED), -ENOSYS);
  unsigned char vector = 0;
  EXPECT_EQ(calls_->mincore(kPlace, kPage, &vector), -ENOSYS);
  expect_agreement();
}

// ---- A hostile host ----

TEST_F(RemapTest, RefusalLeavesAllAsItWas) {
  map(2, kPlace);
  map(1, kOther, PROT_READ);
  for (const int flags : {0, MREMAP_MAYMOVE, kTo, kKeep | MREMAP_FIXED}) {
    for (const int error : {EAGAIN, EFAULT, EINVAL, EPERM, ENOSYS, E2BIG, 4096, -1}) {
      // What it says beside an error is nothing, even if it is the right place.
      next_remap({error % 2 == 0 ? 0 : (flags & MREMAP_FIXED) != 0 ? kOther : kPlace, error});
      const bool known = error == EAGAIN || error == EFAULT || error == EINVAL || error == EPERM ||
                         error == ENOSYS;
      const std::size_t more = (flags & MREMAP_DONTUNMAP) != 0 ? 2 : 3;
      EXPECT_EQ(remap(kPlace, 2, more, flags, kOther), known ? -error : -EIO) << flags;
      EXPECT_EQ(book(kPlace, 4), "bb..");
      EXPECT_EQ(book(kOther, 4), "r...");
      expect_agreement();
    }
  }
  EXPECT_EQ(host_->mapped_pages(), 3u);
  EXPECT_EQ(lies(), 0u);
}

TEST_F(RemapTest, AnotherAddressIsALie) {
  map(2, kPlace);
  std::uint64_t told = 0;
  const Extent enclave = host_->enclave();
  for (const std::uintptr_t address :
       {std::uintptr_t{0}, kOther + kPage, kPlace + kPage, enclave.base, ~std::uintptr_t{0}}) {
    for (const int flags : {0, kTo}) {
      next_remap({address, 0});
      EXPECT_EQ(remap(kPlace, 2, 3, flags, kOther), -EPERM) << std::hex << address;
      EXPECT_EQ(lies(), ++told);
      EXPECT_EQ(book(kPlace, 4), "bb..");
      expect_agreement();
    }
  }
}

TEST_F(RemapTest, ALandingPlaceInTheBooksIsALie) {
  map(2, kPlace);
  host_->put_foreign(pages(kPlace, 2, 1));
  host_->answer = [](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kMap) return std::nullopt;
    return HostReply{kPlace, 0};
  };
  EXPECT_EQ(remap(kPlace, 2, 3, MREMAP_MAYMOVE), -EPERM);
  EXPECT_EQ(lies(), 1u);
  EXPECT_EQ(book(kPlace, 3), "bb.");
  for (const PageHost::Call& call : host_->take_calls()) EXPECT_NE(call.kind, Kind::kUnmap);
  host_->answer = [](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kMap) return std::nullopt;
    return HostReply{0, E2BIG};
  };
  EXPECT_EQ(remap(kPlace, 2, 3, MREMAP_MAYMOVE), -EIO);
  host_->answer = [](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kMap) return std::nullopt;
    return HostReply{1, 0};
  };
  EXPECT_EQ(remap(kPlace, 2, 3, MREMAP_MAYMOVE), -EPERM);
  EXPECT_EQ(remap(kPlace, 2, 3, kTo, kOther), -EPERM);
}

// Part of the landing place is held, and not in the books yet; the rest is about to be.
TEST_F(RemapTest, WhatALieLetsInThereMeanwhileIsNotUnmapped) {
  map(2, kPlace);
  map(1, kOther + kPage);
  std::uintptr_t told = 0;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kMap) return std::nullopt;
    if (told == 0 && call.extent.base == kOther + 2 * kPage) {
      told = kOther;
      EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0), answer(kOther));
    } else if (call.descriptor == kDevice) {
      return HostReply{told, 0};
    }
    return std::nullopt;
  };
  host_->take_calls();
  EXPECT_EQ(remap(kPlace, 2, 3, kTo, kOther), -EPERM);
  EXPECT_EQ(lies(), 1u);
  for (const PageHost::Call& call : host_->take_calls()) {
    if (call.kind == Kind::kUnmap) EXPECT_EQ(call, PageHost::unmap(pages(kOther, 2, 1)));
  }
  EXPECT_EQ(book(kOther, 4), "bb..") << "who believed it has it, and what stood there is back";
  EXPECT_EQ(book(kPlace, 4), "bb..");
  EXPECT_TRUE(allocator_->validate_books());
}

// Whatever it answers to whichever call, books and host agree afterwards.
TEST_F(RemapTest, RandomRefusalsAndLies) {
  std::mt19937_64 random(5);
  std::uint64_t lied = 0;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    // A filler that it keeps would take the place for good.
    if (call.kind == Kind::kUnmap || random() % 3 != 0) return std::nullopt;
    constexpr int kErrors[] = {EAGAIN, EFAULT, EINVAL, ENOMEM, E2BIG, 4096, -1};
    const bool lies = call.kind == Kind::kRemap && random() % 2 == 0;
    if (!lies) return HostReply{0, kErrors[random() % std::size(kErrors)]};
    ++lied;
    return HostReply{random() % 2 == 0 ? kOther + 4096 * kPage : random(), 0};
  };
  const std::set<std::intptr_t> known = {-EAGAIN, -EBUSY, -EFAULT, -EINVAL, -EIO,
                                         -ENOMEM, -EPERM, -ENFILE, 0};
  for (int step = 0; step < 20000; ++step) {
    const std::uintptr_t at = kPlace + random() % 16 * kPage;
    const std::size_t count = 1 + random() % 6;
    std::intptr_t result = 0;
    switch (random() % 6) {
      case 0:
        result = calls_->mmap(at, count * kPage, kReadWrite, MAP_SHARED | MAP_FIXED, kDevice, 0);
        break;
      case 1:
        result = calls_->munmap(at, count * kPage);
        break;
      case 2:
        result = calls_->mprotect(at, count * kPage, PROT_READ);
        break;
      case 3:
        result = calls_->madvise(at, count * kPage, MADV_COLD);
        break;
      default: {
        constexpr int kFlags[] = {0, kTo, kTo | MREMAP_DONTUNMAP};
        const int flags = kFlags[random() % 3];
        const std::size_t more = (flags & MREMAP_DONTUNMAP) != 0 ? count : 1 + random() % 6;
        result = remap(at, count, more, flags, kPlace + random() % 16 * kPage);
      }
    }
    EXPECT_TRUE(result > 0 || known.count(result) != 0) << result;
    if (step % 64 == 0) {
      ASSERT_TRUE(allocator_->validate_books());
    }
  }
  EXPECT_GT(lied, 20u);
  EXPECT_EQ(lies(), lied) << "each is told, and no honest answer is called one";
  host_->answer = nullptr;
  EXPECT_EQ(book(kPlace, 24), table(kPlace, 24));
}

// The host calls back in, or another thread comes, while the mapping is on its way.
TEST_F(RemapTest, WhatComesToStandThereMeanwhileStays) {
  map(2, kPlace);
  // It grows, and says so after it gave the same pages to somebody else.
  AttachOptions options;
  options.role = Role::kMapping;
  options.protection = Protection::kRead;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kRemap) return std::nullopt;
    EXPECT_TRUE(allocator_->attach(pages(kPlace, 2, 1), options).ok());
    return HostReply{kPlace, 0};
  };
  EXPECT_EQ(remap(kPlace, 2, 3, 0), -EPERM);
  EXPECT_EQ(book(kPlace, 4), "bbr.");
  EXPECT_EQ(lies(), 1u);
  // It refuses to move what it gave to somebody else.
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kRemap) return std::nullopt;
    EXPECT_EQ(book(kPlace, 2), "..") << "a mapping on its way is in no book";
    EXPECT_EQ(book(kOther, 2), "nn") << "and nothing is promised of its new place";
    EXPECT_EQ(calls_->munmap(kOther, kPage), -EBUSY) << "nor is it to be had";
    EXPECT_TRUE(allocator_->attach(pages(kPlace, 0, 1), options).ok());
    return HostReply{0, EAGAIN};
  };
  EXPECT_EQ(remap(kPlace, 2, 2, kTo, kOther), -EAGAIN);
  EXPECT_EQ(book(kPlace, 4), "r.r.");
  EXPECT_TRUE(allocator_->validate_books());
}

// It goes while a place is looked for; perhaps a pool comes to stand there.
TEST_F(RemapTest, ASourceThatIsGoneMeanwhileIsNotMoved) {
  for (const int flags : {kKeep, kTo, kKeep | MREMAP_FIXED}) {
    map(2, kPlace);
    host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
      if (call.kind == Kind::kMap) {
        EXPECT_EQ(calls_->munmap(kPlace, 2 * kPage), 0);
      }
      return std::nullopt;
    };
    EXPECT_EQ(remap(kPlace, 2, 2, flags, kOther), -EFAULT);
    host_->answer = nullptr;
    EXPECT_EQ(host_->mapped_pages(), 0u);
    expect_agreement();
  }
  map(2, kPlace);
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind == Kind::kMap) {
      EXPECT_EQ(calls_->munmap(kPlace, 2 * kPage), 0);
      attach_pool({kPlace, 4 * kPage});
    }
    return std::nullopt;
  };
  EXPECT_EQ(remap(kPlace, 2, 2, kKeep), -EFAULT);
  EXPECT_EQ(book(kPlace, 5), "PPPP.");
}

TEST_F(RemapTest, ACallOfThisThreadOnTheSameMappingIsBusy) {
  map(4, kPlace);
  unsigned calls = 0;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kProtect) return std::nullopt;
    ++calls;
    EXPECT_EQ(remap(kPlace, 4, 5, 0), -EBUSY);
    EXPECT_EQ(remap(kPlace, 4, 4, kTo, kOther), -EBUSY);
    EXPECT_EQ(remap(kPlace, 4, 4, kKeep), -EBUSY);
    EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_NORMAL), -EBUSY);
    return std::nullopt;
  };
  EXPECT_EQ(calls_->mprotect(kPlace, 4 * kPage, PROT_READ), 0);
  EXPECT_EQ(calls, 1u);
  EXPECT_EQ(book(kPlace, 4), "rrrr");
}

TEST_F(RemapTest, WithoutBooksNothingChanges) {
  map(4, kPlace);
  host_->put_foreign(pages(kPlace, 4, 1));
  AttachOptions options;
  options.role = Role::kMapping;
  host_->starve_books_from(1);
  std::uintptr_t filler = kOther + 1024 * kPage;
  while (allocator_->attach({filler, kPage}, options).ok()) filler += 2 * kPage;
  EXPECT_EQ(remap(kPlace, 4, 5, 0), -ENOMEM);
  EXPECT_EQ(remap(kPlace, 4, 5, MREMAP_MAYMOVE), -ENOMEM);
  EXPECT_EQ(remap(kPlace, 4, 4, kTo, kOther), -ENOMEM);
  EXPECT_EQ(remap(kPlace, 4, 4, kKeep | MREMAP_FIXED, kOther), -ENOMEM);
  EXPECT_EQ(remap(kPlace + kPage, 1, 1, kTo, kOther), -ENOMEM) << "no book for the cut";
  host_->starve_books_from(0);
  EXPECT_EQ(book(kPlace, 5), "bbbb.");
  EXPECT_EQ(host_->mapped_pages(), 4u);
}

// There is a book for the region, but none for the pagemap where it would stand.
class FullPagemapTest : public RemapTest {
 protected:
  static constexpr std::uintptr_t kSegment = std::uintptr_t{4} << 20;
  void fill_books() {
    AttachOptions options;
    options.role = Role::kMapping;
    host_->starve_books_from(1);
    std::uintptr_t filler = kOther + kPage;
    while (allocator_->attach({filler, kPage}, options).ok()) filler += 2 * kPage;
    ASSERT_TRUE(allocator_->detach({kOther + kPage, kPage}).ok());
  }
};

TEST_F(FullPagemapTest, WhatGrewIsUnmappedAgain) {
  const std::uintptr_t last = kPlace + kSegment - 2 * kPage;
  map(2, last);
  fill_books();
  host_->take_calls();
  EXPECT_EQ(remap(last, 2, 3, 0), -ENOMEM);
  EXPECT_THAT(host_->take_calls(),
              ElementsAre(PageHost::remap({last, 2 * kPage}, {0, 3 * kPage}, 0),
                          PageHost::unmap({last + 2 * kPage, kPage})));
  EXPECT_EQ(book(last, 3), "bb.");
  EXPECT_EQ(table(last, 3), "bb.");
  host_->starve_books_from(0);
}

TEST_F(FullPagemapTest, WhatCannotLandDoesNotMove) {
  map(2, kPlace);
  fill_books();
  host_->take_calls();
  const std::uintptr_t far = kPlace + 8 * kSegment + kPage;
  EXPECT_EQ(remap(kPlace, 2, 2, kTo, far), -ENOMEM);
  for (const PageHost::Call& call : host_->take_calls()) EXPECT_NE(call.kind, Kind::kRemap);
  EXPECT_EQ(book(kPlace, 2), "bb");
  EXPECT_FALSE(host_->is_mapped(far));
  host_->starve_books_from(0);
}

// The new place needs two leaves of the pagemap, and there is one: the old place's.
TEST_F(FullPagemapTest, WhatCannotLandLeavesTheOldPlaceItsBooks) {
  const std::uintptr_t source = kPlace + 16 * kSegment + kPage;
  map(2, source);
  fill_books();
  EXPECT_EQ(remap(source, 2, 2, kTo, kPlace + 9 * kSegment - kPage), -ENOMEM);
  EXPECT_EQ(book(source, 2), "bb");
  EXPECT_EQ(table(source, 2), "bb");
  host_->starve_books_from(0);
}

TEST_F(FullPagemapTest, WhatTheHostKeepsNeedsNoNewBooks) {
  const std::uintptr_t last = kPlace + 17 * kSegment - 2 * kPage;
  // In segments of their own, and over the edge between two.
  map(4, last);
  fill_books();
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kUnmap) return std::nullopt;
    // Another takes whatever books there are.
    AttachOptions options;
    options.role = Role::kMapping;
    EXPECT_EQ(allocator_->attach({kPlace + 20 * kSegment + kPage, kPage}, options).error(),
              Error::kOutOfTrustedMemory);
    return HostReply{0, EINVAL};
  };
  EXPECT_EQ(calls_->munmap(last, 4 * kPage), -EINVAL);
  EXPECT_EQ(book(last, 4), "bbbb");
  host_->answer = nullptr;
  EXPECT_EQ(calls_->munmap(last, 4 * kPage), 0);
  host_->starve_books_from(0);
}

// What came to stand over all of a segment meanwhile is whole, also in the old place's leaf.
TEST_F(FullPagemapTest, WhoTookThePlaceMeanwhileKeepsIt) {
  const Extent segment{kPlace + 16 * kSegment, kSegment};
  map(2, segment.base + kPage);
  AttachOptions options;
  options.role = Role::kMapping;
  options.protection = Protection::kRead;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kUnmap) return std::nullopt;
    EXPECT_TRUE(allocator_->attach(segment, options).ok());
    EXPECT_TRUE(allocator_->validate_books());
    return HostReply{0, EINVAL};
  };
  EXPECT_EQ(calls_->munmap(segment.base + kPage, 2 * kPage), -EINVAL);
  host_->answer = nullptr;
  EXPECT_EQ(book(segment.base, 4), "rrrr");
  EXPECT_TRUE(allocator_->query(segment.base, kSegment).ok());
  const std::size_t used = allocator_->statistics().trusted_used_bytes;
  EXPECT_TRUE(allocator_->detach(segment).ok());
  EXPECT_LT(allocator_->statistics().trusted_used_bytes + kSegment / kPage * 4, used + 1)
      << "the leaf went, too";
  EXPECT_EQ(regions(), 0u);
}

// The last page of what is replaced lies where the pagemap has nothing yet.
TEST_F(FullPagemapTest, AFixedMappingThatCannotBeEnteredReplacesNothing) {
  const std::uintptr_t far = kPlace + 48 * kSegment - kPage;
  map(1, far);
  fill_books();
  EXPECT_EQ(calls_->mmap(far, 2 * kPage, PROT_READ, MAP_SHARED | MAP_FIXED, kDevice, 0), -ENOMEM);
  EXPECT_EQ(book(far, 2), "b.");
  EXPECT_EQ(table(far, 2), "b.");
  host_->starve_books_from(0);
}

TEST_F(RemapTest, ALandingPlaceThatIsTakenMeanwhileIsALie) {
  map(2, kPlace);
  AttachOptions options;
  options.role = Role::kMapping;
  options.protection = Protection::kRead;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind == Kind::kMap) {
      EXPECT_TRUE(allocator_->attach(pages(kOther, 1, 1), options).ok());
    }
    return std::nullopt;
  };
  EXPECT_EQ(remap(kPlace, 2, 2, kTo, kOther), -EPERM);
  EXPECT_EQ(lies(), 1u);
  EXPECT_EQ(book(kPlace, 2), "bb");
  EXPECT_EQ(book(kOther, 3), ".r.");
}

TEST_F(RemapTest, AnotherThreadWaitsForTheMapping) {
  map(4, kPlace);
  std::thread other;
  std::atomic<bool> done{false};
  std::atomic<bool> started{false};
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kAdvise || started.exchange(true)) return std::nullopt;
    other = std::thread([&] {
      EXPECT_EQ(remap(kPlace, 4, 5, 0), answer(kPlace));
      EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_COLD), 0);
      done = true;
    });
    EXPECT_FALSE(done_before_it_waits(other.native_handle(), [&] { return done.load(); }));
    return std::nullopt;
  };
  EXPECT_EQ(calls_->madvise(kPlace, 4 * kPage, MADV_COLD), 0);
  other.join();
  started = false;
  done = false;
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kProtect || started.exchange(true)) return std::nullopt;
    other = std::thread([&] {
      EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_COLD), 0);
      done = true;
    });
    EXPECT_FALSE(done_before_it_waits(other.native_handle(), [&] { return done.load(); }));
    return std::nullopt;
  };
  EXPECT_EQ(calls_->mprotect(kPlace, kPage, PROT_READ), 0);
  other.join();
  EXPECT_EQ(book(kPlace, 6), "rbbbb.");
}

TEST_F(RemapTest, AThreadWithoutASlotIsTold) {
  map(2, kPlace);
  std::thread([this] {
    const std::uint32_t mine = current_thread_slot() + 1;
    detail::thread_slot_word = kMaxThreadSlots + 1;
    unsigned char vector = 0;
    EXPECT_EQ(remap(kPlace, 2, 3, 0), -EAGAIN);
    EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0), -EAGAIN);
    EXPECT_EQ(calls_->munmap(kPlace, kPage), -EAGAIN);
    EXPECT_EQ(calls_->mprotect(kPlace, kPage, PROT_READ), -EAGAIN);
    EXPECT_EQ(calls_->madvise(kPlace, kPage, MADV_COLD), -EAGAIN);
    EXPECT_EQ(calls_->mincore(kPlace, kPage, &vector), -EAGAIN);
    EXPECT_EQ(calls_->adopt(kOther, kPage, PROT_READ), -EAGAIN);
    EXPECT_EQ(calls_->give_up(kPlace, kPage), -EAGAIN);
    detail::thread_slot_word = mine;
  }).join();
  EXPECT_EQ(book(kPlace, 2), "bb");
}

// ---- Both sides ----

TEST_F(RemapTest, InsideGoesToTheManager) {
  const std::uintptr_t at = host_->enclave_heap().base;
  enclave_.next_map = static_cast<std::intptr_t>(at);
  EXPECT_EQ(remap(at, 2, 4, MREMAP_MAYMOVE), answer(at));
  ASSERT_EQ(enclave_.calls.size(), 2u) << "is it there, and then the call";
  EXPECT_EQ(enclave_.calls[1],
            (EnclaveRecorder::Call{'r', {at, 2 * kPage}, 0, MREMAP_MAYMOVE, -1, 4 * kPage}));
  EXPECT_EQ(remap(at, 2, 2, kTo, kOther), -EINVAL) << "private memory never lies outside";
  enclave_.next_map = -EFAULT;
  EXPECT_EQ(remap(at, 2, 4, MREMAP_MAYMOVE), -EFAULT);
  EXPECT_THAT(host_->take_calls(), IsEmpty());
  EnclaveMemoryTable without = enclave_.table();
  without.remap = nullptr;
  without.set_break = nullptr;
  MemoryCalls calls(*allocator_, without);
  EXPECT_EQ(calls.mremap(at, kPage, kPage, 0, 0), -ENOSYS);
  EXPECT_EQ(calls.brk(at), 0u);
  EXPECT_EQ(calls_->brk(at), at);
  EXPECT_EQ(calls_->remap_file_pages(at, kPage, 0, 0, 0), -EINVAL);
}

TEST_F(RemapTest, AcrossTheEdgeIsNotOneMapping) {
  const Extent enclave = host_->enclave();
  const std::uintptr_t last_below = enclave.base - kPage;
  host_->place_next_at(last_below);
  ASSERT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, kDevice, 0), answer(last_below));
  EXPECT_EQ(remap(last_below, 2, 3, MREMAP_MAYMOVE), -EFAULT);
  EXPECT_EQ(remap(last_below, 1, 2, 0), -ENOMEM) << "the enclave stands behind it";
  enclave_.next_map = answer(enclave.end() - kPage);
  EXPECT_EQ(remap(enclave.end() - kPage, 2, 3, MREMAP_MAYMOVE), -EFAULT);
  // To shrink, it need not be one.
  enclave_.calls.clear();
  EXPECT_EQ(remap(last_below, 3, 1, 0), answer(last_below));
  ASSERT_EQ(enclave_.calls.size(), 1u);
  EXPECT_EQ(enclave_.calls[0], (EnclaveRecorder::Call{'u', {enclave.base, 2 * kPage}}));
  enclave_.next_answer = -ENOMEM;
  EXPECT_EQ(remap(last_below, 3, 1, 0), -ENOMEM);
}

}  // namespace
}  // namespace exclave
