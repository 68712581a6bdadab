// The Port contract of a process under `exclave exec`: the enclave's range is a window of its
// address space, the books lie at the end of it; the host is the kernel, called raw.
#pragma once

#include <atomic>

#include "exclave/port.hpp"

namespace exclave::loader {

class LoaderPort {
 public:
  // The range is [kRangeBase, bytes); bytes 0: as large as there is room for. Only the books have
  // their place taken from the start: the rest is the program's, which sees no more than it mapped,
  // and the kernel places nothing of its own so low. False: no room for the books.
  bool open(std::size_t bytes) noexcept;

  Extent enclave() noexcept { return range_; }
  Extent book_window() noexcept { return books_; }
  // What is left to the program.
  Extent program_window() noexcept { return {range_.base, books_.base - range_.base}; }

  void* trusted_reserve(std::size_t bytes) noexcept;
  // Nothing is released while the program runs, and then all of it goes.
  void trusted_release(void* memory, std::size_t bytes) noexcept;
  bool entropy(void* memory, std::size_t bytes) noexcept;
  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept;
  int host_release(std::uintptr_t address, std::size_t bytes) noexcept;
  HostReply host_map(const MapRequest& request) noexcept;
  int host_unmap(std::uintptr_t address, std::size_t bytes) noexcept;
  int host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept;
  HostReply host_remap(std::uintptr_t old_address, std::size_t old_size, std::size_t new_size,
                       int flags, std::uintptr_t new_address) noexcept;
  int host_advise(RangeCall call, std::uintptr_t address, std::size_t bytes, int argument) noexcept;
  int host_resident(std::uintptr_t address, std::size_t bytes, unsigned char* vector) noexcept;

 private:
  bool take_books(std::size_t end) noexcept;

  Extent range_{};
  Extent books_{};
  std::atomic<std::uintptr_t> top_{0};  // of the books given out; each range is one thread's
};

}  // namespace exclave::loader
