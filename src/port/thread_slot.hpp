// The hot half of the Port contract: which thread is this? Fixed when the library is compiled, so
// that it inlines.
//
// The header named by EXCLAVE_THREAD_SLOT_HEADER defines, in namespace exclave:
//   std::uint32_t current_thread_slot() noexcept;
//     unique among live threads, < kMaxThreadSlots, or kNoThreadSlot
//   std::uint32_t assigned_thread_slot() noexcept;
//     the same, or kNoThreadSlot where current_thread_slot would have to assign one first
//   bool register_thread_exit(void (*fn)(void* context, std::uint32_t slot) noexcept, void*)
//   noexcept; void unregister_thread_exit(void (*fn)(void* context, std::uint32_t slot) noexcept,
//   void*) noexcept;
// A slot may go from one thread to a later one, with or without its exit being told (an SGX thread
// slot is never told).
#pragma once

#include <cstdint>
#include <type_traits>

namespace exclave {
inline constexpr std::uint32_t kMaxThreadSlots = 1024;
inline constexpr std::uint32_t kNoThreadSlot = 0xffffffff;
}  // namespace exclave

#if !defined(EXCLAVE_THREAD_SLOT_HEADER)
#define EXCLAVE_THREAD_SLOT_HEADER "process/thread_slot.hpp"
#endif
#include EXCLAVE_THREAD_SLOT_HEADER

namespace exclave {

using ThreadExitFunction = void (*)(void* context, std::uint32_t slot) noexcept;

// The contract, checked where it is chosen.
static_assert(std::is_same_v<decltype(&current_thread_slot), std::uint32_t (*)() noexcept>);
static_assert(std::is_same_v<decltype(&assigned_thread_slot), std::uint32_t (*)() noexcept>);
static_assert(
    std::is_same_v<decltype(&register_thread_exit), bool (*)(ThreadExitFunction, void*) noexcept>);
static_assert(std::is_same_v<decltype(&unregister_thread_exit),
                             void (*)(ThreadExitFunction, void*) noexcept>);

}  // namespace exclave
