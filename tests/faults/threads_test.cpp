// Frees by other threads, threads that end, and fork, while what they need fails.
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "support/end_child.hpp"
#include "support/fault_walk.hpp"

namespace exclave {
namespace {

using namespace testing_support;
using Keeps = FaultWalk::Keeps;

TEST(Faults, BlocksThatAnotherThreadFrees) {
  survive_every_fault(kGrowing, [](FaultWalk& walk) {
    std::vector<untrusted_bytes> blocks;
    // More than one batch.
    for (int i = 0; i < 100; ++i) blocks.push_back(walk.allocate(200));
    walk.step("another thread frees", [&] {
      Status first;
      std::thread([&] {
        while (!blocks.empty() && first.ok()) {
          first = walk.allocator().deallocate(blocks.back());
          if (first.ok()) blocks.pop_back();
        }
      }).join();
      return first;
    });
    walk.always("flush", [&] { walk.allocator().flush_thread(); });
  });
}

TEST(Faults, ThreadsThatEndWithBlocks) {
  survive_every_fault(kGrowing, [](FaultWalk& walk) {
    std::vector<untrusted_bytes> blocks;
    for (int round = 0; round < 2; ++round) {
      walk.step(
          "a thread allocates and ends",
          [&] {
            Outcome outcome = Error::kNone;
            std::thread([&] {
              for (const std::size_t size : {64u, 3000u, 100000u}) {
                const auto block = walk.allocator().allocate(size);
                outcome = block;
                if (!block.ok()) return;
                blocks.push_back(*block);
              }
            }).join();
            return outcome;
          },
          Keeps::kHalf);
    }
    // This thread takes the orphaned slab over.
    blocks.push_back(walk.allocate(64));
    for (const untrusted_bytes block : blocks) walk.deallocate(block);
  });
}

// Threads that live until the end of a walk.
class LastingThreads {
 public:
  ~LastingThreads() {
    {
      const std::lock_guard guard(mutex_);
      over_ = true;
    }
    ended_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  // Makes the call on a new thread, and waits for its end.
  template <class Call>
  void add(const Call& call) {
    std::promise<void> called;
    threads_.emplace_back([&] {
      call();
      std::unique_lock lock(mutex_);
      called.set_value();
      ended_.wait(lock, [this] { return over_; });
    });
    called.get_future().wait();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool over_ = false;
  std::vector<std::thread> threads_;
};

// Each operation is the first call of its thread, which needs a heap then. The heap of a thread
// that ended would do; so another thread takes it, and stays.
TEST(Faults, FirstCallOfAThreadWhateverItIs) {
  survive_every_fault(kGrowing, [](FaultWalk& walk) {
    LastingThreads lasting;
    Allocator& allocator = walk.allocator();
    const auto first_call = [&](const char* name, auto call, Keeps keeps = Keeps::kAll) {
      walk.step(
          name,
          [&] {
            Outcome outcome = Error::kNone;
            std::thread([&] {
              outcome = call();
              EXPECT_NE(allocator.unpin(PinId{}).error(), Error::kReentered)
                  << "the thread is not inside a call any more";
            }).join();
            return outcome;
          },
          keeps);
      walk.always("another stays", [&] { lasting.add([&] { allocator.flush_thread(); }); });
    };
    constexpr Extent kRange{0x310000000000, std::size_t{1} << 20};
    untrusted_bytes small = walk.allocate(200);
    untrusted_bytes large = walk.allocate(100000);
    const untrusted_bytes pinned = walk.allocate(3000);
    PinId pin;
    first_call("attach", [&] { return allocator.attach(kRange, AttachOptions{}); });
    first_call("pin", [&] {
      const auto made = allocator.pin({pinned.address(), 100});
      if (made.ok()) pin = *made;
      return made;
    });
    first_call(
        "allocate",
        [&] {
          const auto block = allocator.allocate(500);
          return block.ok() ? allocator.deallocate(*block) : Status(block.error());
        },
        Keeps::kBlocks);
    first_call(
        "reallocate",
        [&] {
          const auto moved = allocator.reallocate(large, 10000);
          if (moved.ok()) large = *moved;
          return moved;
        },
        Keeps::kBlocks);
    first_call("usable_size", [&] { return allocator.usable_size(large); });
    first_call("deallocate", [&] { return allocator.deallocate(small); });
    first_call("deallocate by size", [&] { return allocator.deallocate(large, 10000); });
    first_call("deallocate while pinned", [&] { return allocator.deallocate(pinned); });
    first_call("unpin", [&] { return allocator.unpin(pin); });
    first_call("detach", [&] { return allocator.detach(kRange); });
    first_call("trim", [&] {
      allocator.trim();
      return Error::kNone;
    });
  });
}

TEST(Faults, ForkAndItsChild) {
  FaultOptions options;
  options.sweep_books = false;
  survive_every_fault(
      kGrowing,
      [](FaultWalk& walk) {
        const untrusted_bytes before = walk.allocate(500);
        walk.always("fork", [&] {
          ASSERT_TRUE(walk.allocator().before_fork().ok());
          walk.port().host().honest().before_fork();
          const pid_t child = fork();
          if (child == 0) {
            alarm(20);
            ProcessPort::forget_other_threads();
            walk.port().host().honest().after_fork();
            walk.allocator().after_fork_in_child();
            walk.deallocate(before);
            walk.deallocate(walk.allocate(100000));
            walk.deallocate(walk.allocate(3000));
            end_child(testing::Test::HasFailure() ? 1 : 0);
          }
          walk.port().host().honest().after_fork();
          walk.allocator().after_fork_in_parent();
          int status = -1;
          ASSERT_EQ(waitpid(child, &status, 0), child);
          EXPECT_EQ(status, 0) << "the child found the fault worse than its parent";
        });
        walk.deallocate(before);
        walk.deallocate(walk.allocate(100000));
      },
      options);
}

}  // namespace
}  // namespace exclave
