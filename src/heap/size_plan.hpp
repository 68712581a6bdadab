// How a request is served, from its size and alignment.
#pragma once

#include <cstddef>
#include <cstdint>

#include "exclave/result.hpp"
#include "exclave/types.hpp"
#include "page/run_map.hpp"
#include "region/region.hpp"
#include "slab/size_class.hpp"

namespace exclave {

constexpr std::size_t kDefaultAlignment = 16;

// A sized free must arrive at the same plan.
struct SizePlan {
  SizeClass size_class = kSizeClasses;  // kSizeClasses: a run of pages
  std::uint64_t pages = 0;
  unsigned align_order = 0;  // log2 of pages

  // Errors: kInvalidArgument.
  static Result<SizePlan> of(std::size_t size, std::size_t alignment) noexcept {
    if (size == 0 || size > PTRDIFF_MAX || !is_power_of_two(alignment) ||
        alignment > kMaxAlignment) {
      return Error::kInvalidArgument;
    }
    SizePlan plan;
    if (size <= kMaxSmallBytes && alignment <= kMaxSmallAlignment) {
      plan.size_class =
          alignment <= kDefaultAlignment ? size_class_of(size) : size_class_of(size, alignment);
    }
    if (plan.size_class == kSizeClasses) {
      plan.pages = pages_for(size);
      plan.align_order = alignment <= kPageBytes ? 0 : floor_log2(alignment) - kPageShift;
    }
    return plan;
  }
};

// In pages, as the page room takes it.
inline std::uint64_t boundary_of(const Region& region) noexcept {
  return region.boundary == 0 ? kNoBoundary : region.boundary >> kPageShift;
}

// The class that serves where no block may cross such a boundary, which the size is not above: a
// power of two at its own alignment crosses none that is at least as large.
inline SizeClass class_within(SizeClass c, std::uint64_t boundary) noexcept {
  if (c == kSizeClasses || boundary == kNoBoundary) return c;
  return size_class_of(std::size_t{1} << ceil_log2(size_class_bytes(c)));
}

// Does the region serve blocks of that size at all?
inline bool may_hold(const Region& region, std::size_t size) noexcept {
  return (region.largest_block == 0 || size <= region.largest_block) &&
         (region.boundary == 0 || size <= region.boundary);
}

}  // namespace exclave
