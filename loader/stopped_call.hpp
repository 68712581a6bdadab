// One stop of the program at a system call, and what is left to do when its slot is given back.
#pragma once

#include "loader/calls.hpp"
#include "loader/linux_abi.hpp"
#include "loader/slots.hpp"

namespace exclave::loader {

struct StoppedCall {
  explicit StoppedCall(SignalContext& where) noexcept : context(where) {
    call.number = static_cast<int>(register_of(where, REG_RAX));  // as the kernel takes it
    constexpr int kRegisters[] = {REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9};
    for (int i = 0; i < 6; ++i) call.a[i] = register_of(where, kRegisters[i]);
  }
  void answer(long result) noexcept {
    set_register(context, REG_RAX, static_cast<std::uint64_t>(result));
  }

  // The program makes the call once more, with an argument in the loader's image, which the filter
  // lets pass: for calls that do not come back here, or that wait.
  void call_again_with(int argument_register, const void* argument) noexcept {
    constexpr std::uint64_t kSyscallBytes = 2;
    set_register(context, argument_register, reinterpret_cast<std::uint64_t>(argument));
    set_register(context, REG_RIP, register_of(context, REG_RIP) - kSyscallBytes);
    answer(call.number);
  }

  // Done on the program's own stack, for it may not come back, and then nobody would give a slot
  // back that a vfork child had taken from its parent.
  enum class Then : std::uint8_t { kReturn, kExecute, kExit, kDeliver };

  SignalContext& context;
  Call call;
  std::uintptr_t frame = 0;  // of the handler, on the program's stack
  SlotIndex slot = 0;        // whose stack it is served on
  Then then = Then::kReturn;
  std::size_t arguments = 0;  // kExecute: how many there are
  int descriptor = -1;        // kExecute: of a program that has no path
  bool in_folder = false;     // kExecute: a script by its folder's descriptor, or by its own
  bool is_loader = false;     // kExecute: as it is
};

}  // namespace exclave::loader
