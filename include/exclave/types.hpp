// The nouns of the public face: ranges, protections, regions, placement.
#pragma once

#include <cstddef>
#include <cstdint>

#include "exclave/result.hpp"

namespace exclave {

// A half-open range of addresses, [base, base + size), in bytes. A template only so that the proofs
// can ask the same source about every address at once; for integers each answer is a bool.
template <class W>
struct BasicExtent {
  W base = 0;
  W size = 0;

  constexpr W end() const noexcept { return base + size; }
  constexpr auto empty() const noexcept { return size == 0; }
  constexpr auto contains(W address) const noexcept { return address - base < size; }
  // Neither side may wrap; the empty extent overlaps nothing.
  constexpr auto overlaps(const BasicExtent& other) const noexcept {
    return size != 0 && other.size != 0 && base < other.end() && other.base < end();
  }
  constexpr auto covers(const BasicExtent& other) const noexcept {
    return other.base >= base && other.size <= size && other.base - base <= size - other.size;
  }
  friend constexpr auto operator==(const BasicExtent& a, const BasicExtent& b) noexcept
      -> decltype(W(0) == W(0)) {
    return a.base == b.base && a.size == b.size;
  }
};

using Extent = BasicExtent<std::uintptr_t>;

inline constexpr std::size_t kPageBytes = 4096;

// Bits as in PROT_READ and PROT_WRITE. Execution is never granted outside.
enum class Protection : std::uint8_t { kNone = 0, kRead = 1, kWrite = 2, kReadWrite = 3 };

enum class Role : std::uint8_t {
  kPool = 0,       // blocks are placed in it
  kMapping = 1,    // tracked only, for the application's memory calls
  kForbidden = 2,  // a window in which no region may ever lie: the runtime's own outside data
};

enum class DetachMode : std::uint8_t {
  kBusy = 0,    // refuse while blocks live in it
  kDrain = 1,   // place nothing new; it goes with its last block
  kRevoke = 2,  // it goes now; its blocks become stale (Allocator::detach says what it waits for)
};

// Names one attach or growth for ever: never reused, so it also tells a stale handle.
struct RegionId {
  std::uint64_t value = 0;
  constexpr explicit operator bool() const noexcept { return value != 0; }
  friend constexpr bool operator==(const RegionId&, const RegionId&) noexcept = default;
};

using DeviceTag = std::uint32_t;  // 0: no device
inline constexpr std::uint64_t kNoDeviceAddress = ~std::uint64_t{0};

// Where a block is to lie.
struct Placement {
  enum class Kind : std::uint8_t { kAnywhere, kPool, kDevice };
  Kind kind = Kind::kAnywhere;
  DeviceTag device = 0;
  RegionId pool{};

  static constexpr Placement anywhere() noexcept { return {}; }
  static constexpr Placement in_pool(RegionId id) noexcept { return {Kind::kPool, 0, id}; }
  static constexpr Placement on_device(DeviceTag tag) noexcept { return {Kind::kDevice, tag, {}}; }
};

struct AttachOptions {
  Role role = Role::kPool;
  Protection protection = Protection::kReadWrite;
  DeviceTag device = 0;
  // The device's own address of the first byte (IOVA, guest-physical, GPU address).
  std::uint64_t device_base = kNoDeviceAddress;
  // Pools only. Serve Placement::anywhere() from it: after what the calling thread has at hand, and
  // before the host is asked for more.
  bool open_to_all = false;
  // Pools only. Largest block in bytes; 0: no limit.
  std::size_t largest_block = 0;
  // Pools only. No block crosses a multiple of it, in CPU and device addresses; 0: none; else a
  // power of two of at least a page, and device_base must agree with the base modulo it.
  std::size_t boundary = 0;
  // Called once when the region is gone, on the thread that made it go, with no lock held.
  // For a mapping that goes in parts, once for each part. region_id is RegionId::value. When the
  // allocator is destroyed, too, for each region that is still attached (see ~Allocator). Not
  // called in the child of a fork for a mapping that MADV_DONTFORK keeps from it.
  void (*gone)(void* context, std::uint64_t region_id, std::uintptr_t base,
               std::size_t size_bytes) = nullptr;
  void* gone_context = nullptr;
};

struct RegionInfo {
  RegionId id{};
  Extent extent{};
  Role role = Role::kPool;
  Protection protection = Protection::kNone;
  bool grown = false;
  bool draining = false;
  DeviceTag device = 0;
  std::uint64_t device_base = kNoDeviceAddress;
};

// One page run or slab of a pool region, as heap maps show it.
struct RunInfo {
  enum class Kind : std::uint8_t { kFree, kBlock, kSlab };
  Extent extent{};
  Kind kind = Kind::kFree;
  std::uint32_t slot_bytes = 0;  // slabs
  std::uint32_t slots = 0;       // slabs
  std::uint32_t live_slots = 0;  // blocks: 1, or 0 when freed while pinned
  // In thread caches, freed by another thread and not yet folded, or freed while pinned.
  std::uint32_t cached_slots = 0;
  std::uint32_t owner = 0;  // slabs: thread slot + 1 of the owning heap; 0: a shared heap
  bool pinned = false;
};

struct Config {
  // Most bytes of untrusted memory to hold from the host at once. Attached memory does not count.
  std::size_t quota_bytes = SIZE_MAX;
  // Each growth asks for at least this, doubling up to grow_max_bytes as the memory held grows.
  std::size_t grow_min_bytes = std::size_t{4} << 20;
  std::size_t grow_max_bytes = std::size_t{64} << 20;
  // Grown regions of which nobody has a block any more go back to the host, in whatever order the
  // blocks were freed, as long as this much stays: no ping-pong. So what stays is less than this
  // and one region more; a region that is more than four times as long always goes. Freed large
  // blocks of up to as much are kept as they are, in these regions and in others, for requests of
  // the same length. Small blocks that a thread keeps at hand hold the regions where they lie:
  // Allocator::flush_thread.
  std::size_t keep_free_bytes = std::size_t{64} << 20;
  // Overwrite each block with zeros when it is freed. Costs one write of the block.
  bool scrub_on_free = false;
  // Told of each bad free, with no lock held, on the thread that made it: the Error as its number,
  // the address, and the size given, 0 if none. It may stop the program. For a bad free in a signal
  // handler, what the interrupted call holds is still held, so it may not call the allocator then.
  void (*misuse)(void* context, std::int32_t error, std::uintptr_t address,
                 std::size_t size_bytes) = nullptr;
  void* misuse_context = nullptr;
  // Asked once before an allocation fails, with no lock held: free something and return true to
  // retry.
  bool (*rescue)(void* context, std::size_t size_bytes) = nullptr;
  void* rescue_context = nullptr;
  // Told of each block that still lives when the allocator is destroyed, in ascending order of
  // addresses, before anything goes: the region it lies in, its address and the bytes that its
  // caller may use. Trusted, and called on the destroying thread with no lock held. It may look
  // (query, next_run, usable_size, statistics) and end things (deallocate, detach, unpin).
  void (*leaked)(void* context, std::uint64_t region_id, std::uintptr_t block,
                 std::size_t size_bytes) = nullptr;
  void* leaked_context = nullptr;
};

struct Statistics {
  // Grown and pool regions: live + cached + free + overhead == reserved.
  std::size_t reserved_bytes = 0;
  std::size_t live_bytes = 0;          // held by callers, in whole slots and pages
  std::size_t cached_bytes = 0;        // in thread caches, or freed and not yet folded or unpinned
  std::size_t free_bytes = 0;          // free page runs and free slots
  std::size_t overhead_bytes = 0;      // tails of slabs that hold no slot
  std::size_t grown_bytes = 0;         // the part of reserved_bytes that the host gave
  std::size_t mapping_bytes = 0;       // tracked mappings; not part of reserved_bytes
  std::size_t trusted_bytes = 0;       // trusted memory taken from the port for the books
  std::size_t trusted_used_bytes = 0;  // the part of it in use
  std::size_t live_blocks = 0;
  std::size_t regions = 0;
  std::size_t pins = 0;
  std::uint64_t host_reserve_calls = 0;
  std::uint64_t host_release_calls = 0;
  std::uint64_t host_map_calls = 0;
  std::uint64_t host_unmap_calls = 0;
  std::uint64_t host_protect_calls = 0;
  std::uint64_t lies_refused = 0;    // host replies that failed verification
  std::uint64_t misuse_refused = 0;  // bad frees
  std::uint64_t host_remap_calls = 0;
  std::uint64_t host_advise_calls = 0;  // madvise, msync, mlock, munlock and mincore
};

}  // namespace exclave
