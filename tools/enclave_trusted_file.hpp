// Where plaintext comes from and goes to, by a path that the host is not on.
//
// In this process that is plain read() and write() into the enclave's own memory. A real enclave
// has the plaintext from where it is safe: a protected file system, an attested channel, its own
// computation.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "tools/unique_fd.hpp"

namespace exclave::tools {

class TrustedInput {
 public:
  // Throws Failure(kInput): missing, unreadable, not a regular file, empty, or more than the format
  // holds.
  TrustedInput(const std::string& path, std::uint64_t most_bytes);

  int descriptor() const noexcept { return file_.get(); }
  std::uint64_t size_bytes() const noexcept { return size_bytes_; }
  // The next out.size() bytes. Throws Failure(kInput) when the file has shrunk.
  void read(std::span<std::uint8_t> out);
  // After the last read. Throws Failure(kInput) when the file has grown: a part of it would be
  // missing.
  void expect_end();

 private:
  std::size_t read_some(std::span<std::uint8_t> out);
  UniqueFd file_;
  std::string path_;
  std::uint64_t size_bytes_ = 0;
};

// Writes at the end of what was written before. Throws Failure(kOutput).
void write_trusted(int descriptor, const std::string& path, std::span<const std::uint8_t> bytes);

}  // namespace exclave::tools
