#include "region/pagemap.hpp"

#include "base/check.hpp"

namespace exclave {

void Pagemap::set_entry(Middle& middle, std::uintptr_t address, std::uint32_t value) noexcept {
  std::atomic<std::uint32_t>& entry = middle.entry[middle_index(address)];
  middle.used -= entry.load(std::memory_order_relaxed) != 0;
  middle.used += value != 0;
  // Pairs with the acquire in find: what the reference names is filled in.
  entry.store(value, std::memory_order_release);
}

// The segment that holds this address is covered in part only, so it needs a leaf.
Status Pagemap::prepare_edge(std::uintptr_t address) noexcept {
  if (is_aligned(address, kSegmentBytes)) return {};
  Middle& middle = *middle_of(books_.view(), address);
  const std::uint32_t before = middle.entry[middle_index(address)].load(std::memory_order_relaxed);
  if (before & kLeafTag) return {};
  Leaf* const leaf = static_cast<Leaf*>(books_.allocate(BookKind::kPagemapLeaf, sizeof(Leaf)));
  if (leaf == nullptr) return Error::kOutOfTrustedMemory;
  if (before != 0) {
    for (std::atomic<BookRef>& entry : leaf->entry) entry.store(before, std::memory_order_relaxed);
    leaf->used = kLeafEntries;
  }
  set_entry(middle, address, books_.ref(leaf) | kLeafTag);
  return {};
}

Status Pagemap::prepare(Extent range) noexcept {
  for (std::uintptr_t i = root_index(range.base); i <= root_index(range.end() - 1); ++i) {
    if (root_[i].load(std::memory_order_relaxed) != 0) continue;
    void* const middle = books_.allocate(BookKind::kPagemapMiddle, sizeof(Middle));
    if (middle == nullptr) return Error::kOutOfTrustedMemory;
    root_[i].store(books_.ref(middle), std::memory_order_release);
  }
  if (Status made = prepare_edge(range.base); !made.ok()) return made;
  // The end's segment is the next one, and may lie past what was made above, when the end is
  // aligned.
  return is_aligned(range.end(), kSegmentBytes) ? Status{} : prepare_edge(range.end());
}

void Pagemap::set(Extent range, Region* region) noexcept {
  const BookRef value = region == nullptr ? 0 : books_.ref(region);
  std::uintptr_t at = range.base;
  while (at < range.end()) {
    const std::uintptr_t segment_end = align_down(at, kSegmentBytes) + kSegmentBytes;
    const std::uintptr_t stop = segment_end < range.end() ? segment_end : range.end();
    Middle* const middle = middle_of(books_.view(), at);
    const std::size_t index = middle_index(at);
    const std::uint32_t before = middle->entry[index].load(std::memory_order_relaxed);
    Leaf* const leaf = before & kLeafTag ? books_.at<Leaf>(before & ~kLeafTag) : nullptr;
    if (stop - at == kSegmentBytes && (leaf == nullptr || leaf->holds == 0)) {
      set_entry(*middle, at, value);
      if (leaf != nullptr) books_.release(BookKind::kPagemapLeaf, leaf, sizeof(Leaf));
    } else {
      EXCLAVE_CHECK(leaf != nullptr);
      const std::size_t first = leaf_index(at);
      const std::size_t count = (stop - at) >> kPageShift;
      std::uint32_t were_used = 0;
      for (std::atomic<BookRef>* entry = &leaf->entry[first]; entry != &leaf->entry[first] + count;
           ++entry) {
        were_used += entry->load(std::memory_order_relaxed) != 0;
        entry->store(value, std::memory_order_release);
      }
      leaf->used += (value != 0 ? static_cast<std::uint32_t>(count) : 0) - were_used;
      release_if_empty(*middle, at, *leaf);
    }
    at = stop;
  }
}

void Pagemap::release_if_empty(Middle& middle, std::uintptr_t address, Leaf& leaf) noexcept {
  if (leaf.used != 0 || leaf.holds != 0) return;
  // Where mappings come and go in a segment of their own, zeroing the leaf each time would cost
  // more than all the rest.
  set_entry(middle, address, 0);
  books_.release_zero(BookKind::kPagemapLeaf, &leaf, sizeof(Leaf));
}

// Only a segment that is covered in part needs its leaf, and it has one.
Pagemap::Leaf* Pagemap::leaf_at_edge(std::uintptr_t address) const noexcept {
  if (is_aligned(address, kSegmentBytes)) return nullptr;
  const BookView books = books_.view();
  const std::uint32_t entry =
      middle_of(books, address)->entry[middle_index(address)].load(std::memory_order_relaxed);
  EXCLAVE_CHECK((entry & kLeafTag) != 0);
  return books.at_tagged<Leaf>(entry, kLeafTag);
}

void Pagemap::hold(Extent range) noexcept {
  for (const std::uintptr_t edge : {range.base, range.end()}) {
    if (Leaf* const leaf = leaf_at_edge(edge); leaf != nullptr) ++leaf->holds;
  }
}

void Pagemap::let_go(Extent range) noexcept {
  for (const std::uintptr_t edge : {range.base, range.end()}) {
    Leaf* const leaf = leaf_at_edge(edge);
    if (leaf == nullptr) continue;
    --leaf->holds;
    release_if_empty(*middle_of(books_.view(), edge), edge, *leaf);
  }
}

Region* Pagemap::first_in(Extent range) const noexcept {
  const BookView books = books_.view();
  for (std::uintptr_t at = range.base; at < range.end();) {
    const Middle* const middle = middle_of(books, at);
    if (middle == nullptr || middle->used == 0) {
      at = ((at >> kRootShift) + 1) << kRootShift;
      continue;
    }
    const std::uint32_t entry = middle->entry[middle_index(at)].load(std::memory_order_relaxed);
    const std::uintptr_t segment_end = align_down(at, kSegmentBytes) + kSegmentBytes;
    if ((entry & kLeafTag) != 0) {
      const Leaf& leaf = *books.at_tagged<Leaf>(entry, kLeafTag);
      const std::uintptr_t stop = segment_end < range.end() ? segment_end : range.end();
      const std::size_t last = leaf_index(stop - 1);
      for (std::size_t page = leaf_index(at); page <= last; ++page) {
        const BookRef found = leaf.entry[page].load(std::memory_order_relaxed);
        if (found != 0) return books.at<Region>(found);
      }
    } else if (entry != 0) {
      return books.at<Region>(entry);
    }
    at = segment_end;
  }
  return nullptr;
}

// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool Pagemap::validate() const noexcept {
  const auto count = [](const auto& entries) noexcept {
    std::uint32_t used = 0;
    for (const auto& entry : entries) used += entry.load(std::memory_order_relaxed) != 0;
    return used;
  };
  const BookView books = books_.view();
  for (const std::atomic<BookRef>& root : root_) {
    const BookRef ref = root.load(std::memory_order_relaxed);
    if (ref == 0) continue;
    const Middle& middle = *books.at<Middle>(ref);
    if (count(middle.entry) != middle.used) return false;
    for (const std::atomic<std::uint32_t>& entry : middle.entry) {
      const std::uint32_t tagged = entry.load(std::memory_order_relaxed);
      if ((tagged & kLeafTag) == 0) continue;
      const Leaf& leaf = *books.at<Leaf>(tagged & ~kLeafTag);
      if (count(leaf.entry) != leaf.used) return false;
    }
  }
  return true;
}
// GCOVR_EXCL_BR_STOP

}  // namespace exclave
