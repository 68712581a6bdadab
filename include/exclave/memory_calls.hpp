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
  // in the books.
  int munmap(std::uintptr_t address, std::size_t length) noexcept;

  // -EINVAL (unaligned, bits), -EACCES (PROT_EXEC outside), -ENOMEM (wrap, or at the first hole,
  // with the pages before it changed, as Linux does); or the host's errno.
  int mprotect(std::uintptr_t address, std::size_t length, int protection) noexcept;

 private:
  core::AllocatorCore* core_;
  EnclaveMemoryTable inside_;
};

}  // namespace exclave
