// The steps that the workloads repeat, for each policy: what is timed and counted.
#pragma once

#include <cstddef>
#include <cstdint>

#include "policies.hpp"
#include "sequences.hpp"

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

// The steady state of c and d. Lives as long as the program, so that it is filled once.
template <class Policy>
class Churn {
 public:
  Churn(std::uint64_t seed, std::size_t live, double low, double high, bool write)
      : plan_(seed, live, kSteps, low, high), blocks_(live), write_(write) {
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
    const Replacement step = plan_.steps[at_++ % kSteps];
    Policy::deallocate(blocks_[step.victim]);
    const typename Policy::Block block = Policy::allocate(step.size);
    if constexpr (kWrite) Policy::write_word(block, step.size);
    blocks_[step.victim] = block;
  }

 private:
  static constexpr std::size_t kSteps = std::size_t{1} << 17;
  Replacements plan_;
  Array<typename Policy::Block> blocks_;
  bool write_;
  std::size_t at_ = 0;
};

// c3, c4, c5: 16 bytes to 64 KiB, the first word written. d: 64 KiB to 4 MiB, not touched.
template <class Policy, std::size_t kLive>
Churn<Policy>& small_churn() {
  static Churn<Policy> blocks(0xc0 + kLive, kLive, 16, 65536, true);
  return blocks;
}
template <class Policy>
Churn<Policy>& large_churn() {
  static Churn<Policy> blocks(0xd0, 64, 65536, 4 << 20, false);
  return blocks;
}

}  // namespace bench
