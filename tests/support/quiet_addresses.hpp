// Addresses where the kernel places nothing by itself and no sanitizer keeps its own memory, for
// tests that need to know where things stand.
#pragma once

#include <cstdint>

#include "support/sanitizers.hpp"

namespace exclave::testing_support {

// 64 GiB from here on.
inline constexpr std::uintptr_t kQuietAddresses = std::uintptr_t{kThreadSanitized ? 0x40 : 0x1500}
                                                  << 32;

}  // namespace exclave::testing_support
