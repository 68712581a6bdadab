// Looks on for the progress bar and the report: times, samples, and one picture of the regions at a
// busy moment.
#pragma once

#include <chrono>
#include <vector>

#include "tools/enclave_session.hpp"
#include "tools/progress_bar.hpp"
#include "tools/run_report.hpp"
#include "tools/run_watcher.hpp"

namespace exclave::tools {

class RunRecorder final : public RunWatcher {
 public:
  explicit RunRecorder(const EnclaveSession& session) : session_(session) {}

  void phase(const char* what, std::uint64_t total_bytes) override;
  void progress(std::uint64_t done_bytes) override;
  void busy() override;

  // Ends the last phase and hands over what was seen.
  void finish(RunReport& report);

 private:
  using Clock = std::chrono::steady_clock;
  double seconds_in_phase() const;
  void end_phase();

  const EnclaveSession& session_;
  ProgressBar bar_;
  std::vector<PhaseFigures> phases_;
  Clock::time_point phase_start_{};
  std::uint64_t total_bytes_ = 0;
  const char* what_ = "";
  HeapMap picture_;
  bool picture_is_good_ = false;
};

}  // namespace exclave::tools
