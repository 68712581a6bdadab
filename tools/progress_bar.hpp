// A progress bar on stderr. Only where stderr is a terminal; elsewhere it is silent.
#pragma once

#include <chrono>
#include <cstdint>

namespace exclave::tools {

class ProgressBar {
 public:
  ProgressBar();
  // Leaves the line empty.
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // At most ten times a second, whatever the number of calls.
  void show(const char* what, std::uint64_t done_bytes, std::uint64_t total_bytes, double seconds);
  void clear();

 private:
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point next_{};
};

}  // namespace exclave::tools
