// THREATS 30 and 58: what other threads still hold when a pool goes, and what a thread leaves
// behind when it ends.
#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "support/page_host_fixture.hpp"

namespace exclave {
namespace {

using testing_support::kPage;
using testing_support::PageHostFixture;

constexpr Extent kPool{std::uintptr_t{0x4000} << 32, 64 * kPage};

// A thread that does one thing after the other when it is told to, and lives in between.
class Worker {
 public:
  Worker() : thread_([this] { run(); }) {}
  ~Worker() {
    order(nullptr);
    thread_.join();
  }
  template <class F>
  void does(F work) {
    const std::function<void()> job = work;
    order(&job);
  }

 private:
  void order(const std::function<void()>* job) {
    std::unique_lock lock(mutex_);
    job_ = job;
    ordered_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !ordered_; });
  }
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return ordered_; });
      const auto* const job = job_;
      if (job != nullptr) (*job)();
      ordered_ = false;
      changed_.notify_all();
      if (job == nullptr) return;
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* job_ = nullptr;
  bool ordered_ = false;
  std::thread thread_;
};

class Threat30_BlocksInOtherHands : public PageHostFixture {
 protected:
  void SetUp() override {
    PageHostFixture::SetUp();
    id_ = attach_pool(kPool);
  }
  std::vector<untrusted_bytes> take(RegionId id, int count) {
    std::vector<untrusted_bytes> blocks;
    for (int i = 0; i < count; ++i) {
      const auto block = allocator_->allocate(i % 5 == 0 ? 5000 : 100, 16, Placement::in_pool(id));
      EXPECT_TRUE(block.ok());
      if (block.ok()) blocks.push_back(*block);
    }
    return blocks;
  }
  RegionId id_;
};

TEST_F(Threat30_BlocksInOtherHands, CachedOnesDoNotKeepThePool) {
  Worker other;
  other.does([&] {
    for (const untrusted_bytes block : take(id_, 40))
      EXPECT_TRUE(allocator_->deallocate(block).ok());
  });
  // Freed all, by a thread that lives and has them at hand.
  EXPECT_TRUE(allocator_->detach(kPool).ok());
  EXPECT_EQ(book(kPool.base, 1), ".");
  // The thread goes on, and gets nothing of the old pool.
  other.does([&] {
    EXPECT_EQ(allocator_->allocate(100, 16, Placement::in_pool(id_)).error(), Error::kNotFound);
    const auto block = allocator_->allocate(100);
    ASSERT_TRUE(block.ok());
    EXPECT_FALSE(kPool.contains(block->address()));
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
  });
}

TEST_F(Threat30_BlocksInOtherHands, LiveOnesAreBusyAndStaleAfterRevoke) {
  Worker other;
  std::vector<untrusted_bytes> blocks;
  other.does([&] { blocks = take(id_, 40); });
  EXPECT_EQ(allocator_->detach(kPool).error(), Error::kBusy);
  ASSERT_TRUE(allocator_->detach(kPool, DetachMode::kRevoke).ok());
  // Another life at the same addresses, with blocks of its own.
  const auto second = allocator_->attach(kPool);
  ASSERT_TRUE(second.ok());
  EXPECT_NE(*second, id_);
  other.does([&] {
    for (const untrusted_bytes block : blocks) {
      EXPECT_EQ(allocator_->deallocate_handle(block, id_).error(), Error::kStale);
      EXPECT_FALSE(allocator_->deallocate(block).ok()) << "nothing is live there";
    }
  });
  const auto mine = take(*second, 40);
  EXPECT_EQ(allocator_->statistics().live_blocks, 40u);
  for (const untrusted_bytes block : mine) EXPECT_TRUE(allocator_->deallocate(block).ok());
  EXPECT_TRUE(allocator_->detach(kPool).ok());
}

TEST_F(Threat30_BlocksInOtherHands, ADrainEndsWithTheLastOneInAnyHand) {
  Worker first;
  Worker second;
  std::vector<untrusted_bytes> blocks;
  first.does([&] { blocks = take(id_, 30); });
  ASSERT_TRUE(allocator_->detach(kPool, DetachMode::kDrain).ok());
  second.does([&] {
    for (std::size_t i = 0; i < 15; ++i) EXPECT_TRUE(allocator_->deallocate(blocks[i]).ok());
  });
  EXPECT_EQ(book(kPool.base, 1), "P");
  first.does([&] {
    for (std::size_t i = 15; i < 30; ++i) EXPECT_TRUE(allocator_->deallocate(blocks[i]).ok());
  });
  EXPECT_EQ(book(kPool.base, 1), ".") << "gone with its last block";
}

using Threat58_ThreadsThatEnd = PageHostFixture;

TEST_F(Threat58_ThreadsThatEnd, AFullCacheIsNotLost) {
  std::size_t grown = 0;
  for (int generation = 0; generation < 200; ++generation) {
    std::thread([&] {
      std::vector<untrusted_bytes> blocks;
      for (std::size_t i = 0; i < 2000; ++i) {
        const auto block = allocator_->allocate(16 + i % 40 * 64);
        ASSERT_TRUE(block.ok());
        blocks.push_back(*block);
      }
      for (const untrusted_bytes block : blocks) ASSERT_TRUE(allocator_->deallocate(block).ok());
    }).join();
    const Statistics s = allocator_->statistics();
    ASSERT_EQ(s.live_blocks, 0u);
    if (generation == 2) grown = s.grown_bytes;
    if (generation > 2) {
      ASSERT_EQ(s.grown_bytes, grown) << "each thread leaves something behind";
    }
  }
  allocator_->trim();
  EXPECT_EQ(allocator_->statistics().grown_bytes, 0u) << "nobody holds anything";
}

TEST_F(Threat58_ThreadsThatEnd, TheNextThreadInTheSlotStartsClean) {
  // Live blocks of a thread that ended, freed by one that came into its slot, while their owner's
  // heap is somebody else's: each free counts once.
  std::vector<untrusted_bytes> blocks;
  for (int generation = 0; generation < 50; ++generation) {
    std::thread([&] {
      for (const untrusted_bytes block : blocks) {
        ASSERT_TRUE(allocator_->deallocate(block).ok());
        ASSERT_EQ(allocator_->deallocate(block).error(), Error::kDoubleFree);
      }
      blocks.clear();
      for (std::size_t i = 0; i < 500; ++i) {
        const auto block = allocator_->allocate(16 + i % 7 * 100);
        ASSERT_TRUE(block.ok());
        ASSERT_EQ(std::count(blocks.begin(), blocks.end(), *block), 0) << "handed out twice";
        blocks.push_back(*block);
      }
    }).join();
    ASSERT_EQ(allocator_->statistics().live_blocks, 500u);
    ASSERT_TRUE(allocator_->validate_books());
  }
  for (const untrusted_bytes block : blocks) EXPECT_TRUE(allocator_->deallocate(block).ok());
}

}  // namespace
}  // namespace exclave
