// A host may stop a reader anywhere for as long as it likes, and writers, too. What
// models/region_facts.pml says about that, with the code itself.
#include <gtest/gtest.h>

#include <utility>

#include "region/registry.hpp"
#include "support/books_fixture.hpp"
#include "support/sanitizers.hpp"
#include "support/stepped_call.hpp"

namespace exclave {
namespace {

using namespace testing_support;

constexpr std::uintptr_t kBase = 0x200000000000;
constexpr Extent kOne{kBase, kPageBytes};
constexpr Extent kTwo{kBase, 2 * kPageBytes};
constexpr Extent kWhole{kBase, 4 * kPageBytes};
constexpr Extent kUpper{kBase + 2 * kPageBytes, 2 * kPageBytes};
constexpr Extent kElsewhere{kBase + 8 * kPageBytes, kPageBytes};

class StoppedReaderTest : public BooksFixture {
 protected:
  void SetUp() override {
    BooksFixture::SetUp();
    if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
    registry_.open(port_.enclave(), 7);
    options_.role = Role::kMapping;
    // The first walk makes the pagemap's books.
    remove(insert(kTwo));
  }
  Region& create(Extent extent) {
    const Result<Region*> made = registry_.create(extent, options_, false);
    EXPECT_TRUE(made.ok());
    return **made;
  }
  Region& insert(Extent extent) {
    Region& region = create(extent);
    EXPECT_TRUE(registry_.insert(region).ok());
    return region;
  }
  void remove(Region& region) {
    registry_.remove(region);
    registry_.destroy(region);
  }

  // Instead of the question whether the reader is inside a call: the writer goes on.
  static bool close(const void* context) {
    std::atomic<std::uint64_t>& sequence =
        *static_cast<std::atomic<std::uint64_t>*>(const_cast<void*>(context));
    sequence.store(sequence.load() + 1);
    return false;
  }

  AttachOptions options_;
  Registry registry_{books_};
};

TEST_F(StoppedReaderTest, ARegionThatNeverStoodIsNotTold) {
  const SteppedCall stepper;
  bool more = true;
  std::uint64_t n = 1;
  for (; more && !HasFailure(); ++n) {
    Region* stands = &insert(kOne);
    Region* made = nullptr;
    Result<RegionInfo> told = Error::kNotFound;
    more = SteppedCall::stopped_at(
        n, [&] { told = registry_.query(kBase, 2 * kPageBytes); },
        [&] {
          // As when a host answers an mmap with somebody else's place: made, but never inserted.
          remove(*stands);
          made = &create(kTwo);
        });
    EXPECT_EQ(told.error(), Error::kNotFound) << "at " << n;
    more ? registry_.destroy(*made) : remove(*stands);
  }
  EXPECT_GT(n, 20u) << "the trap flag has no effect here";
}

TEST_F(StoppedReaderTest, HalvesOfTwoLivesOfABookAreNotTold) {
  const SteppedCall stepper;
  std::uint64_t stops = 0;
  // One page is told of by the short way, two, as long as only one stands, by the long one.
  for (const std::size_t asked : {kOne.size, kTwo.size}) {
    bool more = true;
    for (std::uint64_t first = 1; more && !HasFailure(); first += kStride) {
      bool again = true;
      for (std::uint64_t second = 1; again && !HasFailure(); second += kStride) {
        Region* book = &insert(kOne);
        const std::uint64_t old_id = book->region_id().value;
        int stop = 0;
        Result<RegionInfo> told = Error::kNotFound;
        more = SteppedCall::stopped_at(
            first, [&] { told = registry_.query(kBase, asked); },
            [&] {
              ++stop;
              if (stop == 1) {
                // The writer stops after the first word of BookStore::release.
                registry_.remove(*book);
                book->sequence.store(0);
                SteppedCall::stop_again(second);
              } else {
                // It goes on; and stops in the same place of the book's next life.
                registry_.destroy(*book);
                book = &insert(kTwo);
                registry_.remove(*book);
                book->sequence.store(0);
              }
            });
        again = stop == 2;
        stops += static_cast<std::uint64_t>(stop);
        if (told.ok()) {
          EXPECT_EQ(asked, kOne.size) << first << ", " << second;
          EXPECT_EQ(told->id.value, old_id) << first << ", " << second;
          EXPECT_EQ(told->extent, kOne) << first << ", " << second;
        }
        if (stop == 0) registry_.remove(*book);
        registry_.destroy(*book);
      }
    }
  }
  EXPECT_GT(stops, 200u) << "the trap flag has no effect here";
}

// A reader that meets an open region is no signal handler, and waits until it is closed.
TEST_F(StoppedReaderTest, WhoIsNotInsideAnyCallWaits) {
  Region& region = insert(kOne);
  region.sequence.store(region.sequence.load() + 1);
  const auto told = registry_.query(kBase, kPageBytes, &close, &region.sequence);
  EXPECT_TRUE(told.ok());
  remove(region);
}

// A page that is in one mapping or another at every moment, while they are cut and joined and their
// books go to regions elsewhere.
TEST_F(StoppedReaderTest, WhatStandsAllTheTimeIsToldWhereverItGoes) {
  const SteppedCall stepper;
  std::uint64_t stops = 0;
  for (const bool starts_cut : {false, true}) {
    bool more = true;
    for (std::uint64_t first = 1; more && !HasFailure(); first += 2 * kStride) {
      bool again = true;
      for (std::uint64_t second = 1; again && !HasFailure(); second += 3 * kStride) {
        Region& lower = insert(kWhole);
        Region* elsewhere = nullptr;
        bool is_cut = false;
        const auto change = [&] {
          const LockGuard guard(registry_.lock());
          if (is_cut) {
            registry_.join_locked(lower);
          } else {
            EXPECT_TRUE(registry_.isolate_locked(lower, kUpper).ok());
          }
          is_cut = !is_cut;
        };
        if (starts_cut) change();
        int stop = 0;
        Result<RegionInfo> told = Error::kBusy;
        more = SteppedCall::stopped_at(
            first, [&] { told = registry_.query(kUpper.base, kPageBytes); },
            [&] {
              // So the upper part gets the same book again.
              if (elsewhere != nullptr) remove(*std::exchange(elsewhere, nullptr));
              change();
              if (!is_cut) elsewhere = &insert(kElsewhere);
              if (++stop == 1) SteppedCall::stop_again(second);
            });
        again = stop == 2;
        stops += static_cast<std::uint64_t>(stop);
        EXPECT_EQ(told.error(), Error::kNone) << first << ", " << second;
        if (told.ok()) {
          EXPECT_TRUE(told->extent == kWhole || told->extent == kUpper) << first << ", " << second;
        }
        if (is_cut) change();
        if (elsewhere != nullptr) remove(*elsewhere);
        remove(lower);
      }
    }
  }
  EXPECT_GT(stops, 50u) << "the trap flag has no effect here";
}

// The reader found the book in the pagemap, its facts are those of a region elsewhere, and when he
// looks again it is back. Only the sequence tells.
TEST_F(StoppedReaderTest, ABookThatIsBackWhereItWasIsReadAgain) {
  const SteppedCall stepper;
  std::uint64_t stops = 0;
  bool more = true;
  for (std::uint64_t first = 1; more && !HasFailure(); first += kStride) {
    bool again = true;
    for (std::uint64_t second = 1; again && !HasFailure() && second < 20 * kStride;
         second += 3 * kStride) {
      Region& lower = insert(kWhole);
      const auto cut = [&]() -> Region& {
        const LockGuard guard(registry_.lock());
        return **registry_.isolate_locked(lower, kUpper);
      };
      const auto join = [&] {
        const LockGuard guard(registry_.lock());
        registry_.join_locked(lower);
      };
      Region& book = cut();
      Region* elsewhere = nullptr;
      // Open at first, so that the short way is not taken.
      book.sequence.store(book.sequence.load() + 1);
      int stop = 0;
      Result<RegionInfo> told = Error::kBusy;
      more = SteppedCall::stopped_at(
          first, [&] { told = registry_.query(kUpper.base, kPageBytes, &close, &book.sequence); },
          [&] {
            if (book.sequence.load() % 2 == 0) return;  // not closed yet
            if (++stop == 1) {
              join();
              elsewhere = &insert(kElsewhere);
              EXPECT_EQ(elsewhere, &book);
              SteppedCall::stop_again(second);
            } else {
              remove(*std::exchange(elsewhere, nullptr));
              EXPECT_EQ(&cut(), &book);
            }
          });
      again = stop == 2;
      stops += static_cast<std::uint64_t>(stop);
      EXPECT_EQ(told.error(), Error::kNone) << first << ", " << second;
      if (elsewhere != nullptr) {
        remove(*elsewhere);
      } else {
        join();
      }
      remove(lower);
    }
  }
  EXPECT_GT(stops, 50u) << "the trap flag has no effect here";
}

}  // namespace
}  // namespace exclave
