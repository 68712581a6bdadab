// A picture of the regions at one moment: who holds what. Taken from the allocator's books, not
// from the memory.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "exclave/allocator.hpp"

namespace exclave::tools {

struct RegionPicture {
  std::string name;
  RegionInfo info{};
  std::vector<RunInfo> runs;  // pools; in the order of their addresses

  std::size_t free_bytes() const noexcept;
  std::size_t largest_free_bytes() const noexcept;
  std::size_t pinned_bytes() const noexcept;
};

struct HeapMap {
  std::vector<RegionPicture> regions;
  Statistics statistics{};

  bool empty() const noexcept { return regions.empty(); }
  // 0: all free memory of the pools is in one piece for each; towards 1: in crumbs.
  double fragmentation() const noexcept;
};

using RegionNames = std::vector<std::pair<RegionId, std::string>>;

// Regions that are not in names are called "grown" or "attached".
HeapMap take_heap_map(const Allocator& allocator, const RegionNames& names);

}  // namespace exclave::tools
