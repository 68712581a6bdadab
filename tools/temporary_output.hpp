// A file that gets its name only when it is complete.
//
// Until then it has no name at all (O_TMPFILE), so nothing is left of it however the program ends,
// kill -9 and a power cut included. A file that replaces another one has a temporary name,
// .exclave-….partial, between the two system calls that link it and rename it: it is complete by
// then. File systems that know no files without a name (NFS, FAT), and systems without /proc, get
// it under the temporary name from the start; there it goes on any error and on every signal that
// can be caught, and only kill -9 or a power cut leaves it behind. Mode 0600 in every case.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "tools/file_place.hpp"
#include "tools/unique_fd.hpp"

namespace exclave::tools {

class TemporaryOutput {
 public:
  enum class Existing { kStays, kIsReplaced };

  // existing: what becomes of a regular file under the final name. hint: what to say after "exists
  // already". Throws Failure(kOutput): the name stands already (or stands for something else than a
  // file), or the folder does not let us write.
  TemporaryOutput(std::string path, Existing existing, std::string hint = "; --force replaces it");
  // Removes the file unless it was committed.
  ~TemporaryOutput();
  TemporaryOutput(const TemporaryOutput&) = delete;
  TemporaryOutput& operator=(const TemporaryOutput&) = delete;

  const std::string& path() const noexcept { return path_; }
  int descriptor() const noexcept { return file_.get(); }
  // Brings the file to disk and gives it its name in one step: never over another file with kStays,
  // never over one of `in_use`. Throws Failure(kOutput), and then the file is removed, unless only
  // its name may not outlive a power cut.
  void commit(const std::vector<FileId>& in_use = {});

 private:
  [[noreturn]] void fail(int error) const;
  void make_named();
  void link_as(const char* name);
  void replace(const std::vector<FileId>& in_use);
  void remove_temporary() noexcept;

  std::string path_;
  std::string hint_;
  std::string name_;  // the final one, in its folder
  std::array<char, 40> temporary_{};
  Existing existing_;
  UniqueFd folder_;
  UniqueFd file_;
  bool named_ = false;  // stands under the temporary name
  int watched_ = -1;    // where the signal handler finds that name; -1: it does not
};

// Brings a folder's names to disk. False, and errno: it may not be so. A file system that knows no
// sync of folders (EINVAL) is taken at its word.
bool sync_folder(int folder) noexcept;

// From here on every signal that would end the program and can be caught removes what stands under
// a temporary name first. What is ignored (nohup), or
// handled by someone else (a sanitizer), stays so.
void remove_temporaries_on_signals();

}  // namespace exclave::tools
