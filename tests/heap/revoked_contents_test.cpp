// The library's own work on bytes of a pool (zeroing, copying, scrubbing) beside detach: when
// detach has answered, not one byte is touched any more.
//
// The work is stopped in its middle, by a page that faults.
#include <gtest/gtest.h>
#include <setjmp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>

#include "heap/core.hpp"
#include "support/end_child.hpp"
#include "support/fake_allocator.hpp"
#include "support/fault_stop.hpp"
#include "support/worker.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class RevokedContentsTest : public FakeAllocatorTest {
 protected:
  static constexpr std::size_t kPoolBytes = 4 * kMiBytes;
  static constexpr std::size_t kBlockBytes = kMiBytes;
  static constexpr std::size_t kStop = 512 * kKiBytes;  // into the block

  void SetUp() override {
    FakeAllocatorTest::SetUp();
    memory_.emplace(2 * kPoolBytes);
    std::memset(memory_->at(memory_->range().base), 0xee, 2 * kPoolBytes);
  }
  // The one that is revoked, and one that stays.
  Extent range() const { return {memory_->range().base, kPoolBytes}; }
  Extent other_range() const { return {range().end(), kPoolBytes}; }
  void start_scrubbing() {
    Config config;
    config.scrub_on_free = true;
    start(config);
  }
  Error revoke(Extent pool) { return allocator_->detach(pool, DetachMode::kRevoke).error(); }

  // `work` stops at that page. Meanwhile a revoke waits; and when it has answered, all bytes of the
  // pool are its caller's.
  template <class Work>
  void work_beside_revoke(std::uintptr_t page, const Work& work) {
    memory_->close_page(page);
    Worker worker, revoker;
    worker.start(work);
    memory_->wait_until_stopped();
    Error answer = Error::kWouldBlock;
    std::atomic<bool> answered = false;
    revoker.start([&] {
      answer = revoke(range());
      answered = true;
      std::memset(memory_->at(range().base), 'x', kPoolBytes);  // stops at that page, too
    });
    (void)revoker.wait_a_little();
    EXPECT_FALSE(answered) << error_text(answer);
    memory_->let_go_on();
    worker.wait();
    revoker.wait();
    EXPECT_EQ(answer, Error::kNone);
    const unsigned char* const bytes = memory_->at(range().base);
    EXPECT_EQ(std::count(bytes, bytes + kPoolBytes, 'x'), static_cast<long>(kPoolBytes))
        << "the library wrote to what was not its own any more";
    EXPECT_FALSE(allocator_->query(range().base, 1).ok());
    EXPECT_TRUE(misuses_.empty());
  }
  std::uintptr_t page_in(std::uintptr_t block) const { return block + kStop; }
  // The pool has one block that is that long, and the next is at the same place.
  std::uintptr_t place_of_block(RegionId pool) {
    const std::uintptr_t block = allocate(kBlockBytes, 16, Placement::in_pool(pool));
    EXPECT_EQ(free(block), Error::kNone);
    return block;
  }

  std::optional<FaultStop> memory_;
};

using Threat64_ContentsBesideRevoke = RevokedContentsTest;

TEST_F(Threat64_ContentsBesideRevoke, Zeroing) {
  const RegionId pool = attach(range());
  const std::uintptr_t block = place_of_block(pool);
  Error told = Error::kNone;
  work_beside_revoke(page_in(block), [&] {
    told = allocator_->allocate_zeroed(kBlockBytes, 16, Placement::in_pool(pool)).error();
  });
  EXPECT_EQ(told, Error::kNotFound);
}

TEST_F(Threat64_ContentsBesideRevoke, CopyingToAPool) {
  const RegionId pool = attach(range());
  const std::uintptr_t block = place_of_block(pool);
  const RegionId other = attach(other_range());
  const std::uintptr_t from = allocate(kBlockBytes, 16, Placement::in_pool(other));
  Error told = Error::kNone;
  work_beside_revoke(page_in(block), [&] {
    told =
        allocator_->reallocate(bytes_at(from), kBlockBytes, 16, Placement::in_pool(pool)).error();
  });
  EXPECT_EQ(told, Error::kNotFound);
  EXPECT_EQ(usable(from), kBlockBytes) << "the old block is as it was";
  EXPECT_EQ(free(from), Error::kNone);
  EXPECT_TRUE(allocator_->detach(other_range()).ok());
}

// Whoever unmaps it then must not see the library fault.
TEST_F(Threat64_ContentsBesideRevoke, CopyingFromAPool) {
  const RegionId pool = attach(range());
  const RegionId other = attach(other_range());
  const std::uintptr_t from = allocate(kBlockBytes, 16, Placement::in_pool(pool));
  Error told = Error::kNone;
  work_beside_revoke(page_in(from), [&] {
    told =
        allocator_->reallocate(bytes_at(from), kBlockBytes, 16, Placement::in_pool(other)).error();
  });
  EXPECT_EQ(told, Error::kStale);
  EXPECT_TRUE(allocator_->detach(other_range()).ok()) << "the new block is free again";
}

TEST_F(Threat64_ContentsBesideRevoke, CopyingTheLastPieceOfAPool) {
  const RegionId pool = attach(range());
  const RegionId other = attach(other_range());
  const std::uintptr_t from = allocate(40000, 16, Placement::in_pool(pool));
  Error told = Error::kNone;
  work_beside_revoke(from + kPageBytes, [&] {
    told = allocator_->reallocate(bytes_at(from), 40000, 16, Placement::in_pool(other)).error();
  });
  // The piece in hand was the last, and then the block's free met the revoke.
  EXPECT_TRUE(told == Error::kNone || told == Error::kStale) << error_text(told);
  EXPECT_EQ(statistics().live_blocks, told == Error::kNone ? 1u : 0u);
  EXPECT_EQ(revoke(other_range()), Error::kNone);
}

TEST_F(Threat64_ContentsBesideRevoke, ScrubbingPagesAtTheLastUnpin) {
  start_scrubbing();
  const RegionId pool = attach(range());
  const std::uintptr_t block = allocate(kBlockBytes, 16, Placement::in_pool(pool));
  const PinId pinned = pin({block, kBlockBytes});
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(revoke(range()), Error::kPinned);
  work_beside_revoke(page_in(block), [&] { EXPECT_TRUE(allocator_->unpin(pinned).ok()); });
}

TEST_F(Threat64_ContentsBesideRevoke, ScrubbingASlotAtTheLastUnpin) {
  start_scrubbing();
  const RegionId pool = attach(range());
  const std::uintptr_t block = allocate(2 * kPageBytes, kPageBytes, Placement::in_pool(pool));
  const PinId pinned = pin({block, 64});
  EXPECT_EQ(free(block), Error::kNone);
  work_beside_revoke(block + kPageBytes, [&] { EXPECT_TRUE(allocator_->unpin(pinned).ok()); });
}

TEST_F(Threat64_ContentsBesideRevoke, ScrubbingPagesThatAreFreed) {
  start_scrubbing();
  const RegionId pool = attach(range());
  const std::uintptr_t block = allocate(kBlockBytes, 16, Placement::in_pool(pool));
  work_beside_revoke(page_in(block), [&] { EXPECT_EQ(free(block), Error::kNone); });
}

TEST_F(Threat64_ContentsBesideRevoke, ScrubbingTheTailOfABlockThatShrinks) {
  start_scrubbing();
  const RegionId pool = attach(range());
  const std::uintptr_t block = allocate(kBlockBytes, 16, Placement::in_pool(pool));
  work_beside_revoke(page_in(block),
                     [&] { EXPECT_TRUE(allocator_->reallocate(bytes_at(block), kStop).ok()); });
}

// A free in a signal handler, inside another call of the thread, can take no lock.
TEST_F(Threat64_ContentsBesideRevoke, ScrubbingASlotThatIsFreedInsideACall) {
  start_scrubbing();
  const RegionId pool = attach(range());
  const std::uintptr_t block = allocate(2 * kPageBytes, kPageBytes, Placement::in_pool(pool));
  work_beside_revoke(block + kPageBytes, [&] {
    core::AllocatorCore::Gate inside(*allocator_->core());
    EXPECT_EQ(free(block), Error::kNone);
  });
}

// ---- How detach waits ----

// Not for the rest of the block.
TEST_F(RevokedContentsTest, TheWorkEndsWithThePieceInHand) {
  const RegionId pool = attach(range());
  const std::uintptr_t block = place_of_block(pool);
  memory_->close_page(page_in(block));
  Worker worker, revoker;
  worker.start([&] {
    EXPECT_FALSE(allocator_->allocate_zeroed(kBlockBytes, 16, Placement::in_pool(pool)).ok());
  });
  memory_->wait_until_stopped();
  revoker.start([&] { EXPECT_EQ(revoke(range()), Error::kNone); });
  EXPECT_FALSE(revoker.wait_a_little());
  memory_->let_go_on();
  worker.wait();
  revoker.wait();
  const unsigned char* const bytes = memory_->at(block);
  EXPECT_EQ(bytes[kStop - 1], 0);
  EXPECT_EQ(bytes[kStop + Door::kPieceBytes], 0xee);
}

TEST_F(RevokedContentsTest, AStoppedThreadMakesThePoolBusy) {
  const RegionId pool = attach(range());
  const std::uintptr_t block = place_of_block(pool);
  memory_->close_page(page_in(block));
  Worker worker;
  Error told = Error::kNone;
  worker.start([&] {
    told = allocator_->allocate_zeroed(kBlockBytes, 16, Placement::in_pool(pool)).error();
  });
  memory_->wait_until_stopped();
  EXPECT_EQ(revoke(range()), Error::kBusy);
  // Nothing has changed: it is served from, and work on other blocks goes on.
  const Result<untrusted_bytes> other =
      allocator_->allocate_zeroed(64, 16, Placement::in_pool(pool));
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(free(other->address()), Error::kNone);
  EXPECT_EQ(allocator_->detach(range(), DetachMode::kBusy).error(), Error::kBusy);
  memory_->let_go_on();
  worker.wait();
  EXPECT_EQ(told, Error::kNone) << "it was not between two pieces meanwhile";
  EXPECT_EQ(revoke(range()), Error::kNone);
}

TEST_F(RevokedContentsTest, AHandlerInsideTheWorkHearsReentered) {
  const RegionId pool = attach(range());
  const std::uintptr_t block = place_of_block(pool);
  Error detached = Error::kNone, forked = Error::kNone;
  std::function<void()> inside = [&] {
    detached = revoke(range());
    forked = allocator_->before_fork().error();
    memory_->let_go_on();
  };
  memory_->close_page(page_in(block), &inside);
  EXPECT_TRUE(allocator_->allocate_zeroed(kBlockBytes, 16, Placement::in_pool(pool)).ok());
  EXPECT_EQ(detached, Error::kReentered);
  EXPECT_EQ(forked, Error::kReentered);
  EXPECT_EQ(revoke(range()), Error::kNone);
}

// Somebody frees, by chance, the block that another thread is about to be given.
TEST_F(RevokedContentsTest, ADrainWaitsForTheWorkToo) {
  std::atomic<int> gone = 0;
  AttachOptions options;
  options.gone = [](void* context, std::uint64_t, std::uintptr_t, std::size_t) {
    ++*static_cast<std::atomic<int>*>(context);
  };
  options.gone_context = &gone;
  const RegionId pool = attach(range(), options);
  const std::uintptr_t block = place_of_block(pool);
  memory_->close_page(page_in(block));
  Worker worker;
  worker.start(
      [&] { (void)allocator_->allocate_zeroed(kBlockBytes, 16, Placement::in_pool(pool)); });
  memory_->wait_until_stopped();
  EXPECT_EQ(allocator_->detach(range(), DetachMode::kDrain).error(), Error::kNone);
  EXPECT_EQ(free(block), Error::kNone);
  EXPECT_EQ(gone, 0) << "the library is at work there";
  allocator_->flush_thread();
  EXPECT_EQ(gone, 0);
  memory_->let_go_on();
  worker.wait();
  EXPECT_EQ(gone, 1) << "gone with the work, without a further call";
  EXPECT_FALSE(allocator_->query(range().base, 1).ok());
}

TEST_F(RevokedContentsTest, AWaitThatFindsAPinGivesUp) {
  const RegionId pool = attach(range());
  const std::uintptr_t other = allocate(64, 16, Placement::in_pool(pool));
  const std::uintptr_t block = place_of_block(pool);
  memory_->close_page(page_in(block));
  Worker worker, revoker;
  worker.start(
      [&] { (void)allocator_->allocate_zeroed(kBlockBytes, 16, Placement::in_pool(pool)); });
  memory_->wait_until_stopped();
  Error answer = Error::kNone;
  revoker.start([&] { answer = revoke(range()); });
  EXPECT_FALSE(revoker.wait_a_little());
  const PinId pinned = pin({other, 64});
  revoker.wait();
  EXPECT_EQ(answer, Error::kPinned);
  memory_->let_go_on();
  worker.wait();
  EXPECT_TRUE(allocator_->allocate_zeroed(64, 16, Placement::in_pool(pool)).ok());
  EXPECT_TRUE(allocator_->unpin(pinned).ok());
  EXPECT_EQ(revoke(range()), Error::kNone);
}

// ---- Threads that never come back ----

TEST_F(RevokedContentsTest, AThreadThatEndsInTheMiddleHoldsNothing) {
  const RegionId pool = attach(range());
  const std::uintptr_t block = place_of_block(pool);
  static thread_local sigjmp_buf way_out;
  std::function<void()> inside = [] { siglongjmp(way_out, 1); };
  memory_->close_page(page_in(block), &inside);
  std::thread([&] {
    if (sigsetjmp(way_out, 1) == 0)
      (void)allocator_->allocate_zeroed(kBlockBytes, 16, Placement::in_pool(pool));
  }).join();
  EXPECT_EQ(revoke(range()), Error::kNone);
}

// Its memory is the child's, too.
TEST_F(RevokedContentsTest, TheChildOfAForkHasNobodyInside) {
  const RegionId pool = attach(range());
  const std::uintptr_t block = place_of_block(pool);
  memory_->close_page(page_in(block));
  Worker worker;
  worker.start(
      [&] { (void)allocator_->allocate_zeroed(kBlockBytes, 16, Placement::in_pool(pool)); });
  memory_->wait_until_stopped();
  ASSERT_TRUE(allocator_->before_fork().ok());
  const pid_t child = fork();
  if (child == 0) {
    allocator_->after_fork_in_child();
    end_child(revoke(range()) == Error::kNone ? 0 : 1);
  }
  allocator_->after_fork_in_parent();
  memory_->let_go_on();
  worker.wait();
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_EQ(revoke(range()), Error::kNone);
}

}  // namespace
}  // namespace exclave
