// The stack on which a program starts, inside the enclave's range and laid out as Linux does it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "loader/elf_image.hpp"

namespace exclave::loader {

// What the kernel gave the loader.
struct KernelStack {
  std::size_t argument_count;
  char** arguments;
  char** environment;
  Elf64_auxv_t* auxiliary;
};

struct Start {
  const char* const* arguments;  // null-terminated
  const char* path;              // as execve was given it
  const ElfImage* program;
  const ElfImage* interpreter;  // null: none
};

// The stack pointer to start with, or a negative errno.
std::intptr_t build_initial_stack(const KernelStack& kernel, const Start& start) noexcept;

}  // namespace exclave::loader
