// Time of single calls and short stretches, by the processor's time stamp counter, and what stands
// out among many of them. Wall time: whoever was interrupted shows it, so look at quantiles.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "sequences.hpp"

namespace bench {

// Nothing before it is still under way, nothing after it has begun.
inline std::uint64_t ticks() {
  _mm_lfence();
  const std::uint64_t now = __rdtsc();
  _mm_lfence();
  return now;
}

inline double ns_per_tick() {
  static const double ratio = [] {
    using Clock = std::chrono::steady_clock;
    struct Moment {
      std::uint64_t tick;
      Clock::time_point time;
    };
    // Of some tries the one that was disturbed least between the two clocks.
    const auto moment = [] {
      Moment best{};
      std::uint64_t smallest = ~std::uint64_t{0};
      for (int i = 0; i < 16; ++i) {
        const std::uint64_t before = ticks();
        const Clock::time_point time = Clock::now();
        const std::uint64_t gap = ticks() - before;
        if (gap < smallest) smallest = gap, best = {before + gap / 2, time};
      }
      return best;
    };
    const Moment start = moment();
    while (Clock::now() - start.time < std::chrono::milliseconds(20)) _mm_pause();
    const Moment end = moment();
    const std::chrono::duration<double, std::nano> passed = end.time - start.time;
    return passed.count() / static_cast<double>(end.tick - start.tick);
  }();
  return ratio;
}

// Durations of one kind of call; of more than it has room for, the latest.
class Durations {
 public:
  explicit Durations(std::size_t room) : ticks_(room) {}

  void add(std::uint64_t duration) {
    ticks_[count_++ % ticks_.size()] =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(duration, UINT32_MAX));
  }
  void clear() { count_ = 0; }
  // The share of calls that took no longer; 0.5 is the median, 1 the longest. Reorders.
  double ns(double share) const {
    const std::size_t n = std::min(count_, ticks_.size());
    if (n == 0) return 0;
    const auto at = std::min(n - 1, static_cast<std::size_t>(share * static_cast<double>(n)));
    std::nth_element(ticks_.data(), ticks_.data() + at, ticks_.data() + n);
    return static_cast<double>(ticks_[at]) * ns_per_tick();
  }

 private:
  Array<std::uint32_t> ticks_;
  std::size_t count_ = 0;
};

}  // namespace bench
