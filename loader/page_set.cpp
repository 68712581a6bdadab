#include "loader/page_set.hpp"

namespace exclave::loader {

namespace {
constexpr std::size_t words_for(std::size_t window_bytes) noexcept {
  return (window_bytes / kPageBytes + 63) / 64;
}
// The compiler's own would be a call into a library.
constexpr std::size_t bits_in(std::uint64_t word) noexcept {
  word -= word >> 1 & 0x5555555555555555u;
  word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return word * 0x0101010101010101u >> 56;
}
static_assert(bits_in(~std::uint64_t{0}) == 64 && bits_in(0x8000000000000101u) == 3);
}  // namespace

std::size_t PageSet::bytes_for(std::size_t window_bytes) noexcept {
  const std::size_t bytes = words_for(window_bytes) * sizeof(std::uint64_t);
  return (bytes + kPageBytes - 1) & ~(kPageBytes - 1);
}

void PageSet::open(Extent window, void* zeroes) noexcept {
  window_ = window;
  words_ = static_cast<std::uint64_t*>(zeroes);
  full_from_ = words_for(window.size);
}

std::size_t PageSet::runs() const noexcept {
  std::size_t runs = 0;
  bool before = false;
  for (std::size_t i = 0; i < words_for(window_.size); ++i) {
    const std::uint64_t word = words_[i];
    // A run begins where a bit is set and the one below it is not.
    const std::uint64_t starts = word & ~(word << 1 | (before ? 1 : 0));
    runs += bits_in(starts);
    before = (word >> 63) != 0;
  }
  return runs;
}

void PageSet::set(Extent range, bool mapped) noexcept {
  const std::size_t end = page_of(range.end());
  for (std::size_t page = page_of(range.base); page < end;) {
    std::size_t pages = 64 - page % 64;
    if (pages > end - page) pages = end - page;
    const std::uint64_t bits = (pages == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << pages) - 1)
                               << (page % 64);
    std::uint64_t& word = words_[page / 64];
    count_ -= bits_in(word & bits);
    if (mapped) {
      word |= bits;
      count_ += pages;
    } else {
      word &= ~bits;
      if (full_from_ <= page / 64) full_from_ = page / 64 + 1;
    }
    page += pages;
  }
}

std::size_t PageSet::run_at(Extent range) const noexcept {
  const std::size_t first = page_of(range.base), end = page_of(range.end());
  if (first == end) return 0;
  const std::uint64_t flip = has(range.base) ? ~std::uint64_t{0} : 0;
  for (std::size_t page = first; page < end;) {
    const std::uint64_t unlike = (words_[page / 64] ^ flip) >> (page % 64);
    if (unlike != 0) {
      page += static_cast<std::size_t>(__builtin_ctzll(unlike));
      return (page < end ? page - first : end - first) * kPageBytes;
    }
    page += 64 - page % 64;
  }
  return range.size;
}

std::uintptr_t PageSet::highest_gap(std::size_t size, std::size_t alignment,
                                    std::uintptr_t limit) noexcept {
  if (limit > window_.end()) limit = window_.end();
  if (limit <= window_.base || size > limit - window_.base) return 0;
  while (full_from_ > 0 && words_[full_from_ - 1] == ~std::uint64_t{0}) --full_from_;
  std::size_t page = page_of(limit);
  if (page > full_from_ * 64) page = full_from_ * 64;
  // [page, top) is free; the gap may begin anywhere in it.
  for (std::size_t top = page; page > 0;) {
    const std::size_t word = (page - 1) / 64;
    const std::size_t bits = (page - 1) % 64 + 1;  // of the word, below page
    const std::uint64_t used =
        words_[word] & (bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1);
    std::size_t free_from = word * 64;
    if (used != 0) free_from += 64 - static_cast<std::size_t>(__builtin_clzll(used));
    const std::uintptr_t low = window_.base + free_from * kPageBytes;
    const std::uintptr_t high = window_.base + top * kPageBytes;
    if (high - low >= size) {
      const std::uintptr_t place = (high - size) & ~(alignment - 1);
      if (place >= low) return place;
    }
    if (used == 0) {
      page = word * 64;
      continue;
    }
    // Go on below the used pages that end this run.
    const std::uint64_t free_below =
        ~used & ((std::uint64_t{1} << (free_from - word * 64 - 1)) - 1);
    page = word * 64;
    if (free_below != 0) page += 64 - static_cast<std::size_t>(__builtin_clzll(free_below));
    top = page;
  }
  return 0;
}

}  // namespace exclave::loader
