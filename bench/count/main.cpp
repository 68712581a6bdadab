// Runs a workload a fixed number of times, for bench/count.py to count its instructions:
//   exclave_bench_count WORKLOAD POLICY TIMES
// pa, pb and so on: exclave does a, b in an attached pool.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../given_policies.hpp"
#include "../workloads.hpp"

namespace bench {
namespace {

// How many pairs were done; 0: no such workload.
template <class Policy>
unsigned long run(const char* workload, unsigned long times) {
  if (std::strcmp(workload, "a") == 0) {
    // The first blocks of a class come by the slow path.
    for (int i = 0; i < 100; ++i) pair_64<Policy>();
    for (unsigned long i = 0; i < times; ++i) pair_64<Policy>();
    return times;
  }
  if (std::strcmp(workload, "b") == 0) {
    static const Lane<Policy> lane(0xb1);
    for (int i = 0; i < 3; ++i) lane.run();
    const unsigned long rounds = (times + Batch::kBlocks - 1) / Batch::kBlocks;
    for (unsigned long i = 0; i < rounds; ++i) lane.run();
    return rounds * Batch::kBlocks;
  }
  if (std::strcmp(workload, "c3") == 0 || std::strcmp(workload, "c4") == 0) {
    Churn<Policy>& blocks =
        workload[1] == '3' ? small_churn<Policy, 1'000>() : small_churn<Policy, 10'000>();
    for (int i = 0; i < 30'000; ++i) blocks.template replace<true>();
    for (unsigned long i = 0; i < times; ++i) blocks.template replace<true>();
    return times;
  }
  if (std::strcmp(workload, "d") == 0) {
    Churn<Policy>& blocks = large_churn<Policy>();
    for (int i = 0; i < 1'000; ++i) blocks.template replace<false>();
    for (unsigned long i = 0; i < times; ++i) blocks.template replace<false>();
    return times;
  }
  return 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const char* const policy = argv[2];
  const unsigned long times = std::strtoul(argv[3], nullptr, 10);
  const bool in_pool = argv[1][0] == 'p';
  const char* const workload = argv[1] + (in_pool ? 1 : 0);
  using Pool = bench::ExclaveGivenPolicy<bench::Given::kPool>;
  unsigned long pairs = 0;
  if (std::strcmp(policy, "null") == 0) pairs = bench::run<bench::NullPolicy>(workload, times);
  if (std::strcmp(policy, "malloc") == 0 && !in_pool)
    pairs = bench::run<bench::MallocPolicy>(workload, times);
  if (std::strcmp(policy, "exclave") == 0)
    pairs = in_pool ? bench::run<Pool>(workload, times)
                    : bench::run<bench::ExclavePolicy>(workload, times);
  std::printf("%lu\n", pairs);
  return pairs != 0 ? 0 : 2;
}
