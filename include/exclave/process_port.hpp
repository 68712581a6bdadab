// The embedded default port: trusted memory is this process's own; untrusted memory comes from the
// kernel and is shared with devices or with a child process. For Linux on x86-64.
#pragma once

#include "exclave/allocator.hpp"
#include "exclave/enclave_manager.hpp"

namespace exclave {

// Stands in for the enclave's range: one reserved window of this process's address space, for the
// books and for the memory that the enclave's own manager gives out. Every method is thread-safe.
class EXCLAVE_API ProcessPort {
 public:
  struct Options {
    // Address space for the books and for ProcessEnclaveMemory, not memory: it is inaccessible
    // until it is used. Multiples of a page, the books at most 32 GiB. Where the system refuses so
    // much, both are halved, down to 64 MiB each. Of a limited address space (ulimit -v) either
    // takes an eighth at most; the books of more take their place piece by piece, as with
    // reserve_books off.
    std::size_t book_bytes = std::size_t{16} << 30;
    std::size_t enclave_bytes = std::size_t{16} << 30;
    // false: the books take address space only as they grow, at a place, 16 TiB below others, that
    // the kernel does not choose by itself. What a program maps just there by MAP_FIXED ends their
    // growth.
    bool reserve_books = true;
    bool huge_pages = true;  // ask for huge pages in untrusted regions of at least 32 MiB
    // Back what host_reserve gives with one memfd, so that another process can map it:
    // shared_backing(). At most 4 TiB, and what a limit to the size of files (ulimit -f) allows.
    bool shared = false;
    // Where the window is to lie if that place is free; 0: anywhere.
    std::uintptr_t base_hint = 0;
  };
  // Errors: kInvalidArgument (sizes), kOutOfTrustedMemory (no address space), kHostRefused (no
  // memfd).
  static Result<ProcessPort*> create(const Options& options) noexcept;
  static Result<ProcessPort*> create() noexcept { return create(Options{}); }
  // Unmaps the window, so every allocator on this port must be gone. Untrusted memory that is still
  // held stays mapped.
  static void destroy(ProcessPort* port) noexcept;

  // The table for Allocator::create; the port must outlive the allocator.
  PortTable table() noexcept;

  Extent enclave() noexcept;
  Extent book_window() noexcept;
  // The part of the enclave's range that is left to the enclave's own memory manager.
  Extent enclave_heap() noexcept;
  // Mostly no system call: pages become accessible in steps of a mebibyte, or of an eighth of what
  // is, by mprotect or mmap. Null, too, when the kernel refuses that (RLIMIT_DATA, RLIMIT_AS).
  void* trusted_reserve(std::size_t bytes) noexcept;
  // Drops the pages with one system call, so that they read as zero when they are handed out again.
  void trusted_release(void* memory, std::size_t bytes) noexcept;
  bool entropy(void* memory, std::size_t bytes) noexcept;
  bool has_avx() noexcept;
  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept;
  int host_release(std::uintptr_t address, std::size_t bytes) noexcept;
  HostReply host_map(const MapRequest& request) noexcept;
  int host_unmap(std::uintptr_t address, std::size_t bytes) noexcept;
  int host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept;
  HostReply host_remap(std::uintptr_t old_address, std::size_t old_size, std::size_t new_size,
                       int flags, std::uintptr_t new_address) noexcept;
  int host_advise(RangeCall call, std::uintptr_t address, std::size_t bytes, int argument) noexcept;
  int host_resident(std::uintptr_t address, std::size_t bytes, unsigned char* vector) noexcept;

  // Where another process finds the same memory: mmap(..., MAP_SHARED, descriptor, offset).
  struct SharedBacking {
    int descriptor = -1;       // owned by the port; valid in children, too
    std::uint64_t offset = 0;  // of the address that was asked for
    std::size_t bytes = 0;     // contiguous from there
  };
  // Errors: kNotFound (not memory that host_reserve gave and still holds, or Options::shared is
  // off).
  Result<SharedBacking> shared_backing(std::uintptr_t address) noexcept;

  // Around fork(), so that the child finds the port's books whole: before_fork after
  // Allocator::before_fork, after_fork in the parent and in the child before Allocator's. In the
  // child, forget_other_threads comes first: the thread slots of all threads but this one are free
  // again.
  void before_fork() noexcept;
  void after_fork() noexcept;
  static void forget_other_threads() noexcept;

 private:
  struct State;
  struct Pages;
  explicit ProcessPort(State* state) noexcept : state_(state) {}
  State* state_;
};

// The manager of the enclave's own memory (enclave_manager.hpp) on page operations of the kernel:
// what is not mapped stays reserved, inaccessible. For heaps of up to 16 TiB; of a larger one, its
// upper end.
class EXCLAVE_API ProcessEnclaveMemory {
 public:
  // randomize: see EnclaveManager::Options.
  explicit ProcessEnclaveMemory(Extent heap, bool randomize = false) noexcept;
  ~ProcessEnclaveMemory();
  ProcessEnclaveMemory(const ProcessEnclaveMemory&) = delete;
  ProcessEnclaveMemory& operator=(const ProcessEnclaveMemory&) = delete;

  // Where there was no memory for the books at construction, each call answers -ENOMEM.
  std::intptr_t map(std::uintptr_t address, std::size_t size, int protection, int flags,
                    int descriptor, std::uint64_t offset) noexcept;
  int unmap(std::uintptr_t address, std::size_t size) noexcept;
  int protect(std::uintptr_t address, std::size_t size, int protection) noexcept;
  std::intptr_t remap(std::uintptr_t old_address, std::size_t old_size, std::size_t new_size,
                      int flags, std::uintptr_t new_address) noexcept;
  std::uintptr_t set_break(std::uintptr_t address) noexcept;
  int advise(RangeCall call, std::uintptr_t address, std::size_t size, int argument) noexcept;
  int resident(std::uintptr_t address, std::size_t size, unsigned char* vector) noexcept;
  int lock_all(int flags) noexcept;
  // The policy of the process port: MAP_SHARED of a descriptor lies outside.
  bool lies_outside(int protection, int flags, int descriptor, std::uint64_t offset) noexcept;

  // Null where there was no memory for the books.
  EnclaveManager* manager() noexcept;

 private:
  struct State;
  State* state_;
};

}  // namespace exclave
