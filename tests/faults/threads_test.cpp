// Frees by other threads, threads that end, and fork, while what they need fails.
#include <sys/wait.h>
#include <unistd.h>

#include <future>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include "support/end_child.hpp"
#include "support/fault_walk.hpp"

namespace exclave {
namespace {

using namespace testing_support;
using Keeps = FaultWalk::Keeps;

constexpr std::initializer_list<FaultPoint> kGrowing = {FaultPoint::kHostReserve,
                                                        FaultPoint::kHostRelease};

// Threads that live until the end of the scenario, so that none finds the heap of another that
// ended.
class LastingThreads {
 public:
  LastingThreads() = default;
  ~LastingThreads() {
    leave_.count_down();
    for (std::thread& thread : threads_) thread.join();
  }
  LastingThreads(const LastingThreads&) = delete;
  LastingThreads& operator=(const LastingThreads&) = delete;

  // The operation's outcome, on a thread that has called nothing yet.
  template <class Operation>
  Outcome first_call(const Operation& operation) {
    const auto told = std::make_shared<std::promise<Outcome>>();
    std::future<Outcome> outcome = told->get_future();
    threads_.emplace_back([this, told, &operation] {
      told->set_value(operation());
      leave_.wait();
    });
    return outcome.get();
  }

 private:
  std::latch leave_{1};
  std::vector<std::thread> threads_;
};

TEST(Faults, FirstCallOfAThreadWhateverItIs) {
  // Nothing stands there, and nothing touches it.
  constexpr Extent kRange{std::uintptr_t{0x2345} << 32, std::size_t{4} << 20};
  survive_every_fault(kGrowing, [&](FaultWalk& walk) {
    LastingThreads threads;
    Allocator& allocator = walk.allocator();
    const auto first = [&](const char* name, const auto& operation, Keeps keeps = Keeps::kAll) {
      walk.step(
          name, [&] { return threads.first_call([&]() -> Outcome { return operation(); }); },
          keeps);
    };
    untrusted_bytes block = walk.allocate(100000);
    AttachOptions mapping;
    mapping.role = Role::kMapping;
    PinId pin{};
    first("attach", [&] { return allocator.attach(kRange, mapping); });
    first("pin", [&] {
      const Result<PinId> made = allocator.pin({kRange.base, 1});
      if (made.ok()) pin = *made;
      return made;
    });
    first("unpin", [&] { return allocator.unpin(pin); });
    first("next_region", [&] { return allocator.next_region(0); });
    first("next_run", [&] { return allocator.next_run(block.address()); });
    first("usable_size", [&] { return allocator.usable_size(block); });
    first("query", [&] { return allocator.query(block.address(), 1000); });
    const auto resize = [&](std::size_t size) {
      const Result<untrusted_bytes> moved = allocator.reallocate(block, size);
      if (moved.ok()) block = *moved;
      return moved;
    };
    first(
        "reallocate in place", [&] { return resize(70000); }, Keeps::kBlocks);
    first(
        "reallocate", [&] { return resize(200000); }, Keeps::kBlocks);
    first("detach", [&] { return allocator.detach(kRange); });
    first("deallocate", [&] { return allocator.deallocate(block); });
    first("flush and trim", [&] {
      allocator.flush_thread();
      allocator.trim();
      return Error::kNone;
    });
    first(
        "allocate and deallocate",
        [&]() -> Outcome {
          const Result<untrusted_bytes> made = allocator.allocate(64);
          return made.ok() ? Outcome(allocator.deallocate(*made)) : Outcome(made);
        },
        Keeps::kBlocks);
  });
}

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
