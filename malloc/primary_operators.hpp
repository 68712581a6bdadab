// The bodies of operators new and delete, by names that no program can replace.
#pragma once

#include <cstddef>
#include <new>

extern "C" {
[[gnu::visibility("hidden")]] void exclave_malloc_delete(void* block) noexcept;
[[gnu::visibility("hidden")]] void* exclave_malloc_new(std::size_t size);
[[gnu::visibility("hidden")]] void* exclave_malloc_new_aligned(std::size_t size,
                                                               std::align_val_t alignment);
// operator new[], derived.
[[gnu::visibility("hidden")]] void* exclave_malloc_new_array(std::size_t size);
[[gnu::visibility("hidden")]] void* exclave_malloc_new_array_aligned(std::size_t size,
                                                                     std::align_val_t alignment);
}
