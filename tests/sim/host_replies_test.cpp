// THREATS 1 to 20, 57, 59 and 63 for growth: what the host answers is refused, or legal, and
// nothing in between.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <random>
#include <thread>

#include "support/hostile_fixture.hpp"

namespace exclave {
namespace {

using sim::HostCall;
using sim::HostileHost;
using sim::Lie;
using testing_support::HostileHostFixture;
using testing_support::kMiB;
using testing_support::LiveBlocks;
using testing_support::small_growths;

bool is_refusal_of_growth(Error error) {
  return error == Error::kHostLied || error == Error::kHostRefused || error == Error::kOutOfMemory;
}

class Growth : public HostileHostFixture {
 protected:
  void SetUp() override {
    HostileHostFixture::SetUp();
    ASSERT_NO_FATAL_FAILURE(forbid_windows());
    // One honest region, for lies about it.
    const auto first = allocator_->allocate(1 * kMiB);
    ASSERT_TRUE(first.ok()) << error_text(first.error());
    first_ = *first;
  }

  // Every answer is this lie; nothing may change, and the next honest growth must work.
  void expect_refused(Lie lie, std::size_t bytes = 8 * kMiB) {
    const auto before = state();
    const std::uint64_t lies_before = allocator_->statistics().lies_refused;
    for (int round = 0; round < 20; ++round) {
      host_->lie_at_random(100, {lie});
      const auto block = allocator_->allocate(bytes);
      host_->lie_at_random(0);
      ASSERT_FALSE(block.ok()) << name_of(lie) << " was believed";
      EXPECT_TRUE(is_refusal_of_growth(block.error())) << error_text(block.error());
      EXPECT_EQ(state(), before);
      ASSERT_TRUE(allocator_->validate_books());
    }
    EXPECT_GT(host_->lies(), 0u) << "the host was not even asked";
    if (lie != Lie::kRefuse && lie != Lie::kBadErrno && lie != Lie::kErrorWithAddress) {
      EXPECT_GT(allocator_->statistics().lies_refused, lies_before);
    }
    const auto honest = allocator_->allocate(bytes);
    ASSERT_TRUE(honest.ok()) << error_text(honest.error());
    EXPECT_TRUE(allocator_->deallocate(*honest).ok());
    EXPECT_TRUE(allocator_->deallocate(first_).ok());
  }

  // The lie cannot be seen, or is none. The block is not touched: its pages may not be there.
  void expect_accepted(Lie lie, std::size_t bytes = 8 * kMiB) {
    LiveBlocks live(host_->enclave());
    live.add(first_, kMiB);
    host_->lie_at_random(100, {lie});
    const auto block = allocator_->allocate(bytes);
    host_->lie_at_random(0);
    ASSERT_TRUE(block.ok()) << name_of(lie) << ": " << error_text(block.error());
    live.add(*block, bytes);
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_EQ(allocator_->statistics().lies_refused, 0u);
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
    EXPECT_TRUE(allocator_->deallocate(first_).ok());
    allocator_->trim();
    EXPECT_TRUE(allocator_->validate_books());
  }

  untrusted_bytes first_;
};

using Threat01_Null = Growth;
TEST_F(Threat01_Null, NullIsRefused) {
  expect_refused(Lie::kNull);
}
TEST_F(Threat01_Null, MapFailedIsRefused) {
  expect_refused(Lie::kMapFailed);
}
TEST_F(Threat01_Null, SmallErrnoIsRefused) {
  expect_refused(Lie::kSmallErrno);
}

using Threat02_InsideEnclave = Growth;
TEST_F(Threat02_InsideEnclave, GrowthIsRefused) {
  expect_refused(Lie::kInside);
}
TEST_F(Threat02_InsideEnclave, SmallBlocksAreRefused) {
  const auto before = state();
  host_->lie_at_random(100, {Lie::kInside});
  // Until the honest region is full, small blocks come from it.
  std::vector<untrusted_bytes> blocks;
  for (;;) {
    const auto block = allocator_->allocate(1024);
    if (!block.ok()) {
      EXPECT_TRUE(is_refusal_of_growth(block.error()));
      break;
    }
    EXPECT_FALSE(host_->enclave().contains(block->address()));
    blocks.push_back(*block);
    ASSERT_LT(blocks.size(), 100000u);
  }
  for (const auto block : blocks) EXPECT_TRUE(allocator_->deallocate(block).ok());
  EXPECT_EQ(state()[1], before[1]);
  host_->lie_at_random(0);
  EXPECT_TRUE(allocator_->deallocate(first_).ok());
}

using Threat03_EndsInside = Growth;
TEST_F(Threat03_EndsInside, GrowthIsRefused) {
  expect_refused(Lie::kEndsInside);
}
using Threat04_StartsInside = Growth;
TEST_F(Threat04_StartsInside, GrowthIsRefused) {
  expect_refused(Lie::kStartsInside);
}
using Threat05_EnclosesEnclave = Growth;
TEST_F(Threat05_EnclosesEnclave, GrowthIsRefused) {
  expect_refused(Lie::kEncloses, host_->enclave().size + 64 * kMiB);
}

using Threat06_AdjacentToEnclave = Growth;
TEST_F(Threat06_AdjacentToEnclave, EndingAtItsBaseIsAccepted) {
  expect_accepted(Lie::kEndsAtEnclave);
  bool adjacent = false;
  for (const auto& e : host_->events()) {
    adjacent = adjacent ||
               (e.call == HostCall::kReserve && e.reply.address + e.bytes == host_->enclave().base);
  }
  EXPECT_TRUE(adjacent);
}
TEST_F(Threat06_AdjacentToEnclave, StartingAtItsTopIsAccepted) {
  expect_accepted(Lie::kStartsAtEnclaveEnd);
  bool adjacent = false;
  for (const auto& e : host_->events()) {
    adjacent =
        adjacent || (e.call == HostCall::kReserve && e.reply.address == host_->enclave().end());
  }
  EXPECT_TRUE(adjacent);
}

using Threat07_Wraps = Growth;
TEST_F(Threat07_Wraps, GrowthIsRefused) {
  expect_refused(Lie::kWraps);
}
using Threat08_EndsAtTopOfAddressSpace = Growth;
TEST_F(Threat08_EndsAtTopOfAddressSpace, GrowthIsRefused) {
  expect_refused(Lie::kEndsAtTop);
}
using Threat09_NonCanonical = Growth;
TEST_F(Threat09_NonCanonical, GrowthIsRefused) {
  expect_refused(Lie::kNonCanonical);
}
TEST_F(Threat09_NonCanonical, KernelHalfIsRefused) {
  expect_refused(Lie::kKernelHalf);
}
using Threat10_Unaligned = Growth;
TEST_F(Threat10_Unaligned, GrowthIsRefused) {
  expect_refused(Lie::kUnaligned);
}
using Threat11_UnderAligned = Growth;
TEST_F(Threat11_UnderAligned, GrowthIsRefused) {
  expect_refused(Lie::kUnderAligned);
}
TEST_F(Threat11_UnderAligned, AlsoWhenTheCallerAsksForMuch) {
  host_->lie_at_random(100, {Lie::kUnderAligned});
  const auto block = allocator_->allocate(kMiB, 64 * kMiB);
  ASSERT_FALSE(block.ok());
  EXPECT_TRUE(is_refusal_of_growth(block.error()));
  host_->lie_at_random(0);
  const auto honest = allocator_->allocate(kMiB, 64 * kMiB);
  ASSERT_TRUE(honest.ok());
  EXPECT_EQ(honest->address() % (64 * kMiB), 0u);
  EXPECT_TRUE(allocator_->deallocate(*honest).ok());
  EXPECT_TRUE(allocator_->deallocate(first_).ok());
}

using Threat12_ShorterThanAsked = Growth;
TEST_F(Threat12_ShorterThanAsked, TheBooksSurviveMissingPages) {
  expect_accepted(Lie::kShort);
}

using Threat14_OverlapsKnownRegion = Growth;
TEST_F(Threat14_OverlapsKnownRegion, ExactlyIsRefused) {
  expect_refused(Lie::kOverlapExact);
}
TEST_F(Threat14_OverlapsKnownRegion, NestedIsRefused) {
  expect_refused(Lie::kOverlapNested);
}
TEST_F(Threat14_OverlapsKnownRegion, PartlyIsRefused) {
  expect_refused(Lie::kOverlapPartly);
}
TEST_F(Threat14_OverlapsKnownRegion, AttachedOnesToo) {
  for (const Role role : {Role::kPool, Role::kMapping}) {
    const std::size_t bytes = 32 * kMiB;
    auto* const memory =
        mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    const Extent extent{reinterpret_cast<std::uintptr_t>(memory), bytes};
    AttachOptions options;
    options.role = role;
    ASSERT_TRUE(allocator_->attach(extent, options).ok());
    host_->set_overlap_target(extent);
    const auto before = state();
    for (const Lie lie : {Lie::kOverlapExact, Lie::kOverlapNested, Lie::kOverlapPartly}) {
      host_->lie_at_random(100, {lie});
      const auto block = allocator_->allocate(8 * kMiB);
      host_->lie_at_random(0);
      EXPECT_FALSE(block.ok()) << name_of(lie);
      EXPECT_EQ(state(), before);
    }
    EXPECT_TRUE(allocator_->detach(extent).ok());
    munmap(memory, bytes);
  }
  EXPECT_TRUE(allocator_->deallocate(first_).ok());
}

using Threat15_SameRangeTwice = Growth;
TEST_F(Threat15_SameRangeTwice, GrowthIsRefused) {
  expect_refused(Lie::kSameTwice);
}

using Threat16_Alias = Growth;
TEST_F(Threat16_Alias, TheBooksSurviveAliases) {
  host_->lie_at_random(100, {Lie::kAlias});
  LiveBlocks live(host_->enclave());
  for (int i = 0; i < 2000; ++i) {
    const auto block = allocator_->allocate_zeroed(3000);
    ASSERT_TRUE(block.ok());
    live.add(*block, 3000);
    // Each write goes into all other blocks, too.
    std::fill_n(static_cast<volatile char*>(block->unsafe_raw()), 3000, static_cast<char>(i));
  }
  EXPECT_TRUE(allocator_->validate_books());
  while (!live.empty()) EXPECT_TRUE(allocator_->deallocate(live.take(7)).ok());
  EXPECT_TRUE(allocator_->deallocate(first_).ok());
}

using Threat17_HostStack = Growth;
TEST_F(Threat17_HostStack, RefusedWhereTheWindowIsForbidden) {
  expect_refused(Lie::kHostStack);
}

using Threat17_HostStackUnknown = HostileHostFixture;
TEST_F(Threat17_HostStackUnknown, TheBooksSurviveIt) {
  host_->lie_at_random(100, {Lie::kHostStack});
  const auto block = allocator_->allocate(8 * kMiB);
  // A stack near the enclave, or at the top of the lower half, may show the lie.
  if (block.ok()) {
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
  }
  host_->lie_at_random(0);
  EXPECT_TRUE(allocator_->validate_books());
}

using Threat18_ReservedWindow = Growth;
TEST_F(Threat18_ReservedWindow, GrowthIsRefused) {
  expect_refused(Lie::kForbiddenWindow);
}

using Threat19_Errno = Growth;
TEST_F(Threat19_Errno, UnknownErrnoIsRefused) {
  expect_refused(Lie::kBadErrno);
}
TEST_F(Threat19_Errno, AnErrorWithAnAddressIsAnError) {
  expect_refused(Lie::kErrorWithAddress);
}
TEST_F(Threat19_Errno, AnAnswerThatWasNeverWrittenIsRefused) {
  expect_refused(Lie::kSuccessWithoutAddress);
}
TEST_F(Threat19_Errno, ARefusalIsARefusal) {
  expect_refused(Lie::kRefuse);
}
TEST_F(Threat19_Errno, ALateAnswerIsAnAnswer) {
  expect_accepted(Lie::kLate);
}

using Threat20_ReplyThatChanges = Growth;
TEST_F(Threat20_ReplyThatChanges, AnyBitsAreRefusedOrLegal) {
  LiveBlocks live(host_->enclave());
  live.add(first_, kMiB);
  host_->lie_at_random(100, {Lie::kRandomBits});
  for (int i = 0; i < 3000; ++i) {
    const auto block = allocator_->allocate(8 * kMiB);
    if (!block.ok()) {
      ASSERT_TRUE(is_refusal_of_growth(block.error())) << error_text(block.error());
      continue;
    }
    live.add(*block, 8 * kMiB);  // not there, but legal; it must not be touched
  }
  EXPECT_TRUE(allocator_->validate_books());
  while (!live.empty()) EXPECT_TRUE(allocator_->deallocate(live.take(3)).ok());
}

// ---- Give-back ----

using Threat63_Release = Growth;
TEST_F(Threat63_Release, WhateverTheHostSaysTheBooksStayRight) {
  leftovers_expected_ = true;
  for (const Lie lie :
       {Lie::kRefuse, Lie::kBadErrno, Lie::kFalseSuccess, Lie::kFalseFailure, Lie::kLate}) {
    const auto block = allocator_->allocate(8 * kMiB);
    ASSERT_TRUE(block.ok());
    host_->lie_at_random(100, {lie});
    EXPECT_TRUE(allocator_->deallocate(*block).ok()) << name_of(lie);
    allocator_->trim();
    host_->lie_at_random(0);
    EXPECT_TRUE(allocator_->validate_books()) << name_of(lie);
    const Statistics s = allocator_->statistics();
    EXPECT_EQ(s.live_bytes + s.cached_bytes + s.free_bytes + s.overhead_bytes, s.reserved_bytes)
        << name_of(lie);
    EXPECT_THAT(host_->violations(), testing::IsEmpty()) << name_of(lie);
  }
  EXPECT_TRUE(allocator_->deallocate(first_).ok());
}

// ---- While the host takes its time ----

using Threat57_CallbackDuringHostCall = Growth;
TEST_F(Threat57_CallbackDuringHostCall, TheLibraryIsUsableInside) {
  int depth = 0;
  unsigned calls_inside = 0;
  host_->during_calls([&](HostCall) {
    if (++depth == 1) {
      ++calls_inside;
      const auto small = allocator_->allocate(100);
      ASSERT_TRUE(small.ok()) << error_text(small.error());
      const auto large =
          allocator_->allocate(6 * kMiB);  // grows, so the host is called inside its own call
      ASSERT_TRUE(large.ok()) << error_text(large.error());
      EXPECT_TRUE(allocator_->query(small->address(), 100).ok());
      EXPECT_GT(allocator_->statistics().regions, 0u);
      EXPECT_TRUE(allocator_->deallocate(*small).ok());
      EXPECT_TRUE(allocator_->deallocate(*large).ok());
    }
    --depth;
  });
  for (int i = 0; i < 20; ++i) {
    const auto block = allocator_->allocate(8 * kMiB);
    ASSERT_TRUE(block.ok());
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
    allocator_->trim();
  }
  host_->during_calls(nullptr);
  EXPECT_GT(calls_inside, 20u);
  EXPECT_TRUE(allocator_->deallocate(first_).ok());
}

using Threat59_StalledGrowth = Growth;
TEST_F(Threat59_StalledGrowth, TheOthersGoOn) {
  host_->hold(HostCall::kReserve);
  std::atomic<bool> done{false};
  std::thread stuck([&] {
    const auto block = allocator_->allocate(8 * kMiB);
    EXPECT_TRUE(block.ok());
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
    done = true;
  });
  ASSERT_TRUE(host_->wait_until_held(1));
  for (int i = 0; i < 1000; ++i) {
    const auto block = allocator_->allocate(64 + static_cast<std::size_t>(i) % 5000);
    ASSERT_TRUE(block.ok());
    ASSERT_TRUE(allocator_->deallocate(*block).ok());
  }
  EXPECT_TRUE(allocator_->query(first_.address(), kMiB).ok());
  EXPECT_GT(allocator_->statistics().live_bytes, 0u);
  EXPECT_FALSE(done);
  host_->let_go();
  stuck.join();
  EXPECT_TRUE(allocator_->deallocate(first_).ok());
}
TEST_F(Threat59_StalledGrowth, AStalledGiveBackToo) {
  const auto block = allocator_->allocate(8 * kMiB);
  ASSERT_TRUE(block.ok());
  host_->hold(HostCall::kRelease);
  std::thread stuck([&] {
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
    allocator_->trim();
  });
  ASSERT_TRUE(host_->wait_until_held(1));
  const auto other = allocator_->allocate(16 * kMiB);
  EXPECT_TRUE(other.ok());
  host_->let_go();
  stuck.join();
  EXPECT_TRUE(allocator_->deallocate(*other).ok());
  EXPECT_TRUE(allocator_->deallocate(first_).ok());
}

// ---- Every call fails at its n-th use ----

// A little of everything; false at the first refusal. What it held is freed either way.
class Workload {
 public:
  explicit Workload(Allocator& allocator) : allocator_(allocator) {}
  Error run() {
    const Error error = steps();
    for (const auto block : held_) EXPECT_TRUE(allocator_.deallocate(block).ok());
    held_.clear();
    allocator_.trim();
    return error;
  }

 private:
  Error steps() {
    for (int round = 0; round < 4; ++round) {
      for (const std::size_t bytes : {std::size_t{16}, std::size_t{200}, std::size_t{4000},
                                      std::size_t{70000}, kMiB, 3 * kMiB, 7 * kMiB}) {
        for (int i = 0; i < 6; ++i) {
          const auto block = allocator_.allocate(bytes, i % 2 == 0 ? 16 : 8192);
          if (!block.ok()) return block.error();
          held_.push_back(*block);
        }
      }
      while (held_.size() > 10) {
        EXPECT_TRUE(allocator_.deallocate(held_.back()).ok());
        held_.pop_back();
      }
    }
    return Error::kNone;
  }
  Allocator& allocator_;
  std::vector<untrusted_bytes> held_;
};

using Threat63_EveryCallFailsOnce = HostileHostFixture;
TEST_F(Threat63_EveryCallFailsOnce, Reserve) {
  Workload workload(*allocator_);
  ASSERT_EQ(workload.run(), Error::kNone);
  const auto before = state();
  unsigned refused = 0;
  std::uint64_t n = 1;
  for (;; ++n) {
    const std::uint64_t calls = host_->calls(HostCall::kReserve);
    host_->fail_nth(HostCall::kReserve, n);
    const Error error = workload.run();
    host_->fail_nth(HostCall::kReserve, 0);
    ASSERT_TRUE(error == Error::kNone || is_refusal_of_growth(error))
        << n << ": " << error_text(error);
    refused += error != Error::kNone;
    ASSERT_EQ(state(), before) << n;
    ASSERT_TRUE(allocator_->validate_books()) << n;
    ASSERT_EQ(workload.run(), Error::kNone) << "the next call must work";
    if (host_->calls(HostCall::kReserve) - calls < n) break;
    ASSERT_LT(n, 2000u);
  }
  EXPECT_GT(n, 5u) << "the workload hardly grew";
  EXPECT_GT(refused + n, 5u);
}

TEST_F(Threat63_EveryCallFailsOnce, Release) {
  leftovers_expected_ = true;
  Workload workload(*allocator_);
  for (std::uint64_t n = 1; n < 60; ++n) {
    host_->fail_nth(HostCall::kRelease, n);
    ASSERT_EQ(workload.run(), Error::kNone) << n;
    host_->fail_nth(HostCall::kRelease, 0);
    ASSERT_TRUE(allocator_->validate_books()) << n;
    ASSERT_EQ(workload.run(), Error::kNone);
    const Statistics s = allocator_->statistics();
    ASSERT_EQ(s.live_bytes + s.cached_bytes + s.free_bytes + s.overhead_bytes, s.reserved_bytes)
        << n;
    ASSERT_EQ(s.live_blocks, 0u);
  }
}

TEST_F(Threat63_EveryCallFailsOnce, TrustedMemory) {
  // Each round on a fresh allocator: the books that a first run leaves would serve the second.
  for (std::uint64_t n = 1;; ++n) {
    allocator_.reset();
    host_->fail_trusted_nth(n);
    auto made = Allocator::create(host_->table(), small_growths());
    Error error = made.error();
    if (made.ok()) {
      allocator_.emplace(std::move(made.value()));
      error = Workload(*allocator_).run();
      ASSERT_TRUE(allocator_->validate_books()) << n;
      host_->fail_trusted_nth(0);
      ASSERT_EQ(Workload(*allocator_).run(), Error::kNone) << "the next call must work";
    }
    const bool none_failed = error == Error::kNone;
    ASSERT_TRUE(none_failed || error == Error::kOutOfTrustedMemory)
        << n << ": " << error_text(error);
    allocator_.reset();
    ASSERT_EQ(host_->trusted_bytes(), 0u) << n;
    ASSERT_THAT(host_->handed_out(), testing::IsEmpty()) << n;
    if (none_failed && n > 40) break;
    ASSERT_LT(n, 1000u);
  }
}

TEST_F(Threat63_EveryCallFailsOnce, NoEntropy) {
  allocator_.reset();
  host_->fail_entropy(true);
  auto made = Allocator::create(host_->table(), small_growths());
  // Whether the library needs entropy is its affair; if so it must say so.
  if (made.ok()) {
    EXPECT_EQ(Workload(made.value()).run(), Error::kNone);
  }
}

// ---- Random campaigns ----

struct Campaign {
  std::uint64_t seed;
  unsigned percent;
  unsigned threads;
};

class RandomHost : public HostileHostFixture, public testing::WithParamInterface<Campaign> {
 protected:
  // Threads free each other's blocks, too.
  void one_thread(std::uint64_t seed, unsigned steps, LiveBlocks& live) {
    std::mt19937_64 random(seed);
    for (unsigned step = 0; step < steps; ++step) {
      if (random() % 20 < 11 || live.empty()) {
        const std::size_t bytes =
            random() % 8 == 0 ? 1 + random() % (6 * kMiB) : 1 + random() % 20000;
        const std::size_t alignment = random() % 16 == 0 ? std::size_t{1} << random() % 22 : 16;
        const auto block = allocator_->allocate(bytes, alignment);
        if (block.ok()) {
          EXPECT_EQ(block->address() % alignment, 0u);
          live.add(*block, bytes);
        } else {
          ASSERT_TRUE(is_refusal_of_growth(block.error())) << error_text(block.error());
        }
      } else {
        ASSERT_TRUE(allocator_->deallocate(live.take(random())).ok());
      }
      if (random() % 64 == 0) allocator_->trim();
    }
    while (!live.empty()) ASSERT_TRUE(allocator_->deallocate(live.take(random())).ok());
  }
};

TEST_P(RandomHost, LiesAllTheTime) {
  // Nothing here is touched, so phantoms may be believed; and a host that refuses to take back
  // leaves something over.
  leftovers_expected_ = true;
  ASSERT_NO_FATAL_FAILURE(forbid_windows());
  host_->tolerate_overlaps(true);
  host_->lie_at_random(GetParam().percent);
  LiveBlocks live(host_->enclave());
  std::vector<std::thread> threads;
  for (unsigned t = 1; t < GetParam().threads; ++t) {
    threads.emplace_back([&, t] { one_thread(GetParam().seed * 100 + t, 1500, live); });
  }
  one_thread(GetParam().seed, 1500, live);
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(allocator_->statistics().live_blocks, 0u);
  EXPECT_GT(host_->lies(), 10u);
}
INSTANTIATE_TEST_SUITE_P(Seeds, RandomHost,
                         testing::Values(Campaign{1, 30, 1}, Campaign{2, 30, 1}, Campaign{3, 80, 1},
                                         Campaign{4, 95, 1}, Campaign{5, 30, 4},
                                         Campaign{6, 80, 4}),
                         [](const auto& param) {
                           return std::to_string(param.param.seed) + "_" +
                                  std::to_string(param.param.percent) + "percent_" +
                                  std::to_string(param.param.threads) + "threads";
                         });

TEST_P(RandomHost, AnHonestHostGetsEverythingBack) {
  LiveBlocks live(host_->enclave());
  one_thread(GetParam().seed, 1500, live);
}

}  // namespace
}  // namespace exclave
