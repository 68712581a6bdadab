#include "tools/enclave_key_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "tools/enclave_trusted_file.hpp"
#include "tools/failure.hpp"
#include "tools/temporary_output.hpp"
#include "tools/unique_fd.hpp"

namespace exclave::tools {
namespace {

constexpr std::size_t kHexDigits = 2 * kKeyBytes;
constexpr char kDigits[] = "0123456789abcdef";

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Failure(ExitCode::kKey, "key file " + path + ": " + what);
}

int digit_value(std::uint8_t digit) noexcept {
  if (digit >= '0' && digit <= '9') {
    return digit - '0';
  }
  const int lower = digit | 0x20;
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Reads until the end or until out is full; the length read.
std::size_t read_all(int descriptor, const std::string& path, std::span<std::uint8_t> out) {
  std::size_t have = 0;
  while (have < out.size()) {
    const ssize_t got = ::read(descriptor, out.data() + have, out.size() - have);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      fail(path, errno_text(errno));
    }
    if (got == 0) {
      break;
    }
    have += static_cast<std::size_t>(got);
  }
  return have;
}

// The folders that the path needs, each brought to disk by a sync of the one above it.
void make_folders(const std::string& path) {
  std::vector<std::filesystem::path> missing;
  std::error_code error;
  for (std::filesystem::path folder = std::filesystem::path(path).parent_path();
       !folder.empty() && !std::filesystem::exists(folder, error); folder = folder.parent_path()) {
    missing.push_back(folder);
  }
  for (auto folder = missing.rbegin(); folder != missing.rend(); ++folder) {
    std::filesystem::create_directory(*folder, error);
    if (error) {
      fail(path, error.message());
    }
    const std::filesystem::path above = folder->has_parent_path() ? folder->parent_path() : ".";
    if (!sync_folder(UniqueFd(::open(above.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)).get())) {
      fail(path, errno_text(errno));
    }
  }
}

}  // namespace

std::string default_key_file() {
  const char* config = std::getenv("XDG_CONFIG_HOME");
  if (config != nullptr && *config != '\0') {
    return std::string(config) + "/exclave/key";
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') {
    throw Failure(ExitCode::kKey, "no home folder to keep a key in: give --key-file");
  }
  return std::string(home) + "/.config/exclave/key";
}

Key load_key(const std::string& path, FileId* file_is) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    fail(path, errno == ENOENT ? "there is none; `exclave keygen` makes one" : errno_text(errno));
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) {
    fail(path, errno_text(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    fail(path, "not a regular file");
  }
  if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    fail(path, "others than its owner may use it; chmod 600 it, or make a new key");
  }
  if (status.st_uid != ::geteuid()) {
    fail(path, "it belongs to another user");
  }
  *file_is = {status.st_dev, status.st_ino};
  SecretBytes<kHexDigits + 3> text;  // one more than the longest that is good
  std::size_t length = read_all(file.get(), path, {text.data(), text.size()});
  Key key;
  if (length == kKeyBytes) {
    std::copy(text.data(), text.data() + kKeyBytes, key.data());
    return key;
  }
  // A full buffer: there may be more.
  while (length > kHexDigits && length < SecretBytes<kHexDigits + 3>::size() &&
         (text.data()[length - 1] == '\n' || text.data()[length - 1] == '\r')) {
    --length;
  }
  if (length != kHexDigits) {
    fail(path, "a key is 32 bytes, or 64 hex digits");
  }
  for (std::size_t i = 0; i < kKeyBytes; ++i) {
    const int high = digit_value(text.data()[2 * i]);
    const int low = digit_value(text.data()[2 * i + 1]);
    if (high < 0 || low < 0) {
      fail(path, "a key is 32 bytes, or 64 hex digits");
    }
    key.data()[i] = static_cast<std::uint8_t>(high << 4 | low);
  }
  return key;
}

void create_key(const std::string& path) {
  make_folders(path);
  Key key;
  random_bytes({key.data(), key.size()});
  SecretBytes<kHexDigits + 1> text;
  for (std::size_t i = 0; i < kKeyBytes; ++i) {
    text.data()[2 * i] = static_cast<std::uint8_t>(kDigits[key.data()[i] >> 4]);
    text.data()[2 * i + 1] = static_cast<std::uint8_t>(kDigits[key.data()[i] & 15]);
  }
  text.data()[kHexDigits] = '\n';
  try {
    TemporaryOutput file(path, TemporaryOutput::Existing::kStays, "; it stays as it is");
    write_trusted(file.descriptor(), path, {text.data(), text.size()});
    file.commit();
  } catch (const Failure& failure) {
    throw Failure(ExitCode::kKey, std::string("key file ") + failure.what());
  }
}

}  // namespace exclave::tools
