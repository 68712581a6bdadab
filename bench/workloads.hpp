// The steps that the workloads repeat, for each policy: what is timed and counted.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "policies.hpp"
#include "sequences.hpp"
#include "ticks.hpp"

namespace bench {

// a: one block of 64 bytes.
template <class Policy>
void pair_64() {
  const typename Policy::Block block = Policy::allocate(64);
  benchmark::DoNotOptimize(block);
  Policy::deallocate(block);
}

// One thread's part of b and e.
template <class Policy>
class Lane {
 public:
  explicit Lane(std::uint64_t seed) : batch_(seed), blocks_(Batch::kBlocks) {}

  // 10,000 blocks of 16 to 1024 bytes, freed in random order.
  void run() const {
    for (std::size_t i = 0; i < Batch::kBlocks; ++i) {
      blocks_[i] = Policy::allocate(batch_.sizes[i]);
    }
    for (std::size_t i = 0; i < Batch::kBlocks; ++i) {
      Policy::deallocate(blocks_[batch_.free_order[i]]);
    }
  }

 private:
  Batch batch_;
  Array<typename Policy::Block> blocks_;
};

// The steady state of c, d and h. Lives as long as the program, so that it is filled once.
template <class Policy>
class Churn {
 public:
  Churn(std::uint64_t seed, std::size_t live, double low, double high, bool write)
      : plan_(seed, live, std::max(kFewestSteps, std::bit_ceil(live)), low, high),
        mask_(plan_.steps.size() - 1),
        blocks_(live) {
    Random random(~seed);
    for (std::size_t i = 0; i < live; ++i) {
      blocks_[i] = Policy::allocate(random.log_uniform(low, high));
      if (write) Policy::write_word(blocks_[i], i);
    }
    for (std::size_t i = 0; i < 2 * live; ++i) {
      write ? replace<true>() : replace<false>();
    }
  }

  template <bool kWrite>
  void replace() {
    const Replacement step = next();
    Policy::deallocate(blocks_[step.victim]);
    const typename Policy::Block block = Policy::allocate(step.size);
    if constexpr (kWrite) Policy::write_word(block, step.size);
    blocks_[step.victim] = block;
  }

  // h: the same, each call timed alone.
  void replace_timed(Durations& allocations, Durations& deallocations) {
    const Replacement step = next();
    const std::uint64_t start = ticks();
    Policy::deallocate(blocks_[step.victim]);
    const std::uint64_t between = ticks();
    const typename Policy::Block block = Policy::allocate(step.size);
    const std::uint64_t end = ticks();
    Policy::write_word(block, step.size);
    blocks_[step.victim] = block;
    deallocations.add(between - start);
    allocations.add(end - between);
  }

 private:
  // Not less than there are live blocks, else some would stay for ever.
  static constexpr std::size_t kFewestSteps = std::size_t{1} << 17;

  Replacement next() { return plan_.steps[at_++ & mask_]; }

  Replacements plan_;
  std::size_t mask_;
  Array<typename Policy::Block> blocks_;
  std::size_t at_ = 0;
};

// c3 to c6: 16 bytes to 64 KiB, the first word written (c3u and the like: not touched). d: 64 KiB
// to 4 MiB, not touched.
template <class Policy, std::size_t kLive, bool kWrite = true>
Churn<Policy>& small_churn() {
  static Churn<Policy> blocks(0xc0 + kLive, kLive, 16, 65536, kWrite);
  return blocks;
}
template <class Policy>
Churn<Policy>& large_churn() {
  static Churn<Policy> blocks(0xd0, 64, 65536, 4 << 20, false);
  return blocks;
}

}  // namespace bench
