// Clang's thread-safety annotations: which lock guards what becomes a compile error when broken.
#pragma once

#if defined(__clang__)
#define EXCLAVE_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define EXCLAVE_THREAD_ANNOTATION(x)
#endif

#define EXCLAVE_CAPABILITY(name) EXCLAVE_THREAD_ANNOTATION(capability(name))
#define EXCLAVE_SCOPED_CAPABILITY EXCLAVE_THREAD_ANNOTATION(scoped_lockable)
#define EXCLAVE_GUARDED_BY(lock) EXCLAVE_THREAD_ANNOTATION(guarded_by(lock))
#define EXCLAVE_REQUIRES(...) EXCLAVE_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define EXCLAVE_EXCLUDES(...) EXCLAVE_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define EXCLAVE_ACQUIRE(...) EXCLAVE_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define EXCLAVE_RELEASE(...) EXCLAVE_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define EXCLAVE_RETURNS_LOCK(lock) EXCLAVE_THREAD_ANNOTATION(lock_returned(lock))
#define EXCLAVE_NO_THREAD_SAFETY_ANALYSIS EXCLAVE_THREAD_ANNOTATION(no_thread_safety_analysis)

#define EXCLAVE_LIKELY(x) __builtin_expect(!!(x), 1)
#define EXCLAVE_UNLIKELY(x) __builtin_expect(!!(x), 0)
