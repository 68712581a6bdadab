// Page operations for the manager of the enclave's own memory, by a Linux kernel.
//
// Calls makes the system calls, however that is done where it stands: static functions by their
// names, each answering 0, an address, a length, or a negative errno. vacate is what makes pages
// nobody's: munmap, or, where others map memory in the same range, something that keeps them out;
// wait lets other threads run.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>

#include "exclave/port.hpp"

namespace exclave::kernel {

// What fstat says, of which the rest does not matter here.
struct FileKind {
  std::uint32_t mode = 0;
  std::uint64_t device = 0;  // of a device file
};
inline constexpr std::uint64_t kZeroDevice = 0x105;  // /dev/zero, on every Linux

template <class Calls>
struct EnclavePages {
  int commit(std::uintptr_t address, std::size_t size, int protection, bool shared) noexcept {
    const int flags =
        MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE);
    return error_of(Calls::mmap(address, size, protection, flags, -1, 0));
  }
  int protect(std::uintptr_t address, std::size_t size, int protection) noexcept {
    return error_of(Calls::mprotect(address, size, protection));
  }
  int drop(std::uintptr_t address, std::size_t size) noexcept {
    return error_of(Calls::vacate(address, size));
  }
  // When the kernel has no room for one more mapping it does not say whether what stood at the new
  // place is gone; so it goes.
  int move(std::uintptr_t from, std::uintptr_t to, std::size_t size, int, bool keep) noexcept {
    const int error = move_pages(from, to, size, keep);
    if (error != 0) {
      (void)Calls::vacate(to, size);
      return -error;
    }
    if (!keep) (void)Calls::vacate(from, size);
    return 0;
  }

  int fill(std::uintptr_t address, std::size_t size, int descriptor,
           std::uint64_t offset) noexcept {
    const long mode = Calls::status_flags(descriptor);
    if (mode < 0 || (mode & O_PATH) != 0) return -EBADF;
    if ((mode & O_ACCMODE) == O_WRONLY) return -EACCES;
    if (offset > INT64_MAX - size) return -EOVERFLOW;
    FileKind file;
    if (Calls::file_kind(descriptor, &file) < 0) return -EBADF;
    if (S_ISCHR(file.mode)) return file.device == kZeroDevice ? 0 : -ENODEV;
    // A pipe, a socket, a folder have no mmap.
    if (!S_ISREG(file.mode) && !S_ISBLK(file.mode)) return -ENODEV;
    for (std::size_t done = 0; done < size;) {
      const long got = Calls::pread(descriptor, address + done, size - done, offset + done);
      if (got > 0) {
        done += static_cast<std::size_t>(got);
      } else if (got == 0) {
        break;
      } else if (got != -EINTR) {
        return got == -EIO ? -EIO : -ENODEV;
      }
    }
    return 0;
  }

  int zero(std::uintptr_t address, std::size_t size, int, bool shared) noexcept {
    const int advice = shared ? MADV_REMOVE : kDontNeedLocked;
    return error_of(Calls::range_call(EXCLAVE_MADVISE, address, size, advice));
  }
  int advise(RangeCall call, std::uintptr_t address, std::size_t size, int argument) noexcept {
    return error_of(Calls::range_call(call, address, size, argument));
  }
  int resident(std::uintptr_t address, std::size_t size, unsigned char* vector) noexcept {
    return error_of(Calls::mincore(address, size, vector));
  }
  void wait() noexcept { Calls::wait(); }

 protected:
  static int error_of(long result) noexcept {
    return result < 0 && result >= -4095 ? static_cast<int>(result) : 0;
  }
  static int remap(std::uintptr_t from, std::size_t old_size, std::uintptr_t to,
                   std::size_t new_size, int flags) noexcept {
    return error_of(
        Calls::mremap(from, old_size, new_size, MREMAP_MAYMOVE | MREMAP_FIXED | flags, to));
  }

 private:
  static constexpr int kDontNeedLocked = 24;  // MADV_DONTNEED_LOCKED, since Linux 5.18

  // Leaves empty pages behind, so that nobody else's mapping can come to stand there.
  static int move_pages(std::uintptr_t from, std::uintptr_t to, std::size_t size,
                        bool keep) noexcept {
    const int error = remap(from, size, to, size, MREMAP_DONTUNMAP);
    if (error == 0) return 0;
    // A device's pages cannot leave any; there is no other way then.
    if (error == -EINVAL && !keep) return remap(from, size, to, size, 0);
    if (error != -EFAULT || size == kPageBytes) return error;
    // One area to us is several to the kernel where its pages were first touched at different
    // places.
    const std::size_t half = size / 2 / kPageBytes * kPageBytes;
    const int first = move_pages(from, to, half, keep);
    if (first != 0) return first;
    const int second = move_pages(from + half, to + half, size - half, keep);
    if (second != 0) (void)move_pages(to, from, half, false);
    return second;
  }
};

}  // namespace exclave::kernel
