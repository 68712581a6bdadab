// The checker on histories made by hand: each contradiction, and beside it what is just possible.
#include "soak/history.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace exclave::soak {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StartsWith;

constexpr Extent kPool{0x10000, 0x4000};

Life block(Extent extent, Window made, Window ended = {}, RegionId region = {}) {
  Life life;
  life.extent = extent;
  life.usable = extent.size;
  life.region = region;
  life.made = made;
  life.ended = ended;
  return life;
}
Life in_pool(Window made, Window ended = {}) {
  return block({0x10100, 0x100}, made, ended, RegionId{1});
}
PinLife pin_of(Extent extent, Window made, Window ended = {}) {
  return {extent, false, made, ended};
}
Attachment pool() {
  Attachment made;
  made.id = RegionId{1};
  made.extent = kPool;
  made.attached = {1, 2};
  return made;
}
Attachment detached(DetachMode mode, Window window) {
  Attachment made = pool();
  made.detached = window;
  made.mode = mode;
  made.gone = window.before + 1;
  made.gone_calls = 1;
  return made;
}
Attachment drained(Window draining, Stamp gone) {
  Attachment made = pool();
  made.draining = draining;
  made.gone = gone;
  made.gone_calls = 1;
  return made;
}

std::vector<std::string> told(std::vector<Life> lives, std::vector<Attachment> pools = {},
                              std::vector<PinLife> pins = {}, Stamp from = 0) {
  History history{from, std::move(lives), std::move(pins), std::move(pools), {}};
  return check(history);
}

TEST(HistoryTest, NothingIsWrongWithNothing) {
  EXPECT_THAT(told({}), IsEmpty());
}

TEST(HistoryTest, LiveBlocksDoNotOverlap) {
  const Life first = block({0x1000, 0x100}, {1, 2}, {7, 8});
  EXPECT_THAT(told({first, block({0x10ff, 1}, {5, 6})}),
              ElementsAre(StartsWith("two live blocks overlap")));
  EXPECT_THAT(told({first, block({0x1100, 1}, {5, 6})}), IsEmpty());
  // The free may have come first.
  EXPECT_THAT(told({first, block({0x1000, 1}, {5, 9})}), IsEmpty());
  EXPECT_THAT(told({first, block({0x1000, 1}, {9, 10})}), IsEmpty());
}

TEST(HistoryTest, OneLongBlockOverManyShortOnes) {
  std::vector<Life> lives;
  for (Stamp i = 0; i != 4; ++i)
    lives.push_back(
        block({0x1000 + 0x10 * i, 0x10}, {10 * i + 1, 10 * i + 2}, {10 * i + 3, 10 * i + 4}));
  lives.push_back(block({0x1000, 0x100}, {50, 51}));
  EXPECT_THAT(told(lives), IsEmpty());
  lives.push_back(block({0x1080, 0x10}, {60, 61}));
  EXPECT_THAT(told(lives), ElementsAre(StartsWith("two live blocks overlap")));
}

TEST(HistoryTest, ARevokeEndsTheBlocksOfItsPool) {
  const Life old = in_pool({5, 6});
  Attachment next = pool();
  next.id = RegionId{2};
  next.attached = {22, 23};
  Life young = in_pool({24, 25});
  young.region = next.id;
  EXPECT_THAT(told({old, young}, {detached(DetachMode::kRevoke, {10, 20}), next}), IsEmpty());
  EXPECT_THAT(told({old, young}, {pool(), next}),
              ElementsAre(StartsWith("two live blocks overlap")));
}

TEST(HistoryTest, BusyFindsNoBlock) {
  const Attachment gone = detached(DetachMode::kBusy, {10, 20});
  EXPECT_THAT(told({in_pool({5, 6}, {30, 31})}, {gone}),
              ElementsAre(StartsWith("detach(kBusy) took a pool with a live block")));
  EXPECT_THAT(told({in_pool({5, 6}, {15, 31})}, {gone}), IsEmpty());
  // Two that follow each other without a gap.
  const Life later = block({0x10800, 0x10}, {7, 12}, {25, 26}, RegionId{1});
  EXPECT_THAT(told({in_pool({5, 6}, {14, 15}), later}, {gone}),
              ElementsAre(StartsWith("detach(kBusy)")));
  EXPECT_THAT(told({in_pool({5, 6}, {11, 15}), later}, {gone}), IsEmpty());
}

TEST(HistoryTest, ADetachedPoolGivesNothingOut) {
  for (const Attachment& gone : {detached(DetachMode::kBusy, {10, 20}),
                                 detached(DetachMode::kRevoke, {10, 20}), drained({10, 20}, 21)}) {
    EXPECT_THAT(told({in_pool({30, 31}, {32, 33})}, {gone}),
                testing::Contains(StartsWith("a detached pool gave out a block")));
  }
  EXPECT_THAT(told({in_pool({15, 31}, {32, 33})}, {drained({10, 20}, 33)}), IsEmpty());
}

TEST(HistoryTest, ABlockComesFromItsPoolWhileItIsThere) {
  EXPECT_THAT(told({block({0x13fff, 2}, {5, 6}, {}, RegionId{1})}, {pool()}),
              ElementsAre(StartsWith("a block outside of its pool")));
  Attachment late = pool();
  late.attached = {8, 9};
  EXPECT_THAT(told({in_pool({5, 6})}, {late}),
              ElementsAre(StartsWith("a block of a pool that was not there yet")));
  EXPECT_THAT(told({in_pool({5, 6})}), ElementsAre(StartsWith("a pool that went long ago")));
  EXPECT_THAT(told({in_pool({5, 6})}, {}, {}, 7), IsEmpty());  // looked at before
  // Asked of no pool.
  EXPECT_THAT(told({block({0x10100, 1}, {5, 6})}, {pool()}), IsEmpty());
  EXPECT_THAT(told({block({0x10100, 1}, {30, 31})}, {detached(DetachMode::kBusy, {10, 20})}),
              ElementsAre(StartsWith("a block where no pool was attached")));
  EXPECT_THAT(told({block({0x20000, 1}, {30, 31})}, {detached(DetachMode::kBusy, {10, 20})}),
              IsEmpty());
}

TEST(HistoryTest, AGoodFreeIsTaken) {
  Life life = in_pool({5, 6}, {30, 31});
  life.answer = Error::kDoubleFree;
  EXPECT_THAT(told({life}, {pool()}), ElementsAre(StartsWith("a valid free was refused")));
  life.answer = Error::kStale;
  EXPECT_THAT(told({life}, {pool()}), ElementsAre(StartsWith("a valid free was refused")));
  EXPECT_THAT(told({life}, {detached(DetachMode::kRevoke, {32, 40})}),
              ElementsAre(StartsWith("a valid free was refused")));
  EXPECT_THAT(told({life}, {detached(DetachMode::kRevoke, {20, 40})}), IsEmpty());
}

TEST(HistoryTest, AStaleFreeIsNot) {
  const Life life = in_pool({5, 6}, {30, 31});
  EXPECT_THAT(told({life}, {detached(DetachMode::kRevoke, {20, 29})}),
              ElementsAre(StartsWith("a free of a revoked block was taken")));
  EXPECT_THAT(told({life}, {detached(DetachMode::kRevoke, {20, 35})}), IsEmpty());
}

TEST(HistoryTest, ADrainEndsWithTheLastBlockAndPin) {
  const Life life = in_pool({5, 6}, {30, 35});
  EXPECT_THAT(told({life}, {drained({10, 11}, 33)}), IsEmpty());
  EXPECT_THAT(told({life}, {drained({10, 11}, 29)}),
              ElementsAre(StartsWith("a draining pool went with a live block")));
  Attachment alone = drained({}, 40);
  EXPECT_THAT(told({life}, {alone}), ElementsAre(StartsWith("a pool went by itself")));
  EXPECT_THAT(told({life}, {drained({10, 11}, 36)}, {pin_of({0x10100, 1}, {7, 8}, {40, 41})}),
              ElementsAre(StartsWith("a pinned pool drained away")));
  EXPECT_THAT(told({life}, {drained({10, 11}, 41)}, {pin_of({0x10100, 1}, {7, 8}, {40, 42})}),
              IsEmpty());
}

TEST(HistoryTest, APinnedPoolStays) {
  const PinLife pinned = pin_of({0x10100, 1}, {7, 8}, {30, 31});
  const Life life = in_pool({5, 6});
  EXPECT_THAT(told({life}, {detached(DetachMode::kRevoke, {10, 20})}, {pinned}),
              ElementsAre(StartsWith("a pinned pool went")));
  EXPECT_THAT(told({life}, {detached(DetachMode::kRevoke, {10, 40})}, {pinned}), IsEmpty());
  PinLife whole = pinned;
  whole.whole_pool = true;
  whole.extent = kPool;
  EXPECT_THAT(told({}, {detached(DetachMode::kBusy, {10, 20})}, {whole}),
              ElementsAre(StartsWith("a pinned pool went")));
}

TEST(HistoryTest, PinnedMemoryIsNotHandedOut) {
  const Life first = block({0x1000, 0x100}, {1, 2}, {10, 11});
  const Life second = block({0x1080, 0x100}, {20, 21});
  EXPECT_THAT(told({first, second}, {}, {pin_of({0x10f0, 1}, {5, 6}, {30, 31})}),
              ElementsAre(StartsWith("pinned memory was handed out")));
  EXPECT_THAT(told({first, second}, {}, {pin_of({0x1070, 1}, {5, 6}, {30, 31})}), IsEmpty());
  EXPECT_THAT(told({first, second}, {}, {pin_of({0x10f0, 1}, {5, 6}, {18, 31})}), IsEmpty());
}

TEST(HistoryTest, APinHoldsABlock) {
  Life life = block({0x1000, 0x100}, {1, 2}, {10, 11});
  EXPECT_THAT(told({life}, {}, {pin_of({0x1100, 1}, {5, 6})}),
              ElementsAre(StartsWith("a pin of no live block")));
  EXPECT_THAT(told({life}, {}, {pin_of({0x1000, 1}, {12, 13})}),
              ElementsAre(StartsWith("a pin of no live block")));
  EXPECT_THAT(told({life}, {}, {pin_of({0x1000, 1}, {10, 13})}), IsEmpty());
  life.usable = 0x180;
  EXPECT_THAT(told({life}, {}, {pin_of({0x1100, 1}, {5, 6})}), IsEmpty());
  EXPECT_THAT(told({}, {}, {pin_of({0x1000, 1}, {5, 6})}, 7), IsEmpty());
}

// A call that zeroes a block, and fails because its pool goes, has had the block for a while.
TEST(HistoryTest, APinMayHoldWhatAFailedCallHad) {
  const auto pinned_in = [](Window window, Extent extent) {
    History history;
    history.glimpses = {{extent, {10, 20}}};
    history.pins = {pin_of({0x1000, 1}, window)};
    return check(history);
  };
  EXPECT_THAT(pinned_in({5, 11}, {0x1000, 0x100}), IsEmpty());
  EXPECT_THAT(pinned_in({19, 25}, {0x1000, 0x100}), IsEmpty());
  EXPECT_THAT(pinned_in({5, 9}, {0x1000, 0x100}), SizeIs(1));
  EXPECT_THAT(pinned_in({21, 25}, {0x1000, 0x100}), SizeIs(1));
  EXPECT_THAT(pinned_in({11, 12}, {0x1001, 0x100}), SizeIs(1));
}

TEST(HistoryTest, GoneComesOnceAndInTime) {
  Attachment twice = detached(DetachMode::kBusy, {10, 20});
  twice.gone_calls = 2;
  EXPECT_THAT(told({}, {twice}), ElementsAre(StartsWith("gone was called 2 times")));
  Attachment never = detached(DetachMode::kBusy, {10, 20});
  never.gone_calls = 0;
  never.gone = kNever;
  EXPECT_THAT(told({}, {never}), ElementsAre(StartsWith("gone was called 0 times")));
  Attachment late = detached(DetachMode::kBusy, {10, 20});
  late.gone = 21;
  EXPECT_THAT(told({}, {late}), ElementsAre(StartsWith("gone was called 1 times, or not in")));
  Attachment drain = drained({10, 20}, 30);
  drain.gone_calls = 2;
  EXPECT_THAT(told({}, {drain}), ElementsAre(StartsWith("gone was called 2 times")));
}

}  // namespace
}  // namespace exclave::soak
