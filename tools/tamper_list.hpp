// Which parts of a sealed file are not what was sealed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace exclave::tools {

struct TamperList {
  bool header = false;
  std::vector<std::uint64_t> blocks;  // ascending

  bool clean() const noexcept { return !header && blocks.empty(); }
  // "the header and blocks 0-4, 9 and 120 more"; at most that many ranges.
  std::string text(std::size_t most_ranges = 8) const;
};

}  // namespace exclave::tools
