// The system call filter: stops the program at the calls that the loader serves, unless they come
// from the loader's own image. Everything else passes; the kernel remembers which calls always do,
// and does not even run the filter for them.
#pragma once

namespace exclave::loader {

// In the SIGSYS of a stopped call, as si_errno: other filters' stops are the program's own matter.
inline constexpr int kFilterMark = 0x0ec1;
// The same, of a call that strict mode forbids.
inline constexpr int kStrictMark = 0x0ec2;

// Is the filter of this loader, or of one before it, in force? execve hands it down.
bool filter_is_installed() noexcept;
// 0 or a negative errno. SIGSYS must be handled from here on.
long install_filter() noexcept;
// SECCOMP_MODE_STRICT, which the kernel does not give to a thread that has a filter: only read,
// write, exit and rt_sigreturn pass, the loader's own calls excepted. 0 or a negative errno.
long install_strict_filter() noexcept;

}  // namespace exclave::loader
