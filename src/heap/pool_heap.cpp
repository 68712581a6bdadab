#include "heap/pool_heap.hpp"

namespace exclave {

void PoolHeap::join(PagePool& pages, Heap& of_thread) noexcept {
  pages_ = &pages;
  home = &of_thread;
  set_label(of_thread.label());
  settled();
}

void PoolHeap::mark(std::uint64_t mark) noexcept {
  if (marked_at == 0) marked_at = mark;
  stopped_.store(true, std::memory_order_seq_cst);
}

// ---- Hints ----

// The slab that the hint speaks of, if it still stands.
Slab* PoolHeap::slab_of_hint(const FreeSlot& hint, Region& region) noexcept {
  Slab* const slab = find_slab_in(books_, region, hint.block);
  if (slab == nullptr) return nullptr;
  const std::uint32_t slot = slab->slot_at(hint.block);
  return slot != Slab::kNoSlot && &slab->states()[slot] == hint.state ? slab : nullptr;
}

void PoolHeap::flush(Stack& stack, std::size_t keep, Region* region) noexcept {
  const std::size_t drop = static_cast<std::size_t>(stack.top - stack.bottom) - keep;
  for (std::size_t i = 0; region != nullptr && i < drop; ++i) {
    const FreeSlot& hint = stack.bottom[i];
    if (Slab* const slab = slab_of_hint(hint, *region); slab != nullptr) {
      books_.at<PoolHeap>(slab->owner.load(std::memory_order_relaxed))
          ->take_back(*slab, hint.state, SlotState::kCached);
    }
  }
  for (std::size_t i = 0; i < keep; ++i) stack.bottom[i] = stack.bottom[drop + i];
  stack.top = stack.bottom + keep;
}

void PoolHeap::flush_hints(Region* region) noexcept {
  for (Stack& stack : stacks_) flush(stack, 0, region);
}

void PoolHeap::flush_half(SizeClass c, Region& region) noexcept {
  if (grow_stack(c)) return;
  Stack& stack = stacks_[c];
  flush(stack, static_cast<std::size_t>(stack.top - stack.bottom) / 2, &region);
}

void PoolHeap::drop_stacks() noexcept {
  for (Stack& stack : stacks_) drop_stack(stack);
  stack_bytes_ = 0;
}

// ---- Slabs ----

Status PoolHeap::add_slab(SizeClass c, Region& region, std::uint64_t mark) noexcept {
  const Status added = add_slab_slow(c, &region, true);
  if (added.ok()) born(*books_.at<Slab>(slabs_[c].with_free)) = mark;
  return added;
}

std::uintptr_t PoolHeap::take(SizeClass c) noexcept {
  FreeSlot one{};
  (void)take_from(*books_.at<Slab>(slabs_[c].with_free), &one, 1);
  // A hint that is out of date may be quicker, and then it is that block.
  std::atomic<SlotState>* const state = one.state;
  SlotState expected = SlotState::kCached;
  if (!state->compare_exchange_strong(expected, SlotState::kLive, std::memory_order_seq_cst))
    return 0;
  if (home != nullptr && stacks_[c].top == stacks_[c].bottom) fill_stack(c);
  return one.block;
}

bool PoolHeap::take_back(Slab& slab, std::atomic<SlotState>* state, SlotState from) noexcept {
  if (!state->compare_exchange_strong(from, SlotState::kFree, std::memory_order_acq_rel,
                                      std::memory_order_relaxed)) {
    return false;
  }
  count_free(slab);
  return true;
}

bool PoolHeap::keeps_some(bool hints) const noexcept {
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    if (slabs_[c].empty != 0 || (hints && stacks_[c].top != stacks_[c].bottom)) return true;
  }
  return false;
}

void PoolHeap::reclaim() noexcept {
  each_slab([this](Slab& slab) noexcept {
    for (std::uint32_t i = 0; i < slab.slots.load(std::memory_order_relaxed); ++i) {
      std::atomic<SlotState>* const state = &slab.states()[i];
      const SlotState seen = state->load(std::memory_order_relaxed);
      if (seen == SlotState::kCached || seen == SlotState::kDeferred)
        (void)take_back(slab, state, seen);
    }
  });
}

BookRef PoolHeap::take_slabs_out(bool all) noexcept {
  BookRef chain = 0;
  each_slab([&](Slab& slab) noexcept {
    if (!all && slab.free_slots != slab.slots.load(std::memory_order_relaxed)) return;
    unlist(slab);
    slab.owner.store(0, std::memory_order_release);
    pages_->free_slab({books_.at<Region>(slab.region), slab.extent()});
    Slabs& slabs = slabs_[slab.size_class.load(std::memory_order_relaxed)];
    slabs.count -= 1;
    slabs.empty = 0;
    slab.next = chain;
    chain = books_.ref(&slab);
  });
  return chain;
}

}  // namespace exclave
