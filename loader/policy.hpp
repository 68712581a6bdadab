// Which mappings lie outside: shared ones of what the command line allows, and nothing else.
#pragma once

#include <string_view>

namespace exclave::loader {

class Policy {
 public:
  void open(std::string_view allowed) noexcept { allowed_ = allowed; }
  // Does this mapping lie outside?
  bool lies_outside(int flags, int descriptor) const noexcept;

 private:
  // Is the descriptor open on something of the list? By name, as /proc/self/fd tells it, or by
  // device number.
  bool allows(int descriptor) const noexcept;

  std::string_view allowed_;
};

// Is `name` the entry itself, something below it, or, after an entry that ends in a colon
// ("/memfd:"), of its kind?
bool name_matches(std::string_view entry, std::string_view name) noexcept;

}  // namespace exclave::loader
