// Memory with an unmapped page on either side, so that one byte too far faults.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "exclave/untrusted.hpp"

namespace exclave::access_test {

class GuardedMemory {
 public:
  explicit GuardedMemory(std::size_t pages) : size_(pages * kPageBytes) {
    void* all =
        mmap(nullptr, size_ + 2 * kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) std::abort();
    start_ = static_cast<std::uint8_t*>(all) + kPageBytes;
    if (mprotect(start_, size_, PROT_READ | PROT_WRITE) != 0) std::abort();
  }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  ~GuardedMemory() { munmap(start_ - kPageBytes, size_ + 2 * kPageBytes); }

  // What the host sees.
  std::uint8_t* host() const { return start_; }
  std::size_t size() const { return size_; }
  std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(start_); }
  // What the enclave holds: a range that starts at an offset.
  untrusted_span<std::byte> range(std::size_t offset, std::size_t size) const {
    return untrusted_span<std::byte>::unsafe_from(
        untrusted_bytes::unsafe_from_address(address() + offset), size);
  }
  void fill(int value) const { std::memset(start_, value, size_); }

 private:
  std::uint8_t* start_;
  std::size_t size_;
};

}  // namespace exclave::access_test
