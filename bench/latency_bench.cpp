// Workload h: how long single calls take, in the steady state of c4.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "policies.hpp"
#include "ticks.hpp"
#include "workloads.hpp"

namespace bench {
namespace {

void report(benchmark::State& state, const char* call, const Durations& durations) {
  const std::string name(call);
  state.counters[name + "_p50"] = durations.ns(0.5);
  state.counters[name + "_p99"] = durations.ns(0.99);
  state.counters[name + "_p999"] = durations.ns(0.999);
  state.counters[name + "_max"] = durations.ns(1);
}

template <class Policy>
void latency(benchmark::State& state) {
  constexpr std::size_t kCalls = std::size_t{1} << 19;
  static Durations allocations(kCalls), deallocations(kCalls);
  Churn<Policy>& blocks = small_churn<Policy, 10'000>();
  // Blocks whose first use was in the warm-up come and go some more.
  for (int i = 0; i < 100'000; ++i) blocks.template replace<true>();
  const std::uint64_t before = Policy::host_calls();
  for ([[maybe_unused]] auto _ : state) {
    for (std::size_t i = 0; i < kCalls; ++i) blocks.replace_timed(allocations, deallocations);
  }
  state.counters["host_calls"] = static_cast<double>(Policy::host_calls() - before);
  state.counters["calls"] = kCalls;
  report(state, "allocate", allocations);
  report(state, "deallocate", deallocations);
}

template <class Policy>
void add() {
  benchmark::RegisterBenchmark((std::string("h/") + Policy::kName).c_str(), latency<Policy>)
      ->Iterations(1);
}

[[maybe_unused]] const bool added = [] {
  add<NullPolicy>();
  add<MallocPolicy>();
  add<ExclavePolicy>();
  return true;
}();

}  // namespace
}  // namespace bench
