// The application's memory calls, dispatched between the enclave's own memory and the outside.
//
// Arguments and results are those of the Linux system calls: 0 or an address, or a negative errno.
#pragma once

#include "exclave/allocator.hpp"

namespace exclave {

class EXCLAVE_API MemoryCalls {
 public:
  // The allocator's core (it may move to another Allocator) and whatever the table refers to must
  // outlive this object.
  MemoryCalls(Allocator& allocator, const EnclaveMemoryTable& inside) noexcept
      : MemoryCalls(*allocator.core(), inside) {}
  MemoryCalls(core::AllocatorCore& core, const EnclaveMemoryTable& inside) noexcept
      : core_(&core), inside_(inside) {}

  // Inside unless the runtime's policy says that the descriptor's memory lies outside; then the
  // host maps it, and the verified range is attached as a mapping. The offset is the device's
  // token, not a file position; the length may be any number of bytes and is rounded up to pages.
  // Outside: -EINVAL (length 0, too long, flags), -EACCES (PROT_EXEC), -EPERM (host's answer failed
  // verification), -EEXIST, -EBUSY (fixed address over pinned, own or unknown memory), -ENOMEM
  // (books), or the host's errno if Linux documents it for mmap, else -EIO. Nothing changes on
  // error; MAP_FIXED over the application's own mappings replaces all or nothing.
  std::intptr_t mmap(std::uintptr_t address, std::size_t length, int protection, int flags,
                     int descriptor, std::uint64_t offset) noexcept;

  // Pages of the application's mappings in the range go; holes, pools and unknown memory are
  // skipped and never reach the host. -EINVAL (unaligned, length 0, wrap), -EBUSY (pinned pages;
  // nothing changed), -ENOMEM (books; nothing changed), or the host's errno: what it refused stays
  // in the books. Across the enclave's edge the outside goes first, and stays gone when the manager
  // refuses the inside.
  int munmap(std::uintptr_t address, std::size_t length) noexcept;

  // -EINVAL (unaligned, bits), -EACCES (PROT_EXEC outside), -ENOMEM (wrap, or at the first hole,
  // with the pages before it changed, as Linux does); or the host's errno.
  int mprotect(std::uintptr_t address, std::size_t length, int protection) noexcept;

  // Shrinks, grows in place or moves one mapping; it stays on its side of the enclave's edge.
  // -EINVAL (flags, unaligned, new length 0, overlap, a fixed place on the other side), -EFAULT
  // (the old range is not wholly in one mapping), -ENOMEM (no room; without MREMAP_MAYMOVE: no room
  // behind it; books), -EBUSY (pinned; a fixed place over pools or unknown memory), -EPERM (the
  // host lied), -ENOSYS (the port or the manager has none). What is cut off is unmapped first, as
  // by munmap, and stays so on a later error; outside, a fixed place is replaced all or nothing.
  std::intptr_t mremap(std::uintptr_t old_address, std::size_t old_length, std::size_t new_length,
                       int flags, std::uintptr_t new_address) noexcept;

  // The break afterwards; the present one for an address that cannot be. 0: the manager has none.
  std::uintptr_t brk(std::uintptr_t address) noexcept;

  // -EINVAL, always: no mapping here is of the kind that could be rearranged.
  int remap_file_pages(std::uintptr_t address, std::size_t length, int protection,
                       std::size_t page_offset, int flags) noexcept;

  // What follows walks over the range in ascending order, through both sides. Holes, pools and
  // unknown memory are holes: madvise and msync do the rest and answer -ENOMEM, mlock, munlock,
  // MADV_POPULATE_* and mincore stop at the first. The first other error ends the walk: what the
  // enclave's manager says, or the host's errno if Linux documents it for the call, else -EIO.
  // -EBUSY: this thread's own call is under way there.

  // All advices of Linux 6.1 but those that poison memory. -EINVAL (unknown, unaligned, wrap),
  // -EBUSY (advice that takes pages, where some are pinned; nothing changed).
  int madvise(std::uintptr_t address, std::size_t length, int advice) noexcept;
  // -EINVAL (flags, unaligned), -EBUSY (MS_INVALIDATE, locked).
  int msync(std::uintptr_t address, std::size_t length, int flags) noexcept;
  int mlock(std::uintptr_t address, std::size_t length) noexcept {
    return mlock2(address, length, 0);
  }
  int mlock2(std::uintptr_t address, std::size_t length, int flags) noexcept;
  int munlock(std::uintptr_t address, std::size_t length) noexcept;
  // MCL_FUTURE is for what comes inside.
  int mlockall(int flags) noexcept;
  int munlockall() noexcept;
  // vector: the application's, a byte for each page; the caller has checked that it may be written.
  // What the host says of its pages is its word.
  int mincore(std::uintptr_t address, std::size_t length, unsigned char* vector) noexcept;

  // ---- Mappings that come without an mmap: shmat, io_setup ----

  // The host says that it mapped a range there; verified as any answer of its, then a mapping of
  // the application. -EINVAL (length 0, bits), -EACCES (PROT_EXEC), -EPERM (not a legal place, or
  // something stands in the books there: a lie), -ENOMEM (books; the caller has it unmapped),
  // -EBUSY, -EAGAIN.
  int adopt(std::uintptr_t address, std::size_t length, int protection) noexcept;
  // Before the host is told to take it back (shmdt, io_destroy); if it refuses, adopt it again.
  // -EINVAL (not wholly mappings), -EBUSY (pinned, or this thread's call is under way there),
  // -ENOMEM. Nothing changes on error.
  int give_up(std::uintptr_t address, std::size_t length) noexcept;

  // Is [address, address + length) wholly outside and of the application's mappings? For what is
  // registered by address: userfaultfd, buffers of io_uring. Length 0: the single address. No lock.
  bool is_application_memory(std::uintptr_t address, std::size_t length) const noexcept;

 private:
  int walk(RangeCall call, std::uintptr_t address, std::size_t size, int argument,
           bool skips_holes) noexcept;
  int lock(RangeCall call, std::uintptr_t address, std::size_t length, int flags) noexcept;
  int lock_all(int flags) noexcept;

  core::AllocatorCore* core_;
  EnclaveMemoryTable inside_;
};

}  // namespace exclave
