// Workload i: attach and detach one page beside up to a million regions (mappings, of reserved
// address space that nothing ever touches).
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "policies.hpp"
#include "sequences.hpp"
#include "ticks.hpp"

namespace bench {
namespace {

// A region that stays, a gap, a place for one that comes and goes, a gap: none has a neighbour.
constexpr std::size_t kStride = 4 * exclave::kPageBytes;
constexpr std::size_t kPlace = 2 * exclave::kPageBytes;

void attach_detach(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  void* const space =
      mmap(nullptr, count * kStride, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) std::abort();
  const auto base = reinterpret_cast<std::uintptr_t>(space);
  const auto port = exclave::ProcessPort::create();
  if (!port.ok()) std::abort();
  auto allocator = exclave::Allocator::create((*port)->table());
  if (!allocator.ok()) std::abort();
  exclave::AttachOptions options;
  options.role = exclave::Role::kMapping;
  for (std::size_t i = 0; i < count; ++i) {
    if (!allocator->attach({base + i * kStride, exclave::kPageBytes}, options).ok()) std::abort();
  }
  const exclave::Statistics full = allocator->statistics();

  // What is attached is detached some turns later, when the processor's caches have moved on.
  constexpr std::size_t kTurns = 20'000, kMostWaiting = 64;
  static Durations attaches(kTurns), detaches(kTurns);
  attaches.clear();
  detaches.clear();
  const std::size_t waiting = std::min(count / 16, kMostWaiting);
  const Array<exclave::Extent> queue(kMostWaiting + 1);
  // Each place once, in an order without a pattern: a prime step through all of them.
  std::size_t at = 0;
  for ([[maybe_unused]] auto _ : state) {
    for (std::size_t i = 0; i < kTurns; ++i) {
      at = (at + 611'953) % count;
      const exclave::Extent range{base + at * kStride + kPlace, exclave::kPageBytes};
      std::uint64_t start = ticks();
      const bool attached = allocator->attach(range, options).ok();
      attaches.add(ticks() - start);
      if (!attached) std::abort();
      queue[i % (waiting + 1)] = range;
      if (i < waiting) continue;
      start = ticks();
      const bool detached = allocator->detach(queue[(i + 1) % (waiting + 1)]).ok();
      detaches.add(ticks() - start);
      if (!detached) std::abort();
    }
    for (std::size_t i = kTurns; i < kTurns + waiting; ++i) {
      if (!allocator->detach(queue[(i + 1) % (waiting + 1)]).ok()) std::abort();
    }
  }
  state.counters["regions"] = static_cast<double>(count);
  state.counters["attach_ns"] = attaches.ns(0.5);
  state.counters["attach_p99_ns"] = attaches.ns(0.99);
  state.counters["detach_ns"] = detaches.ns(0.5);
  state.counters["detach_p99_ns"] = detaches.ns(0.99);
  state.counters["trusted_used_bytes"] = static_cast<double>(full.trusted_used_bytes);
}

BENCHMARK(attach_detach)->Name("i")->Arg(1)->Arg(1'000)->Arg(1'000'000)->Iterations(1);

}  // namespace
}  // namespace bench
