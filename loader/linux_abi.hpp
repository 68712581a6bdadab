// What the loader needs of the kernel's interface: names and types from the system's headers, which
// make no code, and those that they keep back.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>

#include <cstdint>

namespace exclave::loader {

using SignalInfo = siginfo_t;
using SignalContext = ucontext_t;
using SignalMask = std::uint64_t;

// struct sigaction of the system call.
struct KernelAction {
  std::uintptr_t handler;
  std::uint64_t flags;
  void (*restorer)();
  SignalMask mask;
};
inline constexpr std::uintptr_t kByDefault = 0, kIgnored = 1;
inline constexpr std::uint64_t kHasRestorer = 0x04000000;
inline constexpr int kStoppedByFilter = 1;  // si_code SYS_SECCOMP

// A libc's mask is longer than the kernel's, which lies at its start.
inline SignalMask& mask_of(SignalContext& context) noexcept {
  return *reinterpret_cast<SignalMask*>(&context.uc_sigmask);
}
inline std::uint64_t register_of(const SignalContext& context, int which) noexcept {
  return static_cast<std::uint64_t>(context.uc_mcontext.gregs[which]);
}
inline void set_register(SignalContext& context, int which, std::uint64_t value) noexcept {
  context.uc_mcontext.gregs[which] = static_cast<greg_t>(value);
}

inline constexpr SignalMask kSigsysBit = SignalMask{1} << (SIGSYS - 1);

// struct stat of the system call.
struct FileStatus {
  std::uint64_t device, inode, links;
  std::uint32_t mode, uid, gid, pad0;
  std::uint64_t special_device;
  std::int64_t size, block_bytes, blocks;
  std::uint64_t times[6];
  std::int64_t unused[3];

  bool is_regular() const noexcept { return (mode & S_IFMT) == S_IFREG; }
  bool is_device() const noexcept {
    return (mode & S_IFMT) == S_IFCHR || (mode & S_IFMT) == S_IFBLK;
  }
};
static_assert(sizeof(FileStatus) == 144);

}  // namespace exclave::loader
