// Other processes: the child that a fork makes, and the program that execve puts in this one's
// place.
#pragma once

#include "loader/stopped_call.hpp"

namespace exclave::loader {

// fork, and clone without CLONE_VM. (A child that shares the memory shares the books and the
// handler, too: such calls are not stopped.)
void make_child(StoppedCall& stop) noexcept;
// clone3, whose flags the filter cannot see. As before Linux 5.5: no CLONE_CLEAR_SIGHAND, which
// would take the handler from a child.
void make_described_child(StoppedCall& stop) noexcept;

// execve and execveat. First everything that needs a slot, then, without one, the call: of the
// loader, which is told what to load.
void prepare_execute(StoppedCall& stop) noexcept;
void execute(StoppedCall& stop) noexcept;

// exit_group: the summary of --stats.
void prepare_exit(StoppedCall& stop) noexcept;

// seccomp and prctl: a filter of the program's own, or strict mode. There is no syscall user
// dispatch, nor may a process be forbidden to make memory executable (PR_SET_MDWE): code is copied
// in, and made executable then.
long set_filter(const Call& call) noexcept;

// ptrace. A program inside may trace none inside, whose stops it would take for the program's own:
// EPERM, and a line that says so.
long trace_process(const Call& call) noexcept;

// readlink and readlinkat: /proc/self/exe is the program, not the loader.
long read_link(const Call& call) noexcept;

}  // namespace exclave::loader
