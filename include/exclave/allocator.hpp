// The allocator of untrusted memory: regions, blocks, pins. All its books are in trusted memory.
//
// Thread safety: every method may be called from any thread at any time, except create and
// destruction. Trust: a pointer argument may be any value; it is looked up in the trusted books and
// never read through. Only allocate_zeroed, reallocate (when it moves) and scrubbing write to
// blocks, and only reallocate reads from one. Reentry: a call from a signal handler inside another
// call on the same thread works or answers kReentered.
#pragma once

#include "exclave/port.hpp"
#include "exclave/result.hpp"
#include "exclave/types.hpp"
#include "exclave/untrusted.hpp"

namespace exclave {

namespace core {
class AllocatorCore;
}

// A block and the region that it was placed in: what an owning handle keeps.
struct PlacedBlock {
  untrusted_bytes start;
  RegionId region;
};

// Names one pin.
struct PinId {
  std::uint64_t value = 0;
  constexpr explicit operator bool() const noexcept { return value != 0; }
};

class EXCLAVE_API Allocator {
 public:
  // Copies port and config. The allocator itself lies in the port's trusted memory.
  // Errors: kInvalidArgument (config or port out of shape), kOutOfTrustedMemory. Calls no host
  // function.
  static Result<Allocator> create(const PortTable& port, const Config& config = {}) noexcept;

  constexpr Allocator() noexcept = default;
  Allocator(Allocator&& other) noexcept;
  Allocator& operator=(Allocator&& other) noexcept;
  // Ends everything, in this order:
  // 1. Config::leaked is told of each block that still lives.
  // 2. Each region that is still attached (pool, mapping, forbidden window) leaves the books, in
  //    ascending order of addresses, whatever lives in it; its pins end; AttachOptions::gone is
  //    called. The host is not: the range stays mapped.
  // 3. Grown regions go back to the host; pinned ones are left to leak outside.
  // 4. All books go back to the port.
  // These callbacks may call the allocator to look and to end things (deallocate, detach, unpin:
  // kNotFound and kForeignFree tell of what has gone). attach answers kNotPermitted, and
  // MemoryCalls must not be used. No other call may run or follow. With no callbacks: O(regions);
  // leaked walks all books of blocks once.
  ~Allocator();

  // ---- Regions ----

  // Inserts a committed, page-aligned untrusted range. O(log regions), plus the books of a pool
  // (0.03 % of it). Errors, all without change: kInvalidArgument (empty, unaligned, wrapping,
  // non-canonical, constraints out of shape), kInsideEnclave, kOverlap, kOutOfTrustedMemory,
  // kNotPermitted (in a callback of the allocator's destruction).
  Result<RegionId> attach(Extent range, const AttachOptions& options = {}) noexcept;

  // Removes a range that was attached. A mapping may lose any page-aligned part; a pool or a
  // forbidden window goes whole, by its exact range. The host is not called: the range stays
  // mapped. Errors, all without change: kInvalidArgument, kNotFound (unknown, grown, partial pool,
  // holes), kBusy, kPinned, kReentered. With kDrain, success means that the region is gone or will
  // go with its last block (see AttachOptions::gone).
  // What threads keep cached of a pool holds nothing up, and they need not run. It takes the pool's
  // lock, and up to a millisecond for each million slots, whose states it looks at.
  // Once the region is gone, the library touches none of its bytes any more: the caller may unmap
  // them, or give them to somebody else. What it does itself (zeroing, copying in reallocate,
  // scrubbing) is over by then, in all threads: detach waits for it, at most for a piece of 64 KiB
  // or one scrub. kBusy in any mode when that takes seconds (the host has stopped that thread):
  // try again. A handler that jumps out of such work, and does not end its thread, leaves the pool
  // busy. Copies by the caller (access.hpp, Box, Ring) are the caller's to stop.
  Status detach(Extent range, DetachMode mode = DetachMode::kBusy) noexcept;

  // The region in which [address, address + size_bytes) wholly lies. Lock-free, a few nanoseconds.
  // size_bytes 0 asks for the single address. Errors: kNotFound (also on wrap, straddling and
  // in-enclave ranges), kReentered (from a signal handler, while that region is being changed).
  Result<RegionInfo> query(std::uintptr_t address, std::size_t size_bytes) const noexcept;

  // Like query, and makes a pointer of it when the region's protection allows what is needed. Ends
  // with an lfence: nothing that follows runs ahead of the check (query has none).
  // Errors: as query, kNotPermitted.
  Result<untrusted_bytes> validate(std::uintptr_t address, std::size_t size_bytes,
                                   Protection needed = Protection::kReadWrite) const noexcept;

  // The device's address of this byte. Only what was attached with AttachOptions::device_base has
  // one. mremap keeps it for pages that move; pages by which a mapping grows have none, nor has a
  // mapping that grows and moves in one call, nor the place that MREMAP_DONTUNMAP leaves. Errors:
  // kNotFound (no region, or it has no device address).
  Result<std::uint64_t> device_address(untrusted_bytes pointer) const noexcept;

  // Keeps a range for a device or an I/O in flight: a whole pool (a registered buffer: it stays
  // attached, its blocks come and go), part of one live block, or all of it, be that all of its
  // pool (if freed, it is not handed out again until unpinned), or pages of mappings, for which it
  // waits while another thread's memory call has them at the host. The caller sees to it that
  // nobody frees the block before pin has answered: a free by the block's own thread at that moment
  // may not see the pin, which then keeps nothing. Errors: kInvalidArgument,
  // kNotFound (not wholly in one live block, pool or mapping), kBusy (a memory call of this thread
  // has the mapping at the host), kOutOfTrustedMemory.
  Result<PinId> pin(Extent range) noexcept;
  // Errors: kNotFound (not a live pin).
  Status unpin(PinId pin) noexcept;

  // ---- Blocks ----

  // At least size_bytes (1 to one region's worth) at the alignment (a power of two up to 1 GiB).
  // Small sizes take no lock: on memory that the allocator grew, and in each of the last eight
  // attached pools that the thread used eight times in a row (trusted memory: 4.3 KB for each, and
  // 16 bytes for each slot that is kept; flush_thread gives it back). It calls the host only to
  // grow.
  // Errors, all without change: kInvalidArgument, kOutOfMemory, kQuota, kHostRefused, kHostLied,
  // kOutOfTrustedMemory, kNotFound (no such pool or device), kReentered, kTooManyThreads.
  Result<untrusted_bytes> allocate(std::size_t size_bytes) noexcept;
  Result<untrusted_bytes> allocate(std::size_t size_bytes, std::size_t alignment,
                                   Placement where = {}) noexcept;
  // As allocate, for owning handles: tells the region, too. It is the one that the block was placed
  // in, whatever has been revoked and attached since; region_of, asked later, may name the region
  // of another block at the same address. Errors: as allocate.
  Result<PlacedBlock> allocate_handle(std::size_t size_bytes, std::size_t alignment = 16,
                                      Placement where = {}) noexcept;
  // As allocate, with zeros written through the boundary. The host can change them at any time.
  // kNotFound, too, when the pool goes meanwhile, or a detach tries to take it. While it writes to
  // a pool, calls from signal handlers of this thread hear kReentered.
  Result<untrusted_bytes> allocate_zeroed(std::size_t size_bytes, std::size_t alignment = 16,
                                          Placement where = {}) noexcept;
  // Resizes a block: in place if it fits there, a block of pages also by the free pages behind it;
  // else it moves, and contents up to the smaller size go along. A pinned block of pages whose
  // number changes moves, too: the old one is freed, and kept until its last pin goes. On error the
  // old block is untouched. A null block allocates. A block stays where it is only if it could be
  // placed there now: the pool or device asked for is its own, and the pool's largest_block and
  // boundary allow the size. In a pool that drains no block becomes longer (kNotFound). Errors: as
  // allocate_zeroed and deallocate; kStale, the block's pool was revoked meanwhile, or a detach
  // tries to take it.
  Result<untrusted_bytes> reallocate(untrusted_bytes block, std::size_t size_bytes,
                                     std::size_t alignment = 16, Placement where = {}) noexcept;

  // Frees a block. Null is allowed. A bad free changes nothing, is told to Config::misuse, and
  // answers kDoubleFree, kInteriorFree or kForeignFree; kReentered changes nothing either. Pins of
  // the block may come and go meanwhile.
  Status deallocate(untrusted_bytes block) noexcept;
  // The same, and kWrongSize unless a block of that size and alignment is what stands there.
  Status deallocate(untrusted_bytes block, std::size_t size_bytes,
                    std::size_t alignment = 16) noexcept;

  // Bytes that the caller may use. Errors: as deallocate, without telling Config::misuse.
  Result<std::size_t> usable_size(untrusted_bytes block) const noexcept;

  // The region of the block that is live at the address now. A handle compares it with the id that
  // allocate_handle told it. Errors: as usable_size.
  Result<RegionId> region_of(untrusted_bytes block) const noexcept;
  // Frees a block of allocate_handle. kStale, without telling Config::misuse, when the region is
  // not there any more; else as deallocate.
  Status deallocate_handle(untrusted_bytes block, RegionId region) noexcept;

  // ---- Threads ----

  // Returns this thread's cached blocks. The process port does so at thread exit; other ports call
  // it when a thread ends or goes idle. Never required: a slot that is used again finds its heap as
  // it was left.
  void flush_thread() noexcept;
  // Gives every wholly free grown region back to the host, whatever Config::keep_free_bytes says.
  void trim() noexcept;
  // Around fork(), by whoever calls it or by pthread_atfork: before_fork waits for calls that hold
  // a lock and lets none in (other threads wait, signal handlers of this one hear kReentered) until
  // after_fork_in_parent or after_fork_in_child is called on the same thread. The child has the
  // blocks of all threads; the free memory of their heaps is handed to its one thread, but for
  // heaps that were in the middle of a call. It has no mapping that the application's MADV_DONTFORK
  // keeps from it, and no pin that overlaps one. Grown memory must be private to each process, not
  // shared. No host calls. Error: kReentered, in a signal handler inside another call of this
  // thread: nothing is prepared, neither of the others may be called, and the child must not use
  // the allocator.
  Status before_fork() noexcept;
  void after_fork_in_parent() noexcept;
  void after_fork_in_child() noexcept;

  // ---- Looking ----

  // Walks the books. Exact when no other call runs; otherwise a close picture.
  Statistics statistics() const noexcept;
  // The first region that ends above the address; for iteration while regions come and go. Error:
  // kNotFound at the end.
  Result<RegionInfo> next_region(std::uintptr_t address) const noexcept;
  // The free stretch, block or slab that holds the address; go on at its end. Error: kNotFound (not
  // in a pool region).
  Result<RunInfo> next_run(std::uintptr_t address) const noexcept;
  // Checks every invariant of the books; false names none but means a bug. For tests: no other call
  // may run.
  bool validate_books() const noexcept;

  core::AllocatorCore* core() const noexcept { return core_; }

 private:
  core::AllocatorCore* core_ = nullptr;
};

}  // namespace exclave
