// The life of a stopped call. The kernel puts the program's registers on its stack (the alternate
// one, if it has that: a goroutine's would be too small) and calls on_sigsys with every signal
// blocked. A slot is taken, the call served on its stack, the result written into the saved
// registers, the slot given back; the return from the signal goes on with the program.
#include "loader/trap.hpp"

#include "loader/disguised_calls.hpp"
#include "loader/filter.hpp"
#include "loader/own_stack.hpp"
#include "loader/processes.hpp"
#include "loader/signals.hpp"
#include "loader/slots.hpp"
#include "loader/stats.hpp"
#include "loader/stopped_call.hpp"
#include "loader/syscalls.hpp"
#include "loader/trace.hpp"

extern "C" [[gnu::visibility("hidden")]] void exclave_loader_signal_return();
__asm__(
    ".text\n"
    ".globl exclave_loader_signal_return\n"
    ".hidden exclave_loader_signal_return\n"
    ".type exclave_loader_signal_return, @function\n"
    "exclave_loader_signal_return:\n\t"
    "movl $15, %eax\n\t"  // __NR_rt_sigreturn
    "syscall\n");

namespace exclave::loader {
namespace {

// The memory call itself.
long serve_traced(const Call& call) noexcept {
  if (call.number == __NR_process_madvise) return advise_process(call);
  Route route = Route::kNone;
  const long result = serve_memory_call(call, &route);
  trace_call(call, result, route);
  return result;
}

// Does not come back, nor touch what stands on the program's stack, once the call is made.
[[gnu::noinline]] void serve_own_stack(const StoppedCall& stop) noexcept {
  KeptRegisters kept;
  const Call call = stop.call;
  const SlotIndex slot = stop.slot;
  const stack_t alternate = stop.context.uc_stack;
  if (!kept.keep(stop.context)) return;
  const long result = serve_traced(call);
  const auto stack = reinterpret_cast<std::uintptr_t>(alternate.ss_sp);
  if (result == 0 && call.number == __NR_munmap && call.a[0] < stack + alternate.ss_size &&
      stack < call.a[0] + call.a[1]) {
    // The next stop would find no stack there: to a program that has no use for it any more, the
    // alternate one is as good as disabled.
    kept.disable_alternate_stack();
  }
  kept.go_on(result, slot);
}

void serve(StoppedCall& stop) noexcept {
  switch (stop.call.number) {
    case __NR_rt_sigaction:
      return stop.answer(change_action(stop.call));
    case __NR_rt_sigprocmask:
      return change_mask(stop);
    case __NR_rt_sigsuspend:
    case __NR_ppoll:
    case __NR_pselect6:
    case __NR_epoll_pwait:
    case __NR_epoll_pwait2:
    case __NR_io_pgetevents:
      return wait_with_mask(stop);
    case __NR_fork:
    case __NR_clone:
      return make_child(stop);
    case __NR_clone3:
      return make_described_child(stop);
    case __NR_execve:
    case __NR_execveat:
      return prepare_execute(stop);
    case __NR_exit_group:
      return prepare_exit(stop);
    case __NR_seccomp:
    case __NR_prctl:
      return stop.answer(set_filter(stop.call));
    case __NR_readlink:
    case __NR_readlinkat:
      return stop.answer(read_link(stop.call));
    case __NR_ptrace:
      return stop.answer(trace_process(stop.call));
    case __NR_io_uring_setup:
      return stop.answer(set_up_ring(stop.call));
    case __NR_io_uring_register:
      return stop.answer(register_in_ring(stop.call));
    case __NR_process_madvise:
      break;
    default:
      if (!is_memory_call(stop.call.number)) return stop.answer(-ENOSYS);
  }
  if (touches_own_frame(stop)) serve_own_stack(stop);
  stop.answer(serve_traced(stop.call));
}

void on_sigsys(int, SignalInfo* info, SignalContext* context) noexcept {
  if (info->si_code == kStoppedByFilter && info->si_errno == kStrictMark) {
    (void)system_call(__NR_kill, system_call(__NR_getpid), SIGKILL);
  }
  if (info->si_code != kStoppedByFilter || info->si_errno != kFilterMark) {
    return receive_sigsys(*info, *context);
  }
  StoppedCall stop(*context);
  stop.frame = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  stop.slot = take_slot(register_of(*context, REG_RSP));
  const SlotIndex slot = stop.slot;
  run_in_slot(
      slot, [](void* argument) { serve(*static_cast<StoppedCall*>(argument)); }, &stop);
  give_slot_back(slot);
  switch (stop.then) {
    case StoppedCall::Then::kReturn:
      return;
    case StoppedCall::Then::kExecute:
      return execute(stop);
    case StoppedCall::Then::kExit:
      (void)system_call(__NR_exit_group, stop.call.a[0]);
      return;
    case StoppedCall::Then::kDeliver:
      return deliver_pending(*context);
  }
}

}  // namespace

long install_trap(bool restart) noexcept {
  KernelAction action{};
  action.handler = reinterpret_cast<std::uintptr_t>(&on_sigsys);
  action.flags = SA_SIGINFO | SA_ONSTACK | kHasRestorer | (restart ? SA_RESTART : 0u);
  action.restorer = exclave_loader_signal_return;
  action.mask = ~SignalMask{0};
  return system_call(__NR_rt_sigaction, SIGSYS, &action, 0, sizeof action.mask);
}

}  // namespace exclave::loader
