// operator new when memory is out.
#pragma once

#include <cstddef>
#include <new>

namespace exclave::process_malloc {

// Asks the program's new handler until there is memory. Throws std::bad_alloc without one.
[[gnu::cold, gnu::noinline]] void* new_slow(std::size_t size, std::size_t alignment);
// The same, from the first attempt on, but null instead of any exception.
void* new_nothrow(std::size_t size, std::size_t alignment) noexcept;
// A program's own operator new; null instead of any exception.
void* try_new(void* (*by)(std::size_t), std::size_t size) noexcept;
void* try_new(void* (*by)(std::size_t, std::align_val_t), std::size_t size,
              std::align_val_t alignment) noexcept;

}  // namespace exclave::process_malloc
