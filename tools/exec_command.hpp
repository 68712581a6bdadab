// `exclave exec`: finds the program and the loader, and becomes the loader.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace exclave::tools {

struct ExecOptions {
  std::optional<std::uint64_t> range_bytes;  // none: the largest that there is room for
  std::vector<std::string> allowed;
  std::string trace;  // empty: none; "-": standard error; else a file
  bool stats = false;
  std::vector<std::string> program;  // and its arguments
};

// Does not come back if all is well. Prints one line and answers the exit code that a shell would
// give: 127 (not found), 126 (not executable); 2 for what makes no sense, 1 for a fault of ours.
int run_exec(const ExecOptions& options);

}  // namespace exclave::tools
