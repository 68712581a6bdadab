// THREATS 56: a signal in the middle of any call, whose handler calls again. It works or answers
// kReentered, and nothing breaks.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/time.h>

#include <array>
#include <atomic>
#include <ctime>
#include <functional>
#include <thread>
#include <utility>

#include "exclave/memory_calls.hpp"
#include "heap/core.hpp"
#include "support/fake_allocator.hpp"
#include "support/sanitizers.hpp"
#include "support/worker.hpp"

namespace exclave {
namespace {

using namespace testing_support;

// What the handler uses: no memory of its own is taken while it runs.
struct HandlerState {
  Allocator* allocator = nullptr;
  std::uintptr_t pinned_pages = 0;
  std::array<std::uintptr_t, 64> held{};
  std::size_t count = 0;
  std::uint64_t runs = 0, served = 0, reentered = 0, freed = 0, unexpected = 0;
  unsigned random = 1;
};
HandlerState state;

void on_signal(int) {
  Allocator& allocator = *state.allocator;
  ++state.runs;
  state.random = state.random * 1103515245u + 12345u;
  const unsigned dice = state.random >> 16;
  const auto expect = [](Error error) {
    if (error == Error::kReentered) ++state.reentered;
    if (error != Error::kNone && error != Error::kReentered) ++state.unexpected;
  };
  if (dice % 2 == 0 && state.count < state.held.size()) {
    const Result<untrusted_bytes> block =
        allocator.allocate(dice % 5 == 0 ? 50000 : 16 + dice % 900);
    expect(block.error());
    if (block.ok()) {
      ++state.served;
      state.held[state.count++] = block->address();
    }
  } else if (state.count != 0) {
    const std::uintptr_t block = state.held[state.count - 1];
    expect(allocator.usable_size(bytes_at(block)).error());
    const Error freed = allocator.deallocate(bytes_at(block)).error();
    expect(freed);
    if (freed == Error::kNone) {
      ++state.freed;
      --state.count;
    }
  }
  switch (dice % 16) {
    case 0:
      allocator.flush_thread();
      break;
    case 1:
      expect(allocator.next_region(0).error());
      break;
    case 2:
      expect(allocator.region_of(bytes_at(state.pinned_pages)).error());
      break;
    case 3:
      (void)allocator.statistics();
      break;
    case 4: {
      const Result<PinId> pin = allocator.pin({state.pinned_pages, 8});
      expect(pin.error());
      if (pin.ok()) expect(allocator.unpin(*pin).error());
      break;
    }
    case 5:
      expect(allocator.reallocate(bytes_at(state.pinned_pages), 100000).error());
      break;
    case 6: {
      const Extent range{FakePort::kAttachBase, 64 * kKiBytes};
      const Result<RegionId> id = allocator.attach(range);
      expect(id.error());
      // Must go again: outside a call it is sure to.
      if (id.ok()) expect(allocator.detach(range).error());
      break;
    }
    case 7:
      if (!allocator.query(state.pinned_pages, 100).ok()) ++state.unexpected;
      break;
    case 8: {
      // More than is there: the port is asked, and gets it back.
      const Result<untrusted_bytes> huge = allocator.allocate(256 * kMiBytes);
      expect(huge.error());
      if (huge.ok()) expect(allocator.deallocate(*huge).error());
      allocator.trim();
      break;
    }
    default:
      break;
  }
}

class SignalsTest : public FakeAllocatorTest {
 protected:
  // Signals come to this thread, many times, while the body runs.
  template <class F>
  void with_signals(F body) {
    state = HandlerState{};
    state.allocator = &*allocator_;
    state.pinned_pages = allocate(100000);
    struct sigaction action {};
    action.sa_handler = &on_signal;
    action.sa_flags = SA_RESTART;
    struct sigaction before {};
    ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
    std::atomic<bool> stop = false;
    const pthread_t target = pthread_self();
    std::thread sender([&] {
      do {  // once at least, however late it comes to run
        pthread_kill(target, SIGUSR1);
        timespec pause{0, 20000};
        nanosleep(&pause, nullptr);
      } while (!stop);
    });
    body();
    stop = true;
    sender.join();
    ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
    while (state.count != 0) {
      EXPECT_EQ(free(state.held[--state.count]), Error::kNone);
    }
    EXPECT_EQ(free(state.pinned_pages), Error::kNone);
    EXPECT_GT(state.runs, 0u);
    EXPECT_EQ(state.unexpected, 0u);
    allocator_->flush_thread();
    EXPECT_TRUE(allocator_->validate_books());
    RecordProperty("runs", static_cast<int>(state.runs));
    RecordProperty("reentered", static_cast<int>(state.reentered));
  }
  static double seconds() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
  }
};

TEST_F(SignalsTest, Threat56HandlersThatAllocateAndFreeBreakNothing) {
  with_signals([&] {
    const double end = seconds() + 1.5;
    std::vector<std::uintptr_t> blocks;
    blocks.reserve(2000);
    unsigned random = 7;
    while (seconds() < end) {
      for (int i = 0; i < 1000; ++i) {
        random = random * 1664525u + 1013904223u;
        const unsigned dice = random >> 12;
        if (dice % 2 == 0 && blocks.size() < 1500) {
          const std::uintptr_t block = allocate(dice % 11 == 0 ? 40000 : 16 + dice % 900);
          ASSERT_NE(block, 0u);
          blocks.push_back(block);
        } else if (!blocks.empty()) {
          std::swap(blocks[dice % blocks.size()], blocks.back());
          ASSERT_EQ(free(blocks.back()), Error::kNone);
          blocks.pop_back();
        }
        if (dice % 509 == 0) allocator_->flush_thread();
      }
    }
    for (const std::uintptr_t block : blocks) ASSERT_EQ(free(block), Error::kNone);
  });
  EXPECT_EQ(statistics().live_blocks, 0u);
}

TEST_F(SignalsTest, Threat56LookingAtPagesIsInterruptedToo) {
  with_signals([&] {
    const double end = seconds() + 0.5;
    const std::uintptr_t large = allocate(60000);
    while (seconds() < end) {
      for (int i = 0; i < 1000; ++i) {
        ASSERT_EQ(usable(large), 61440u);
        ASSERT_TRUE(allocator_->region_of(bytes_at(large)).ok());
        ASSERT_TRUE(allocator_->next_region(0).ok());
        ASSERT_EQ(allocator_->reallocate(bytes_at(large), 60001)->address(), large);
      }
    }
    ASSERT_EQ(free(large), Error::kNone);
  });
}

// A thread's first call makes its heap, its end gives it up: the handler comes in there, too.
TEST_F(SignalsTest, Threat56FirstAndLastCallsOfAThreadAreInterrupted) {
  state = HandlerState{};
  state.allocator = &*allocator_;
  state.pinned_pages = allocate(100000);
  struct sigaction action {};
  action.sa_handler = &on_signal;
  struct sigaction before {};
  ASSERT_EQ(sigaction(SIGALRM, &action, &before), 0);
  const int kThreads = kSanitized ? 200 : 1500;
  for (int i = 0; i < kThreads; ++i) {
    std::thread thread([&] {
      // The timer's signals go to any thread of the process; the main one blocks them below.
      for (int n = 0; n < 3; ++n) {
        const std::uintptr_t block = allocate(64 + static_cast<std::size_t>(n) * 100);
        if (block != 0) EXPECT_EQ(free(block), Error::kNone);
      }
    });
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    itimerval timer{};
    // Once: at short intervals the thread might do nothing but handle signals.
    timer.it_value.tv_usec = 1 + i % 150;
    setitimer(ITIMER_REAL, &timer, nullptr);
    thread.join();
    timer = {};
    setitimer(ITIMER_REAL, &timer, nullptr);
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
  }
  ASSERT_EQ(sigaction(SIGALRM, &before, nullptr), 0);
  EXPECT_EQ(state.unexpected, 0u);
  while (state.count != 0) (void)free(state.held[--state.count]);
  EXPECT_EQ(free(state.pinned_pages), Error::kNone);
  allocator_->flush_thread();
  EXPECT_TRUE(allocator_->validate_books());
}

// ---- What a nested call answers, without waiting for luck: the port's trusted half is called in
// the middle. ----

class NestedCallsTest : public FakeAllocatorTest {
 protected:
  // The port's table, with a hook in trusted_reserve, which runs inside calls, under locks.
  void start_hooked(const Config& config = {}) {
    allocator_.reset();
    hooked_ = port_.table();
    hooked_.context = this;
    hooked_.enclave = [](void* c) { return real(c).enclave(real(c).context); };
    hooked_.book_window = [](void* c) { return real(c).book_window(real(c).context); };
    hooked_.trusted_reserve = [](void* c, std::size_t bytes) {
      NestedCallsTest& test = *static_cast<NestedCallsTest*>(c);
      if (test.nested_) std::exchange(test.nested_, nullptr)();
      return real(c).trusted_reserve(real(c).context, bytes);
    };
    hooked_.trusted_release = [](void* c, void* memory, std::size_t bytes) {
      real(c).trusted_release(real(c).context, memory, bytes);
    };
    hooked_.entropy = [](void* c, void* memory, std::size_t bytes) {
      return real(c).entropy(real(c).context, memory, bytes);
    };
    hooked_.host_reserve = [](void* c, std::size_t bytes, std::size_t alignment) {
      return real(c).host_reserve(real(c).context, bytes, alignment);
    };
    hooked_.host_release = [](void* c, std::uintptr_t address, std::size_t bytes) {
      return real(c).host_release(real(c).context, address, bytes);
    };
    Config made = config;
    made.misuse = [](void* c, std::int32_t error, std::uintptr_t, std::size_t) {
      static_cast<NestedCallsTest*>(c)->told_.push_back(static_cast<Error>(error));
    };
    made.misuse_context = this;
    auto created = Allocator::create(hooked_, made);
    ASSERT_TRUE(created.ok());
    allocator_.emplace(std::move(created.value()));
  }
  static PortTable& real(void* c) { return static_cast<NestedCallsTest*>(c)->real_; }
  // Runs the body in the middle of a call.
  void inside_a_call(std::function<void()> body) {
    bool ran = false;
    nested_ = [&] {
      body();
      ran = true;
    };
    // Pools of a size that needs fresh books, so the port is asked.
    const Extent range = range_at(0, kGiBytes);
    ASSERT_TRUE(allocator_->attach(range).ok());
    ASSERT_TRUE(ran);
    ASSERT_TRUE(allocator_->detach(range).ok());
  }

  PortTable real_ = port_.table();
  PortTable hooked_{};
  std::function<void()> nested_;
  std::vector<Error> told_;
};

TEST_F(NestedCallsTest, EverythingButSmallFreesAndLooksAnswersReentered) {
  start_hooked();
  const std::uintptr_t small = allocate(64);
  const std::uintptr_t large = allocate(100000);
  inside_a_call([&] {
    EXPECT_EQ(allocate_error(64), Error::kReentered);
    EXPECT_EQ(allocate_error(100000), Error::kReentered);
    EXPECT_EQ(free(large), Error::kReentered);
    EXPECT_EQ(allocator_->reallocate(bytes_at(large), 50000).error(), Error::kReentered);
    EXPECT_EQ(allocator_->reallocate(bytes_at(small), 6400).error(), Error::kReentered);
    EXPECT_EQ(allocator_->usable_size(bytes_at(large)).error(), Error::kReentered);
    EXPECT_EQ(allocator_->region_of(bytes_at(large)).error(), Error::kReentered);
    EXPECT_EQ(allocator_->attach(range_at(8 * kGiBytes, kMiBytes)).error(), Error::kReentered);
    EXPECT_EQ(allocator_->detach(range_at(8 * kGiBytes, kMiBytes)).error(), Error::kReentered);
    EXPECT_EQ(allocator_->pin({small, 8}).error(), Error::kReentered);
    EXPECT_EQ(allocator_->unpin(PinId{77}).error(), Error::kReentered);
    EXPECT_EQ(allocator_->next_run(small).error(), Error::kReentered);
    EXPECT_EQ(allocator_->next_region(0).error(), Error::kReentered);
    allocator_->flush_thread();
    allocator_->trim();
    EXPECT_FALSE(allocator_->validate_books()) << "nobody can say so now";
    EXPECT_EQ(statistics().regions, 0u) << "nor count";
    // These take no lock.
    EXPECT_TRUE(allocator_->query(large, 100000).ok());
    EXPECT_TRUE(allocator_->validate(large, 100000).ok());
    EXPECT_EQ(usable(small), 64u);
  });
  EXPECT_TRUE(told_.empty());
  EXPECT_EQ(free(large), Error::kNone);
  EXPECT_EQ(free(small), Error::kNone);
}

TEST_F(NestedCallsTest, ASmallBlockFreedInsideIsFree) {
  start_hooked();
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 10; ++i) blocks.push_back(allocate(64));
  inside_a_call([&] {
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kDoubleFree);
  });
  EXPECT_EQ(told_.size(), 10u) << "bad frees are told wherever they happen";
  EXPECT_EQ(statistics().live_blocks, 0u);
  EXPECT_TRUE(sums_up(statistics()));
  EXPECT_TRUE(allocator_->validate_books());
  allocator_->trim();
  EXPECT_EQ(statistics().reserved_bytes, 0u);
}

// The heap has notes for some of them only.
TEST_F(NestedCallsTest, HoweverManyAreFreedInsideAllAreFree) {
  start_hooked();
  std::vector<std::uintptr_t> blocks;
  for (int i = 0; i < 100; ++i) blocks.push_back(allocate(64));
  inside_a_call([&] {
    for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
  });
  EXPECT_EQ(statistics().live_blocks, 0u);
  allocator_->trim();
  EXPECT_EQ(statistics().reserved_bytes, 0u);
  EXPECT_TRUE(told_.empty());
}

TEST_F(NestedCallsTest, Threat43ASizedFreeInsideIsCheckedToo) {
  start_hooked();
  const std::uintptr_t block = allocate(64);
  inside_a_call([&] {
    EXPECT_EQ(free(block, 640), Error::kWrongSize);
    EXPECT_EQ(free(block + 8), Error::kInteriorFree);
    EXPECT_EQ(free(block, 64), Error::kNone);
  });
  EXPECT_EQ(told_, (std::vector<Error>{Error::kWrongSize, Error::kInteriorFree}));
  EXPECT_EQ(statistics().live_blocks, 0u);
}

TEST_F(NestedCallsTest, ThreadsFirstCallIsACall) {
  start_hooked();
  // No heap yet: it is being made when the port is asked.
  Error nested = Error::kNone;
  nested_ = [&] { nested = allocate_error(64); };
  EXPECT_NE(allocate(64), 0u);
  EXPECT_EQ(nested, Error::kReentered);
}

TEST_F(NestedCallsTest, AnothersBlockIsFreedBeforeTheThreadHasAHeap) {
  start_hooked();
  const std::uintptr_t block = allocate(64);
  std::atomic<bool> ran = false;
  std::atomic<bool> done = false;
  nested_ = [&] {
    EXPECT_EQ(free(block), Error::kNone);
    ran = true;
  };
  // Each takes a heap; in the end the port is asked for the books of one.
  std::vector<std::thread> threads;
  for (int i = 0; i < 64 && !ran; ++i) {
    std::atomic<bool> asked = false;
    threads.emplace_back([&] {
      EXPECT_EQ(free(0x5000), Error::kForeignFree);
      asked = true;
      while (!done) std::this_thread::yield();
    });
    while (!asked) std::this_thread::yield();
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(ran);
  allocator_->flush_thread();
  EXPECT_EQ(statistics().live_blocks, 0u);
}

TEST_F(NestedCallsTest, TheLastBlockOfADrainingPoolFreedInsideLetsItGoInTheEnd) {
  start_hooked();
  const Extent pool = range_at(64 * kGiBytes, kMiBytes);
  const RegionId id = attach(pool);
  const std::uintptr_t block = allocate(64, 16, Placement::in_pool(id));
  const std::uintptr_t other = allocate(64, 16, Placement::in_pool(id));
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kDrain).ok());
  inside_a_call([&] { EXPECT_EQ(free(block), Error::kNone); });
  EXPECT_TRUE(allocator_->query(pool.base, 1).ok());
  EXPECT_EQ(free(other), Error::kNone);
  EXPECT_FALSE(allocator_->query(pool.base, 1).ok()) << "nothing lives in it";
}

// Nobody has a reason to call in these pools again.
TEST_F(NestedCallsTest, DrainingPoolsWhoseLastBlocksAreFreedInsideGoWithTheCall) {
  start_hooked();
  std::vector<std::uint64_t> gone;
  AttachOptions options;
  options.gone = [](void* c, std::uint64_t id, std::uintptr_t, std::size_t) {
    static_cast<std::vector<std::uint64_t>*>(c)->push_back(id);
  };
  options.gone_context = &gone;
  std::vector<Extent> pools;
  std::vector<RegionId> ids;
  std::vector<std::uintptr_t> blocks;
  for (std::size_t i = 0; i < 5; ++i) {
    pools.push_back(range_at((64 + i) * kGiBytes, kMiBytes));
    ids.push_back(attach(pools[i], options));
    blocks.push_back(allocate(64, 16, Placement::in_pool(ids[i])));
    // The last one does not drain; to ask twice changes nothing.
    for (int n = 0; n < 2 && i != 4; ++n)
      EXPECT_TRUE(allocator_->detach(pools[i], DetachMode::kDrain).ok());
  }
  const Result<PinId> pin = allocator_->pin(pools[1]);
  ASSERT_TRUE(pin.ok());
  inside_a_call([&] {
    for (const std::size_t i : {0u, 1u, 3u, 4u}) EXPECT_EQ(free(blocks[i]), Error::kNone);
    EXPECT_TRUE(gone.empty()) << "not in a handler";
  });
  std::sort(gone.begin(), gone.end());
  EXPECT_EQ(gone, (std::vector{ids[0].value, ids[3].value}));
  EXPECT_TRUE(allocator_->unpin(*pin).ok());
  EXPECT_EQ(gone.back(), ids[1].value) << "it was pinned";
  EXPECT_EQ(free(blocks[2]), Error::kNone);
  EXPECT_EQ(gone.back(), ids[2].value) << "it had a block";
  EXPECT_TRUE(allocator_->detach(pools[4]).ok()) << "it did not drain";
  EXPECT_EQ(gone.size(), 5u);
}

TEST_F(NestedCallsTest, ThePoolsNextBlockComesAfterWhatWasFreedInside) {
  start_hooked();
  const Extent pool = range_at(64 * kGiBytes, kMiBytes);
  const Placement where = Placement::in_pool(attach(pool));
  std::vector<std::uintptr_t> blocks;
  while (const std::uintptr_t block = allocate(32 * kKiBytes, 16, where)) blocks.push_back(block);
  inside_a_call([&] {
    for (const std::uintptr_t block : blocks) (void)free(block);
  });
  EXPECT_NE(allocate(kMiBytes / 2, 16, where), 0u) << "all of them are back";
  EXPECT_EQ(statistics().live_blocks, 1u);
  EXPECT_TRUE(allocator_->detach(pool, DetachMode::kRevoke).ok());
}

TEST_F(NestedCallsTest, AScrubbedBlockFreedInsideIsZeroed) {
  Config config;
  config.scrub_on_free = true;
  start_hooked(config);
  alignas(kPageBytes) static std::uint64_t memory[64 * kPageBytes / 8];
  const Extent pool{reinterpret_cast<std::uintptr_t>(memory), sizeof memory};
  const std::uintptr_t block = allocate(64, 16, Placement::in_pool(attach(pool)));
  std::uint64_t* const words = reinterpret_cast<std::uint64_t*>(block);
  for (int i = 0; i < 8; ++i) words[i] = 0x5ec3e7;
  inside_a_call([&] {
    EXPECT_EQ(free(block), Error::kNone);
    for (int i = 0; i < 8; ++i) EXPECT_EQ(words[i], 0u);
  });
  EXPECT_TRUE(allocator_->detach(pool).ok());
}

// Its owner may have folded it in long before this thread looks through what it freed inside.
TEST_F(NestedCallsTest, WhatAnothersHeapTookBackIsNotToldLater) {
  start_hooked();
  const std::uintptr_t mine = allocate(64);
  Worker owner;
  std::uintptr_t theirs = 0;
  owner.run([&] { theirs = allocate(64); });
  inside_a_call([&] {
    EXPECT_EQ(free(theirs), Error::kNone);
    EXPECT_EQ(free(mine), Error::kNone);
  });
  owner.run([&] { allocator_->flush_thread(); });
  allocator_->flush_thread();
  EXPECT_TRUE(told_.empty());
  EXPECT_EQ(statistics().live_blocks, 0u);
}

TEST_F(NestedCallsTest, WhatElseIsRefusedInside) {
  start_hooked();
  MemoryCalls calls(*allocator_, EnclaveMemoryTable{});
  AttachOptions mapping;
  mapping.role = Role::kMapping;
  const Extent range = range_at(64 * kGiBytes, kMiBytes);
  attach(range, mapping);
  const std::uintptr_t block = allocate(64);
  const Result<RegionInfo> region = allocator_->query(block, 64);
  ASSERT_TRUE(region.ok());
  const RegionId pool = attach(range_at(65 * kGiBytes, kMiBytes));
  const std::uintptr_t in_pool = allocate(64, 16, Placement::in_pool(pool));
  // Aligned for what it is to become, so that it could be cut short in its place.
  std::vector<std::uintptr_t> slots;
  do {
    slots.push_back(allocate(8192));
  } while (!is_aligned(slots.back(), 8192));
  inside_a_call([&] {
    EXPECT_LT(calls.mprotect(range.base, kPageBytes, 1), 0);
    EXPECT_EQ(allocator_->before_fork().error(), Error::kReentered);
    EXPECT_EQ(free(range_at(128 * kGiBytes, 1).base), Error::kReentered) << "no region there";
    EXPECT_EQ(allocator_->reallocate(bytes_at(slots.back()), 4096, 8192).error(),
              Error::kReentered);
    EXPECT_EQ(allocator_->core()->deallocate_handle(block, region->id).error(), Error::kNone);
    EXPECT_EQ(allocator_->core()->deallocate_handle(block, RegionId{77}).error(), Error::kStale);
    EXPECT_EQ(allocator_->core()->deallocate_handle(in_pool, pool).error(), Error::kNone);
    EXPECT_EQ(allocator_->core()->deallocate_handle(in_pool, pool).error(), Error::kDoubleFree);
    EXPECT_EQ(
        allocator_->core()->deallocate_handle(range_at(128 * kGiBytes, 1).base, region->id).error(),
        Error::kStale);
    EXPECT_EQ(allocator_->core()->deallocate_handle(range_at(128 * kGiBytes, 1).base, {}).error(),
              Error::kStale);
  });
  EXPECT_EQ(allocator_->query(range.base, kPageBytes)->protection, Protection::kReadWrite);
  for (const std::uintptr_t slot : slots) EXPECT_EQ(free(slot), Error::kNone);
  EXPECT_EQ(statistics().live_blocks, 0u);
}

}  // namespace
}  // namespace exclave
