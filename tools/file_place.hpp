// Which file a name leads to, so that a run never writes over a file that it reads, nor over
// another one that it writes: two names of one file are told by device and inode, and two names of
// a file that does not exist yet by their folder and last part.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace exclave::tools {

struct FileId {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const FileId&) const = default;
};

// The file behind an open descriptor. None: it is not open.
std::optional<FileId> file_id(int descriptor);

struct FilePlace {
  FileId id;         // the file; of one that does not exist yet, its folder
  std::string name;  // empty: the file exists
  bool operator==(const FilePlace&) const = default;
};

// Follows symbolic links, also to a file that does not exist yet. None: the name leads nowhere, and
// whoever opens it hears why.
std::optional<FilePlace> place_of(const std::string& path);
// A regular file only: terminals, pipes and devices may be shared. None: it is none.
std::optional<FilePlace> place_of(int descriptor);

// A file of one run, and its role in the run for error messages: "INPUT".
struct RunFile {
  std::string role;
  std::string path;
  std::optional<FilePlace> place;
};

// Throws Failure(kUsage) when one of `written` is the same file as another of them, or as one of
// `read`. Nothing has been opened for writing then.
void refuse_same_files(const std::vector<RunFile>& written, const std::vector<RunFile>& read);

}  // namespace exclave::tools
