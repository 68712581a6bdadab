// How the command line fails: one clear line on stderr and an exit code.
//
// The library answers with results; the command turns what ends a run into a Failure, throws it,
// and lets destructors give everything back. main() prints the line. Nothing else in tools/ prints
// an error.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace exclave::tools {

// Documented in `exclave --help`.
enum class ExitCode : int {
  kOk = 0,
  kInternal = 1,  // a fault of ours
  kUsage = 2,     // the command line makes no sense
  kInput = 3,     // INPUT is missing, unreadable, empty, too large, changed while read
  kOutput = 4,    // OUTPUT or the report cannot be written, or stands already
  kTampered =
      5,      // what came back from outside is not what went out, or INPUT is no intact sealed file
  kKey = 6,   // the key file is missing, malformed, readable by others, or not the right one
  kHost = 7,  // the host refuses or does not answer
};

class Failure : public std::exception {
 public:
  Failure(ExitCode code, std::string line) : code_(code), line_(std::move(line)) {}

  ExitCode code() const noexcept { return code_; }
  const char* what() const noexcept override { return line_.c_str(); }

 private:
  ExitCode code_;
  std::string line_;
};

// "Permission denied" and the like, for an errno.
std::string errno_text(int error);

}  // namespace exclave::tools
