// Is a call made in a signal handler? By what the kernel leaves on the stack under a handler.
#pragma once

namespace exclave::process_malloc {

// True as well where that cannot be told. False for certain only on the stack that the handler was
// called on: one that switches to another stack, and allocates there, is not seen.
[[gnu::cold, gnu::noinline]] bool may_be_in_handler() noexcept;

}  // namespace exclave::process_malloc
