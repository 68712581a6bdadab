// A file that gets its name only when it is complete. Until then it stands in the same folder under
// a name of its own, mode 0600, and goes on any error and on SIGINT, SIGTERM and SIGHUP.
#pragma once

#include <array>
#include <string>

#include "tools/unique_fd.hpp"

namespace exclave::tools {

class TemporaryOutput {
 public:
  // replace: a regular file under the final name may be replaced. Throws Failure(kOutput): the name
  // stands already (or stands for something else than a file), or the folder does not let us write.
  TemporaryOutput(std::string path, bool replace);
  // Removes the file unless it was committed.
  ~TemporaryOutput();
  TemporaryOutput(const TemporaryOutput&) = delete;
  TemporaryOutput& operator=(const TemporaryOutput&) = delete;

  const std::string& path() const noexcept { return path_; }
  int descriptor() const noexcept { return file_.get(); }
  // Brings it to disk and gives it its name in one step; without replace, never over another file.
  // Throws Failure(kOutput), and then the file is removed.
  void commit();

 private:
  [[noreturn]] void fail(int error) const;
  std::string path_;
  std::string name_;  // the final one, in its folder
  std::array<char, 40> temporary_{};
  bool replace_;
  UniqueFd folder_;
  UniqueFd file_;
  int watched_ = -1;  // where the signal handler finds it; -1: it does not
};

// From here on SIGINT, SIGTERM and SIGHUP remove what is not committed, then end the program as
// they would.
void remove_temporaries_on_signals();

// Do both names stand for the same file? False when one of them stands for none.
bool same_file(const std::string& a, const std::string& b);

}  // namespace exclave::tools
