// The allocator as the linearizability driver calls it; with a fault of its own where one is to be
// planted, to show that the driver finds it.
#pragma once

#include <array>
#include <atomic>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "exclave/box.hpp"

namespace exclave::soak {

enum class Plant {
  kNone,
  kOverlap,       // a block is handed out twice
  kBusy,          // detach(kBusy) revokes
  kAfterDetach,   // a pool gives out a block after its end
  kPinnedDetach,  // detach(kRevoke) of a pinned pool answers ok
  kLateWrite,     // a byte of a revoked pool changes
  kDoubleFree,    // a good free is told as a double one
  kStaleTaken,    // a free in a revoked pool answers ok
  kOtherRegion,   // a handle names another region
  kEarlyUnpin,    // a pin does not hold
  kNotZeroed,     // a byte of allocate_zeroed's block is not zero
  kLostByte,      // reallocate loses a byte
  kLeak,          // a free does nothing
  kGoneTwice,     // the callback comes twice
};
struct NamedPlant {
  Plant plant;
  std::string_view name;
  std::string_view finding;  // part of the line that tells it
};
inline constexpr std::array kPlants = {
    NamedPlant{Plant::kOverlap, "overlap", "two live blocks overlap"},
    NamedPlant{Plant::kBusy, "busy", "detach(kBusy) took a pool with a live block"},
    NamedPlant{Plant::kAfterDetach, "after-detach", "a detached pool gave out a block"},
    NamedPlant{Plant::kPinnedDetach, "pinned-detach", "a pinned pool went"},
    NamedPlant{Plant::kLateWrite, "late-write", "a byte of a detached pool changed"},
    NamedPlant{Plant::kDoubleFree, "double-free", "a valid free was refused"},
    NamedPlant{Plant::kStaleTaken, "stale-taken", "a free of a revoked block was taken"},
    NamedPlant{Plant::kOtherRegion, "other-region", "a handle names another pool"},
    NamedPlant{Plant::kEarlyUnpin, "early-unpin", "pinned memory was handed out"},
    NamedPlant{Plant::kNotZeroed, "not-zeroed", "a zeroed block is not"},
    NamedPlant{Plant::kLostByte, "lost-byte", "a live block changed"},
    NamedPlant{Plant::kLeak, "leak", "blocks were lost or made up"},
    NamedPlant{Plant::kGoneTwice, "gone-twice", "gone was called 2 times"},
};

// Thread-safe and, as the allocator, reentrant.
class Subject {
 public:
  Subject(Allocator& allocator, Plant plant) : allocator_(allocator), plant_(plant) {}

  Allocator& real() { return allocator_; }

  Result<untrusted_bytes> allocate(std::size_t size, std::size_t alignment, Placement where) {
    write_late();
    // The next call gets it, too.
    if (const std::uintptr_t again = again_.exchange(0); again != 0) return pointer(again);
    const auto block = allocator_.allocate(size, alignment, where);
    if (block.ok() && where.kind == Placement::Kind::kAnywhere && planted(Plant::kOverlap, 500))
      again_ = block->address();
    return given(block, where);
  }
  Result<untrusted_bytes> allocate_zeroed(std::size_t size, std::size_t alignment,
                                          Placement where) {
    const auto block = allocator_.allocate_zeroed(size, alignment, where);
    if (block.ok() && where.kind == Placement::Kind::kAnywhere && planted(Plant::kNotZeroed, 100))
      *static_cast<unsigned char*>(block->unsafe_raw()) = 1;
    return given(block, where);
  }
  // The block and the region that its handle names.
  struct Handle {
    untrusted_bytes block;
    RegionId region;
  };
  Result<Handle> create_handle(std::size_t size, std::size_t alignment, Placement where) {
    Result<Block> made = Block::create(allocator_, size, alignment, where);
    if (!made.ok()) return made.error();
    Handle handle{{}, made->region()};
    handle.block = made->release();
    if (planted(Plant::kOtherRegion, 100)) ++handle.region.value;
    return handle;
  }
  Result<untrusted_bytes> reallocate(untrusted_bytes block, std::size_t size, std::size_t alignment,
                                     Placement where) {
    const auto moved = allocator_.reallocate(block, size, alignment, where);
    if (moved.ok() && where.kind == Placement::Kind::kAnywhere && planted(Plant::kLostByte, 100))
      *static_cast<unsigned char*>(moved->unsafe_raw()) ^= 1;
    return moved;
  }
  Status deallocate(untrusted_bytes block) {
    if (planted(Plant::kLeak, 500)) return {};
    const Status freed = allocator_.deallocate(block);
    return planted(Plant::kDoubleFree, 500) ? Error::kDoubleFree : freed;
  }
  Status deallocate(untrusted_bytes block, std::size_t size, std::size_t alignment) {
    return allocator_.deallocate(block, size, alignment);
  }
  Status deallocate_handle(untrusted_bytes block, RegionId region) {
    const Status freed = allocator_.deallocate_handle(block, region);
    if (plant_ == Plant::kStaleTaken && freed.error() == Error::kStale) return {};
    return freed;
  }
  Result<RegionId> attach(Extent range, const AttachOptions& options) {
    return allocator_.attach(range, options);
  }
  Status detach(Extent range, DetachMode mode) {
    Status done = allocator_.detach(range, mode);
    if (plant_ == Plant::kBusy && mode == DetachMode::kBusy && done.error() == Error::kBusy)
      done = allocator_.detach(range, DetachMode::kRevoke);
    if (plant_ == Plant::kPinnedDetach && mode == DetachMode::kRevoke &&
        done.error() == Error::kPinned)
      return {};
    if (plant_ == Plant::kLateWrite && done.ok() && mode == DetachMode::kRevoke)
      late_byte_ = range.base + 8;
    if (plant_ == Plant::kAfterDetach && done.ok()) gone_range_ = range.base;
    return done;
  }
  // Should the callback come once more?
  bool repeats_gone() { return planted(Plant::kGoneTwice, 20); }
  Result<PinId> pin(Extent range) {
    const Result<PinId> made = allocator_.pin(range);
    if (made.ok() && plant_ == Plant::kEarlyUnpin) (void)allocator_.unpin(*made);
    return made;
  }
  Status unpin(PinId id) { return plant_ == Plant::kEarlyUnpin ? Status{} : allocator_.unpin(id); }

 private:
  static untrusted_bytes pointer(std::uintptr_t address) {
    return untrusted_bytes::unsafe_from_address(address);
  }
  bool planted(Plant plant, unsigned every) {
    return plant_ == plant && calls_.fetch_add(1) % every == every - 1;
  }
  Result<untrusted_bytes> given(Result<untrusted_bytes> block, Placement where) {
    if (plant_ == Plant::kAfterDetach && block.error() == Error::kNotFound &&
        where.kind == Placement::Kind::kPool) {
      if (const std::uintptr_t base = gone_range_.exchange(0); base != 0) return pointer(base);
    }
    return block;
  }
  // What another thread's call would do that was under way when the pool was revoked.
  void write_late() {
    if (plant_ != Plant::kLateWrite) return;
    if (const std::uintptr_t at = late_byte_.exchange(0); at != 0)
      *reinterpret_cast<volatile unsigned char*>(at) = 0;
  }

  Allocator& allocator_;
  const Plant plant_;
  std::atomic<unsigned> calls_{0};
  std::atomic<std::uintptr_t> again_{0}, late_byte_{0}, gone_range_{0};
};

}  // namespace exclave::soak
