// THREATS 1 to 20, 36, 40, 57 and 63 for the application's memory calls: the host lies, refuses,
// stalls and calls back while mmap, munmap and mprotect are under way.
#include <atomic>
#include <cerrno>
#include <random>
#include <vector>

#include "support/hostile_memory_calls_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;
using sim::HostCall;
using sim::Lie;

class EveryLie : public MemoryCallsOnHostileHost, public testing::WithParamInterface<Lie> {};
class EveryLieOfMmap : public EveryLie {};
class EveryLieOfMunmap : public EveryLie {};
class EveryLieOfMprotect : public EveryLie {};

TEST_P(EveryLieOfMmap, IsRefusedAndNothingChanges) {
  const Lie lie = GetParam();
  const bool visible = can_be_seen(lie) || lie == Lie::kHostStack;  // its window is forbidden
  for (const std::size_t bytes : {kPageBytes, 3 * kMiB, host_->enclave().size + 64 * kMiB}) {
    // Where memory is only known to be the pool's, and where it is the mapping's.
    for (const Extent known : {Extent{first_.address(), kMiB}, Extent{mapping(), 8 * kPageBytes}}) {
      if (lie == Lie::kOtherAddress) continue;  // its own test below
      host_->set_overlap_target(known);
      const auto before = state();
      host_->lie_at_random(100, {lie});
      const std::intptr_t answer = map(bytes);
      host_->lie_at_random(0);
      if (answer > 0) {
        EXPECT_FALSE(visible) << name_of(lie) << " was believed";
        const Extent extent{static_cast<std::uintptr_t>(answer), bytes};
        EXPECT_FALSE(extent.overlaps(host_->enclave()));
        EXPECT_EQ(calls_->munmap(extent.base, extent.size), 0);
      } else {
        EXPECT_TRUE(kKnownErrnos.contains(static_cast<int>(answer))) << answer;
      }
      EXPECT_EQ(state(), before) << name_of(lie);
      ASSERT_TRUE(allocator_->validate_books());
    }
  }
  const std::intptr_t honest = map(kPageBytes);
  EXPECT_GT(honest, 0) << "the next honest call must work";
}

TEST_P(EveryLieOfMmap, AtAFixedAddressIsRefused) {
  const Lie lie = GetParam();
  if (lie == Lie::kLate) return;  // the truth
  // What stood there may be gone, as with Linux when a fixed mapping fails; nothing else may have
  // come or gone.
  for (int round = 0; round < 8; ++round) {
    host_->script(HostCall::kMap, {lie});
    const std::intptr_t answer = map(2 * kPageBytes, mapping(2), MAP_FIXED);
    // To name the very address that was asked for, and to do nothing, is a lie without a trace.
    if (answer != static_cast<std::intptr_t>(mapping(2))) {
      EXPECT_LT(answer, 0) << name_of(lie);
      EXPECT_TRUE(kKnownErrnos.contains(static_cast<int>(answer))) << answer;
    }
    EXPECT_TRUE(is_mapped(0) && is_mapped(1) && is_mapped(4) && is_mapped(7));
    ASSERT_TRUE(allocator_->validate_books());
    ASSERT_EQ(map(2 * kPageBytes, mapping(2), MAP_FIXED), static_cast<std::intptr_t>(mapping(2)));
    EXPECT_TRUE(is_mapped(2) && is_mapped(3));
  }
}

TEST_P(EveryLieOfMunmap, LeavesTheBooksRight) {
  const Lie lie = GetParam();
  leftovers_expected_ = true;
  host_->script(HostCall::kUnmap, {lie});
  const int answer = calls_->munmap(mapping(2), 3 * kPageBytes);
  ASSERT_TRUE(allocator_->validate_books());
  const bool said_no = lie == Lie::kRefuse || lie == Lie::kBadErrno || lie == Lie::kFalseFailure;
  EXPECT_EQ(answer < 0, said_no);
  if (said_no) {
    EXPECT_TRUE(kKnownErrnos.contains(answer)) << answer;
  }
  for (std::size_t page = 0; page < 8; ++page) {
    EXPECT_EQ(is_mapped(page), page < 2 || page > 4 || said_no) << page;
  }
  EXPECT_EQ(calls_->munmap(mapping(0), 8 * kPageBytes), 0) << "the next call must work";
  EXPECT_EQ(allocator_->statistics().mapping_bytes, 0u);
}

TEST_P(EveryLieOfMprotect, LeavesTheBooksRight) {
  const Lie lie = GetParam();
  host_->script(HostCall::kProtect, {lie});
  const int answer = calls_->mprotect(mapping(2), 3 * kPageBytes, PROT_READ);
  ASSERT_TRUE(allocator_->validate_books());
  const bool said_no = lie == Lie::kRefuse || lie == Lie::kBadErrno || lie == Lie::kFalseFailure;
  EXPECT_EQ(answer < 0, said_no);
  if (said_no) {
    EXPECT_TRUE(kKnownErrnos.contains(answer)) << answer;
  }
  for (std::size_t page = 0; page < 8; ++page) {
    EXPECT_EQ(is_mapped(page), page < 2 || page > 4 || said_no) << page;
    EXPECT_TRUE(is_mapped(page, Protection::kRead)) << page;
  }
  EXPECT_EQ(calls_->mprotect(mapping(0), 8 * kPageBytes, kRw), 0) << "the next call must work";
  for (std::size_t page = 0; page < 8; ++page) EXPECT_TRUE(is_mapped(page)) << page;
}

INSTANTIATE_TEST_SUITE_P(Lies, EveryLieOfMmap, testing::ValuesIn(lies_about(HostCall::kMap)),
                         lie_name);
INSTANTIATE_TEST_SUITE_P(Lies, EveryLieOfMunmap, testing::ValuesIn(lies_about(HostCall::kUnmap)),
                         lie_name);
INSTANTIATE_TEST_SUITE_P(Lies, EveryLieOfMprotect,
                         testing::ValuesIn(lies_about(HostCall::kProtect)), lie_name);

using Threat13_OtherAddressThanFixed = MemoryCallsOnHostileHost;
TEST_F(Threat13_OtherAddressThanFixed, IsRefusedAndNeverReturned) {
  const auto before = state();
  const std::intptr_t there = map(2 * kPageBytes);
  ASSERT_GT(there, 0);
  ASSERT_EQ(calls_->munmap(static_cast<std::uintptr_t>(there), 2 * kPageBytes), 0);
  for (const int flag : {MAP_FIXED, MAP_FIXED_NOREPLACE}) {
    host_->script(HostCall::kMap, {Lie::kOtherAddress});
    EXPECT_EQ(map(2 * kPageBytes, static_cast<std::uintptr_t>(there), flag), -EPERM);
    EXPECT_EQ(state(), before);
  }
}

using Threat57_CallbackDuringMemoryCall = MemoryCallsOnHostileHost;
TEST_F(Threat57_CallbackDuringMemoryCall, NestedCallsOnOtherRangesWork) {
  int depth = 0;
  host_->during_calls([&](HostCall) {
    if (++depth == 1) {
      const std::intptr_t inner = map(4 * kPageBytes);
      ASSERT_GT(inner, 0);
      const auto at = static_cast<std::uintptr_t>(inner);
      EXPECT_EQ(calls_->mprotect(at, kPageBytes, PROT_READ), 0);
      EXPECT_EQ(calls_->munmap(at, 4 * kPageBytes), 0);
      const auto block = allocator_->allocate(100);
      ASSERT_TRUE(block.ok());
      EXPECT_TRUE(allocator_->deallocate(*block).ok());
    }
    --depth;
  });
  const std::intptr_t outer = map(4 * kPageBytes);
  ASSERT_GT(outer, 0);
  EXPECT_EQ(calls_->mprotect(static_cast<std::uintptr_t>(outer), 2 * kPageBytes, PROT_READ), 0);
  EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(outer), 4 * kPageBytes), 0);
  host_->during_calls(nullptr);
}

TEST_F(Threat57_CallbackDuringMemoryCall, NestedCallsOnTheSameRangeNeverHang) {
  int depth = 0;
  host_->during_calls([&](HostCall call) {
    if (++depth == 1 && call != HostCall::kMap) {
      // Either answer is right, as long as there is one and the books stay right.
      (void)calls_->mprotect(mapping(0), 8 * kPageBytes, PROT_READ);
      (void)calls_->munmap(mapping(3), kPageBytes);
      (void)allocator_->query(mapping(2), kPageBytes);
    }
    --depth;
  });
  (void)calls_->mprotect(mapping(2), 4 * kPageBytes, PROT_READ);
  (void)calls_->munmap(mapping(1), 4 * kPageBytes);
  host_->during_calls(nullptr);
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(calls_->munmap(mapping(0), 8 * kPageBytes), 0);
}

// A mapping that lands in the hole while munmap is under way must not be lost with it.
using Threat40_MappingLandsInTheHole = MemoryCallsOnHostileHost;
TEST_F(Threat40_MappingLandsInTheHole, ItStaysInTheBooks) {
  // The host unmaps, and before its answer arrives gives the same pages to another mmap.
  bool inside = false;
  std::intptr_t newcomer = 0;
  host_->during_calls([&](HostCall call) {
    if (call != HostCall::kUnmap || inside) return;
    inside = true;
    // What munmap has taken out of the books is free ground for others already.
    EXPECT_FALSE(is_mapped(3));
    newcomer =
        calls_->mmap(mapping(3), kPageBytes, kRw, MAP_SHARED | MAP_FIXED_NOREPLACE, file_, 0);
  });
  const int answer = calls_->munmap(mapping(3), kPageBytes);
  host_->during_calls(nullptr);
  EXPECT_EQ(answer, 0);
  // The host had not unmapped yet, so an honest one says EEXIST; whatever it says, books and answer
  // agree.
  EXPECT_EQ(is_mapped(3), newcomer > 0);
  EXPECT_TRUE(allocator_->validate_books());
}

using Threat36_HostFailsInTheMiddle = MemoryCallsOnHostileHost;
TEST_F(Threat36_HostFailsInTheMiddle, MunmapOverSeveralMappings) {
  // Three pieces with holes between: pages 0-1, 3-4, 6-7.
  ASSERT_EQ(calls_->munmap(mapping(2), kPageBytes), 0);
  ASSERT_EQ(calls_->munmap(mapping(5), kPageBytes), 0);
  for (std::uint64_t n = 1; n <= 3; ++n) {
    host_->fail_nth(HostCall::kUnmap, n);
    EXPECT_EQ(calls_->munmap(mapping(0), 8 * kPageBytes), -ENOMEM) << n;
    host_->fail_nth(HostCall::kUnmap, 0);
    ASSERT_TRUE(allocator_->validate_books());
    std::size_t still = 0;
    for (std::size_t page = 0; page < 8; ++page) still += is_mapped(page);
    EXPECT_EQ(still, 2u) << "exactly the refused piece stays";
    EXPECT_EQ(allocator_->statistics().mapping_bytes, 2 * kPageBytes);
    // As it was.
    EXPECT_EQ(calls_->munmap(mapping(0), 8 * kPageBytes), 0);
    for (const std::size_t page : {0u, 3u, 6u}) {
      ASSERT_EQ(map(2 * kPageBytes, mapping(page), MAP_FIXED_NOREPLACE),
                static_cast<std::intptr_t>(mapping(page)));
    }
  }
}

TEST_F(Threat36_HostFailsInTheMiddle, MprotectOverSeveralMappings) {
  ASSERT_EQ(calls_->mprotect(mapping(3), 2 * kPageBytes, PROT_NONE),
            0);  // three pieces in the books
  for (std::uint64_t n = 1; n <= 3; ++n) {
    host_->fail_nth(HostCall::kProtect, n);
    const int answer = calls_->mprotect(mapping(0), 8 * kPageBytes, PROT_READ);
    host_->fail_nth(HostCall::kProtect, 0);
    ASSERT_TRUE(allocator_->validate_books());
    if (answer == 0) continue;  // fewer host calls than n
    EXPECT_EQ(answer, -ENOMEM);
    EXPECT_FALSE(is_mapped(3)) << "a failed call granted something";
    ASSERT_EQ(calls_->mprotect(mapping(0), 8 * kPageBytes, kRw), 0);
    ASSERT_EQ(calls_->mprotect(mapping(3), 2 * kPageBytes, PROT_NONE), 0);
  }
}

using Threat63_EveryMemoryCallFailsOnce = MemoryCallsOnHostileHost;
TEST_F(Threat63_EveryMemoryCallFailsOnce, TrustedMemoryRunsOut) {
  // Splits and new mappings need books; each request for them fails once.
  for (std::uint64_t n = 1; n < 12; ++n) {
    host_->fail_trusted_nth(n, true);
    std::vector<std::uintptr_t> mapped;
    for (int i = 0; i < 400; ++i) {
      const std::intptr_t answer = map(3 * kPageBytes);
      if (answer < 0) {
        ASSERT_EQ(answer, -ENOMEM);
        break;
      }
      mapped.push_back(static_cast<std::uintptr_t>(answer));
      const int split = calls_->munmap(mapped.back() + kPageBytes, kPageBytes);
      ASSERT_TRUE(split == 0 || split == -ENOMEM) << split;
    }
    ASSERT_TRUE(allocator_->validate_books()) << n;
    for (const auto at : mapped) {
      ASSERT_EQ(calls_->munmap(at, kPageBytes), 0) << "to remove a whole piece needs no memory";
      const int rest = calls_->munmap(at + kPageBytes, 2 * kPageBytes);
      ASSERT_TRUE(rest == 0) << rest;
    }
    host_->fail_trusted_nth(0);
    ASSERT_TRUE(allocator_->validate_books()) << n;
    ASSERT_GT(map(kPageBytes), 0);
  }
}

class RandomMemoryCalls : public CampaignOnHostileHost {
 protected:
  void one_thread(std::uint64_t seed) override {
    std::mt19937_64 random(seed);
    std::vector<Extent> mine;
    for (int step = 0; step < 800; ++step) {
      const auto any = [&] { return mine[random() % mine.size()]; };
      switch (mine.empty() ? 0 : random() % 6) {
        case 0:
        case 1: {
          const std::size_t bytes = (1 + random() % 16) * kPageBytes;
          const std::intptr_t at = map(bytes);
          if (at > 0) {
            const Extent extent{static_cast<std::uintptr_t>(at), bytes};
            EXPECT_FALSE(extent.overlaps(host_->enclave()));
            mine.push_back(extent);
          } else {
            ASSERT_TRUE(kKnownErrnos.contains(static_cast<int>(at))) << at;
          }
          break;
        }
        case 2: {
          const Extent chosen = any();
          const std::intptr_t at =
              map(kPageBytes, chosen.base, random() % 2 == 0 ? MAP_FIXED : MAP_FIXED_NOREPLACE);
          ASSERT_TRUE(at == static_cast<std::intptr_t>(chosen.base) ||
                      kKnownErrnos.contains(static_cast<int>(at)));
          break;
        }
        case 3: {
          const Extent chosen = any();
          const int answer =
              calls_->mprotect(chosen.base, chosen.size, random() % 2 == 0 ? PROT_READ : kRw);
          ASSERT_TRUE(answer == 0 || kKnownErrnos.contains(answer)) << answer;
          break;
        }
        default: {
          const std::size_t i = random() % mine.size();
          const std::size_t skip = random() % (mine[i].size / kPageBytes) * kPageBytes;
          const int answer = calls_->munmap(mine[i].base + skip, mine[i].size - skip);
          ASSERT_TRUE(answer == 0 || kKnownErrnos.contains(answer)) << answer;
          if (skip == 0 && answer == 0) {
            mine[i] = mine.back();
            mine.pop_back();
          }
        }
      }
    }
  }
};

TEST_P(RandomMemoryCalls, LiesAllTheTime) {
  lie_all_the_time();
}
INSTANTIATE_TEST_SUITE_P(Seeds, RandomMemoryCalls, kCampaigns, campaign_name);

}  // namespace
}  // namespace exclave
