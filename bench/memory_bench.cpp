// Workload l: what memory costs besides the callers' bytes.
//   books/BYTES          trusted memory of exclave, for 512 MiB of blocks of that size
//   peak-c4/POLICY       the resident set at its largest, in the sequence of c4, each byte of each
//                        block written; for all measured alike, the allocator's books in
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "policies.hpp"
#include "proc.hpp"
#include "sequences.hpp"

namespace bench {
namespace {

void books(benchmark::State& state) {
  constexpr std::size_t kLive = std::size_t{512} << 20;
  const auto size = static_cast<std::size_t>(state.range(0));
  exclave::Statistics now;
  for ([[maybe_unused]] auto _ : state) {
    const auto port = exclave::ProcessPort::create();
    if (!port.ok()) std::abort();
    auto allocator = exclave::Allocator::create((*port)->table());
    if (!allocator.ok()) std::abort();
    for (std::size_t i = 0; i < kLive / size; ++i) {
      if (!allocator->allocate(size).ok()) std::abort();
    }
    now = allocator->statistics();
  }
  state.counters["live_bytes"] = static_cast<double>(now.live_bytes);
  state.counters["reserved_bytes"] = static_cast<double>(now.reserved_bytes);
  state.counters["trusted_bytes"] = static_cast<double>(now.trusted_bytes);
  state.counters["trusted_used_bytes"] = static_cast<double>(now.trusted_used_bytes);
}

std::size_t status_bytes(const char* name) {
  const std::size_t bytes = proc_bytes("/proc/self/status", name);
  if (bytes == 0) std::abort();
  return bytes;
}

// VmHWM starts anew from what is resident now. Where that is not allowed, little is lost: what this
// program held before was smaller than what follows.
void forget_peak() {
  const int file = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (file < 0) return;
  [[maybe_unused]] const ssize_t written = write(file, "5", 1);
  close(file);
}

template <class Policy, std::size_t kLive>
void peak(benchmark::State& state) {
  const Array<typename Policy::Block> blocks(kLive);
  const Array<std::uint32_t> sizes(kLive);
  Random random(0xc0 + kLive);
  forget_peak();
  const std::size_t baseline = status_bytes("VmRSS:");
  std::size_t live = 0, most_live = 0, most_reserved = 0;
  const auto place = [&](std::size_t at) {
    sizes[at] = random.log_uniform(16, 65536);
    blocks[at] = Policy::allocate(sizes[at]);
    Policy::fill(blocks[at], sizes[at]);
    live += sizes[at];
    most_live = std::max(most_live, live);
  };
  for ([[maybe_unused]] auto _ : state) {
    for (std::size_t i = 0; i < kLive; ++i) place(i);
    for (std::size_t i = 0; i < 2 * kLive; ++i) {
      const std::size_t at = random.below(kLive);
      Policy::deallocate(blocks[at]);
      live -= sizes[at];
      place(at);
      if (i % (kLive / 8) == 0) most_reserved = std::max(most_reserved, Policy::reserved_bytes());
    }
  }
  state.counters["peak_live_bytes"] = static_cast<double>(most_live);
  state.counters["peak_resident_bytes"] = static_cast<double>(status_bytes("VmHWM:") - baseline);
  state.counters["peak_reserved_bytes"] = static_cast<double>(most_reserved);
}

template <class Policy>
void add() {
  const std::string name = std::string("/") + Policy::kName;
  using benchmark::RegisterBenchmark;
  RegisterBenchmark(("peak-c3" + name).c_str(), peak<Policy, 1'000>)->Iterations(1);
  RegisterBenchmark(("peak-c4" + name).c_str(), peak<Policy, 10'000>)->Iterations(1);
  RegisterBenchmark(("peak-c5" + name).c_str(), peak<Policy, 100'000>)->Iterations(1);
}

BENCHMARK(books)->Arg(64)->Arg(4 << 10)->Arg(16 << 10)->Arg(64 << 10)->Iterations(1);

[[maybe_unused]] const bool added = [] {
  add<MallocPolicy>();
  add<ExclavePolicy>();
  return true;
}();

}  // namespace
}  // namespace bench
