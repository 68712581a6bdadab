#include "new_handler.hpp"

#include <stdlib.h>

#include <new>

#include "blocks.hpp"

// A C program must not be made to load libstdc++, and a C++ program has it loaded: so everything of
// it is a weak reference. Of these, the first five are what a catch clause compiles to.
asm(".weak __gxx_personality_v0\n"
    ".weak __cxa_begin_catch\n"
    ".weak __cxa_end_catch\n"
    ".weak __cxa_rethrow\n"
    ".weak _Unwind_Resume\n"
    ".weak _ZSt15get_new_handlerv\n"
    ".weak _ZSt17__throw_bad_allocv\n");

namespace exclave::process_malloc {
namespace {

// By address, or the compiler would know that no function is null.
template <class Function>
bool is_there(Function* function) noexcept {
  Function* volatile address = function;
  return address != nullptr;
}

}  // namespace

void* new_slow(std::size_t size, std::size_t alignment) {
  for (;;) {
    void* const block = allocate_aligned(size, alignment);
    if (block != nullptr) return block;
    // libstdc++ came by dlopen, for a part of the program only: nobody to ask, nothing to throw.
    if (!is_there(&std::get_new_handler) || !is_there(&std::__throw_bad_alloc)) abort();
    const std::new_handler handler = std::get_new_handler();
    if (handler == nullptr) std::__throw_bad_alloc();
    handler();
  }
}

void* new_nothrow(std::size_t size, std::size_t alignment) noexcept {
  void* const block = allocate_aligned(size, alignment);
  if (EXCLAVE_LIKELY(block != nullptr) || !is_there(&std::get_new_handler)) return block;
  try {
    return new_slow(size, alignment);
  } catch (...) {
    return nullptr;
  }
}

void* try_new(void* (*by)(std::size_t), std::size_t size) noexcept {
  try {
    return by(size);
  } catch (...) {
    return nullptr;
  }
}

void* try_new(void* (*by)(std::size_t, std::align_val_t), std::size_t size,
              std::align_val_t alignment) noexcept {
  try {
    return by(size, alignment);
  } catch (...) {
    return nullptr;
  }
}

}  // namespace exclave::process_malloc
