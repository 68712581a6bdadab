// Mappings that the kernel makes without an mmap call: System V segments and the rings of
// asynchronous I/O.
#pragma once

#include <cstdint>

namespace exclave::loader {

// Each as the system call it serves.
long attach_segment(int id, std::uintptr_t address, int flags) noexcept;
long detach_segment(std::uintptr_t address) noexcept;
long make_ring(std::uintptr_t events, std::uintptr_t context) noexcept;
long destroy_ring(std::uintptr_t context) noexcept;

void segments_before_fork() noexcept;
void segments_after_fork() noexcept;

}  // namespace exclave::loader
