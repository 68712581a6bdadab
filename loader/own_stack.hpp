// Calls that take away the very memory on which the program's registers were saved: a thread that
// unmaps its own stack at its end, advice that drops pages just below the stack pointer. There is
// no return through the signal frame then, so the registers are kept in the slot, and put back by
// hand.
#pragma once

#include "loader/stopped_call.hpp"

namespace exclave::loader {

// May the call change pages between the handler's frame and the end of what the kernel saved?
bool touches_own_frame(const StoppedCall& stop) noexcept;

// What must be put back, on the slot's stack.
class KeptRegisters {
 public:
  // False: the kernel saved more than there is room for.
  bool keep(const SignalContext& context) noexcept;
  // Goes on with the program, with this result of its call, and gives the slot back on the way.
  [[noreturn]] void go_on(long result, SlotIndex slot) noexcept;

 private:
  static constexpr std::size_t kMostVectorBytes = std::size_t{20} << 10;
  static constexpr int kRegisters = 18;  // up to the flags, in the order of ucontext

  alignas(64) unsigned char vector_state_[kMostVectorBytes];
  bool extended_ = false;  // as XSAVE writes it, rather than FXSAVE
  std::uint64_t registers_[kRegisters];
  SignalMask mask_ = 0;
};

}  // namespace exclave::loader
