// What every function of libexclave_malloc.so is made of: one allocator of the process, and its two
// fast paths.
//
// Includes the core and not only the public face, because this library is compiled and optimised as
// a whole, and the path from malloc into the thread's heap is to be one function.
#pragma once

#include <cstddef>
#include <cstdint>

#include "heap/core.hpp"
#include "port/thread_slot.hpp"

namespace exclave::process_malloc {

// Set once, before any thread has a slot, and never destroyed: threads free after main has ended.
extern core::AllocatorCore* g_core;

inline constexpr std::size_t kMallocAlignment = 16;

// For the functions that programs call most: what they call becomes part of them, down to the first
// slow function. With link-time optimisation that reaches into the core.
#define EXCLAVE_ONE_PIECE [[gnu::flatten]]

// Everything that is not the rule: the first call of the process or of a thread, threads without a
// slot, errors. Null: errno is ENOMEM.
[[gnu::cold, gnu::noinline]] void* allocate_slow(std::size_t size, std::size_t alignment) noexcept;
[[gnu::cold, gnu::noinline]] void deallocate_slow(void* block, Error error) noexcept;

// A thread that has a slot has seen g_core.
[[gnu::always_inline]] inline bool has_slot() noexcept {
  return EXCLAVE_LIKELY(assigned_thread_slot() != kNoThreadSlot);
}

[[gnu::always_inline]] inline void* allocate(std::size_t size) noexcept {
  if (has_slot()) {
    const Result<untrusted_bytes> block = g_core->allocate(size);
    if (EXCLAVE_LIKELY(block.ok())) return reinterpret_cast<void*>(block->address());
  }
  return allocate_slow(size, kMallocAlignment);
}

[[gnu::always_inline]] inline void deallocate(void* block) noexcept {
  Error error = Error::kTooManyThreads;
  if (has_slot()) {
    error = g_core->deallocate(reinterpret_cast<std::uintptr_t>(block)).error();
    if (EXCLAVE_LIKELY(error == Error::kNone)) return;
  }
  deallocate_slow(block, error);
}

// Power-of-two alignment, any size. Null: errno is ENOMEM.
void* allocate_aligned(std::size_t size, std::size_t alignment) noexcept;
// 0: null, or a block whose books are in use by the call that a signal handler interrupts. Stops
// the program when there is no such block.
std::size_t usable_size(void* block) noexcept;
// The old block stays where it stands when null comes back.
void* reallocate(void* block, std::size_t size) noexcept;
// malloc_trim: did something go back to the kernel?
bool trim() noexcept;

}  // namespace exclave::process_malloc
