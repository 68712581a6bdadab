// The program's memory, as the arguments of its calls point into it: any address may be bad, so the
// kernel does the copying, and tells.
#pragma once

#include <cstddef>
#include <cstdint>

namespace exclave::loader {

// The program has a filter of its own, which may know nothing of how we copy. From then on memory
// that the books have as the program's is accessed as it is.
void copy_directly() noexcept;
// At the start: does the kernel copy at all? Else the same.
void learn_to_copy() noexcept;

// False: not all of it can be read (written).
bool read_program(void* to, std::uintptr_t from, std::size_t bytes) noexcept;
bool write_program(std::uintptr_t to, const void* from, std::size_t bytes) noexcept;

// A zero-terminated string of at most size - 1 bytes. Its length, or a negative errno: -EFAULT,
// -ENAMETOOLONG.
long read_program_string(char* to, std::size_t size, std::uintptr_t from) noexcept;

}  // namespace exclave::loader
