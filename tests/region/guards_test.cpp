// Edges of the region room's books that no caller comes near.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "region/registry.hpp"
#include "support/books_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;

constexpr std::uintptr_t kBase = 0x200000000000;
constexpr std::size_t kSegment = std::size_t{4} << 20;
constexpr std::size_t kTable = std::size_t{32} << 30;

class GuardsTest : public BooksFixture {
 protected:
  void SetUp() override {
    BooksFixture::SetUp();
    registry_.open(port_.enclave(), 7);
  }
  void TearDown() override {
    EXPECT_TRUE(registry_.validate());
    BooksFixture::TearDown();
  }
  Region& insert(Extent extent, Role role) {
    AttachOptions options;
    options.role = role;
    const Result<Region*> made = registry_.create(extent, options, false);
    EXPECT_TRUE(made.ok() && registry_.insert(**made).ok());
    return **made;
  }

  Registry registry_{books_};
};

TEST_F(GuardsTest, ARegionUpToTheEndOfATableTakesNoSecondOne) {
  const std::size_t before = books_.used_bytes();
  insert({kBase + kTable - kSegment, kSegment}, Role::kMapping);
  const std::size_t one = books_.used_bytes() - before;
  insert({kBase + 3 * kTable - kSegment, 2 * kSegment}, Role::kMapping);
  EXPECT_GT(books_.used_bytes() - before - one, 2 * one - 4 * kCacheLine);
}

TEST_F(GuardsTest, WhereNoTableIsNothingIsFound) {
  insert({kBase, kSegment}, Role::kMapping);
  for (std::uintptr_t at = kBase + kTable; at < kBase + 2 * kTable; at += kSegment)
    ASSERT_EQ(registry_.find(at), nullptr) << std::hex << at;
}

TEST_F(GuardsTest, TheUnitsOfAPoolEndWithIt) {
  for (const std::size_t pages : {4u, 5u, 7u, 8u}) {
    const Extent extent{kBase, pages * kPageBytes};
    Region& pool = insert(extent, Role::kPool);
    for (std::uintptr_t at = extent.base; at < extent.end(); at += kPageBytes)
      EXPECT_NE(pool.unit_of(at), nullptr);
    EXPECT_EQ(pool.unit_of(align_up(extent.end(), kUnitBytes)), nullptr);
    EXPECT_EQ(pool.unit_of(extent.base - 1), nullptr);
    registry_.remove(pool);
    registry_.destroy(pool);
  }
}

TEST_F(GuardsTest, APoolPinnedAsAWholeIsPinned) {
  Region& pool = insert({kBase, kSegment}, Role::kPool);
  const LockGuard guard(registry_.lock());
  EXPECT_FALSE(registry_.is_pinned_locked(pool));
  pool.pins = 1;
  EXPECT_TRUE(registry_.is_pinned_locked(pool));
}

TEST_F(GuardsTest, ACutThatHasItsBookButNoLeafChangesNothing) {
  const Extent whole{kBase, 2 * kSegment};
  Region& mapping = insert(whole, Role::kMapping);
  port_.set_trusted_left(0);
  while (books_.allocate(BookKind::kPagemapLeaf, 4096 + 4) != nullptr) {
  }
  void* last = nullptr;
  while (void* const book = books_.allocate(BookKind::kRegion, Region::book_bytes(0))) last = book;
  ASSERT_NE(last, nullptr);
  books_.release(BookKind::kRegion, last, Region::book_bytes(0));
  {
    const LockGuard guard(registry_.lock());
    EXPECT_EQ(registry_.isolate_locked(mapping, {kBase + kPageBytes, kPageBytes}).error(),
              Error::kOutOfTrustedMemory);
  }
  EXPECT_EQ(registry_.count(), 1u);
  EXPECT_EQ(registry_.query(kBase, whole.size)->extent, whole);
}

// Its facts are about to change: a signal handler is told so, anybody else waits.
TEST_F(GuardsTest, AnOpenRegionIsNotRead) {
  Region& region = insert({kBase, kSegment}, Role::kMapping);
  region.sequence.store(region.sequence.load() + 1);
  const auto inside = [](const void*) { return true; };
  EXPECT_EQ(registry_.query(kBase, 1, inside).error(), Error::kReentered);
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    region.sequence.store(region.sequence.load() + 1);
  });
  EXPECT_TRUE(registry_.query(kBase, 1).ok());
  EXPECT_EQ(region.sequence.load() % 2, 1u);
  writer.join();
}

// As after 2^28 changes of one region: the numbers of its generation are used up, and the next one
// is another region's.
TEST_F(GuardsTest, SequencesGoOnWithAGenerationOfTheirOwn) {
  constexpr unsigned kGenerationShift = 29;
  const auto generation_of = [](const Region& region) {
    return region.sequence.load() >> kGenerationShift;
  };
  Region& first = insert({kBase, kSegment}, Role::kMapping);
  const Region& second = insert({kBase + 2 * kSegment, kSegment}, Role::kMapping);
  ASSERT_EQ(generation_of(first), 1u);
  ASSERT_EQ(generation_of(second), 2u);
  const LockGuard guard(registry_.lock());
  registry_.set_protection_locked(first, Protection::kRead);
  EXPECT_EQ(generation_of(first), 1u);
  first.sequence.store((std::uint64_t{2} << kGenerationShift) - 1);
  registry_.set_protection_locked(first, Protection::kReadWrite);
  EXPECT_EQ(generation_of(first), 3u);
  EXPECT_EQ(first.sequence.load() % 2, 1u);
}

}  // namespace
}  // namespace exclave
