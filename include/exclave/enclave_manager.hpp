// The manager of the enclave's own memory: the inside half of the memory calls, with Linux's
// semantics, over page operations that the runtime supplies.
//
// It keeps the areas of one range of the enclave, with their protection, in trusted memory:
// look-up, split, merge and the search for a free place are O(log n), a million areas take 64 MB.
// Pages are found zero-filled, whatever stood there before. No lock is held while pages are worked
// on: the areas concerned are marked, and other threads that need them wait. A call from a signal
// handler that needs what its own thread is changing is told -EBUSY.
//
// Freestanding: no libc, no thread-local storage, no exceptions. All methods are thread-safe.
#pragma once

#include "exclave/port.hpp"
#include "exclave/result.hpp"

namespace exclave {

namespace core {
class EnclaveCore;
}  // namespace core

class EXCLAVE_API EnclaveManager {
 public:
  struct Options {
    // Whole pages inside the enclave, beside the port's window for the books, less than 16 TiB.
    // Nothing is mapped there.
    Extent range;
    // Places are searched from the top down. True: from a page below the top that the port's
    // entropy chooses, within a sixteenth of the range; the break begins as far above the bottom.
    bool randomize = false;
    // Once there are so many areas (vm.max_map_count), what would make one more is -ENOMEM: mmap, a
    // move, and what splits. 0: no such limit.
    std::size_t max_areas = 0;
    // The policy of the table (port.h: lies_outside). Null: all mappings stay inside.
    int (*lies_outside)(void* context, int protection, int flags, int descriptor,
                        std::uint64_t offset) = nullptr;
    // What the program may lock (RLIMIT_MEMLOCK): asked, with no lock held, before pages come that
    // are to be locked because of MAP_LOCKED or MCL_FUTURE, or because they make a locked area
    // longer. bytes: of this manager's locked areas, with them. 0, or what Linux says to
    // MAP_LOCKED: -EAGAIN, or -EPERM where nothing at all may be locked. Null: there is no limit.
    int (*may_lock)(void* policy_context, std::size_t bytes) = nullptr;
    void* policy_context = nullptr;
  };

  // Of the port only what is trusted is used. Errors: kInvalidArgument (the range, a table with a
  // hole), kOutOfTrustedMemory.
  static Result<EnclaveManager> create(const PortTable& port, const EnclavePagesTable& pages,
                                       const Options& options) noexcept;
  EnclaveManager() noexcept = default;  // may only be moved to or destroyed
  EnclaveManager(EnclaveManager&& other) noexcept : core_(other.core_) { other.core_ = nullptr; }
  EnclaveManager(const EnclaveManager&) = delete;
  EnclaveManager& operator=(const EnclaveManager&) = delete;
  EnclaveManager& operator=(EnclaveManager&&) = delete;
  // The books go back; pages stay as they are.
  ~EnclaveManager();

  // For MemoryCalls. Stays good when this object moves.
  EnclaveMemoryTable table() noexcept;

  // Arguments and answers as the system calls', 0 or an address or a negative errno. All of them:
  // -ENOMEM (books), -EAGAIN (no thread slot), -EBUSY (see above), or what a page operation said;
  // then nothing has changed, but where it says so.

  // Anonymous pages, a private copy of a file, or, where the page operations have `back`, a
  // descriptor's own pages. -EINVAL (length 0, type, offset or fixed address
  // not aligned), -ENOMEM (no room, fixed outside the range, MAP_HUGETLB), -EEXIST
  // (MAP_FIXED_NOREPLACE), -EOPNOTSUPP (MAP_GROWSDOWN, MAP_SYNC), -ENODEV (MAP_SHARED of a
  // descriptor, without `back`), -EAGAIN and -EPERM (Options::may_lock). MAP_FIXED replaces all or
  // nothing, but for what the runtime's `back` or `move` lost on its way.
  std::intptr_t map(std::uintptr_t address, std::size_t size, int protection, int flags,
                    int descriptor, std::uint64_t offset) noexcept;
  // What lies beside the range is a hole. -EINVAL (unaligned, size 0, wrap).
  int unmap(std::uintptr_t address, std::size_t size) noexcept;
  // -EINVAL (unaligned, bits), -ENOMEM at the first hole, with the pages before it changed.
  int protect(std::uintptr_t address, std::size_t size, int protection) noexcept;
  // mremap. -EINVAL (flags, unaligned, new size 0, old size 0, overlap), -EFAULT (the old range is
  // not all one area; a copied file would grow), -ENOMEM (no room, a fixed place beside the range),
  // -EAGAIN (Options::may_lock). A shared area grows by the page operations' `stretch` where they
  // have it: what it shows behind its old end is theirs to say.
  // With MREMAP_FIXED the new place is unmapped first, and stays so when the move then fails.
  std::intptr_t remap(std::uintptr_t old_address, std::size_t old_size, std::size_t new_size,
                      int flags, std::uintptr_t new_address) noexcept;
  // brk: the break afterwards; the present one for an address that cannot be. It begins at the
  // bottom of the range.
  std::uintptr_t set_break(std::uintptr_t address) noexcept;
  // Where the break begins, once a program is loaded. -EINVAL (beside the range), -EBUSY (it has
  // moved already).
  int start_break(std::uintptr_t address) noexcept;

  // madvise, msync, mlock2 and munlock over whole pages (port.h: advise). -ENOMEM: holes. DONTNEED
  // and FREE: the pages read as zero at once; a copied file's keep their bytes. -EINVAL and -EACCES
  // as Linux by what the area is (locked, shared, of a file). Hints go to the page operations.
  // -EAGAIN: DONTFORK and its like, where the books have no room for one more area.
  int advise(RangeCall call, std::uintptr_t address, std::size_t size, int argument) noexcept;
  // mincore.
  int resident(std::uintptr_t address, std::size_t size, unsigned char* vector) noexcept;
  // mlockall; flags 0: munlockall.
  int lock_all(int flags) noexcept;

  // For what the runtime does with the application's pages itself. Each area, or the part of one,
  // in a range of whole pages, in ascending order, its protection with it; until the call ends no
  // other one changes it, and a call of the visitor's own that needs it is -EBUSY. Not 0: the end
  // of the walk, and the answer. -ENOMEM: there are holes. -EINVAL (not whole pages), -EBUSY.
  using Visitor = int(void* context, Extent area, int protection);
  int visit(Extent range, Visitor* visitor, void* context) noexcept;

  struct Statistics {
    std::size_t areas = 0;
    std::size_t mapped_bytes = 0;
    std::size_t peak_bytes = 0;
    std::size_t trusted_bytes = 0;  // of the books
  };
  Statistics statistics() noexcept;
  bool validate_books() noexcept;

  // Around a fork, so that the child finds books and pages in agreement: before_fork waits until no
  // page operation is under way and keeps new ones out. Where there is an allocator, too, this
  // comes first: a page operation may need the allocator to end. kReentered (from a signal handler
  // in the middle of a call), kTooManyThreads. In the child no area is locked any more, those that
  // are DONTFORK are gone (drop) and those that are WIPEONFORK read as zero (zero).
  Status before_fork() noexcept;
  void after_fork_in_parent() noexcept;
  void after_fork_in_child() noexcept;

 private:
  explicit EnclaveManager(core::EnclaveCore* core) noexcept : core_(core) {}
  core::EnclaveCore* core_ = nullptr;
};

}  // namespace exclave
