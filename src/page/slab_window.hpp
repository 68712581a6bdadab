// Which grains of 64 KiB a slab fills, and a window of grains that grows.
#pragma once

#include <cstdint>

#include "base/units.hpp"

namespace exclave {

inline constexpr unsigned kGrainShift = 16;
inline constexpr std::size_t kGrainBytes = std::size_t{1} << kGrainShift;
inline constexpr std::uint64_t kAllGrains = kAddressLimit >> kGrainShift;

// Grains by number, [first, first + count).
template <class W>
struct Grains {
  W first = 0;
  W count = 0;
};

// Where in the window the address' grain stands; count or more: it does not, whatever the address.
template <class W = std::uint64_t>
[[gnu::always_inline]] constexpr W grain_index(Given<W> address, Given<W> first) noexcept {
  return (address >> kGrainShift) - first;
}

// The grains that lie wholly in the extent. Precondition: it does not wrap.
template <class W = std::uint64_t>
constexpr Grains<W> whole_grains(Given<BasicExtent<W>> extent) noexcept {
  const W first = ceil_div<W>(extent.base, kGrainBytes);
  const W end = extent.end() >> kGrainShift;
  return {first, select(end > first, end - first, W(0))};
}

// The grains that have a byte in the extent, which is not empty.
template <class W = std::uint64_t>
constexpr Grains<W> touched_grains(Given<BasicExtent<W>> extent) noexcept {
  const W first = extent.base >> kGrainShift;
  return {first, ((extent.end() - 1) >> kGrainShift) + 1 - first};
}

template <class W = std::uint64_t>
constexpr Truth<W> covers_grains(Given<Grains<W>> window, Given<Grains<W>> grains) noexcept {
  return grains.first >= window.first && grains.first + grains.count <= window.first + window.count;
}

// A window around both, of at least `least` grains and twice the old one, which may be empty. The
// room to grow lies where the newcomer lies; at first below, where a host that fills its address
// space downward goes on. It fits the address space if its count is not above kAllGrains.
template <class W = std::uint64_t>
constexpr Grains<W> grown_window(Given<Grains<W>> old, Given<Grains<W>> grains,
                                 Given<W> least) noexcept {
  const auto fresh = old.count == 0;
  const W old_first = select(fresh, grains.first, old.first);
  const W end = grains.first + grains.count;
  const W old_end = select(fresh, end, old.first + old.count);
  const W low = select(old_first < grains.first, old_first, grains.first);
  const W high = select(old_end > end, old_end, end);
  const W needed = select(high - low < 2 * old.count, 2 * old.count, high - low);
  const W count = select(needed < least, least, needed);
  const auto downward = fresh || low < old.first;
  const W first = select(downward, select(high > count, high - count, W(0)), low);
  return {select(first + count > kAllGrains, kAllGrains - count, first), count};
}

}  // namespace exclave
