// Validation is worth something only if it says no: each fact of the books is made false, and true
// again.
#include <gtest/gtest.h>

#include <functional>

#include "heap/core.hpp"
#include "support/fake_allocator.hpp"
#include "support/heap_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;

// A fact with another value for as long as this lives.
template <class T>
class Changed {
 public:
  Changed(T& fact, T value) : fact_(fact), before_(fact) { fact_ = value; }
  ~Changed() { fact_ = before_; }
  Changed(const Changed&) = delete;
  Changed& operator=(const Changed&) = delete;

 private:
  T& fact_;
  const T before_;
};
template <class T>
class Changed<std::atomic<T>> {
 public:
  Changed(std::atomic<T>& fact, T value) : fact_(fact), before_(fact.exchange(value)) {}
  ~Changed() { fact_ = before_; }
  Changed(const Changed&) = delete;
  Changed& operator=(const Changed&) = delete;

 private:
  std::atomic<T>& fact_;
  const T before_;
};
template <class T, class V>
Changed(std::atomic<T>&, V) -> Changed<std::atomic<T>>;
template <class T, class V>
Changed(T&, V) -> Changed<T>;

class ValidateTest : public HeapFixture {
 protected:
  void SetUp() override {
    HeapFixture::SetUp();
    ASSERT_TRUE(owner_->validate());
  }
  // The first slot in the state.
  std::atomic<SlotState>& slot_in(SlotState state) {
    for (std::uint32_t i = 0; i < slab_->slots; ++i) {
      if (slab_->states()[i] == state) return slab_->states()[i];
    }
    ADD_FAILURE() << "no slot in state " << static_cast<int>(state);
    return *state_;
  }
};

TEST_F(ValidateTest, ASlotInAnotherState) {
  for (const SlotState is : {SlotState::kFree, SlotState::kLive, SlotState::kCached}) {
    std::atomic<SlotState>& slot = slot_in(is);
    for (const SlotState said :
         {SlotState::kFree, SlotState::kLive, SlotState::kCached, SlotState::kRemote}) {
      // How many callers hold is the core's to count.
      const bool held = is == SlotState::kLive && said == SlotState::kRemote;
      if (said == is || held) continue;
      const Changed wrong(slot, said);
      EXPECT_FALSE(owner_->validate()) << static_cast<int>(is) << " as " << static_cast<int>(said);
    }
  }
  EXPECT_TRUE(owner_->validate());
}

TEST_F(ValidateTest, ASlabWithAWrongFact) {
  {
    const Changed wrong(slab_->owner, next_->self());
    EXPECT_FALSE(owner_->validate());
  }
  {
    const Changed wrong(slab_->size_class, SizeClass{kClass + 1});
    EXPECT_FALSE(owner_->validate());
  }
  {
    const Changed wrong(slab_->listed_full, true);
    EXPECT_FALSE(owner_->validate());
  }
  {
    const Changed wrong(slab_->prev, BookRef{2});
    EXPECT_FALSE(owner_->validate());
  }
  for (const int by : {-1, 1}) {
    const Changed wrong(slab_->free_slots, static_cast<std::uint16_t>(slab_->free_slots + by));
    EXPECT_FALSE(owner_->validate()) << by;
  }
  {
    // Then what stands on the stack is no slot's start.
    const Changed wrong(slab_->base, slab_->base + 16);
    EXPECT_FALSE(owner_->validate());
  }
  EXPECT_TRUE(owner_->validate());
}

TEST_F(ValidateTest, ARegionWithAWrongFact) {
  ASSERT_TRUE(registry_.validate());
  for (const std::size_t size : {std::size_t{1} << 19, std::size_t{1} << 21}) {
    const Changed wrong(region_->size, size);
    EXPECT_FALSE(registry_.validate()) << size;
  }
  for (const std::uintptr_t base : {region_->base - kPageBytes, region_->base + kPageBytes}) {
    const Changed wrong(region_->base, base);
    EXPECT_FALSE(registry_.validate()) << std::hex << base;
  }
  {
    const Changed wrong(region_->id, std::uint64_t{0});
    EXPECT_FALSE(registry_.validate());
  }
  EXPECT_TRUE(registry_.validate());
}

TEST_F(ValidateTest, AUnitWithAWrongEntry) {
  const Result<PageRun> block = pages_.allocate_block(3, 0);
  ASSERT_TRUE(block.ok());
  ASSERT_TRUE(pages_.validate());
  std::atomic<UnitEntry>& of_slab = *region_->unit_of(slab_->base);
  std::atomic<UnitEntry>& of_block = *region_->unit_of(block->extent.base);
  const std::uintptr_t last = region_->extent().end() - kPageBytes;
  std::atomic<UnitEntry>& of_nothing = *region_->unit_of(last);
  {
    const Changed wrong(of_slab, UnitEntry{0});
    EXPECT_FALSE(pages_.validate()) << "pages in use by nobody";
  }
  {
    const Changed wrong(of_block, UnitEntry{0});
    EXPECT_FALSE(pages_.validate()) << "a block without a length";
  }
  {
    const Changed wrong(of_nothing, of_slab.load());
    EXPECT_FALSE(pages_.validate()) << "a slab on free pages";
  }
  EXPECT_TRUE(pages_.validate());
}

// What only the allocator as a whole can tell.
class ValidateCoreTest : public FakeAllocatorTest {
 protected:
  // There is one thread only.
  static std::uintptr_t& drained_to(Pool& pool) EXCLAVE_NO_THREAD_SAFETY_ANALYSIS {
    return pool.drained_to;
  }
  static RegionId& id_of(Pool& pool) EXCLAVE_NO_THREAD_SAFETY_ANALYSIS { return pool.id; }
};

TEST_F(ValidateCoreTest, APoolWithAWrongFact) {
  attach(range_at(0, kMiBytes));
  Region* const region = allocator_->core()->registry().find(FakePort::kAttachBase);
  ASSERT_NE(region, nullptr);
  Pool* const pool = static_cast<Pool*>(region->pool.load());
  ASSERT_TRUE(pool != nullptr && allocator_->validate_books());
  {
    const Changed wrong(drained_to(*pool), std::uintptr_t{0});
    EXPECT_FALSE(allocator_->validate_books());
  }
  {
    const Changed wrong(id_of(*pool), RegionId{id_of(*pool).value + 1});
    EXPECT_FALSE(allocator_->validate_books());
  }
  {
    const Changed wrong(region->pool, nullptr);
    EXPECT_FALSE(allocator_->validate_books());
  }
  EXPECT_TRUE(allocator_->validate_books());
}

TEST_F(ValidateCoreTest, AnyHeapWithAWrongFact) {
  const std::uintptr_t block = allocate(64);
  const auto told = [&] {
    Region* const region = allocator_->core()->registry().find(block);
    const Changed wrong(region->size, region->size - kPageBytes);
    return !allocator_->validate_books();
  };
  EXPECT_TRUE(told());
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(free(block), Error::kNone);
}

}  // namespace
}  // namespace exclave
