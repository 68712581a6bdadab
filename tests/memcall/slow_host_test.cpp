// THREATS 18, 59 and 63 for the memory calls: reserved windows, a host that stalls, and one that
// fails at each turn. (Lies are in tests/sim/hostile_memory_calls_test.cpp.)
#include <sys/mman.h>

#include <cerrno>
#include <thread>

#include "support/hostile_fixture.hpp"
#include "support/process_fixture.hpp"

namespace exclave {
namespace {

using sim::HostCall;
using sim::Lie;
using testing_support::HostileHostFixture;
using testing_support::memfd_of;
using testing_support::OwnedDescriptor;

constexpr std::size_t kPage = kPageBytes;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

class MemoryCallsOnSlowHost : public HostileHostFixture {
 protected:
  void SetUp() override {
    HostileHostFixture::SetUp();
    ASSERT_NO_FATAL_FAILURE(forbid_windows());
    calls_.emplace(*allocator_, bind_enclave_memory(*memory_));
    first_ = map(4);
    ASSERT_GT(first_, 0);
  }
  void TearDown() override {
    host_->lie_at_random(0);
    EXPECT_EQ(calls_->munmap(0, std::uintptr_t{1} << 47), 0);
    HostileHostFixture::TearDown();
  }

  std::intptr_t map(std::size_t pages, std::uintptr_t place = 0, int more_flags = 0) {
    return calls_->mmap(place, pages * kPage, kReadWrite, MAP_SHARED | more_flags, file_.get(), 0);
  }

  const OwnedDescriptor file_{memfd_of(64 * kPage)};
  std::optional<MemoryCalls> calls_;
  std::intptr_t first_ = 0;
};

using Threat18_ReservedWindowForMmap = MemoryCallsOnSlowHost;
TEST_F(Threat18_ReservedWindowForMmap, NothingTouchesIt) {
  const Extent window = host_->forbidden_window();
  host_->script(HostCall::kMap, {Lie::kForbiddenWindow});
  EXPECT_EQ(map(1), -EPERM);
  EXPECT_EQ(map(1, window.base, MAP_FIXED), -EBUSY);
  EXPECT_EQ(map(1, window.end() - kPage, MAP_FIXED_NOREPLACE), -EEXIST);
  EXPECT_EQ(calls_->munmap(window.base, window.size), 0);
  EXPECT_EQ(calls_->mprotect(window.base, kPage, PROT_NONE), -ENOMEM);
  EXPECT_EQ(allocator_->query(window.base, 1).error(), Error::kNotFound);
  EXPECT_EQ(allocator_->validate(window.base, 1).error(), Error::kNotFound);
  EXPECT_EQ(allocator_->pin({window.base, 1}).error(), Error::kNotFound);
  EXPECT_EQ(allocator_->attach({window.base + kPage, kPage}).error(), Error::kOverlap);
  EXPECT_EQ(allocator_->detach({window.base, kPage}).error(), Error::kNotFound);
  EXPECT_TRUE(allocator_->detach(window).ok());
  EXPECT_EQ(map(1, window.base, MAP_FIXED), -EBUSY) << "now the host alone knows of it";
}

using Threat63_EveryMemoryCallFails = MemoryCallsOnSlowHost;
TEST_F(Threat63_EveryMemoryCallFails, OnceAtEachTurn) {
  leftovers_expected_ = true;
  for (const HostCall call : {HostCall::kMap, HostCall::kUnmap, HostCall::kProtect}) {
    for (std::uint64_t n = 1; n <= 6; ++n) {
      host_->fail_nth(call, n);
      unsigned refusals = 0;
      const std::intptr_t a = map(6);
      const std::intptr_t b = map(2);
      refusals += a < 0;
      refusals += b < 0;
      for (const std::intptr_t at : {a, b}) {
        if (at < 0) continue;
        const auto base = static_cast<std::uintptr_t>(at);
        refusals += calls_->mprotect(base + kPage, kPage, PROT_READ) != 0;
        refusals += calls_->mprotect(base + kPage, kPage, kReadWrite) != 0;
        refusals += calls_->munmap(base + kPage, kPage) != 0;
        refusals += calls_->mprotect(base, kPage, PROT_NONE) != 0;
      }
      host_->fail_nth(call, 0);
      EXPECT_LE(refusals, 2u);
      ASSERT_TRUE(allocator_->validate_books());
      for (const std::intptr_t at : {a, b}) {
        if (at < 0) continue;
        EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(at), (at == a ? 6 : 2) * kPage), 0);
      }
      EXPECT_EQ(allocator_->statistics().mapping_bytes, 4 * kPage) << "only the first is left";
    }
  }
}

using Threat59_StalledMemoryCall = MemoryCallsOnSlowHost;
TEST_F(Threat59_StalledMemoryCall, TheOthersGoOn) {
  const auto base = static_cast<std::uintptr_t>(first_);
  for (const HostCall call : {HostCall::kUnmap, HostCall::kProtect, HostCall::kMap}) {
    host_->hold(call);
    std::thread stuck([&] {
      if (call == HostCall::kUnmap) {
        EXPECT_EQ(calls_->munmap(base + kPage, kPage), 0);
      } else if (call == HostCall::kProtect) {
        EXPECT_EQ(calls_->mprotect(base + 2 * kPage, kPage, PROT_READ), 0);
      } else {
        EXPECT_GT(map(1), 0);
      }
    });
    ASSERT_TRUE(host_->wait_until_held(1));
    // Blocks, look-ups and the neighbours of the page.
    const auto block = allocator_->allocate(100);
    EXPECT_TRUE(block.ok());
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
    EXPECT_TRUE(allocator_->query(base, kPage).ok());
    EXPECT_TRUE(allocator_->query(base + 3 * kPage, kPage).ok());
    EXPECT_EQ(allocator_->query(base + kPage, kPage).ok(), false);
    if (call != HostCall::kProtect) {
      EXPECT_EQ(calls_->mprotect(base, kPage, PROT_READ), 0);
      EXPECT_EQ(calls_->mprotect(base, kPage, kReadWrite), 0);
    }
    host_->let_go();
    stuck.join();
  }
}

}  // namespace
}  // namespace exclave
