// What the enclave's own memory must be after each memory call: an array of pages, with the rules
// of the manual pages written down as plainly as can be. Calls of which each page operation worked.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>

#include "exclave/enclave_manager.hpp"

namespace exclave::fuzz {

class InsideModel {
 public:
  struct Page {
    int protection = 0;
    bool locked = false;
    bool shared = false;
    bool from_file = false;
    std::uint64_t value = 0;

    // Are neighbours of these kinds one area, as far as pages can tell?
    bool is_like(const Page& other) const {
      return protection == other.protection && locked == other.locked && shared == other.shared &&
             from_file == other.from_file;
    }
  };
  using Pages = std::map<std::uintptr_t, Page>;

  explicit InsideModel(Extent range) : range_(range), break_(range.base) {}

  const Pages& pages() const { return pages_; }
  Pages& pages() { return pages_; }
  Extent range() const { return range_; }
  std::uintptr_t present_break() const { return break_; }
  void set_present_break(std::uintptr_t address) { break_ = address; }

  const Page* at(std::uintptr_t address) const {
    const auto page = pages_.find(address);
    return page == pages_.end() ? nullptr : &page->second;
  }
  // Where the pages that begin with the range end: at a hole, or with it.
  std::uintptr_t first_hole(Extent range) const {
    std::uintptr_t at = range.base;
    while (at < range.end() && pages_.count(at) != 0) at += kPageBytes;
    return at;
  }
  bool is_free(Extent range) const {
    const auto page = pages_.lower_bound(range.base);
    return page == pages_.end() || page->first >= range.end();
  }
  bool is_whole(Extent range) const { return first_hole(range) == range.end(); }
  bool is_alike(Extent range) const {
    if (!is_whole(range)) return false;
    return std::all_of(pages_.find(range.base), pages_.lower_bound(range.end()),
                       [&](const auto& page) { return page.second.is_like(*at(range.base)); });
  }

  // ---- The calls: ranges are whole pages in the enclave; what they answer ----

  void map(Extent place, Page page, std::uint64_t step) {
    page.locked = page.locked || lock_future_;
    for (std::uintptr_t at = place.base; at < place.end(); at += kPageBytes) {
      pages_[at] = page;
      page.value += step;
    }
  }
  int unmap(Extent range) {
    pages_.erase(pages_.lower_bound(range.base), pages_.lower_bound(range.end()));
    return 0;
  }
  int protect(Extent range, int protection) {
    return up_to_the_first_hole(range, [&](Page& page) {
      page.protection = protection;
      return 0;
    });
  }
  int lock(Extent range, bool locked) {
    return up_to_the_first_hole(range, [&](Page& page) {
      page.locked = locked;
      return 0;
    });
  }
  void lock_all(int flags) {
    lock_future_ = (flags & MCL_FUTURE) != 0;
    if (flags != 0 && (flags & MCL_CURRENT) == 0) return;
    for (auto& page : pages_) page.second.locked = flags != 0;
  }
  int sync(Extent range, int flags) {
    const auto look = [&](Page& page) {
      return (flags & MS_INVALIDATE) != 0 && page.locked ? -EBUSY : 0;
    };
    return flags == MS_ASYNC ? up_to_the_first_hole(range, look) : over_holes(range, look);
  }
  int resident(Extent range) const { return is_whole(range) ? 0 : -ENOMEM; }
  int advise(Extent range, int advice) {
    const auto one = [&](Page& page) { return advise_page(page, advice); };
    return advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE
               ? up_to_the_first_hole(range, one)
               : over_holes(range, one);
  }
  // from and to: whole; to is free, or begins where from does.
  void move(Extent from, Extent to, bool keep) {
    Page fresh = *at(from.base);
    fresh.value = 0;
    Pages moved;
    for (std::uintptr_t offset = 0; offset < to.size; offset += kPageBytes) {
      moved[to.base + offset] = offset < from.size ? *at(from.base + offset) : fresh;
    }
    unmap(from);
    unmap(to);
    for (std::uintptr_t offset = 0; keep && offset < from.size; offset += kPageBytes) {
      pages_[from.base + offset] = fresh;
    }
    pages_.insert(moved.begin(), moved.end());
  }
  std::uintptr_t set_break(std::uintptr_t address) {
    if (address < range_.base || address > range_.end()) return break_;
    const auto up = [](std::uintptr_t n) { return (n + kPageBytes - 1) / kPageBytes * kPageBytes; };
    const std::uintptr_t old_end = up(break_);
    const std::uintptr_t new_end = up(address);
    if (new_end < old_end) unmap({new_end, old_end - new_end});
    if (new_end > old_end) {
      const Extent more{old_end, new_end - old_end};
      if (!is_free(more)) return break_;
      Page page;
      page.protection = PROT_READ | PROT_WRITE;
      map(more, page, 0);
    }
    return break_ = address;
  }

 private:
  static int advise_page(Page& page, int advice) {
    const bool named = page.shared || page.from_file;
    switch (advice) {
      case MADV_DONTNEED:
        if (page.locked) return -EINVAL;
        [[fallthrough]];
      case MADV_DONTNEED_LOCKED:
        if (!named) page.value = 0;
        return 0;
      case MADV_FREE:
        if (page.locked || named) return -EINVAL;
        page.value = 0;
        return 0;
      case MADV_REMOVE:
        if (page.locked || !named) return -EINVAL;
        if (!page.shared || (page.protection & PROT_WRITE) == 0) return -EACCES;
        page.value = 0;
        return 0;
      case MADV_WIPEONFORK:
        return named ? -EINVAL : 0;
      case MADV_COLD:
      case MADV_PAGEOUT:
        return page.locked ? -EINVAL : 0;
      case MADV_POPULATE_READ:
        return (page.protection & PROT_READ) == 0 ? -EINVAL : 0;
      case MADV_POPULATE_WRITE:
        return (page.protection & PROT_WRITE) == 0 ? -EINVAL : 0;
      default:
        return 0;
    }
  }
  template <class F>
  int up_to_the_first_hole(Extent range, F visit) {
    const std::uintptr_t end = first_hole(range);
    for (auto page = pages_.find(range.base); page != pages_.end() && page->first < end; ++page) {
      if (const int error = visit(page->second); error != 0) return error;
    }
    return end == range.end() ? 0 : -ENOMEM;
  }
  template <class F>
  int over_holes(Extent range, F visit) {
    for (auto page = pages_.lower_bound(range.base);
         page != pages_.end() && page->first < range.end(); ++page) {
      if (const int error = visit(page->second); error != 0) return error;
    }
    return is_whole(range) ? 0 : -ENOMEM;
  }

  const Extent range_;
  Pages pages_;
  std::uintptr_t break_;
  bool lock_future_ = false;
};

}  // namespace exclave::fuzz
