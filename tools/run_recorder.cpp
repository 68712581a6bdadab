#include "tools/run_recorder.hpp"

#include <utility>

namespace exclave::tools {
namespace {

// Enough for a curve; more would only make the page larger.
constexpr double kSampleSeconds = 0.004;

}  // namespace

double RunRecorder::seconds_in_phase() const {
  return std::chrono::duration<double>(Clock::now() - phase_start_).count();
}

void RunRecorder::end_phase() {
  if (!phases_.empty()) {
    phases_.back().seconds = seconds_in_phase();
  }
}

void RunRecorder::phase(const char* what, std::uint64_t total_bytes) {
  end_phase();
  phases_.push_back({what, 0, 0, {}});
  phase_start_ = Clock::now();
  total_bytes_ = total_bytes;
  what_ = what;
  bar_.show(what, 0, total_bytes, 0);
}

void RunRecorder::progress(std::uint64_t done_bytes) {
  PhaseFigures& figures = phases_.back();
  figures.bytes = done_bytes;
  const double seconds = seconds_in_phase();
  if (figures.samples.empty() || seconds - figures.samples.back().seconds >= kSampleSeconds ||
      done_bytes == total_bytes_) {
    figures.samples.push_back({seconds, done_bytes});
  }
  bar_.show(what_, done_bytes, total_bytes_, seconds);
}

void RunRecorder::busy() {
  // The first chance, in case there is no other; the one in the middle of the work, if there is.
  const bool middle = !phases_.empty() && phases_.back().bytes >= total_bytes_ / 2;
  if (picture_is_good_ || (!picture_.empty() && !middle)) {
    return;
  }
  picture_ = session_.heap_map();
  picture_is_good_ = middle;
}

void RunRecorder::finish(RunReport& report) {
  end_phase();
  bar_.clear();
  report.phases = std::move(phases_);
  report.busy = std::move(picture_);
}

}  // namespace exclave::tools
