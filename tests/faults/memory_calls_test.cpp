// mmap, munmap and mprotect, while the host refuses them or trusted memory fails.
#include <sys/mman.h>

#include "support/fault_walk.hpp"
#include "support/process_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;
using Keeps = FaultWalk::Keeps;

constexpr int kReadWrite = PROT_READ | PROT_WRITE;

std::uintptr_t map(FaultWalk& walk, std::uintptr_t hint, std::size_t pages, int flags,
                   const OwnedDescriptor& file) {
  std::intptr_t at = 0;
  walk.step("mmap", [&] {
    at = walk.calls().mmap(hint, pages * kPageBytes, kReadWrite, flags, file.get(), 0);
    return Outcome::of_call(at);
  });
  return static_cast<std::uintptr_t>(at);
}

void unmap(FaultWalk& walk, std::uintptr_t at, std::size_t pages, Keeps keeps = Keeps::kAll) {
  walk.step(
      "munmap", [&] { return Outcome::of_call(walk.calls().munmap(at, pages * kPageBytes)); },
      keeps);
}

void protect(FaultWalk& walk, std::uintptr_t at, std::size_t pages, int protection,
             Keeps keeps = Keeps::kAll) {
  walk.step(
      "mprotect",
      [&] { return Outcome::of_call(walk.calls().mprotect(at, pages * kPageBytes, protection)); },
      keeps);
}

TEST(Faults, MappingsComeChangeAndGo) {
  const OwnedDescriptor file(memfd_of(16 * kPageBytes));
  survive_every_fault({FaultPoint::kHostMap, FaultPoint::kHostUnmap, FaultPoint::kHostProtect},
                      [&](FaultWalk& walk) {
                        const std::uintptr_t base = map(walk, 0, 16, MAP_SHARED, file);
                        if (testing::Test::HasFailure()) return;
                        protect(walk, base + 4 * kPageBytes, 4, PROT_READ);
                        // Two pieces, of which each may be refused; as in what follows.
                        unmap(walk, base + 6 * kPageBytes, 4, Keeps::kHalf);
                        protect(walk, base, 6, kReadWrite, Keeps::kHalf);
                        protect(walk, base + 12 * kPageBytes, 2, PROT_NONE);
                        unmap(walk, base, 16, Keeps::kHalf);
                        EXPECT_EQ(walk.allocator().query(base, 1).error(), Error::kNotFound);
                      });
}

TEST(Faults, FixedMappingReplacesAllOrNothing) {
  const OwnedDescriptor file(memfd_of(16 * kPageBytes));
  FaultOptions options;
  // A host that refuses the mapping and then keeps what filled the holes keeps the place taken.
  options.all_at_once = false;
  survive_every_fault(
      {FaultPoint::kHostMap, FaultPoint::kHostUnmap},
      [&](FaultWalk& walk) {
        const std::uintptr_t base = map(walk, 0, 16, MAP_SHARED, file);
        if (testing::Test::HasFailure()) return;
        // Two holes, one of them at the end of what is replaced.
        unmap(walk, base + 2 * kPageBytes, 2);
        unmap(walk, base + 8 * kPageBytes, 2);
        EXPECT_EQ(map(walk, base + kPageBytes, 9, MAP_SHARED | MAP_FIXED, file), base + kPageBytes);
        unmap(walk, base + 5 * kPageBytes, 1);
        EXPECT_EQ(map(walk, base + 5 * kPageBytes, 1, MAP_SHARED | MAP_FIXED_NOREPLACE, file),
                  base + 5 * kPageBytes);
        unmap(walk, base, 16, Keeps::kHalf);
      },
      options);
}

TEST(Faults, TheInsideNeedsNothingOfTheHost) {
  FaultOptions options;
  options.sweep_books = false;
  const OwnedDescriptor none(-1);
  survive_every_fault(
      {},
      [&](FaultWalk& walk) {
        const std::uintptr_t base = map(walk, 0, 4, MAP_PRIVATE | MAP_ANONYMOUS, none);
        ASSERT_TRUE(walk.port().enclave().contains(base));
        protect(walk, base, 4, PROT_READ);
        unmap(walk, base, 4);
      },
      options);
}

}  // namespace
}  // namespace exclave
