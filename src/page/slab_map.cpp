#include "page/slab_map.hpp"

namespace exclave {
namespace {

constexpr std::uint64_t kLeastGrains = (std::size_t{64} << 20) / kGrainBytes;
// A host that puts regions far from each other must not make the books large: a window of eight
// times the pool's memory costs 0.05 % of it, and a small one 16 KiB.
constexpr std::uint64_t kMostSpread = 8;
constexpr std::uint64_t kSmallGrains = 4 * kLeastGrains;

}  // namespace

void SlabMap::cover(Extent region, std::size_t pool_bytes) noexcept {
  Window& old = *window_.load(std::memory_order_relaxed);
  const Grains<std::uint64_t> wanted = touched_grains(region);
  if (covers_grains(old.grains, wanted)) return;
  const Grains<std::uint64_t> grown = grown_window(old.grains, wanted, kLeastGrains);
  if (grown.count > kSmallGrains && grown.count > kMostSpread * (pool_bytes >> kGrainShift)) {
    has_gaps_ = true;
    return;
  }

  void* const memory = books_.allocate(BookKind::kSlabMap,
                                       sizeof(Window) + grown.count * sizeof(std::atomic<BookRef>));
  if (memory == nullptr) {
    has_gaps_ = true;
    return;
  }
  Window& window = *static_cast<Window*>(memory);
  window.grains = grown;
  for (std::uint64_t i = 0; i < old.grains.count; ++i) {
    window.slabs()[old.grains.first + i - grown.first].store(
        old.slabs()[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
  window_.store(&window, std::memory_order_release);
}

void SlabMap::enter(Extent slab, BookRef ref) noexcept {
  Window& window = *window_.load(std::memory_order_relaxed);
  const Grains<std::uint64_t> whole = whole_grains(slab);
  for (std::uint64_t n = 0; n < whole.count; ++n) {
    const std::uint64_t i = whole.first + n - window.grains.first;
    if (i < window.grains.count) window.slabs()[i].store(ref, std::memory_order_release);
  }
}

}  // namespace exclave
