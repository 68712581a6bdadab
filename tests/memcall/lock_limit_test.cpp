// RLIMIT_MEMLOCK where memory comes locked: the manager asks the runtime's policy, as Linux looks
// at the limit, before any page changes.
#include "support/manager_fixture.hpp"

#include <vector>

namespace exclave {
namespace {

using testing::ElementsAre;
using testing_support::ManagerFixture;

class LockLimitTest : public ManagerFixture {
 protected:
  void SetUp() override {
    EnclaveManager::Options limited = options();
    limited.may_lock = [](void* context, std::size_t bytes) {
      auto& test = *static_cast<LockLimitTest*>(context);
      // No lock is held: it may look.
      (void)test.manager_->statistics();
      test.asked_.push_back(bytes / kPage);
      return bytes > test.limit_ * kPage ? test.refusal_ : 0;
    };
    limited.policy_context = this;
    start(limited);
  }
  int lock(std::size_t first, std::size_t count, RangeCall call = EXCLAVE_MLOCK) {
    return manager_->advise(call, page(first), count * kPage, 0);
  }
  // What the next call would be asked for one page more, so what is locked now.
  std::size_t locked() {
    asked_.clear();
    EXPECT_EQ(map(60, 1, kReadWrite, kLocked), answer(60));
    EXPECT_EQ(unmap(60, 1), 0);
    EXPECT_EQ(asked_.size(), 1u);
    return asked_.at(0) - 1;
  }

  static constexpr int kLocked = kPrivate | MAP_FIXED | MAP_LOCKED;
  std::vector<std::size_t> asked_;  // pages
  std::size_t limit_ = 4;
  int refusal_ = -EAGAIN;
};

TEST_F(LockLimitTest, MapLockedIsRefusedAboveIt) {
  ASSERT_EQ(map(0, 8), answer(0)) << "nobody is asked for what is not locked";
  ASSERT_EQ(map(10, 3, kReadWrite, kLocked), answer(10));
  EXPECT_EQ(map(20, 2, kReadWrite, kLocked), -EAGAIN);
  EXPECT_EQ(map(0, 2, kReadWrite, kLocked), -EAGAIN) << "what stood there stays";
  EXPECT_EQ(picture(), "bbbbbbbb..bbb...");
  EXPECT_THAT(asked_, ElementsAre(3, 5, 5));
  refusal_ = -EPERM;
  EXPECT_EQ(map(20, 2, kReadWrite, kLocked), -EPERM) << "where nothing may be locked";
}

TEST_F(LockLimitTest, WhatIsToComeLockedIsRefusedAboveIt) {
  ASSERT_EQ(manager_->lock_all(MCL_FUTURE), 0);
  refusal_ = -EPERM;
  EXPECT_EQ(map(0, 5), -EAGAIN) << "the program did not ask for a lock";
  EXPECT_EQ(map(0, 4), answer(0));
  EXPECT_EQ(map(8, 1), -EAGAIN);
  EXPECT_EQ(picture(9), "bbbb.....");
  ASSERT_EQ(manager_->lock_all(0), 0);
  EXPECT_EQ(map(8, 8), answer(8));
}

TEST_F(LockLimitTest, TheBreakStaysWhereItIs) {
  const std::uintptr_t start = manager_->set_break(0);
  ASSERT_EQ(manager_->lock_all(MCL_FUTURE), 0);
  EXPECT_EQ(manager_->set_break(start + 5 * kPage), start);
  EXPECT_EQ(manager_->set_break(start + 4 * kPage), start + 4 * kPage);
  EXPECT_EQ(manager_->set_break(start + 5 * kPage), start + 4 * kPage);
}

TEST_F(LockLimitTest, ALockedAreaDoesNotGrowAboveIt) {
  ASSERT_EQ(map(0, 2, kReadWrite, kLocked), answer(0));
  EXPECT_EQ(remap(0, 2, 5), -EAGAIN);
  EXPECT_EQ(remap(0, 2, 4), answer(0));
  ASSERT_EQ(map(4, 1), answer(4));
  EXPECT_EQ(remap(0, 4, 5, MREMAP_MAYMOVE), -EAGAIN);
  EXPECT_EQ(picture(8), "bbbbb...");
  limit_ = 5;
  EXPECT_EQ(remap(0, 4, 5, MREMAP_MAYMOVE | MREMAP_FIXED, 10), answer(10));
  asked_.clear();
  EXPECT_EQ(remap(10, 5, 5, MREMAP_MAYMOVE | MREMAP_FIXED, 20), answer(20));
  EXPECT_THAT(asked_, ElementsAre()) << "a move locks no more";
}

TEST_F(LockLimitTest, WhatIsLockedIsCountedWhateverComesAndGoes) {
  limit_ = 64;
  ASSERT_EQ(map(0, 16), answer(0));
  EXPECT_EQ(locked(), 0u);
  ASSERT_EQ(lock(2, 8), 0);
  EXPECT_EQ(locked(), 8u);
  ASSERT_EQ(lock(4, 10), 0);
  EXPECT_EQ(locked(), 12u);
  ASSERT_EQ(lock(5, 2, EXCLAVE_MUNLOCK), 0);
  EXPECT_EQ(locked(), 10u);
  ASSERT_EQ(unmap(3, 3), 0);
  EXPECT_EQ(locked(), 8u);
  ASSERT_EQ(protect(8, 2, PROT_READ), 0);
  EXPECT_EQ(locked(), 8u);
  ASSERT_EQ(remap(10, 2, 2, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, 30), answer(30));
  EXPECT_EQ(locked(), 8u) << "the lock went with the pages";
  ASSERT_EQ(map(30, 1), answer(30));
  EXPECT_EQ(locked(), 7u);
  ASSERT_TRUE(manager_->before_fork().ok());
  manager_->after_fork_in_child();
  EXPECT_EQ(locked(), 0u);
}

}  // namespace
}  // namespace exclave
