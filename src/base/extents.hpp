// What is done with ranges of addresses: cut, joined, widened to whole pages. None of them wraps
// (Extent::end() may be looked at) unless it says otherwise.
#pragma once

#include "base/units.hpp"

namespace exclave {

// Does [address, address + size) lie in the extent? Size 0 stands for the single address. Right for
// any address and size, also where their sum wraps.
template <class W = std::uintptr_t>
constexpr Truth<W> lies_in(Given<BasicExtent<W>> extent, Given<W> address, Given<W> size) noexcept {
  const W offset = address - extent.base;
  return offset < extent.size && size <= extent.size - offset;
}

// The addresses that both have. Precondition: they overlap.
template <class W = std::uintptr_t>
constexpr BasicExtent<W> common(Given<BasicExtent<W>> a, Given<BasicExtent<W>> b) noexcept {
  const W low = select(a.base > b.base, a.base, b.base);
  const W high = select(a.end() < b.end(), a.end(), b.end());
  return {low, high - low};
}

template <class W>
struct Parts {
  BasicExtent<W> below, inside, above;
};

// A range as what lies below another, in it and above it; each may be empty.
template <class W = std::uintptr_t>
constexpr Parts<W> cut_by(Given<BasicExtent<W>> range, Given<BasicExtent<W>> other) noexcept {
  const auto between = [](const W& low, const W& high) noexcept {
    return BasicExtent<W>{select(high > low, low, W(0)), select(high > low, high - low, W(0))};
  };
  const auto least = [](const W& a, const W& b) noexcept { return select(a < b, a, b); };
  const auto most = [](const W& a, const W& b) noexcept { return select(a > b, a, b); };
  return {between(range.base, least(range.end(), other.base)),
          between(most(range.base, other.base), least(range.end(), other.end())),
          between(most(range.base, other.end()), range.end())};
}

template <class W>
struct Halves {
  BasicExtent<W> low, high;
};

// Precondition: extent.base < at < extent.end().
template <class W = std::uintptr_t>
constexpr Halves<W> split_at(Given<BasicExtent<W>> extent, Given<W> at) noexcept {
  const W low = at - extent.base;
  return {{extent.base, low}, {at, extent.size - low}};
}

template <class W = std::uintptr_t>
constexpr Truth<W> adjoin(Given<BasicExtent<W>> low, Given<BasicExtent<W>> high) noexcept {
  return low.end() == high.base;
}
// Precondition: adjoin(low, high).
template <class W = std::uintptr_t>
constexpr BasicExtent<W> joined(Given<BasicExtent<W>> low, Given<BasicExtent<W>> high) noexcept {
  return {low.base, low.size + high.size};
}

// The pages that the range touches. Precondition: it ends at kAddressLimit at the latest.
template <class W = std::uintptr_t>
constexpr BasicExtent<W> whole_pages(Given<BasicExtent<W>> range) noexcept {
  const W first = align_down<W>(range.base, kPageBytes);
  return {first, align_up<W>(range.end(), kPageBytes) - first};
}

// The page range that an address and a length of a memory call stand for. False, with *range as it
// was: unaligned, empty, wrapping, beyond the lower half.
template <class W = std::uintptr_t>
constexpr Truth<W> decode_pages(Given<W> address, Given<W> length, BasicExtent<W>* range) noexcept {
  W size = 0;
  const Truth<W> good = checked_align_up<W>(length, kPageBytes, &size) &&
                        is_aligned<W>(address, kPageBytes) && length != 0 &&
                        size <= kAddressLimit && address <= kAddressLimit - size;
  range->base = select(good, W(address), range->base);
  range->size = select(good, size, range->size);
  return good;
}

}  // namespace exclave
