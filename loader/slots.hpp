// A slot for each call in progress: its stack, and the thread slot that the core asks for.
//
// A thread that is stopped at a memory call may stand on a stack of a few kilobytes, and has no
// storage of ours. So the call runs on a stack that is taken for its length, and the number of the
// slot is told by the stack pointer: no thread-local storage, no bound on the number of threads,
// and nothing to clean up when one ends.
#pragma once

#include <cstdint>

namespace exclave::loader {

using SlotIndex = std::uint32_t;

// Maps the stacks. False: no memory.
bool open_slots() noexcept;

// Waits while all are taken. hint: the same for the calls of one thread, so that it gets a warm
// stack.
SlotIndex take_slot(std::uintptr_t hint) noexcept;
void give_slot_back(SlotIndex slot) noexcept;
// For a thread whose registers the kernel is about to read from the slot's stack, and which then
// stands in the program: the slot is free once the thread comes with another call, or has ended.
// (kSlots threads that left one each and go on without a memory call would keep all others
// waiting.)
void leave_slot(SlotIndex slot) noexcept;
// In the child of a fork: its one thread's slot stays taken.
void forget_other_slots() noexcept;

// Runs function(argument) on the slot's stack.
void run_in_slot(SlotIndex slot, void (*function)(void*), void* argument) noexcept;

}  // namespace exclave::loader
