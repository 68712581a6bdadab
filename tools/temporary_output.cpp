#include "tools/temporary_output.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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

// How an open file is named for linkat.
std::string descriptor_path(int descriptor) {
  return "/proc/self/fd/" + std::to_string(descriptor);
}

}  // namespace

TemporaryOutput::TemporaryOutput(std::string path, Existing existing, std::string hint)
    : path_(std::move(path)), hint_(std::move(hint)), existing_(existing) {
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
    if (existing_ == Existing::kStays) {
      throw Failure(ExitCode::kOutput, path_ + ": exists already" + hint_);
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
  file_ = UniqueFd(::openat(folder_.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file_ || ::access(descriptor_path(file_.get()).c_str(), F_OK) != 0) {
    make_named();
  }
}

TemporaryOutput::~TemporaryOutput() {
  if (file_) {
    remove_temporary();
  }
}

void TemporaryOutput::make_named() {
  // Watched first: a signal in between finds nothing to remove, which is no harm.
  watched_ = watch(folder_.get(), temporary_);
  file_ = UniqueFd(
      ::openat(folder_.get(), temporary_.data(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file_) {
    const int error = errno;
    unwatch(watched_);
    fail(error);
  }
  named_ = true;
}

void TemporaryOutput::remove_temporary() noexcept {
  if (named_) {
    (void)::unlinkat(folder_.get(), temporary_.data(), 0);
    named_ = false;
  }
  unwatch(watched_);
  watched_ = -1;
}

// Gives the file that name, never over another file.
void TemporaryOutput::link_as(const char* name) {
  const int folder = folder_.get();
  int answer = 0;
  if (!named_) {
    answer =
        ::linkat(AT_FDCWD, descriptor_path(file_.get()).c_str(), folder, name, AT_SYMLINK_FOLLOW);
  } else {
    // FAT knows no second names, NFS no RENAME_NOREPLACE.
    answer = ::renameat2(folder, temporary_.data(), folder, name, RENAME_NOREPLACE);
    if (answer != 0 && (errno == EINVAL || errno == ENOSYS)) {
      answer = ::linkat(folder, temporary_.data(), folder, name, 0);
    }
  }
  if (answer != 0) {
    if (errno == EEXIST) {
      throw Failure(ExitCode::kOutput, path_ + ": was made by someone else meanwhile" + hint_);
    }
    fail(errno);
  }
}

void TemporaryOutput::replace(const std::vector<FileId>& in_use) {
  const int folder = folder_.get();
  struct stat status {};
  if (::fstatat(folder, name_.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
      std::count(in_use.begin(), in_use.end(), FileId{status.st_dev, status.st_ino}) != 0) {
    throw Failure(ExitCode::kOutput, path_ + ": has become another file of this run");
  }
  if (!named_) {
    watched_ = watch(folder, temporary_);
    link_as(temporary_.data());
    named_ = true;
  }
  if (::renameat(folder, temporary_.data(), folder, name_.c_str()) != 0) {
    fail(errno);
  }
  named_ = false;
}

void TemporaryOutput::commit(const std::vector<FileId>& in_use) {
  if (::fsync(file_.get()) != 0) {
    fail(errno);
  }
  if (existing_ == Existing::kIsReplaced) {
    replace(in_use);
  } else {
    link_as(name_.c_str());
  }
  remove_temporary();
  file_.reset();
  if (!sync_folder(folder_.get())) {
    throw Failure(ExitCode::kOutput,
                  path_ + ": is complete, but may not outlive a power cut: " + errno_text(errno));
  }
}

void TemporaryOutput::fail(int error) const {
  throw Failure(ExitCode::kOutput, path_ + ": " + errno_text(error));
}

bool sync_folder(int folder) noexcept {
  return ::fsync(folder) == 0 || errno == EINVAL;
}

void remove_temporaries_on_signals() {
  struct sigaction action {};
  action.sa_handler = remove_watched;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (int signal_number = 1; signal_number < NSIG; ++signal_number) {
    struct sigaction before {};
    // The kernel's default for these is to do nothing, to stop, or to go on.
    const bool harmless = signal_number == SIGCHLD || signal_number == SIGURG ||
                          signal_number == SIGWINCH || signal_number == SIGCONT ||
                          signal_number == SIGTSTP || signal_number == SIGTTIN ||
                          signal_number == SIGTTOU;
    // SIGKILL and SIGSTOP cannot be caught, and the C library keeps two for itself: refused.
    if (!harmless && ::sigaction(signal_number, nullptr, &before) == 0 &&
        before.sa_handler == SIG_DFL) {
      (void)::sigaction(signal_number, &action, nullptr);
    }
  }
}

}  // namespace exclave::tools
