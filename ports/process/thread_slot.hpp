// The thread-slot half of the Port contract, for a Linux process: one thread-local load and a
// predicted branch. Included by port/thread_slot.hpp, which says what the contract is.
//
// A slot is a small index that no other live thread has: the first free one of 0, 8, 16, ..., 1, 9,
// ..., given out at the first question and taken back when the thread ends: by a destructor of its
// own data, or, where it asked in the last round of those, when no slot is left. Compiled into the
// core,
// so it needs nothing but <cstdint>.
#pragma once

#include <cstdint>

namespace exclave {

namespace detail {

// The slot plus one; 0: none yet. __thread, because thread_local would add a call to an init
// function on each load.
extern __thread std::uint32_t thread_slot_word __attribute__((tls_model("initial-exec")));

// Lock-free, so a signal handler may be the first to ask.
[[gnu::cold, gnu::noinline]] std::uint32_t assign_thread_slot_slow() noexcept;

// A slot that belongs to no thread, until fork: for an owner who lends it, under a lock of its own,
// to threads that have none, by writing thread_slot_word. kNoThreadSlot: none is left.
std::uint32_t claim_thread_slot() noexcept;

}  // namespace detail

// kNoThreadSlot when kMaxThreadSlots threads have a slot already; asking again later may succeed.
inline std::uint32_t current_thread_slot() noexcept {
  const std::uint32_t word = detail::thread_slot_word;
  if (__builtin_expect(word != 0, 1)) return word - 1;
  return detail::assign_thread_slot_slow();
}

// The same, but kNoThreadSlot when this thread never asked for one. One load and no branch, for the
// fast paths.
inline std::uint32_t assigned_thread_slot() noexcept {
  return detail::thread_slot_word - 1;
}

using ThreadExitHook = void (*)(void* context, std::uint32_t slot) noexcept;

// From now on every thread that ends with a slot calls hook(context, slot), on itself, with no lock
// held and the slot still its own: current_thread_slot() gives it. Hooks run in the order of
// registration. A thread that uses the library in a later destructor gets a slot anew, and the
// hooks run again. Thread-safe. false: out of memory.
bool register_thread_exit(ThreadExitHook hook, void* context) noexcept;

// After it returns the hook does not run for this context and never will. It waits for hooks that
// run now, so it must not be called from that hook. Unknown pairs are ignored. Thread-safe.
void unregister_thread_exit(ThreadExitHook hook, void* context) noexcept;

}  // namespace exclave
