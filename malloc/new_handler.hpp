// operator new when memory is out.
#pragma once

#include <cstddef>

namespace exclave::process_malloc {

// Asks the program's new handler until there is memory. Throws std::bad_alloc without one.
[[gnu::cold, gnu::noinline]] void* new_slow(std::size_t size, std::size_t alignment);
// The same, but null instead of any exception.
[[gnu::cold, gnu::noinline]] void* new_nothrow_slow(std::size_t size,
                                                    std::size_t alignment) noexcept;

}  // namespace exclave::process_malloc
