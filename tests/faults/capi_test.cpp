// The C ABI, while the port fails: the answers are the same numbers, and *out stays as it was.
#include <sys/mman.h>

#include <vector>

#include "exclave/exclave.h"
#include "support/fault_walk.hpp"
#include "support/process_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;
using Keeps = FaultWalk::Keeps;

// The two faces have one allocator behind them (src/capi/capi.cpp).
exclave_allocator* c_face(Allocator& allocator) {
  return reinterpret_cast<exclave_allocator*>(allocator.core());
}

Error told(exclave_error error) {
  return static_cast<Error>(error);
}

TEST(Faults, CAbiOfBlocksPoolsAndPins) {
  void* const device =
      mmap(nullptr, 32 * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(device, MAP_FAILED);
  const auto base = reinterpret_cast<exclave_address>(device);
  survive_every_fault({FaultPoint::kHostReserve, FaultPoint::kHostRelease}, [&](FaultWalk& walk) {
    exclave_allocator* const c = c_face(walk.allocator());
    exclave_region_id pool = 0;
    walk.step("exclave_attach",
              [&] { return told(exclave_attach(c, base, 32 * kPageBytes, nullptr, &pool)); });
    exclave_address small = 1;
    walk.step(
        "exclave_allocate",
        [&] {
          const Error error = told(exclave_allocate(c, 100, &small));
          if (error != Error::kNone) EXPECT_EQ(small, 1u);
          return error;
        },
        Keeps::kBlocks);
    const exclave_placement where{EXCLAVE_IN_POOL, 0, pool};
    exclave_address placed = 0;
    walk.step(
        "exclave_allocate_at",
        [&] { return told(exclave_allocate_at(c, 3000, 16, &where, &placed)); }, Keeps::kBlocks);
    exclave_address zeroed = 0;
    walk.step(
        "exclave_allocate_zeroed",
        [&] { return told(exclave_allocate_zeroed(c, 200000, 16, nullptr, &zeroed)); },
        Keeps::kBlocks);
    EXPECT_EQ(exclave_load_u64(zeroed + 100000), 0u);
    exclave_pin_id pin = 0;
    walk.step("exclave_pin", [&] { return told(exclave_pin(c, placed, 3000, &pin)); });
    walk.step(
        "exclave_reallocate",
        [&] {
          const exclave_address before = small;
          const Error error = told(exclave_reallocate(c, &small, 500000, 16, nullptr));
          if (error != Error::kNone) EXPECT_EQ(small, before);
          return error;
        },
        Keeps::kBlocks);
    std::size_t usable = 0;
    walk.step("exclave_usable_size", [&] { return told(exclave_usable_size(c, small, &usable)); });
    EXPECT_GE(usable, 500000u);
    walk.step("exclave_deallocate", [&] { return told(exclave_deallocate(c, small)); });
    walk.step("exclave_deallocate_sized",
              [&] { return told(exclave_deallocate_sized(c, placed, 3000, 16)); });
    walk.step("exclave_unpin", [&] { return told(exclave_unpin(c, pin)); });
    exclave_region_id region = 0;
    walk.step("exclave_region_of", [&] { return told(exclave_region_of(c, zeroed, &region)); });
    walk.step("exclave_deallocate_handle",
              [&] { return told(exclave_deallocate_handle(c, zeroed, region)); });
    walk.step("exclave_detach",
              [&] { return told(exclave_detach(c, base, 32 * kPageBytes, EXCLAVE_DETACH_BUSY)); });
    walk.always("exclave_flush_thread", [&] { exclave_flush_thread(c); });
    walk.always("exclave_trim", [&] { exclave_trim(c); });
  });
  munmap(device, 32 * kPageBytes);
}

TEST(Faults, CAbiOfTheMemoryCalls) {
  const OwnedDescriptor file(memfd_of(8 * kPageBytes));
  survive_every_fault(
      {FaultPoint::kHostMap, FaultPoint::kHostUnmap, FaultPoint::kHostProtect},
      [&](FaultWalk& walk) {
        exclave_allocator* const c = c_face(walk.allocator());
        ProcessEnclaveMemory memory(walk.port().host().enclave_heap());
        const exclave_enclave_memory inside = bind_enclave_memory(memory);
        std::intptr_t at = 0;
        walk.step("exclave_mmap", [&] {
          at = exclave_mmap(c, &inside, 0, 8 * kPageBytes, PROT_READ, MAP_SHARED, file.get(), 0);
          return Outcome::of_call(at);
        });
        if (testing::Test::HasFailure()) return;
        const auto base = static_cast<exclave_address>(at);
        walk.step("exclave_mprotect", [&] {
          return Outcome::of_call(
              exclave_mprotect(c, &inside, base + kPageBytes, kPageBytes, PROT_NONE));
        });
        walk.step(
            "exclave_munmap",
            [&] { return Outcome::of_call(exclave_munmap(c, &inside, base, 8 * kPageBytes)); },
            Keeps::kHalf);
      });
}

}  // namespace
}  // namespace exclave
