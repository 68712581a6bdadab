#include <signal.h>
#include <sys/resource.h>

#include "tools/command_line.hpp"
#include "tools/temporary_output.hpp"

int main(int argc, char** argv) {
  // No core file: it would hold keys and plaintext.
  const rlimit none{0, 0};
  (void)::setrlimit(RLIMIT_CORE, &none);
  // Too large a file and a closed pipe are errors to report, not reasons to die without a word.
  (void)::signal(SIGXFSZ, SIG_IGN);
  (void)::signal(SIGPIPE, SIG_IGN);
  exclave::tools::remove_temporaries_on_signals();
  return exclave::tools::run_command_line(argc, argv);
}
