// Heaps of their own over one grown region, for tests that look at their books.
#pragma once

#include <gtest/gtest.h>

#include <new>

#include "base/spin_lock.hpp"
#include "heap/heap.hpp"
#include "support/books_fixture.hpp"

namespace exclave::testing_support {

// A heap with a block out, one without, and the orphans'.
class HeapFixture : public BooksFixture {
 protected:
  static constexpr SizeClass kClass = size_class_of(64);

  void SetUp() override {
    BooksFixture::SetUp();
    registry_.open(port_.enclave(), 7);
    const Result<Region*> region =
        registry_.create({0x200000000000, std::size_t{1} << 20}, {}, true);
    ASSERT_TRUE(region.ok() && registry_.insert(**region).ok() && pages_.add(**region).ok());
    region_ = *region;
    owner_ = make(Heap::Kind::kThread);
    owner_->set_self(books_.ref(owner_), true);
    next_ = make(Heap::Kind::kThread);
    next_->set_self(books_.ref(next_), true);
    orphans_ = make(Heap::Kind::kOrphans);
    const LockGuard guard(orphans_lock_);
    orphans_->set_self(books_.ref(orphans_), false);
    std::uintptr_t block = 0;
    ASSERT_TRUE(owner_->add_slab_slow(kClass, nullptr, true).ok() && owner_->refill_slow(kClass) &&
                owner_->pop(kClass, &block));
    const SlotRef found = Heap::find_slot(books_, registry_, pages_, block);
    ASSERT_NE(found.slab, nullptr);
    slab_ = found.slab;
    state_ = &slab_->states()[found.slot];
  }
  // Heaps live in books.
  Heap* make(Heap::Kind kind) {
    return ::new (books_.allocate(BookKind::kHeap, sizeof(Heap)))
        Heap(books_, registry_, pages_, kind);
  }

  Registry registry_{books_};
  PagePool pages_{books_};
  Region* region_ = nullptr;
  Heap* owner_ = nullptr;
  Heap* next_ = nullptr;
  SpinLock orphans_lock_{LockRank::kHeap};
  Heap* orphans_ = nullptr;
  Slab* slab_ = nullptr;
  std::atomic<SlotState>* state_ = nullptr;
};

}  // namespace exclave::testing_support
