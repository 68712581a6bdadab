#include "loader/processes.hpp"

#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>

#include <atomic>

#include "loader/filter.hpp"
#include "loader/layout.hpp"
#include "loader/process.hpp"
#include "loader/program_file.hpp"
#include "loader/program_memory.hpp"
#include "loader/segments.hpp"
#include "loader/signals.hpp"
#include "loader/slots.hpp"
#include "loader/stats.hpp"
#include "loader/text.hpp"
#include "loader/trace.hpp"

namespace exclave::loader {
namespace {

constexpr std::size_t kPathBytes = 4096;
constexpr const char* kOwnImage = "/proc/self/exe";

// Locks of the loader's own rooms; the books' come first, for they wait for calls in progress.
void own_locks_before_fork() noexcept {
  segments_before_fork();
  signals_before_fork();
}
void own_locks_after_fork() noexcept {
  signals_after_fork();
  segments_after_fork();
}

// The number of pointers in a null-terminated vector of the program, or -EFAULT, -E2BIG.
long count_vector(std::uintptr_t vector) noexcept {
  constexpr long kMost = 1L << 24;
  if (vector == 0) return 0;
  std::uintptr_t words[64];
  for (long count = 0; count < kMost;) {
    // Up to the end of a page, for the next one may not be there.
    const std::uintptr_t at = vector + static_cast<std::uintptr_t>(count) * sizeof words[0];
    std::size_t part = (kPage - at % kPage) / sizeof words[0];
    if (part > 64) part = 64;
    if (part == 0) part = 1;  // unaligned, over the edge
    if (!read_program(words, at, part * sizeof words[0])) return -EFAULT;
    for (std::size_t i = 0; i < part; ++i) {
      if (words[i] == 0) return count + static_cast<long>(i);
    }
    count += static_cast<long>(part);
  }
  return -E2BIG;
}

// A vector too long for whatever stack the program is on. Lost if execve succeeds in a vfork child.
constexpr std::size_t kMostOnStack = 2048;

const char* path_of(const Call& call) noexcept {
  return reinterpret_cast<const char*>(call.number == __NR_execveat ? call.a[1] : call.a[0]);
}

long execute_loader(const StoppedCall& stop, const char** vector, const char* path) noexcept {
  const Call& call = stop.call;
  const bool at = call.number == __NR_execveat;
  const std::uintptr_t arguments = at ? call.a[2] : call.a[1];
  const std::uintptr_t environment = at ? call.a[3] : call.a[2];
  Line<64> link;
  if (stop.descriptor >= 0) link.text("/proc/self/fd/").decimal(stop.descriptor);
  Options options = g_process.options;
  options.sigsys_ignored = sigsys_is_ignored();
  options.sigsys_blocked = sigsys_is_blocked();
  options.close_descriptor = stop.descriptor;
  Line<320> text;
  write_options(options, text);

  vector[0] = "exclave-loader";
  vector[1] = text.c_string();
  vector[2] = g_process.allowed;
  vector[3] = stop.descriptor >= 0 ? link.c_string() : path;
  const char** to = vector + kArgumentsBeforeProgram;
  if (stop.arguments != 0) {
    const auto* const from = reinterpret_cast<const char* const*>(arguments);
    for (std::size_t i = 0; i < stop.arguments; ++i) *to++ = from[i];
  } else {
    *to++ = "";  // as Linux does it
  }
  *to = nullptr;
  const long result = system_call(__NR_execve, kOwnImage, vector, environment);
  // Without /proc, by its name.
  if (result != -ENOENT && result != -EACCES) return result;
  return system_call(__NR_execve, g_process.loader_path, vector, environment);
}

// By the name that Linux tells the interpreter.
[[gnu::noinline]] long execute_in_folder(const StoppedCall& stop, const char** vector) noexcept {
  const char* const path = path_of(stop.call);
  Line<kPathBytes + 32> name;
  name.text("/dev/fd/").decimal(static_cast<int>(stop.call.a[0]));
  if (*path != 0) name.put('/').text(path);
  return execute_loader(stop, vector, name.c_string());
}

long execute_with(const StoppedCall& stop, std::uintptr_t memory) noexcept {
  const auto vector = reinterpret_cast<const char**>(memory);
  return stop.in_folder ? execute_in_folder(stop, vector)
                        : execute_loader(stop, vector, path_of(stop.call));
}

// What clone3 takes; kernels to come may take more of it, which must be zero for this one.
struct ChildDescription {
  clone_args known{};
  std::uint64_t unknown[5] = {};
};
constexpr unsigned kDescriptions = 256;

// make: the system call. The child changes to the stack, unless it is 0.
template <class F>
void fork_with(StoppedCall& stop, std::uintptr_t stack, F make) noexcept {
  if (!g_process.inside->before_fork().ok()) return stop.answer(-EAGAIN);
  if (!g_process.allocator->before_fork().ok()) {
    g_process.inside->after_fork_in_parent();
    return stop.answer(-EAGAIN);
  }
  const bool blocked = sigsys_is_blocked();
  own_locks_before_fork();
  const long child = make();
  if (child != 0) {
    own_locks_after_fork();
    g_process.allocator->after_fork_in_parent();
    g_process.inside->after_fork_in_parent();
    return stop.answer(child);
  }
  g_process.pid = system_call(__NR_getpid);
  forget_other_slots();
  forget_counts();
  own_locks_after_fork();
  forget_other_threads(blocked);
  g_process.allocator->after_fork_in_child();
  g_process.inside->after_fork_in_child();
  if (stack != 0) set_register(stop.context, REG_RSP, stack);
  stop.answer(0);
}

// Is it a name of this process' /proc/PID/exe?
bool is_own_exe(const char* path) noexcept {
  if (std::string_view(path) == kOwnImage || std::string_view(path) == "/proc/thread-self/exe") {
    return true;
  }
  if (memcmp(path, "/proc/", 6) != 0) return false;
  Line<64> own;
  own.text("/proc/").decimal(system_call(__NR_getpid)).text("/exe");
  return own.view() == path;
}

// The other end of a trace, by its number; 0 is one that this process cannot see.
bool runs_inside(long thread) noexcept {
  Line<64> link;
  link.text("/proc/").decimal(thread).text("/exe");
  FileStatus status{};
  if (thread != 0 && !failed(system_call(__NR_stat, link.c_string(), &status))) {
    return status.device == g_process.loader_device && status.inode == g_process.loader_inode;
  }
  // Nobody there, or nobody whom this process may trace: the kernel says so. Without /proc nobody
  // knows.
  return thread == 0 || failed(system_call(__NR_stat, kOwnImage, &status));
}

}  // namespace

void make_child(StoppedCall& stop) noexcept {
  const Call& call = stop.call;
  if (call.number == __NR_fork) return fork_with(stop, 0, [] { return system_call(__NR_fork); });
  // The child goes on here, on a copy of this stack, and changes to its own on the way out.
  fork_with(stop, call.a[1], [&call] {
    return system_call(__NR_clone, call.a[0], 0, call.a[2], call.a[3], call.a[4]);
  });
}

void make_described_child(StoppedCall& stop) noexcept {
  const Call& call = stop.call;
  const std::size_t bytes = call.a[1];
  if (bytes < CLONE_ARGS_SIZE_VER0) return stop.answer(-EINVAL);
  if (bytes > sizeof(ChildDescription)) return stop.answer(-E2BIG);
  ChildDescription child;
  if (!read_program(&child, call.a[0], bytes)) return stop.answer(-EFAULT);
  clone_args& known = child.known;
  if ((known.flags & CLONE_CLEAR_SIGHAND) != 0) return stop.answer(-EINVAL);
  if ((known.flags & CLONE_VM) == 0) {
    const std::uintptr_t stack = known.stack + known.stack_size;
    if ((known.stack == 0) != (known.stack_size == 0)) return stop.answer(-EINVAL);
    known.stack = known.stack_size = 0;
    return fork_with(stop, stack,
                     [&child, bytes] { return system_call(__NR_clone3, &child, bytes); });
  }
  // Made by the program itself, for the child begins on a stack of its own: with a copy of what it
  // said, which the filter lets pass, and which nobody changes any more.
  static constinit ChildDescription copies[kDescriptions];
  static constinit std::atomic<unsigned> next{0};
  ChildDescription& copy = copies[next.fetch_add(1, std::memory_order_relaxed) % kDescriptions];
  copy = child;
  stop.call_again_with(REG_RDI, &copy);
}

void prepare_execute(StoppedCall& stop) noexcept {
  const Call& call = stop.call;
  const bool at = call.number == __NR_execveat;
  const int folder = at ? static_cast<int>(call.a[0]) : AT_FDCWD;
  const int flags = at ? static_cast<int>(call.a[4]) : 0;
  if ((flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) != 0) return stop.answer(-EINVAL);
  char given[kPathBytes];
  const long length = read_program_string(given, sizeof given, at ? call.a[1] : call.a[0]);
  if (failed(length)) return stop.answer(length);
  const long arguments = count_vector(at ? call.a[2] : call.a[1]);
  if (failed(arguments)) return stop.answer(arguments);
  stop.arguments = static_cast<std::size_t>(arguments);
  const char* const path = is_own_exe(given) ? g_process.program_path : given;
  ProgramKind kind;
  const int bad = check_program(folder, path, flags, &kind);
  // Where no descriptor is left to look with, the next loader will see: execve closes some.
  if (bad != 0 && bad != -EMFILE) return stop.answer(bad);
  stop.is_loader = kind.is_loader;
  const bool in_folder = given[0] != '/' && folder != AT_FDCWD;
  if (kind.is_script && in_folder) {
    // Its interpreter has to find it there.
    const long descriptor_flags = system_call(__NR_fcntl, folder, F_GETFD);
    if ((descriptor_flags & FD_CLOEXEC) != 0) return stop.answer(-ENOENT);
    stop.in_folder = true;
  } else if ((in_folder || path != given) && !stop.is_loader) {
    // What the next loader could not find by the program's own string gets a descriptor.
    const long opened = given[0] == 0 ? system_call(__NR_fcntl, folder, F_DUPFD, 3)
                                      : system_call(__NR_openat, folder, path, O_PATH);
    if (failed(opened)) return stop.answer(opened);
    stop.descriptor = static_cast<int>(opened);
  }
  stop.then = StoppedCall::Then::kExecute;
}

void execute(StoppedCall& stop) noexcept {
  // The program that comes finds the mask that this one had.
  const SignalMask mask = mask_of(stop.context);
  (void)system_call(__NR_rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
  const Call& call = stop.call;
  if (stop.is_loader) {
    return stop.answer(
        system_call(call.number, call.a[0], call.a[1], call.a[2], call.a[3], call.a[4]));
  }
  const std::size_t words = kArgumentsBeforeProgram + stop.arguments + 2;
  if (words <= kMostOnStack) {
    auto vector = reinterpret_cast<std::uintptr_t>(__builtin_alloca(words * sizeof(char*)));
    __asm__("" : "+r"(vector));  // clang-tidy 14 ends with a fault where it knows what this is
    stop.answer(execute_with(stop, vector));
  } else {
    const std::size_t bytes = (words * sizeof(char*) + kPage - 1) & ~(kPage - 1);
    const long memory = system_call(__NR_mmap, 0, bytes, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (failed(memory)) {
      stop.answer(memory);
    } else {
      stop.answer(execute_with(stop, static_cast<std::uintptr_t>(memory)));
      (void)system_call(__NR_munmap, memory, bytes);
    }
  }
  if (stop.descriptor >= 0) (void)system_call(__NR_close, stop.descriptor);
}

void prepare_exit(StoppedCall& stop) noexcept {
  if (g_process.options.stats && g_process.is_own()) print_stats();
  stop.then = StoppedCall::Then::kExit;
}

long set_filter(const Call& call) noexcept {
  const auto what = static_cast<unsigned>(call.a[0]);
  constexpr unsigned kSetUserDispatch = 59, kSetDenyWriteExecute = 65;
  bool filters = what == PR_SET_SECCOMP, strict = filters && call.a[1] == SECCOMP_MODE_STRICT;
  if (call.number == __NR_seccomp) {
    filters = what == SECCOMP_SET_MODE_FILTER || what == SECCOMP_SET_MODE_STRICT;
    strict = what == SECCOMP_SET_MODE_STRICT;
    if (strict && (call.a[1] != 0 || call.a[2] != 0)) return -EINVAL;
  } else if (what == kSetUserDispatch || what == kSetDenyWriteExecute) {
    // The first would dispatch the loader's own calls, too.
    return -EINVAL;
  }
  static constinit std::atomic<bool> has_own_filter{false};
  if (strict) {
    // As on Linux: a thread is in one mode for ever. And none of its own looks at the clock there.
    if (has_own_filter.load(std::memory_order_relaxed)) return -EINVAL;
    (void)system_call(__NR_prctl, PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
    return install_strict_filter();
  }
  if (filters) copy_directly();
  const long result =
      system_call(call.number, call.a[0], call.a[1], call.a[2], call.a[3], call.a[4]);
  if (filters && !failed(result)) has_own_filter.store(true, std::memory_order_relaxed);
  return result;
}

long trace_process(const Call& call) noexcept {
  constexpr std::uintptr_t kTraceMe = 0, kAttach = 16, kSeize = 0x4206;
  const std::uintptr_t request = call.a[0];
  const bool begins = request == kTraceMe || request == kAttach || request == kSeize;
  const long traced = request == kTraceMe ? system_call(__NR_getppid) : static_cast<int>(call.a[1]);
  if (!begins || !runs_inside(traced)) {
    return system_call(call.number, call.a[0], call.a[1], call.a[2], call.a[3]);
  }
  static constinit std::atomic<bool> told{false};
  if (!told.exchange(true, std::memory_order_relaxed)) {
    Line<256> line;
    line.text("exclave: exec: ").text(name_of_program());
    line.text(
            ": ptrace is EPERM: no program inside can trace another one inside. See docs/exec.md, ")
        .text("\"What is different\"\n")
        .write_to(output_descriptor());
  }
  count_call(Route::kRefused);
  trace_call(call, -EPERM, Route::kRefused);
  return -EPERM;
}

long read_link(const Call& call) noexcept {
  const bool at = call.number == __NR_readlinkat;
  const std::uintptr_t name = at ? call.a[1] : call.a[0];
  const std::uintptr_t buffer = at ? call.a[2] : call.a[1];
  const auto size = static_cast<int>(at ? call.a[3] : call.a[2]);
  char path[64];
  if (!failed(read_program_string(path, sizeof path, name)) && is_own_exe(path)) {
    if (size <= 0) return -EINVAL;
    std::size_t length = strlen(g_process.program_path);
    if (length > static_cast<std::size_t>(size)) length = static_cast<std::size_t>(size);
    return write_program(buffer, g_process.program_path, length) ? static_cast<long>(length)
                                                                 : -EFAULT;
  }
  return system_call(call.number, call.a[0], call.a[1], call.a[2], call.a[3]);
}

}  // namespace exclave::loader
