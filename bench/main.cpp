// The program that bench/run.py runs, once for each allocator and round. By hand, for one figure:
//   build/bench/exclave_bench --benchmark_filter=^c3/exclave$
// Names: WORKLOAD/POLICY (a to h), peak-c4/POLICY, books/BYTES, i/REGIONS, k, m/AREAS,
// query/WHERE/REGIONS, copy/HOW/BYTES/UNTRUSTED-ALIGN/TRUSTED-ALIGN.
#include <benchmark/benchmark.h>
#include <dlfcn.h>

#include <cstdlib>

int main(int argc, char** argv) {
  // Which library answers malloc: the driver checks that the peer it preloaded is the one measured.
  Dl_info info{};
  void* const address = dlsym(RTLD_DEFAULT, "malloc");
  if (dladdr(address, &info) != 0) benchmark::AddCustomContext("malloc_from", info.dli_fname);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  return benchmark::RunSpecifiedBenchmarks() != 0 ? 0 : 1;
}
