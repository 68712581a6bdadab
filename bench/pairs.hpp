// Workloads a to g as benchmarks, for each policy: pairs of one allocation and one free.
//
// What is measured is CPU time, summed over threads, so that a neighbour on the machine disturbs
// little. Each benchmark reports how many pairs one iteration stands for; bench/run.py divides.
#pragma once

#include <benchmark/benchmark.h>
#include <sched.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "policies.hpp"
#include "proc.hpp"
#include "sequences.hpp"
#include "ticks.hpp"
#include "workloads.hpp"

namespace bench {

inline void report(benchmark::State& state, double pairs_per_iteration, std::uint64_t host_calls) {
  using benchmark::Counter;
  state.counters["pairs_per_iteration"] = Counter(pairs_per_iteration, Counter::kAvgThreads);
  state.counters["host_calls"] = Counter(static_cast<double>(host_calls), Counter::kAvgThreads);
  state.counters["huge_bytes"] =
      Counter(static_cast<double>(huge_page_bytes()), Counter::kAvgThreads);
}

// a: one block of 64 bytes, over and over.
template <class Policy>
void pairs(benchmark::State& state) {
  pair_64<Policy>();
  const std::uint64_t before = Policy::host_calls();
  for ([[maybe_unused]] auto _ : state) pair_64<Policy>();
  report(state, 1, Policy::host_calls() - before);
}

// b, e and ps: 10,000 blocks of 16 to 1024 bytes, freed in random order; with several threads, each
// its own blocks.
template <class Policy>
void batches(benchmark::State& state) {
  static const Lane<Policy> lanes[] = {Lane<Policy>(0xb1), Lane<Policy>(0xb2), Lane<Policy>(0xb3),
                                       Lane<Policy>(0xb4), Lane<Policy>(0xb5), Lane<Policy>(0xb6),
                                       Lane<Policy>(0xb7), Lane<Policy>(0xb8)};
  const Lane<Policy>& lane = lanes[state.thread_index()];
  lane.run();
  const std::uint64_t before = Policy::host_calls();
  for ([[maybe_unused]] auto _ : state) lane.run();
  report(state, Batch::kBlocks, Policy::host_calls() - before);
}

template <class Policy, bool kWrite>
void churn(benchmark::State& state, Churn<Policy>& blocks) {
  const std::uint64_t before = Policy::host_calls();
  for ([[maybe_unused]] auto _ : state) blocks.template replace<kWrite>();
  report(state, 1, Policy::host_calls() - before);
}

// c3 to c6: one of 1e3, 1e4, 1e5, 1e6 live blocks replaced by one of 16 bytes to 64 KiB,
// log-uniform; the first word is written. c3u, c4u, c5u: not touched.
template <class Policy, std::size_t kLive, bool kWrite = true>
void replace_small(benchmark::State& state) {
  churn<Policy, kWrite>(state, small_churn<Policy, kLive, kWrite>());
}

// d: one of 64 live blocks replaced by one of 64 KiB to 4 MiB, log-uniform; not touched.
template <class Policy>
void replace_large(benchmark::State& state) {
  churn<Policy, false>(state, large_churn<Policy>());
}

// f: one thread allocates blocks as in b, the other frees them, in order, through a ring.
template <class Policy>
class Ring {
 public:
  void put(typename Policy::Block block) {
    while (tail_ - seen_head_ == kSlots) {
      seen_head_ = head_out_.load(std::memory_order_acquire);
      if (tail_ - seen_head_ == kSlots) wait();
    }
    slots_[tail_++ % kSlots] = block;
    if (tail_ % kStep == 0) tail_out_.store(tail_, std::memory_order_release);
  }
  typename Policy::Block take() {
    while (head_ == seen_tail_) {
      seen_tail_ = tail_out_.load(std::memory_order_acquire);
      if (head_ == seen_tail_) wait();
    }
    const typename Policy::Block block = slots_[head_++ % kSlots];
    if (head_ % kStep == 0) head_out_.store(head_, std::memory_order_release);
    return block;
  }

  static constexpr std::size_t kSlots = 1024;
  static constexpr std::size_t kStep = 8;  // tells the other side once for a line of slots

 private:
  // Gives the processor away soon: there may be only one for both threads.
  static void wait() {
    for (int i = 0; i < 64; ++i) __builtin_ia32_pause();
    sched_yield();
  }

  alignas(64) std::size_t tail_ = 0, seen_head_ = 0;
  alignas(64) std::atomic<std::size_t> tail_out_{0};
  alignas(64) std::size_t head_ = 0, seen_tail_ = 0;
  alignas(64) std::atomic<std::size_t> head_out_{0};
  alignas(64) typename Policy::Block slots_[kSlots] = {};
};

template <class Policy>
void producer_consumer(benchmark::State& state) {
  static Ring<Policy> ring;
  static const Batch batch(0xf0);
  constexpr std::size_t kPairs = 8'000;
  static_assert(kPairs <= Batch::kBlocks && kPairs % Ring<Policy>::kStep == 0);
  const std::uint64_t before = Policy::host_calls();
  if (state.thread_index() == 0) {
    for ([[maybe_unused]] auto _ : state) {
      for (std::size_t i = 0; i < kPairs; ++i) ring.put(Policy::allocate(batch.sizes[i]));
    }
  } else {
    for ([[maybe_unused]] auto _ : state) {
      for (std::size_t i = 0; i < kPairs; ++i) Policy::deallocate(ring.take());
    }
  }
  // Half a pair is one thread's share of it.
  report(state, kPairs / 2.0, Policy::host_calls() - before);
}

// g0, g3, g9: runs of 1, 8, 512 pages, a batch of them taken, then given back in random order, each
// half timed; not touched. A batch of the largest is 32 MiB, for allocators give more than that
// back to the host.
template <class Policy, std::size_t kPages, std::size_t kRuns>
void page_runs(benchmark::State& state) {
  constexpr std::size_t kOrders = 64;
  static const Array<typename Policy::Block> runs(kRuns);
  static const Array<std::uint16_t> orders(kOrders * kRuns);
  static Durations gets(1 << 16), puts(1 << 16);
  Random random(0x90 + kPages);
  for (std::size_t k = 0; k < kOrders; ++k) {
    std::uint16_t* const order = orders.data() + k * kRuns;
    for (std::size_t i = 0; i < kRuns; ++i) order[i] = static_cast<std::uint16_t>(i);
    for (std::size_t i = kRuns - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  }
  std::size_t turn = 0;
  const auto batch = [&turn] {
    const std::uint16_t* const order = orders.data() + turn++ % kOrders * kRuns;
    const std::uint64_t start = ticks();
    for (std::size_t i = 0; i < kRuns; ++i) {
      runs[i] = Policy::allocate_pages(kPages * exclave::kPageBytes);
    }
    const std::uint64_t between = ticks();
    for (std::size_t i = 0; i < kRuns; ++i) Policy::deallocate(runs[order[i]]);
    const std::uint64_t end = ticks();
    gets.add(between - start);
    puts.add(end - between);
  };
  for (int i = 0; i < 4; ++i) batch();
  gets.clear();
  puts.clear();
  const std::uint64_t before = Policy::host_calls();
  for ([[maybe_unused]] auto _ : state) batch();
  report(state, kRuns, Policy::host_calls() - before);
  state.counters["get_ns"] = gets.ns(0.5) / kRuns;
  state.counters["put_ns"] = puts.ns(0.5) / kRuns;
}

template <class Policy>
benchmark::internal::Benchmark* add(const char* workload, void (*function)(benchmark::State&)) {
  return benchmark::RegisterBenchmark((std::string(workload) + "/" + Policy::kName).c_str(),
                                      function);
}

}  // namespace bench
