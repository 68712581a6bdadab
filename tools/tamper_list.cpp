#include "tools/tamper_list.hpp"

namespace exclave::tools {

std::string TamperList::text(std::size_t most_ranges) const {
  std::string out = header ? "the header" : "";
  if (blocks.empty()) {
    return out;
  }
  if (header) {
    out += " and ";
  }
  out += blocks.size() == 1 ? "block " : "blocks ";
  std::size_t at = 0;
  for (std::size_t ranges = 0; at < blocks.size() && ranges < most_ranges; ++ranges) {
    std::size_t end = at + 1;
    while (end < blocks.size() && blocks[end] == blocks[end - 1] + 1) {
      ++end;
    }
    out += ranges == 0 ? "" : ", ";
    out += std::to_string(blocks[at]);
    if (end - at > 1) {
      out += (end - at == 2 ? ", " : "-") + std::to_string(blocks[end - 1]);
    }
    at = end;
  }
  if (at < blocks.size()) {
    out += " and " + std::to_string(blocks.size() - at) + " more";
  }
  return out;
}

}  // namespace exclave::tools
