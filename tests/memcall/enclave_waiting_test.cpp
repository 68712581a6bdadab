// Threads that want the same pages of the enclave's own memory, or fork beside them.
#include "support/manager_fixture.hpp"

#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "support/worker.hpp"

namespace exclave {
namespace {

using testing_support::done_before_it_waits;
using testing_support::FakePages;
using testing_support::ManagerFixture;

// What another thread does while an operation of this one is under way.
class WaitingTest : public ManagerFixture {
 protected:
  // Runs `first` and, while its pages are under way, starts `second` on another thread, which must
  // not get through before.
  template <class First, class Second>
  void second_waits(First first, Second second) {
    std::atomic<bool> done{false};
    std::atomic<bool> started{false};
    std::thread other;
    pages_.during = [&](Op) {
      if (started.exchange(true)) return;
      other = std::thread([&] {
        second();
        done = true;
      });
      EXPECT_FALSE(done_before_it_waits(other.native_handle(), [&] { return done.load(); }));
    };
    first();
    ASSERT_TRUE(started);
    other.join();
    pages_.during = nullptr;
    EXPECT_TRUE(done);
  }
};

TEST_F(WaitingTest, UnmapWaitsForProtect) {
  ASSERT_EQ(map(0, 4), answer(0));
  second_waits([&] { EXPECT_EQ(protect(1, 1, PROT_READ), 0); }, [&] { EXPECT_EQ(unmap(0, 4), 0); });
  EXPECT_EQ(picture(5), ".....");
}

TEST_F(WaitingTest, ProtectWaitsForMap) {
  second_waits([&] { EXPECT_EQ(map(0, 4), answer(0)); },
               [&] { EXPECT_EQ(protect(1, 1, PROT_READ), 0); });
  EXPECT_EQ(picture(5), "brbb.");
}

TEST_F(WaitingTest, MapWaitsForUnmap) {
  ASSERT_EQ(map(0, 4), answer(0));
  second_waits([&] { EXPECT_EQ(unmap(1, 2), 0); },
               [&] { EXPECT_EQ(map(2, 1, PROT_READ), answer(2)); });
  EXPECT_EQ(picture(5), "b.rb.");
}

// What is unmapped is held from its first page to its last, holes and all.
TEST_F(WaitingTest, AHoleInWhatIsUnmappedIsFreeAllTheSame) {
  ASSERT_EQ(map(0, 1), answer(0));
  ASSERT_EQ(map(4, 1), answer(4));
  second_waits([&] { EXPECT_EQ(unmap(0, 5), 0); },
               [&] {
                 EXPECT_EQ(map(2, 1, PROT_READ, kPrivate | MAP_FIXED_NOREPLACE), answer(2));
                 EXPECT_EQ(map(2, 1, PROT_READ, kPrivate | MAP_FIXED_NOREPLACE), -EEXIST);
               });
  EXPECT_EQ(picture(5), "..r..");
}

TEST_F(WaitingTest, RemapWaitsForBothEnds) {
  ASSERT_EQ(map(0, 2), answer(0));
  ASSERT_EQ(map(4, 2), answer(4));
  second_waits([&] { EXPECT_EQ(protect(0, 2, PROT_READ), 0); },
               [&] { EXPECT_EQ(remap(0, 2, 2, MREMAP_MAYMOVE | MREMAP_FIXED, 8), answer(8)); });
  second_waits([&] { EXPECT_EQ(protect(4, 2, PROT_READ), 0); },
               [&] { EXPECT_EQ(remap(8, 2, 2, MREMAP_MAYMOVE | MREMAP_FIXED, 4), answer(4)); });
  EXPECT_EQ(picture(11), "....rr.....");
}

TEST_F(WaitingTest, RemapWaitsForAreasThatBecomeOne) {
  ASSERT_EQ(map(0, 6), answer(0));
  ASSERT_EQ(protect(3, 1, PROT_READ), 0);
  second_waits([&] { EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, page(0), kPage, MADV_FREE), 0); },
               [&] {
                 EXPECT_EQ(protect(3, 1, kReadWrite), 0);
                 EXPECT_EQ(remap(1, 5, 5, MREMAP_MAYMOVE | MREMAP_FIXED, 8), answer(8));
               });
  EXPECT_EQ(picture(14), "b.......bbbbb.");
}

TEST_F(WaitingTest, WalksWait) {
  ASSERT_EQ(map(0, 2), answer(0));
  second_waits([&] { EXPECT_EQ(protect(0, 2, PROT_READ), 0); },
               [&] { EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, page(0), kPage, MADV_COLD), 0); });
  second_waits([&] { EXPECT_EQ(protect(0, 2, kReadWrite), 0); },
               [&] { EXPECT_EQ(manager_->advise(EXCLAVE_MLOCK, page(0), kPage, 0), 0); });
}

TEST_F(WaitingTest, TheBreakMovesOnceAtATime) {
  second_waits([&] { EXPECT_EQ(manager_->set_break(page(2)), page(2)); },
               [&] { EXPECT_EQ(manager_->set_break(page(1)), page(1)); });
  EXPECT_EQ(picture(3), "b..");
}

TEST_F(WaitingTest, AForkWaitsForPages) {
  second_waits([&] { EXPECT_EQ(map(0, 2), answer(0)); },
               [&] {
                 EXPECT_TRUE(manager_->before_fork().ok());
                 EXPECT_EQ(map(4, 1), -EBUSY) << "a handler of this thread";
                 manager_->after_fork_in_parent();
                 EXPECT_TRUE(manager_->before_fork().ok());
                 manager_->after_fork_in_child();
               });
  EXPECT_EQ(map(4, 1), answer(4));
}

// However busy the others are; they wait for it.
TEST_F(WaitingTest, AForkIsNotKeptOut) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  pages_.during = [](Op) {
    for (int i = 0; i < 1000; ++i) __builtin_ia32_pause();  // most of a call's time
  };
  for (std::size_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      while (!stop) {
        EXPECT_EQ(map(4 * i, 2), answer(4 * i));
        EXPECT_EQ(unmap(4 * i, 2), 0);
      }
    });
  }
  for (int round = 0; round < 10; ++round) {
    EXPECT_TRUE(manager_->before_fork().ok());
    manager_->after_fork_in_parent();
    std::this_thread::yield();
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  pages_.during = nullptr;
}

// A fork that waits for a call of this thread, and a call of another thread that lets it go first.
class ForkFirstTest : public ManagerFixture {
 protected:
  struct WaitingPages : FakePages {
    void wait() noexcept {
      if (in_wait) in_wait();
    }
    static inline thread_local std::function<void()> in_wait;
  };

  void SetUp() override {
    auto made = EnclaveManager::create(port_table(), bind_enclave_pages(waiting_pages_), options());
    ASSERT_TRUE(made.ok());
    manager_.emplace(std::move(made.value()));
  }
  // In the middle of a call, when the fork waits for it.
  void while_a_fork_waits(const std::function<void()>& then) {
    std::thread forker;
    waiting_pages_.during = [&](Op) {
      if (begun_.exchange(true)) return;
      forker = std::thread([&] {
        WaitingPages::in_wait = [&] { fork_waits_ = true; };
        EXPECT_TRUE(manager_->before_fork().ok());
        manager_->after_fork_in_parent();
        fork_over_ = true;
      });
      while (!fork_waits_) std::this_thread::yield();
      then();
    };
    EXPECT_EQ(map(0, 1), answer(0));
    forker.join();
  }
  // The call of the other thread; and how often it waited, but for its first 8 short waits.
  unsigned map_and_count(const std::function<void()>& in_each_wait) {
    unsigned waits = 0;
    WaitingPages::in_wait = [&] {
      ++waits;
      in_each_wait();
    };
    EXPECT_EQ(map(4, 1), answer(4));
    WaitingPages::in_wait = nullptr;
    return waits;
  }

  WaitingPages waiting_pages_;
  std::atomic<bool> fork_over_{false};

 private:
  std::atomic<bool> begun_{false};
  std::atomic<bool> fork_waits_{false};
};

TEST_F(ForkFirstTest, ForAWhileOnly) {
  while_a_fork_waits([&] {
    std::thread([&] { EXPECT_EQ(map_and_count([] {}), 256u - 8); }).join();
    EXPECT_FALSE(fork_over_);
  });
}

TEST_F(ForkFirstTest, NotACallInsideTheCallThatTheForkWaitsFor) {
  while_a_fork_waits([&] { EXPECT_EQ(map_and_count([] {}), 0u); });
}

TEST_F(ForkFirstTest, NotWhenTheForkIsOver) {
  std::atomic<bool> waits{false};
  std::thread caller;
  while_a_fork_waits([&] {
    caller = std::thread([&] {
      EXPECT_EQ(map_and_count([&] {
                  waits = true;
                  while (!fork_over_) std::this_thread::yield();
                }),
                1u);
    });
    while (!waits) std::this_thread::yield();
  });
  caller.join();
}

TEST_F(WaitingTest, ThreeThreadsLeaveBooksAndPagesInAgreement) {
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 3; ++seed) {
    threads.emplace_back([this, seed] {
      std::mt19937 random(seed);
      for (int step = 0; step < 3000; ++step) {
        const std::size_t first = random() % 32;
        const std::size_t count = 1 + random() % 6;
        const std::size_t to = random() % 32;
        std::intptr_t answer = 0;
        switch (random() % 6) {
          case 0:
            answer = map(first, count, random() % 2 == 0 ? PROT_READ : kReadWrite);
            break;
          case 1:
            answer = map_file(first, count);
            break;
          case 2:
            answer = unmap(first, count);
            break;
          case 3:
            answer = protect(first, count, random() % 2 == 0 ? PROT_READ : kReadWrite);
            break;
          case 4:
            answer = remap(first, count, 1 + random() % 6, MREMAP_MAYMOVE);
            break;
          default:
            answer = remap(first, count, count, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        }
        EXPECT_TRUE(answer >= 0 || answer == -ENOMEM || answer == -EFAULT || answer == -EINVAL)
            << answer;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  picture();
  EXPECT_EQ(unmap(0, kPages), 0);
  EXPECT_EQ(pages_.count(), 0u);
}

}  // namespace
}  // namespace exclave
