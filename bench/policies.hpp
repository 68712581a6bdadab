// Who is measured: allocators behind one face. Everything here inlines into the workloads.
//
// A policy has: Block (a trivial handle), allocate, allocate_pages (whole pages, page-aligned),
// deallocate, write_word, which writes the first eight bytes, and fill, which writes all; then
// host_calls and reserved_bytes so far, 0 if unknown. A failure stops the program, for all alike.
// The peers are all MallocPolicy: the driver runs this program with each of them preloaded.
#pragma once

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "exclave/exclave.hpp"

namespace bench {

// The harness alone.
struct NullPolicy {
  using Block = void*;
  static constexpr const char* kName = "null";

  static Block allocate(std::size_t size) {
    benchmark::DoNotOptimize(size);
    return memory_;
  }
  static Block allocate_pages(std::size_t size) { return allocate(size); }
  static void deallocate(Block block) { benchmark::DoNotOptimize(block); }
  static void write_word(Block block, std::uint64_t value) {
    *static_cast<volatile std::uint64_t*>(block) = value;
  }
  static void fill(Block, std::size_t) {}
  static std::uint64_t host_calls() { return 0; }
  static std::size_t reserved_bytes() { return 0; }

 private:
  alignas(64) static inline std::uint64_t memory_[8];
};

struct MallocPolicy {
  using Block = void*;
  static constexpr const char* kName = "malloc";

  static Block allocate(std::size_t size) {
    void* const block = std::malloc(size);
    if (block == nullptr) std::abort();
    benchmark::DoNotOptimize(block);
    return block;
  }
  static Block allocate_pages(std::size_t size) {
    void* const block = std::aligned_alloc(exclave::kPageBytes, size);
    if (block == nullptr) std::abort();
    benchmark::DoNotOptimize(block);
    return block;
  }
  static void deallocate(Block block) { std::free(block); }
  static void write_word(Block block, std::uint64_t value) {
    *static_cast<volatile std::uint64_t*>(block) = value;
  }
  static void fill(Block block, std::size_t size) {
    std::memset(block, 0x5a, size);
    benchmark::ClobberMemory();
  }
  static std::uint64_t host_calls() { return 0; }
  static std::size_t reserved_bytes() { return 0; }
};

// One allocator for the program, with the default configuration on the process port.
inline exclave::Allocator& exclave_allocator() {
  static exclave::Allocator& allocator = *[] {
    const auto port = exclave::ProcessPort::create();
    if (!port.ok()) std::abort();
    auto made = exclave::Allocator::create((*port)->table());
    if (!made.ok()) std::abort();
    return new exclave::Allocator(static_cast<exclave::Allocator&&>(*made));
  }();
  return allocator;
}

struct ExclavePolicy {
  using Block = exclave::untrusted_bytes;
  static constexpr const char* kName = "exclave";

  static Block allocate(std::size_t size) {
    const auto block = exclave_allocator_.allocate(size);
    if (!block.ok()) std::abort();
    return *block;
  }
  static Block allocate_pages(std::size_t size) {
    const auto block = exclave_allocator_.allocate(size, exclave::kPageBytes);
    if (!block.ok()) std::abort();
    return *block;
  }
  static void deallocate(Block block) {
    if (!exclave_allocator_.deallocate(block).ok()) std::abort();
  }
  // As for the peers, one plain store: the same instruction that exclave's accessors end in.
  static void write_word(Block block, std::uint64_t value) {
    *static_cast<volatile std::uint64_t*>(block.unsafe_raw()) = value;
  }
  static void fill(Block block, std::size_t size) {
    std::memset(block.unsafe_raw(), 0x5a, size);
    benchmark::ClobberMemory();
  }
  static std::uint64_t host_calls() {
    const exclave::Statistics now = exclave_allocator_.statistics();
    return now.host_reserve_calls + now.host_release_calls;
  }
  static std::size_t reserved_bytes() { return exclave_allocator_.statistics().reserved_bytes; }

 private:
  static inline exclave::Allocator& exclave_allocator_ = exclave_allocator();
};

// The same, writing as an enclave must: through the boundary.
struct ExclaveStorePolicy : ExclavePolicy {
  static constexpr const char* kName = "exclave-store";

  static void write_word(Block block, std::uint64_t value) {
    exclave::store(exclave::untrusted_ptr<std::uint64_t>::unsafe_from_address(block.address()),
                   value);
  }
};

}  // namespace bench
