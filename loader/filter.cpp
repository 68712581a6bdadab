#include "loader/filter.hpp"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>

#include <cstddef>

#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/syscalls.hpp"

namespace exclave::loader {
namespace {

// No system call has this number; the filter answers it with an errno that the kernel never does.
constexpr std::uint32_t kProbe = 0x00ec1a;
constexpr std::uint32_t kProbeAnswer = 1516;
constexpr std::uint32_t kX32Bit = 0x40000000;

constexpr auto kHigh = static_cast<std::uint32_t>(kImageBase >> 32);

constexpr std::uint32_t kTrap = SECCOMP_RET_TRAP | kFilterMark;
constexpr std::uint32_t kAllow = SECCOMP_RET_ALLOW;
constexpr std::uint32_t kNoSuchCall = SECCOMP_RET_ERRNO | ENOSYS;
constexpr std::uint32_t kNoSuchRequest = SECCOMP_RET_ERRNO | EINVAL;
// What strict mode leaves to a thread.
constexpr std::uint32_t kStrictCalls[] = {__NR_read, __NR_write, __NR_exit, __NR_rt_sigreturn};

constexpr std::uint32_t kStopped[] = {
    // Memory calls (calls.hpp).
    __NR_mmap, __NR_munmap, __NR_mprotect, __NR_mremap, __NR_madvise, __NR_msync, __NR_mincore,
    __NR_mlock, __NR_mlock2, __NR_munlock, __NR_mlockall, __NR_munlockall, __NR_brk,
    __NR_pkey_mprotect, __NR_remap_file_pages, __NR_shmat, __NR_shmdt, __NR_io_setup,
    __NR_io_destroy, 462,
    // Those that do not look like one (disguised_calls.hpp).
    __NR_process_madvise, __NR_io_uring_setup, __NR_io_uring_register,
    // What would lose the loader, or show it (processes.hpp, signals.hpp).
    __NR_fork, __NR_execve, __NR_execveat, __NR_exit_group, __NR_readlink, __NR_readlinkat,
    __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_seccomp, __NR_prctl, __NR_ptrace};
// Stopped if an argument points to anything but the loader's image: a signal mask for the length of
// the call (signals.hpp), the description of a child (processes.hpp).
struct WithPointer {
  std::uint32_t number;
  unsigned argument;
};
constexpr WithPointer kWithPointer[] = {
    {__NR_clone3, 0},      {__NR_rt_sigsuspend, 0}, {__NR_ppoll, 3},        {__NR_pselect6, 5},
    {__NR_epoll_pwait, 4}, {__NR_epoll_pwait2, 4},  {__NR_io_pgetevents, 5}};
// uselib and map_shadow_stack would map where no book knows of it.
constexpr std::uint32_t kUnknown[] = {__NR_uselib, 453};
// So would these requests to arch_prctl: ARCH_MAP_VDSO_X32, _32, _64, ARCH_SHSTK_ENABLE. EINVAL, as
// on kernels that do not know them.
constexpr std::uint32_t kUnknownRequests[] = {0x2001, 0x2002, 0x2003, 0x5001};

constexpr std::uint32_t offset_of_argument(unsigned argument) noexcept {
  return static_cast<std::uint32_t>(offsetof(seccomp_data, args) + argument * sizeof(__u64));
}

// Builds the program back to front, so that a jump knows how far its target is.
class Builder {
 public:
  static constexpr unsigned kMost = 160;

  // Each answers where it stands.
  unsigned load(std::uint32_t offset) noexcept {
    return put({BPF_LD | BPF_W | BPF_ABS, 0, 0, offset});
  }
  unsigned answer(std::uint32_t value) noexcept { return put({BPF_RET | BPF_K, 0, 0, value}); }
  // On to what was put last unless a target is named.
  unsigned jump(std::uint16_t test, std::uint32_t value, unsigned if_true,
                unsigned if_false) noexcept {
    const unsigned here = count_;
    return put({static_cast<__u16>(BPF_JMP | test | BPF_K), distance(here, if_true),
                distance(here, if_false), value});
  }
  unsigned next() const noexcept { return count_ - 1; }

  sock_fprog finish() noexcept {
    for (unsigned i = 0; i < count_; ++i) program_[i] = reversed_[count_ - 1 - i];
    return {static_cast<unsigned short>(count_), program_};
  }

 private:
  static __u8 distance(unsigned here, unsigned target) noexcept {
    return static_cast<__u8>(here - target - 1);
  }
  unsigned put(sock_filter instruction) noexcept {
    reversed_[count_] = instruction;
    return count_++;
  }

  sock_filter reversed_[kMost];
  sock_filter program_[kMost];
  unsigned count_ = 0;
};

// Is the call made from the loader's image? Then allow, else go on at `elsewhere`.
unsigned put_origin(Builder& code, unsigned allow, unsigned elsewhere) noexcept {
  constexpr auto kLow = static_cast<std::uint32_t>(kImageBase);
  static_assert(kLow == 0 && kImageBytes < (std::uint64_t{1} << 32));
  constexpr std::uint32_t kAt = offsetof(seccomp_data, instruction_pointer);
  (void)code.jump(BPF_JGT, static_cast<std::uint32_t>(kImageBytes), elsewhere, allow);
  (void)code.load(kAt);
  (void)code.jump(BPF_JEQ, kHigh, code.next(), elsewhere);
  return code.load(kAt + 4);
}

sock_fprog build(Builder& code) noexcept {
  const unsigned allow = code.answer(kAllow);
  const unsigned trap = code.answer(kTrap);
  const unsigned no_such_call = code.answer(kNoSuchCall);
  const unsigned probe = code.answer(SECCOMP_RET_ERRNO | kProbeAnswer);

  const unsigned stopped = put_origin(code, allow, trap);
  // clone: with the parent's memory its books are shared, too; without, they are copied.
  (void)code.jump(BPF_JSET, CLONE_VM, allow, trap);
  const unsigned clone_flags = code.load(offset_of_argument(0));
  const unsigned clone = put_origin(code, allow, clone_flags);
  unsigned with_pointer[sizeof kWithPointer / sizeof kWithPointer[0]];
  unsigned i = 0;
  for (const WithPointer& call : kWithPointer) {
    (void)code.jump(BPF_JEQ, 0, allow, trap);
    const unsigned low = code.load(offset_of_argument(call.argument));
    (void)code.jump(BPF_JEQ, 0, low, trap);
    (void)code.jump(BPF_JEQ, kHigh, allow, code.next());
    with_pointer[i++] = code.load(offset_of_argument(call.argument) + 4);
  }
  const unsigned no_such_request = code.answer(kNoSuchRequest);
  unsigned request = allow;
  for (const std::uint32_t number : kUnknownRequests) {
    request = code.jump(BPF_JEQ, number, no_such_request, request);
  }
  request = code.load(offset_of_argument(0));

  // By number, from here on: what is on no list passes, by its number alone.
  (void)code.answer(kAllow);
  i = 0;
  for (const WithPointer& call : kWithPointer) {
    (void)code.jump(BPF_JEQ, call.number, with_pointer[i++], code.next());
  }
  (void)code.jump(BPF_JEQ, __NR_clone, clone, code.next());
  (void)code.jump(BPF_JEQ, __NR_arch_prctl, request, code.next());
  for (const std::uint32_t number : kUnknown) {
    (void)code.jump(BPF_JEQ, number, no_such_call, code.next());
  }
  for (const std::uint32_t number : kStopped) {
    (void)code.jump(BPF_JEQ, number, stopped, code.next());
  }
  (void)code.jump(BPF_JEQ, kProbe, probe, code.next());
  (void)code.jump(BPF_JGE, kX32Bit, no_such_call, code.next());
  (void)code.load(offsetof(seccomp_data, nr));
  // Calls of 32-bit code would reach memory by other numbers.
  (void)code.jump(BPF_JEQ, AUDIT_ARCH_X86_64, code.next(), no_such_call);
  (void)code.load(offsetof(seccomp_data, arch));
  return code.finish();
}

sock_fprog build_strict(Builder& code) noexcept {
  const unsigned allow = code.answer(kAllow);
  const unsigned trap = code.answer(SECCOMP_RET_TRAP | kStrictMark);
  unsigned next = put_origin(code, allow, trap);
  for (const std::uint32_t number : kStrictCalls) next = code.jump(BPF_JEQ, number, allow, next);
  next = code.load(offsetof(seccomp_data, nr));
  (void)code.jump(BPF_JEQ, AUDIT_ARCH_X86_64, next, trap);
  (void)code.load(offsetof(seccomp_data, arch));
  return code.finish();
}

long install(const sock_fprog& program) noexcept {
  // Older kernels do not know the flag.
  constexpr unsigned kFlags[] = {SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0};
  for (const unsigned flags : kFlags) {
    long result = system_call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (result == -EACCES) {
      // Whoever has no rights over the system may filter what gains none.
      result = system_call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
      if (!failed(result)) {
        result = system_call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
      }
    }
    if (result != -EINVAL) return result;
  }
  return -EINVAL;
}

}  // namespace

bool filter_is_installed() noexcept {
  return system_call(kProbe) == -static_cast<long>(kProbeAnswer);
}

long install_filter() noexcept {
  Builder code;
  return install(build(code));
}

long install_strict_filter() noexcept {
  Builder code;
  return install(build_strict(code));
}

}  // namespace exclave::loader
