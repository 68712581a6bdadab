// Allocator::query with up to a million regions: mappings of one page each, attached to reserved
// address space that nothing ever touches.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "policies.hpp"
#include "sequences.hpp"

namespace bench {
namespace {

// Every other page is a region, so none has a neighbour to be joined with.
constexpr std::size_t kStride = 2 * exclave::kPageBytes;

struct Regions {
  explicit Regions(std::size_t count) {
    void* const space = mmap(nullptr, count * kStride, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) std::abort();
    base = reinterpret_cast<std::uintptr_t>(space);
    const auto port = exclave::ProcessPort::create();
    if (!port.ok()) std::abort();
    auto made = exclave::Allocator::create((*port)->table());
    if (!made.ok()) std::abort();
    allocator = static_cast<exclave::Allocator&&>(*made);
    exclave::AttachOptions options;
    options.role = exclave::Role::kMapping;
    for (std::size_t i = 0; i < count; ++i) {
      if (!allocator.attach({base + i * kStride, exclave::kPageBytes}, options).ok()) std::abort();
    }
  }

  std::uintptr_t base = 0;
  exclave::Allocator allocator;
};

// A million region books never leave the cache all at once, so where the questions go matters:
// anywhere, or to 64 neighbours (the buffers of a driver that is busy now).
template <bool kAnywhere>
void query(benchmark::State& state) {
  constexpr std::size_t kQuestions = std::size_t{1} << 16;
  const auto count = static_cast<std::size_t>(state.range(0));
  Regions regions(count);
  const Array<std::uintptr_t> questions(kQuestions);
  Random random(0x9);
  const std::size_t span = kAnywhere || count < 64 ? count : 64;
  for (std::size_t i = 0; i < kQuestions; ++i) {
    questions[i] = regions.base + random.below(span) * kStride + random.below(4096 - 8);
  }
  std::size_t at = 0;
  for ([[maybe_unused]] auto _ : state) {
    const auto found = regions.allocator.query(questions[at++ % kQuestions], 8);
    if (!found.ok()) std::abort();
    benchmark::DoNotOptimize(found);
  }
  state.counters["regions"] = static_cast<double>(count);
}

BENCHMARK(query<true>)->Name("query/anywhere")->Arg(1)->Arg(1'000)->Arg(1'000'000);
BENCHMARK(query<false>)->Name("query/nearby")->Arg(1)->Arg(1'000)->Arg(1'000'000);

}  // namespace
}  // namespace bench
