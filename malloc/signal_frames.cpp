#include "signal_frames.hpp"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>

namespace exclave::process_malloc {
namespace {

constexpr std::size_t kBytesAtOnce = 2048;  // whole pages are a multiple
constexpr std::size_t kMostBytes = std::size_t{8} << 20;

static_assert(REG_EFL == REG_RIP + 1 && REG_CSGSFS == REG_RIP + 2);

// Three words of a context that the kernel saved in 64-bit code: where it was, its flags, its code
// segment, which is 0x33, with no GS and FS beside it.
bool looks_like_context(const std::uint64_t* words) noexcept {
  constexpr std::uint64_t kAlwaysSet = 2, kFlags = 0x3fffff;
  return words[0] != 0 && (words[1] & kAlwaysSet) != 0 && (words[1] & ~kFlags) == 0 &&
         (words[2] & 0xffff'ffff'ffff) == 0x33;
}

// Reads by a system call, which says where memory ends.
long read_own(std::uintptr_t address, void* bytes, std::size_t size) noexcept {
  const iovec local = {bytes, size};
  const iovec remote = {reinterpret_cast<void*>(address), size};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
}

}  // namespace

bool may_be_in_handler() noexcept {
  const int saved = errno;
  stack_t alternate;
  // On the alternate stack nothing but a handler runs.
  if (sigaltstack(nullptr, &alternate) != 0 || (alternate.ss_flags & SS_ONSTACK) != 0) {
    errno = saved;
    return true;
  }
  // From here to the end of what is mapped, which is the end of the stack or behind it.
  constexpr std::size_t kKept = 2;  // words of the part before, for what stands in both
  constexpr std::size_t kWords = kBytesAtOnce / sizeof(std::uint64_t);
  std::uint64_t words[kKept + kWords] = {};
  const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  std::uintptr_t at = here & ~(kBytesAtOnce - 1);
  bool found = false;
  for (const std::uintptr_t end = at + kMostBytes; !found && at < end; at += kBytesAtOnce) {
    if (read_own(at, words + kKept, kBytesAtOnce) != static_cast<long>(kBytesAtOnce)) {
      found = errno != EFAULT;
      break;
    }
    // What lies below this frame is nobody's any more.
    const std::size_t skip = at < here ? (here - at) / sizeof(std::uint64_t) : 0;
    for (std::size_t i = skip; !found && i < kWords; ++i) found = looks_like_context(words + i);
    words[0] = words[kWords];
    words[1] = words[kWords + 1];
  }
  errno = saved;
  return found;
}

}  // namespace exclave::process_malloc
