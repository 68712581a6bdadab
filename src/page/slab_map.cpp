#include "page/slab_map.hpp"

namespace exclave {
namespace {

constexpr std::uint64_t kLeastGrains = (std::size_t{64} << 20) / SlabMap::kGrainBytes;
// A host that puts regions far from each other must not make the books large: a window of eight
// times the pool's memory costs 0.05 % of it, and a small one 16 KiB.
constexpr std::uint64_t kMostSpread = 8;
constexpr std::uint64_t kSmallGrains = 4 * kLeastGrains;
constexpr std::uint64_t kAllGrains = kAddressLimit >> SlabMap::kGrainShift;

}  // namespace

void SlabMap::cover(Extent region, std::size_t pool_bytes) noexcept {
  Window& old = *window_.load(std::memory_order_relaxed);
  std::uint64_t low = region.base >> kGrainShift;
  std::uint64_t high = ((region.end() - 1) >> kGrainShift) + 1;
  if (old.count != 0) {
    if (low >= old.first && high <= old.first + old.count) return;
    if (old.first < low) low = old.first;
    if (old.first + old.count > high) high = old.first + old.count;
  }
  std::uint64_t count = high - low;
  if (count < 2 * old.count) count = 2 * old.count;
  if (count < kLeastGrains) count = kLeastGrains;
  if (count > kSmallGrains && count > kMostSpread * (pool_bytes >> kGrainShift)) {
    has_gaps_ = true;
    return;
  }
  // The room to grow lies where the newcomer lies; at first below, where a host that fills its
  // address space downward goes on.
  const bool downward = old.count == 0 || low < old.first;
  std::uint64_t first = downward ? (high > count ? high - count : 0) : low;
  if (first + count > kAllGrains) first = kAllGrains - count;

  void* const memory =
      books_.allocate(BookKind::kSlabMap, sizeof(Window) + count * sizeof(std::atomic<BookRef>));
  if (memory == nullptr) {
    has_gaps_ = true;
    return;
  }
  Window& window = *static_cast<Window*>(memory);
  window.first = first;
  window.count = count;
  for (std::uint64_t i = 0; i < old.count; ++i) {
    window.slabs()[old.first + i - first].store(old.slabs()[i].load(std::memory_order_relaxed),
                                                std::memory_order_relaxed);
  }
  window_.store(&window, std::memory_order_release);
}

void SlabMap::enter(Extent slab, BookRef ref) noexcept {
  Window& window = *window_.load(std::memory_order_relaxed);
  const std::uint64_t end = slab.end() >> kGrainShift;
  for (std::uint64_t grain = ceil_div(slab.base, kGrainBytes); grain < end; ++grain) {
    const std::uint64_t i = grain - window.first;
    if (i < window.count) window.slabs()[i].store(ref, std::memory_order_release);
  }
}

}  // namespace exclave
