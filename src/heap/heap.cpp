#include "heap/heap.hpp"

#include "base/check.hpp"

namespace exclave {
namespace {

// A stack starts small and doubles while its class is in use, up to so many slots and bytes; all
// stacks of a heap together hold no more than kMaxStackBytes beyond their first slots.
constexpr std::size_t kFirstSlots = 16;
constexpr std::size_t kMaxSlots = 1024;
constexpr std::size_t kMaxCachedBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxStackBytes = std::size_t{16} << 20;

std::size_t max_slots(SizeClass c) noexcept {
  static_assert(kMaxCachedBytes / kMaxSmallBytes >= kFirstSlots);
  const std::size_t fit = kMaxCachedBytes / size_class_bytes(c);
  return fit > kMaxSlots ? kMaxSlots : fit;
}

}  // namespace

SlotRef Heap::find_slot(const BookStore& books, const Registry& registry, const PagePool& mapped,
                        std::uintptr_t address) noexcept {
  if (const BookRef ref = mapped.slab_at(address); EXCLAVE_LIKELY(ref != 0)) {
    Slab* const slab = books.at<Slab>(ref);
    return {slab, slab->slot_at(address)};
  }
  Region* const region = registry.find(address);
  Slab* const slab = region != nullptr ? find_slab_in(books, *region, address) : nullptr;
  return slab != nullptr ? SlotRef{slab, slab->slot_at(address)} : SlotRef{};
}

Slab* Heap::find_slab_in(const BookStore& books, Region& region, std::uintptr_t address) noexcept {
  const std::atomic<UnitEntry>* const unit = region.unit_of(address);
  if (unit == nullptr) return nullptr;
  // Acquire pairs with publish_slab.
  const UnitEntry entry = unit->load(std::memory_order_acquire);
  return is_slab(entry) ? exclave::slab_of<Slab>(books.view(), entry) : nullptr;
}

Slab& Heap::slab_of(std::uintptr_t block) noexcept {
  // What stands on a stack is a slot of ours, so its slab is all that is asked for.
  if (const BookRef slab = pages_->slab_at(block); EXCLAVE_LIKELY(slab != 0))
    return *books_.at<Slab>(slab);
  const SlotRef found = find_slot(books_, registry_, *pages_, block);
  EXCLAVE_CHECK(found.slab != nullptr);
  return *found.slab;
}

// ---- Lists of slabs ----

void Heap::list(Slab& slab) noexcept {
  slab.listed_full = slab.free_slots == 0;
  BookRef& head = head_of(slab);
  slab.prev = 0;
  slab.next = head;
  if (head != 0) books_.at<Slab>(head)->prev = books_.ref(&slab);
  head = books_.ref(&slab);
}

void Heap::unlist(Slab& slab) noexcept {
  if (slab.next != 0) books_.at<Slab>(slab.next)->prev = slab.prev;
  if (slab.prev != 0) {
    books_.at<Slab>(slab.prev)->next = slab.next;
  } else {
    head_of(slab) = slab.next;
  }
  slab.next = slab.prev = 0;
}

void Heap::release_slab(Slab& slab) noexcept {
  const PageRun run{books_.at<Region>(slab.region), slab.extent()};
  slabs_[slab.size_class.load(std::memory_order_relaxed)].count -= 1;
  slab.owner.store(0, std::memory_order_release);
  pages_->free_slab(run);
  release_book(slab);
}

Slab* Heap::new_book(std::uint32_t slots) noexcept {
  const std::size_t bytes = Slab::book_bytes(slots);
  if (kind_ != Kind::kPool) return static_cast<Slab*>(books_.allocate(BookKind::kSlab, bytes));
  void* const book = books_.allocate(BookKind::kPoolSlab, kCacheLine + bytes);
  return book == nullptr ? nullptr
                         : reinterpret_cast<Slab*>(static_cast<std::byte*>(book) + kCacheLine);
}

void Heap::release_book(Slab& slab) noexcept {
  const std::size_t bytes = Slab::book_bytes(slab.slots.load(std::memory_order_relaxed));
  if (kind_ != Kind::kPool) return books_.release(BookKind::kSlab, &slab, bytes);
  books_.release(BookKind::kPoolSlab, reinterpret_cast<std::byte*>(&slab) - kCacheLine,
                 kCacheLine + bytes);
}

void Heap::count_free(Slab& slab) noexcept {
  const std::uint16_t slots = slab.slots.load(std::memory_order_relaxed);
  Slabs& slabs = slabs_[slab.size_class.load(std::memory_order_relaxed)];
  slab.free_slots = static_cast<std::uint16_t>(slab.free_slots + 1);
  if (slab.listed_full) {
    unlist(slab);
    list(slab);
  }
  if (slab.free_slots != slots) return;
  // One wholly free slab of a class stays at hand; in an attached pool all of them do, until pages
  // are asked for (pool_heap.hpp).
  if (slabs.empty == 0 || kind_ == Kind::kPool) {
    slabs.empty += 1;
    return;
  }
  unlist(slab);
  release_slab(slab);
}

// ---- Stacks ----

bool Heap::grow_stack(SizeClass c) noexcept {
  Stack& stack = stacks_[c];
  const std::size_t before = static_cast<std::size_t>(stack.limit - stack.bottom);
  const std::size_t after = before == 0 ? kFirstSlots : before * 2;
  const std::size_t more = (after - before) * size_class_bytes(c);
  if (after > max_slots(c) || (before != 0 && stack_bytes_ + more > kMaxStackBytes)) return false;
  FreeSlot* const slots =
      static_cast<FreeSlot*>(books_.allocate(BookKind::kPlain, after * sizeof(FreeSlot)));
  if (slots == nullptr) return false;
  const std::size_t used = static_cast<std::size_t>(stack.top - stack.bottom);
  if (stack.bottom != nullptr) {
    for (std::size_t i = 0; i < used; ++i) slots[i] = stack.bottom[i];
    books_.release(BookKind::kPlain, stack.bottom, before * sizeof(FreeSlot));
  }
  if (before != 0) stack_bytes_ += more;
  stack.bottom = slots;
  stack.top = slots + used;
  stack.limit = slots + after;
  return true;
}

// Without a stack no slot of a slab can be served.
bool Heap::has_stack(SizeClass c) noexcept {
  return stacks_[c].bottom != nullptr || grow_stack(c);
}

// Precondition: so many are there to keep.
void Heap::flush_stack(SizeClass c, std::size_t keep) noexcept {
  Stack& stack = stacks_[c];
  const std::size_t drop = static_cast<std::size_t>(stack.top - stack.bottom) - keep;
  for (std::size_t i = 0; i < drop; ++i)
    give_back(slab_of(stack.bottom[i].block), stack.bottom[i].state);
  for (std::size_t i = 0; i < keep; ++i) stack.bottom[i] = stack.bottom[drop + i];
  stack.top = stack.bottom + keep;
}

void Heap::make_room_slow(SizeClass c) noexcept {
  const Stack& stack = stacks_[c];
  if (!grow_stack(c)) flush_stack(c, static_cast<std::size_t>(stack.top - stack.bottom) / 2);
}

bool Heap::refill_slow(SizeClass c) noexcept {
  Stack& stack = stacks_[c];
  fold_slow();
  if (stack.top != stack.bottom) return true;
  fill_stack(c);
  return stack.top != stack.bottom;
}

// Precondition: it is empty.
void Heap::fill_stack(SizeClass c) noexcept {
  Stack& stack = stacks_[c];
  Slabs& slabs = slabs_[c];
  grow_stack(c);  // a class in use earns a deeper stack
  const std::size_t room = static_cast<std::size_t>(stack.limit - stack.bottom);
  const std::uint32_t want = static_cast<std::uint32_t>(room / 2);
  std::uint32_t taken = 0;
  while (taken < want && slabs.with_free != 0)
    taken += take_from(*books_.at<Slab>(slabs.with_free), stack.bottom + taken, want - taken);
  // The lowest address on top: blocks come in ascending order.
  for (std::uint32_t i = 0; i < taken / 2; ++i) {
    const FreeSlot swap = stack.bottom[i];
    stack.bottom[i] = stack.bottom[taken - 1 - i];
    stack.bottom[taken - 1 - i] = swap;
  }
  stack.top = stack.bottom + taken;
}

// Free slots of a slab that has some, marked kCached.
std::uint32_t Heap::take_from(Slab& slab, FreeSlot* out, std::uint32_t want) noexcept {
  if (slab.free_slots == slab.slots.load(std::memory_order_relaxed))
    slabs_[slab.size_class.load(std::memory_order_relaxed)].empty -= 1;
  const std::uint32_t taken = slab.take(out, want);
  if (slab.free_slots == 0) {
    unlist(slab);
    list(slab);
  }
  return taken;
}

Status Heap::add_slab_slow(SizeClass c, Region* only_region, bool scarce) noexcept {
  // Single slots can be served without one in an attached pool.
  if (kind_ != Kind::kPool && !has_stack(c)) return Error::kOutOfTrustedMemory;
  Result<PageRun> run = Error::kOutOfMemory;
  const std::size_t slot_bytes = size_class_bytes(c);
  // A small region should not give much of itself to one class; nor be cut into slabs with room for
  // a slot and a half.
  constexpr std::size_t kLeastSlots = 4;
  const std::size_t cap = only_region != nullptr ? only_region->extent().size / 64 : SIZE_MAX;
  const std::uint64_t fewest = scarce ? 1 : SlabMap::kGrainBytes / kUnitBytes;
  for (std::uint64_t units = slab_units(c, slabs_[c].count); !run.ok() && units >= fewest;
       units /= 2) {
    const bool least = units == 1 || units / 2 * kUnitBytes < kLeastSlots * slot_bytes;
    if (units * kUnitBytes < slot_bytes) break;
    if (units * kUnitBytes > cap && !least) continue;
    run = pages_->allocate_slab(units);
  }
  if (!run.ok() && only_region != nullptr && only_region->boundary == 0)
    run = pages_->allocate_edge_slab(*only_region);
  if (!run.ok()) return run.error();
  const std::uint32_t slots = slots_in(run->extent.size, c);
  Slab* const slab = slots == 0 ? nullptr : new_book(slots);
  if (slab == nullptr) {
    pages_->free_slab(*run);
    return slots == 0 ? Error::kOutOfMemory : Error::kOutOfTrustedMemory;
  }
  slab->open(*run, books_.ref(run->region), c, self_);
  list(*slab);
  slabs_[c].empty += 1;
  slabs_[c].count += 1;
  pages_->publish_slab(*run, books_.ref(slab));
  return {};
}

bool Heap::adopt_slow(Heap& from, SizeClass c) noexcept {
  const BookRef ref = from.slabs_[c].with_free;
  if (ref == 0 || (kind_ != Kind::kPool && !has_stack(c))) return false;
  Slab& slab = *books_.at<Slab>(ref);
  const bool empty = slab.free_slots == slab.slots.load(std::memory_order_relaxed);
  if (empty) from.slabs_[c].empty -= 1;
  from.slabs_[c].count -= 1;
  from.unlist(slab);
  slab.owner.store(self_, std::memory_order_seq_cst);
  list(slab);
  if (empty) slabs_[c].empty += 1;
  slabs_[c].count += 1;
  // Whoever deferred a slot before that store may have asked `from`, which looks here no more. Who
  // does it later reads us as the owner: both sides are sequentially consistent.
  sweep_slab(slab);
  forget_nested_frees();
  return true;
}

void Heap::flush_slow() noexcept {
  fold_slow();
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    flush_stack(c, 0);
    drop_stack(stacks_[c]);
    Slabs& slabs = slabs_[c];
    if (slabs.empty == 0) continue;
    for (BookRef at = slabs.with_free; at != 0;) {
      Slab& slab = *books_.at<Slab>(at);
      at = slab.next;
      if (slab.free_slots != slab.slots.load(std::memory_order_relaxed)) continue;
      unlist(slab);
      release_slab(slab);
    }
    slabs.empty = 0;
  }
  stack_bytes_ = 0;
}

void Heap::drop_stack(Stack& stack) noexcept {
  if (stack.bottom == nullptr) return;
  books_.release(BookKind::kPlain, stack.bottom,
                 static_cast<std::size_t>(stack.limit - stack.bottom) * sizeof(FreeSlot));
  stack = Stack{};
}

void Heap::hand_over_slow(Heap& to) noexcept {
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    for (BookRef* head : {&slabs_[c].with_free, &slabs_[c].full}) {
      while (*head != 0) {
        Slab& slab = *books_.at<Slab>(*head);
        unlist(slab);
        slab.owner.store(to.self_, std::memory_order_release);
        to.list(slab);
      }
    }
    to.slabs_[c].count += slabs_[c].count;
    to.slabs_[c].empty += slabs_[c].empty;
    slabs_[c].count = slabs_[c].empty = 0;
  }
  forget_nested_frees();
}

bool Heap::has_slabs() const noexcept {
  for (const Slabs& slabs : slabs_) {
    if (slabs.count != 0) return true;
  }
  return false;
}

// ---- Remote frees ----

bool Heap::defer(const BookStore& books, Slab& slab, std::atomic<SlotState>* state) noexcept {
  // Not a plain store: over the owner's kCached it would make the block free in two places.
  SlotState expected = SlotState::kRemote;
  if (!state->compare_exchange_strong(expected, SlotState::kDeferred, std::memory_order_seq_cst,
                                      std::memory_order_relaxed)) {
    return false;
  }
  BookRef owner = slab.owner.load(std::memory_order_seq_cst);
  for (;;) {
    if (owner == 0) return true;  // GCOVR_EXCL_BR_LINE: a race
    books.at<Heap>(owner)->request_sweep();
    // The slab may have changed hands before the request stood.
    const BookRef now = slab.owner.load(std::memory_order_seq_cst);
    // GCOVR_EXCL_START: a race
    if (now == owner) return true;
    owner = now;
    // GCOVR_EXCL_STOP
  }
}

// A block that came by batch: to the stack if there is room, else to its slab; or on to its new
// owner.
void Heap::take_back(std::uintptr_t block) noexcept {
  const SlotRef found = find_slot(books_, registry_, *pages_, block);
  // kRemote holds the slab in place. But the owner may have freed it itself at the same moment:
  // then one of the two was a double free, and the slab may be gone.
  std::atomic<SlotState>* const state = found.slot != Slab::kNoSlot ? &found.state() : nullptr;
  if (state != nullptr && state->load(std::memory_order_acquire) == SlotState::kRemote) {
    if (found.slab->owner.load(std::memory_order_acquire) == self_) {
      if (!push(found.slab->size_class.load(std::memory_order_relaxed), block, state))
        give_back(*found.slab, state);
      return;
    }
    if (defer(books_, *found.slab, state)) return;  // GCOVR_EXCL_BR_LINE: a race
  }
  count_double_free(block);
}

void Heap::fold_slow() noexcept {
  Batch* batch = has_inbox() ? take_inbox() : nullptr;
  while (batch != nullptr) {
    Batch* const next = batch->next;
    for (std::uint32_t i = 0; i < batch->count; ++i) take_back(batch->blocks[i]);
    books_.release(BookKind::kPlain, batch, sizeof(Batch));
    batch = next;
  }
  if (sweep_.load(std::memory_order_relaxed)) sweep();
}

void Heap::sweep() noexcept {
  // Cleared first: a deferral during the walk asks again.
  sweep_.exchange(false, std::memory_order_acq_rel);
  check_nested_frees();
  each_slab([this](Slab& slab) noexcept { sweep_slab(slab); });
  forget_nested_frees();
}

void Heap::check_nested_frees() noexcept {
  const std::uint32_t count = nested_count_.load(std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < count; ++i) {
    const SlotRef found = find_slot(books_, registry_, *pages_, nested_[i]);
    // GCOVR_EXCL_BR_START: a signal at one instruction
    if (found.slot == Slab::kNoSlot ||
        found.state().load(std::memory_order_relaxed) != SlotState::kDeferred) {
      count_double_free(nested_[i]);  // GCOVR_EXCL_LINE: as above
    }
    // GCOVR_EXCL_BR_STOP
  }
}

void Heap::sweep_slab(Slab& slab) noexcept {
  std::uint32_t found = 0;
  const std::uint32_t slots = slab.slots.load(std::memory_order_relaxed);
  // Sequentially consistent for adopt_slow, and as cheap as an acquire.
  for (std::uint32_t i = 0; i < slots; ++i) {
    found += slab.states()[i].load(std::memory_order_seq_cst) == SlotState::kDeferred;
  }
  // Counted before any is given back: with the last one the slab may go.
  for (std::uint32_t i = 0; found != 0; ++i) {
    if (slab.states()[i].load(std::memory_order_relaxed) != SlotState::kDeferred) continue;
    --found;
    give_back(slab, &slab.states()[i]);
  }
}

// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool Heap::validate() noexcept {
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    const Stack& stack = stacks_[c];
    const Slabs& slabs = slabs_[c];
    std::uint64_t cached = 0;
    std::uint32_t empty = 0;
    std::uint32_t count = 0;
    for (const BookRef head : {slabs.with_free, slabs.full}) {
      BookRef before = 0;
      for (BookRef at = head; at != 0; at = books_.at<Slab>(at)->next) {
        const Slab& slab = *books_.at<Slab>(at);
        const bool full = head == slabs.full && slabs.full != 0;
        if (slab.prev != before || slab.owner.load(std::memory_order_relaxed) != self_ ||
            slab.size_class != c || slab.count(SlotState::kFree) != slab.free_slots ||
            (slab.free_slots == 0) != slab.listed_full || slab.listed_full != full) {
          return false;  // GCOVR_EXCL_LINE: as above
        }
        count += 1;
        empty += slab.free_slots == slab.slots.load(std::memory_order_relaxed);
        cached += slab.count(SlotState::kCached);
        before = at;
      }
    }
    if (empty != slabs.empty || count != slabs.count ||
        (kind_ != Kind::kPool && cached != static_cast<std::uint64_t>(stack.top - stack.bottom)))
      return false;                      // GCOVR_EXCL_LINE: as above
    if (kind_ == Kind::kPool) continue;  // what stands on its stacks are hints
    for (const FreeSlot* slot = stack.bottom; slot != stack.top; ++slot) {
      const SlotRef found = find_slot(books_, registry_, *pages_, slot->block);
      if (found.slab == nullptr || found.slot == Slab::kNoSlot || &found.state() != slot->state ||
          slot->state->load(std::memory_order_relaxed) != SlotState::kCached) {
        return false;  // GCOVR_EXCL_LINE: as above
      }
    }
  }
  return true;
}
// GCOVR_EXCL_BR_STOP

}  // namespace exclave
