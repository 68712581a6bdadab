// The primary forms of operator new and delete. The others (derived_operators.cpp) go by these.
#include <new>

#include "blocks.hpp"
#include "new_handler.hpp"
#include "primary_operators.hpp"

namespace mine = exclave::process_malloc;

// In functions of their own, because GCC forgets the attribute of the operators themselves, which
// are other names of these.
extern "C" {

EXCLAVE_ONE_PIECE void exclave_malloc_delete(void* block) noexcept {
  mine::deallocate(block);
}

EXCLAVE_ONE_PIECE void* exclave_malloc_new(std::size_t size) {
  void* const block = mine::allocate(size);
  return EXCLAVE_LIKELY(block != nullptr) ? block : mine::new_slow(size, mine::kMallocAlignment);
}

void* exclave_malloc_new_aligned(std::size_t size, std::align_val_t alignment) {
  const auto bytes = static_cast<std::size_t>(alignment);
  void* const block = mine::allocate_aligned(size, bytes);
  return EXCLAVE_LIKELY(block != nullptr) ? block : mine::new_slow(size, bytes);
}

}  // extern "C"

[[gnu::alias("exclave_malloc_new")]] EXCLAVE_API void* operator new(std::size_t size);
[[gnu::alias("exclave_malloc_new_aligned")]] EXCLAVE_API void* operator new(
    std::size_t size, std::align_val_t alignment);
[[gnu::alias("exclave_malloc_delete")]] EXCLAVE_API void operator delete(void* block) noexcept;

// The size and the alignment are not needed: the books know the block.
EXCLAVE_API void operator delete(void* block, std::align_val_t) noexcept {
  exclave_malloc_delete(block);
}
