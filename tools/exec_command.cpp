#include "tools/exec_command.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "loader/layout.hpp"
#include "loader/options.hpp"
#include "tools/file_place.hpp"

namespace exclave::tools {
namespace {

constexpr int kFault = 1, kUsage = 2, kNotExecutable = 126, kNotFound = 127;
// High, where programs' descriptors seldom are.
constexpr int kOutputDescriptor = 500;

int fail(int code, const std::string& what, const std::string& why) {
  (void)std::fprintf(stderr, "exclave: exec: %s: %s\n", what.c_str(), why.c_str());
  return code;
}

bool is_executable_file(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
         ::access(path.c_str(), X_OK) == 0;
}

// As a shell looks for it. Empty: nowhere; *refused: something of that name may not be run.
std::string find_program(const std::string& name, bool* refused) {
  *refused = false;
  if (name.empty() || name.find('/') != std::string::npos) return name;
  const char* const variable = std::getenv("PATH");
  std::string_view rest = variable != nullptr ? variable : "/usr/local/bin:/usr/bin:/bin";
  for (;;) {
    const std::size_t end = rest.find(':');
    const std::string_view folder = rest.substr(0, end);
    std::string path(folder.empty() ? std::string_view(".") : folder);
    path += '/';
    path += name;
    if (is_executable_file(path)) return path;
    if (::access(path.c_str(), F_OK) == 0) *refused = true;
    if (end == std::string_view::npos) return {};
    rest = rest.substr(end + 1);
  }
}

// Beside this program, as it is built, or where `make install` puts it.
std::string find_loader() {
  std::string own(4096, '\0');
  const ssize_t length = ::readlink("/proc/self/exe", own.data(), own.size());
  if (length <= 0) return {};
  own.resize(static_cast<std::size_t>(length));
  const std::string folder = own.substr(0, own.rfind('/') + 1);
  for (const char* place : {"exclave-loader", "../libexec/exclave/exclave-loader"}) {
    if (is_executable_file(folder + place)) return folder + place;
  }
  return {};
}

bool trace_has_file(const ExecOptions& options) {
  return !options.trace.empty() && options.trace != "-";
}

// Which file of this run the trace would be written over. Empty: none.
std::string traced_over(const ExecOptions& options, const std::string& program,
                        const std::string& own_loader) {
  if (!trace_has_file(options)) return {};
  const std::optional<FilePlace> trace = place_of(options.trace);
  std::vector<std::string> files{program, own_loader};
  files.insert(files.end(), options.allowed.begin(), options.allowed.end());
  for (const std::string& file : files) {
    if (trace && trace == place_of(file)) return file;
  }
  return {};
}

// Where trace and summary go: a descriptor that the program does not know of, and what it is open
// on, so that the loader can tell when it is not ours any more.
bool open_output(const ExecOptions& options, loader::Options* told) {
  const bool to_file = trace_has_file(options);
  int opened = 2;
  if (to_file) {
    opened = ::open(options.trace.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0666);
    if (opened < 0) return false;
  } else if (::fcntl(opened, F_GETFD) < 0) {
    // Nobody listens, and what the program opens under that number is its own.
    told->trace = told->stats = false;
    return true;
  }
  int high = ::fcntl(opened, F_DUPFD, kOutputDescriptor);
  if (high < 0) high = ::fcntl(opened, F_DUPFD, 10);
  if (to_file) ::close(opened);
  struct stat status {};
  if (high < 0 || ::fstat(high, &status) != 0) return true;  // then standard error it is
  told->output = high;
  told->output_device = status.st_dev;
  told->output_inode = status.st_ino;
  return true;
}

// What write_options writes to.
struct StringSink {
  std::string bytes;
  void text(std::string_view more) { bytes += more; }
  void put(char c) { bytes += c; }
  void unsigned_decimal(std::uint64_t value) { bytes += std::to_string(value); }
};

}  // namespace

int run_exec(const ExecOptions& options) {
  loader::Options told;
  if (options.range_bytes.has_value()) {
    told.range_bytes = *options.range_bytes;
    if (!std::has_single_bit(told.range_bytes) || told.range_bytes < loader::kRangeLeast ||
        told.range_bytes > loader::kRangeMost) {
      return fail(kUsage, "--elrange", "a power of two from 256M to 16T");
    }
  }
  std::string allowed;
  for (const std::string& path : options.allowed) {
    if (path.empty() || path.find(loader::kFieldEnd) != std::string::npos) {
      return fail(kUsage, "--allow-device", "not a path");
    }
    allowed += path + loader::kFieldEnd;
  }
  if (allowed.size() > loader::kMaxAllowedBytes) {
    return fail(kUsage, "--allow-device", "more paths than the loader takes");
  }
  bool refused = false;
  const std::string program = find_program(options.program.front(), &refused);
  if (program.empty()) {
    return refused ? fail(kNotExecutable, options.program.front(), "not executable")
                   : fail(kNotFound, options.program.front(), "not found");
  }
  const std::string own_loader = find_loader();
  if (own_loader.empty())
    return fail(kFault, "exclave-loader", "not beside exclave, nor installed");
  if (const std::string shared = traced_over(options, program, own_loader); !shared.empty()) {
    return fail(kUsage, "--trace", "would overwrite " + shared);
  }
  told.trace = !options.trace.empty();
  told.stats = options.stats;
  if ((told.trace || told.stats) && !open_output(options, &told)) {
    return fail(kFault, options.trace, "cannot be written");
  }

  StringSink text;
  loader::write_options(told, text);
  std::vector<std::string> words{"exclave-loader", text.bytes, allowed, program};
  words.insert(words.end(), options.program.begin(), options.program.end());
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  ::execv(own_loader.c_str(), pointers.data());
  return fail(kFault, own_loader, errno == E2BIG ? "arguments are too long" : "cannot be run");
}

}  // namespace exclave::tools
