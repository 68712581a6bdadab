#include "tools/failure.hpp"

#include <cstring>

namespace exclave::tools {

std::string errno_text(int error) {
  // glibc's: knows no locale surprises and needs no buffer of ours.
  const char* text = ::strerrordesc_np(error);
  return text != nullptr ? text : "error " + std::to_string(error);
}

}  // namespace exclave::tools
