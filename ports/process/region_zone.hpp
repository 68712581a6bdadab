// Where untrusted regions come to lie: side by side, in a part of the address space where the
// kernel puts nothing by itself. What the program maps between two growths does not part them, so
// one small window of the allocator's slab map covers them all (src/page/slab_map.hpp).
//
// All of it is a wish. Where there is no such place, or something stands there, the kernel chooses.
#pragma once

#include <array>

#include "process/address_space.hpp"
#include "process/guard.hpp"

// ThreadSanitizer ends a program that maps elsewhere than the kernel would.
#if defined(__SANITIZE_THREAD__)
#define EXCLAVE_KERNEL_PLACES_REGIONS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EXCLAVE_KERNEL_PLACES_REGIONS 1
#endif
#endif
#if !defined(EXCLAVE_KERNEL_PLACES_REGIONS)
#define EXCLAVE_KERNEL_PLACES_REGIONS 0
#endif

namespace exclave::process {

// Any thread may call at any time, in signal handlers, too.
class RegionZone {
 public:
  // keep_out: where the port's own memory is, or will come to lie.
  explicit RegionZone(Extent keep_out) noexcept : keep_out_(keep_out) {}
  // What still stands in a zone keeps it from other ports.
  ~RegionZone() {
    for (unsigned zone = 0; zone < kZones && regions_ == 0; ++zone) {
      if ((zones_ >> zone & 1) != 0) munmap(as_pointer(mark_of(zone)), kPageBytes);
    }
  }
  RegionZone(const RegionZone&) = delete;
  RegionZone& operator=(const RegionZone&) = delete;

  // Address space without access. Errors: 0 and errno; else errno is kept.
  std::uintptr_t reserve(std::size_t bytes, std::size_t alignment) noexcept {
    const int saved = errno;
    std::uintptr_t place = 0;
    if (!EXCLAVE_KERNEL_PLACES_REGIONS && bytes <= kLongest && alignment <= kLongest) {
      const Guard guard(lock_);
      place = reserve_locked(bytes, alignment);
    }
    if (place == 0) place = reserve_address_space(bytes, alignment);
    if (place != 0) errno = saved;
    return place;
  }

  // The range, which reserve gave, is unmapped.
  void release(Extent range) noexcept {
    const Guard guard(lock_);
    const std::uintptr_t below_top = top_ - range.end();
    // Elsewhere, where the kernel chose.
    if (range.end() > top_ || below_top >= kZones * kZoneBytes ||
        (zones_ >> (below_top / kZoneBytes) & 1) == 0) {
      return;
    }
    --regions_;
    add_hole_locked(range);
  }

  void lock_for_fork() noexcept { pthread_mutex_lock(&lock_); }
  void unlock_after_fork() noexcept { pthread_mutex_unlock(&lock_); }

 private:
  // Zones begin so far below what the kernel maps by itself, from the top or (ulimit -s unlimited)
  // from a third of the address space on, and end a quarter of a tebibyte above the books of ports
  // that place theirs at twice the distance (process_port.cpp). Each is one port's: its first page
  // says that it is taken.
  static constexpr std::uintptr_t kFar = std::uintptr_t{8} << 40;
  static constexpr std::uintptr_t kZoneBytes = std::uintptr_t{128} << 30;
  static constexpr unsigned kZones = 60;
  // No slabs are in regions that are longer.
  static constexpr std::size_t kLongest = kZoneBytes / 8;

  std::uintptr_t mark_of(unsigned zone) const noexcept { return top_ - (zone + 1) * kZoneBytes; }

  std::uintptr_t reserve_locked(std::size_t bytes, std::size_t alignment) noexcept {
    // More than one where something stands in the way.
    constexpr unsigned kMostTries = 4;
    for (unsigned tries = 0; tries < kMostTries; ++tries) {
      const Extent place = take_highest_locked(bytes, alignment);
      if (place.size == 0) {
        if (!add_zone_locked()) return 0;
        continue;
      }
      errno = 0;
      if (reserve_at(place.base, bytes)) {
        ++regions_;
        return place.base;
      }
      if (errno == EEXIST) continue;  // it is no hole
      add_hole_locked(place);
      return 0;
    }
    return 0;
  }

  // Of the hole that ends highest of those that are large enough; empty: none is.
  Extent take_highest_locked(std::size_t bytes, std::size_t alignment) noexcept {
    Extent place{};
    std::size_t found = 0;
    for (std::size_t i = 0; i < hole_count_; ++i) {
      const Extent& hole = holes_[i];
      if (hole.size < bytes) continue;
      const std::uintptr_t base = (hole.end() - bytes) & ~(alignment - 1);
      if (base < hole.base || base < place.base) continue;
      place = {base, bytes};
      found = i;
    }
    if (place.size == 0) return place;
    const Extent hole = holes_[found];
    holes_[found] = holes_[--hole_count_];
    add_hole_locked({hole.base, place.base - hole.base});
    add_hole_locked({place.end(), hole.end() - place.end()});
    return place;
  }

  // When there are too many, address space is lost, and nothing else.
  void add_hole_locked(Extent hole) noexcept {
    if (hole.size == 0) return;
    for (std::size_t i = 0; i < hole_count_;) {
      const bool before = holes_[i].end() == hole.base;
      if (before || holes_[i].base == hole.end()) {
        if (before) hole.base = holes_[i].base;
        hole.size += holes_[i].size;
        holes_[i] = holes_[--hole_count_];
      } else {
        ++i;
      }
    }
    if (hole_count_ < holes_.size()) holes_[hole_count_++] = hole;
  }

  // The first zone that is nobody's. False: there is none.
  bool add_zone_locked() noexcept {
    const std::uintptr_t probe = reserve_address_space(kPageBytes, kPageBytes);
    if (probe == 0) return false;
    munmap(as_pointer(probe), kPageBytes);
    if (probe < 4 * kFar) return false;
    if (top_ == 0) top_ = (probe - kFar) / kZoneBytes * kZoneBytes;
    for (unsigned zone = 0; zone < kZones; ++zone) {
      if ((zones_ >> zone & 1) != 0 || keep_out_.overlaps({mark_of(zone), kZoneBytes}) ||
          !reserve_at(mark_of(zone), kPageBytes)) {
        continue;
      }
      zones_ |= std::uint64_t{1} << zone;
      // As random as the kernel's own choice, in the upper half: regions fill it from there down.
      constexpr std::uintptr_t kStep = std::uintptr_t{2} << 20;
      const std::uintptr_t unused = probe / kPageBytes % (kZoneBytes / 2 / kStep) * kStep;
      add_hole_locked({mark_of(zone) + kPageBytes, kZoneBytes - kPageBytes - unused});
      return true;
    }
    return false;
  }

  const Extent keep_out_;
  pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;  // guards all below
  std::uintptr_t top_ = 0;                            // of the zones; 0: not chosen yet
  std::uint64_t zones_ = 0;                           // those that are this port's, a bit each
  std::size_t regions_ = 0;                           // that stand in them
  std::array<Extent, 256> holes_{};
  std::size_t hole_count_ = 0;
};

}  // namespace exclave::process
