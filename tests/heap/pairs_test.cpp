// Every pair of public operations at the same time, on the same blocks, pools and mappings. Under
// ThreadSanitizer this shows which two were never meant to meet.
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "exclave/box.hpp"
#include "support/process_fixture.hpp"

namespace exclave {
namespace {

constexpr std::size_t kKiB = std::size_t{1} << 10;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

class PairsTest : public testing_support::ProcessFixture {
 public:
  using Operation = void (PairsTest::*)(unsigned seed);
  struct Named {
    const char* name;
    Operation run;
  };
  static const std::vector<Named>& operations();

 protected:
  void SetUp() override {
    ProcessFixture::SetUp();
    for (Extent* range : {&shared_range_, &own_range_[0], &own_range_[1]}) {
      void* const memory = mmap(nullptr, 256 * kKiB, kReadWrite, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      ASSERT_NE(memory, MAP_FAILED);
      *range = {reinterpret_cast<std::uintptr_t>(memory), 256 * kKiB};
    }
    device_ = testing_support::memfd_of(64 * kKiB);
  }
  void TearDown() override {
    for (std::atomic<std::uintptr_t>& slot : slots_) free_slot(slot);
    (void)allocator_->detach(shared_range_, DetachMode::kRevoke);
    ProcessFixture::TearDown();
    for (const Extent& range : {shared_range_, own_range_[0], own_range_[1]})
      munmap(reinterpret_cast<void*>(range.base), range.size);
    close(device_);
  }

  static untrusted_bytes at(std::uintptr_t address) {
    return untrusted_bytes::unsafe_from_address(address);
  }
  static std::size_t size_for(unsigned seed) {
    constexpr std::size_t kSizes[] = {16, 100, 1000, 9000, 70000, 200000};
    return kSizes[seed % 6];
  }
  // Whoever takes a block out of a slot owns it.
  void free_slot(std::atomic<std::uintptr_t>& slot) {
    if (const std::uintptr_t block = slot.exchange(0); block != 0)
      EXPECT_TRUE(allocator_->deallocate(at(block)).ok());
  }
  void put(std::uintptr_t block, unsigned seed) {
    if (const std::uintptr_t old = slots_[seed % kSlots].exchange(block); old != 0)
      EXPECT_TRUE(allocator_->deallocate(at(old)).ok());
  }
  std::uintptr_t any(unsigned seed) const { return slots_[seed % kSlots].load(); }

  // ---- The operations ----
  void allocate(unsigned seed) {
    const auto block = allocator_->allocate(size_for(seed));
    ASSERT_TRUE(block.ok());
    put(block->address(), seed);
  }
  void allocate_aligned(unsigned seed) {
    const auto block = allocator_->allocate(size_for(seed), std::size_t{16} << seed % 11);
    ASSERT_TRUE(block.ok());
    put(block->address(), seed);
  }
  void allocate_zeroed(unsigned seed) {
    const auto block = allocator_->allocate_zeroed(size_for(seed) / 8 + 1);
    ASSERT_TRUE(block.ok());
    put(block->address(), seed);
  }
  void deallocate(unsigned seed) { free_slot(slots_[seed % kSlots]); }
  void reallocate(unsigned seed) {
    const std::uintptr_t block = slots_[seed % kSlots].exchange(0);
    const auto moved = allocator_->reallocate(at(block), size_for(seed / 7));
    ASSERT_TRUE(moved.ok());
    put(moved->address(), seed);
  }
  void free_badly(unsigned seed) {
    // Never a start: interior of whatever stands there, or foreign.
    if (const std::uintptr_t block = any(seed); block != 0)
      EXPECT_FALSE(allocator_->deallocate(at(block + 1)).ok());
    EXPECT_FALSE(allocator_->deallocate(at(shared_range_.base + 1)).ok());
  }
  void look_up(unsigned seed) {
    const std::uintptr_t block = any(seed);
    (void)allocator_->usable_size(at(block));
    (void)allocator_->region_of(at(block));
    (void)allocator_->query(block, 16);
    (void)allocator_->query(shared_range_.base, 4096);
  }
  void pin(unsigned seed) {
    const auto pinned = allocator_->pin({any(seed), 8});
    if (pinned.ok()) EXPECT_TRUE(allocator_->unpin(*pinned).ok());
  }
  void free_pinned(unsigned seed) {
    const auto block = allocator_->allocate(size_for(seed));
    ASSERT_TRUE(block.ok());
    const auto pinned = allocator_->pin({block->address(), 8});
    ASSERT_TRUE(pinned.ok());
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
    EXPECT_TRUE(allocator_->unpin(*pinned).ok());
  }
  void attach_shared(unsigned) { (void)allocator_->attach(shared_range_); }
  void allocate_shared(unsigned seed) {
    const auto region = allocator_->query(shared_range_.base, 1);
    if (!region.ok()) return;
    const auto block = allocator_->allocate(size_for(seed % 4), 16, Placement::in_pool(region->id));
    // Revoked meanwhile, and then there is nothing to free; or attached anew.
    if (block.ok()) (void)allocator_->deallocate_handle(*block, region->id);
  }
  void pin_shared(unsigned) {
    const auto pinned = allocator_->pin(shared_range_);
    if (pinned.ok()) EXPECT_TRUE(allocator_->unpin(*pinned).ok());
  }
  void detach_shared(unsigned) { (void)allocator_->detach(shared_range_, DetachMode::kBusy); }
  void drain_shared(unsigned) { (void)allocator_->detach(shared_range_, DetachMode::kDrain); }
  void revoke_shared(unsigned) { (void)allocator_->detach(shared_range_, DetachMode::kRevoke); }
  void own_pool(unsigned seed) {
    const Extent range = own_range_[seed & 1];
    const auto pool = allocator_->attach(range);
    ASSERT_TRUE(pool.ok());
    const auto block = allocator_->allocate(size_for(seed % 4), 16, Placement::in_pool(*pool));
    ASSERT_TRUE(block.ok());
    EXPECT_EQ(allocator_->detach(range).error(), Error::kBusy);
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
    EXPECT_TRUE(allocator_->detach(range).ok());
  }
  void box(unsigned seed) {
    auto made = Box<std::uint64_t>::create(*allocator_, seed);
    ASSERT_TRUE(made.ok());
    EXPECT_TRUE(made->load().ok());
  }
  void map(unsigned seed) {
    const std::intptr_t mapped = calls_->mmap(0, 64 * kKiB, kReadWrite, MAP_SHARED, device_, 0);
    ASSERT_GT(mapped, 0);
    const auto address = static_cast<std::uintptr_t>(mapped);
    EXPECT_EQ(calls_->mprotect(address + 4096 * (seed % 8), 4096, PROT_READ), 0);
    EXPECT_EQ(calls_->munmap(address + 4096 * (seed % 5), 4096), 0);
    EXPECT_EQ(calls_->munmap(address, 64 * kKiB), 0);
  }
  void map_inside(unsigned) {
    const std::intptr_t mapped =
        calls_->mmap(0, 8 * kKiB, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_GT(mapped, 0);
    EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(mapped), 8 * kKiB), 0);
  }
  void unmap_what_is_not_ours(unsigned seed) {
    (void)calls_->mprotect(any(seed) & ~std::uintptr_t{4095}, 4096, PROT_READ | PROT_WRITE);
    (void)calls_->munmap(8192, 4096);
  }
  void walk(unsigned) {
    for (std::uintptr_t next = 0;;) {
      const auto region = allocator_->next_region(next);
      if (!region.ok()) break;
      next = region->extent.end();
    }
    std::uintptr_t next = 0;
    for (int i = 0; i < 50; ++i) {
      const auto run = allocator_->next_run(next);
      if (!run.ok()) break;
      next = run->extent.end();
    }
  }
  void count(unsigned) { (void)allocator_->statistics(); }
  void flush(unsigned) { allocator_->flush_thread(); }
  void trim(unsigned) { allocator_->trim(); }
  void end_thread(unsigned seed) {
    std::thread([this, seed] { allocate(seed); }).join();
  }

  static constexpr unsigned kSlots = 8;
  std::atomic<std::uintptr_t> slots_[kSlots] = {};
  Extent shared_range_{};
  Extent own_range_[2] = {};
  int device_ = -1;
};

const std::vector<PairsTest::Named>& PairsTest::operations() {
  static const std::vector<Named> all = {
      {"allocate", &PairsTest::allocate},
      {"allocate_aligned", &PairsTest::allocate_aligned},
      {"allocate_zeroed", &PairsTest::allocate_zeroed},
      {"deallocate", &PairsTest::deallocate},
      {"reallocate", &PairsTest::reallocate},
      {"free_badly", &PairsTest::free_badly},
      {"look_up", &PairsTest::look_up},
      {"pin", &PairsTest::pin},
      {"free_pinned", &PairsTest::free_pinned},
      {"attach_shared", &PairsTest::attach_shared},
      {"allocate_shared", &PairsTest::allocate_shared},
      {"pin_shared", &PairsTest::pin_shared},
      {"detach_shared", &PairsTest::detach_shared},
      {"drain_shared", &PairsTest::drain_shared},
      {"revoke_shared", &PairsTest::revoke_shared},
      {"own_pool", &PairsTest::own_pool},
      {"box", &PairsTest::box},
      {"map", &PairsTest::map},
      {"map_inside", &PairsTest::map_inside},
      {"unmap_what_is_not_ours", &PairsTest::unmap_what_is_not_ours},
      {"walk", &PairsTest::walk},
      {"count", &PairsTest::count},
      {"flush", &PairsTest::flush},
      {"trim", &PairsTest::trim},
      {"end_thread", &PairsTest::end_thread},
  };
  return all;
}

class EveryPairTest : public PairsTest, public testing::WithParamInterface<unsigned> {};

// One operation against each that comes at or after it in the list.
TEST_P(EveryPairTest, MeetsEveryOther) {
  constexpr unsigned kRounds = 150;
  for (unsigned other = GetParam(); other < operations().size(); ++other) {
    SCOPED_TRACE(std::string(operations()[GetParam()].name) + " with " + operations()[other].name);
    (void)allocator_->attach(shared_range_);
    std::atomic<unsigned> ready{0};
    const auto work = [&](Operation run, unsigned thread) {
      ++ready;
      while (ready != 2) std::this_thread::yield();
      for (unsigned round = 0; round < kRounds; ++round) (this->*run)(round * 2 + thread);
    };
    std::thread second([&] { work(operations()[other].run, 1); });
    work(operations()[GetParam()].run, 0);
    second.join();
    ASSERT_TRUE(allocator_->validate_books());
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Operations, EveryPairTest, testing::Range(0u, 25u),
                         [](const auto& tested) {
                           return std::string(PairsTest::operations()[tested.param].name);
                         });

TEST(EveryPair, TheRangeIsTheWholeList) {
  EXPECT_EQ(PairsTest::operations().size(), 25u);
}

}  // namespace
}  // namespace exclave
