// SIGSYS belongs to the loader, and a thread that blocked it would be killed at its next memory
// call. So the program has a virtual one: its action is remembered and carried out here, its bit in
// a thread's mask is kept beside the kernel's mask, which never has it.
#pragma once

#include "loader/stopped_call.hpp"

namespace exclave::loader {

// At the start: what the program before execve left.
void inherit_signals(bool ignored, bool blocked) noexcept;
bool sigsys_is_ignored() noexcept;
bool sigsys_is_blocked() noexcept;  // by this thread

long change_action(const Call& call) noexcept;
void change_mask(StoppedCall& stop) noexcept;
// ppoll and its like: the program makes the call again, with a mask of the loader's in place of its
// own.
void wait_with_mask(StoppedCall& stop) noexcept;

// A SIGSYS that is the program's: sent to it, or by a filter of its own.
void receive_sigsys(const SignalInfo& info, SignalContext& context) noexcept;
// One that came while it was blocked.
void deliver_pending(SignalContext& context) noexcept;

void signals_before_fork() noexcept;
void signals_after_fork() noexcept;
// In the child: its one thread has another number. blocked: did it have SIGSYS blocked?
void forget_other_threads(bool blocked) noexcept;

}  // namespace exclave::loader
