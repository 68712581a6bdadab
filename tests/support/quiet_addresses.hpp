// Addresses where the kernel places nothing by itself and no sanitizer keeps its own memory, for
// tests that need to know where things stand.
#pragma once

#include <cstdint>

namespace exclave::testing_support {

// 64 GiB from here on.
#if defined(__SANITIZE_THREAD__)
inline constexpr std::uintptr_t kQuietAddresses = std::uintptr_t{0x40} << 32;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr std::uintptr_t kQuietAddresses = std::uintptr_t{0x40} << 32;
#else
inline constexpr std::uintptr_t kQuietAddresses = std::uintptr_t{0x1500} << 32;
#endif
#else
inline constexpr std::uintptr_t kQuietAddresses = std::uintptr_t{0x1500} << 32;
#endif

}  // namespace exclave::testing_support
