// The SIGSYS handler: where the program's calls arrive.
#pragma once

namespace exclave::loader {

// 0 or a negative errno.
long install_trap() noexcept;

}  // namespace exclave::loader
