// Counts for --stats, and the summary at the end of a process.
#pragma once

#include "loader/calls.hpp"

namespace exclave::loader {

void count_call(Route route) noexcept;
void forget_counts() noexcept;  // in the child of a fork
// One line to the loader's output.
void print_stats() noexcept;

// The descriptor that trace and stats go to: the one that options name, if it still is what it was.
int output_descriptor() noexcept;

}  // namespace exclave::loader
