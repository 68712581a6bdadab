#include "loader/options.hpp"

#include "loader/text.hpp"

namespace exclave::loader {

bool read_options(std::string_view text, Options* options) noexcept {
  while (!text.empty()) {
    std::string_view value_text = take_before(&text, kFieldEnd);
    const std::string_view key = take_before(&value_text, '=');
    std::uint64_t value = 0;
    if (!parse_number(value_text, &value)) return false;
    if (key == "range") options->range_bytes = value;
    if (key == "trace") options->trace = value != 0;
    if (key == "stats") options->stats = value != 0;
    if (key == "output") options->output = static_cast<int>(value);
    if (key == "device") options->output_device = value;
    if (key == "inode") options->output_inode = value;
    if (key == "ignored") options->sigsys_ignored = value != 0;
    if (key == "blocked") options->sigsys_blocked = value != 0;
    if (key == "close") options->close_descriptor = static_cast<int>(value) - 1;
  }
  return true;
}

}  // namespace exclave::loader
