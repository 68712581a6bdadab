// The thread-slot half of the Port contract, for a runtime that numbers its threads itself.
// Included by port/thread_slot.hpp, which says what the contract is.
//
// In an SGX enclave the number is the index of the TCS: it survives a change of the host thread
// behind it, so a heap is found again as it was left, and there are never more heaps than TCS
// pages.
#pragma once

#include <cstdint>

// The runtime supplies it: an index below kMaxThreadSlots (1024) that no other running thread has,
// or 0xffffffff when it has none. It is on the hot path of every allocation and free, must not
// leave the enclave, and must be callable from wherever the runtime lets the library be called:
// exception and signal handlers, too.
extern "C" unsigned exclave_port_thread_slot(void) noexcept;

namespace exclave {

inline std::uint32_t current_thread_slot() noexcept {
  return exclave_port_thread_slot();
}

inline std::uint32_t assigned_thread_slot() noexcept {
  return current_thread_slot();
}

using ThreadExitHook = void (*)(void* context, std::uint32_t slot) noexcept;

// Threads of an enclave end without notice. The runtime calls Allocator::flush_thread when it knows
// of an end; otherwise the next thread of the slot goes on with the heap.
inline bool register_thread_exit(ThreadExitHook, void*) noexcept {
  return true;
}
inline void unregister_thread_exit(ThreadExitHook, void*) noexcept {}

}  // namespace exclave
