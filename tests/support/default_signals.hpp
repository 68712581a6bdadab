// Signals for a program that a test starts, as a terminal's shell gives them: none is blocked, none
// is ignored. What started the tests may be a job in the background, which ignores SIGQUIT.
#pragma once

#include <signal.h>

namespace exclave::testing_support {

// Between fork and exec.
inline void take_default_signals() {
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

}  // namespace exclave::testing_support
