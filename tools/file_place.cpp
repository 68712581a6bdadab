#include "tools/file_place.hpp"

#include <sys/stat.h>

#include <filesystem>

#include "tools/failure.hpp"

namespace exclave::tools {
namespace {

constexpr int kMostLinks = 40;  // as many as Linux follows

FileId id_of(const struct stat& status) {
  return {status.st_dev, status.st_ino};
}

// Where a new file of that name would come to be.
std::optional<FilePlace> place_of_new(std::filesystem::path path) {
  struct stat status {};
  for (int links = 0; ::lstat(path.c_str(), &status) == 0; ++links) {
    // It exists after all by now, or its links lead in a circle.
    if (!S_ISLNK(status.st_mode) || links == kMostLinks) {
      return std::nullopt;
    }
    std::error_code error;
    const std::filesystem::path target = std::filesystem::read_symlink(path, error);
    path = path.parent_path() / target;  // an absolute target stands alone
  }
  const std::string name = path.filename();
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  if (name.empty() || ::stat(folder.c_str(), &status) != 0) {
    return std::nullopt;
  }
  return FilePlace{id_of(status), name};
}

}  // namespace

std::optional<FileId> file_id(int descriptor) {
  struct stat status {};
  return ::fstat(descriptor, &status) == 0 ? std::optional(id_of(status)) : std::nullopt;
}

std::optional<FilePlace> place_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) {
    return FilePlace{id_of(status), {}};
  }
  return place_of_new(path);
}

std::optional<FilePlace> place_of(int descriptor) {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    return std::nullopt;
  }
  return FilePlace{id_of(status), {}};
}

void refuse_same_files(const std::vector<RunFile>& written, const std::vector<RunFile>& read) {
  const auto compare = [](const RunFile& a, const RunFile& b) {
    if (a.place && a.place == b.place) {
      throw Failure(ExitCode::kUsage,
                    a.path + ": " + a.role + " and " + b.role + " are the same file");
    }
  };
  for (std::size_t i = 0; i < written.size(); ++i) {
    for (std::size_t j = i + 1; j < written.size(); ++j) {
      compare(written[i], written[j]);
    }
    for (const RunFile& other : read) {
      compare(written[i], other);
    }
  }
}

}  // namespace exclave::tools
