// Errors without exceptions: every function that can fail returns a Result<T> or a Status.
#pragma once

#include <cstdint>

#include "exclave/config.hpp"

namespace exclave {

// The numbers are the ABI: exclave.h repeats them, and a test holds the two lists together.
enum class Error : std::int32_t {
  kNone = 0,
  kInvalidArgument =
      1,  // the shape of the call is wrong: zero, unaligned, wrapping, not a power of two
  kOutOfMemory = 2,         // no untrusted memory fits, and the host gave none
  kOutOfTrustedMemory = 3,  // the port has no room left for the books
  kQuota = 4,               // the host would have to be asked for more than the quota allows
  kHostRefused = 5,         // the host answered with an error
  kHostLied = 6,            // the host's answer failed verification; nothing of it is believed
  kInsideEnclave = 7,       // the range lies in, or straddles, the enclave's own range
  kOverlap = 8,             // the range overlaps a region that is already known
  kNotFound = 9,            // no such region, range or block
  kBusy = 10,               // blocks live in the region
  kPinned = 11,             // a device or an I/O in flight still uses the range
  kDoubleFree = 12,         // the block is free already
  kInteriorFree = 13,       // the address points into a block, not at its start
  kForeignFree = 14,        // no block of this allocator was ever there, or its region is gone
  kStale = 15,              // the handle's region is gone; another may stand at its addresses
  kWrongSize = 16,          // the size or alignment given is not the block's
  kNotPermitted = 17,       // the protection or the role of the region forbids it
  kReentered = 18,   // called from a signal handler or callback inside a call that holds the lock
  kWouldBlock = 19,  // the ring has no room, or no data
  kTooManyThreads = 20,  // the port's thread slot is out of range
};

// One line for people; never null.
EXCLAVE_API const char* error_text(Error error) noexcept;

// A value or an error. Two machine words for pointers, so it comes back in registers.
template <class T>
class [[nodiscard]] Result {
 public:
  constexpr Result(T value) noexcept : value_(static_cast<T&&>(value)) {}
  constexpr Result(Error error) noexcept : error_(error) {}

  constexpr bool ok() const noexcept { return error_ == Error::kNone; }
  constexpr explicit operator bool() const noexcept { return ok(); }
  constexpr Error error() const noexcept { return error_; }
  // Precondition: ok(). Otherwise a value-initialised T.
  constexpr const T& value() const noexcept { return value_; }
  constexpr T& value() noexcept { return value_; }
  constexpr const T& operator*() const noexcept { return value_; }
  constexpr T& operator*() noexcept { return value_; }
  constexpr const T* operator->() const noexcept { return &value_; }
  constexpr T* operator->() noexcept { return &value_; }

 private:
  T value_{};
  Error error_ = Error::kNone;
};

class [[nodiscard]] Status {
 public:
  constexpr Status() noexcept = default;
  constexpr Status(Error error) noexcept : error_(error) {}
  constexpr bool ok() const noexcept { return error_ == Error::kNone; }
  constexpr explicit operator bool() const noexcept { return ok(); }
  constexpr Error error() const noexcept { return error_; }

 private:
  Error error_ = Error::kNone;
};

}  // namespace exclave
