// Attached memory and pins, while trusted memory fails.
#include <sys/mman.h>

#include <vector>

#include "support/fault_walk.hpp"

namespace exclave {
namespace {

using namespace testing_support;
using Keeps = FaultWalk::Keeps;

// Memory that a device might have given; it stays for all walks.
class Device {
 public:
  explicit Device(std::size_t pages)
      : base_(mmap(nullptr, pages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0)),
        pages_(pages) {
    if (base_ == MAP_FAILED) std::abort();
  }
  ~Device() { munmap(base_, pages_ * kPageBytes); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  Extent pages(std::size_t first, std::size_t count) const {
    return {reinterpret_cast<std::uintptr_t>(base_) + first * kPageBytes, count * kPageBytes};
  }

 private:
  void* base_;
  std::size_t pages_;
};

void detach(FaultWalk& walk, Extent range, DetachMode mode = DetachMode::kBusy) {
  walk.step("detach", [&] { return walk.allocator().detach(range, mode); });
}

TEST(Faults, PoolsOfADevice) {
  const Device device(200);
  survive_every_fault({}, [&](FaultWalk& walk) {
    AttachOptions options;
    options.device = 7;
    options.device_base = 0x1000000;
    const Extent first = device.pages(0, 101);
    const Extent second = device.pages(101, 64);
    const RegionId id = walk.attach(first, options);
    options.device_base = 0x9000000;
    options.largest_block = 40000;
    walk.attach(second, options);
    std::vector<untrusted_bytes> blocks;
    for (const std::size_t size : {50u, 3000u, 20000u, 100000u})
      blocks.push_back(walk.allocate(size, 16, Placement::in_pool(id)));
    for (const std::size_t size : {50u, 3000u, 39000u})
      blocks.push_back(walk.allocate(size, 16, Placement::on_device(7)));
    for (const untrusted_bytes block : blocks)
      walk.step("device_address", [&] { return walk.allocator().device_address(block); });
    for (const untrusted_bytes block : blocks) walk.deallocate(block);
    detach(walk, first);
    detach(walk, second, DetachMode::kDrain);
  });
}

TEST(Faults, PoolsThatAreOpenToAll) {
  const Device device(64);
  survive_every_fault({FaultPoint::kHostReserve, FaultPoint::kHostRelease}, [&](FaultWalk& walk) {
    AttachOptions options;
    options.open_to_all = true;
    options.boundary = 16 * kPageBytes;
    walk.attach(device.pages(0, 64), options);
    std::vector<untrusted_bytes> blocks;
    // The last does not fit, and is grown.
    for (const std::size_t size : {100u, 1000u, 30000u, 300000u})
      blocks.push_back(walk.allocate(size));
    for (const untrusted_bytes block : blocks) walk.deallocate(block);
    detach(walk, device.pages(0, 64));
  });
}

TEST(Faults, PoolsThatDrainAndPoolsThatAreRevoked) {
  const Device device(64);
  survive_every_fault({}, [&](FaultWalk& walk) {
    int gone = 0;
    AttachOptions options;
    options.gone = [](void* count, std::uint64_t, std::uintptr_t, std::size_t) {
      ++*static_cast<int*>(count);
    };
    options.gone_context = &gone;
    const Extent drained = device.pages(0, 32);
    const Extent revoked = device.pages(32, 32);
    const RegionId first = walk.attach(drained, options);
    const RegionId second = walk.attach(revoked, options);
    const untrusted_bytes last = walk.allocate(100, 16, Placement::in_pool(first));
    const untrusted_bytes stale = walk.allocate(100, 16, Placement::in_pool(second));
    detach(walk, drained, DetachMode::kDrain);
    EXPECT_EQ(gone, 0);
    EXPECT_EQ(walk.allocator().allocate(100, 16, Placement::in_pool(first)).error(),
              Error::kNotFound);
    walk.deallocate(last);
    EXPECT_EQ(gone, 1);
    detach(walk, revoked, DetachMode::kRevoke);
    EXPECT_EQ(gone, 2);
    EXPECT_EQ(walk.allocator().deallocate_handle(stale, second).error(), Error::kStale);
  });
}

TEST(Faults, Pins) {
  const Device device(32);
  survive_every_fault({FaultPoint::kHostReserve, FaultPoint::kHostRelease}, [&](FaultWalk& walk) {
    const Extent range = device.pages(0, 32);
    const RegionId id = walk.attach(range);
    const untrusted_bytes small = walk.allocate(100);
    const untrusted_bytes large = walk.allocate(100000);
    const untrusted_bytes inside = walk.allocate(5000, 16, Placement::in_pool(id));
    std::vector<PinId> pins;
    pins.push_back(walk.pin(range));
    pins.push_back(walk.pin({small.address(), 10}));
    pins.push_back(walk.pin({large.address() + 5000, 20000}));
    pins.push_back(walk.pin({inside.address(), 5000}));
    // More than the first table of pins holds.
    for (std::size_t i = 0; i < 16; ++i) pins.push_back(walk.pin({small.address() + i, 1}));
    // Freed while pinned: they go with their last pin.
    for (const untrusted_bytes block : {small, large, inside}) walk.deallocate(block);
    EXPECT_EQ(walk.allocator().detach(range, DetachMode::kRevoke).error(), Error::kPinned);
    for (const PinId pin : pins) walk.unpin(pin);
    detach(walk, range);
  });
}

TEST(Faults, MappingsLoseTheirPagesOneByOne) {
  const Device device(40);
  survive_every_fault({}, [&](FaultWalk& walk) {
    int gone = 0;
    AttachOptions options;
    options.role = Role::kMapping;
    options.device_base = 0;
    options.gone = [](void* count, std::uint64_t, std::uintptr_t, std::size_t) {
      ++*static_cast<int*>(count);
    };
    options.gone_context = &gone;
    walk.attach(device.pages(0, 20), options);
    options.role = Role::kForbidden;
    walk.attach(device.pages(20, 20), options);
    const PinId pin = walk.pin(device.pages(19, 1));
    detach(walk, device.pages(5, 1));
    detach(walk, device.pages(0, 2));
    detach(walk, device.pages(10, 4));
    EXPECT_EQ(walk.allocator().query(device.pages(5, 1).base, 1).error(), Error::kNotFound);
    walk.unpin(pin);
    detach(walk, device.pages(14, 6));
    detach(walk, device.pages(20, 20));
    detach(walk, device.pages(2, 3));
    detach(walk, device.pages(6, 4));
    EXPECT_EQ(gone, 7);
  });
}

TEST(Faults, RegionsThatNeedNodesOfTheirOwnInThePagemap) {
  // Nothing stands there, and nothing touches it.
  constexpr std::uintptr_t kFar = std::uintptr_t{0x2345} << 32;
  constexpr std::size_t kSegment = std::size_t{4} << 20;
  survive_every_fault({}, [&](FaultWalk& walk) {
    AttachOptions options;
    options.role = Role::kMapping;
    // Over the edge between two of the root's entries, with a part of a segment at both ends.
    const Extent wide{kFar - kSegment - kPageBytes, 2 * kSegment + 2 * kPageBytes};
    walk.attach(wide, options);
    detach(walk, {kFar - kPageBytes, 3 * kPageBytes});
    detach(walk, {wide.base, kFar - kPageBytes - wide.base});
    detach(walk, {kFar + 2 * kPageBytes, wide.end() - kFar - 2 * kPageBytes});
  });
}

}  // namespace
}  // namespace exclave
