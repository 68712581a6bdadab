// The page operations below the manager of the program's memory: the kernel's, called raw.
//
// Shared memory that the policy does not allow outside is served inside, by the kernel's own
// mappings at places in the range: no enclave could do that (docs/exec.md).
#pragma once

#include <atomic>

#include "kernel/enclave_pages.hpp"
#include "loader/linux_abi.hpp"
#include "loader/syscalls.hpp"

namespace exclave::loader {

struct RawCalls {
  // Asleep, so that one which this one goes before (SCHED_FIFO) runs, too.
  static void wait() noexcept {
    const std::int64_t briefly[] = {0, 1000};  // seconds, ns
    (void)system_call(__NR_nanosleep, briefly, 0);
  }
  static long vacate(std::uintptr_t address, std::size_t size) noexcept {
    return system_call(__NR_munmap, address, size);
  }
  static long mmap(std::uintptr_t address, std::size_t size, int protection, int flags,
                   int descriptor, std::uint64_t offset) noexcept {
    return system_call(__NR_mmap, address, size, protection, flags, descriptor, offset);
  }
  static long mprotect(std::uintptr_t address, std::size_t size, int protection) noexcept {
    return system_call(__NR_mprotect, address, size, protection);
  }
  static long mremap(std::uintptr_t from, std::size_t old_size, std::size_t new_size, int flags,
                     std::uintptr_t to) noexcept {
    return system_call(__NR_mremap, from, old_size, new_size, flags, to);
  }
  static long range_call(RangeCall call, std::uintptr_t address, std::size_t size,
                         int argument) noexcept {
    constexpr long kNumbers[] = {__NR_madvise, __NR_msync, __NR_mlock2, __NR_munlock};
    return system_call(kNumbers[call], address, size, argument);
  }
  static long mincore(std::uintptr_t address, std::size_t size, unsigned char* vector) noexcept {
    return system_call(__NR_mincore, address, size, vector);
  }
  static long status_flags(int descriptor) noexcept {
    return system_call(__NR_fcntl, descriptor, F_GETFL);
  }
  static long file_kind(int descriptor, kernel::FileKind* kind) noexcept {
    FileStatus status{};
    const long result = system_call(__NR_fstat, descriptor, &status);
    *kind = {status.mode, status.special_device};
    return result;
  }
  static long pread(int descriptor, std::uintptr_t to, std::size_t size,
                    std::uint64_t offset) noexcept {
    return system_call(__NR_pread64, descriptor, to, size, offset);
  }
};

class InsidePages : public kernel::EnclavePages<RawCalls> {
  using Pages = kernel::EnclavePages<RawCalls>;

 public:
  // What the manager is given in place of a descriptor for a System V segment, and never by the
  // program: its own descriptors below 0 are refused before.
  static constexpr int segment(int id) noexcept { return -2 - id; }

  // What lies wholly behind the file's end is SIGBUS, as on Linux.
  int fill(std::uintptr_t address, std::size_t size, int descriptor, std::uint64_t offset) noexcept;
  int back(std::uintptr_t address, std::size_t size, int protection, int flags, int descriptor,
           std::uint64_t offset) noexcept;
  int stretch(std::uintptr_t from, std::size_t old_size, std::uintptr_t to,
              std::size_t new_size) noexcept;

  // How often back succeeded.
  std::size_t shared_maps() const noexcept { return shared_maps_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::size_t> shared_maps_{0};
};

}  // namespace exclave::loader
