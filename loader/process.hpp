// What the loader keeps for the process it stands in: its port, the books of both sides, and what
// the command line asked for.
#pragma once

#include <atomic>

#include "exclave/enclave_manager.hpp"
#include "exclave/memory_calls.hpp"
#include "loader/inside_pages.hpp"
#include "loader/options.hpp"
#include "loader/policy.hpp"
#include "loader/port.hpp"

namespace exclave::loader {

struct Process {
  // Reserves the range and opens the books. False: not enough address space.
  bool open(const Options& asked, const char* allowed_paths) noexcept;

  // Is this the process of the books, or one that vfork lent them to?
  bool is_own() const noexcept { return pid == system_call(__NR_getpid); }

  Options options;
  const char* allowed = "";  // paths, each with kFieldEnd behind it
  LoaderPort port;
  Policy policy;
  InsidePages pages;
  // None is ever destroyed: the process ends with them.
  Allocator* allocator = nullptr;
  EnclaveManager* inside = nullptr;  // of port.program_window()
  MemoryCalls* calls = nullptr;
  long pid = 0;
  Extent stack{};  // of its first thread
  std::uintptr_t first_break = 0;
  std::size_t data_bytes = 0;  // ElfImage's, of the program
  // The program's file by its own name, for /proc/self/exe, and the loader's.
  char program_path[4096] = {};
  char loader_path[4096] = {};
  std::uint64_t loader_device = 0, loader_inode = 0;

 private:
  alignas(Allocator) std::byte allocator_[sizeof(Allocator)] = {};
  alignas(EnclaveManager) std::byte inside_[sizeof(EnclaveManager)] = {};
  alignas(MemoryCalls) std::byte calls_[sizeof(MemoryCalls)] = {};
};

extern Process g_process;

// Has this thread the capability, in its user namespace?
bool has_right(unsigned capability) noexcept;

// The last part of its path: for lines that tell of it.
const char* name_of_program() noexcept;

}  // namespace exclave::loader
