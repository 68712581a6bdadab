// Calls that take away the very memory on which the program's registers were saved: a thread that
// unmaps its own stack at its end, advice that drops pages just below the stack pointer. There is
// no return through the signal frame then, so it is copied into the slot, and the return goes
// through the copy. Only the kernel can put the mask in force together with the registers: a signal
// that waited for it comes to the program where the program stands, and its handler may jump away.
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
  void disable_alternate_stack() noexcept;
  // Goes on with the program, with this result of its call. The slot is left.
  [[noreturn]] void go_on(long result, SlotIndex slot) noexcept;

 private:
  static constexpr std::size_t kMostVectorBytes = std::size_t{20} << 10;

  SignalContext context_;
  alignas(64) unsigned char vector_state_[kMostVectorBytes];
};

}  // namespace exclave::loader
