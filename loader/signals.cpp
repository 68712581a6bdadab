#include "loader/signals.hpp"

#include <atomic>

#include "loader/lock.hpp"
#include "loader/process.hpp"
#include "loader/program_memory.hpp"
#include "loader/syscalls.hpp"
#include "loader/text.hpp"
#include "loader/trap.hpp"

namespace exclave::loader {
namespace {

constexpr std::size_t kMaskBytes = sizeof(SignalMask);
constexpr int kSignals = 64;

Lock g_lock;
KernelAction g_action{};         // of the program for SIGSYS; under g_lock
SignalInfo g_pending_info{};     // under g_lock
bool g_pending = false;          // under g_lock
SignalMask g_masks_with_it = 0;  // signals whose action blocks SIGSYS, too; under g_lock

// Threads that have it blocked, by their number. Whoever finds no place has it unblocked.
class BlockedThreads {
 public:
  bool any() const noexcept { return count_.load(std::memory_order_relaxed) != 0; }
  bool has(long thread) const noexcept {
    if (!any()) return false;
    for (unsigned i = 0; i < kProbes; ++i) {
      if (at(thread, i).load(std::memory_order_relaxed) == thread) return true;
    }
    return false;
  }
  void add(long thread) noexcept {
    if (has(thread) || take_free(thread)) return;
    // Threads end without notice.
    const long process = system_call(__NR_getpid);
    for (unsigned i = 0; i < kProbes; ++i) {
      const long other = at(thread, i).load(std::memory_order_relaxed);
      if (other != 0 && system_call(__NR_tgkill, process, other, 0) == -ESRCH) remove(other);
    }
    (void)take_free(thread);
  }
  void remove(long thread) noexcept {
    for (unsigned i = 0; i < kProbes; ++i) {
      long expected = thread;
      if (at(thread, i).compare_exchange_strong(expected, 0, std::memory_order_relaxed)) {
        count_.fetch_sub(1, std::memory_order_relaxed);
        return;
      }
    }
  }
  // Only while no other thread runs.
  void clear() noexcept {
    for (auto& thread : threads_) thread.store(0, std::memory_order_relaxed);
    count_.store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr unsigned kEntries = 4096, kProbes = 32;

  bool take_free(long thread) noexcept {
    for (unsigned i = 0; i < kProbes; ++i) {
      long expected = 0;
      if (at(thread, i).compare_exchange_strong(expected, thread, std::memory_order_relaxed)) {
        count_.fetch_add(1, std::memory_order_relaxed);
        return true;
      }
    }
    return false;
  }
  std::atomic<long>& at(long thread, unsigned probe) noexcept {
    return threads_[(static_cast<unsigned long>(thread) + probe) % kEntries];
  }
  const std::atomic<long>& at(long thread, unsigned probe) const noexcept {
    return threads_[(static_cast<unsigned long>(thread) + probe) % kEntries];
  }

  std::atomic<long> threads_[kEntries] = {};
  std::atomic<int> count_{0};
};
constinit BlockedThreads g_blocked;

// Does a call that was interrupted go on when the signal has been dealt with?
bool goes_on_waiting(const KernelAction& action) noexcept {
  return action.handler == kIgnored || (action.flags & SA_RESTART) != 0;
}

void set_blocked(bool blocked) noexcept {
  const long thread = system_call(__NR_gettid);
  if (blocked) {
    g_blocked.add(thread);
  } else {
    g_blocked.remove(thread);
  }
}

// Masks without SIGSYS, for calls that read them after we are gone. They lie in the loader's image,
// so the filter lets a call with one pass. Never freed: programs have few.
class InternedMasks {
 public:
  struct Entry {
    SignalMask mask;
    // What pselect6 wants in place of a mask.
    const SignalMask* pointer;
    std::size_t bytes;
  };
  // Null: full.
  const Entry* find(SignalMask mask) noexcept {
    const Locked guard(g_lock);
    for (unsigned i = 0; i < count_; ++i) {
      if (entries_[i].mask == mask) return &entries_[i];
    }
    if (count_ == kMost) return nullptr;
    Entry& entry = entries_[count_++];
    entry = {mask, &entry.mask, kMaskBytes};
    return &entry;
  }
  // For a call that has a struct, but no mask in it.
  const Entry* none() const noexcept { return &none_; }

 private:
  static constexpr unsigned kMost = 1024;
  Entry entries_[kMost] = {};
  unsigned count_ = 0;
  Entry none_{0, nullptr, 0};
};
constinit InternedMasks g_masks;

// By a filter of the program's own: a call that was not made, so nothing can wait.
bool is_forced(const SignalInfo& info) noexcept {
  return info.si_code == kStoppedByFilter;
}

void end_by_default() noexcept {
  KernelAction by_default{};
  const SignalMask only = kSigsysBit;
  (void)system_call(__NR_rt_sigaction, SIGSYS, &by_default, 0, kMaskBytes);
  (void)system_call(__NR_tgkill, system_call(__NR_getpid), system_call(__NR_gettid), SIGSYS);
  (void)system_call(__NR_rt_sigprocmask, SIG_UNBLOCK, &only, 0, kMaskBytes);
}

// Carries out the program's action, on its stack.
void deliver(const SignalInfo& info, SignalContext& context) noexcept {
  KernelAction action{};
  {
    const Locked guard(g_lock);
    action = g_action;
    if ((action.flags & SA_RESETHAND) != 0) g_action.handler = kByDefault;
  }
  if (action.handler == kIgnored && !is_forced(info)) return;
  if (action.handler == kIgnored || action.handler == kByDefault) return end_by_default();
  // While its handler runs it is blocked, if the action does not say otherwise.
  const bool blocks_it = (action.flags & SA_NODEFER) == 0 || (action.mask & kSigsysBit) != 0;
  if (blocks_it) set_blocked(true);
  const SignalMask mask = (mask_of(context) | action.mask) & ~kSigsysBit;
  (void)system_call(__NR_rt_sigprocmask, SIG_SETMASK, &mask, 0, kMaskBytes);
  SignalInfo copy = info;
  reinterpret_cast<void (*)(int, SignalInfo*, SignalContext*)>(action.handler)(SIGSYS, &copy,
                                                                               &context);
  set_blocked(false);
}

}  // namespace

void inherit_signals(bool ignored, bool blocked) noexcept {
  if (ignored) g_action.handler = kIgnored;
  if (blocked) set_blocked(true);
}

bool sigsys_is_ignored() noexcept {
  const Locked guard(g_lock);
  return g_action.handler == kIgnored;
}

bool sigsys_is_blocked() noexcept {
  return g_blocked.any() && g_blocked.has(system_call(__NR_gettid));
}

long change_action(const Call& call) noexcept {
  const auto signal = static_cast<int>(call.a[0]);
  if (call.a[3] != kMaskBytes) return -EINVAL;
  KernelAction action{}, old{};
  const bool set = call.a[1] != 0;
  if (set && !read_program(&action, call.a[1], sizeof action)) return -EFAULT;
  const bool blocks_it = (action.mask & kSigsysBit) != 0;
  if (signal == SIGSYS) {
    const Locked guard(g_lock);
    old = g_action;
    // A vfork child's signal actions are its own, but this memory is its parent's.
    if (set && g_process.is_own()) {
      g_action = action;
      (void)install_trap(goes_on_waiting(action));
    }
  } else {
    action.mask &= ~kSigsysBit;
    const long result =
        system_call(__NR_rt_sigaction, signal, set ? &action : nullptr, &old, kMaskBytes);
    if (failed(result)) return result;
    const Locked guard(g_lock);
    const SignalMask bit = SignalMask{1} << ((signal - 1) % kSignals);
    if ((g_masks_with_it & bit) != 0) old.mask |= kSigsysBit;
    if (set && g_process.is_own()) {
      g_masks_with_it = blocks_it ? g_masks_with_it | bit : g_masks_with_it & ~bit;
    }
  }
  if (call.a[2] != 0 && !write_program(call.a[2], &old, sizeof old)) return -EFAULT;
  return 0;
}

void change_mask(StoppedCall& stop) noexcept {
  const Call& call = stop.call;
  if (call.a[3] != kMaskBytes) return stop.answer(-EINVAL);
  SignalMask& kernel_mask = mask_of(stop.context);
  const bool was_blocked = sigsys_is_blocked();
  const SignalMask old = kernel_mask | (was_blocked ? kSigsysBit : 0);
  if (call.a[1] != 0) {
    SignalMask given = 0;
    if (!read_program(&given, call.a[1], sizeof given)) return stop.answer(-EFAULT);
    SignalMask mask = old;
    switch (static_cast<int>(call.a[0])) {
      case SIG_BLOCK:
        mask |= given;
        break;
      case SIG_UNBLOCK:
        mask &= ~given;
        break;
      case SIG_SETMASK:
        mask = given;
        break;
      default:
        return stop.answer(-EINVAL);
    }
    const bool blocked = (mask & kSigsysBit) != 0;
    if (blocked != was_blocked) set_blocked(blocked);
    // The return from our handler puts it in force.
    kernel_mask = mask & ~kSigsysBit;
    if (was_blocked && !blocked) stop.then = StoppedCall::Then::kDeliver;
  }
  if (call.a[2] != 0 && !write_program(call.a[2], &old, sizeof old)) return stop.answer(-EFAULT);
  stop.answer(0);
}

void wait_with_mask(StoppedCall& stop) noexcept {
  const Call& call = stop.call;
  std::uintptr_t mask_address = 0;
  std::size_t bytes = 0;
  int which = 0;
  bool in_struct = false;
  switch (call.number) {
    case __NR_rt_sigsuspend:
      mask_address = call.a[0], bytes = call.a[1], which = REG_RDI;
      break;
    case __NR_ppoll:
      mask_address = call.a[3], bytes = call.a[4], which = REG_R10;
      break;
    case __NR_epoll_pwait:
    case __NR_epoll_pwait2:
      mask_address = call.a[4], bytes = call.a[5], which = REG_R8;
      break;
    default: {  // pselect6, io_pgetevents
      struct {
        std::uintptr_t mask;
        std::size_t bytes;
      } given{};
      if (!read_program(&given, call.a[5], sizeof given)) return stop.answer(-EFAULT);
      mask_address = given.mask, bytes = given.bytes, which = REG_R9;
      in_struct = true;
      break;
    }
  }
  const InternedMasks::Entry* entry = g_masks.none();
  if (mask_address != 0) {
    SignalMask mask = 0;
    if (bytes != kMaskBytes) return stop.answer(-EINVAL);
    if (!read_program(&mask, mask_address, sizeof mask)) return stop.answer(-EFAULT);
    entry = g_masks.find(mask & ~kSigsysBit);
    if (entry == nullptr) return stop.answer(-ENOMEM);
  }
  stop.call_again_with(which, in_struct ? static_cast<const void*>(&entry->pointer) : &entry->mask);
}

void receive_sigsys(const SignalInfo& info, SignalContext& context) noexcept {
  if (!sigsys_is_blocked()) {
    deliver(info, context);
    return deliver_pending(context);
  }
  if (is_forced(info)) return end_by_default();
  const Locked guard(g_lock);
  g_pending = true;
  g_pending_info = info;
}

void deliver_pending(SignalContext& context) noexcept {
  for (;;) {
    SignalInfo info{};
    {
      const Locked guard(g_lock);
      if (!g_pending) return;
      g_pending = false;
      info = g_pending_info;
    }
    deliver(info, context);
  }
}

void signals_before_fork() noexcept {
  g_lock.lock();
}
void signals_after_fork() noexcept {
  g_lock.unlock();
}

void forget_other_threads(bool blocked) noexcept {
  if (g_blocked.any()) g_blocked.clear();
  g_pending = false;
  if (blocked) set_blocked(true);
}

}  // namespace exclave::loader
