// For the child of a test, before it becomes `exclave`: single system calls fail, as they do on
// other systems.
#pragma once

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace exclave::tools {

// The call fails with that error when one of these bits is set in its argument; with no bits,
// always.
inline void forbid(long number, int error, std::size_t argument = 0, std::uint32_t bits = 0) {
  const auto low_half = static_cast<std::uint32_t>(offsetof(seccomp_data, args) + 8 * argument);
  std::array<sock_filter, 6> filter{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, low_half),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  if (bits == 0) filter[3] = BPF_JUMP(BPF_JMP | BPF_JA, 0, 0, 0);
  const sock_fprog program{filter.size(), filter.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    ::_exit(125);
  }
}

// As where it is not allowed.
inline void forbid_io_uring() {
  forbid(SYS_io_uring_setup, EPERM);
}
// As NFS and FAT answer.
inline void forbid_nameless_files() {
  forbid(SYS_openat, EOPNOTSUPP, 2, O_TMPFILE & ~O_DIRECTORY);
}
// As NFS answers.
inline void forbid_rename_flags() {
  forbid(SYS_renameat2, EINVAL);
}
// As a disk that fails.
inline void forbid_sync() {
  forbid(SYS_fsync, EIO);
}

}  // namespace exclave::tools
