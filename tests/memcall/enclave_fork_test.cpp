// A fork and the areas of the enclave's own memory: what the child's books say. Both processes are
// this one, on pages that are a table.
#include "support/manager_fixture.hpp"

#include <vector>

namespace exclave {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing_support::FakePages;
using testing_support::FakePagesWithAll;
using testing_support::ManagerFixture;

class Threat72_AreasInTheChild : public ManagerFixture {
 protected:
  void become_child() {
    ASSERT_TRUE(manager_->before_fork().ok());
    manager_->after_fork_in_child();
  }
  int advise(std::size_t first, std::size_t count, int advice) {
    return manager_->advise(EXCLAVE_MADVISE, page(first), count * kPage, advice);
  }
  int lock(std::size_t first, std::size_t count, int flags = 0) {
    return manager_->advise(EXCLAVE_MLOCK, page(first), count * kPage, flags);
  }
  // Of a locked area MADV_DONTNEED is refused.
  bool is_locked(std::size_t n) { return advise(n, 1, MADV_DONTNEED) == -EINVAL; }
};

TEST_F(Threat72_AreasInTheChild, NothingIsLockedAndNothingWillBe) {
  ASSERT_EQ(map(2, 6), answer(2));
  ASSERT_EQ(lock(3, 1), 0);
  ASSERT_EQ(lock(5, 1, MLOCK_ONFAULT), 0);
  ASSERT_EQ(manager_->lock_all(MCL_FUTURE), 0);
  ASSERT_EQ(map(10, 1), answer(10));
  EXPECT_EQ(areas(), 6u);
  become_child();
  EXPECT_EQ(areas(), 2u) << "what only locks told apart is one again";
  for (const std::size_t n : {3u, 5u, 10u}) EXPECT_FALSE(is_locked(n)) << n;
  ASSERT_EQ(map(12, 1), answer(12));
  EXPECT_FALSE(is_locked(12));
  EXPECT_EQ(picture(), "..bbbbbb..b.b...");
}

TEST_F(Threat72_AreasInTheChild, DontForkAndWipeOnForkAreDone) {
  ASSERT_EQ(map(0, 8), answer(0));
  ASSERT_EQ(lock(1, 3), 0);
  for (std::size_t n = 0; n < 8; ++n) pages_.write(page(n), n + 1);
  EXPECT_EQ(advise(1, 2, MADV_DONTFORK), 0);
  EXPECT_EQ(advise(4, 2, MADV_WIPEONFORK), 0);
  EXPECT_EQ(advise(5, 1, MADV_KEEPONFORK), 0);
  EXPECT_EQ(advise(7, 1, MADV_DONTFORK), 0);
  EXPECT_EQ(advise(7, 1, MADV_DOFORK), 0);
  EXPECT_EQ(picture(9), "bbbbbbbb.") << "here nothing changes";
  become_child();
  EXPECT_EQ(picture(9), "b..bbbbb.");
  EXPECT_EQ(pages_.read(page(3)), 4u);
  EXPECT_EQ(pages_.read(page(4)), 0u);
  EXPECT_EQ(pages_.read(page(5)), 6u);
  EXPECT_FALSE(is_locked(3));
  EXPECT_EQ(areas(), 4u) << "0, 3, 4, 5 to 7";
  EXPECT_EQ(map(1, 2, kReadWrite, kPrivate | MAP_FIXED_NOREPLACE), answer(1));
  EXPECT_EQ(pages_.read(page(1)), 0u);
}

TEST_F(Threat72_AreasInTheChild, WhatAPageOperationRefusesThereIsGoneAllTheSame) {
  ASSERT_EQ(map(2, 1), answer(2));
  ASSERT_EQ(advise(2, 1, MADV_DONTFORK), 0);
  pages_.fail(Op::kDrop, -EIO);
  become_child();
  EXPECT_EQ(areas(), 0u) << "whether the pages are there or not";
  EXPECT_EQ(map(2, 1, kReadWrite, kPrivate | MAP_FIXED_NOREPLACE), answer(2));
}

TEST_F(Threat72_AreasInTheChild, AnAdviceThatIsRefusedSaysNothingOfForks) {
  ASSERT_EQ(map(1, 2, kReadWrite, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED), answer(1));
  ASSERT_EQ(map_file(4, 1), answer(4));
  for (const std::size_t n : {2u, 4u}) EXPECT_EQ(advise(n, 1, MADV_WIPEONFORK), -EINVAL);
  EXPECT_EQ(areas(), 2u) << "nothing is cut for it";
  become_child();
  EXPECT_EQ(pages_.read(page(4)), FakePages::kFileValue);
  EXPECT_EQ(picture(5), ".bb.r");
}

// Where one more area may not be, the answer is not that of a hole.
TEST_F(Threat72_AreasInTheChild, ACutThatMayNotBeIsEagain) {
  EnclaveManager::Options limited = options();
  limited.max_areas = 1;
  start(limited);
  ASSERT_EQ(map(2, 2), answer(2));
  EXPECT_EQ(advise(2, 1, MADV_DONTFORK), -EAGAIN);
  EXPECT_EQ(advise(2, 2, MADV_DONTFORK), 0);
  EXPECT_EQ(advise(2, 3, MADV_DONTFORK), -ENOMEM);
  become_child();
  EXPECT_EQ(areas(), 0u);
}

// Fresh pages of such an area are told the page operations like the first ones.
TEST_F(Threat72_AreasInTheChild, PagesThatComeLaterAreToldToo) {
  static std::vector<int> advices;
  static FakePagesWithAll all;
  EnclavePagesTable table = bind_enclave_pages(static_cast<FakePages&>(all));
  table.advise = [](void*, int call, std::uintptr_t, std::size_t, int argument) {
    if (call == EXCLAVE_MADVISE) advices.push_back(argument);
    return 0;
  };
  auto made = EnclaveManager::create(port_table(), table, options());
  ASSERT_TRUE(made.ok());
  manager_.emplace(std::move(made.value()));
  ASSERT_EQ(map(2, 1), answer(2));
  EXPECT_THAT(advices, IsEmpty());
  ASSERT_EQ(advise(2, 1, MADV_DONTFORK), 0);
  ASSERT_EQ(advise(2, 1, MADV_WIPEONFORK), 0);
  advices.clear();
  EXPECT_EQ(remap(2, 1, 2), answer(2));
  EXPECT_THAT(advices, ElementsAre(MADV_DONTFORK, MADV_WIPEONFORK));
  EXPECT_EQ(unmap(2, 2), 0);
}

}  // namespace
}  // namespace exclave
