// The manager of the enclave's own memory: areas, places, page operations that fail, calls inside
// calls.
#include "support/manager_fixture.hpp"

#include <cstring>
#include <random>
#include <set>
#include <thread>

#include "port/thread_slot.hpp"
#include "support/sanitizers.hpp"

namespace exclave {
namespace {

using testing_support::FakePages;
using testing_support::ManagerFixture;

class EnclaveManagerTest : public ManagerFixture {};

// ---- Life ----

TEST_F(EnclaveManagerTest, ATableWithAHoleIsRefused) {
  const auto error_of = [this](const PortTable& port, const EnclavePagesTable& pages) {
    return EnclaveManager::create(port, pages, options()).error();
  };
  const PortTable port = port_table();
  const EnclavePagesTable pages = pages_.table();
  EXPECT_EQ(error_of(port, pages), Error::kNone);
  const auto without_port = [&](auto member) {
    PortTable table = port;
    table.*member = nullptr;
    return error_of(table, pages);
  };
  EXPECT_EQ(without_port(&PortTable::enclave), Error::kInvalidArgument);
  EXPECT_EQ(without_port(&PortTable::book_window), Error::kInvalidArgument);
  EXPECT_EQ(without_port(&PortTable::trusted_reserve), Error::kInvalidArgument);
  EXPECT_EQ(without_port(&PortTable::trusted_release), Error::kInvalidArgument);
  EXPECT_EQ(without_port(&PortTable::entropy), Error::kInvalidArgument);
  const auto without_pages = [&](auto member) {
    EnclavePagesTable table = pages;
    table.*member = nullptr;
    return error_of(port, table);
  };
  EXPECT_EQ(without_pages(&EnclavePagesTable::commit), Error::kInvalidArgument);
  EXPECT_EQ(without_pages(&EnclavePagesTable::protect), Error::kInvalidArgument);
  EXPECT_EQ(without_pages(&EnclavePagesTable::drop), Error::kInvalidArgument);
  EXPECT_EQ(without_pages(&EnclavePagesTable::move), Error::kInvalidArgument);
  EXPECT_EQ(without_pages(&EnclavePagesTable::fill), Error::kInvalidArgument);
}

TEST_F(EnclaveManagerTest, ARangeOutOfShapeIsRefused) {
  const Extent books = port_.book_window();
  const Extent ranges[] = {{0, kPage},
                           {kBase, 0},
                           {kBase + 1, kPage},
                           {kBase, kPage + 1},
                           {kBase, std::size_t{1} << 44},
                           {(std::uintptr_t{1} << 47) - kPage, 2 * kPage},
                           {books.base, kPage},
                           {books.end() - kPage, 2 * kPage}};
  for (const Extent range : ranges) {
    EnclaveManager::Options bad = options();
    bad.range = range;
    EXPECT_EQ(EnclaveManager::create(port_table(), pages_.table(), bad).error(),
              Error::kInvalidArgument)
        << std::hex << range.base << ' ' << range.size;
  }
  PortTable elsewhere = port_.table();  // whose enclave is the window of the books
  EXPECT_EQ(EnclaveManager::create(elsewhere, pages_.table(), options()).error(),
            Error::kInvalidArgument);
}

TEST_F(EnclaveManagerTest, WhatThePortRefusesIsTold) {
  PortTable table = port_table();
  table.entropy = [](void*, void*, std::size_t) { return 1; };
  EXPECT_EQ(EnclaveManager::create(table, pages_.table(), options()).error(),
            Error::kInvalidArgument);
  table = port_table();
  table.book_window = [](void*) -> exclave_extent { return {1, 1}; };
  EXPECT_EQ(EnclaveManager::create(table, pages_.table(), options()).error(),
            Error::kInvalidArgument);
  port_.fail_trusted_from(1);
  EXPECT_EQ(EnclaveManager::create(port_table(), pages_.table(), options()).error(),
            Error::kOutOfTrustedMemory);
  port_.fail_trusted_from(0);
}

TEST_F(EnclaveManagerTest, ThePolicyIsTheRuntimes) {
  EXPECT_EQ(manager_->table().lies_outside(manager_->table().context, 0, 0, 3, 0), 0);
  EnclaveManager::Options with = options();
  int seen = 0;
  with.policy_context = &seen;
  with.lies_outside = [](void* context, int, int, int descriptor, std::uint64_t) {
    *static_cast<int*>(context) = descriptor;
    return descriptor == 3 ? 1 : 0;
  };
  start(with);
  const EnclaveMemoryTable table = manager_->table();
  EXPECT_EQ(table.lies_outside(table.context, 0, 0, 3, 0), 1);
  EXPECT_EQ(seen, 3);
  EXPECT_EQ(table.lies_outside(table.context, 0, 0, 4, 0), 0);
}

TEST_F(EnclaveManagerTest, TheTableReachesTheManager) {
  const EnclaveMemoryTable table = manager_->table();
  ASSERT_EQ(table.map(table.context, page(1), kPage, kReadWrite, kPrivate | MAP_FIXED, -1, 0),
            answer(1));
  EXPECT_EQ(table.protect(table.context, page(1), kPage, PROT_READ), 0);
  EXPECT_EQ(table.remap(table.context, page(1), kPage, 2 * kPage, 0, 0), answer(1));
  EXPECT_EQ(picture(4), ".rr.");
  EXPECT_EQ(table.unmap(table.context, page(1), kPage), 0);
  EXPECT_EQ(table.set_break(table.context, 0), kBase);
  EXPECT_EQ(picture(4), "..r.");
}

// ---- Places ----

TEST_F(EnclaveManagerTest, PlacesAreFoundFromTheTop) {
  EXPECT_EQ(map(0, 2, kReadWrite, kPrivate), answer(0)) << "a free hint is taken";
  EXPECT_EQ(map(1, 2, kReadWrite, kPrivate), answer(62)) << "a hint that is taken is none";
  EXPECT_EQ(manager_->map(0, kPage, kReadWrite, kPrivate, -1, 0), answer(61));
  EXPECT_EQ(manager_->map(kBase + 64 * kPage, kPage, kReadWrite, kPrivate, -1, 0), answer(60));
  EXPECT_EQ(manager_->map(UINTPTR_MAX, kPage, kReadWrite, kPrivate, -1, 0), answer(59));
  EXPECT_EQ(manager_->map(0, 58 * kPage, kReadWrite, kPrivate, -1, 0), -ENOMEM);
  EXPECT_EQ(manager_->map(0, 57 * kPage, kReadWrite, kPrivate, -1, 0), answer(2));
  EXPECT_EQ(areas(), 1u);
  EXPECT_EQ(manager_->map(0, kPage, kReadWrite, kPrivate, -1, 0), -ENOMEM);
}

TEST_F(EnclaveManagerTest, LowAddressesAreForThoseWhoAskForThem) {
  EXPECT_EQ(manager_->map(0, kPage, kReadWrite, kPrivate | MAP_32BIT, -1, 0), -ENOMEM);
  EXPECT_EQ(map(3, 1, kReadWrite, kPrivate | MAP_32BIT), -ENOMEM) << "not by a hint, either";
  EnclaveManager::Options low = options();
  low.range = {(std::uintptr_t{1} << 31) - 4 * kPage, 8 * kPage};
  start(low);
  EXPECT_EQ(manager_->map(0, kPage, kReadWrite, kPrivate | MAP_32BIT, -1, 0),
            (std::intptr_t{1} << 31) - 4096);
  low.range.base -= 16 * kPage;
  start(low);
  EXPECT_EQ(manager_->map(0, kPage, kReadWrite, kPrivate | MAP_32BIT, -1, 0),
            static_cast<std::intptr_t>(low.range.end() - kPage));
}

TEST_F(EnclaveManagerTest, ThereMayBeALimitToAreas) {
  EnclaveManager::Options limited = options();
  limited.max_areas = 2;
  start(limited);
  ASSERT_EQ(map(1, 3), answer(1));
  ASSERT_EQ(map(6, 1), answer(6));
  EXPECT_EQ(map(9, 1), -ENOMEM);
  EXPECT_EQ(unmap(2, 1), -ENOMEM) << "it would be three";
  EXPECT_EQ(protect(1, 1, PROT_READ), -ENOMEM);
  EXPECT_EQ(protect(2, 2, PROT_READ), -ENOMEM);
  EXPECT_EQ(remap(6, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, 20), -ENOMEM);
  EXPECT_EQ(picture(10), ".bbb..b...");
  EXPECT_EQ(remap(6, 1, 2), answer(6));
  EXPECT_EQ(protect(1, 3, PROT_READ), 0);
  EXPECT_EQ(unmap(3, 1), 0) << "from an end on";
  EXPECT_EQ(unmap(1, 1), 0);
  EXPECT_EQ(areas(), 2u);
  EXPECT_EQ(unmap(2, 5), 0) << "over a hole";
  EXPECT_EQ(map(9, 1), answer(9));
  EXPECT_EQ(picture(10), ".......b.b");
}

TEST_F(EnclaveManagerTest, RandomLayoutKeepsToASixteenthAndLosesNothing) {
  EnclaveManager::Options random = options();
  random.range.size = 1600 * kPage;
  random.randomize = true;
  std::set<std::intptr_t> tops;
  std::set<std::uintptr_t> breaks;
  for (int i = 0; i < 32; ++i) {
    std::optional<EnclaveManager> manager;
    PortTable table = port_table();
    static std::mt19937_64 generator(1);
    table.entropy = [](void*, void* memory, std::size_t bytes) {
      for (std::size_t at = 0; at < bytes; at += 8) {
        const std::uint64_t word = generator();
        std::memcpy(static_cast<char*>(memory) + at, &word, 8);
      }
      return 0;
    };
    auto made = EnclaveManager::create(table, pages_.table(), random);
    ASSERT_TRUE(made.ok());
    manager.emplace(std::move(made.value()));
    const std::intptr_t top = manager->map(0, kPage, kReadWrite, kPrivate, -1, 0);
    EXPECT_GE(top, answer(1499 - 1));
    tops.insert(top);
    breaks.insert(manager->set_break(0));
    EXPECT_LE(manager->set_break(0), page(100));
    // The part above is there when the part below is full.
    std::size_t pages = 1;
    while (manager->map(0, kPage, PROT_READ, kPrivate, -1, 0) > 0) ++pages;
    EXPECT_EQ(pages, 1600u);
    EXPECT_TRUE(manager->validate_books());
  }
  EXPECT_GT(tops.size(), 16u);
  EXPECT_GT(breaks.size(), 16u);
}

// ---- map, unmap, protect ----

TEST_F(EnclaveManagerTest, FixedReplacesAndNoReplaceDoesNot) {
  ASSERT_EQ(map(2, 6), answer(2));
  pages_.write(page(4), 7);
  EXPECT_EQ(map(4, 2, PROT_READ, kPrivate | MAP_FIXED_NOREPLACE), -EEXIST);
  EXPECT_EQ(pages_.read(page(4)), 7u);
  EXPECT_EQ(map(4, 2, PROT_READ), answer(4));
  EXPECT_EQ(pages_.read(page(4)), 0u) << "fresh pages are zero";
  EXPECT_EQ(picture(10), "..bbrrbb..");
  EXPECT_EQ(map(8, 2, PROT_NONE, kPrivate | MAP_FIXED_NOREPLACE), answer(8));
  EXPECT_EQ(picture(11), "..bbrrbbnn.");
  EXPECT_EQ(areas(), 4u);
}

TEST_F(EnclaveManagerTest, AFilesMappingHasAType) {
  EXPECT_EQ(manager_->map(0, kPage, PROT_READ, 0, 3, 0), -EINVAL);
  EXPECT_EQ(manager_->map(0, kPage, PROT_READ, MAP_SHARED_VALIDATE, 3, 0), -ENODEV);
}

TEST_F(EnclaveManagerTest, UnmapSkipsHolesAndAsksForNoPageBesideTheMappedOnes) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(map(8, 2), answer(8));
  EXPECT_EQ(unmap(20, 10), 0);
  EXPECT_EQ(pages_.calls(Op::kDrop), 0u);
  EXPECT_EQ(unmap(0, 64), 0);
  EXPECT_EQ(pages_.calls(Op::kDrop), 1u);
  EXPECT_EQ(picture(), "................");
  EXPECT_EQ(manager_->unmap(kBase - 5 * kPage, kPage), 0) << "beside the range: a hole";
  EXPECT_EQ(manager_->unmap(kBase + 1, kPage), -EINVAL);
  EXPECT_EQ(manager_->unmap(kBase, 0), -EINVAL);
}

TEST_F(EnclaveManagerTest, ProtectGoesUpToTheFirstHole) {
  ASSERT_EQ(map(0, 4), answer(0));
  ASSERT_EQ(map(6, 2), answer(6));
  EXPECT_EQ(protect(2, 6, PROT_READ), -ENOMEM);
  EXPECT_EQ(picture(9), "bbrr..bb.");
  EXPECT_EQ(protect(2, 2, PROT_READ), 0);
  EXPECT_EQ(pages_.calls(Op::kProtect), 1u) << "what is so already needs no work";
  EXPECT_EQ(protect(0, 4, kReadWrite), 0);
  EXPECT_EQ(areas(), 2u);
  EXPECT_EQ(protect(4, 1, PROT_READ), -ENOMEM);
  EXPECT_EQ(manager_->protect(kBase - kPage, 2 * kPage, PROT_READ), -ENOMEM);
  EXPECT_EQ(manager_->protect(kBase - kPage, kPage, PROT_READ), -ENOMEM);
  ASSERT_EQ(map(62, 2), answer(62));
  EXPECT_EQ(protect(62, 4, PROT_READ), -ENOMEM) << "the end of the range is a hole";
  EXPECT_EQ(pages_.picture(page(62), 3), "rr.");
  EXPECT_EQ(manager_->protect(page(62), std::size_t{1} << 47, kReadWrite), -ENOMEM);
  EXPECT_EQ(pages_.picture(page(62), 3), "bb.");
  EXPECT_EQ(manager_->protect(kBase + 1, kPage, PROT_READ), -EINVAL);
  EXPECT_EQ(manager_->protect(kBase, kPage, 0x40), -EINVAL);
  EXPECT_EQ(manager_->protect(kBase, 0, PROT_READ), 0);
  EXPECT_EQ(manager_->protect(kBase, SIZE_MAX, PROT_READ), -ENOMEM);
}

TEST_F(EnclaveManagerTest, SharedMappingsStayByThemselves) {
  ASSERT_EQ(map(0, 2, kReadWrite, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED), answer(0));
  ASSERT_EQ(map(2, 2, kReadWrite, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED), answer(2));
  EXPECT_EQ(areas(), 2u);
  EXPECT_EQ(remap(0, 4, 4, MREMAP_MAYMOVE | MREMAP_FIXED, 10), -EFAULT);
}

TEST_F(EnclaveManagerTest, AFailedPageOperationLeavesAllAsItWas) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(map(4, 2, PROT_READ), answer(4));
  const std::string before = picture();
  pages_.fail(Op::kCommit, -ENOMEM);
  EXPECT_EQ(map(3, 2), -ENOMEM);
  EXPECT_EQ(picture(), before);
  pages_.fail(Op::kCommit, -ENOMEM);
  EXPECT_EQ(map(8, 2), -ENOMEM);
  pages_.fail(Op::kDrop, -EIO);
  EXPECT_EQ(unmap(3, 2), -EIO);
  EXPECT_EQ(picture(), before);
  pages_.fail(Op::kProtect, -EACCES);
  EXPECT_EQ(protect(3, 2, PROT_NONE), -EACCES);
  EXPECT_EQ(picture(), before);
  pages_.fail(Op::kProtect, -EACCES, 2);
  EXPECT_EQ(protect(3, 2, PROT_NONE), -EACCES) << "the second of two areas";
  EXPECT_EQ(picture(7), "..bnrr.");
  EXPECT_EQ(areas(), 3u);
}

TEST_F(EnclaveManagerTest, WithoutBooksNothingChanges) {
  port_.fail_trusted_from(1);
  std::size_t n = 0;
  while (map(2 * n, 1) > 0 && n < 31) ++n;
  // The store's last chunk has room for more areas than the range has pages: use it up elsewhere.
  std::vector<EnclaveManager> others;
  port_.fail_trusted_from(0);
  EnclaveManager::Options large = options();
  large.range.size = 8000 * kPage;
  start(large);
  ASSERT_EQ(map(0, 8000), answer(0));
  port_.fail_trusted_from(1);
  for (n = 1; protect(2 * n, 1, PROT_READ) == 0; ++n) ASSERT_LT(2 * n, 7990u);
  EXPECT_EQ(protect(2 * n, 1, PROT_READ), -ENOMEM);
  EXPECT_EQ(map(2 * n, 2), -ENOMEM);
  EXPECT_EQ(unmap(2 * n, 2), -ENOMEM);
  EXPECT_EQ(remap(2 * n, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, 1), -ENOMEM);
  EXPECT_EQ(pages_.picture(page(2 * n), 3), "bbb");
  port_.fail_trusted_from(0);
  EXPECT_EQ(unmap(2 * n, 2), 0);
}

// ---- Files ----

TEST_F(EnclaveManagerTest, AFileIsCopiedIn) {
  ASSERT_EQ(map_file(0, 3), answer(0));
  EXPECT_EQ(picture(4), "rrr.");
  EXPECT_EQ(pages_.read(page(2)), FakePages::kFileValue + 2);
  ASSERT_EQ(map_file(3, 1, kReadWrite), answer(3));
  EXPECT_EQ(pages_.calls(Op::kProtect), 1u) << "read-write is what the copy was made with";
  ASSERT_GT(manager_->map(0, 2 * kPage, PROT_READ, MAP_PRIVATE, 3, kPage), 0);
  EXPECT_EQ(pages_.read(page(63)), FakePages::kFileValue + 2);
  EXPECT_EQ(pages_.calls(Op::kMove), 0u);
}

TEST_F(EnclaveManagerTest, AFileReplacesAllOrNothing) {
  ASSERT_EQ(map(0, 4), answer(0));
  pages_.write(page(1), 7);
  EXPECT_EQ(map_file(1, 2, PROT_READ, FakePages::kBadDescriptor), -EBADF);
  EXPECT_EQ(pages_.read(page(1)), 7u);
  EXPECT_EQ(picture(5), "bbbb.");
  for (const Op op : {Op::kCommit, Op::kFill, Op::kProtect, Op::kMove}) {
    pages_.fail(op, -EIO);
    EXPECT_EQ(map_file(1, 2), -EIO);
    EXPECT_EQ(pages_.read(page(1)), 7u);
    EXPECT_EQ(picture(5), "bbbb.");
    EXPECT_EQ(areas(), 1u);
  }
  EXPECT_EQ(map_file(1, 2), answer(1));
  EXPECT_EQ(pages_.read(page(1)), FakePages::kFileValue);
  EXPECT_EQ(picture(5), "brrb.");
}

TEST_F(EnclaveManagerTest, WhereAMoveLostWhatStoodThereIsAHole) {
  ASSERT_EQ(map(2, 4), answer(2));
  pages_.fail(Op::kMove, ENOMEM);
  EXPECT_EQ(map_file(3, 2), -ENOMEM);
  ASSERT_EQ(pages_.drop(page(3), 2 * kPage), 0);  // as the answer above 0 says
  EXPECT_EQ(picture(7), "..b..b.");
  EXPECT_EQ(protect(3, 1, PROT_READ), -ENOMEM);
  // Where mremap goes nothing stands any more.
  pages_.fail(Op::kMove, ENOMEM);
  EXPECT_EQ(remap(2, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, 5), -ENOMEM);
  EXPECT_EQ(picture(7), "..b....");
}

TEST_F(EnclaveManagerTest, AFailedFileLeavesNoPages) {
  for (const Op op : {Op::kCommit, Op::kFill, Op::kProtect}) {
    pages_.fail(op, -EIO);
    EXPECT_EQ(map_file(1, 2), -EIO);
    EXPECT_EQ(picture(5), ".....");
  }
  EXPECT_EQ(areas(), 0u);
}

TEST_F(EnclaveManagerTest, PagesThatWillNotGoStayInTheBooks) {
  pages_.fail(Op::kFill, -EIO);
  pages_.fail(Op::kDrop, -ENOMEM);
  EXPECT_EQ(map_file(1, 2), -EIO);
  EXPECT_EQ(picture(5), ".bb..");
  EXPECT_EQ(unmap(1, 2), 0) << "and can be unmapped";
  // The same where the copy is made beside.
  ASSERT_EQ(map(0, 2), answer(0));
  pages_.fail(Op::kMove, -EIO);
  pages_.fail(Op::kDrop, -ENOMEM);
  EXPECT_EQ(map_file(0, 2), -EIO);
  EXPECT_EQ(picture(3), "bb.");
  EXPECT_EQ(pages_.picture(page(62), 2), "rr");
}

TEST_F(EnclaveManagerTest, AFileOverPagesNeedsRoomForItsCopy) {
  ASSERT_EQ(map(0, 63), answer(0));
  EXPECT_EQ(map_file(0, 2), -ENOMEM);
  EXPECT_EQ(areas(), 1u);
  EXPECT_EQ(map_file(0, 1), answer(0));
  EXPECT_EQ(picture(3), "rbb");
}

// ---- mremap ----

TEST_F(EnclaveManagerTest, RemapShrinksAndGrowsInPlace) {
  ASSERT_EQ(map(2, 4), answer(2));
  pages_.write(page(3), 7);
  EXPECT_EQ(remap(2, 4, 2), answer(2));
  EXPECT_EQ(picture(8), "..bb....");
  EXPECT_EQ(remap(2, 2, 5), answer(2));
  EXPECT_EQ(picture(8), "..bbbbb.");
  EXPECT_EQ(pages_.read(page(3)), 7u);
  EXPECT_EQ(areas(), 1u);
  EXPECT_EQ(remap(2, 5, 5), answer(2));
  EXPECT_EQ(remap(4, 3, 4), answer(4)) << "the end of an area";
  EXPECT_EQ(areas(), 1u);
  ASSERT_EQ(map(63, 1), answer(63));
  EXPECT_EQ(remap(63, 1, 2), -ENOMEM) << "the range ends here";
  EXPECT_EQ(remap(2, 3, 4), -ENOMEM) << "the area goes on";
  ASSERT_EQ(map(9, 1), answer(9));
  EXPECT_EQ(remap(2, 6, 8), -ENOMEM) << "another stands there";
  pages_.fail(Op::kCommit, -EAGAIN);
  EXPECT_EQ(remap(2, 6, 7), -EAGAIN);
  EXPECT_EQ(picture(10), "..bbbbbb.b");
}

TEST_F(EnclaveManagerTest, ASharedMappingGrowsAsOne) {
  ASSERT_EQ(map(2, 2, kReadWrite, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED), answer(2));
  EXPECT_EQ(remap(2, 2, 4), answer(2));
  EXPECT_EQ(areas(), 1u);
}

TEST_F(EnclaveManagerTest, RemapMoves) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(map(4, 1, PROT_READ), answer(4));
  pages_.write(page(3), 7);
  EXPECT_EQ(remap(2, 2, 4), -ENOMEM);
  EXPECT_EQ(remap(2, 2, 4, MREMAP_MAYMOVE), answer(60));
  EXPECT_EQ(picture(6), "....r.");
  EXPECT_EQ(pages_.picture(page(59), 5), ".bbbb");
  EXPECT_EQ(pages_.read(page(61)), 7u);
  EXPECT_EQ(pages_.read(page(62)), 0u);
  // Over what stands there, and the rest of an area stays.
  EXPECT_EQ(remap(60, 3, 2, MREMAP_MAYMOVE | MREMAP_FIXED, 3), answer(3));
  EXPECT_EQ(picture(6), "...bb.");
  EXPECT_EQ(pages_.picture(page(59), 5), "....b");
  EXPECT_EQ(pages_.read(page(4)), 7u);
  // To another part of the same area.
  EXPECT_EQ(remap(3, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, 4), answer(4));
  EXPECT_EQ(picture(6), "....b.");
  EXPECT_EQ(remap(63, 1, 60, MREMAP_MAYMOVE | MREMAP_FIXED, 1), answer(1));
  EXPECT_EQ(remap(1, 60, 63, MREMAP_MAYMOVE), answer(1));
  EXPECT_EQ(remap(1, 63, 64, MREMAP_MAYMOVE), -ENOMEM) << "no room in the whole range";
  EXPECT_EQ(manager_->remap(page(1), kPage, 65 * kPage, MREMAP_MAYMOVE, 0), -ENOMEM);
}

TEST_F(EnclaveManagerTest, RemapLeavesZeroPagesBehindIfAsked) {
  constexpr int kKeep = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
  ASSERT_EQ(map(2, 2), answer(2));
  pages_.write(page(3), 7);
  EXPECT_EQ(remap(2, 2, 2, kKeep | MREMAP_FIXED, 8), answer(8));
  EXPECT_EQ(picture(11), "..bb....bb.");
  EXPECT_EQ(pages_.read(page(3)), 0u);
  EXPECT_EQ(pages_.read(page(9)), 7u);
  EXPECT_EQ(remap(8, 2, 2, kKeep), answer(62));
  EXPECT_EQ(pages_.read(page(63)), 7u);
  ASSERT_EQ(map_file(20, 1), answer(20));
  EXPECT_EQ(remap(20, 1, 1, kKeep), -EINVAL) << "its bytes cannot be made anew";
  EXPECT_EQ(remap(20, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, 21), answer(21));
  EXPECT_EQ(remap(21, 1, 2), -EFAULT) << "a copy of a file has no more bytes";
}

TEST_F(EnclaveManagerTest, RemapRefuses) {
  constexpr int kTo = MREMAP_MAYMOVE | MREMAP_FIXED;
  ASSERT_EQ(map(2, 4), answer(2));
  ASSERT_EQ(map(6, 1, PROT_READ), answer(6));
  const std::string before = picture();
  EXPECT_EQ(remap(2, 1, 1, 8), -EINVAL) << "unknown flag";
  EXPECT_EQ(remap(2, 1, 1, MREMAP_FIXED, 20), -EINVAL) << "fixed without may-move";
  EXPECT_EQ(remap(2, 1, 1, MREMAP_DONTUNMAP), -EINVAL);
  EXPECT_EQ(remap(2, 1, 2, MREMAP_DONTUNMAP | MREMAP_MAYMOVE), -EINVAL);
  EXPECT_EQ(remap(2, 1, 0), -EINVAL);
  EXPECT_EQ(manager_->remap(page(2), kPage, SIZE_MAX, 0, 0), -EINVAL) << "wraps to nothing";
  EXPECT_EQ(manager_->remap(page(2) + 1, kPage, kPage, 0, 0), -EINVAL);
  EXPECT_EQ(remap(2, 0, 1, MREMAP_MAYMOVE), -EINVAL) << "a second view";
  EXPECT_EQ(manager_->remap(kBase - kPage, kPage, kPage, 0, 0), -EFAULT);
  EXPECT_EQ(remap(1, 1, 1), -EFAULT);
  EXPECT_EQ(remap(2, 5, 6), -EFAULT) << "two areas";
  EXPECT_EQ(remap(6, 2, 3), -EFAULT) << "a hole behind";
  EXPECT_EQ(remap(2, 5, 5, kTo, 20), -EFAULT);
  EXPECT_EQ(remap(7, 1, 1, MREMAP_MAYMOVE | MREMAP_DONTUNMAP), -EFAULT);
  EXPECT_EQ(manager_->remap(page(2), 100 * kPage, 101 * kPage, 0, 0), -EFAULT);
  EXPECT_EQ(manager_->remap(page(2), kPage, kPage, kTo, page(8) + 1), -EINVAL);
  EXPECT_EQ(remap(2, 4, 4, kTo, 5), -EINVAL) << "overlap";
  EXPECT_EQ(remap(2, 1, 1, kTo, 64), -ENOMEM) << "beside the range";
  EXPECT_EQ(manager_->remap(page(2), kPage, kPage, kTo, std::uintptr_t{1} << 47), -EINVAL);
  EXPECT_EQ(manager_->remap(page(2), kPage, std::size_t{1} << 48, kTo, page(8)), -EINVAL);
  EXPECT_EQ(manager_->remap(page(2), SIZE_MAX / 2, kPage, kTo, page(8)), -EINVAL)
      << "an old range without end cannot be cut off";
  EXPECT_EQ(picture(), before);
}

TEST_F(EnclaveManagerTest, AFailedRemapLeavesBooksAndPagesInAgreement) {
  constexpr int kTo = MREMAP_MAYMOVE | MREMAP_FIXED;
  const auto again = [this] {
    ASSERT_EQ(unmap(0, 64), 0);
    ASSERT_EQ(map(2, 4), answer(2));
    ASSERT_EQ(map(8, 2, PROT_READ), answer(8));
    pages_.write(page(2), 7);
  };
  again();
  pages_.fail(Op::kDrop, -EIO);
  EXPECT_EQ(remap(2, 4, 2, kTo, 8), -EIO) << "the part that is cut off";
  EXPECT_EQ(picture(11), "..bbbb..rr.");
  pages_.fail(Op::kDrop, -EIO);
  EXPECT_EQ(remap(2, 2, 2, kTo, 8), -EIO) << "what stands at the new place";
  EXPECT_EQ(picture(11), "..bbbb..rr.");
  EXPECT_EQ(areas(), 2u);
  pages_.fail(Op::kCommit, -EIO);
  EXPECT_EQ(remap(2, 2, 3, kTo, 8), -EIO) << "the new pages; the place is free by then";
  EXPECT_EQ(picture(11), "..bbbb.....");
  EXPECT_EQ(pages_.read(page(2)), 7u);
  again();
  pages_.fail(Op::kMove, -EIO);
  EXPECT_EQ(remap(2, 2, 3, kTo, 8), -EIO);
  EXPECT_EQ(picture(11), "..bbbb.....");
  EXPECT_EQ(areas(), 1u);
  pages_.fail(Op::kMove, -EIO);
  EXPECT_EQ(remap(2, 2, 2, kTo, 8), -EIO);
  EXPECT_EQ(picture(11), "..bbbb.....");
  again();
  pages_.fail(Op::kMove, -EIO);
  pages_.fail(Op::kDrop, -EIO, 2);
  EXPECT_EQ(remap(2, 2, 3, kTo, 8), -EIO) << "and the new pages will not go";
  EXPECT_EQ(picture(11), "..bbbb....b");
}

// ---- brk ----

TEST_F(EnclaveManagerTest, TheBreakGrowsAndShrinks) {
  EXPECT_EQ(manager_->set_break(0), kBase);
  EXPECT_EQ(manager_->set_break(kBase - 1), kBase);
  EXPECT_EQ(manager_->set_break(kBase + 100), kBase + 100);
  EXPECT_EQ(picture(3), "b..");
  EXPECT_EQ(manager_->set_break(kBase + 200), kBase + 200);
  EXPECT_EQ(pages_.calls(Op::kCommit), 1u) << "within the page";
  pages_.write(kBase, 7);
  EXPECT_EQ(manager_->set_break(kBase + 2 * kPage + 1), kBase + 2 * kPage + 1);
  EXPECT_EQ(picture(4), "bbb.");
  EXPECT_EQ(areas(), 1u);
  EXPECT_EQ(manager_->set_break(kBase + kPage), kBase + kPage);
  EXPECT_EQ(picture(4), "b...");
  EXPECT_EQ(pages_.read(kBase), 7u);
  EXPECT_EQ(manager_->set_break(kBase), kBase);
  EXPECT_EQ(picture(4), "....");
}

TEST_F(EnclaveManagerTest, ABreakThatCannotBeStaysWhereItIs) {
  ASSERT_EQ(map(4, 1), answer(4));
  ASSERT_EQ(manager_->set_break(kBase + kPage), kBase + kPage);
  EXPECT_EQ(manager_->set_break(kBase + 5 * kPage), kBase + kPage) << "another stands there";
  EXPECT_EQ(manager_->set_break(kBase + 65 * kPage), kBase + kPage);
  EXPECT_EQ(manager_->set_break(UINTPTR_MAX), kBase + kPage);
  EXPECT_EQ(picture(6), "b...b.");
  EXPECT_EQ(manager_->set_break(kBase + 4 * kPage), kBase + 4 * kPage);
  pages_.fail(Op::kDrop, -EIO);
  EXPECT_EQ(manager_->set_break(kBase), kBase + 4 * kPage);
  EXPECT_EQ(picture(6), "bbbbb.");
}

TEST_F(EnclaveManagerTest, TheBreakBeginsWhereTheProgramEnds) {
  EXPECT_EQ(manager_->start_break(kBase - 1), -EINVAL);
  EXPECT_EQ(manager_->start_break(kBase + 10 * kPage + 5), 0);
  EXPECT_EQ(manager_->set_break(0), kBase + 10 * kPage + 5);
  EXPECT_EQ(manager_->set_break(kBase), kBase + 10 * kPage + 5);
  EXPECT_EQ(manager_->set_break(kBase + 12 * kPage), kBase + 12 * kPage);
  EXPECT_EQ(picture(13), "...........b.") << "the page it begins in is the program's";
  EXPECT_EQ(manager_->start_break(kBase), -EBUSY);
}

// ---- Calls inside calls ----

TEST_F(EnclaveManagerTest, ACallInsideACallTakesWhatIsNotUnderWay) {
  ASSERT_EQ(map(0, 4), answer(0));
  bool nested = false;
  pages_.during = [&](Op) {
    if (nested) return;
    nested = true;
    EXPECT_EQ(unmap(1, 2), -EBUSY);
    EXPECT_EQ(protect(2, 1, PROT_READ), -EBUSY);
    EXPECT_EQ(map(2, 1), -EBUSY);
    EXPECT_EQ(remap(2, 1, 2, MREMAP_MAYMOVE), -EBUSY);
    EXPECT_EQ(remap(10, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, 2), -EFAULT);
    EXPECT_EQ(map(10, 1), answer(10));
    EXPECT_EQ(remap(10, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, 2), -EBUSY);
    EXPECT_EQ(manager_->before_fork().error(), Error::kReentered);
  };
  EXPECT_EQ(protect(1, 2, PROT_READ), 0);
  EXPECT_TRUE(nested);
  pages_.during = nullptr;
  EXPECT_EQ(picture(12), "brrb......b.");

  ASSERT_EQ(unmap(0, 64), 0);
  nested = false;
  pages_.during = [&](Op) {
    if (nested) return;
    nested = true;
    EXPECT_EQ(manager_->set_break(page(30)), kBase) << "as far as it has come";
    EXPECT_EQ(manager_->start_break(page(30)), -EBUSY);
  };
  EXPECT_EQ(manager_->set_break(page(1)), page(1));
  EXPECT_TRUE(nested);
  pages_.during = nullptr;
}

// A handler that comes while the lock is held: here out of the port's trusted half.
TEST_F(EnclaveManagerTest, ACallUnderTheLockIsBusy) {
  static std::function<void()> handler;
  unsigned calls = 0;
  PortTable table = port_table();
  table.trusted_reserve = [](void* context, std::size_t bytes) -> void* {
    if (handler) handler();
    return static_cast<testing_support::FakePort*>(context)->trusted_reserve(bytes);
  };
  manager_.reset();
  auto made = EnclaveManager::create(table, pages_.table(), options());
  ASSERT_TRUE(made.ok());
  manager_.emplace(std::move(made.value()));
  handler = [&] {
    ++calls;
    EXPECT_EQ(map(0, 1), -EBUSY);
    EXPECT_EQ(unmap(0, 1), -EBUSY);
    EXPECT_EQ(protect(0, 1, PROT_READ), -EBUSY);
    EXPECT_EQ(remap(0, 1, 2), -EBUSY);
    EXPECT_EQ(manager_->set_break(page(9)), kBase);
    EXPECT_EQ(manager_->start_break(page(9)), -EBUSY);
    EXPECT_EQ(manager_->statistics().trusted_bytes, 0u);
    EXPECT_FALSE(manager_->validate_books());
    EXPECT_EQ(manager_->before_fork().error(), Error::kReentered);
  };
  EXPECT_EQ(map(0, 1), answer(0));
  handler = nullptr;
  EXPECT_EQ(calls, 1u);
}

TEST_F(EnclaveManagerTest, AThreadWithoutASlotIsTold) {
  std::thread([this] {
    const std::uint32_t mine = current_thread_slot() + 1;
    detail::thread_slot_word = kMaxThreadSlots + 1;
    EXPECT_EQ(map(0, 1), -EAGAIN);
    EXPECT_EQ(unmap(0, 1), -EAGAIN);
    EXPECT_EQ(protect(0, 1, PROT_READ), -EAGAIN);
    EXPECT_EQ(remap(0, 1, 1), -EAGAIN);
    EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, page(0), kPage, MADV_COLD), -EAGAIN);
    unsigned char vector = 0;
    EXPECT_EQ(manager_->resident(page(0), kPage, &vector), -EAGAIN);
    EXPECT_EQ(manager_->lock_all(0), -EAGAIN);
    EXPECT_EQ(manager_->visit(
                  {page(0), kPage}, [](void*, Extent, int) { return 7; }, nullptr),
              -EAGAIN);
    EXPECT_EQ(manager_->start_break(page(1)), -EAGAIN);
    EXPECT_EQ(manager_->set_break(page(1)), kBase);
    EXPECT_EQ(manager_->before_fork().error(), Error::kTooManyThreads);
    detail::thread_slot_word = mine;
  }).join();
}

// ---- Many ----

TEST_F(EnclaveManagerTest, AMillionAreas) {
  constexpr std::size_t kAreas = testing_support::kSanitized ? 100'000 : 1'000'000;
  EnclaveManager::Options large = options();
  large.range.size = kAreas * kPage;
  EnclavePagesTable nothing = pages_.table();
  nothing.commit = [](void*, std::uintptr_t, std::size_t, int, int) { return 0; };
  nothing.protect = [](void*, std::uintptr_t, std::size_t, int) { return 0; };
  nothing.drop = [](void*, std::uintptr_t, std::size_t) { return 0; };
  auto made = EnclaveManager::create(port_table(), nothing, large);
  ASSERT_TRUE(made.ok());
  EnclaveManager manager(std::move(made.value()));
  ASSERT_EQ(manager.map(kBase, kAreas * kPage, kReadWrite, kPrivate | MAP_FIXED, -1, 0),
            static_cast<std::intptr_t>(kBase));
  // A storm of splits, in an order that is not that of the addresses.
  for (std::size_t i = 0; i < kAreas / 2; ++i) {
    const std::size_t n = i * 7919 % (kAreas / 2);
    ASSERT_EQ(manager.protect(kBase + 2 * n * kPage, kPage, PROT_READ), 0);
  }
  EXPECT_EQ(manager.statistics().areas, kAreas);
  EXPECT_LE(manager.statistics().trusted_bytes, kAreas * 64 * 101 / 100);
  EXPECT_TRUE(manager.validate_books());
  EXPECT_EQ(manager.map(0, kPage, kReadWrite, kPrivate, -1, 0), -ENOMEM);
  EXPECT_EQ(manager.unmap(kBase + kAreas / 2 * kPage, kPage), 0);
  EXPECT_EQ(manager.map(0, kPage, kReadWrite, kPrivate, -1, 0),
            static_cast<std::intptr_t>(kBase + kAreas / 2 * kPage));
  // And of merges.
  EXPECT_EQ(manager.protect(kBase, kAreas * kPage, kReadWrite), 0);
  EXPECT_EQ(manager.statistics().areas, 1u);
  EXPECT_EQ(manager.unmap(kBase, kAreas * kPage), 0);
  EXPECT_EQ(manager.statistics().areas, 0u);
  EXPECT_EQ(manager.statistics().peak_bytes, kAreas * kPage);
}

}  // namespace
}  // namespace exclave
