// Memory whose touch stops a thread: the first touch of its closed page waits in the handler of the
// fault until somebody lets it go on. So a thread stands in the middle of a copy, for certain and
// for as long as a test needs.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>

#include "exclave/types.hpp"

namespace exclave::testing_support {

// One at a time.
class FaultStop {
 public:
  explicit FaultStop(std::size_t bytes) : size_(bytes) {
    // With room to cut a range out of it that is aligned as wide as it is long.
    memory_ = mmap(nullptr, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(memory_, MAP_FAILED);
    const auto address = reinterpret_cast<std::uintptr_t>(memory_);
    base_ = (address + bytes - 1) / bytes * bytes;
    struct sigaction action {};
    action.sa_sigaction = &on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &before_);
    page_ = 0;
    inside_ = nullptr;
    stopped_ = released_ = false;
  }
  ~FaultStop() {
    sigaction(SIGSEGV, &before_, nullptr);
    munmap(memory_, 2 * size_);
  }
  FaultStop(const FaultStop&) = delete;
  FaultStop& operator=(const FaultStop&) = delete;

  Extent range() const { return {base_, size_}; }
  unsigned char* at(std::uintptr_t address) const {
    return reinterpret_cast<unsigned char*>(address);
  }

  // The next touch of that page stops; `inside` runs in the handler before it waits.
  void close_page(std::uintptr_t page, std::function<void()>* inside = nullptr) {
    inside_ = inside;
    stopped_ = released_ = false;
    page_ = page;
    EXPECT_EQ(mprotect(at(page), kPageBytes, PROT_NONE), 0);
  }
  void wait_until_stopped() {
    while (!stopped_) std::this_thread::yield();
  }
  void let_go_on() { released_ = true; }

 private:
  static void on_fault(int signal, siginfo_t* info, void*) {
    const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
    if (page_ == 0 || address - page_ >= kPageBytes) {
      sigaction(signal, &before_, nullptr);  // not ours: it faults again
      return;
    }
    if (inside_ != nullptr) (*inside_)();
    stopped_ = true;
    const timespec a_moment{0, 100000};
    while (!released_) nanosleep(&a_moment, nullptr);
    mprotect(reinterpret_cast<void*>(page_.load()), kPageBytes, PROT_READ | PROT_WRITE);
  }

  std::size_t size_;
  void* memory_ = nullptr;
  std::uintptr_t base_ = 0;
  static inline std::atomic<std::uintptr_t> page_{0};
  static inline std::function<void()>* inside_ = nullptr;
  static inline std::atomic<bool> stopped_{false}, released_{false};
  static inline struct sigaction before_ {};
};

}  // namespace exclave::testing_support
