#include "loader/own_stack.hpp"

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
  extended_ = saved.magic == kExtendedMagic;
  for (int i = 0; i < kRegisters; ++i) registers_[i] = register_of(context, i);
  mask_ = mask_of(const_cast<SignalContext&>(context));
  return true;
}

void KeptRegisters::go_on(long result, SlotIndex slot) noexcept {
  registers_[REG_RAX] = static_cast<std::uint64_t>(result);
  (void)system_call(__NR_rt_sigprocmask, SIG_SETMASK, &mask_, 0, sizeof mask_);
  if (extended_) {
    __asm__ volatile("xrstor64 (%0)" : : "r"(vector_state_), "a"(-1), "d"(-1) : "memory");
  } else {
    __asm__ volatile("fxrstor64 (%0)" : : "r"(vector_state_) : "memory");
  }
  static_assert(REG_R8 == 0 && REG_R15 == 7 && REG_RDI == 8 && REG_RSP == 15 && REG_RIP == 16 &&
                REG_EFL == 17);
  // RCX and R11 are the system call's to destroy. Nothing here is read after the slot is free.
  __asm__ volatile(
      "movq %%rdi, %%r11\n\t"
      "pushq 136(%%rcx)\n\t"
      "popfq\n\t"
      "movq 0(%%rcx), %%r8\n\t"
      "movq 8(%%rcx), %%r9\n\t"
      "movq 16(%%rcx), %%r10\n\t"
      "movq 32(%%rcx), %%r12\n\t"
      "movq 40(%%rcx), %%r13\n\t"
      "movq 48(%%rcx), %%r14\n\t"
      "movq 56(%%rcx), %%r15\n\t"
      "movq 64(%%rcx), %%rdi\n\t"
      "movq 72(%%rcx), %%rsi\n\t"
      "movq 80(%%rcx), %%rbp\n\t"
      "movq 88(%%rcx), %%rbx\n\t"
      "movq 96(%%rcx), %%rdx\n\t"
      "movq 104(%%rcx), %%rax\n\t"
      "movq 120(%%rcx), %%rsp\n\t"
      "movq 128(%%rcx), %%rcx\n\t"
      "movb $0, (%%r11)\n\t"
      "jmpq *%%rcx\n\t"
      :
      : "c"(registers_), "D"(slot_flag(slot))
      : "memory");
  __builtin_unreachable();
}

}  // namespace exclave::loader
