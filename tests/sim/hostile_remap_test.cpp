// THREATS 1 to 20, 36, 40, 57, 59 and 63 for mremap and for the calls that walk over mappings: the
// host lies, refuses, stalls and calls back while one of them is under way.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <random>
#include <thread>
#include <tuple>
#include <vector>

#include "support/hostile_memory_calls_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;
using sim::HostCall;
using sim::Lie;

constexpr int kTo = MREMAP_MAYMOVE | MREMAP_FIXED;

bool is_known(std::intptr_t answer) {
  return answer == -EFAULT || kKnownErrnos.contains(static_cast<int>(answer));
}

// Pages 0 to 3 are one mapping, 4 and 5 are free ground, 6 and 7 may only be read.
class RemapOnHostileHost : public MemoryCallsOnHostileHost {
 protected:
  void SetUp() override {
    MemoryCallsOnHostileHost::SetUp();
    ASSERT_EQ(calls_->munmap(mapping(4), 2 * kPageBytes), 0);
    ASSERT_EQ(calls_->mprotect(mapping(6), 2 * kPageBytes, PROT_READ), 0);
    host_->set_overlap_target({first_.address(), kMiB});
  }

  enum class Way { kGrow, kMove, kKeep, kSecondView, kAnywhere };
  std::intptr_t remap(Way way) {
    const auto call = [this](std::size_t page, std::size_t old_pages, std::size_t new_pages,
                             int flags, std::size_t to) {
      return calls_->mremap(mapping(page), old_pages * kPageBytes, new_pages * kPageBytes, flags,
                            mapping(to));
    };
    switch (way) {
      case Way::kGrow:
        return call(2, 2, 3, 0, 0);
      case Way::kMove:
        return call(2, 2, 3, kTo, 5);
      case Way::kKeep:
        return call(2, 2, 2, kTo | MREMAP_DONTUNMAP, 6);
      case Way::kSecondView:
        return call(2, 0, 3, kTo, 5);
      case Way::kAnywhere:
        return call(1, 2, 3, MREMAP_MAYMOVE, 0);
    }
    return 0;
  }
  // Where it comes to stand, once the host was asked.
  std::uintptr_t place_of(Way way) const {
    switch (way) {
      case Way::kGrow:
        return mapping(2);
      case Way::kKeep:
        return mapping(6);
      case Way::kAnywhere:
        return last_reply(HostCall::kMap).address;
      default:
        return mapping(5);
    }
  }
  void expect_success(Way way, std::intptr_t answer) {
    const std::uintptr_t at = place_of(way);
    EXPECT_EQ(answer, static_cast<std::intptr_t>(at));
    const std::size_t bytes = (way == Way::kKeep ? 2 : 3) * kPageBytes;
    EXPECT_TRUE(allocator_->validate(at, bytes, Protection::kReadWrite).ok());
    const Extent place{at, bytes};
    EXPECT_FALSE(place.overlaps(host_->enclave()));
    EXPECT_EQ(is_mapped(2), way != Way::kMove && way != Way::kAnywhere) << "the old place";
    EXPECT_TRUE(is_mapped(0));
    EXPECT_TRUE(allocator_->validate_books());
  }
  void expect_next_calls_work() {
    const std::intptr_t fresh = map(kPageBytes);
    ASSERT_GT(fresh, 0);
    const std::intptr_t moved = calls_->mremap(static_cast<std::uintptr_t>(fresh), kPageBytes,
                                               2 * kPageBytes, MREMAP_MAYMOVE, 0);
    ASSERT_GT(moved, 0);
    EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(moved), 2 * kPageBytes), 0);
  }
};

class EveryLieOfMremap : public RemapOnHostileHost,
                         public testing::WithParamInterface<std::tuple<Lie, int>> {};

TEST_P(EveryLieOfMremap, IsRefusedAndNothingChanges) {
  const Lie lie = std::get<0>(GetParam());
  const Way way = static_cast<Way>(std::get<1>(GetParam()));
  leftovers_expected_ = lie == Lie::kFalseSuccess || lie == Lie::kFalseFailure;
  const auto before = books();
  const auto counted = state();
  for (int round = 0; round < 8; ++round) {
    if (round == 4) host_->set_overlap_target({mapping(), 4 * kPageBytes});
    const std::uint64_t told = lies_told();
    host_->script(HostCall::kRemap, {lie});
    const std::intptr_t answer = remap(way);
    const HostReply reply = last_reply(HostCall::kRemap);
    ASSERT_TRUE(reply.error != -1 || lie == Lie::kBadErrno) << "the host was not asked";
    if (reply.error == 0 && reply.address == place_of(way)) {
      // The very answer that an honest host gives: whether it did so cannot be seen.
      ASSERT_TRUE(lie == Lie::kLate || lie == Lie::kFalseSuccess || lie == Lie::kSameTwice ||
                  lie == Lie::kOverlapExact || lie == Lie::kOverlapNested ||
                  lie == Lie::kOverlapPartly)
          << name_of(lie);
      leftovers_expected_ = true;
      expect_success(way, answer);
      EXPECT_EQ(lies_told(), told);
      break;
    }
    if (lie == Lie::kLate) {
      // The truth: there may be no room.
      EXPECT_TRUE(answer == -ENOMEM && way == Way::kGrow) << answer;
    } else if (reply.error == 0) {
      EXPECT_EQ(answer, -EPERM) << name_of(lie);
      EXPECT_EQ(lies_told(), told + 1);
    } else {
      EXPECT_EQ(lies_told(), told);
      const bool documented = reply.error == ENOMEM || reply.error == EAGAIN;
      EXPECT_EQ(answer, documented ? -reply.error : -EIO) << reply.error;
    }
    EXPECT_EQ(books(), before) << name_of(lie);
    EXPECT_EQ(state(), counted);
  }
  expect_next_calls_work();
}
std::string lie_and_way(const testing::TestParamInfo<std::tuple<Lie, int>>& param) {
  constexpr const char* kWays[] = {"Grow", "Move", "Keep", "SecondView", "Anywhere"};
  return std::string(name_of(std::get<0>(param.param))) + "_" + kWays[std::get<1>(param.param)];
}
INSTANTIATE_TEST_SUITE_P(Lies, EveryLieOfMremap,
                         testing::Combine(testing::ValuesIn(lies_about(HostCall::kRemap)),
                                          testing::Range(0, 5)),
                         lie_and_way);

class EveryLie : public RemapOnHostileHost, public testing::WithParamInterface<Lie> {};

// The place is asked for with host_map before anything moves.
class EveryLieOfTheLandingPlace : public EveryLie {};
TEST_P(EveryLieOfTheLandingPlace, IsRefusedAndNothingMoves) {
  const Lie lie = GetParam();
  const bool visible = can_be_seen(lie) || lie == Lie::kHostStack;  // its window is forbidden
  const auto before = books();
  for (const Way way : {Way::kAnywhere, Way::kMove}) {
    if (lie == Lie::kOtherAddress && way == Way::kAnywhere) continue;  // any is as good
    for (int round = 0; round < 4; ++round) {
      host_->set_overlap_target(round % 2 == 0 ? Extent{first_.address(), kMiB}
                                               : Extent{mapping(), 4 * kPageBytes});
      const std::uint64_t told = lies_told();
      const std::uint64_t asked = host_->calls(HostCall::kRemap);
      const std::uint64_t unmapped = host_->calls(HostCall::kUnmap);
      host_->script(HostCall::kMap, {lie});
      const std::intptr_t answer = remap(way);
      const HostReply reply = last_reply(HostCall::kMap);
      if (visible) {
        const bool refused = reply.error != 0;
        EXPECT_EQ(answer, refused ? (reply.error == ENOMEM ? -ENOMEM : -EIO) : -EPERM)
            << name_of(lie);
        EXPECT_EQ(lies_told(), told + (refused ? 0 : 1));
        EXPECT_EQ(host_->calls(HostCall::kRemap), asked) << "nothing moves to such a place";
        EXPECT_EQ(host_->calls(HostCall::kUnmap), unmapped) << "it is not ours to unmap";
      } else if (answer > 0) {
        leftovers_expected_ = true;
        expect_success(way, answer);
        return;
      } else {
        EXPECT_TRUE(is_known(answer)) << answer;
      }
      EXPECT_EQ(books(), before) << name_of(lie);
    }
  }
  expect_next_calls_work();
}
INSTANTIATE_TEST_SUITE_P(Lies, EveryLieOfTheLandingPlace,
                         testing::ValuesIn(lies_about(HostCall::kMap)), lie_name);

class EveryLieOfTheCleaning : public EveryLie {};
TEST_P(EveryLieOfTheCleaning, LeavesTheBooksRight) {
  const Lie lie = GetParam();
  const bool said_no = lie == Lie::kRefuse || lie == Lie::kBadErrno || lie == Lie::kFalseFailure;
  leftovers_expected_ = true;
  const auto before = books();
  // What filled the gap is to be unmapped, after the move was refused.
  for (const Way way : {Way::kMove, Way::kAnywhere}) {
    host_->script(HostCall::kRemap, {Lie::kNull});
    host_->script(HostCall::kUnmap, {lie});
    EXPECT_EQ(remap(way), -EPERM);
    EXPECT_EQ(books(), before);
  }
  // What is cut off.
  host_->script(HostCall::kUnmap, {lie});
  const std::intptr_t answer = calls_->mremap(mapping(), 4 * kPageBytes, kPageBytes, 0, 0);
  if (said_no) {
    EXPECT_TRUE(is_known(answer) && answer < 0) << answer;
    EXPECT_EQ(books(), before);
  } else {
    EXPECT_EQ(answer, mapping_);
    EXPECT_TRUE(is_mapped(0) && !is_mapped(1) && !is_mapped(3));
  }
  expect_next_calls_work();
}
INSTANTIATE_TEST_SUITE_P(Lies, EveryLieOfTheCleaning,
                         testing::ValuesIn(lies_about(HostCall::kUnmap)), lie_name);

// ---- madvise, msync, mlock, mincore ----

class EveryLieOfAdvice : public EveryLie {};
TEST_P(EveryLieOfAdvice, ChangesNoBook) {
  const Lie lie = GetParam();
  const auto before = books();
  const auto counted = state();
  const std::uintptr_t at = mapping(1);
  const std::size_t bytes = 2 * kPageBytes;
  struct Call {
    const char* name;
    int answer;
    bool may_say_again;  // is EAGAIN documented?
  };
  for (int round = 0; round < 4; ++round) {
    const auto said = [&](auto call) {
      host_->script(HostCall::kAdvise, {lie});
      return call();
    };
    const Call calls[] = {
        {"madvise", said([&] { return calls_->madvise(at, bytes, MADV_DONTNEED); }), true},
        {"populate", said([&] { return calls_->madvise(at, bytes, MADV_POPULATE_READ); }), true},
        {"msync", said([&] { return calls_->msync(at, bytes, MS_ASYNC); }), false},
        {"mlock", said([&] { return calls_->mlock(at, bytes); }), true},
        {"munlock", said([&] { return calls_->munlock(at, bytes); }), true},
        {"munlockall", said([&] { return calls_->munlockall(); }), true},
    };
    for (const Call& call : calls) {
      SCOPED_TRACE(call.name);
      switch (lie) {
        case Lie::kRefuse:
          EXPECT_EQ(call.answer, -ENOMEM);
          break;
        case Lie::kBadErrno:
          EXPECT_EQ(call.answer, -EIO);
          break;
        case Lie::kFalseFailure:
          EXPECT_EQ(call.answer, call.may_say_again ? -EAGAIN : -EIO);
          break;
        default:
          EXPECT_EQ(call.answer, 0);
      }
    }
    EXPECT_EQ(books(), before);
    EXPECT_EQ(state(), counted);
  }
  EXPECT_EQ(calls_->madvise(at, bytes, MADV_DONTNEED), 0) << "the next call must work";
}
INSTANTIATE_TEST_SUITE_P(Lies, EveryLieOfAdvice, testing::ValuesIn(lies_about(HostCall::kAdvise)),
                         lie_name);

class EveryLieOfMincore : public EveryLie {};
TEST_P(EveryLieOfMincore, IsABitOfEachPageAndNothingElse) {
  const Lie lie = GetParam();
  const auto before = books();
  for (const unsigned filling : {0x00u, 0xa5u, 0xffu}) {
    unsigned char bytes[8];
    std::memset(bytes, static_cast<int>(filling), sizeof bytes);
    host_->script(HostCall::kResident, {lie});
    const int answer = calls_->mincore(mapping(1), 3 * kPageBytes, bytes + 2);
    switch (lie) {
      case Lie::kRefuse:
        EXPECT_EQ(answer, -ENOMEM);
        break;
      case Lie::kBadErrno:
        EXPECT_EQ(answer, -EIO);
        break;
      case Lie::kFalseFailure:
        EXPECT_EQ(answer, -EAGAIN);
        break;
      default:
        EXPECT_EQ(answer, 0);
        for (std::size_t i = 2; i < 5; ++i) EXPECT_LE(bytes[i], 1) << name_of(lie);
    }
    for (const std::size_t i : {0u, 1u, 5u, 6u, 7u}) EXPECT_EQ(bytes[i], filling) << i;
    EXPECT_EQ(books(), before);
  }
  unsigned char byte = 2;
  EXPECT_EQ(calls_->mincore(mapping(), kPageBytes, &byte), 0) << "the next call must work";
  EXPECT_LE(byte, 1);
}
INSTANTIATE_TEST_SUITE_P(Lies, EveryLieOfMincore,
                         testing::ValuesIn(lies_about(HostCall::kResident)), lie_name);

// ---- What comes in between ----

using Threat13_MremapAnsweredElsewhere = RemapOnHostileHost;
TEST_F(Threat13_MremapAnsweredElsewhere, IsRefusedAndNeverReturned) {
  const auto before = books();
  for (const Way way : {Way::kGrow, Way::kMove, Way::kKeep, Way::kSecondView, Way::kAnywhere}) {
    const std::uint64_t told = lies_told();
    host_->script(HostCall::kRemap, {Lie::kOtherAddress});
    EXPECT_EQ(remap(way), -EPERM);
    EXPECT_EQ(lies_told(), told + 1);
    EXPECT_EQ(books(), before);
  }
}

using Threat36_HostFailsInAMove = RemapOnHostileHost;
TEST_F(Threat36_HostFailsInAMove, AtEachOfItsCalls) {
  // Two gaps to fill, then the move: the place is pages 3 to 7 of a second mapping.
  const auto other = static_cast<std::uintptr_t>(map(8 * kPageBytes));
  ASSERT_EQ(calls_->munmap(other + 3 * kPageBytes, kPageBytes), 0);
  ASSERT_EQ(calls_->munmap(other + 5 * kPageBytes, kPageBytes), 0);
  const auto before = books();
  for (const HostCall call : {HostCall::kMap, HostCall::kRemap}) {
    for (std::uint64_t n = 1; n <= (call == HostCall::kMap ? 2 : 1); ++n) {
      host_->fail_nth(call, n);
      EXPECT_EQ(
          calls_->mremap(mapping(), 4 * kPageBytes, 5 * kPageBytes, kTo, other + 3 * kPageBytes),
          -ENOMEM)
          << name_of(call) << " " << n;
      EXPECT_EQ(books(), before);
      EXPECT_FALSE(host_->handed_out().empty());
    }
  }
  EXPECT_EQ(calls_->mremap(mapping(), 4 * kPageBytes, 5 * kPageBytes, kTo, other + 3 * kPageBytes),
            static_cast<std::intptr_t>(other + 3 * kPageBytes));
  EXPECT_FALSE(is_mapped(0));
}

using Threat40_MappingLandsWhereOneLeaves = RemapOnHostileHost;
TEST_F(Threat40_MappingLandsWhereOneLeaves, BooksAndAnswersAgree) {
  unsigned calls = 0;
  std::intptr_t newcomer = 0;
  host_->during_calls([&](HostCall call) {
    if (call != HostCall::kRemap || ++calls != 1) return;
    EXPECT_FALSE(is_mapped(2)) << "a mapping on its way is in no book";
    EXPECT_FALSE(is_mapped(5)) << "and nothing is promised of its new place";
    EXPECT_EQ(calls_->munmap(mapping(5), kPageBytes), -EBUSY);
    EXPECT_EQ(map(kPageBytes, mapping(6), MAP_FIXED), -EBUSY);
    newcomer = map(kPageBytes, mapping(2), MAP_FIXED_NOREPLACE);
  });
  const std::intptr_t answer = remap(Way::kMove);
  host_->during_calls(nullptr);
  EXPECT_EQ(answer, static_cast<std::intptr_t>(mapping(5)));
  EXPECT_EQ(newcomer, -EEXIST) << "an honest host has not moved it yet";
  EXPECT_FALSE(is_mapped(2));
  EXPECT_TRUE(allocator_->validate_books());
}

// The host gives the old place away before it says that the move failed.
TEST_F(Threat40_MappingLandsWhereOneLeaves, WhatStandsThereStays) {
  leftovers_expected_ = true;
  host_->tolerate_overlaps(true);
  unsigned calls = 0;
  host_->during_calls([&](HostCall call) {
    if (call != HostCall::kRemap || ++calls != 1) return;
    host_->set_overlap_target({mapping(2), kPageBytes});
    host_->script(HostCall::kMap, {Lie::kOverlapExact});
    EXPECT_EQ(map(kPageBytes), static_cast<std::intptr_t>(mapping(2)));
  });
  host_->script(HostCall::kRemap, {Lie::kRefuse});
  EXPECT_EQ(remap(Way::kMove), -ENOMEM);
  host_->during_calls(nullptr);
  EXPECT_TRUE(is_mapped(2)) << "the newcomer";
  EXPECT_FALSE(is_mapped(3)) << "the mapping that could not come back is gone";
  EXPECT_TRUE(allocator_->validate_books());
}

using Threat57_CallbackDuringRemap = RemapOnHostileHost;
TEST_F(Threat57_CallbackDuringRemap, NestedCallsNeverHang) {
  std::set<HostCall> met;
  unsigned char bytes[8] = {};
  // Each on a mapping of its own, for what a nested call does to it is any of many things.
  const auto call_outer = [&](auto outer) {
    const auto at = static_cast<std::uintptr_t>(map(4 * kPageBytes));
    bool nested = false;
    host_->during_calls([&, at](HostCall call) {
      if (nested) return;
      nested = true;
      met.insert(call);
      // Any answer is right, as long as there is one and the books stay right.
      for (const std::size_t page : {0u, 2u}) {
        const std::uintptr_t there = at + page * kPageBytes;
        (void)calls_->madvise(there, 2 * kPageBytes, MADV_DONTNEED);
        (void)calls_->mincore(there, kPageBytes, bytes);
        (void)calls_->mremap(there, kPageBytes, 2 * kPageBytes, MREMAP_MAYMOVE, 0);
        (void)calls_->mremap(there, kPageBytes, kPageBytes, kTo, mapping(5));
        (void)calls_->mprotect(there, 2 * kPageBytes, PROT_READ);
        (void)calls_->munmap(there, kPageBytes);
      }
      (void)calls_->munlockall();
      const auto block = allocator_->allocate(100);
      EXPECT_TRUE(block.ok() && allocator_->deallocate(*block).ok());
      nested = false;
    });
    const std::intptr_t answer = outer(at);
    host_->during_calls(nullptr);
    EXPECT_TRUE(answer >= 0 || is_known(answer)) << answer;
    EXPECT_TRUE(allocator_->validate_books());
  };
  // In place, and before a nested call has mapped anything there: the host is asked once, to remap.
  call_outer([&](std::uintptr_t) {
    return calls_->mremap(mapping(2), 2 * kPageBytes, 3 * kPageBytes, 0, 0);
  });
  call_outer([&](std::uintptr_t at) { return calls_->madvise(at, 4 * kPageBytes, MADV_COLD); });
  call_outer([&](std::uintptr_t at) { return calls_->mincore(at, 4 * kPageBytes, bytes); });
  call_outer([&](std::uintptr_t at) {
    return calls_->mremap(at, 4 * kPageBytes, 5 * kPageBytes, kTo, mapping(3));
  });
  call_outer([&](std::uintptr_t at) {
    return calls_->mremap(at, 2 * kPageBytes, 2 * kPageBytes, kTo | MREMAP_DONTUNMAP, mapping(4));
  });
  call_outer(
      [&](std::uintptr_t at) { return calls_->mremap(at, 0, 2 * kPageBytes, MREMAP_MAYMOVE, 0); });
  EXPECT_THAT(met, testing::IsSupersetOf(
                       {HostCall::kMap, HostCall::kRemap, HostCall::kAdvise, HostCall::kResident}));
}

using Threat59_HostStallsInAMove = RemapOnHostileHost;
TEST_F(Threat59_HostStallsInAMove, OthersGoOn) {
  host_->hold(HostCall::kRemap);
  std::atomic<std::intptr_t> answer{0};
  // To where no gap is, for another thread's first page may come to lie in one.
  std::thread stuck([&] {
    answer = calls_->mremap(mapping(2), 2 * kPageBytes, 2 * kPageBytes, kTo, mapping(6));
  });
  ASSERT_TRUE(host_->wait_until_held(1));
  EXPECT_FALSE(is_mapped(2));
  EXPECT_EQ(calls_->mprotect(mapping(0), 2 * kPageBytes, PROT_READ), 0);
  const std::intptr_t other = map(4 * kPageBytes);
  ASSERT_GT(other, 0);
  const std::intptr_t moved = calls_->mremap(static_cast<std::uintptr_t>(other), 2 * kPageBytes,
                                             3 * kPageBytes, MREMAP_MAYMOVE, 0);
  EXPECT_GT(moved, 0) << "others move, too";
  const auto block = allocator_->allocate(100);
  ASSERT_TRUE(block.ok());
  EXPECT_TRUE(allocator_->deallocate(*block).ok());
  EXPECT_EQ(answer, 0);
  host_->let_go();
  stuck.join();
  EXPECT_EQ(answer, static_cast<std::intptr_t>(mapping(6)));
  EXPECT_TRUE(allocator_->validate_books());
}

// ---- All of it at once ----

class RandomRemaps : public CampaignOnHostileHost {
 protected:
  void one_thread(std::uint64_t seed) override {
    std::mt19937_64 random(seed);
    std::vector<Extent> mine;
    const auto pages = [&](std::size_t most) { return (1 + random() % most) * kPageBytes; };
    for (int step = 0; step < 600; ++step) {
      const std::size_t i = mine.empty() ? 0 : random() % mine.size();
      std::intptr_t answer = 0;
      switch (mine.empty() ? 0 : random() % 10) {
        case 0:
        case 1: {
          const std::size_t bytes = pages(16);
          answer = map(bytes);
          if (answer > 0) mine.push_back({static_cast<std::uintptr_t>(answer), bytes});
          break;
        }
        case 2: {
          answer = calls_->munmap(mine[i].base, mine[i].size);
          if (answer == 0) {
            mine[i] = mine.back();
            mine.pop_back();
          }
          break;
        }
        case 3:
          answer =
              calls_->mprotect(mine[i].base, mine[i].size, random() % 2 == 0 ? PROT_READ : kRw);
          break;
        case 4:
          answer = calls_->madvise(mine[i].base, mine[i].size,
                                   random() % 2 == 0 ? MADV_DONTNEED : MADV_WILLNEED);
          break;
        case 5: {
          std::vector<unsigned char> bytes(mine[i].size / kPageBytes, 0xff);
          answer = calls_->mincore(mine[i].base, mine[i].size, bytes.data());
          if (answer == 0) {
            for (const unsigned char byte : bytes) EXPECT_LE(byte, 1);
          }
          break;
        }
        default: {
          const std::size_t bytes = pages(16);
          // Onto another of this thread's, or wherever there is room.
          const Extent other = mine[random() % mine.size()];
          const bool fixed = random() % 3 == 0;
          answer = calls_->mremap(mine[i].base, mine[i].size, bytes,
                                  fixed ? kTo : static_cast<int>(random() % 2), other.base);
          if (answer >= 0) mine[i] = {static_cast<std::uintptr_t>(answer), bytes};
        }
      }
      if (answer > 0) {
        EXPECT_FALSE(host_->enclave().contains(static_cast<std::uintptr_t>(answer)));
      } else {
        ASSERT_TRUE(answer == 0 || is_known(answer)) << answer;
      }
      if (step % 32 == 0) {
        ASSERT_TRUE(allocator_->validate_books());
      }
    }
  }
};

TEST_P(RandomRemaps, LiesAllTheTime) {
  host_->set_delay(std::chrono::microseconds(50));
  lie_all_the_time();
}
INSTANTIATE_TEST_SUITE_P(Seeds, RandomRemaps, kCampaigns, campaign_name);

}  // namespace
}  // namespace exclave
