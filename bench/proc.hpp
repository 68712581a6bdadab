// What the kernel tells about this process.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace bench {

// A line of a file of /proc/self, in bytes; 0 without such a file or line. No stdio, which would
// allocate. Any thread.
inline std::size_t proc_bytes(const char* path, const char* name) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  char text[8192];
  const ssize_t length = read(file, text, sizeof(text) - 1);
  close(file);
  if (length <= 0) return 0;
  text[length] = '\0';
  const char* const line = std::strstr(text, name);
  return line == nullptr ? 0 : std::strtoull(line + std::strlen(name), nullptr, 10) * 1024;
}

// How much memory of this process is in transparent huge pages now.
inline std::size_t huge_page_bytes() {
  return proc_bytes("/proc/self/smaps_rollup", "AnonHugePages:");
}

}  // namespace bench
