// A kernel that answers system calls as a test wants, in a child process: what it refuses once in a
// lifetime, every time; what one version refuses, on all. The calls come to a handler, by seccomp.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "support/end_child.hpp"

namespace exclave::testing_support {

// Arguments of a system call. The last is the mark of calls that are the kernel's own to answer.
struct KernelCall {
  long number = 0;
  unsigned long arguments[5] = {};

  // What the kernel itself says: a result, or a negative errno. Of an mmap, an anonymous one.
  long ask() const noexcept {
    const long answer = syscall(number, arguments[0], arguments[1], arguments[2], arguments[3],
                                arguments[4], kMark);
    return answer == -1 ? -errno : answer;
  }

  static constexpr unsigned long kMark = 0x5ec000;  // an offset, for mmap
};

// What use_up_memory leaves for the end of the child.
inline void* spare = nullptr;

// What the body answers in a child; 200 and above: it did not come to an end.
inline int in_a_child(int (*body)()) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    const int code = body();
    std::free(spare);
    end_child(code);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) return 203;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 204;
}

// The same with calls of that number answered by `answer`: a result or a negative errno.
inline int with_kernel_answers(long number, long (*answer)(const KernelCall&), int (*body)()) {
  static long asked_number = 0;
  static long (*asked)(const KernelCall&) = nullptr;
  static int (*inner)() = nullptr;
  asked_number = number;
  asked = answer;
  inner = body;
  return in_a_child([] {
    struct sigaction action {};
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    action.sa_sigaction = [](int, siginfo_t* info, void* context) {
      auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
      const auto at = [&](int i) { return static_cast<unsigned long>(registers[i]); };
      const int before = errno;
      registers[REG_RAX] = asked(
          {info->si_syscall, {at(REG_RDI), at(REG_RSI), at(REG_RDX), at(REG_R10), at(REG_R8)}});
      errno = before;
    };
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(asked_number), 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KernelCall::kMark, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{sizeof filter / sizeof filter[0], filter};
    if (sigaction(SIGSYS, &action, nullptr) != 0) return 200;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 201;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return 202;
    return inner();
  });
}

// In a child: from now on there is no more memory to write to than it holds. What is only reserved
// can be had, and what is shared.
inline bool hold_memory() {
  const rlimit little{4096, 4096};
  return setrlimit(RLIMIT_DATA, &little) == 0;
}
// Nor has malloc any of what it held.
inline bool use_up_memory() {
  spare = std::malloc(std::size_t{1} << 16);
  if (!hold_memory()) return false;
  void* volatile last = nullptr;
  for (std::size_t bytes = std::size_t{1} << 20; bytes > 8192; bytes /= 2) {
    do last = std::malloc(bytes);
    while (last != nullptr);
  }
  for (std::size_t bytes = 8192; bytes != 0; bytes -= 16) {
    do last = std::malloc(bytes);
    while (last != nullptr);
  }
  return true;
}

}  // namespace exclave::testing_support
