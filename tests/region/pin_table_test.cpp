// Pins against a list.
#include "region/pin_table.hpp"

#include <map>
#include <random>

#include "support/books_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class PinTableTest : public BooksFixture {
 protected:
  void SetUp() override {
    BooksFixture::SetUp();
    pins_.seed(11);
  }
  PinId add(Extent extent, bool whole_pool = false) {
    const Result<PinId> id = pins_.add(extent);
    EXPECT_TRUE(id.ok());
    if (whole_pool) pins_.make_whole(*id);
    return *id;
  }

  PinTable pins_{books_};
};

TEST_F(PinTableTest, OverlapIsOfBytes) {
  const PinId id = add({100, 50});
  EXPECT_TRUE(pins_.overlaps({100, 1}));
  EXPECT_TRUE(pins_.overlaps({149, 1}));
  EXPECT_TRUE(pins_.overlaps({0, 1000}));
  EXPECT_FALSE(pins_.overlaps({150, 10}));
  EXPECT_FALSE(pins_.overlaps({50, 50}));
  EXPECT_TRUE(pins_.remove(id).ok());
  EXPECT_FALSE(pins_.overlaps({0, 1000}));
}

TEST_F(PinTableTest, WholePoolPinsDoNotOverlapBlocks) {
  const PinId id = add({0x1000, 0x1000}, true);
  EXPECT_FALSE(pins_.overlaps({0x1000, 0x1000}));
  EXPECT_EQ(pins_.count(), 1u);
  const Result<Pin> was = pins_.remove(id);
  ASSERT_TRUE(was.ok());
  EXPECT_TRUE(was->whole_pool);
  EXPECT_EQ(was->extent, (Extent{0x1000, 0x1000}));
}

TEST_F(PinTableTest, AnIdIsGoodOnce) {
  const PinId first = add({100, 1});
  EXPECT_TRUE(pins_.remove(first).ok());
  EXPECT_EQ(pins_.remove(first).error(), Error::kNotFound);
  const PinId second = add({100, 1});
  EXPECT_NE(first.value, second.value) << "the slot is used again under another id";
  EXPECT_EQ(pins_.remove(first).error(), Error::kNotFound);
  EXPECT_TRUE(pins_.remove(second).ok());
}

TEST_F(PinTableTest, WildIdsAreNotFound) {
  const PinId id = add({100, 1});
  for (const std::uint64_t wild : {std::uint64_t{0}, UINT64_MAX, id.value + 1, id.value - 1,
                                   id.value + (std::uint64_t{1} << 32), id.value & 0xffffffff,
                                   id.value << 32, std::uint64_t{17} << 32 | 17}) {
    EXPECT_EQ(pins_.remove(PinId{wild}).error(), Error::kNotFound) << wild;
  }
  EXPECT_TRUE(pins_.remove(id).ok());
}

TEST_F(PinTableTest, BeforeTheFirstPinNoIdIsFound) {
  for (const std::uint64_t wild : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32}) {
    EXPECT_EQ(pins_.remove(PinId{wild}).error(), Error::kNotFound) << wild;
  }
}

TEST_F(PinTableTest, RandomPinsAgreeWithAList) {
  std::map<std::uint64_t, Extent> model;
  std::mt19937_64 random(5);
  for (int step = 0; step < 4000; ++step) {
    if (random() % 2 == 0 || model.empty()) {
      // Short and long ones, many at equal addresses.
      const Extent extent{random() % 64 * 100, 1 + random() % (random() % 8 == 0 ? 3000 : 150)};
      const PinId id = add(extent);
      EXPECT_TRUE(model.emplace(id.value, extent).second);
    } else {
      auto chosen = model.begin();
      std::advance(chosen, static_cast<std::ptrdiff_t>(random() % model.size()));
      const Result<Pin> was = pins_.remove(PinId{chosen->first});
      ASSERT_TRUE(was.ok());
      EXPECT_EQ(was->extent, chosen->second);
      model.erase(chosen);
    }
    ASSERT_EQ(pins_.count(), model.size());
    const Extent range{random() % 7000, 1 + random() % 200};
    bool expected = false;
    for (const auto& [id, extent] : model) expected |= extent.overlaps(range);
    ASSERT_EQ(pins_.overlaps(range), expected) << "step " << step;
    if (step % 16 == 0) {
      ASSERT_TRUE(pins_.validate());
    }
  }
}

TEST_F(PinTableTest, OutOfTrustedMemoryChangesNothing) {
  const PinId kept = add({100, 1});
  port_.set_trusted_left(0);
  std::vector<PinId> ids;
  for (;;) {
    const Result<PinId> id = pins_.add({200 + ids.size(), 1});
    if (!id.ok()) {
      EXPECT_EQ(id.error(), Error::kOutOfTrustedMemory);
      break;
    }
    ids.push_back(*id);
  }
  EXPECT_EQ(pins_.count(), ids.size() + 1);
  EXPECT_TRUE(pins_.validate());
  EXPECT_FALSE(pins_.overlaps({200 + ids.size(), 1}));
  for (const PinId id : ids) EXPECT_TRUE(pins_.remove(id).ok());
  EXPECT_TRUE(pins_.remove(kept).ok());
}

// A slot is there, and no book for the pin in it.
TEST_F(PinTableTest, WithoutABookForThePinItsSlotStaysFree) {
  EXPECT_TRUE(pins_.remove(add({100, 1})).ok());
  port_.set_trusted_left(0);
  while (books_.allocate(BookKind::kPlain, sizeof(Pin)) != nullptr) {
  }
  EXPECT_EQ(pins_.add({100, 1}).error(), Error::kOutOfTrustedMemory);
  EXPECT_EQ(pins_.count(), 0u);
  port_.set_trusted_left(SIZE_MAX / 2);
  EXPECT_TRUE(pins_.remove(add({100, 1})).ok());
}

}  // namespace
}  // namespace exclave
