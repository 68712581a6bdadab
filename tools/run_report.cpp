#include "tools/run_report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace exclave::tools {
namespace {

template <class... Arguments>
std::string format(const char* pattern, Arguments... arguments) {
  std::array<char, 64> buffer{};
  (void)std::snprintf(buffer.data(), buffer.size(), pattern, arguments...);
  return buffer.data();
}

}  // namespace

bool RunReport::ending_as_it_should() const noexcept {
  return std::all_of(ending.begin(), ending.end(),
                     [](const EndingStep& step) { return step.as_it_should; });
}

std::uint64_t RunReport::host_calls_total() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& [kind, count] : host_calls) {
    sum += count;
  }
  return sum;
}

std::string rate_text(double bytes_per_second) {
  const double megabytes = bytes_per_second / 1e6;
  return megabytes >= 1000 ? format("%.2f GB/s", megabytes / 1000) : format("%.3g MB/s", megabytes);
}

std::string size_text(std::uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  // One decimal where it says something.
  const auto tenths = std::llround(value * 10);
  const bool whole = unit == 0 || tenths % 10 == 0 || value >= 100;
  return format(whole ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
}

std::string count_text(std::uint64_t count) {
  const std::string digits = std::to_string(count);
  std::string text;
  for (std::size_t at = 0; at < digits.size(); ++at) {
    if (at != 0 && (digits.size() - at) % 3 == 0) {
      text += ',';
    }
    text += digits[at];
  }
  return text;
}

std::string seconds_text(double seconds) {
  return seconds >= 1 ? format("%.2f s", seconds) : format("%.0f ms", seconds * 1000);
}

}  // namespace exclave::tools
