// Calls that a signal handler jumps out of, at points where no chance is needed: the library faults
// on memory that cannot be written, or the port never comes back.
#include <gtest/gtest.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "exclave/process_port.hpp"
#include "heap/core.hpp"
#include "support/end_child.hpp"
#include "support/sanitizers.hpp"

namespace exclave {
namespace {

using core::AllocatorCore;

sigjmp_buf g_before;
bool g_port_jumps = false;

class JumpsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (testing_support::kSanitized) GTEST_SKIP() << "a sanitizer has the signal";
    const Result<ProcessPort*> port = ProcessPort::create();
    ASSERT_TRUE(port.ok());
    port_ = *port;
    Config config;
    config.scrub_on_free = true;
    PortTable table = port_->table();
    table.trusted_reserve = [](void* context, std::size_t bytes) -> void* {
      if (g_port_jumps) siglongjmp(g_before, 1);
      return static_cast<ProcessPort*>(context)->trusted_reserve(bytes);
    };
    const Result<AllocatorCore*> core = AllocatorCore::create(table, config);
    ASSERT_TRUE(core.ok());
    core_ = *core;
    struct sigaction action {};
    action.sa_handler = [](int) { siglongjmp(g_before, 1); };
    ASSERT_EQ(sigaction(SIGSEGV, &action, &segv_before_), 0);
  }
  void TearDown() override {
    if (core_ != nullptr) {
      sigaction(SIGSEGV, &segv_before_, nullptr);
      AllocatorCore::destroy(core_);
    }
    if (port_ != nullptr) ProcessPort::destroy(port_);
  }

  // What is left there can be neither used nor destroyed, so it has a process of its own.
  template <class Body>
  void in_child(const Body& body) {
    const pid_t child = fork();
    if (child == 0) {
      body();
      EXPECT_EQ(core_->allocate(64).error(), Error::kReentered);
      testing_support::end_child(HasFailure() ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  Result<RegionId> attach() {
    memory_ = mmap(nullptr, kPoolBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return core_->attach({reinterpret_cast<std::uintptr_t>(memory_), kPoolBytes}, {});
  }
  // Frees the block, whose contents cannot be scrubbed.
  void jump_out_of_a_free(std::uintptr_t block) {
    void* const page = reinterpret_cast<void*>(block & ~std::uintptr_t{kPageBytes - 1});
    ASSERT_EQ(mprotect(page, kPageBytes, PROT_NONE), 0);
    if (sigsetjmp(g_before, 1) == 0) {
      (void)core_->deallocate(block);
      FAIL() << "it was scrubbed";
    }
    ASSERT_EQ(mprotect(page, kPageBytes, PROT_READ | PROT_WRITE), 0);
    ASSERT_EQ(core_->allocate(64).error(), Error::kReentered);
  }

  static constexpr std::size_t kPoolBytes = std::size_t{1} << 20;
  void* memory_ = nullptr;  // of the pool
  ProcessPort* port_ = nullptr;
  AllocatorCore* core_ = nullptr;
  struct sigaction segv_before_ {};
};

TEST_F(JumpsTest, TheThreadGetsAnotherHeap) {
  // Nothing to give up, with a slot and without one.
  EXPECT_EQ(core_->give_up_interrupted_call().error(), Error::kNone);
  const Result<untrusted_bytes> kept = core_->allocate(64);
  ASSERT_TRUE(kept.ok());
  std::thread([this] {
    EXPECT_EQ(core_->give_up_interrupted_call().error(), Error::kNone);
    EXPECT_TRUE(core_->allocate(64).ok());
  }).join();
  for (int jump = 0; jump < 3; ++jump) {
    const Result<untrusted_bytes> block = core_->allocate(64);
    ASSERT_TRUE(block.ok());
    jump_out_of_a_free(block->address());
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_EQ(core_->give_up_interrupted_call().error(), Error::kNone);
    EXPECT_TRUE(core_->validate());
    for (const std::size_t size : {64u, 64u, 5000u, 200000u}) {
      const Result<untrusted_bytes> other = core_->allocate(size);
      ASSERT_TRUE(other.ok());
      EXPECT_NE(other->address(), block->address());
      EXPECT_NE(other->address(), kept->address());
      EXPECT_TRUE(core_->deallocate(other->address()).ok());
    }
  }
  // A block of the first heap is no less a block.
  EXPECT_TRUE(core_->deallocate(kept->address()).ok());
  EXPECT_EQ(core_->deallocate(kept->address()).error(), Error::kDoubleFree);
  EXPECT_TRUE(core_->validate());
}

// Behind the door of a pool, which would be left twice if the call went on.
TEST_F(JumpsTest, NotBehindADoor) {
  in_child([this] {
    const Result<RegionId> pool = attach();
    EXPECT_EQ(mprotect(memory_, kPoolBytes, PROT_NONE), 0);
    if (sigsetjmp(g_before, 1) == 0) {
      (void)core_->allocate_zeroed(64, 16, Placement::in_pool(*pool));
      FAIL() << "it was zeroed";
    }
    EXPECT_EQ(core_->give_up_interrupted_call().error(), Error::kReentered);
  });
}

// Pools have locks of their own, also those that are gone: a late look may hold them.
TEST_F(JumpsTest, NotBesideAPool) {
  for (const bool gone : {false, true}) {
    in_child([this, gone] {
      const Result<untrusted_bytes> block = core_->allocate(64);
      EXPECT_TRUE(attach().ok());
      const Extent range{reinterpret_cast<std::uintptr_t>(memory_), kPoolBytes};
      if (gone) EXPECT_TRUE(core_->detach(range, DetachMode::kBusy).ok());
      jump_out_of_a_free(block->address());
      EXPECT_EQ(core_->give_up_interrupted_call().error(), Error::kReentered);
    });
  }
}

TEST_F(JumpsTest, NotWithALockHeld) {
  in_child([this] {
    g_port_jumps = true;
    if (sigsetjmp(g_before, 1) == 0) {
      for (;;) (void)core_->allocate(64);
    }
    g_port_jumps = false;
    EXPECT_EQ(core_->give_up_interrupted_call().error(), Error::kReentered);
  });
}

}  // namespace
}  // namespace exclave
