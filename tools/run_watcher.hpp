// Who looks on while a file is sealed or unsealed: the progress bar, the report.
#pragma once

#include <cstdint>

namespace exclave::tools {

class RunWatcher {
 public:
  virtual ~RunWatcher() = default;
  // A new part of the work; total_bytes of it to come. what: a word that outlives the watcher.
  virtual void phase(const char* what, std::uint64_t total_bytes) = 0;
  virtual void progress(std::uint64_t done_bytes) = 0;
  // As many transfers are in flight as will ever be: the moment for a picture.
  virtual void busy() = 0;
};

}  // namespace exclave::tools
