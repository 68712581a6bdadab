// Memory calls that do not look like one: they change the program's pages by another number, or
// by a request in a ring, where no filter sees them.
#pragma once

#include "loader/calls.hpp"

namespace exclave::loader {

// process_madvise. Of this process: the madvise calls that it stands for, each of them served and
// traced. Of another one: only advice that loses nothing reaches the kernel.
long advise_process(const Call& call) noexcept;
// Is it advice that takes pages away? Then it may be those that the program's registers lie on.
bool takes_pages(int advice) noexcept;

// io_uring_setup, io_uring_register. No ring takes IORING_OP_MADVISE: it is EACCES there, by a
// restriction that the kernel enforces, and a probe tells that there is none. All else passes.
long set_up_ring(const Call& call) noexcept;
long register_in_ring(const Call& call) noexcept;

}  // namespace exclave::loader
