// A heap in an attached pool: the pool's own, or what one thread keeps of it.
//
// The slabs of a pool, and all lists that they stand in, are its lock's. A thread's heap is a place
// to take from and to give to without the lock: its stacks hold hints, of slots that are kCached.
// The state byte is the truth. Every change of it is a compare-and-swap by whoever comes first: a
// thread takes kCached to kLive when it hands a slot out and kLive to kCached when it is freed,
// whoever freed it; the lock's holder takes kCached to kFree when the pool is short of memory. A
// hint whose swap fails is out of date and is dropped.
//
// A pool that is to be taken away stops serving first (mark), and its states are looked at
// afterwards; a thread swaps first and looks then whether its heap serves. So one of the two sees
// the other, and no fence over all threads is needed.
//
// A book that a hint may point into must not become another slab's: it is kept (Pool::bury) until
// each heap that was marked while the slab stood has dropped its hints (Pool::settle).
#pragma once

#include "heap/heap.hpp"

namespace exclave {

class PoolHeap final : public Heap {
 public:
  PoolHeap(BookStore& books, Registry& registry, PagePool& pages) noexcept
      : Heap(books, registry, pages, Kind::kPool) {}

  // ---- Its thread's, without the lock ----

  enum class Popped : std::uint8_t {
    kBlock,
    kNone,
    kAgain,  // the hint was out of date
    kAsk,    // a slot is kLive; under the lock is seen whose it is
  };
  // Gives a block of the class.
  [[gnu::always_inline]] Popped pop_hint(SizeClass c, std::uintptr_t* block) noexcept {
    Stack& stack = stacks_[c];
    if (EXCLAVE_UNLIKELY(stack.top == stack.bottom)) return Popped::kNone;
    const FreeSlot hint = *--stack.top;
    *block = hint.block;
    std::atomic<SlotState>* const state = hint.state;
    SlotState expected = SlotState::kCached;
    // Sequentially consistent, as the load after it: mark stores first and looks at states then.
    if (EXCLAVE_UNLIKELY(!state->compare_exchange_strong(
            expected, SlotState::kLive, std::memory_order_seq_cst, std::memory_order_relaxed))) {
      return Popped::kAgain;
    }
    return EXCLAVE_LIKELY(serves()) ? Popped::kBlock : Popped::kAsk;
  }
  bool has_room(SizeClass c) const noexcept { return stacks_[c].top != stacks_[c].limit; }
  // Precondition: there is room. The slot is kCached.
  void push_hint(SizeClass c, std::uintptr_t block, std::atomic<SlotState>* state) noexcept {
    *stacks_[c].top++ = {block, state};
  }
  bool serves() const noexcept { return !stopped_.load(std::memory_order_seq_cst); }

  // ---- Under the pool's lock ----

  // A thread's heap, which has nothing: from now on it is one of this pool, and serves.
  void join(PagePool& pages, Heap& of_thread) noexcept;
  // It serves no more, until settled; `mark` counts such moments in the pool.
  void mark(std::uint64_t mark) noexcept;
  void settled() noexcept {
    marked_at = 0;
    stopped_.store(false, std::memory_order_seq_cst);
  }
  bool is_marked() const noexcept { return marked_at != 0; }

  // All slots that its hints speak of back to their slabs, and the hints are gone. region: the
  // pool's; null: the pool is gone, and only the hints go.
  void flush_hints(Region* region) noexcept;
  // The older half of one stack's.
  void flush_half(SizeClass c, Region& region) noexcept;
  void drop_stacks() noexcept;
  // A fresh slab. mark: the pool's. Errors: as add_slab_slow.
  Status add_slab(SizeClass c, Region& region, std::uint64_t mark) noexcept;
  // A block from the heap's slabs, and more of them as hints, if there is a stack. Precondition:
  // has_free(c).
  std::uintptr_t take(SizeClass c) noexcept;
  // A slot of this heap's slab that is `from` is free now. False, with nothing changed: it is not.
  bool take_back(Slab& slab, std::atomic<SlotState>* state, SlotState from) noexcept;
  // Would reclaim or take_slabs_out find anything? hints: its own ones, too.
  bool keeps_some(bool hints) const noexcept;
  // Every slot that is cached, in whosever hints, or deferred, is free now.
  void reclaim() noexcept;
  // Slots that nested calls freed are free now.
  void sweep_deferred() noexcept {
    each_slab([this](Slab& slab) noexcept { sweep_slab(slab); });
  }
  // Takes wholly free slabs, or all of them, out of the lists and of the pages; their books are the
  // caller's: a chain by `next`.
  BookRef take_slabs_out(bool all) noexcept;
  using Heap::release_book;
  // The pool's count of marks when the slab came: in the line before its book.
  static std::uint64_t& born(Slab& slab) noexcept {
    return *reinterpret_cast<std::uint64_t*>(reinterpret_cast<std::byte*>(&slab) - kCacheLine);
  }

  PoolHeap* next_in_pool = nullptr;
  std::uint64_t marked_at = 0;  // 0: not marked
  Heap* home = nullptr;         // its thread's heap for grown memory

 private:
  Slab* slab_of_hint(const FreeSlot& hint, Region& region) noexcept;
  void flush(Stack& stack, std::size_t keep, Region* region) noexcept;

  // The heap's thread may not take and give, but asks under the lock.
  alignas(kCacheLine) std::atomic<bool> stopped_{true};
};

}  // namespace exclave
