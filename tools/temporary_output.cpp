#include "tools/temporary_output.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>

#include "tools/failure.hpp"

namespace exclave::tools {
namespace {

// What the signal handler may touch: no destructor, no lock, no allocation.
struct Watched {
  std::atomic<bool> armed{false};  // release publishes the other two to the handler's acquire load
  int folder = -1;
  std::array<char, 40> name{};
};
std::array<Watched, 4> watched_files;

extern "C" void remove_watched(int signal_number) {
  for (Watched& watched : watched_files) {
    if (watched.armed.load(std::memory_order_acquire)) {
      (void)::unlinkat(watched.folder, watched.name.data(), 0);
    }
  }
  // The handler was reset on entry: this one ends the program, with the status that its parent
  // expects.
  (void)::raise(signal_number);
}

int watch(int folder, const std::array<char, 40>& name) noexcept {
  for (std::size_t index = 0; index < watched_files.size(); ++index) {
    Watched& watched = watched_files[index];
    if (!watched.armed.load(std::memory_order_relaxed)) {
      watched.folder = folder;
      watched.name = name;
      watched.armed.store(true, std::memory_order_release);
      return static_cast<int>(index);
    }
  }
  return -1;
}

void unwatch(int index) noexcept {
  if (index >= 0) {
    watched_files[static_cast<std::size_t>(index)].armed.store(false, std::memory_order_release);
  }
}

}  // namespace

TemporaryOutput::TemporaryOutput(std::string path, bool replace)
    : path_(std::move(path)), replace_(replace) {
  const std::filesystem::path whole(path_);
  name_ = whole.filename();
  if (name_.empty() || name_ == "." || name_ == "..") {
    throw Failure(ExitCode::kOutput, path_ + ": is not the name of a file");
  }
  const std::string folder = whole.has_parent_path() ? whole.parent_path().string() : ".";
  folder_ = UniqueFd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder_) {
    fail(errno);
  }
  struct stat status {};
  if (::fstatat(folder_.get(), name_.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) {
    if (S_ISDIR(status.st_mode)) {
      throw Failure(ExitCode::kOutput, path_ + ": is a directory");
    }
    if (!S_ISREG(status.st_mode)) {
      throw Failure(ExitCode::kOutput, path_ + ": is not a regular file");
    }
    if (!replace_) {
      throw Failure(ExitCode::kOutput, path_ + ": exists already; --force replaces it");
    }
  } else if (errno != ENOENT) {
    fail(errno);
  }
  std::uint64_t random = 0;
  if (::getrandom(&random, sizeof random, 0) != sizeof random) {
    fail(errno);
  }
  (void)std::snprintf(temporary_.data(), temporary_.size(), ".exclave-%016llx.partial",
                      static_cast<unsigned long long>(random));
  // Watched first: a signal in between finds nothing to remove, which is no harm.
  watched_ = watch(folder_.get(), temporary_);
  file_ = UniqueFd(
      ::openat(folder_.get(), temporary_.data(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file_) {
    const int error = errno;
    unwatch(watched_);
    fail(error);
  }
}

TemporaryOutput::~TemporaryOutput() {
  if (file_) {
    ::unlinkat(folder_.get(), temporary_.data(), 0);
    unwatch(watched_);
  }
}

void TemporaryOutput::commit() {
  if (::fsync(file_.get()) != 0) {
    fail(errno);
  }
  const int folder = folder_.get();
  int answer = ::renameat2(folder, temporary_.data(), folder, name_.c_str(),
                           replace_ ? 0 : RENAME_NOREPLACE);
  if (answer != 0 && !replace_ && (errno == EINVAL || errno == ENOSYS)) {
    // A file system without RENAME_NOREPLACE: a second name never replaces either.
    answer = ::linkat(folder, temporary_.data(), folder, name_.c_str(), 0);
    if (answer == 0) {
      ::unlinkat(folder, temporary_.data(), 0);
    }
  }
  if (answer != 0) {
    if (errno == EEXIST) {
      throw Failure(ExitCode::kOutput,
                    path_ + ": was made by someone else meanwhile; --force replaces it");
    }
    fail(errno);
  }
  unwatch(watched_);
  file_.reset();
  // So that the name, too, outlives a power cut. The file itself is complete whatever this answers.
  (void)::fsync(folder);
}

void TemporaryOutput::fail(int error) const {
  throw Failure(ExitCode::kOutput, path_ + ": " + errno_text(error));
}

void remove_temporaries_on_signals() {
  struct sigaction action {};
  action.sa_handler = remove_watched;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal_number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before {};
    // What the parent told us to ignore (nohup) stays ignored.
    if (::sigaction(signal_number, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) {
      ::sigaction(signal_number, &action, nullptr);
    }
  }
}

bool same_file(const std::string& a, const std::string& b) {
  struct stat first {};
  struct stat second {};
  return ::stat(a.c_str(), &first) == 0 && ::stat(b.c_str(), &second) == 0 &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

}  // namespace exclave::tools
