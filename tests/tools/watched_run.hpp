// Runs the built `exclave` and looks at each of its system calls as it begins: what is brought to
// disk, and when a file gets its name. A test may act in between, which makes its moment the same
// in every run.
#pragma once

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tool_runner.hpp"

namespace exclave::tools {

struct WatchedCall {
  pid_t thread = 0;
  long number = -1;
  std::array<std::uint64_t, 6> arguments{};

  // What the descriptor in this argument is open on.
  std::string file(std::size_t argument) const {
    std::error_code none;
    return std::filesystem::read_symlink("/proc/" + std::to_string(thread) + "/fd/" +
                                             std::to_string(static_cast<int>(arguments[argument])),
                                         none);
  }
  // The string that this argument points to.
  std::string name(std::size_t argument) const {
    std::string found;
    const int memory =
        ::open(("/proc/" + std::to_string(thread) + "/mem").c_str(), O_RDONLY | O_CLOEXEC);
    for (char byte = 0;
         ::pread(memory, &byte, 1, static_cast<off_t>(arguments[argument] + found.size())) == 1 &&
         byte != '\0';) {
      found += byte;
    }
    ::close(memory);
    return found;
  }
};

class WatchedRunTest : public ToolTest {
 protected:
  using OnCall = std::function<void(const WatchedCall&)>;

  // on_call is asked at each system call of each thread, before the kernel is.
  ToolResult watch(const std::vector<std::string>& arguments, const OnCall& on_call,
                   const std::function<void()>& in_child = {}) {
    process_ = start(arguments, [&in_child] {
      // A leak checker stops its threads by ptrace, too, and only one can.
      // And the program's own signals are to end it, not a sanitizer's handlers.
      constexpr const char* kOptions =
          "detect_leaks=0:handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:"
          "handle_sigtrap=0:handle_abort=0";
      for (const char* const name : {"ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"})
        ::setenv(name, kOptions, 1);
      ::setenv("LSAN_OPTIONS", "detect_leaks=0", 1);
      if (in_child) in_child();
      if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(124);
    });
    bool started = false;
    for (;;) {
      int status = 0;
      const pid_t thread = ::waitpid(-1, &status, __WALL);
      if (thread < 0) {
        ADD_FAILURE() << "waitpid: " << std::strerror(errno);
        return {};
      }
      if (!WIFSTOPPED(status)) {
        if (thread == process_) return result_of(status);
        continue;
      }
      int deliver = WSTOPSIG(status);
      if (!started) {
        started = true;
        ::ptrace(PTRACE_SETOPTIONS, thread, nullptr,
                 PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
        deliver = 0;
      } else if (deliver == (SIGTRAP | 0x80)) {
        deliver = 0;
        look(thread, on_call);
      } else if (status >> 16 != 0 || deliver == SIGSTOP) {
        deliver = 0;  // a thread begins
      }
      ::ptrace(PTRACE_SYSCALL, thread, nullptr, deliver);
    }
  }
  // Of the run that is being watched.
  void send(int signal_number) const { ASSERT_EQ(::kill(process_, signal_number), 0); }

 private:
  static void look(pid_t thread, const OnCall& on_call) {
    __ptrace_syscall_info info{};
    if (::ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) <= 0 ||
        info.op != PTRACE_SYSCALL_INFO_ENTRY) {
      return;
    }
    WatchedCall call;
    call.thread = thread;
    call.number = static_cast<long>(info.entry.nr);
    std::copy(std::begin(info.entry.args), std::end(info.entry.args), call.arguments.begin());
    on_call(call);
  }

  pid_t process_ = -1;
};

}  // namespace exclave::tools
