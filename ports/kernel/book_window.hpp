// The window of the books where the kernel makes the enclave's pages: address space, of which only
// what was given out is memory that can be written. What nobody took counts neither against a limit
// to data (RLIMIT_DATA) nor as locked (mlockall).
//
// Calls: see enclave_pages.hpp; of it, mmap and mprotect.
#pragma once

#include <errno.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "exclave/types.hpp"

namespace exclave::kernel {

template <class Calls>
class BookWindow {
 public:
  BookWindow() noexcept = default;
  // reserved_end: up to there the window is mapped, without access. Behind it nothing is mapped:
  // the place is one that the kernel does not choose by itself. Once, before anything else.
  void open(Extent window, std::uintptr_t reserved_end) noexcept {
    window_ = window;
    reserved_end_ = reserved_end;
    top_.store(window.base, std::memory_order_relaxed);
    backed_end_.store(window.base, std::memory_order_relaxed);
  }

  Extent extent() const noexcept { return window_; }
  // Nothing of the window is mapped from here on.
  std::uintptr_t mapped_end() const noexcept {
    return std::max(reserved_end_, backed_end_.load(std::memory_order_relaxed));
  }

  // Zero-filled pages; null when the window is used up, or memory. Mostly no system call: pages are
  // backed in steps that grow with what there is. Threads may take at the same time where the whole
  // window is reserved.
  void* take(std::size_t bytes) noexcept {
    std::uintptr_t top = top_.load(std::memory_order_relaxed);
    do {
      if (bytes > window_.end() - top) return nullptr;
    } while (!top_.compare_exchange_weak(top, top + bytes, std::memory_order_relaxed));
    if (back(top + bytes)) return reinterpret_cast<void*>(top);
    // Where another thread took the next pages meanwhile, these are lost: address space.
    (void)give_back({top, bytes});
    return nullptr;
  }

  // Takes back what was taken last: it reads as zero again. False: it was not the last.
  bool give_back(Extent range) noexcept {
    std::uintptr_t end = range.end();
    return top_.compare_exchange_strong(end, range.base, std::memory_order_relaxed);
  }

 private:
  static constexpr std::size_t kPage = 4096;
  static constexpr std::size_t kLeastStep = std::size_t{1} << 20;

  bool back(std::uintptr_t end) noexcept {
    // Acquire pairs with the release below: the pages below are there.
    const std::uintptr_t from = backed_end_.load(std::memory_order_acquire);
    if (end <= from) return true;
    const std::size_t eighth = (from - window_.base) / 8 / kPage * kPage;
    const std::size_t step = std::min(std::max(kLeastStep, eighth), window_.end() - from);
    const std::uintptr_t wanted = std::max(end, from + step);
    if (back(from, wanted)) return true;
    // Memory is short: just enough.
    return wanted != end && back(from, end);
  }

  // Two threads may do so for the same pages, which changes nothing.
  bool back(std::uintptr_t from, std::uintptr_t end) noexcept {
    constexpr int kAccess = PROT_READ | PROT_WRITE;
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    const std::uintptr_t reserved = std::min(end, std::max(from, reserved_end_));
    if (reserved != from && Calls::mprotect(from, reserved - from, kAccess) != 0) return false;
    if (reserved != end) {
      const long at = Calls::mmap(reserved, end - reserved, kAccess, kFlags, -1, 0);
      // A kernel that does not know the flag answers with another place.
      if (at >= 0 && at != static_cast<long>(reserved))
        (void)Calls::unmap(static_cast<std::uintptr_t>(at), end - reserved);
      if (at != static_cast<long>(reserved)) return false;
    }
    std::uintptr_t seen = backed_end_.load(std::memory_order_relaxed);
    while (seen < end && !backed_end_.compare_exchange_weak(seen, end, std::memory_order_release,
                                                            std::memory_order_relaxed)) {
    }
    return true;
  }

  Extent window_{};
  std::uintptr_t reserved_end_ = 0;
  std::atomic<std::uintptr_t> top_{0};         // what was never taken begins here
  std::atomic<std::uintptr_t> backed_end_{0};  // what cannot be written yet
};

}  // namespace exclave::kernel
