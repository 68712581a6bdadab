#include "tools/enclave_trusted_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "tools/failure.hpp"

namespace exclave::tools {

TrustedInput::TrustedInput(const std::string& path, std::uint64_t most_bytes)
    // O_NONBLOCK: opening a pipe must not wait for a writer.
    : file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)), path_(path) {
  const auto fail = [&path](const std::string& what) {
    throw Failure(ExitCode::kInput, path + ": " + what);
  };
  if (!file_) {
    fail(errno_text(errno));
  }
  struct stat status {};
  if (::fstat(file_.get(), &status) != 0) {
    fail(errno_text(errno));
  }
  if (S_ISDIR(status.st_mode)) {
    fail("is a directory");
  }
  if (!S_ISREG(status.st_mode)) {
    fail("is not a regular file");
  }
  if (status.st_size == 0) {
    fail("is empty: there is nothing to seal");
  }
  size_bytes_ = static_cast<std::uint64_t>(status.st_size);
  if (size_bytes_ > most_bytes) {
    fail("is too large: a sealed file holds at most " + std::to_string(most_bytes >> 40) + " TiB");
  }
  // Only a hint.
  (void)::posix_fadvise(file_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
}

std::size_t TrustedInput::read_some(std::span<std::uint8_t> out) {
  for (;;) {
    const ssize_t got = ::read(file_.get(), out.data(), out.size());
    if (got >= 0) {
      return static_cast<std::size_t>(got);
    }
    if (errno != EINTR) {
      throw Failure(ExitCode::kInput, path_ + ": " + errno_text(errno));
    }
  }
}

void TrustedInput::read(std::span<std::uint8_t> out) {
  while (!out.empty()) {
    const std::size_t got = read_some(out);
    if (got == 0) {
      throw Failure(ExitCode::kInput, path_ + ": became shorter while it was read");
    }
    out = out.subspan(got);
  }
}

void TrustedInput::expect_end() {
  std::uint8_t more = 0;
  if (read_some({&more, 1}) != 0) {
    throw Failure(ExitCode::kInput, path_ + ": became longer while it was read");
  }
}

void write_trusted(int descriptor, const std::string& path, std::span<const std::uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      throw Failure(ExitCode::kOutput, path + ": " + errno_text(written < 0 ? errno : ENOSPC));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

}  // namespace exclave::tools
