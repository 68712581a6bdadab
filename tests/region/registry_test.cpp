// Regions in order, the pagemap under them, and queries without a lock.
#include "region/registry.hpp"

#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "region/verify.hpp"
#include "support/books_fixture.hpp"
#include "support/sanitizers.hpp"

namespace exclave {
namespace {

using namespace testing_support;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kGiB = std::size_t{1} << 30;
constexpr std::uintptr_t kBase = 0x200000000000;
constexpr std::size_t kSegment = 4 * kMiB;

constexpr int kRounds = kSanitized ? 3000 : 20000;

class RegistryTest : public BooksFixture {
 protected:
  void SetUp() override {
    BooksFixture::SetUp();
    registry_.open(port_.enclave(), 7);
  }
  void TearDown() override {
    EXPECT_TRUE(registry_.validate());
    BooksFixture::TearDown();
  }
  Result<Region*> insert(Extent extent, AttachOptions options = {}) {
    const Result<Region*> made = registry_.create(extent, options, false);
    if (!made.ok()) return made;
    const Status inserted = registry_.insert(**made);
    if (inserted.ok()) return made;
    registry_.destroy(**made);
    return inserted.error();
  }
  Region& insert_mapping(Extent extent, Protection protection = Protection::kReadWrite,
                         std::uint64_t device_base = kNoDeviceAddress) {
    AttachOptions options;
    options.role = Role::kMapping;
    options.protection = protection;
    options.device_base = device_base;
    const Result<Region*> made = insert(extent, options);
    EXPECT_TRUE(made.ok()) << error_text(made.error());
    return **made;
  }
  void remove(Region& region) {
    registry_.remove(region);
    registry_.destroy(region);
  }
  Error query_error(std::uintptr_t address, std::size_t size) {
    return registry_.query(address, size).error();
  }
  // Is the whole range, and nothing around it, the region's?
  void expect_exactly(const Region& region, Extent extent) {
    for (const std::uintptr_t at : {extent.base, extent.base + extent.size / 2, extent.end() - 1}) {
      EXPECT_EQ(registry_.find(at), &region) << std::hex << at;
    }
    EXPECT_NE(registry_.find(extent.base - 1), &region);
    EXPECT_NE(registry_.find(extent.end()), &region);
    const Result<RegionInfo> info = registry_.query(extent.base, extent.size);
    ASSERT_TRUE(info.ok());
    EXPECT_EQ(info->extent, extent);
  }

  Registry registry_{books_};
};

TEST_F(RegistryTest, RegionsAtTheEdgesOfSegments) {
  // Each shape alone, then gone without a trace.
  const Extent shapes[] = {
      {kBase, kPageBytes},
      {kBase, kSegment},
      {kBase + kPageBytes, kSegment},
      {kBase + kSegment - kPageBytes, 2 * kPageBytes},
      {kBase - kPageBytes, kSegment + 2 * kPageBytes},
      {kBase + kSegment - kPageBytes, 3 * kSegment},
      {kBase, 7 * kSegment},
      {kBase + kSegment / 2, 2 * kSegment},
  };
  for (const Extent& shape : shapes) {
    const Result<Region*> region = insert(shape);
    ASSERT_TRUE(region.ok());
    expect_exactly(**region, shape);
    EXPECT_TRUE(registry_.validate());
    remove(**region);
    EXPECT_EQ(query_error(shape.base, 1), Error::kNotFound);
    EXPECT_EQ(query_error(shape.end() - 1, 1), Error::kNotFound);
    EXPECT_EQ(registry_.find(shape.base + shape.size / 2), nullptr);
    EXPECT_TRUE(registry_.validate());
  }
}

TEST_F(RegistryTest, RegionsAtTheEdgesOf32GiB) {
  constexpr std::uintptr_t kEdge = kBase + 32 * kGiB;
  for (const Extent& shape :
       {Extent{kEdge - kPageBytes, 2 * kPageBytes}, Extent{kEdge - kSegment, 2 * kSegment},
        Extent{kEdge - kPageBytes, kPageBytes}, Extent{kEdge, kPageBytes}}) {
    const Result<Region*> region = insert(shape);
    ASSERT_TRUE(region.ok());
    expect_exactly(**region, shape);
    remove(**region);
    EXPECT_EQ(query_error(shape.base, 1), Error::kNotFound);
  }
}

TEST_F(RegistryTest, HugeRegionsNeedNoLeaves) {
  const std::size_t before = books_.used_bytes();
  Region& region = insert_mapping({kBase + kSegment, 100 * kGiB});
  EXPECT_LT(books_.used_bytes() - before, 400u << 10);
  expect_exactly(region, {kBase + kSegment, 100 * kGiB});
  EXPECT_TRUE(registry_.query(kBase + kSegment, 100 * kGiB).ok());
  remove(region);
}

TEST_F(RegistryTest, HighestAddressesAreLegal) {
  Region& region = insert_mapping({kAddressLimit - kPageBytes, kPageBytes});
  expect_exactly(region, {kAddressLimit - kPageBytes, kPageBytes});
  EXPECT_EQ(query_error(kAddressLimit, 1), Error::kNotFound);
  EXPECT_EQ(query_error(kAddressLimit - 1, 2), Error::kNotFound);
  remove(region);
}

TEST_F(RegistryTest, AboveTheLowerHalfNothingIsFound) {
  ASSERT_TRUE(insert({kAddressLimit - kSegment, kSegment}).ok());
  for (unsigned bit = kAddressBits; bit < 64; ++bit) {
    for (const std::uintptr_t low :
         {std::uintptr_t{0}, kAddressLimit - kSegment, kAddressLimit - 1}) {
      const std::uintptr_t at = (std::uintptr_t{1} << bit) | low;
      EXPECT_EQ(registry_.find(at), nullptr) << std::hex << at;
      EXPECT_EQ(query_error(at, 1), Error::kNotFound) << std::hex << at;
      EXPECT_EQ(registry_.next(at).error(), Error::kNotFound) << std::hex << at;
    }
  }
  EXPECT_EQ(query_error(UINTPTR_MAX, 1), Error::kNotFound);
}

// Each book of an insertion is missing once: it is refused, and what stood before stands.
TEST_F(RegistryTest, OutOfTrustedMemoryAtEveryBookChangesNothing) {
  const Region& before = insert_mapping({kBase, kPageBytes});
  std::size_t inserted = 1;
  std::vector<Region*> regions;
  AttachOptions options;
  options.role = Role::kMapping;
  // Two tables of 32 GiB, two leaves (or one) and the region's own book. None is given back
  // meanwhile, so the last chunk of trusted memory ends at a different one each time.
  for (std::size_t i = 1; i <= 160; ++i) {
    const Extent extent{kBase + 2 * i * 64 * kGiB - 3 * kPageBytes,
                        (i % 2 == 0 ? 6 : 3) * kPageBytes};
    port_.set_trusted_left(i % 7 * (std::size_t{64} << 10));
    if (i % 8 == 0) {
      // Not even a region's book.
      while (books_.allocate(BookKind::kRegion, Region::book_bytes(0)) != nullptr) {
      }
    }
    const Result<Region*> made = insert(extent, options);
    port_.set_trusted_left(SIZE_MAX / 2);
    if (made.ok()) {
      expect_exactly(**made, extent);
      regions.push_back(*made);
      ++inserted;
    } else {
      EXPECT_EQ(made.error(), Error::kOutOfTrustedMemory);
      EXPECT_EQ(registry_.find(extent.base), nullptr);
      EXPECT_EQ(registry_.find(extent.end() - 1), nullptr);
    }
    expect_exactly(before, {kBase, kPageBytes});
    ASSERT_EQ(registry_.count(), inserted);
  }
  EXPECT_GT(regions.size(), 10u);
  EXPECT_LT(regions.size(), 150u);
  for (Region* const region : regions) remove(*region);
}

TEST_F(RegistryTest, WithoutALeafNothingIsInserted) {
  insert_mapping({kBase, kPageBytes});
  remove(insert_mapping({kBase + kPageBytes, kPageBytes}));  // a book at hand for a region
  port_.set_trusted_left(0);
  while (books_.allocate(BookKind::kPagemapLeaf, 4096 + 4) != nullptr) {
  }
  AttachOptions options;
  options.role = Role::kMapping;
  for (const Extent extent : {Extent{kBase + 2 * kSegment - kPageBytes, kPageBytes},
                              Extent{kBase + 2 * kSegment, kPageBytes},
                              Extent{kBase + 2 * kSegment - kPageBytes, 2 * kPageBytes}}) {
    EXPECT_EQ(insert(extent, options).error(), Error::kOutOfTrustedMemory);
    EXPECT_EQ(registry_.find(extent.base), nullptr);
    EXPECT_EQ(registry_.count(), 1u);
  }
}

TEST_F(RegistryTest, WithoutABookNothingIsCut) {
  const Extent whole{kBase, 3 * kPageBytes};
  Region& mapping = insert_mapping(whole);
  port_.set_trusted_left(0);
  while (books_.allocate(BookKind::kRegion, Region::book_bytes(0)) != nullptr) {
  }
  {
    const LockGuard guard(registry_.lock());
    for (const std::size_t first : {0u, 1u, 2u}) {
      EXPECT_EQ(registry_.isolate_locked(mapping, {kBase + first * kPageBytes, kPageBytes}).error(),
                Error::kOutOfTrustedMemory);
    }
  }
  expect_exactly(mapping, whole);
  EXPECT_EQ(registry_.count(), 1u);
}

TEST_F(RegistryTest, LowestAddressesAreLegal) {
  Region& region = insert_mapping({kPageBytes, kPageBytes});
  expect_exactly(region, {kPageBytes, kPageBytes});
  EXPECT_EQ(query_error(0, 0), Error::kNotFound);
  remove(region);
}

TEST_F(RegistryTest, Threat14OverlapsAreRefusedWithoutChange) {
  const Extent there{kBase + kSegment, 2 * kSegment};
  Region& region = insert_mapping(there);
  const Extent overlapping[] = {
      there,
      {there.base, kPageBytes},
      {there.end() - kPageBytes, kPageBytes},
      {there.base - kPageBytes, 2 * kPageBytes},
      {there.end() - kPageBytes, 2 * kPageBytes},
      {there.base - kPageBytes, there.size + 2 * kPageBytes},
      {there.base + kSegment / 2, kPageBytes},
  };
  for (const Extent& extent : overlapping) {
    EXPECT_EQ(insert(extent).error(), Error::kOverlap);
    EXPECT_TRUE(registry_.overlaps(extent));
    EXPECT_EQ(registry_.count(), 1u);
    expect_exactly(region, there);
  }
  for (const Extent& beside :
       {Extent{there.base - kPageBytes, kPageBytes}, Extent{there.end(), kPageBytes}}) {
    EXPECT_FALSE(registry_.overlaps(beside));
    EXPECT_TRUE(insert(beside).ok());
  }
  expect_exactly(region, there);
}

TEST_F(RegistryTest, Threats2To9IllegalPlacesAreRefused) {
  const Extent enclave = port_.enclave();
  const auto error = [&](Extent extent) { return check_outside(extent, enclave).error(); };
  EXPECT_EQ(error(enclave), Error::kInsideEnclave);
  EXPECT_EQ(error({enclave.base + kPageBytes, kPageBytes}), Error::kInsideEnclave);
  EXPECT_EQ(error({enclave.base - kPageBytes, 2 * kPageBytes}), Error::kInsideEnclave);
  EXPECT_EQ(error({enclave.end() - kPageBytes, 2 * kPageBytes}), Error::kInsideEnclave);
  EXPECT_EQ(error({enclave.base - kPageBytes, enclave.size + 2 * kPageBytes}),
            Error::kInsideEnclave);
  EXPECT_EQ(error({enclave.base - kPageBytes, kPageBytes}), Error::kNone) << "ends at the base";
  EXPECT_EQ(error({enclave.end(), kPageBytes}), Error::kNone) << "starts at the top";
  EXPECT_EQ(error({kBase, 0}), Error::kInvalidArgument);
  EXPECT_EQ(error({kBase + 1, kPageBytes}), Error::kInvalidArgument);
  EXPECT_EQ(error({UINTPTR_MAX - 0xfff, kPageBytes}), Error::kInvalidArgument);
  EXPECT_EQ(error({kAddressLimit - kPageBytes, 2 * kPageBytes}), Error::kInvalidArgument);
}

// Whoever asks: the registry lets none of them in.
TEST_F(RegistryTest, Threats2To9IllegalPlacesAreNotInserted) {
  const Extent enclave = port_.enclave();
  AttachOptions options;
  options.role = Role::kMapping;
  const auto error = [&](Extent extent) { return insert(extent, options).error(); };
  EXPECT_EQ(error(enclave), Error::kInsideEnclave);
  EXPECT_EQ(error({enclave.base - kPageBytes, 2 * kPageBytes}), Error::kInsideEnclave);
  EXPECT_EQ(error({enclave.end() - kPageBytes, 2 * kPageBytes}), Error::kInsideEnclave);
  EXPECT_EQ(error({kBase, 0}), Error::kInvalidArgument);
  EXPECT_EQ(error({0, kPageBytes}), Error::kInvalidArgument);
  EXPECT_EQ(error({kBase + 1, kPageBytes}), Error::kInvalidArgument);
  EXPECT_EQ(error({kAddressLimit - kPageBytes, 2 * kPageBytes}), Error::kInvalidArgument);
  EXPECT_EQ(registry_.count(), 0u);
  EXPECT_EQ(registry_.find(enclave.base), nullptr);
}

TEST_F(RegistryTest, QueryOfNothingAsksForTheAddress) {
  Region& region = insert_mapping({kBase, 2 * kPageBytes});
  EXPECT_TRUE(registry_.query(kBase, 0).ok());
  EXPECT_TRUE(registry_.query(kBase + 2 * kPageBytes - 1, 0).ok());
  EXPECT_EQ(query_error(kBase + 2 * kPageBytes, 0), Error::kNotFound);
  EXPECT_EQ(query_error(kBase - 1, 0), Error::kNotFound);
  remove(region);
}

TEST_F(RegistryTest, QueryRefusesWrapsAndStraddles) {
  insert_mapping({kBase, 2 * kPageBytes});
  insert_mapping({kBase + 2 * kPageBytes, kPageBytes});
  EXPECT_TRUE(registry_.query(kBase, 2 * kPageBytes).ok());
  EXPECT_EQ(query_error(kBase, 2 * kPageBytes + 1), Error::kNotFound) << "over two regions";
  EXPECT_EQ(query_error(kBase + 1, 2 * kPageBytes), Error::kNotFound);
  EXPECT_EQ(query_error(kBase - 1, 2), Error::kNotFound);
  EXPECT_EQ(query_error(kBase, SIZE_MAX), Error::kNotFound);
  EXPECT_EQ(query_error(kBase + 1, SIZE_MAX), Error::kNotFound);
  EXPECT_EQ(query_error(kBase + 1, SIZE_MAX - kBase), Error::kNotFound);
  EXPECT_EQ(query_error(UINTPTR_MAX, 1), Error::kNotFound);
  EXPECT_EQ(query_error(UINTPTR_MAX, SIZE_MAX), Error::kNotFound);
  EXPECT_EQ(query_error(port_.enclave().base, 8), Error::kNotFound);
}

TEST_F(RegistryTest, ForbiddenWindowsAreNeverFoundAndKeepOthersOut) {
  AttachOptions options;
  options.role = Role::kForbidden;
  ASSERT_TRUE(insert({kBase, kSegment}, options).ok());
  EXPECT_EQ(query_error(kBase, 1), Error::kNotFound);
  EXPECT_EQ(insert({kBase + kPageBytes, kPageBytes}).error(), Error::kOverlap);
  EXPECT_EQ(registry_.next(kBase)->role, Role::kForbidden);
}

TEST_F(RegistryTest, Threat32ANewLifeHasANewId) {
  Region& first = insert_mapping({kBase, kPageBytes}, Protection::kRead, 0x5000);
  const RegionId id = registry_.query(kBase, 1)->id;
  remove(first);
  insert_mapping({kBase, kPageBytes});
  const RegionInfo info = *registry_.query(kBase, 1);
  EXPECT_NE(info.id, id);
  EXPECT_EQ(info.protection, Protection::kReadWrite);
  EXPECT_EQ(info.device_base, kNoDeviceAddress);
}

TEST_F(RegistryTest, NextWalksInOrder) {
  for (const std::uintptr_t page : {7u, 3u, 5u, 4u}) {
    insert_mapping({kBase + page * kPageBytes, kPageBytes});
  }
  std::vector<std::uintptr_t> seen;
  for (std::uintptr_t at = 0;;) {
    const Result<RegionInfo> info = registry_.next(at);
    if (!info.ok()) break;
    seen.push_back((info->extent.base - kBase) / kPageBytes);
    at = info->extent.end();
  }
  EXPECT_EQ(seen, (std::vector<std::uintptr_t>{3, 4, 5, 7}));
  EXPECT_EQ(registry_.next(kBase + 3 * kPageBytes + 1)->extent.base, kBase + 3 * kPageBytes);
}

TEST_F(RegistryTest, AMappingIsCutWhereverAPageStarts) {
  const Extent whole{kBase + kSegment / 2, 3 * kSegment};
  const Extent parts[] = {
      {whole.base, kPageBytes},
      {whole.end() - kPageBytes, kPageBytes},
      {whole.base + kPageBytes, kPageBytes},
      {kBase + kSegment, kSegment},                                // a whole segment
      {kBase + kSegment - kPageBytes, kSegment + 2 * kPageBytes},  // and a page on either side
      {kBase + kSegment, 2 * kPageBytes},
      whole,
  };
  for (const Extent& part : parts) {
    Region& mapping = insert_mapping(whole, Protection::kRead, 0x10000);
    const RegionId id = registry_.query(whole.base, 1)->id;
    Region* cut = nullptr;
    {
      const LockGuard guard(registry_.lock());
      const Result<Region*> made = registry_.isolate_locked(mapping, part);
      ASSERT_TRUE(made.ok());
      cut = *made;
    }
    EXPECT_TRUE(registry_.validate());
    expect_exactly(*cut, part);
    for (const std::uintptr_t at : {whole.base, part.base, part.end() - 1, whole.end() - 1}) {
      const Result<RegionInfo> info = registry_.query(at, 1);
      ASSERT_TRUE(info.ok());
      EXPECT_EQ(info->id, id) << "pieces keep the id";
      EXPECT_EQ(info->protection, Protection::kRead);
      EXPECT_EQ(info->device_base - 0x10000, info->extent.base - whole.base);
    }
    // Join what was cut: one region again.
    {
      const LockGuard guard(registry_.lock());
      registry_.join_locked(*cut);
    }
    EXPECT_EQ(registry_.count(), 1u);
    EXPECT_TRUE(registry_.validate());
    EXPECT_EQ(registry_.query(whole.base, whole.size)->extent, whole);
    Region* joined = nullptr;
    {
      const LockGuard guard(registry_.lock());
      joined = registry_.region_at_locked(whole.base);
      registry_.remove_locked(*joined);
    }
    registry_.destroy(*joined);
  }
}

TEST_F(RegistryTest, FirstInARange) {
  // Across pages of a leaf, segments, and 32 GiB in which something stood once.
  const Extent low{kBase + 5 * kPageBytes, kPageBytes}, middle{kBase + 9 * kSegment, 2 * kSegment},
      high{kBase + 100 * kGiB + kPageBytes, 3 * kPageBytes};
  Region& first = insert_mapping(low);
  Region& second = insert_mapping(middle);
  Region& third = insert_mapping(high);
  remove(insert_mapping({kBase + 40 * kGiB, kPageBytes}));
  const LockGuard guard(registry_.lock());
  const auto in = [this](std::uintptr_t from, std::uintptr_t to) EXCLAVE_NO_THREAD_SAFETY_ANALYSIS {
    return registry_.first_in_locked({from, to - from});
  };
  EXPECT_EQ(in(kBase, kAddressLimit), &first);
  EXPECT_EQ(in(kBase, low.base), nullptr) << "the range ends before it";
  EXPECT_EQ(in(kBase, low.base + 1), &first);
  EXPECT_EQ(in(low.end() - 1, kAddressLimit), &first) << "in its last page";
  EXPECT_EQ(in(low.end(), kAddressLimit), &second);
  EXPECT_EQ(in(low.end(), middle.base), nullptr);
  EXPECT_EQ(in(middle.base + kSegment, high.base), &second);
  EXPECT_EQ(in(middle.end(), high.end()), &third);
  EXPECT_EQ(in(middle.end(), high.base), nullptr);
  EXPECT_EQ(in(high.end(), kAddressLimit), nullptr);
  EXPECT_EQ(in(kBase, kBase), nullptr) << "an empty range";
}

TEST_F(RegistryTest, NoSequenceComesBack) {
  // A reader that was stopped in one life of the book must not take the next one for the same.
  std::set<std::uint64_t> seen;
  const Extent extent{kBase, kPageBytes};
  const void* book = nullptr;
  for (int life = 0; life < 100; ++life) {
    Region& region = insert_mapping(extent);
    EXPECT_TRUE(book == nullptr || book == &region);
    book = &region;
    // Now and then the writes that a generation has room for are used up.
    if (life % 10 == 3) region.sequence.fetch_or((std::uint64_t{1} << 29) - 4);
    for (int write = 0; write < life % 7; ++write) {
      EXPECT_TRUE(seen.insert(region.sequence.load()).second);
      const LockGuard guard(registry_.lock());
      registry_.set_protection_locked(region, Protection::kRead);
    }
    EXPECT_EQ(region.sequence.load() % 2, 1u);
    EXPECT_TRUE(seen.insert(region.sequence.load()).second);
    EXPECT_TRUE(registry_.query(kBase, kPageBytes).ok());
    remove(region);
  }
}

TEST_F(RegistryTest, AMappingsBookIsTwoLines) {
  Region& neighbour = insert_mapping({kBase, kPageBytes});
  const std::size_t before = books_.used_bytes();
  Region& region = insert_mapping({kBase + 2 * kPageBytes, kPageBytes});
  EXPECT_EQ(books_.used_bytes() - before, 2 * kCacheLine);
  remove(region);
  remove(neighbour);
}

TEST_F(RegistryTest, PiecesOfOtherProtectionOrOtherAttachDoNotJoin) {
  Region& low = insert_mapping({kBase, 4 * kPageBytes});
  insert_mapping({kBase + 4 * kPageBytes, 4 * kPageBytes});  // another attach
  const LockGuard guard(registry_.lock());
  registry_.join_locked(low);
  EXPECT_EQ(registry_.count(), 2u);
  const Result<Region*> part = registry_.isolate_locked(low, {kBase + kPageBytes, kPageBytes});
  ASSERT_TRUE(part.ok());
  registry_.set_protection_locked(**part, Protection::kRead);
  registry_.join_locked(**part);
  EXPECT_EQ(registry_.count(), 4u);
  registry_.set_protection_locked(**part, Protection::kReadWrite);
  (*part)->in_call = 3;
  registry_.join_locked(**part);
  EXPECT_EQ(registry_.count(), 4u) << "a call is under way on it";
  (*part)->in_call = 0;
  registry_.join_locked(**part);
  EXPECT_EQ(registry_.count(), 2u);
}

TEST_F(RegistryTest, APoolOfMoreUnitsThanAreCountedIsRefused) {
  const Extent most{kBase, (std::size_t{1} << 32) * kUnitBytes};
  EXPECT_EQ(registry_.create(most, AttachOptions{}, false).error(), Error::kOutOfTrustedMemory);
  EXPECT_EQ(port_.trusted_calls(), 0u) << "nobody is asked for books of that size";
}

TEST_F(RegistryTest, CutsWithoutTrustedMemoryKeepEveryByte) {
  const Extent whole{kBase + kPageBytes, 3 * kSegment};
  insert_mapping(whole);
  for (std::uint64_t n = 1; n < 6; ++n) {
    // Use up what the chunks still hold, so that each cut needs the port.
    port_.set_trusted_left(0);
    while (books_.allocate(BookKind::kPagemapLeaf, 4096 + 4) != nullptr) {
    }
    while (books_.allocate(BookKind::kRegion, Region::book_bytes(0)) != nullptr) {
    }
    const LockGuard guard(registry_.lock());
    Region* const mapping = registry_.region_at_locked(whole.base + kSegment);
    const std::size_t before = registry_.count();
    if (!registry_.isolate_locked(*mapping, {whole.base + kSegment, kPageBytes}).ok()) {
      EXPECT_EQ(registry_.count(), before) << "what was cut in vain is one again";
    }
    port_.set_trusted_left(n * (std::size_t{256} << 10));
  }
  EXPECT_TRUE(registry_.validate());
  std::size_t covered = 0;
  for (std::uintptr_t at = 0;;) {
    const Result<RegionInfo> info = registry_.next(at);
    if (!info.ok()) break;
    covered += info->extent.size;
    at = info->extent.end();
  }
  EXPECT_EQ(covered, whole.size);
}

TEST_F(RegistryTest, RandomRegionsAgreeWithAMap) {
  std::map<std::uintptr_t, std::pair<std::size_t, Region*>> model;
  std::mt19937_64 random(9);
  for (int step = 0; step < 4000; ++step) {
    const std::size_t grain = random() % 4 == 0 ? kSegment : kPageBytes;
    const std::uintptr_t base = kBase + random() % (16 * kSegment / grain) * grain;
    const std::size_t size = grain * (1 + random() % 6);
    if (random() % 3 != 0 || model.empty()) {
      auto next = model.lower_bound(base);
      bool overlap = next != model.end() && next->first < base + size;
      if (next != model.begin()) {
        overlap |= std::prev(next)->first + std::prev(next)->second.first > base;
      }
      const Result<Region*> made = insert({base, size});
      ASSERT_EQ(made.ok(), !overlap) << "step " << step;
      if (made.ok()) model.emplace(base, std::make_pair(size, *made));
    } else {
      auto chosen = model.lower_bound(base);
      if (chosen == model.end()) chosen = model.begin();
      remove(*chosen->second.second);
      model.erase(chosen);
    }
    const std::uintptr_t at = kBase + random() % (17 * kSegment);
    const std::size_t n = random() % (2 * kSegment);
    auto after = model.upper_bound(at);
    const bool inside =
        after != model.begin() && at - std::prev(after)->first < std::prev(after)->second.first &&
        (n == 0 || n <= std::prev(after)->second.first - (at - std::prev(after)->first));
    ASSERT_EQ(registry_.query(at, n).ok(), inside) << "step " << step;
    if (step % 200 == 0) {
      ASSERT_TRUE(registry_.validate());
    }
  }
}

TEST_F(RegistryTest, AMillionRegionsAreFoundAtOnce) {
  constexpr std::size_t kCount = kSanitized ? 100000 : 1000000;
  AttachOptions options;
  options.role = Role::kMapping;
  for (std::size_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(insert({kBase + 2 * i * kPageBytes, kPageBytes}, options).ok());
  }
  EXPECT_EQ(registry_.count(), kCount);
  std::mt19937_64 random(1);
  for (int probe = 0; probe < 100000; ++probe) {
    const std::size_t i = random() % kCount;
    const std::uintptr_t base = kBase + 2 * i * kPageBytes;
    ASSERT_EQ(registry_.query(base + 100, kPageBytes - 100)->extent.base, base);
    ASSERT_EQ(query_error(base + kPageBytes, 1), Error::kNotFound);
  }
  // The books: a region's 128 bytes, and its share of a leaf.
  EXPECT_LT(books_.used_bytes() / kCount, 140u);
}

TEST_F(RegistryTest, Threat39QueriesRunAgainstAttachAndDetach) {
  // Two lives of one place, told apart by everything they say; a third region stands all the time.
  const Extent small{kBase, 2 * kPageBytes};
  const Extent large{kBase, 2 * kSegment};
  const Extent fixed{kBase + 4 * kSegment, kSegment};
  insert_mapping(fixed);
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> hits{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      std::uint64_t found = 0;
      while (!stop) {
        const Result<RegionInfo> info = registry_.query(kBase + kPageBytes, 100);
        if (info.ok()) {
          ++found;
          ASSERT_TRUE(info->id);
          if (info->extent == small) {
            ASSERT_EQ(info->protection, Protection::kRead);
            ASSERT_EQ(info->device_base, 0x1000u);
          } else {
            ASSERT_EQ(info->extent, large);
            ASSERT_EQ(info->protection, Protection::kWrite);
            ASSERT_EQ(info->device_base, 0x2000u);
          }
        }
        ASSERT_TRUE(registry_.query(fixed.base, fixed.size).ok());
      }
      hits += found;
    });
  }
  for (int round = 0; round < kRounds; ++round) {
    Region& one = insert_mapping(small, Protection::kRead, 0x1000);
    remove(one);
    Region& other = insert_mapping(large, Protection::kWrite, 0x2000);
    remove(other);
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
}

TEST_F(RegistryTest, QueriesSeeAMappingWholeWhileItIsCutAndJoined) {
  const Extent whole{kBase + kSegment - 4 * kPageBytes, 8 * kPageBytes};
  insert_mapping(whole);
  std::atomic<bool> stop = false;
  std::thread reader([&] {
    while (!stop) {
      for (std::uintptr_t at = whole.base; at < whole.end(); at += kPageBytes) {
        ASSERT_TRUE(registry_.query(at, kPageBytes).ok()) << "no page is ever missing";
      }
      ASSERT_FALSE(registry_.query(whole.base - 1, 1).ok());
      ASSERT_FALSE(registry_.query(whole.end(), 1).ok());
    }
  });
  std::mt19937 random(3);
  for (int round = 0; round < kRounds; ++round) {
    const LockGuard guard(registry_.lock());
    const std::uintptr_t first = random() % 8;
    const std::uintptr_t count = 1 + random() % (8 - first);
    Region* const mapping = registry_.region_at_locked(whole.base);
    const Result<Region*> part =
        registry_.isolate_locked(*mapping, {whole.base + first * kPageBytes, count * kPageBytes});
    ASSERT_TRUE(part.ok());
    registry_.join_locked(**part);
    ASSERT_EQ(registry_.count(), 1u);
  }
  stop = true;
  reader.join();
}

TEST(VerifyReplyTest, OnlyAPlausibleAnswerIsBelieved) {
  const Extent enclave{0x7000000000, 0x10000000};
  const auto error = [&](std::uintptr_t address, int host_error, std::size_t size,
                         std::size_t alignment, std::uintptr_t fixed) {
    return verify_reply({address, host_error}, size, alignment, fixed, enclave).error();
  };
  EXPECT_EQ(error(kBase, 0, kPageBytes, kPageBytes, 0), Error::kNone);
  EXPECT_EQ(error(kBase, 12, kPageBytes, kPageBytes, 0), Error::kHostRefused);
  EXPECT_EQ(error(kBase, -1, kPageBytes, kPageBytes, 0), Error::kHostRefused);
  EXPECT_EQ(error(0, 0, kPageBytes, kPageBytes, 0), Error::kHostLied);
  EXPECT_EQ(error(12, 0, kPageBytes, kPageBytes, 0), Error::kHostLied);
  EXPECT_EQ(error(UINTPTR_MAX, 0, kPageBytes, kPageBytes, 0), Error::kHostLied);
  EXPECT_EQ(error(enclave.base, 0, kPageBytes, kPageBytes, 0), Error::kHostLied);
  EXPECT_EQ(error(kBase + kPageBytes, 0, kPageBytes, 2 * kPageBytes, 0), Error::kHostLied);
  EXPECT_EQ(error(kBase + kPageBytes, 0, kPageBytes, kPageBytes, kBase), Error::kHostLied);
  EXPECT_EQ(error(kBase, 0, kPageBytes, kPageBytes, kBase), Error::kNone);
  EXPECT_EQ(error(enclave.base - kPageBytes, 0, kPageBytes, kPageBytes, 0), Error::kNone);
  EXPECT_EQ(error(enclave.end(), 0, kPageBytes, kPageBytes, 0), Error::kNone);
}

}  // namespace
}  // namespace exclave
