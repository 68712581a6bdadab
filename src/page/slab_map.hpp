// Address → slab in two loads, for the slabs of one page pool: on the path of every free.
//
// A flat array with one reference for each grain of 64 KiB of a window of addresses around the
// pool's regions. A grain that lies wholly in one slab names it; every other says nothing, and so
// does an address outside the window: then the region's unit entries know.
//
// Readers take no lock; writers hold the page pool's. When the regions outgrow the window, a larger
// one takes its place, and the old one stays as it is until the allocator goes, since a late reader
// may be in it: each is at least twice as large as the one before, so all of them together are less
// than twice the last.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/units.hpp"
#include "page/slab_window.hpp"
#include "port/book_store.hpp"

namespace exclave {

class SlabMap {
 public:
  static constexpr std::size_t kGrainBytes = exclave::kGrainBytes;

  explicit SlabMap(BookStore& books) noexcept : books_(books) {}

  // The slab that all of the address' grain belongs to; 0 says nothing.
  [[gnu::always_inline]] BookRef find(std::uintptr_t address) const noexcept {
    // Acquire pairs with the release in cover: the window is filled in.
    const Window& window = *window_.load(std::memory_order_acquire);
    const std::uint64_t grain = grain_index(address, window.grains.first);
    if (EXCLAVE_UNLIKELY(grain >= window.grains.count)) return 0;
    // Acquire pairs with enter: the slab's book is filled in.
    return window.slabs()[grain].load(std::memory_order_acquire);
  }

  bool covers(std::uintptr_t address) const noexcept {
    const Window& window = *window_.load(std::memory_order_acquire);
    return grain_index(address, window.grains.first) < window.grains.count;
  }

  // Extends the window to the region, unless it would become large beside the pool's memory, or
  // trusted memory is out: then slabs there are found by their region.
  void cover(Extent region, std::size_t pool_bytes) noexcept;
  // Was a region left out when it came? A later window may cover it, and says nothing of the slabs
  // that stood there before.
  bool has_gaps() const noexcept { return has_gaps_; }
  // The slab's grains name it; 0: nothing.
  void enter(Extent slab, BookRef ref) noexcept;

 private:
  struct Window {
    Grains<std::uint64_t> grains;
    const std::atomic<BookRef>* slabs() const noexcept {
      return reinterpret_cast<const std::atomic<BookRef>*>(this + 1);
    }
    std::atomic<BookRef>* slabs() noexcept {
      return reinterpret_cast<std::atomic<BookRef>*>(this + 1);
    }
  };

  BookStore& books_;
  bool has_gaps_ = false;
  Window none_;
  std::atomic<Window*> window_{&none_};
};

}  // namespace exclave
