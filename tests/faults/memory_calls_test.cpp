// The application's memory calls outside, while the host refuses them or trusted memory fails.
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

constexpr int kTo = MREMAP_MAYMOVE | MREMAP_FIXED;

// Answers where it stands then.
std::uintptr_t remap(FaultWalk& walk, std::uintptr_t at, std::size_t old_pages,
                     std::size_t new_pages, int flags, std::uintptr_t to = 0,
                     Keeps keeps = Keeps::kAll) {
  std::intptr_t moved = 0;
  walk.step(
      "mremap",
      [&] {
        moved = walk.calls().mremap(at, old_pages * kPageBytes, new_pages * kPageBytes, flags, to);
        return Outcome::of_call(moved);
      },
      keeps);
  return static_cast<std::uintptr_t>(moved);
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

TEST(Faults, MappingsGrowShrinkAndMoveToWhereThereIsRoom) {
  const OwnedDescriptor file(memfd_of(16 * kPageBytes));
  survive_every_fault(
      {FaultPoint::kHostMap, FaultPoint::kHostUnmap, FaultPoint::kHostRemap}, [&](FaultWalk& walk) {
        const std::uintptr_t base = map(walk, 0, 16, MAP_SHARED, file);
        if (testing::Test::HasFailure()) return;
        unmap(walk, base + 8 * kPageBytes, 4);
        EXPECT_EQ(remap(walk, base + 6 * kPageBytes, 2, 4, 0), base + 6 * kPageBytes);
        EXPECT_EQ(remap(walk, base, 10, 9, 0), base);
        // Its own pages stand behind it. A second view; then it goes itself.
        const std::uintptr_t view = remap(walk, base + kPageBytes, 0, 2, MREMAP_MAYMOVE);
        const std::uintptr_t moved = remap(walk, base + 2 * kPageBytes, 2, 3, MREMAP_MAYMOVE);
        if (testing::Test::HasFailure()) return;
        EXPECT_EQ(walk.allocator().query(base + 2 * kPageBytes, 1).error(), Error::kNotFound);
        unmap(walk, view, 2, Keeps::kHalf);
        unmap(walk, moved, 3, Keeps::kHalf);
        unmap(walk, base, 16, Keeps::kHalf);
      });
}

TEST(Faults, AMoveToAFixedPlaceReplacesAllOrNothing) {
  const OwnedDescriptor file(memfd_of(16 * kPageBytes));
  FaultOptions options;
  // As above.
  options.all_at_once = false;
  survive_every_fault(
      {FaultPoint::kHostMap, FaultPoint::kHostUnmap, FaultPoint::kHostProtect,
       FaultPoint::kHostRemap},
      [&](FaultWalk& walk) {
        const std::uintptr_t base = map(walk, 0, 16, MAP_SHARED, file);
        if (testing::Test::HasFailure()) return;
        // Two gaps and three mappings at the new place.
        const std::uintptr_t to = base + 8 * kPageBytes;
        unmap(walk, to + kPageBytes, 1);
        unmap(walk, to + 3 * kPageBytes, 1);
        protect(walk, to + 4 * kPageBytes, 1, PROT_READ);
        EXPECT_EQ(remap(walk, base, 3, 5, kTo, to), to);
        EXPECT_EQ(remap(walk, base + 4 * kPageBytes, 0, 1, kTo, base), base);
        // What is cut off goes first, and stays away.
        EXPECT_EQ(remap(walk, to, 4, 2, kTo, base + kPageBytes, Keeps::kHalf), base + kPageBytes);
        unmap(walk, base, 16, Keeps::kHalf);
      },
      options);
}

void advise(FaultWalk& walk, const char* name, std::uintptr_t at, std::size_t pages,
            int (*call)(MemoryCalls&, std::uintptr_t, std::size_t)) {
  walk.step(name, [&] { return Outcome::of_call(call(walk.calls(), at, pages * kPageBytes)); });
}

TEST(Faults, WalksOverMappings) {
  const OwnedDescriptor file(memfd_of(8 * kPageBytes));
  FaultOptions options;
  // mlockall would come by the mapping that uses the books up, which is none of the host's.
  options.sweep_books = false;
  survive_every_fault(
      {FaultPoint::kHostMap, FaultPoint::kHostUnmap, FaultPoint::kHostProtect,
       FaultPoint::kHostAdvise, FaultPoint::kHostResident},
      [&](FaultWalk& walk) {
        const std::uintptr_t base = map(walk, 0, 8, MAP_SHARED, file);
        if (testing::Test::HasFailure()) return;
        // Each of three mappings is a call of the host.
        protect(walk, base + 2 * kPageBytes, 2, PROT_READ);
        advise(walk, "madvise", base, 8, [](MemoryCalls& calls, auto at, auto bytes) {
          return calls.madvise(at, bytes, MADV_DONTNEED);
        });
        advise(walk, "msync", base, 8, [](MemoryCalls& calls, auto at, auto bytes) {
          return calls.msync(at, bytes, MS_SYNC);
        });
        advise(walk, "mlock", base + kPageBytes, 6,
               [](MemoryCalls& calls, auto at, auto bytes) { return calls.mlock(at, bytes); });
        advise(walk, "munlock", base, 8,
               [](MemoryCalls& calls, auto at, auto bytes) { return calls.munlock(at, bytes); });
        advise(walk, "mincore", base, 8, [](MemoryCalls& calls, auto at, auto bytes) {
          unsigned char vector[8];
          return calls.mincore(at, bytes, vector);
        });
        advise(walk, "mlockall", base, 8,
               [](MemoryCalls& calls, auto, auto) { return calls.mlockall(MCL_CURRENT); });
        advise(walk, "munlockall", base, 8,
               [](MemoryCalls& calls, auto, auto) { return calls.munlockall(); });
        unmap(walk, base, 8, Keeps::kHalf);
      },
      options);
}

// Of what comes without an mmap the host is not asked.
TEST(Faults, AdoptedMappingsAreGivenUpPieceByPiece) {
  constexpr std::uintptr_t kPlace = std::uintptr_t{0x2345} << 32;
  survive_every_fault({}, [&](FaultWalk& walk) {
    advise(walk, "adopt", kPlace, 8, [](MemoryCalls& calls, auto at, auto bytes) {
      return calls.adopt(at, bytes, kReadWrite);
    });
    for (const std::size_t page : {3u, 0u, 6u}) {
      advise(walk, "give_up", kPlace + page * kPageBytes, 1,
             [](MemoryCalls& calls, auto at, auto bytes) { return calls.give_up(at, bytes); });
    }
    for (const std::size_t page : {1u, 4u}) {
      advise(walk, "give_up", kPlace + page * kPageBytes, 2,
             [](MemoryCalls& calls, auto at, auto bytes) { return calls.give_up(at, bytes); });
    }
    advise(walk, "give_up", kPlace + 7 * kPageBytes, 1,
           [](MemoryCalls& calls, auto at, auto bytes) { return calls.give_up(at, bytes); });
  });
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
