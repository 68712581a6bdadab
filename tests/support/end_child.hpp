// The end of a forked child: at once and without the parent's handlers, as _exit, but in a coverage
// build what the child executed counts.
#pragma once

#include <unistd.h>

#if defined(EXCLAVE_COVERAGE)
extern "C" void __gcov_dump();
#endif

namespace exclave::testing_support {

[[noreturn]] inline void end_child(int code) {
#if defined(EXCLAVE_COVERAGE)
  __gcov_dump();
#endif
  _exit(code);
}

}  // namespace exclave::testing_support
