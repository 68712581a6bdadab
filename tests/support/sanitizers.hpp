// Is this build slowed down, by a sanitizer or because it counts what is executed? Then long tests
// take fewer steps.
#pragma once

namespace exclave::testing_support {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

// Not optimised, and counting.
#if defined(EXCLAVE_COVERAGE)
inline constexpr bool kCounted = true;
#else
inline constexpr bool kCounted = false;
#endif

inline constexpr bool kSlow = kSanitized || kCounted;

}  // namespace exclave::testing_support
