#include "tools/heap_map.hpp"

#include <algorithm>

namespace exclave::tools {
namespace {

std::string name_of(const RegionInfo& info, const RegionNames& names) {
  const auto named = std::find_if(names.begin(), names.end(),
                                  [&info](const auto& entry) { return entry.first == info.id; });
  if (named != names.end()) {
    return named->second;
  }
  return info.grown ? "grown" : "attached";
}

}  // namespace

std::size_t RegionPicture::free_bytes() const noexcept {
  std::size_t sum = 0;
  for (const RunInfo& run : runs) {
    sum += run.kind == RunInfo::Kind::kFree ? run.extent.size : 0;
  }
  return sum;
}

std::size_t RegionPicture::largest_free_bytes() const noexcept {
  // Neighbours of different order are separate runs, but one piece to whoever looks at the picture.
  std::size_t largest = 0;
  std::size_t piece = 0;
  for (const RunInfo& run : runs) {
    piece = run.kind == RunInfo::Kind::kFree ? piece + run.extent.size : 0;
    largest = std::max(largest, piece);
  }
  return largest;
}

std::size_t RegionPicture::pinned_bytes() const noexcept {
  std::size_t sum = 0;
  for (const RunInfo& run : runs) {
    sum += run.pinned ? run.extent.size : 0;
  }
  return sum;
}

double HeapMap::fragmentation() const noexcept {
  std::size_t free = 0;
  std::size_t largest = 0;
  for (const RegionPicture& region : regions) {
    free += region.free_bytes();
    largest += region.largest_free_bytes();
  }
  return free == 0 ? 0.0 : 1.0 - static_cast<double>(largest) / static_cast<double>(free);
}

HeapMap take_heap_map(const Allocator& allocator, const RegionNames& names) {
  HeapMap map;
  std::uintptr_t at = 0;
  for (;;) {
    const Result<RegionInfo> region = allocator.next_region(at);
    if (!region) {
      break;
    }
    RegionPicture picture;
    picture.name = name_of(*region, names);
    picture.info = *region;
    if (region->role == Role::kPool) {
      for (std::uintptr_t run_at = region->extent.base; run_at < region->extent.end();) {
        const Result<RunInfo> run = allocator.next_run(run_at);
        if (!run) {
          break;
        }
        picture.runs.push_back(*run);
        run_at = run->extent.end();
      }
    }
    at = region->extent.end();
    map.regions.push_back(std::move(picture));
  }
  map.statistics = allocator.statistics();
  return map;
}

}  // namespace exclave::tools
