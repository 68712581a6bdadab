// The loader of `exclave exec`: it stands in one process with an unmodified program, at addresses
// of its own, loads the program into the enclave's range, and answers its memory calls. No libc, no
// thread-local storage (FS belongs to the program), no exceptions.
//
// Read start.cpp for how a program comes to run, trap.cpp for the life of one of its memory calls.
// This header says what lies where.
#pragma once

#include <cstddef>
#include <cstdint>

namespace exclave::loader {

inline constexpr std::size_t kPage = 4096;

// The image of the loader, linked there (cmake/Loader.cmake). The same in every process of a tree,
// so that the system call filter, which execve hands down, goes on exempting it.
inline constexpr std::uintptr_t kImageBase = 0x7000'0000'0000;
inline constexpr std::size_t kImageBytes = std::size_t{16} << 20;

// Stacks for calls in progress (slots.hpp).
inline constexpr std::size_t kSlots = 1024;
inline constexpr std::size_t kSlotStackBytes = std::size_t{64} << 10;
inline constexpr std::uintptr_t kStacksBase = kImageBase + 0x1000'0000;
inline constexpr std::size_t kStacksBytes = kSlots * kSlotStackBytes;

// The enclave's range begins where Linux lets a program map memory, so that programs linked to
// fixed addresses lie in it, too; its end is a power of two, as SGX wants it. Its manager counts
// 4 G pages at most. That is what a program gets that nobody said a size for: it costs no memory,
// and language runtimes and servers reserve some TiB, or want places above 8 GiB.
inline constexpr std::uintptr_t kRangeBase = 0x10000;
inline constexpr std::size_t kRangeLeast = std::size_t{256} << 20;
inline constexpr std::size_t kRangeMost = std::size_t{16} << 40;
// The books take the last eighth of it, or less, as they grow.
inline constexpr std::size_t kBooksLeast = std::size_t{4} << 20;
inline constexpr std::size_t kBooksMost = std::size_t{512} << 20;

}  // namespace exclave::loader
