// What the workloads do, decided before the clock starts: sizes and orders, always the same ones.
#pragma once

#include <sys/mman.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace bench {

// The harness's own memory, straight from the kernel: the same wherever malloc comes from, and
// always in small pages. Never given back.
template <class T>
class Array {
 public:
  explicit Array(std::size_t count) : count_(count) {
    const std::size_t bytes = count * sizeof(T);
    void* const mapped =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    (void)madvise(mapped, bytes, MADV_NOHUGEPAGE);
    std::memset(mapped, 0, bytes);  // so that no page fault is timed
    items_ = static_cast<T*>(mapped);
  }
  Array(Array&&) = delete;
  T& operator[](std::size_t i) const { return items_[i]; }
  T* data() const { return items_; }
  std::size_t size() const { return count_; }

 private:
  T* items_;
  std::size_t count_;
};

// SplitMix64: a new stream for each seed.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // Below the bound, which is at most 2^32.
  std::uint32_t below(std::uint64_t bound) {
    return static_cast<std::uint32_t>(((next() >> 32) * bound) >> 32);
  }
  // Each doubling from low to high is as likely as any other.
  std::uint32_t log_uniform(double low, double high) {
    const double unit = static_cast<double>(next() >> 11) * 0x1p-53;
    return static_cast<std::uint32_t>(low * std::exp(unit * std::log(high / low)));
  }

 private:
  std::uint64_t state_;
};

// Workloads b, e, f: so many blocks, and the order in which they are freed.
struct Batch {
  static constexpr std::size_t kBlocks = 10'000;

  explicit Batch(std::uint64_t seed) : sizes(kBlocks), free_order(kBlocks) {
    Random random(seed);
    for (std::size_t i = 0; i < kBlocks; ++i) {
      sizes[i] = static_cast<std::uint16_t>(16 + random.below(1024 - 16 + 1));
      free_order[i] = static_cast<std::uint16_t>(i);
    }
    for (std::size_t i = kBlocks - 1; i > 0; --i) {
      std::swap(free_order[i], free_order[random.below(i + 1)]);
    }
  }

  Array<std::uint16_t> sizes;
  Array<std::uint16_t> free_order;
};

// Workloads c and d: which live block is replaced next, by one of which size.
struct Replacement {
  std::uint32_t victim;
  std::uint32_t size;
};

struct Replacements {
  Replacements(std::uint64_t seed, std::size_t live, std::size_t count, double low, double high)
      : steps(count) {
    Random random(seed);
    for (std::size_t i = 0; i < count; ++i) {
      steps[i] = {random.below(live), random.log_uniform(low, high)};
    }
  }

  Array<Replacement> steps;
};

}  // namespace bench
