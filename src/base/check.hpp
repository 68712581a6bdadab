// Checks of our own logic. What the host or a caller can influence answers with an Error instead.
#pragma once

// Always on: the books contradict themselves, and going on would be worse than stopping.
#define EXCLAVE_CHECK(condition)                             \
  do {                                                       \
    if (__builtin_expect(!(condition), 0)) __builtin_trap(); \
  } while (false)

// Debug builds only.
#if defined(NDEBUG)
#define EXCLAVE_DCHECK(condition) \
  do {                            \
    (void)sizeof(condition);      \
  } while (false)
#else
#define EXCLAVE_DCHECK(condition) EXCLAVE_CHECK(condition)
#endif
