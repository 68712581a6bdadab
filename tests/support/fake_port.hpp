// A Port whose untrusted addresses are never mapped: whoever touches one dies. Fast and
// deterministic.
//
// Trusted memory is real; the first page of its window is never given out, nor can it be touched,
// so that whoever follows the reference 0 dies, too. host_reserve hands out addresses from
// kFirstAddress up, by first fit, so the same calls get the same answers in every run. All methods
// are thread-safe. Its books have memory of their own: a signal handler whose call comes to ask the
// port enters no malloc, until some hundred ranges are out.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory_resource>
#include <mutex>

#include "exclave/port.hpp"

namespace exclave::testing_support {

// Holds a mutex, with no signal whose handler may call the port meanwhile: a handler may allocate
// while the host is asked. What a thread does to itself comes through, single steps above all.
class QuietLock {
 public:
  explicit QuietLock(std::mutex& mutex) : mutex_(mutex) {
    sigset_t quiet;
    sigfillset(&quiet);
    for (const int own : {SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT})
      sigdelset(&quiet, own);
    pthread_sigmask(SIG_BLOCK, &quiet, &before_);
    mutex_.lock();
  }
  ~QuietLock() {
    mutex_.unlock();
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  QuietLock(const QuietLock&) = delete;
  QuietLock& operator=(const QuietLock&) = delete;

 private:
  std::mutex& mutex_;
  sigset_t before_;
};

class FakePort {
 public:
  static constexpr std::uintptr_t kFirstAddress = 0x100000000000;
  // Where tests attach memory of their own: never answered by host_reserve.
  static constexpr std::uintptr_t kAttachBase = 0x200000000000;

  explicit FakePort(std::size_t book_bytes = std::size_t{4} << 30)
      : window_{0, kPageBytes + book_bytes} {
    void* const memory = mmap(nullptr, window_.size, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kPageBytes, PROT_NONE) != 0) std::abort();
    window_.base = reinterpret_cast<std::uintptr_t>(memory);
    top_ = window_.base + kPageBytes;
  }
  ~FakePort() { munmap(reinterpret_cast<void*>(window_.base), window_.size); }
  FakePort(const FakePort&) = delete;
  FakePort& operator=(const FakePort&) = delete;

  PortTable table() noexcept { return bind_port(*this); }

  // ---- The port ----

  Extent enclave() noexcept { return window_; }
  Extent book_window() noexcept { return window_; }

  void* trusted_reserve(std::size_t bytes) noexcept {
    const std::lock_guard guard(mutex_);
    ++trusted_calls_;
    if (trusted_left_ < bytes || (fail_trusted_at_ != 0 && trusted_calls_ >= fail_trusted_at_)) {
      return nullptr;
    }
    const auto reused = trusted_free_.find(bytes);
    std::uintptr_t found = 0;
    if (reused != trusted_free_.end()) {
      found = reused->second;
      trusted_free_.erase(reused);
      std::memset(reinterpret_cast<void*>(found), 0, bytes);
    } else {
      if (window_.end() - top_ < bytes) return nullptr;
      found = top_;
      top_ += bytes;
    }
    trusted_left_ -= bytes;
    trusted_held_ += bytes;
    return reinterpret_cast<void*>(found);
  }
  void trusted_release(void* memory, std::size_t bytes) noexcept {
    const std::lock_guard guard(mutex_);
    trusted_free_.emplace(bytes, reinterpret_cast<std::uintptr_t>(memory));
    trusted_left_ += bytes;
    trusted_held_ -= bytes;
  }
  bool entropy(void* memory, std::size_t bytes) noexcept {
    std::memset(memory, 0x5a, bytes);
    return true;
  }

  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept {
    if (during_call) during_call();
    const QuietLock guard(mutex_);
    ++reserve_calls_;
    if (refuse_ || bytes > host_left_) return {0, ENOMEM};
    std::uintptr_t at = (kFirstAddress + alignment - 1) & ~(alignment - 1);
    for (const auto& [base, size] : out_) {
      if (base >= at + bytes) break;
      const std::uintptr_t end = base + size;
      if (end > at) at = (end + alignment - 1) & ~(alignment - 1);
    }
    out_.emplace(at, bytes);
    host_left_ -= bytes;
    return {at, 0};
  }
  int host_release(std::uintptr_t address, std::size_t bytes) noexcept {
    if (during_call) during_call();
    const QuietLock guard(mutex_);
    ++release_calls_;
    const auto found = out_.find(address);
    if (found == out_.end() || found->second != bytes) {
      ++bad_releases_;
      return EINVAL;
    }
    if (refuse_release_) return EAGAIN;
    out_.erase(found);
    host_left_ += bytes;
    return 0;
  }
  HostReply host_map(const MapRequest&) noexcept { return {0, ENODEV}; }
  int host_unmap(std::uintptr_t, std::size_t) noexcept { return 0; }
  int host_protect(std::uintptr_t, std::size_t, int) noexcept { return 0; }

  // ---- What it is to do ----

  void refuse(bool on) {
    const std::lock_guard guard(mutex_);
    refuse_ = on;
  }
  void refuse_release(bool on) {
    const std::lock_guard guard(mutex_);
    refuse_release_ = on;
  }
  void set_host_left(std::size_t bytes) {
    const std::lock_guard guard(mutex_);
    host_left_ = bytes;
  }
  void set_trusted_left(std::size_t bytes) {
    const std::lock_guard guard(mutex_);
    trusted_left_ = bytes;
  }
  // The n-th trusted_reserve from now (1: the next) and all after it fail; 0: none.
  void fail_trusted_from(std::uint64_t n) {
    const std::lock_guard guard(mutex_);
    fail_trusted_at_ = n == 0 ? 0 : trusted_calls_ + n;
  }
  // Runs in each host_reserve and host_release, on the calling thread. Set it before threads start.
  std::function<void()> during_call;

  // ---- What happened ----

  std::uint64_t reserve_calls() const { return locked(reserve_calls_); }
  std::uint64_t release_calls() const { return locked(release_calls_); }
  std::uint64_t trusted_calls() const { return locked(trusted_calls_); }
  // Releases of what was never given, or not whole.
  std::uint64_t bad_releases() const { return locked(bad_releases_); }
  std::size_t trusted_held() const { return locked(trusted_held_); }
  std::size_t ranges_out() const {
    const std::lock_guard guard(mutex_);
    return out_.size();
  }

 private:
  template <class T>
  T locked(const T& value) const {
    const std::lock_guard guard(mutex_);
    return value;
  }

  mutable std::mutex mutex_;
  alignas(std::max_align_t) std::array<std::byte, 64 * 1024> room_;
  std::pmr::monotonic_buffer_resource fresh_{room_.data(), room_.size()};
  std::pmr::unsynchronized_pool_resource books_{&fresh_};
  Extent window_;
  std::uintptr_t top_ = 0;
  std::pmr::multimap<std::size_t, std::uintptr_t> trusted_free_{&books_};
  std::size_t trusted_left_ = SIZE_MAX / 2;
  std::size_t trusted_held_ = 0;
  std::uint64_t trusted_calls_ = 0;
  std::uint64_t fail_trusted_at_ = 0;
  std::pmr::map<std::uintptr_t, std::size_t> out_{&books_};
  std::size_t host_left_ = SIZE_MAX / 2;
  bool refuse_ = false;
  bool refuse_release_ = false;
  std::uint64_t reserve_calls_ = 0;
  std::uint64_t release_calls_ = 0;
  std::uint64_t bad_releases_ = 0;
};

static_assert(Port<FakePort>);

}  // namespace exclave::testing_support
