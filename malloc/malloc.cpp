// malloc and its relatives for a whole process, by LD_PRELOAD, on one exclave allocator: so that
// real programs judge its speed and its correctness. docs/malloc.md says what it is not.
//
// Invariants: nothing here allocates on its own behalf; no function-local statics; thread-local
// state is initial-exec, so reading it never calls the loader.
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "blocks.hpp"

namespace {

using exclave::kPageBytes;
namespace mine = exclave::process_malloc;

// From this size on, zeros come from the kernel: pages that are never touched are never there.
constexpr std::size_t kZeroByKernel = std::size_t{1} << 20;

bool is_power_of_two(std::size_t n) noexcept {
  return n != 0 && (n & (n - 1)) == 0;
}

void* fail(int error) noexcept {
  errno = error;
  return nullptr;
}

void* allocate_zeroed(std::size_t count, std::size_t bytes_each) noexcept {
  std::size_t size = 0;
  if (__builtin_mul_overflow(count, bytes_each, &size)) return fail(ENOMEM);
  void* const block = mine::allocate(size);
  if (block == nullptr) return nullptr;
  // Such a block is whole pages, private and anonymous.
  if (size < kZeroByKernel ||
      madvise(block, exclave::align_up(size, kPageBytes), MADV_DONTNEED) != 0)
    memset(block, 0, size);
  return block;
}

// As in glibc, realloc(p, 0) frees.
void* reallocate(void* block, std::size_t size) noexcept {
  if (block == nullptr) return mine::allocate(size);
  if (size == 0) {
    mine::deallocate(block);
    return nullptr;
  }
  return mine::reallocate(block, size);
}

void* allocate_aligned(std::size_t alignment, std::size_t size) noexcept {
  return is_power_of_two(alignment) ? mine::allocate_aligned(size, alignment) : fail(EINVAL);
}

void* allocate_pages(std::size_t size) noexcept {
  if (size > PTRDIFF_MAX - kPageBytes) return fail(ENOMEM);
  return mine::allocate_aligned(exclave::align_up(size, kPageBytes), kPageBytes);
}

}  // namespace

extern "C" {

EXCLAVE_ONE_PIECE EXCLAVE_API void* malloc(size_t size) noexcept {
  return mine::allocate(size);
}

EXCLAVE_ONE_PIECE EXCLAVE_API void free(void* block) noexcept {
  mine::deallocate(block);
}

EXCLAVE_ONE_PIECE EXCLAVE_API void* calloc(size_t count, size_t size) noexcept {
  return allocate_zeroed(count, size);
}

EXCLAVE_API void* realloc(void* block, size_t size) noexcept {
  return reallocate(block, size);
}

EXCLAVE_API void* reallocarray(void* block, size_t count, size_t size) noexcept {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes)) return fail(ENOMEM);
  return reallocate(block, bytes);
}

EXCLAVE_API int posix_memalign(void** out, size_t alignment, size_t size) noexcept {
  if (!is_power_of_two(alignment) || alignment % sizeof(void*) != 0) return EINVAL;
  const int saved = errno;
  void* const block = mine::allocate_aligned(size, alignment);
  errno = saved;
  if (block == nullptr) return ENOMEM;
  *out = block;
  return 0;
}

EXCLAVE_API void* memalign(size_t alignment, size_t size) noexcept {
  return allocate_aligned(alignment, size);
}

EXCLAVE_API void* aligned_alloc(size_t alignment, size_t size) noexcept {
  return allocate_aligned(alignment, size);
}

EXCLAVE_API void* valloc(size_t size) noexcept {
  return mine::allocate_aligned(size, kPageBytes);
}

EXCLAVE_API void* pvalloc(size_t size) noexcept {
  return allocate_pages(size);
}

EXCLAVE_API size_t malloc_usable_size(void* block) noexcept {
  return mine::usable_size(block);
}

EXCLAVE_API int malloc_trim(size_t) noexcept {
  return mine::trim() ? 1 : 0;
}

// glibc's other names, which some programs mix with these. (NOLINTBEGIN: they are reserved.)
EXCLAVE_API void* __libc_malloc(size_t size) noexcept {
  return mine::allocate(size);
}
EXCLAVE_API void __libc_free(void* block) noexcept {
  mine::deallocate(block);
}
EXCLAVE_API void* __libc_calloc(size_t count, size_t size) noexcept {
  return allocate_zeroed(count, size);
}
EXCLAVE_API void* __libc_realloc(void* block, size_t size) noexcept {
  return reallocate(block, size);
}
EXCLAVE_API void* __libc_memalign(size_t alignment, size_t size) noexcept {
  return allocate_aligned(alignment, size);
}
EXCLAVE_API void* __libc_valloc(size_t size) noexcept {
  return mine::allocate_aligned(size, kPageBytes);
}
EXCLAVE_API void* __libc_pvalloc(size_t size) noexcept {
  return allocate_pages(size);
}
// NOLINTEND

}  // extern "C"
