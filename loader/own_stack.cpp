#include "loader/own_stack.hpp"

#include <cstddef>

#include "loader/disguised_calls.hpp"
#include "loader/linux_abi.hpp"
#include "loader/syscalls.hpp"
#include "loader/text.hpp"

namespace exclave::loader {
namespace {

// At the end of the FXSAVE area: what else the kernel saved behind it.
struct SavedVectorState {
  std::uint32_t magic, bytes;
};
constexpr std::uint32_t kExtendedMagic = 0x46505853;
constexpr std::size_t kMagicOffset = 464, kBasicBytes = 512;
// What the handler and the entry to its slot need below the handler's frame.
constexpr std::size_t kBelowFrame = 1024;

SavedVectorState saved_of(const SignalContext& context) noexcept {
  const auto* const area = reinterpret_cast<const unsigned char*>(context.uc_mcontext.fpregs);
  SavedVectorState saved{};
  if (area == nullptr) return saved;
  memcpy(&saved, area + kMagicOffset, sizeof saved);
  if (saved.magic != kExtendedMagic) saved.bytes = kBasicBytes;
  return saved;
}

}  // namespace

bool touches_own_frame(const StoppedCall& stop) noexcept {
  const Call& call = stop.call;
  switch (call.number) {
    case __NR_munmap:
    case __NR_mprotect:
    case __NR_pkey_mprotect:
    case __NR_mremap:
    case __NR_madvise:
      break;
    case __NR_process_madvise:
      // Where, its vectors say, which others may change meanwhile.
      return takes_pages(static_cast<int>(call.a[3]));
    case __NR_mmap:
      if ((call.a[3] & MAP_FIXED) == 0) return false;
      break;
    default:
      return false;
  }
  const std::uintptr_t low = stop.frame - kBelowFrame;
  const std::uintptr_t high = reinterpret_cast<std::uintptr_t>(stop.context.uc_mcontext.fpregs) +
                              saved_of(stop.context).bytes;
  return call.a[0] < high && low < call.a[0] + call.a[1];
}

bool KeptRegisters::keep(const SignalContext& context) noexcept {
  const SavedVectorState saved = saved_of(context);
  if (saved.bytes > kMostVectorBytes || saved.bytes == 0) return false;
  memcpy(vector_state_, context.uc_mcontext.fpregs, saved.bytes);
  // The kernel's is shorter than libc's: it ends with its mask.
  memcpy(&context_, &context, offsetof(SignalContext, uc_sigmask) + sizeof(SignalMask));
  context_.uc_mcontext.fpregs = reinterpret_cast<fpregset_t>(vector_state_);
  return true;
}

void KeptRegisters::disable_alternate_stack() noexcept {
  context_.uc_stack = {nullptr, SS_DISABLE, 0};
}

void KeptRegisters::go_on(long result, SlotIndex slot) noexcept {
  set_register(context_, REG_RAX, static_cast<std::uint64_t>(result));
  leave_slot(slot);
  __asm__ volatile(
      "movq %[context], %%rsp\n\t"
      "syscall\n\t"
      :
      : [context] "r"(&context_), "a"(__NR_rt_sigreturn)
      : "memory");
  __builtin_unreachable();
}

}  // namespace exclave::loader
