// The system calls that the loader makes itself. Raw: a result from -4095 to -1 is an errno.
#pragma once

#include <asm/unistd.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace exclave::loader {

template <class T>
inline long as_word(T value) noexcept {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<long>(value);
  } else {
    return static_cast<long>(value);
  }
}

inline long raw_syscall(long number, long a, long b, long c, long d, long e, long f) noexcept {
  long result = number;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "+a"(result)
                   : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

template <class A = long, class B = long, class C = long, class D = long, class E = long,
          class F = long>
inline long system_call(long number, A a = {}, B b = {}, C c = {}, D d = {}, E e = {},
                        F f = {}) noexcept {
  return raw_syscall(number, as_word(a), as_word(b), as_word(c), as_word(d), as_word(e),
                     as_word(f));
}

inline bool failed(long result) noexcept {
  return result < 0 && result >= -4095;
}

}  // namespace exclave::loader
