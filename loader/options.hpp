// What `exclave exec` tells the loader, and each loader the next one across execve: one argument,
// in a form that both sides write with the same code. The program sees nothing of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace exclave::loader {

// Argument vector of the loader: name, options, allowed paths, path of the program, then the
// program's own.
inline constexpr std::size_t kArgumentsBeforeProgram = 4;
inline constexpr std::size_t kMaxAllowedBytes = 8192;
// Ends each field and each path; no path may hold it.
inline constexpr char kFieldEnd = '\x1f';

struct Options {
  std::uint64_t range_bytes = 0;  // 0: the largest that there is room for
  bool trace = false;
  bool stats = false;
  // Where trace and stats go. File descriptor, and what it was open on when we made it; should the
  // program have closed it, standard error takes its place.
  int output = 2;
  std::uint64_t output_device = 0, output_inode = 0;
  // What the program had done to SIGSYS when it called execve: such things survive it.
  bool sigsys_ignored = false;
  bool sigsys_blocked = false;
  // Of an execveat of a descriptor: to be closed once it is open again.
  int close_descriptor = -1;
};

// "key=value" with kFieldEnd behind each. Sink: anything with put, text and
// unsigned_decimal.
template <class Sink>
void write_options(const Options& options, Sink& sink) noexcept {
  const auto field = [&sink](std::string_view key, std::uint64_t value) {
    sink.text(key);
    sink.put('=');
    sink.unsigned_decimal(value);
    sink.put(kFieldEnd);
  };
  field("range", options.range_bytes);
  field("trace", options.trace ? 1 : 0);
  field("stats", options.stats ? 1 : 0);
  field("output", static_cast<std::uint64_t>(options.output));
  field("device", options.output_device);
  field("inode", options.output_inode);
  field("ignored", options.sigsys_ignored ? 1 : 0);
  field("blocked", options.sigsys_blocked ? 1 : 0);
  field("close", static_cast<std::uint64_t>(options.close_descriptor) + 1);
}

// False: not written by write_options.
bool read_options(std::string_view text, Options* options) noexcept;

}  // namespace exclave::loader
