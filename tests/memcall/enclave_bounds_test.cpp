// The manager of the enclave's own memory at its bounds: shapes that are none, the last page, holes
// that stop a walk or do not, what is told when two things are wrong.
#include <vector>

#include "support/manager_fixture.hpp"

namespace exclave {
namespace {

using testing_support::FakePages;
using testing_support::FakePagesWithAll;
using testing_support::ManagerFixture;

constexpr int kTo = MREMAP_MAYMOVE | MREMAP_FIXED;
// So many bytes below, a page has the same number in 32 bits.
constexpr std::size_t kNumbersWrap = std::size_t{1} << 44;

class EnclaveBoundsTest : public ManagerFixture {
 protected:
  std::intptr_t map_at(std::uintptr_t address, std::size_t size, int flags = kPrivate,
                       std::uint64_t offset = 0) {
    return manager_->map(address, size, kReadWrite, flags, -1, offset);
  }
};

TEST_F(EnclaveBoundsTest, TheLargestRange) {
  EnclaveManager::Options large = options();
  large.range.size = kNumbersWrap - kPage;
  start(large);
  EXPECT_EQ(map_at(0, kPage), static_cast<std::intptr_t>(large.range.end() - kPage));
}

TEST_F(EnclaveBoundsTest, TheSmallestRangeHasARandomLayoutToo) {
  EnclaveManager::Options small = options();
  small.randomize = true;
  for (std::size_t count = 1; count < 200; ++count) {
    small.range.size = count * kPage;
    start(small);
    EXPECT_EQ(map_at(page(count - 1), kPage), answer(count - 1)) << "a hint at the very end";
  }
}

TEST_F(EnclaveBoundsTest, MappingsOutOfShapeAreRefused) {
  EXPECT_EQ(map_at(0, 0), -EINVAL);
  EXPECT_EQ(map_at(0, kPage, kPrivate, 5), -EINVAL);
  EXPECT_EQ(map_at(0, kNumbersWrap + kPage), -ENOMEM);
  EXPECT_EQ(map_at(0, SIZE_MAX), -ENOMEM);
  EXPECT_EQ(map_at(page(1) + 1, kPage, kPrivate | MAP_FIXED), -EINVAL);
  EXPECT_EQ(map_at(page(64), kPage, kPrivate | MAP_FIXED), -ENOMEM);
  EXPECT_EQ(map_at(0, kPage, MAP_ANONYMOUS), -EINVAL);
  EXPECT_EQ(map_at(0, kPage, MAP_ANONYMOUS | MAP_SHARED_VALIDATE), -EINVAL);
  EXPECT_EQ(map_at(0, kPage, 0), -EINVAL);
  EXPECT_EQ(map_at(0, kPage, MAP_SHARED_VALIDATE), -ENODEV);
  EXPECT_EQ(map_at(0, kPage, kPrivate | MAP_GROWSDOWN), -EOPNOTSUPP);
  EXPECT_EQ(map_at(0, kPage, kPrivate | MAP_SYNC), -EOPNOTSUPP);
  EXPECT_EQ(map_at(0, kPage, kPrivate | MAP_HUGETLB), -ENOMEM);
  EXPECT_EQ(pages_.count(), 0u);
}

// Only a file is copied beside, and needs room for that.
TEST_F(EnclaveBoundsTest, AllOfTheRangeIsReplaced) {
  ASSERT_EQ(map(0, kPages), answer(0));
  EXPECT_EQ(map(0, kPages, PROT_READ), answer(0));
  EXPECT_EQ(pages_.picture(kBase, 3), "rrr");
}

TEST_F(EnclaveBoundsTest, BesideTheRangeIsNothing) {
  ASSERT_EQ(map(0, 2), answer(0));
  EXPECT_EQ(unmap(64, 1), 0);
  EXPECT_EQ(manager_->unmap(kBase - kPage, kPage), 0);
  EXPECT_EQ(manager_->unmap(kBase - kNumbersWrap, kPage), 0);
  EXPECT_EQ(manager_->remap(kBase - kNumbersWrap, kPage, kPage, 0, 0), -EFAULT);
  EXPECT_EQ(manager_->remap(kBase - kNumbersWrap, kPage, kPage, kTo, page(8)), -EFAULT);
  EXPECT_EQ(picture(3), "bb.");
}

TEST_F(EnclaveBoundsTest, RemapKeepsToTheRange) {
  ASSERT_EQ(map(0, 1), answer(0));
  const auto to = [this](std::size_t size, std::uintptr_t address) {
    return manager_->remap(kBase, kPage, size, kTo, address);
  };
  constexpr std::uintptr_t kLimit = std::uintptr_t{1} << 47;
  EXPECT_EQ(to(kLimit, 0), -EINVAL);
  EXPECT_EQ(to(kLimit + kPage, 0), -EINVAL);
  EXPECT_EQ(to(kPage, kLimit - kPage), -ENOMEM);
  EXPECT_EQ(to(kPage, kLimit), -EINVAL);
  EXPECT_EQ(manager_->remap(kBase, kPage, kNumbersWrap + kPage, MREMAP_MAYMOVE, 0), -ENOMEM);
  EXPECT_EQ(picture(3), "b..");
  EXPECT_EQ(remap(0, 1, kPages), answer(0)) << "all of it";
  EXPECT_EQ(pages_.count(), kPages);
}

TEST_F(EnclaveBoundsTest, TheBreakGoesToTheVeryEnd) {
  EXPECT_EQ(manager_->set_break(page(64) + 1), page(0));
  EXPECT_EQ(manager_->set_break(page(64)), page(64));
  EXPECT_EQ(pages_.count(), kPages);
}

// ---- When an operation fails ----

TEST_F(EnclaveBoundsTest, WhatAnOperationSaysComesBeforeAHole) {
  ASSERT_EQ(map(62, 2), answer(62));
  pages_.fail(Op::kProtect, -EACCES);
  EXPECT_EQ(protect(62, 4, PROT_READ), -EACCES);
  EXPECT_EQ(protect(62, 4, PROT_READ), -ENOMEM);
}

TEST_F(EnclaveBoundsTest, NoNewPagesComeWhereTheOldOnesWouldNotGo) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(map(8, 1, PROT_READ), answer(8));
  pages_.fail(Op::kDrop, -EIO);
  EXPECT_EQ(remap(2, 2, 4, kTo, 8), -EIO);
  EXPECT_EQ(picture(12), "..bb....r...");
  EXPECT_EQ(pages_.calls(Op::kMove), 0u);
}

TEST_F(EnclaveBoundsTest, ACopyThatWouldNotGoIsWhatItWasMadeFor) {
  ASSERT_EQ(map(0, 2), answer(0));
  pages_.fail(Op::kMove, -EIO);
  pages_.fail(Op::kDrop, -ENOMEM);
  EXPECT_EQ(map_file(0, 2), -EIO);
  EXPECT_EQ(pages_.picture(page(62), 2), "rr");
  const auto populate = [this](int advice) {
    return manager_->advise(EXCLAVE_MADVISE, page(62), 2 * kPage, advice);
  };
  EXPECT_EQ(populate(MADV_POPULATE_READ), 0);
  EXPECT_EQ(populate(MADV_POPULATE_WRITE), -EINVAL);
}

TEST_F(EnclaveBoundsTest, ASourceThatGoesWithTheTailIsNotMoved) {
  ASSERT_EQ(map(2, 4), answer(2));
  bool nested = false;
  pages_.during = [&](Op op) {
    if (op != Op::kDrop || nested) return;
    nested = true;
    EXPECT_EQ(unmap(2, 2), 0);
  };
  EXPECT_EQ(remap(2, 4, 2, kTo, 10), -EFAULT);
  pages_.during = nullptr;
  EXPECT_EQ(pages_.count(), 0u);
}

// ---- Walks ----

class EnclaveWalksTest : public ManagerFixture {
 protected:
  // Two pages, a hole, two pages; and one at the end of the range.
  void SetUp() override {
    auto made = EnclaveManager::create(port_table(), all_.table(), options());
    ASSERT_TRUE(made.ok());
    manager_.emplace(std::move(made.value()));
    ASSERT_EQ(map(2, 2), answer(2));
    ASSERT_EQ(map(5, 2), answer(5));
    ASSERT_EQ(map(63, 1), answer(63));
  }
  // How many areas the page operations were asked about.
  std::size_t areas_of(RangeCall call, int argument, Op op = Op::kAdvise) {
    const std::size_t before = all_.calls(op);
    EXPECT_EQ(manager_->advise(call, page(2), 5 * kPage, argument), -ENOMEM);
    return all_.calls(op) - before;
  }

  FakePagesWithAll all_;
};

TEST_F(EnclaveWalksTest, AHoleStopsSomeAndIsSkippedByOthers) {
  EXPECT_EQ(areas_of(EXCLAVE_MADVISE, MADV_NORMAL), 2u);
  EXPECT_EQ(areas_of(EXCLAVE_MADVISE, MADV_RANDOM), 2u) << "its number is that of MS_ASYNC";
  EXPECT_EQ(areas_of(EXCLAVE_MADVISE, MADV_COLD), 2u);
  EXPECT_EQ(areas_of(EXCLAVE_MADVISE, MADV_DONTNEED, Op::kZero), 2u);
  EXPECT_EQ(areas_of(EXCLAVE_MADVISE, MADV_POPULATE_READ), 1u);
  EXPECT_EQ(areas_of(EXCLAVE_MADVISE, MADV_POPULATE_WRITE), 1u);
  EXPECT_EQ(areas_of(EXCLAVE_MLOCK, 0), 1u);
  EXPECT_EQ(areas_of(EXCLAVE_MUNLOCK, 0), 1u);
}

// What is under way behind the hole is met by those who come that far.
TEST_F(EnclaveWalksTest, MsyncStopsAtAHoleWhenItOnlyBegins) {
  bool nested = false;
  all_.during = [&](Op) {
    if (nested) return;
    nested = true;
    const auto sync = [this](int flags) {
      return manager_->advise(EXCLAVE_MSYNC, page(2), 5 * kPage, flags);
    };
    EXPECT_EQ(sync(MS_ASYNC), -ENOMEM);
    EXPECT_EQ(sync(0), -EBUSY);
    EXPECT_EQ(sync(MS_SYNC), -EBUSY);
    EXPECT_EQ(sync(MS_ASYNC | MS_INVALIDATE), -EBUSY);
  };
  EXPECT_EQ(protect(5, 2, PROT_READ), 0);
  EXPECT_TRUE(nested);
  all_.during = nullptr;
}

TEST_F(EnclaveWalksTest, WhatAnOperationSaysComesBeforeAHole) {
  unsigned char vector[4];
  all_.fail(Op::kResident, -EAGAIN);
  EXPECT_EQ(manager_->resident(page(63), 2 * kPage, vector), -EAGAIN);
  EXPECT_EQ(manager_->resident(page(63), 2 * kPage, vector), -ENOMEM);
  EXPECT_EQ(manager_->resident(page(63), kPage, vector), 0);
}

TEST_F(EnclaveWalksTest, SharedPagesAreNotFreedAndNotWipedByAFork) {
  ASSERT_EQ(map(10, 2, kReadWrite, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED), answer(10));
  all_.write(page(10), 7);
  EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, page(10), kPage, MADV_FREE), -EINVAL);
  EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, page(10), kPage, MADV_WIPEONFORK), -EINVAL);
  EXPECT_EQ(all_.read(page(10)), 7u);
}

TEST_F(EnclaveWalksTest, LocksOnFaultAreAskedForAsSuch) {
  static std::vector<int> arguments;
  arguments.clear();
  EnclavePagesTable table = all_.table();
  table.advise = [](void*, int call, std::uintptr_t, std::size_t, int argument) {
    if (call == EXCLAVE_MLOCK) arguments.push_back(argument);
    return 0;
  };
  auto made = EnclaveManager::create(port_table(), table, options());
  ASSERT_TRUE(made.ok());
  manager_.emplace(std::move(made.value()));
  ASSERT_EQ(map(2, 2), answer(2));
  EXPECT_EQ(manager_->lock_all(MCL_CURRENT), 0);
  EXPECT_EQ(manager_->lock_all(0), 0);
  EXPECT_EQ(manager_->lock_all(MCL_CURRENT | MCL_ONFAULT), 0);
  EXPECT_THAT(arguments, testing::ElementsAre(0, MLOCK_ONFAULT));
}

// What is left of a copy is what it was made as, not what it was to become.
TEST_F(EnclaveBoundsTest, ACopyThatWouldNotGoIsNotYetWhatWasAskedFor) {
  pages_.fail(Op::kProtect, -EPERM);
  pages_.fail(Op::kDrop, -EIO);
  EXPECT_EQ(map_file(2, 2, PROT_READ), -EPERM);
  EXPECT_EQ(picture(5), "..bb.");
  int seen = -1;
  EXPECT_EQ(manager_->visit(
                {page(2), 2 * kPage},
                [](void* context, Extent, int protection) {
                  *static_cast<int*>(context) = protection;
                  return 0;
                },
                &seen),
            0);
  EXPECT_EQ(seen, kReadWrite) << "the books say what the pages are";
  EXPECT_EQ(unmap(2, 2), 0);
}

TEST_F(EnclaveBoundsTest, ACopyThatWasNotBegunLeavesNothing) {
  pages_.fail(Op::kCommit, -ENOMEM);
  pages_.fail(Op::kDrop, -EIO);
  EXPECT_EQ(map_file(2, 2), -ENOMEM);
  EXPECT_EQ(areas(), 0u) << "not even pages that would not go, for there are none";
  ASSERT_EQ(map(2, 2), answer(2));
  EXPECT_EQ(unmap(2, 2), -EIO) << "nothing was dropped before";
}

}  // namespace
}  // namespace exclave
