#include "tools/progress_bar.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "tools/run_report.hpp"

namespace exclave::tools {
namespace {

std::size_t terminal_columns() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col != 0 ? size.ws_col : 80;
}

}  // namespace

ProgressBar::ProgressBar() : terminal_(::isatty(STDERR_FILENO) != 0) {}

void ProgressBar::show(const char* what, std::uint64_t done_bytes, std::uint64_t total_bytes,
                       double seconds) {
  using namespace std::chrono_literals;
  const auto now = std::chrono::steady_clock::now();
  if (!terminal_ || now < next_) {
    return;
  }
  next_ = now + 100ms;
  std::string line = what;
  line.resize(std::max<std::size_t>(line.size() + 1, 8), ' ');
  if (total_bytes == 0) {
    line += "…";
  } else {
    const double part = static_cast<double>(done_bytes) / static_cast<double>(total_bytes);
    const double rate = seconds > 0 ? static_cast<double>(done_bytes) / seconds : 0;
    char figures[64];
    (void)std::snprintf(figures, sizeof figures, " %3.0f %%  %s", part * 100,
                        rate_text(rate).c_str());
    const std::size_t columns = terminal_columns();
    const std::size_t taken = line.size() + std::string(figures).size() + 1;
    const std::size_t width =
        columns > taken + 10 ? std::min<std::size_t>(columns - taken, 50) : 10;
    const auto filled = static_cast<std::size_t>(part * static_cast<double>(width));
    for (std::size_t i = 0; i < width; ++i) {
      line += i < filled ? "█" : "░";
    }
    line += figures;
  }
  (void)std::fprintf(stderr, "\r\033[K%s", line.c_str());
  (void)std::fflush(stderr);
  drawn_ = true;
}

void ProgressBar::clear() {
  if (drawn_) {
    (void)std::fputs("\r\033[K", stderr);
    (void)std::fflush(stderr);
    drawn_ = false;
  }
}

}  // namespace exclave::tools
