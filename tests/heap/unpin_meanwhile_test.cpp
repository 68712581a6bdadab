// A free that the host stops after any one of its instructions, while the last pin of the block
// goes. THREATS 65: the block was live all the time, so the free is a good one, whichever way it
// goes.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <vector>

#include "support/sanitizers.hpp"
#include "support/state_test.hpp"
#include "support/stepped_call.hpp"
#include "support/worker.hpp"

namespace exclave {
namespace {

using namespace testing_support;

// By whom the block is freed, and how. The last two: a run of pages, in grown memory and in a pool.
enum class Way {
  kOwner,
  kSized,
  kRemote,
  kNested,
  kNestedSized,
  kOrphan,
  kPool,
  kHandle,
  kMoved,
  kPages,
  kPoolPages
};
constexpr const char* kWays[] = {"Owner", "Sized",  "Remote", "Nested", "NestedSized", "Orphan",
                                 "Pool",  "Handle", "Moved",  "Pages",  "PoolPages"};

class Threat65_FreeBesideUnpin : public StateTest,
                                 public testing::WithParamInterface<std::tuple<Way, bool>> {
 protected:
  static constexpr std::size_t kSize = 5120;
  static constexpr std::size_t kRunSize = 100000;
  static constexpr Extent kPool = range_at(0, kMiBytes);
  // Where the fake host's first regions come to lie.
  static constexpr Extent kGrown{FakePort::kFirstAddress, 64 * kMiBytes};

  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
    Config config;
    config.scrub_on_free = scrubs();
    start(config);
    for (const Extent& range : {kPool, kGrown}) {
      ASSERT_NE(mmap(at(range.base), range.size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0),
                MAP_FAILED);
    }
    pool_ = attach(kPool);
    keeps_region_ = allocate(64);
  }
  void TearDown() override {
    if (kSanitized) return;
    EXPECT_EQ(free(keeps_region_), Error::kNone);
    EXPECT_TRUE(allocator_->detach(kPool).ok());
    StateTest::TearDown();
    for (const Extent& range : {kPool, kGrown}) munmap(at(range.base), range.size);
  }

  static void* at(std::uintptr_t address) { return bytes_at(address).unsafe_raw(); }
  static Way way() { return std::get<Way>(GetParam()); }
  static bool scrubs() { return std::get<bool>(GetParam()); }
  static bool is_nested() { return way() == Way::kNested || way() == Way::kNestedSized; }
  static bool is_run() { return way() == Way::kPages || way() == Way::kPoolPages; }
  static std::size_t size() { return is_run() ? kRunSize : kSize; }
  static bool is_in_pool() {
    return way() == Way::kPool || way() == Way::kHandle || way() == Way::kMoved ||
           way() == Way::kPoolPages;
  }

  // A block and, so that its slab stays where it is, its neighbour.
  struct Blocks {
    std::uintptr_t block = 0;
    std::uintptr_t stays = 0;
  };
  Blocks take(Worker& other) {
    Blocks made;
    const auto take = [&] {
      const Placement where = is_in_pool() ? Placement::in_pool(pool_) : Placement::anywhere();
      made.block = allocate(size(), 16, where);
      made.stays = allocate(kSize, 16, where);
      std::memset(at(made.block), 0x5a, size());
    };
    if (way() == Way::kRemote) {
      other.run(take);
    } else if (way() == Way::kOrphan) {
      std::thread(take).join();
    } else {
      take();
    }
    return made;
  }
  Error let_go(std::uintptr_t block) {
    switch (way()) {
      case Way::kSized:
      case Way::kNestedSized:
        return free(block, kSize);
      case Way::kHandle:
        return allocator_->deallocate_handle(bytes_at(block), pool_).error();
      case Way::kMoved: {
        const Result<untrusted_bytes> moved = allocator_->reallocate(bytes_at(block), 100);
        if (moved.ok()) EXPECT_EQ(free(moved->address()), Error::kNone);
        return moved.error();
      }
      default:
        return free(block);
    }
  }
  // What other threads still hold, or were sent, is settled.
  void settle(Worker& other) {
    for (int round = 0; round < 2; ++round) {
      allocator_->flush_thread();
      other.run([&] { allocator_->flush_thread(); });
    }
    // A slab without a thread is swept by whoever adopts it.
    if (way() == Way::kOrphan) {
      EXPECT_EQ(free(allocate(kSize)), Error::kNone);
      allocator_->flush_thread();
    }
  }
  void check(const Blocks& made, Worker& other, std::uint64_t n) {
    settle(other);
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
    EXPECT_TRUE(misuses_.empty()) << "at " << n;
    EXPECT_EQ(statistics().live_blocks, 2u) << "at " << n;
    EXPECT_EQ(statistics().pins, 0u) << "at " << n;
    if (scrubs()) {
      const std::string_view is{static_cast<const char*>(at(made.block)), size()};
      EXPECT_EQ(is.find('\x5a'), is.npos) << "at " << n;
    }
    EXPECT_EQ(free(made.block), Error::kDoubleFree) << "at " << n;
    misuses_.clear();
    const auto free_other = [&] { EXPECT_EQ(free(made.stays), Error::kNone) << "at " << n; };
    if (way() == Way::kRemote) {
      other.run(free_other);
    } else {
      free_other();
    }
    settle(other);
  }

  void is_freed_once() {
    const SteppedCall stepper;
    Worker owner, pinner;
    bool more = true;
    bool waited = false;  // for the lock under which a run is freed
    unsigned beside = 0;
    for (std::uint64_t n = 1; more && !HasFailure(); n += kStride) {
      const Blocks made = take(owner);
      const PinId pinned = pin({made.block, 8});
      bool held = false;
      bool late = false;
      Error told = Error::kBusy;
      const auto inside = [&] {
        late = !is_run() && state_of(made.block)->load() != SlotState::kPinned;
        pinner.start([&] { EXPECT_TRUE(allocator_->unpin(pinned).ok()); });
        held = !pinner.wait_a_little();
      };
      {
        std::optional<core::AllocatorCore::Gate> inside_a_call;
        if (is_nested()) inside_a_call.emplace(*allocator_->core());
        more = SteppedCall::stopped_at(
            n, [&] { told = let_go(made.block); }, inside);
      }
      pinner.wait();
      if (!more) EXPECT_TRUE(allocator_->unpin(pinned).ok());
      EXPECT_EQ(told, Error::kNone) << "at " << n;
      check(made, owner, n);
      beside += !late && !held;
      // What is freed stays so: the rest was the same before.
      if (late && !held && way() != Way::kRemote) break;
      if (is_run() && !held && waited) break;
      waited = waited || held;
    }
    EXPECT_GT(beside, 0u) << "the trap flag has no effect here";
  }

  RegionId pool_{};
  std::uintptr_t keeps_region_ = 0;
};

TEST_P(Threat65_FreeBesideUnpin, IsFreedOnce) {
  is_freed_once();
}

class Threat65_RunFreedBesideUnpin : public Threat65_FreeBesideUnpin {};

TEST_P(Threat65_RunFreedBesideUnpin, IsFreedOnce) {
  is_freed_once();
}

// A host that chooses when threads run can have each try of the free meet another change of the
// pin. The free ends all the same: it has the pins stand still, or, in a signal handler, which may
// take no lock, it is told kReentered, and nothing has changed.
TEST_P(Threat65_FreeBesideUnpin, EndsHoweverOftenThePinChanges) {
  const SteppedCall stepper;
  Worker owner, pinner;
  const Blocks made = take(owner);
  std::optional<PinId> pinned = pin({made.block, 8});
  std::atomic<SlotState>* const state = state_of(made.block);
  bool held = false;
  bool late = false;
  unsigned changes = 0;
  Error told = Error::kBusy;
  const auto change = [&] {
    if (pinned) {
      EXPECT_TRUE(allocator_->unpin(*pinned).ok());
      pinned.reset();
    } else {
      // One that had to wait for the free finds the block freed.
      const Result<PinId> again = allocator_->pin({made.block, 8});
      if (again.ok()) {
        pinned = *again;
      } else {
        EXPECT_EQ(again.error(), Error::kNotFound);
        late = true;
      }
    }
  };
  const auto inside = [&] {
    const SlotState now = state->load();
    if (now != SlotState::kPinned && now != SlotState::kLive) return;  // freed
    pinner.start(std::ref(change));
    held = !pinner.wait_a_little();
    changes += 1;
    if (!held) SteppedCall::stop_again(1);
  };
  {
    std::optional<core::AllocatorCore::Gate> inside_a_call;
    if (is_nested()) inside_a_call.emplace(*allocator_->core());
    EXPECT_TRUE(SteppedCall::stopped_at(
        1, [&] { told = let_go(made.block); }, inside));
    pinner.wait();
    if (is_nested() && told == Error::kReentered) told = let_go(made.block);
  }
  EXPECT_GT(changes, 20u);
  EXPECT_TRUE(held || !late);
  EXPECT_EQ(told, Error::kNone);
  if (pinned) EXPECT_TRUE(allocator_->unpin(*pinned).ok());
  check(made, owner, changes);
}

std::string name_of(const testing::TestParamInfo<std::tuple<Way, bool>>& tested) {
  return std::string(kWays[static_cast<int>(std::get<Way>(tested.param))]) +
         (std::get<bool>(tested.param) ? "Scrubbed" : "");
}
INSTANTIATE_TEST_SUITE_P(Ways, Threat65_FreeBesideUnpin,
                         testing::Combine(testing::Values(Way::kOwner, Way::kSized, Way::kRemote,
                                                          Way::kNested, Way::kNestedSized,
                                                          Way::kOrphan, Way::kPool, Way::kHandle,
                                                          Way::kMoved),
                                          testing::Bool()),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Ways, Threat65_RunFreedBesideUnpin,
                         testing::Combine(testing::Values(Way::kPages, Way::kPoolPages),
                                          testing::Bool()),
                         name_of);

}  // namespace
}  // namespace exclave
