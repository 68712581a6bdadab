// Why a program gets no place: it asked for more than the enclave's range has, or for a place
// beyond it. Said once, when it happens: such programs often end by a signal, or ask for ever.
#pragma once

#include "loader/calls.hpp"

namespace exclave::loader {

// Of an mmap or mremap that was answered with ENOMEM. Says nothing where Linux would have refused
// it, too, or where the reason is another one.
void tell_shortage(const Call& call) noexcept;

}  // namespace exclave::loader
