// The forms of operator new and delete that C++ defines by others: a program that replaces
// operator new(size) and operator delete(pointer) alone replaces all. So they call the others by
// symbol, as libstdc++'s do, through the table that the loader fills: one jump in the ordinary
// case.
//
// Compiled apart from the operators that they call, or the compiler would take ours.
#include <new>

#include "blocks.hpp"
#include "new_handler.hpp"
#include "primary_operators.hpp"

namespace mine = exclave::process_malloc;

namespace {

using New = void* (*)(std::size_t);
using NewAligned = void* (*)(std::size_t, std::align_val_t);

}  // namespace

// ---- new ----

extern "C" {

void* exclave_malloc_new_array(std::size_t size) {
  return ::operator new(size);
}

void* exclave_malloc_new_array_aligned(std::size_t size, std::align_val_t alignment) {
  return ::operator new(size, alignment);
}

}  // extern "C"

[[gnu::alias("exclave_malloc_new_array")]] EXCLAVE_API void* operator new[](std::size_t size);
[[gnu::alias("exclave_malloc_new_array_aligned")]] EXCLAVE_API void* operator new[](
    std::size_t size, std::align_val_t alignment);

// Ours are asked directly: without libstdc++ they have nothing to throw.
EXCLAVE_API void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  const New by = &::operator new;
  return by == &exclave_malloc_new ? mine::new_nothrow(size, mine::kMallocAlignment)
                                   : mine::try_new(by, size);
}

EXCLAVE_API void* operator new(std::size_t size, std::align_val_t alignment,
                               const std::nothrow_t&) noexcept {
  const NewAligned by = &::operator new;
  return by == &exclave_malloc_new_aligned
             ? mine::new_nothrow(size, static_cast<std::size_t>(alignment))
             : mine::try_new(by, size, alignment);
}

EXCLAVE_API void* operator new[](std::size_t size, const std::nothrow_t& nothrow) noexcept {
  const New by = &::operator new[];
  return by == &exclave_malloc_new_array ? ::operator new(size, nothrow) : mine::try_new(by, size);
}

EXCLAVE_API void* operator new[](std::size_t size, std::align_val_t alignment,
                                 const std::nothrow_t& nothrow) noexcept {
  const NewAligned by = &::operator new[];
  return by == &exclave_malloc_new_array_aligned ? ::operator new(size, alignment, nothrow)
                                                 : mine::try_new(by, size, alignment);
}

// ---- delete ----

#define EXCLAVE_DELETE(name, by, ...)                                 \
  EXCLAVE_API void operator name(void* block, __VA_ARGS__) noexcept { \
    ::operator by;                                                    \
  }

EXCLAVE_API void operator delete[](void* block) noexcept {
  ::operator delete(block);
}
EXCLAVE_API void operator delete[](void* block, std::align_val_t alignment) noexcept {
  ::operator delete(block, alignment);
}
EXCLAVE_DELETE(delete, delete (block), std::size_t)
EXCLAVE_DELETE(delete[], delete[](block), std::size_t)
EXCLAVE_DELETE(delete, delete (block), const std::nothrow_t&)
EXCLAVE_DELETE(delete[], delete[](block), const std::nothrow_t&)
EXCLAVE_DELETE(delete, delete (block, alignment), std::size_t, std::align_val_t alignment)
EXCLAVE_DELETE(delete[], delete[](block, alignment), std::size_t, std::align_val_t alignment)
EXCLAVE_DELETE(delete, delete (block, alignment), std::align_val_t alignment, const std::nothrow_t&)
EXCLAVE_DELETE(delete[], delete[](block, alignment), std::align_val_t alignment,
               const std::nothrow_t&)
