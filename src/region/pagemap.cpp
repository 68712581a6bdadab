#include "region/pagemap.hpp"

#include "base/check.hpp"

namespace exclave {

// The segment that holds this address is covered in part only, so it needs a leaf.
Status Pagemap::prepare_edge(std::uintptr_t address) noexcept {
  if (is_aligned(address, kSegmentBytes)) return {};
  std::atomic<std::uint32_t>* const slot =
      &middle_of(books_.view(), address)->entry[(address >> kMiddleShift) % kMiddleEntries];
  const std::uint32_t before = slot->load(std::memory_order_relaxed);
  if (before & kLeafTag) return {};
  Leaf* const leaf = static_cast<Leaf*>(books_.allocate(BookKind::kPagemapLeaf, sizeof(Leaf)));
  if (leaf == nullptr) return Error::kOutOfTrustedMemory;
  if (before != 0) {
    for (std::atomic<BookRef>& entry : leaf->entry) entry.store(before, std::memory_order_relaxed);
    leaf->used = kLeafEntries;
  }
  slot->store(books_.ref(leaf) | kLeafTag, std::memory_order_release);
  return {};
}

Status Pagemap::prepare(Extent range) noexcept {
  for (std::uintptr_t i = range.base >> kRootShift; i <= (range.end() - 1) >> kRootShift; ++i) {
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
  const bool has_units =
      region != nullptr && region->unit_count.load(std::memory_order_relaxed) != 0;
  std::uintptr_t at = range.base;
  while (at < range.end()) {
    const std::uintptr_t segment_end = align_down(at, kSegmentBytes) + kSegmentBytes;
    const std::uintptr_t stop = segment_end < range.end() ? segment_end : range.end();
    Middle* const middle = middle_of(books_.view(), at);
    const std::size_t index = (at >> kMiddleShift) % kMiddleEntries;
    std::atomic<std::uint32_t>* const slot = &middle->entry[index];
    const std::uint32_t before = slot->load(std::memory_order_relaxed);
    Leaf* const leaf = before & kLeafTag ? books_.at<Leaf>(before & ~kLeafTag) : nullptr;
    if (stop - at == kSegmentBytes) {
      slot->store(value, std::memory_order_release);
      middle->units[index].store(has_units ? books_.ref(region->unit_of(at)) : 0,
                                 std::memory_order_release);
      if (leaf != nullptr) books_.release(BookKind::kPagemapLeaf, leaf, sizeof(Leaf));
      if (has_units && near_.load(std::memory_order_relaxed) == nullptr) {
        near_.store(middle, std::memory_order_relaxed);
        // Release pairs with the acquire in unit_at.
        near_first_.store(at >> kMiddleShift & ~(kMiddleEntries - 1), std::memory_order_release);
      }
    } else {
      EXCLAVE_CHECK(leaf != nullptr);
      for (std::uintptr_t page = at; page < stop; page += kPageBytes) {
        std::atomic<BookRef>& entry = leaf->entry[(page >> kPageShift) % kLeafEntries];
        leaf->used -= entry.load(std::memory_order_relaxed) != 0;
        leaf->used += value != 0;
        entry.store(value, std::memory_order_release);
      }
      if (leaf->used == 0) {
        // Where mappings come and go in a segment of their own, zeroing the leaf each time would
        // cost more than all the rest.
        slot->store(0, std::memory_order_release);
        books_.release_zero(BookKind::kPagemapLeaf, leaf, sizeof(Leaf));
      }
    }
    at = stop;
  }
}

}  // namespace exclave
