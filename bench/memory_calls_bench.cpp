// Workload k: the application's memory calls through MemoryCalls, beside the bare system calls on
// the same kind of mapping: 64 KiB of a memfd, shared, so it lies outside. Never touched.
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "policies.hpp"
#include "ticks.hpp"

namespace bench {
namespace {

constexpr std::size_t kBytes = 16 * exclave::kPageBytes;

struct Timed {
  Durations map, protect, unmap;
  explicit Timed(std::size_t room) : map(room), protect(room), unmap(room) {}

  template <class Map, class Protect, class Unmap>
  void once(Map do_map, Protect do_protect, Unmap do_unmap) {
    const std::uint64_t start = ticks();
    const std::uintptr_t at = do_map();
    const std::uint64_t mapped = ticks();
    const bool well = do_protect(at);
    const std::uint64_t changed = ticks();
    const bool gone = do_unmap(at);
    const std::uint64_t end = ticks();
    if (!well || !gone) std::abort();
    map.add(mapped - start);
    protect.add(changed - mapped);
    unmap.add(end - changed);
  }
  void report(benchmark::State& state, const std::string& who) const {
    state.counters[who + "_mmap_ns"] = map.ns(0.5);
    state.counters[who + "_mprotect_ns"] = protect.ns(0.5);
    state.counters[who + "_munmap_ns"] = unmap.ns(0.5);
  }
};

void memory_calls(benchmark::State& state) {
  constexpr std::size_t kTurns = 20'000;
  const int file = memfd_create("bench", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, kBytes) != 0) std::abort();
  const auto port = exclave::ProcessPort::create();
  if (!port.ok()) std::abort();
  auto allocator = exclave::Allocator::create((*port)->table());
  if (!allocator.ok()) std::abort();
  exclave::ProcessEnclaveMemory inside((*port)->enclave_heap());
  exclave::MemoryCalls calls(*allocator, exclave::bind_enclave_memory(inside));

  static Timed ours(kTurns), bare(kTurns);
  for ([[maybe_unused]] auto _ : state) {
    // Turn about, so that a disturbance meets both.
    for (std::size_t i = 0; i < kTurns; ++i) {
      bare.once(
          [&] {
            void* const at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            if (at == MAP_FAILED) std::abort();
            return reinterpret_cast<std::uintptr_t>(at);
          },
          [](std::uintptr_t at) {
            return mprotect(reinterpret_cast<void*>(at), kBytes, PROT_READ) == 0;
          },
          [](std::uintptr_t at) { return munmap(reinterpret_cast<void*>(at), kBytes) == 0; });
      ours.once(
          [&] {
            const std::intptr_t at =
                calls.mmap(0, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            if (at < 0) std::abort();
            return static_cast<std::uintptr_t>(at);
          },
          [&](std::uintptr_t at) { return calls.mprotect(at, kBytes, PROT_READ) == 0; },
          [&](std::uintptr_t at) { return calls.munmap(at, kBytes) == 0; });
    }
  }
  bare.report(state, "bare");
  ours.report(state, "exclave");
}

BENCHMARK(memory_calls)->Name("k")->Iterations(1);

}  // namespace
}  // namespace bench
