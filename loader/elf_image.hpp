// An ELF file, mapped into the enclave's range as the kernel maps it elsewhere.
#pragma once

#include "loader/program_file.hpp"

namespace exclave::loader {

struct ElfImage {
  std::uintptr_t bias = 0;  // what is added to the addresses in the file
  std::uintptr_t entry = 0;
  std::uintptr_t headers = 0;  // of the program headers in memory; 0: not mapped
  std::size_t header_count = 0;
  std::uintptr_t start = 0;  // of its first page
  std::uintptr_t end = 0;    // the first byte behind it
  // From the start of its highest part to the end of what comes from the file: the data that Linux
  // adds to the break's against RLIMIT_DATA.
  std::size_t data_bytes = 0;
  bool executable_stack = false;
};

// low: place it from this address upwards (ET_DYN only); 0: at the highest place. 0 or a negative
// errno.
int map_elf(const ProgramFile& file, std::uintptr_t low, ElfImage* image) noexcept;

}  // namespace exclave::loader
