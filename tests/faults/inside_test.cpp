// The manager of the enclave's own memory, while page operations fail and trusted memory runs out.
#include "support/manager_walk.hpp"

namespace exclave {
namespace {

using namespace testing_support;
using Keeps = ManagerWalk::Keeps;
using Point = PagePoint;

constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr int kShared = MAP_SHARED | MAP_ANONYMOUS;
constexpr int kTo = MREMAP_MAYMOVE | MREMAP_FIXED;
constexpr int kKeep = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
constexpr std::size_t kNowhere = 0;

std::size_t page_of(std::intptr_t address) {
  return (static_cast<std::uintptr_t>(address) - ManagerWalk::kBase) / kPageBytes;
}

// Each answers the page at which it stands then.
std::size_t map(ManagerWalk& walk, std::size_t first, std::size_t count, int flags,
                int protection = kReadWrite, int descriptor = -1, Keeps keeps = Keeps::kAll) {
  std::intptr_t at = 0;
  walk.step(
      "map",
      [&] {
        at = walk.manager().map(ManagerWalk::page(first), count * kPageBytes, protection, flags,
                                descriptor, 0);
        return at;
      },
      keeps);
  return page_of(at);
}
std::size_t remap(ManagerWalk& walk, std::size_t first, std::size_t old_count,
                  std::size_t new_count, int flags, std::size_t to = kNowhere,
                  Keeps keeps = Keeps::kAll) {
  std::intptr_t at = 0;
  walk.step(
      "remap",
      [&] {
        at = walk.manager().remap(ManagerWalk::page(first), old_count * kPageBytes,
                                  new_count * kPageBytes, flags, ManagerWalk::page(to));
        return at;
      },
      keeps);
  return page_of(at);
}
void unmap(ManagerWalk& walk, std::size_t first, std::size_t count, Keeps keeps = Keeps::kAll) {
  walk.step(
      "unmap", [&] { return walk.manager().unmap(ManagerWalk::page(first), count * kPageBytes); },
      keeps);
}
void protect(ManagerWalk& walk, std::size_t first, std::size_t count, int protection,
             Keeps keeps = Keeps::kAll) {
  walk.step(
      "protect",
      [&] {
        return walk.manager().protect(ManagerWalk::page(first), count * kPageBytes, protection);
      },
      keeps);
}
void advise(ManagerWalk& walk, std::size_t first, std::size_t count, int argument,
            RangeCall call = EXCLAVE_MADVISE, Keeps keeps = Keeps::kAll) {
  walk.step(
      "advise",
      [&] {
        return walk.manager().advise(call, ManagerWalk::page(first), count * kPageBytes, argument);
      },
      keeps);
}

TEST(FaultsInside, AreasComeChangeAndGo) {
  // What cannot be locked is mapped all the same.
  survive_every_page_fault(
      {Point::kCommit, Point::kProtect, Point::kDrop, Point::kAdvise}, [](ManagerWalk& walk) {
        map(walk, 4, 8, kPrivate | MAP_FIXED);
        if (testing::Test::HasFailure()) return;
        walk.pages().write(ManagerWalk::page(5), 7);
        protect(walk, 6, 2, PROT_READ);
        protect(walk, 4, 8, PROT_NONE, Keeps::kHalf);
        protect(walk, 4, 8, kReadWrite, Keeps::kHalf);
        unmap(walk, 7, 2);
        // Over two areas, a hole, and free ground.
        map(walk, 6, 8, kPrivate | MAP_FIXED, PROT_READ);
        map(walk, 20, 4, kShared | MAP_FIXED_NOREPLACE);
        map(walk, 24, 4, kShared | MAP_FIXED);
        map(walk, 22, 4, kPrivate | MAP_FIXED | MAP_LOCKED, kReadWrite, -1, Keeps::kPages);
        const std::size_t anywhere = map(walk, 0, 2, kPrivate);
        unmap(walk, anywhere, 2);
        unmap(walk, 0, ManagerWalk::kPages);
      });
}

TEST(FaultsInside, FilesAreCopiedInAllOrNothing) {
  survive_every_page_fault(
      {Point::kCommit, Point::kProtect, Point::kDrop, Point::kMove, Point::kFill, Point::kAdvise},
      [](ManagerWalk& walk) {
        map(walk, 2, 6, MAP_PRIVATE | MAP_FIXED, PROT_READ, 3);
        if (testing::Test::HasFailure()) return;
        const std::size_t anywhere = map(walk, 0, 2, MAP_PRIVATE, kReadWrite, 3);
        protect(walk, 4, 2, kReadWrite);
        // The copy is made beside, and comes when it is whole.
        map(walk, 3, 4, MAP_PRIVATE | MAP_FIXED, PROT_NONE, 3);
        map(walk, 6, 4, MAP_PRIVATE | MAP_FIXED | MAP_LOCKED, kReadWrite, 3);
        unmap(walk, anywhere, 2);
      });
}

TEST(FaultsInside, AreasShrinkGrowAndMove) {
  survive_every_page_fault(
      {Point::kCommit, Point::kProtect, Point::kDrop, Point::kMove}, [](ManagerWalk& walk) {
        map(walk, 2, 6, kPrivate | MAP_FIXED);
        if (testing::Test::HasFailure()) return;
        walk.pages().write(ManagerWalk::page(2), 7);
        walk.pages().write(ManagerWalk::page(5), 8);
        EXPECT_EQ(remap(walk, 2, 6, 5, 0), 2u);
        EXPECT_EQ(remap(walk, 6, 1, 3, 0), 6u);
        // Its own pages stand behind it: to another place.
        const std::size_t moved = remap(walk, 3, 3, 4, MREMAP_MAYMOVE);
        if (testing::Test::HasFailure()) return;
        EXPECT_EQ(walk.pages().read(ManagerWalk::page(moved + 2)), 8u);
        // Over two areas and a hole, with new pages at the end; what stood there stays away when
        // the move fails.
        map(walk, 20, 2, kPrivate | MAP_FIXED, PROT_READ);
        map(walk, 24, 4, kShared | MAP_FIXED);
        EXPECT_EQ(remap(walk, 6, 3, 6, kTo, 20, Keeps::kHalf), 20u);
        EXPECT_EQ(remap(walk, 20, 6, 2, kTo, 30, Keeps::kHalf), 30u);
        EXPECT_EQ(remap(walk, 30, 2, 2, kTo, 40), 40u);
        // Zero pages stay behind.
        EXPECT_EQ(remap(walk, 2, 1, 1, kKeep | MREMAP_FIXED, 41, Keeps::kHalf), 41u);
        EXPECT_EQ(walk.pages().read(ManagerWalk::page(41)), 7u);
        const std::size_t kept = remap(walk, 41, 1, 1, kKeep);
        protect(walk, kept, 1, PROT_READ);
      });
}

TEST(FaultsInside, FilesAndSharedAreasMove) {
  survive_every_page_fault(
      {Point::kCommit, Point::kProtect, Point::kDrop, Point::kMove, Point::kFill},
      [](ManagerWalk& walk) {
        map(walk, 2, 4, MAP_PRIVATE | MAP_FIXED, PROT_READ, 3);
        map(walk, 10, 4, kShared | MAP_FIXED);
        if (testing::Test::HasFailure()) return;
        EXPECT_EQ(remap(walk, 3, 2, 2, kTo, 20), 20u);
        EXPECT_EQ(remap(walk, 10, 4, 5, 0), 10u);
        EXPECT_EQ(remap(walk, 11, 2, 3, kTo, 19, Keeps::kHalf), 19u);
        const std::size_t moved = remap(walk, 10, 1, 2, MREMAP_MAYMOVE);
        unmap(walk, moved, 1, Keeps::kPages);
      });
}

TEST(FaultsInside, TheBreakMoves) {
  survive_every_page_fault({Point::kCommit, Point::kDrop}, [](ManagerWalk& walk) {
    const auto set = [&](std::size_t bytes) {
      std::uintptr_t present = 0;
      // The break says that it did not move, not why.
      walk.step("brk", [&]() -> std::intptr_t {
        const std::uintptr_t wanted = ManagerWalk::kBase + bytes;
        const std::uintptr_t before = walk.manager().set_break(0);
        present = walk.manager().set_break(wanted);
        EXPECT_TRUE(present == wanted || present == before);
        return present == wanted ? 0 : ManagerWalk::kRefused;
      });
    };
    set(3 * kPageBytes + 5);
    set(3 * kPageBytes + 7);
    set(8 * kPageBytes);
    set(5 * kPageBytes);
    set(1);
    set(0);
  });
}

void walk_all_advice(ManagerWalk& walk) {
  map(walk, 2, 6, kPrivate | MAP_FIXED);
  map(walk, 8, 2, kShared | MAP_FIXED);
  if (testing::Test::HasFailure()) return;
  protect(walk, 4, 2, PROT_READ);
  for (std::size_t n = 2; n < 10; ++n) walk.pages().write(ManagerWalk::page(n), n);
  // A walk that fails has done the areas before.
  advise(walk, 2, 8, MADV_DONTNEED, EXCLAVE_MADVISE, Keeps::kHalf);
  advise(walk, 3, 1, MADV_FREE);
  advise(walk, 8, 2, MADV_REMOVE);
  advise(walk, 2, 8, MADV_COLD);
  advise(walk, 2, 2, MADV_POPULATE_WRITE);
  advise(walk, 3, 6, 0, EXCLAVE_MLOCK, Keeps::kHalf);
  advise(walk, 2, 8, MADV_DONTNEED_LOCKED);
  advise(walk, 2, 4, 0, EXCLAVE_MUNLOCK, Keeps::kHalf);
  advise(walk, 2, 8, MS_ASYNC, EXCLAVE_MSYNC);
  const auto lock_all = [&](int flags) {
    walk.step(
        "lock_all", [&] { return walk.manager().lock_all(flags); }, Keeps::kHalf);
  };
  lock_all(MCL_CURRENT);
  lock_all(MCL_FUTURE);
  map(walk, 20, 2, kPrivate | MAP_FIXED);
  lock_all(0);
  unsigned char vector[8];
  walk.step("resident", [&] {
    return walk.manager().resident(ManagerWalk::page(2), sizeof vector * kPageBytes, vector);
  });
  EXPECT_THAT(vector, testing::Each(1));
}

TEST(FaultsInside, WalksOverAreas) {
  survive_every_page_fault(
      {Point::kCommit, Point::kProtect, Point::kZero, Point::kAdvise, Point::kResident},
      walk_all_advice);
}

TEST(FaultsInside, WalksOverAreasWithoutOptionalOperations) {
  survive_every_page_fault({Point::kCommit, Point::kProtect}, walk_all_advice, false);
}

// Around a fork nothing is asked for that could fail.
TEST(FaultsInside, AForkNeedsNothing) {
  survive_every_page_fault({Point::kCommit, Point::kDrop}, [](ManagerWalk& walk) {
    map(walk, 2, 6, kPrivate | MAP_FIXED);
    for (const bool child : {false, true}) {
      walk.step("fork", [&]() -> std::intptr_t {
        if (!walk.manager().before_fork().ok()) return -EBUSY;
        child ? walk.manager().after_fork_in_child() : walk.manager().after_fork_in_parent();
        return 0;
      });
    }
    unmap(walk, 2, 6);
  });
}

}  // namespace
}  // namespace exclave
