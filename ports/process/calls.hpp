// The system calls through libc, where the sanitizers see them, in the shape that the templates in
// ports/kernel ask for.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "kernel/enclave_pages.hpp"
#include "process/address_space.hpp"
#include "process/range_call.hpp"

namespace exclave::process {

struct Calls {
  static long answer(long result) noexcept { return result != -1 ? result : -errno; }

  static void wait() noexcept { (void)sched_yield(); }
  // By one mapping: at no moment another thread's could come to stand there.
  static long vacate(std::uintptr_t address, std::size_t size) noexcept {
    return mmap(address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                -1, 0);
  }
  static long unmap(std::uintptr_t address, std::size_t size) noexcept {
    return answer(munmap(as_pointer(address), size));
  }
  static long mmap(std::uintptr_t address, std::size_t size, int protection, int flags,
                   int descriptor, off_t offset) noexcept {
    return answer(reinterpret_cast<long>(
        ::mmap(as_pointer(address), size, protection, flags, descriptor, offset)));
  }
  static long mprotect(std::uintptr_t address, std::size_t size, int protection) noexcept {
    return answer(::mprotect(as_pointer(address), size, protection));
  }
  static long mremap(std::uintptr_t from, std::size_t old_size, std::size_t new_size, int flags,
                     std::uintptr_t to) noexcept {
    return answer(reinterpret_cast<long>(
        ::mremap(as_pointer(from), old_size, new_size, flags, as_pointer(to))));
  }
  static long range_call(RangeCall call, std::uintptr_t address, std::size_t size,
                         int argument) noexcept {
    return answer(process::range_call(call, address, size, argument));
  }
  static long mincore(std::uintptr_t address, std::size_t size, unsigned char* vector) noexcept {
    return answer(::mincore(as_pointer(address), size, vector));
  }
  static long status_flags(int descriptor) noexcept { return answer(fcntl(descriptor, F_GETFL)); }
  static long file_kind(int descriptor, kernel::FileKind* kind) noexcept {
    struct stat status {};
    const long result = answer(fstat(descriptor, &status));
    *kind = {status.st_mode, status.st_rdev};
    return result;
  }
  static long pread(int descriptor, std::uintptr_t to, std::size_t size,
                    std::uint64_t offset) noexcept {
    return answer(::pread(descriptor, as_pointer(to), size, static_cast<off_t>(offset)));
  }
};

}  // namespace exclave::process
