// The calls that walk over a range, by their names in port.h.
#pragma once

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "exclave/port.hpp"

namespace exclave::process {

// 0, or -1 and errno.
inline int range_call(RangeCall call, std::uintptr_t address, std::size_t bytes,
                      int argument) noexcept {
  void* const pages = reinterpret_cast<void*>(address);
  switch (call) {
    case EXCLAVE_MADVISE:
      return madvise(pages, bytes, argument);
    case EXCLAVE_MSYNC:
      return msync(pages, bytes, argument);
    case EXCLAVE_MLOCK:
      return mlock2(pages, bytes, static_cast<unsigned>(argument));
    case EXCLAVE_MUNLOCK:
      // Not the libc's: under a sanitizer that one does nothing, while mlock2 locks.
      return static_cast<int>(syscall(SYS_munlock, pages, bytes));
  }
  return 0;
}

}  // namespace exclave::process
