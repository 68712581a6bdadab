// madvise, mlock and the rest that walk over areas of the enclave's own memory.
#include "support/manager_fixture.hpp"

namespace exclave {
namespace {

using testing_support::ManagerFixture;

class AdviceTest : public ManagerFixture {
 protected:
  int advise(std::size_t first, std::size_t count, int advice, RangeCall call = EXCLAVE_MADVISE) {
    return manager_->advise(call, page(first), count * kPage, advice);
  }
};

TEST_F(AdviceTest, WithoutOptionalOperationsBytesGoAndHintsAreTaken) {
  ASSERT_EQ(map(2, 2, PROT_READ), answer(2));
  pages_.write(page(3), 7);
  EXPECT_EQ(advise(3, 1, MADV_HUGEPAGE), 0);
  EXPECT_EQ(pages_.read(page(3)), 7u);
  EXPECT_EQ(advise(3, 1, MADV_DONTNEED), 0);
  EXPECT_EQ(pages_.read(page(3)), 0u);
  EXPECT_EQ(picture(5), "..rr.");
  EXPECT_EQ(areas(), 1u);
  unsigned char vector[3] = {0xee, 0xee, 0xee};
  EXPECT_EQ(manager_->resident(page(2), 2 * kPage, vector), 0);
  EXPECT_EQ(vector[0] + vector[1] + vector[2], 2 + 0xee);
  EXPECT_EQ(manager_->resident(page(3), 2 * kPage, vector), -ENOMEM);
  EXPECT_EQ(manager_->resident(page(1), 2 * kPage, vector), -ENOMEM);
}

TEST_F(AdviceTest, WhatAPageOperationRefusesIsTold) {
  ASSERT_EQ(map(2, 2), answer(2));
  pages_.fail(Op::kCommit, -EIO);
  EXPECT_EQ(advise(2, 2, MADV_DONTNEED), -EIO);
  EnclavePagesTable refusing = pages_.table();
  refusing.advise = [](void*, int, std::uintptr_t, std::size_t, int) { return -EPERM; };
  refusing.resident = [](void*, std::uintptr_t, std::size_t, unsigned char*) { return -EAGAIN; };
  refusing.zero = [](void*, std::uintptr_t, std::size_t, int, int) { return -EACCES; };
  auto made = EnclaveManager::create(port_table(), refusing, options());
  ASSERT_TRUE(made.ok());
  EnclaveManager manager(std::move(made.value()));
  ASSERT_EQ(manager.map(page(2), 2 * kPage, kReadWrite, kPrivate | MAP_FIXED, -1, 0), answer(2));
  EXPECT_EQ(manager.advise(EXCLAVE_MADVISE, page(2), kPage, MADV_COLD), -EPERM);
  EXPECT_EQ(manager.advise(EXCLAVE_MADVISE, page(2), kPage, MADV_DONTNEED), -EACCES);
  EXPECT_EQ(manager.advise(EXCLAVE_MLOCK, page(2), kPage, 0), -EPERM);
  EXPECT_EQ(manager.lock_all(MCL_CURRENT), -EPERM);
  unsigned char vector = 0;
  EXPECT_EQ(manager.resident(page(2), kPage, &vector), -EAGAIN);
  EXPECT_EQ(manager.statistics().areas, 1u);
}

// As on Linux, mlockall does not mind what cannot be brought; mlock tells the first that it minds.
TEST_F(AdviceTest, WhatCannotBeLockedIsToldByMlockOnly) {
  EnclavePagesTable short_of_pages = pages_.table();
  static int answers[2];
  short_of_pages.advise = [](void*, int, std::uintptr_t address, std::size_t, int) {
    return answers[address == page(4)];
  };
  auto made = EnclaveManager::create(port_table(), short_of_pages, options());
  ASSERT_TRUE(made.ok());
  EnclaveManager manager(std::move(made.value()));
  constexpr int kFixed = kPrivate | MAP_FIXED;
  ASSERT_EQ(manager.map(page(2), 2 * kPage, PROT_NONE, kFixed, -1, 0), answer(2));
  ASSERT_EQ(manager.map(page(4), 2 * kPage, kReadWrite, kFixed, -1, 0), answer(4));
  answers[0] = answers[1] = -ENOMEM;
  EXPECT_EQ(manager.lock_all(MCL_CURRENT), 0);
  EXPECT_EQ(manager.advise(EXCLAVE_MLOCK, page(2), 4 * kPage, 0), -ENOMEM);
  answers[1] = -EAGAIN;
  EXPECT_EQ(manager.lock_all(MCL_CURRENT), -EAGAIN);
  EXPECT_EQ(manager.advise(EXCLAVE_MLOCK, page(2), 4 * kPage, 0), -EAGAIN);
}

TEST_F(AdviceTest, ShapesThatAreNone) {
  unsigned char vector = 0;
  EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, page(2) + 1, kPage, MADV_COLD), -EINVAL);
  EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, page(2), 0, MADV_COLD), -EINVAL);
  EXPECT_EQ(manager_->resident(page(2), SIZE_MAX, &vector), -EINVAL);
}

TEST_F(AdviceTest, BesideTheRangeAreHoles) {
  ASSERT_EQ(map(0, 1), answer(0));
  ASSERT_EQ(map(63, 1), answer(63));
  pages_.write(page(0), 7);
  pages_.write(page(63), 7);
  EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, kBase - kPage, 66 * kPage, MADV_DONTNEED), -ENOMEM);
  EXPECT_EQ(pages_.read(page(0)) + pages_.read(page(63)), 0u);
  EXPECT_EQ(manager_->advise(EXCLAVE_MLOCK, kBase - kPage, 2 * kPage, 0), -ENOMEM);
  EXPECT_EQ(advise(0, 1, MADV_DONTNEED), 0) << "it is not locked";
  EXPECT_EQ(advise(63, 2, 0, EXCLAVE_MLOCK), -ENOMEM);
  EXPECT_EQ(advise(63, 1, MADV_DONTNEED), -EINVAL) << "it is";
  EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, kBase + 70 * kPage, kPage, MADV_COLD), -ENOMEM);
}

TEST_F(AdviceTest, LocksCutAreasAndJoinThem) {
  ASSERT_EQ(map(2, 6), answer(2));
  EXPECT_EQ(advise(4, 2, 0, EXCLAVE_MLOCK), 0);
  EXPECT_EQ(areas(), 3u);
  EXPECT_EQ(remap(2, 6, 7), -EFAULT) << "as on Linux, one mapping no longer";
  EXPECT_EQ(manager_->lock_all(MCL_CURRENT), 0);
  EXPECT_EQ(areas(), 1u);
  EXPECT_EQ(advise(4, 2, 0, EXCLAVE_MUNLOCK), 0);
  EXPECT_EQ(manager_->lock_all(0), 0);
  EXPECT_EQ(areas(), 1u);
}

TEST_F(AdviceTest, WithoutBooksNoLock) {
  EnclaveManager::Options large = options();
  large.range.size = 8000 * kPage;
  start(large);
  ASSERT_EQ(map(0, 8000), answer(0));
  port_.fail_trusted_from(1);
  std::size_t n = 1;
  for (; advise(2 * n, 1, 0, EXCLAVE_MLOCK) == 0; ++n) ASSERT_LT(2 * n, 7990u);
  EXPECT_EQ(advise(2 * n, 1, 0, EXCLAVE_MLOCK), -ENOMEM);
  port_.fail_trusted_from(0);
  EXPECT_EQ(advise(2 * n, 1, 0, EXCLAVE_MLOCK), 0);
}

TEST_F(AdviceTest, ANestedCallOnTheSameAreaIsBusy) {
  ASSERT_EQ(map(2, 4), answer(2));
  bool nested = false;
  pages_.during = [&](Op) {
    if (nested) return;
    nested = true;
    unsigned char vector = 0;
    EXPECT_EQ(advise(2, 1, MADV_COLD), -EBUSY);
    EXPECT_EQ(advise(2, 1, 0, EXCLAVE_MLOCK), -EBUSY);
    EXPECT_EQ(manager_->resident(page(2), kPage, &vector), -EBUSY);
  };
  EXPECT_EQ(advise(2, 1, MADV_DONTNEED), 0);
  EXPECT_TRUE(nested);
  pages_.during = nullptr;
}

}  // namespace
}  // namespace exclave
