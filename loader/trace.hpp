// --trace: a line for each memory call, as strace has it, and where it went.
#pragma once

#include "loader/calls.hpp"

namespace exclave::loader {

void trace_call(const Call& call, long result, Route route) noexcept;

}  // namespace exclave::loader
