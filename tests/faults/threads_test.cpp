// Frees by other threads, threads that end, and fork, while what they need fails.
#include <sys/wait.h>
#include <unistd.h>

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
