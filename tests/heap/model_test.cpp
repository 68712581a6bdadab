// Random operations against the reference model; the same with every managed page PROT_NONE; twice,
// for the same decisions; and on several threads.
#include <sys/mman.h>

#include <barrier>
#include <memory>
#include <thread>

#include "support/allocator_model.hpp"
#include "support/no_access_port.hpp"
#include "support/sanitizers.hpp"

namespace exclave {
namespace {

using namespace testing_support;

constexpr int kSteps = kSlow ? 1500 : 4000;

Config small_growths() {
  Config config;
  config.grow_min_bytes = kMiBytes;
  config.grow_max_bytes = 4 * kMiBytes;
  config.keep_free_bytes = 2 * kMiBytes;
  return config;
}

// Runs the model and takes everything down again.
std::vector<std::uint64_t> run(Allocator& allocator, std::uint64_t seed, int steps,
                               const AllocatorModel::Options& options, int validate_every) {
  AllocatorModel model(allocator, seed, options);
  for (int i = 0; i < steps; ++i) {
    model.step();
    if (i % validate_every == 0 && !allocator.validate_books()) {
      ADD_FAILURE() << "the books contradict themselves: seed " << seed << ", step " << i;
    }
    if (testing::Test::HasFailure()) return {};
  }
  model.check_statistics();
  model.drain();
  EXPECT_TRUE(allocator.validate_books());
  allocator.trim();
  const Statistics end = allocator.statistics();
  EXPECT_EQ(end.reserved_bytes, 0u);
  EXPECT_EQ(end.regions, 0u);
  EXPECT_EQ(end.live_blocks, 0u);
  EXPECT_EQ(end.pins, 0u);
  return model.decisions();
}

class ModelTest : public testing::TestWithParam<std::uint64_t> {};

TEST_P(ModelTest, RandomOperationsAgreeWithTheModel) {
  FakePort port;
  auto made = Allocator::create(port.table(), small_growths());
  ASSERT_TRUE(made.ok());
  run(*made, GetParam(), kSteps, {}, 1);
  EXPECT_EQ(port.ranges_out(), 0u);
  EXPECT_EQ(port.bad_releases(), 0u);
}

TEST_P(ModelTest, DecisionsAreTheSameInASecondRun) {
  std::vector<std::uint64_t> first;
  for (int round = 0; round < 2; ++round) {
    FakePort port;
    auto made = Allocator::create(port.table(), small_growths());
    ASSERT_TRUE(made.ok());
    std::vector<std::uint64_t> decisions = run(*made, GetParam(), kSteps, {}, kSteps);
    ASSERT_FALSE(decisions.empty());
    if (round == 0) {
      first = std::move(decisions);
    } else {
      EXPECT_EQ(decisions, first);
    }
  }
}

// THREATS 44: the allocator reads and writes no byte that it manages.
TEST_P(ModelTest, Threat44EveryManagedPageIsOutOfReach) {
  NoAccessPort port;
  auto made = Allocator::create(port.table(), small_growths());
  ASSERT_TRUE(made.ok());
  constexpr std::size_t kWindow = (AllocatorModel::kPlaces + 1) * AllocatorModel::kPlaceBytes;
  void* const window =
      mmap(nullptr, kWindow, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(window, MAP_FAILED);
  AllocatorModel::Options options;
  options.attach_base = reinterpret_cast<std::uintptr_t>(window);
  run(*made, GetParam(), kSteps, options, 16);
  EXPECT_GT(port.reserved_bytes(), 0u);
  munmap(window, kWindow);
}

// A host that has little: calls fail, and whatever fails changes nothing.
TEST_P(ModelTest, AHostWithLittleMemory) {
  FakePort port;
  port.set_host_left(6 * kMiBytes);
  Config config = small_growths();
  config.quota_bytes = 5 * kMiBytes;
  auto made = Allocator::create(port.table(), config);
  ASSERT_TRUE(made.ok());
  AllocatorModel::Options options;
  options.host_is_generous = false;
  run(*made, GetParam(), kSteps, options, 4);
  EXPECT_EQ(port.ranges_out(), 0u);
}

TEST_P(ModelTest, ThreadsAgreeAtBarriers) {
  constexpr unsigned kThreads = 4;
  constexpr int kRounds = kSlow ? 12 : 40;
  constexpr int kStepsInARound = kSlow ? 60 : 150;
  FakePort port;
  auto made = Allocator::create(port.table(), small_growths());
  ASSERT_TRUE(made.ok());
  Allocator& allocator = *made;
  std::vector<std::unique_ptr<AllocatorModel>> models;
  for (unsigned i = 0; i < kThreads; ++i) {
    AllocatorModel::Options options;
    options.shared = true;
    options.attach_base =
        FakePort::kAttachBase + i * 2 * AllocatorModel::kPlaces * AllocatorModel::kPlaceBytes;
    options.first_device = 1 + i * 100;
    options.largest_allocation = 300 * kKiBytes;
    models.push_back(std::make_unique<AllocatorModel>(allocator, GetParam() * 100 + i, options));
  }
  const auto at_barrier = [&]() noexcept {
    EXPECT_TRUE(allocator.validate_books());
    const Statistics s = allocator.statistics();
    EXPECT_TRUE(sums_up(s));
    std::size_t live = 0;
    std::vector<Extent> extents;
    for (const auto& model : models) {
      live += model->live_blocks();
      const std::vector<Extent> mine = model->block_extents();
      extents.insert(extents.end(), mine.begin(), mine.end());
    }
    EXPECT_EQ(s.live_blocks, live);
    std::sort(extents.begin(), extents.end(),
              [](const Extent& a, const Extent& b) { return a.base < b.base; });
    for (std::size_t i = 1; i < extents.size(); ++i) {
      EXPECT_LE(extents[i - 1].end(), extents[i].base) << "two threads hold the same bytes";
    }
    // What one thread allocated another one frees.
    for (unsigned i = 0; i < kThreads; ++i) {
      models[i]->give_blocks_to(*models[(i + 1) % kThreads]);
    }
  };
  std::barrier barrier(kThreads, at_barrier);
  // In each half other threads, so that heaps end and are taken over.
  for (int half = 0; half < 2; ++half) {
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        for (int round = 0; round < kRounds / 2; ++round) {
          for (int step = 0; step < kStepsInARound && !testing::Test::HasFailure(); ++step) {
            models[i]->step();
          }
          barrier.arrive_and_wait();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  for (const auto& model : models) model->drain();
  EXPECT_TRUE(allocator.validate_books());
  allocator.trim();
  EXPECT_EQ(allocator.statistics().reserved_bytes, 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, ModelTest, testing::Range<std::uint64_t>(1, kSlow ? 3 : 7));

}  // namespace
}  // namespace exclave
