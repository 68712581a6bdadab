// `exclave`: the command line as its users see it.
#pragma once

namespace exclave::tools {

// Parses, runs, prints at most one line on stderr; the process's exit code.
int run_command_line(int argc, char** argv);

}  // namespace exclave::tools
