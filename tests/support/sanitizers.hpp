// Is this build slowed down, by a sanitizer or because it counts what is executed? Then long tests
// take fewer steps.
#pragma once

namespace exclave::testing_support {

#if defined(__has_feature)
#define EXCLAVE_HAS_FEATURE(name) __has_feature(name)
#else
#define EXCLAVE_HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || EXCLAVE_HAS_FEATURE(address_sanitizer)
inline constexpr bool kAddressSanitized = true;
#else
inline constexpr bool kAddressSanitized = false;
#endif
// It puts signals off, finds races that are planted, and is gone before the last destructors run.
#if defined(__SANITIZE_THREAD__) || EXCLAVE_HAS_FEATURE(thread_sanitizer)
inline constexpr bool kThreadSanitized = true;
#else
inline constexpr bool kThreadSanitized = false;
#endif
#undef EXCLAVE_HAS_FEATURE
inline constexpr bool kSanitized = kAddressSanitized || kThreadSanitized;

// Not optimised, and counting.
#if defined(EXCLAVE_COVERAGE)
inline constexpr bool kCounted = true;
#else
inline constexpr bool kCounted = false;
#endif

inline constexpr bool kSlow = kSanitized || kCounted;

}  // namespace exclave::testing_support
