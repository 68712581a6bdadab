// operator new and delete in all their forms. Sizes and alignments given to delete are not needed:
// the books know the block.
#include <new>

#include "blocks.hpp"
#include "new_handler.hpp"

namespace {

namespace mine = exclave::process_malloc;

// In functions of their own, because GCC forgets the attribute of the operators themselves; these
// end in a jump.
[[gnu::noinline]] EXCLAVE_ONE_PIECE void deallocate(void* block) noexcept {
  mine::deallocate(block);
}

[[gnu::noinline]] EXCLAVE_ONE_PIECE void* allocate(std::size_t size) {
  void* const block = mine::allocate(size);
  return EXCLAVE_LIKELY(block != nullptr) ? block : mine::new_slow(size, mine::kMallocAlignment);
}

void* allocate_nothrow(std::size_t size) noexcept {
  void* const block = mine::allocate(size);
  return EXCLAVE_LIKELY(block != nullptr) ? block
                                          : mine::new_nothrow_slow(size, mine::kMallocAlignment);
}

void* allocate_aligned(std::size_t size, std::align_val_t alignment) {
  const auto bytes = static_cast<std::size_t>(alignment);
  void* const block = mine::allocate_aligned(size, bytes);
  return EXCLAVE_LIKELY(block != nullptr) ? block : mine::new_slow(size, bytes);
}

void* allocate_aligned_nothrow(std::size_t size, std::align_val_t alignment) noexcept {
  const auto bytes = static_cast<std::size_t>(alignment);
  void* const block = mine::allocate_aligned(size, bytes);
  return EXCLAVE_LIKELY(block != nullptr) ? block : mine::new_nothrow_slow(size, bytes);
}

}  // namespace

#define EXCLAVE_NEW(name)                                                             \
  EXCLAVE_API void* operator name(std::size_t size) {                                 \
    return allocate(size);                                                            \
  }                                                                                   \
  EXCLAVE_API void* operator name(std::size_t size, const std::nothrow_t&) noexcept { \
    return allocate_nothrow(size);                                                    \
  }                                                                                   \
  EXCLAVE_API void* operator name(std::size_t size, std::align_val_t align) {         \
    return allocate_aligned(size, align);                                             \
  }                                                                                   \
  EXCLAVE_API void* operator name(std::size_t size, std::align_val_t align,           \
                                  const std::nothrow_t&) noexcept {                   \
    return allocate_aligned_nothrow(size, align);                                     \
  }

#define EXCLAVE_DELETE(name, ...)                                                   \
  EXCLAVE_API void operator name(void* block __VA_OPT__(, ) __VA_ARGS__) noexcept { \
    deallocate(block);                                                              \
  }

#define EXCLAVE_DELETES(name)                         \
  EXCLAVE_DELETE(name)                                \
  EXCLAVE_DELETE(name, std::size_t)                   \
  EXCLAVE_DELETE(name, std::align_val_t)              \
  EXCLAVE_DELETE(name, std::size_t, std::align_val_t) \
  EXCLAVE_DELETE(name, const std::nothrow_t&)         \
  EXCLAVE_DELETE(name, std::align_val_t, const std::nothrow_t&)

EXCLAVE_NEW(new)
EXCLAVE_NEW(new[])
EXCLAVE_DELETES(delete)
EXCLAVE_DELETES(delete[])
