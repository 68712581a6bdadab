// THREATS 44: the bytes of managed memory change no decision. One run quiet, one under a scribbling
// neighbour, one with every page inaccessible: all three must place every block at the same place.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "sim/neighbour.hpp"
#include "support/hostile_fixture.hpp"

namespace exclave {
namespace {

using sim::HostCall;
using sim::HostileHost;
using sim::Neighbour;
using testing_support::kMiB;

// What was decided, in terms that do not depend on where the kernel put the regions.
struct Decision {
  Error error = Error::kNone;
  std::size_t region = 0;  // the n-th that the host gave
  std::size_t offset = 0;
  friend bool operator==(const Decision&, const Decision&) = default;
};

// Where a region may be cut follows from its address, which is a verified reply. So that all hosts
// give the same ones, as far as that goes, they give them at multiples of the largest.
PortTable in_large_steps(HostileHost& host) {
  PortTable table = host.table();
  table.host_reserve = [](void* context, std::size_t bytes, std::size_t alignment) {
    return static_cast<HostileHost*>(context)->host_reserve(bytes, std::max(alignment, 4 * kMiB));
  };
  return table;
}

std::vector<Decision> decisions(
    HostileHost& host, std::uint64_t seed, unsigned steps,
    const std::function<void()>& now_and_then = [] {}) {
  auto made = Allocator::create(in_large_steps(host), testing_support::small_growths());
  EXPECT_TRUE(made.ok());
  Allocator allocator = std::move(made.value());
  std::vector<Extent>
      regions;  // in the order of their coming; the last at an address is the one that lives
  std::size_t seen_events = 0;
  const auto place = [&](std::uintptr_t address) {
    const auto events = host.events();
    for (; seen_events < events.size(); ++seen_events) {
      const auto& event = events[seen_events];
      if (event.call == HostCall::kReserve && event.reply.error == 0) {
        regions.push_back({event.reply.address, event.bytes});
      }
    }
    Decision decision;
    for (std::size_t i = regions.size(); i-- > 0;) {
      if (!regions[i].contains(address)) continue;
      decision.region = i + 1;
      decision.offset = address - regions[i].base;
      break;
    }
    EXPECT_NE(decision.region, 0u) << "not in a region that the host gave";
    return decision;
  };
  std::mt19937_64 random(seed);
  std::vector<untrusted_bytes> live;
  std::vector<Decision> made_decisions;
  for (unsigned step = 0; step < steps; ++step) {
    if (random() % 20 < 11 || live.empty()) {
      const std::size_t bytes =
          random() % 16 == 0 ? 1 + random() % (3 * kMiB) : 1 + random() % 9000;
      const auto block = allocator.allocate(bytes, random() % 8 == 0 ? 4096 : 16);
      made_decisions.push_back(block.ok() ? place(block->address())
                                          : Decision{block.error(), 0, 0});
      if (block.ok()) live.push_back(*block);
    } else {
      const std::size_t i = random() % live.size();
      made_decisions.push_back({allocator.deallocate(live[i]).error(), 0, 0});
      if (random() % 8 == 0) {
        // A bad free must be told the same way each time.
        made_decisions.push_back({allocator.deallocate(live[i]).error(), 1, 0});
      }
      live[i] = live.back();
      live.pop_back();
    }
    if (random() % 512 == 0) allocator.trim();
    if (step % 32 == 0) now_and_then();
  }
  EXPECT_TRUE(allocator.validate_books());
  for (const auto block : live) EXPECT_TRUE(allocator.deallocate(block).ok());
  return made_decisions;
}

class Threat44_Scribble : public testing::TestWithParam<std::uint64_t> {};

TEST_P(Threat44_Scribble, EveryDecisionIsAsInTheQuietRun) {
  constexpr unsigned kSteps = 6000;
  const auto quiet_host = HostileHost::create({.shared = true});
  ASSERT_NE(quiet_host, nullptr);
  const auto quiet = decisions(*quiet_host, GetParam(), kSteps);
  EXPECT_THAT(quiet_host->violations(), testing::IsEmpty());

  const auto host = HostileHost::create({.shared = true});
  ASSERT_NE(host, nullptr);
  std::unique_ptr<Neighbour> neighbour;
  host->on_memory([&](Extent extent, bool added) {
    if (neighbour == nullptr)
      neighbour = Neighbour::start(host->honest(), extent.base, {.seed = GetParam()});
    ASSERT_NE(neighbour, nullptr);
    const auto backing = host->honest().shared_backing(extent.base);
    ASSERT_TRUE(backing.ok());
    if (added) {
      ASSERT_TRUE(neighbour->add(*backing));
    } else {
      neighbour->remove(*backing);
    }
  });
  const auto scribbled = decisions(*host, GetParam(), kSteps, [&] {
    if (neighbour != nullptr) neighbour->wait_for_bytes(32 * kPageBytes);
  });
  EXPECT_GT(neighbour->bytes_written(), 16 * kMiB) << "the neighbour hardly wrote";
  EXPECT_TRUE(scribbled == quiet) << "a decision depended on untrusted bytes";

  const auto dark_host = HostileHost::create({.no_access = true});
  ASSERT_NE(dark_host, nullptr);
  EXPECT_TRUE(decisions(*dark_host, GetParam(), kSteps) == quiet) << "the same without access";
}
INSTANTIATE_TEST_SUITE_P(Seeds, Threat44_Scribble, testing::Values(1, 2, 3));

}  // namespace
}  // namespace exclave
