// The memory calls of the program, served: decoded from its registers, dispatched between the
// enclave's memory and the outside.
#pragma once

#include <cstddef>
#include <cstdint>

namespace exclave::loader {

// A system call as the program made it.
struct Call {
  long number = 0;
  std::uintptr_t a[6] = {};
};

// Where a call went. Split: to both sides. Refused: to neither, or an outside call that failed.
enum class Route : std::uint8_t { kNone, kInside, kOutside, kSplit, kRefused };

bool is_memory_call(long number) noexcept;

// What Linux says to this process' lock of so many bytes: 0, -EPERM, -ENOMEM. Who has no right to
// lock all has a limit.
long may_lock(std::size_t bytes) noexcept;

// Precondition: is_memory_call. The call's result: a value or a negative errno.
long serve_memory_call(const Call& call, Route* route) noexcept;

}  // namespace exclave::loader
