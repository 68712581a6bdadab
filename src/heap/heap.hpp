// A heap: slabs that belong together, and a stack of free slots for each size class.
//
// A thread heap belongs to one thread slot and takes no lock. The orphans' heap, of threads that
// ended, is the same thing used under a lock; what is different in attached pools stands in
// pool_heap.hpp. Other threads give blocks back by batches in the inbox: the state byte turns
// kRemote at once, by compare-and-swap, and the owner checks it again when it folds the batch in.
//
// Invariants (validate()): a slab's free_slots counts its kFree states; each kCached slot stands on
// the stack of its class exactly once; each slab stands in the list that its free_slots says. Heaps
// are never given back to the books, so a late reader of Slab::owner always finds a heap.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/annotations.hpp"
#include "page/page_pool.hpp"
#include "port/book_store.hpp"
#include "region/registry.hpp"
#include "slab/slab.hpp"

namespace exclave {

struct Batch {
  static constexpr std::uint32_t kBlocks = 60;
  Batch* next = nullptr;
  std::uint32_t count = 0;
  std::uintptr_t blocks[kBlocks] = {};
};

// Where a block's slab and slot were found; slab is null when the address is not in one.
struct SlotRef {
  Slab* slab = nullptr;
  std::uint32_t slot = Slab::kNoSlot;

  // Precondition: there is a slot.
  std::atomic<SlotState>& state() const noexcept { return slab->states()[slot]; }
};

class Door;
struct Pool;
struct PoolTable;

class alignas(kCacheLine) Heap {
 public:
  enum class Kind : std::uint8_t {
    kThread,   // of one thread, for grown memory
    kOrphans,  // of threads that ended, for grown memory; under a lock
    kPool,     // of an attached pool: a PoolHeap
  };

  Heap(BookStore& books, Registry& registry, PagePool& pages, Kind kind) noexcept
      : books_(books), registry_(registry), pages_(&pages), kind_(kind) {}
  // Its own reference, once the books are open. Fixed from then on. frees_fast: frees need no more
  // than a push.
  void set_self(BookRef self, bool frees_fast) noexcept {
    self_ = self;
    if (frees_fast) fast_owner_ = self;
  }

  BookRef self() const noexcept { return self_; }
  // The owner of the slabs that frees may be pushed for without a further look; of none, if that
  // may not be.
  BookRef fast_owner() const noexcept { return fast_owner_; }
  Kind kind() const noexcept { return kind_; }
  // The thread slot + 1; 0: shared. For people.
  std::uint32_t label() const noexcept { return label_.load(std::memory_order_relaxed); }
  void set_label(std::uint32_t label) noexcept { label_.store(label, std::memory_order_relaxed); }

  // ---- The fast paths ----

  // Gives a block of the class. False when the stack is empty: refill.
  [[gnu::always_inline]] bool pop(SizeClass c, std::uintptr_t* block) noexcept {
    Stack& stack = stacks_[c];
    FreeSlot* const top = stack.top;
    if (EXCLAVE_UNLIKELY(top == stack.bottom)) return false;
    stack.top = top - 1;
    top[-1].state->store(SlotState::kLive, std::memory_order_relaxed);
    *block = top[-1].block;
    return true;
  }

  // Takes back a slot that was kLive. False, with nothing changed, when the stack is full:
  // make_room.
  [[gnu::always_inline]] bool push(SizeClass c, std::uintptr_t block,
                                   std::atomic<SlotState>* state) noexcept {
    Stack& stack = stacks_[c];
    FreeSlot* const top = stack.top;
    if (EXCLAVE_UNLIKELY(top == stack.limit)) return false;
    state->store(SlotState::kCached, std::memory_order_relaxed);
    *top = {block, state};
    stack.top = top + 1;
    return true;
  }

  // ---- The slow paths ----

  // Puts slots on the empty stack: from the inbox, else from slabs that have some. False: there are
  // none.
  bool refill_slow(SizeClass c) noexcept;
  // Room on a full stack, by growing it or by giving the older half back to the slabs. When books
  // are out there may be none; then the caller gives the slot back itself (give_back).
  void make_room_slow(SizeClass c) noexcept;
  // One slot straight to its slab, which is this heap's.
  void give_back(Slab& slab, std::atomic<SlotState>* state) noexcept {
    state->store(SlotState::kFree, std::memory_order_relaxed);
    count_free(slab);
  }
  // A slot of this heap's slab is kFree now.
  void count_free(Slab& slab) noexcept;
  // A fresh slab, as large as can be had. only_region: an attached pool's region, whose edges will
  // do, too. Slabs of less than a grain of the slab map are freed into more slowly, so they are
  // made only where `scarce`. Errors: kOutOfMemory, kOutOfTrustedMemory.
  Status add_slab_slow(SizeClass c, Region* only_region, bool scarce) noexcept;
  // Takes over a slab with free slots from a shared heap whose lock is held. False: it has none of
  // the class.
  bool adopt_slow(Heap& from, SizeClass c) noexcept;
  // Everything cached back to the slabs, and wholly free slabs back to the pages.
  void flush_slow() noexcept;
  // All slabs to another heap, whose lock is held. Precondition: flushed.
  void hand_over_slow(Heap& to) noexcept;

  // ---- Remote frees ----

  // From any thread: adds a chain of batches for the owner.
  void post(Batch& first, Batch& last) noexcept {
    Batch* head = inbox_.load(std::memory_order_relaxed);
    do {
      last.next = head;
      // Release pairs with the acquire in take_inbox: the batch is filled in. Sequentially
      // consistent, because the poster looks at active() next and the owner the other way round.
      // GCOVR_EXCL_BR_START: a race
    } while (!inbox_.compare_exchange_weak(head, &first, std::memory_order_seq_cst,
                                           std::memory_order_relaxed));
    // GCOVR_EXCL_BR_STOP
  }
  Batch* take_inbox() noexcept { return inbox_.exchange(nullptr, std::memory_order_seq_cst); }
  bool has_inbox() const noexcept { return inbox_.load(std::memory_order_relaxed) != nullptr; }
  // Somewhere in its slabs a slot is kDeferred.
  void request_sweep() noexcept { sweep_.store(true, std::memory_order_seq_cst); }
  bool wants_sweep() const noexcept { return sweep_.load(std::memory_order_seq_cst); }
  // Before the walk: a deferral meanwhile asks again.
  void forget_sweep() noexcept { sweep_.store(false, std::memory_order_seq_cst); }
  // Leaves a slot that is kRemote for its slab's owner to find, whoever that is by now. From any
  // thread; takes no lock. False, with nothing changed: the owner freed it, too, at the same
  // moment.
  static bool defer(const BookStore& books, Slab& slab, std::atomic<SlotState>* state) noexcept;
  // A signal handler of this heap's thread, inside another call, left a slot of this heap
  // kDeferred. Had the interrupted call looked at the slot before, to free it, it stores kCached
  // over that and never knows: so the next sweep looks whether the slot is as the handler left it.
  void note_nested_free(std::uintptr_t block) noexcept {
    const std::uint32_t count = nested_count_.load(std::memory_order_relaxed);
    if (count == kNestedNotes) return;
    nested_[count] = block;
    std::atomic_signal_fence(std::memory_order_release);
    nested_count_.store(count + 1, std::memory_order_relaxed);
  }
  // Takes in what came by batch and by deferral.
  void fold_slow() noexcept;
  // A slot is not as the second of two frees at one moment left it: the other went over it.
  void count_double_free(std::uintptr_t block) noexcept {
    double_frees_ += 1;
    last_double_free_ = block;
  }
  bool has_double_frees() const noexcept { return double_frees_ != 0; }
  std::uint64_t take_double_frees(std::uintptr_t* last) noexcept {
    const std::uint64_t n = double_frees_;
    double_frees_ = 0;
    *last = last_double_free_;
    return n;
  }
  // What this thread freed for other heaps, until a batch is full.
  struct Outbox {
    BookRef owner = 0;
    Batch* batch = nullptr;
  };
  static constexpr unsigned kOutboxes = 4;
  Outbox& outbox_for(BookRef owner) noexcept {
    return outboxes_[(owner ^ (owner >> 2)) % kOutboxes];
  }
  Outbox* outboxes() noexcept { return outboxes_; }

  bool active() const noexcept { return active_.load(std::memory_order_seq_cst); }
  void set_active(bool active) noexcept { active_.store(active, std::memory_order_seq_cst); }
  // The doors of pools that this heap's thread is behind, of the block that it writes and of the
  // one that it reads (core_contents.cpp).
  Door* visits[2] = {};
  // What this heap's thread keeps of the attached pools that it uses; null: nothing yet.
  PoolTable* pools = nullptr;
  // Something of that is to be given back: its pool goes, or has gone.
  std::atomic<bool> pools_wait{false};
  // This thread's call may have ended what a draining pool waits for.
  bool drains = false;
  Heap* next_heap = nullptr;  // the core's lists
  Heap* next_idle = nullptr;

  bool validate() noexcept;
  bool has_slabs() const noexcept;
  bool has_free(SizeClass c) const noexcept { return slabs_[c].with_free != 0; }

  // The slab and slot that an address names, or none. Safe with any address.
  static SlotRef find_slot(const BookStore& books, const Registry& registry, const PagePool& mapped,
                           std::uintptr_t address) noexcept;
  // The slab, by the region's own entries; null: none.
  static Slab* find_slab_in(const BookStore& books, Region& region,
                            std::uintptr_t address) noexcept;

 protected:
  // top moves between bottom and limit; all null until first used.
  struct alignas(32) Stack {
    FreeSlot* top = nullptr;
    FreeSlot* bottom = nullptr;
    FreeSlot* limit = nullptr;
  };
  // The slabs of a class.
  struct Slabs {
    BookRef with_free = 0;    // those that have free slots; wholly free ones among them
    BookRef full = 0;         // those that have none
    std::uint32_t empty = 0;  // wholly free ones
    std::uint32_t count = 0;
  };

  bool grow_stack(SizeClass c) noexcept;
  bool has_stack(SizeClass c) noexcept;
  void fill_stack(SizeClass c) noexcept;
  std::uint32_t take_from(Slab& slab, FreeSlot* out, std::uint32_t want) noexcept;
  void flush_stack(SizeClass c, std::size_t keep) noexcept;
  void drop_stack(Stack& stack) noexcept;
  // All of the heap's slabs, also where `visit` moves the one at hand to another list.
  template <class Visit>
  void each_slab(const Visit& visit) noexcept {
    for (const Slabs& slabs : slabs_) {
      for (const BookRef head : {slabs.with_free, slabs.full}) {
        for (BookRef at = head; at != 0;) {
          Slab& slab = *books_.at<Slab>(at);
          at = slab.next;
          visit(slab);
        }
      }
    }
  }
  void take_back(std::uintptr_t block) noexcept;
  void sweep() noexcept;
  void check_nested_frees() noexcept;
  // Where a nested free may have been noted and folded since the last check.
  void forget_nested_frees() noexcept { nested_count_.store(0, std::memory_order_relaxed); }
  void sweep_slab(Slab& slab) noexcept;
  Slab& slab_of(std::uintptr_t block) noexcept;
  void list(Slab& slab) noexcept;
  void unlist(Slab& slab) noexcept;
  void release_slab(Slab& slab) noexcept;
  // A slab's book, null: there is no more. In a pool a line stands before it, for PoolHeap's note:
  // behind its states, a stale free could take that for one.
  Slab* new_book(std::uint32_t slots) noexcept;
  void release_book(Slab& slab) noexcept;
  BookRef& head_of(const Slab& slab) noexcept {
    Slabs& slabs = slabs_[slab.size_class.load(std::memory_order_relaxed)];
    return slab.listed_full ? slabs.full : slabs.with_free;
  }

  // No slab's owner: references are even.
  static constexpr BookRef kNobody = 1;

  BookStore& books_;
  Registry& registry_;
  PagePool* pages_;
  const Kind kind_;
  BookRef self_ = 0;
  BookRef fast_owner_ = kNobody;
  std::atomic<std::uint32_t> label_{0};
  std::size_t stack_bytes_ = 0;  // what the slots on all stacks can sum to
  Stack stacks_[kSizeClasses];
  Slabs slabs_[kSizeClasses];
  Outbox outboxes_[kOutboxes];
  std::uint64_t double_frees_ = 0;
  std::uintptr_t last_double_free_ = 0;
  // Further ones are not noted; they are folded all the same.
  static constexpr std::uint32_t kNestedNotes = 16;
  std::atomic<std::uint32_t> nested_count_{0};
  std::uintptr_t nested_[kNestedNotes] = {};
  // Written by other threads: lines of their own.
  alignas(kCacheLine) std::atomic<Batch*> inbox_{nullptr};
  std::atomic<bool> sweep_{false};
  std::atomic<bool> active_{true};
};

}  // namespace exclave
