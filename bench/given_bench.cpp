// Workloads pa to ps: the sequences of a to g on memory that somebody else brings, beside those who
// can serve from it (given_policies.hpp), and beside exclave's grown memory.
#include "given_policies.hpp"
#include "pairs.hpp"

namespace bench {
namespace {

// Some 800 MB are live.
template <class Policy>
void replace_many(benchmark::State& state) {
  given_bytes = std::size_t{2} << 30;
  replace_small<Policy, 100'000>(state);
}

template <class Policy>
void add_given() {
  add<Policy>("pa", pairs<Policy>);
  add<Policy>("pb", batches<Policy>);
  add<Policy>("pc3", replace_small<Policy, 1'000>);
  add<Policy>("pc4", replace_small<Policy, 10'000>);
  add<Policy>("pc5", replace_many<Policy>);
  add<Policy>("pd", replace_large<Policy>);
  add<Policy>("pe", batches<Policy>)->Threads(2);
  add<Policy>("pf", producer_consumer<Policy>)->Threads(2);
  add<Policy>("pg0", page_runs<Policy, 1, 512>);
  add<Policy>("pg3", page_runs<Policy, 8, 512>);
  add<Policy>("ps4", batches<Policy>)->Threads(4);
  add<Policy>("ps8", batches<Policy>)->Threads(8);
}

// pr: a pool comes, a block of each of some sizes is taken, some are given back, and the pool is
// taken away under the rest.
void storm(benchmark::State& state) {
  constexpr std::size_t kPoolBytes = std::size_t{1} << 20;
  constexpr std::size_t kBlocks = 16;
  exclave::Allocator& allocator = exclave_allocator();
  const exclave::Extent range = given_range(kPoolBytes);
  for ([[maybe_unused]] auto _ : state) {
    const exclave::Placement where = exclave::Placement::in_pool(attach_given(range));
    exclave::untrusted_bytes blocks[kBlocks];
    for (std::size_t i = 0; i < kBlocks; ++i) {
      const auto block = allocator.allocate(std::size_t{64} << (i % 4), 16, where);
      if (!block.ok()) stop("the pool is full");
      blocks[i] = *block;
    }
    for (std::size_t i = 0; i < kBlocks; i += 2) {
      if (!allocator.deallocate(blocks[i]).ok()) stop("deallocate failed");
    }
    if (!allocator.detach(range, exclave::DetachMode::kRevoke).ok()) stop("detach failed");
  }
  report(state, 1, 0);
}

[[maybe_unused]] const bool added = [] {
  add_given<NullPolicy>();
  add_given<ExclavePolicy>();
  add_given<ExclaveGivenPolicy<Given::kPool>>();
  add_given<ExclaveGivenPolicy<Given::kDevice>>();
  add_given<ExclaveGivenPolicy<Given::kManyPools>>();
  add_given<PeerPolicy<MemkindPeer>>();
  add_given<PeerPolicy<JemallocPeer>>();
  add_given<PeerPolicy<MimallocPeer>>();
  add_given<PeerPolicy<DpdkPeer>>();
#if EXCLAVE_BENCH_BOOST
  add_given<PeerPolicy<BoostPeer>>();
#endif
  add_given<PeerPolicy<OtherPeer>>();
  benchmark::RegisterBenchmark("pr/exclave-pool", storm);
  return true;
}();

}  // namespace
}  // namespace bench
