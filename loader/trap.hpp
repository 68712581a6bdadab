// The SIGSYS handler: where the program's calls arrive.
#pragma once

namespace exclave::loader {

// restart: calls that a SIGSYS of the program's interrupts are made again. 0 or a negative errno.
long install_trap(bool restart) noexcept;

}  // namespace exclave::loader
