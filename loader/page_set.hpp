// Which pages of a window are mapped: one bit each. Under its owner's lock.
#pragma once

#include <cstddef>
#include <cstdint>

#include "exclave/types.hpp"

namespace exclave::loader {

class PageSet {
 public:
  // Zero-filled words for a window of so many bytes.
  static std::size_t bytes_for(std::size_t window_bytes) noexcept;
  void open(Extent window, void* zeroes) noexcept;

  Extent window() const noexcept { return window_; }
  std::size_t count() const noexcept { return count_; }
  // Runs of adjacent pages.
  std::size_t runs() const noexcept;
  // All three: page-aligned ranges in the window.
  void add(Extent range) noexcept { set(range, true); }
  void remove(Extent range) noexcept { set(range, false); }
  bool has_none_of(Extent range) const noexcept {
    return range.empty() || (!has(range.base) && run_at(range) == range.size);
  }
  // How many bytes from the start of the range are alike: all mapped or all free.
  std::size_t run_at(Extent range) const noexcept;
  bool has(std::uintptr_t address) const noexcept {
    const std::size_t page = page_of(address);
    return (words_[page / 64] >> (page % 64) & 1) != 0;
  }
  // The highest free place that ends at `limit` at the latest; 0: none.
  std::uintptr_t highest_gap(std::size_t size, std::size_t alignment,
                             std::uintptr_t limit) noexcept;

 private:
  std::size_t page_of(std::uintptr_t address) const noexcept {
    return (address - window_.base) / kPageBytes;
  }
  void set(Extent range, bool mapped) noexcept;

  Extent window_{};
  std::uint64_t* words_ = nullptr;
  std::size_t count_ = 0;
  std::size_t full_from_ = 0;  // words from here up hold no free page
};

}  // namespace exclave::loader
