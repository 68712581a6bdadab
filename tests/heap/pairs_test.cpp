// Every pair of public operations at the same time, on the same blocks, pins, handles, pools and
// mappings. Each must answer what it would alone, no block may be lost, and a pool's bytes are
// their owner's again once a revoke has answered. Under ThreadSanitizer the free-running test shows
// which two were never meant to meet.
#include <atomic>
#include <chrono>
#include <cstring>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "exclave/box.hpp"
#include "support/process_fixture.hpp"
#include "support/sanitizers.hpp"
#include "support/stepped_call.hpp"
#include "support/worker.hpp"

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
    clear();
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
  // A seed is the round and the thread's bit: in one round both threads meet on the same slot.
  static constexpr unsigned kSlots = 8;
  static constexpr unsigned kThreadBit = 1u << 16;
  static_assert(kThreadBit % kSlots == 0);
  static unsigned thread_of(unsigned seed) { return seed / kThreadBit; }

  // Whoever takes a block, a handle or a pin out of its slot owns it.
  void free_slot(std::atomic<std::uintptr_t>& slot) {
    if (const std::uintptr_t block = slot.exchange(0); block != 0)
      EXPECT_TRUE(allocator_->deallocate(at(block)).ok());
  }
  void put(std::uintptr_t block, unsigned seed) {
    if (const std::uintptr_t old = slots_[seed % kSlots].exchange(block); old != 0)
      EXPECT_TRUE(allocator_->deallocate(at(old)).ok());
  }
  std::uintptr_t any(unsigned seed) const { return slots_[seed % kSlots].load(); }

  // Its pool may have been revoked, and another attached in its place.
  static void expect_freed_or_stale(Block& handle) {
    const Error told = handle.reset().error();
    EXPECT_TRUE(told == Error::kNone || told == Error::kStale) << error_text(told);
  }
  static void free_handle(std::atomic<Block*>& slot, Block* next = nullptr) {
    Block* const handle = slot.exchange(next);
    if (handle == nullptr) return;
    expect_freed_or_stale(*handle);
    delete handle;
  }
  void put_handle(Block block, unsigned seed) {
    const auto bytes = block.bytes();
    handle_blocks_[seed % kSlots].store(bytes.ok() ? bytes->data().address() : 0);
    free_handle(handles_[seed % kSlots], new Block(std::move(block)));
  }
  void end_pin(std::atomic<std::uint64_t>& slot) {
    if (const PinId pinned{slot.exchange(0)}; pinned) EXPECT_TRUE(allocator_->unpin(pinned).ok());
  }
  void pin_and_unpin(Extent range) {
    const auto pinned = allocator_->pin(range);
    if (pinned.ok()) EXPECT_TRUE(allocator_->unpin(*pinned).ok());
  }
  Placement in_shared() const {
    const auto region = allocator_->query(shared_range_.base, 1);
    return Placement::in_pool(region.ok() ? region->id : RegionId{});
  }

  // ---- Between two rounds, while the other thread waits ----

  // A block, which is pinned every other time; and a pool, which is empty, or has a block that is
  // live, or pinned, or freed while pinned.
  void prepare(unsigned round) {
    const unsigned slot = round % kSlots;
    end_pin(pins_[slot]);
    const auto block = allocator_->allocate(size_for(round / 2));
    ASSERT_TRUE(block.ok());
    put(block->address(), round);
    if (round % 2 == 1) pins_[slot].store(pin_of(block->address()));

    end_pin(handle_pins_[slot]);
    const unsigned shared = round % 3;
    if (shared == 0) clear_shared();
    attach_shared(round);
    if (shared == 0) return;
    auto handle = Block::create(*allocator_, size_for(round / 3 % 4), 16, in_shared());
    if (handle.error() == Error::kNotFound) {  // it drains, so whatever is there must go
      clear_shared();
      attach_shared(round);
      handle = Block::create(*allocator_, size_for(round / 3 % 4), 16, in_shared());
    }
    ASSERT_TRUE(handle.ok()) << error_text(handle.error());
    put_handle(std::move(*handle), round);
    if (shared != 2) return;
    handle_pins_[slot].store(pin_of(handle_blocks_[slot]));
    if (round % 12 >= 6) free_handle(handles_[slot]);
  }
  std::uint64_t pin_of(std::uintptr_t block) {
    const auto pinned = allocator_->pin({block, 8});
    EXPECT_TRUE(pinned.ok());
    return pinned.ok() ? pinned->value : 0;
  }
  void clear_shared() {
    for (std::atomic<std::uint64_t>& pin : handle_pins_) end_pin(pin);
    for (std::atomic<Block*>& slot : handles_) free_handle(slot);
    (void)allocator_->detach(shared_range_, DetachMode::kRevoke);
  }
  // Nothing lives after that, and nothing is pinned.
  void clear() {
    check_revoked();
    for (std::atomic<std::uint64_t>& pin : pins_) end_pin(pin);
    for (std::atomic<std::uintptr_t>& slot : slots_) free_slot(slot);
    clear_shared();
    EXPECT_EQ(allocator_->statistics().live_blocks, 0u);
    EXPECT_EQ(allocator_->statistics().pins, 0u);
    EXPECT_TRUE(allocator_->validate_books());
  }

  // ---- What a revoke promises ----

  // Nobody else here writes to the shared range, so once a revoke has answered it is the caller's.
  static constexpr unsigned char kOwn = 0x5a;
  void fill(Extent range) { std::memset(at(range.base).unsafe_raw(), kOwn, range.size); }
  static bool is_filled(Extent range) {
    const auto* const bytes = static_cast<const unsigned char*>(at(range.base).unsafe_raw());
    return bytes[0] == kOwn && std::memcmp(bytes, bytes + 1, range.size - 1) == 0;
  }
  // After the round: what was at work on the old pool has ended.
  void check_revoked() {
    if (!claimed_.load()) return;
    if (fresh_[0]) {
      for (Block& block : fresh_) {
        // Another revoke takes it, and with it the promise.
        if (const auto bytes = block.bytes(); bytes.ok()) {
          EXPECT_TRUE(is_filled({bytes->data().address(), block.size()}))
              << "a block of the new pool was written to by work on the old one";
        }
        expect_freed_or_stale(block);
      }
    } else if (attaches_.load() == attaches_then_ &&
               !allocator_->query(shared_range_.base, 1).ok()) {
      EXPECT_TRUE(is_filled(shared_range_)) << "written to after the revoke had answered";
    }
    claimed_.store(false);
  }

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
  void deallocate_sized(unsigned seed) {
    const std::uintptr_t block = slots_[seed % kSlots].exchange(0);
    if (block == 0) return;
    const auto usable = allocator_->usable_size(at(block));
    ASSERT_TRUE(usable.ok());
    const Error told = allocator_->deallocate(at(block), *usable).error();
    // One that was aligned is of another kind than its size alone would be.
    if (told == Error::kWrongSize) return put(block, seed);
    EXPECT_EQ(told, Error::kNone);
  }
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
    (void)allocator_->validate(block, 16);
    (void)allocator_->query(shared_range_.base, 4096);
  }
  void pin(unsigned seed) { pin_and_unpin({any(seed), 8}); }
  void unpin(unsigned seed) {
    end_pin(pins_[seed % kSlots]);
    end_pin(handle_pins_[seed % kSlots]);
  }
  void free_pinned(unsigned seed) {
    const auto block = allocator_->allocate(size_for(seed));
    ASSERT_TRUE(block.ok());
    const auto pinned = allocator_->pin({block->address(), 8});
    ASSERT_TRUE(pinned.ok());
    EXPECT_TRUE(allocator_->deallocate(*block).ok());
    EXPECT_TRUE(allocator_->unpin(*pinned).ok());
  }
  void attach_shared(unsigned) {
    ++attaches_;
    (void)allocator_->attach(shared_range_);
  }
  // In the shared pool: it may be revoked meanwhile, be full, or drain.
  void allocate_shared(unsigned seed) {
    auto block = Block::create(*allocator_, size_for(seed % 4), 16, in_shared());
    if (block.ok()) put_handle(std::move(*block), seed);
  }
  void zeroed_into_shared(unsigned seed) {
    const Placement where = in_shared();
    const auto block = allocator_->allocate_zeroed(size_for(seed), 16, where);
    if (block.ok()) free_placed({*block, where.pool});
  }
  void move_into_shared(unsigned seed) {
    const auto block = allocator_->allocate(size_for(seed));
    ASSERT_TRUE(block.ok());
    const Placement where = in_shared();
    const auto moved = allocator_->reallocate(*block, size_for(seed + 1), 16, where);
    if (moved.ok()) {
      free_placed({*moved, where.pool});
    } else {
      EXPECT_TRUE(allocator_->deallocate(*block).ok()) << "it is as it was";
    }
  }
  void free_placed(const PlacedBlock& block) {
    const Error told = allocator_->deallocate_handle(block.start, block.region).error();
    EXPECT_TRUE(told == Error::kNone || told == Error::kStale) << error_text(told);
  }
  void free_shared(unsigned seed) { free_handle(handles_[seed % kSlots]); }
  void pin_in_shared(unsigned seed) { pin_and_unpin({handle_blocks_[seed % kSlots].load(), 8}); }
  void pin_shared(unsigned) { pin_and_unpin(shared_range_); }
  void detach_shared(unsigned) { (void)allocator_->detach(shared_range_, DetachMode::kBusy); }
  void drain_shared(unsigned) { (void)allocator_->detach(shared_range_, DetachMode::kDrain); }
  // Attaches, revokes, and half of the times attaches again. The handle of the old pool is refused,
  // also where a block of the new one lies at its place.
  void revoke_shared(unsigned seed) {
    attach_shared(seed);
    Block old;
    if (auto made = Block::create(*allocator_, 100, 16, in_shared()); made.ok())
      old = std::move(*made);
    const unsigned attaches = attaches_.load();
    if (!allocator_->detach(shared_range_, DetachMode::kRevoke).ok()) {
      expect_freed_or_stale(old);  // pinned, or the other one was at it
      return;
    }
    const bool had_old = static_cast<bool>(old);
    if (had_old) EXPECT_EQ(old.bytes().error(), Error::kStale);
    const bool claims = !claimed_.exchange(true);  // else the other one has done the same
    if (claims) {
      fill(shared_range_);
      attaches_then_ = attaches;
      if (seed % 4 < 2) attach_again(seed);
    }
    if (had_old) EXPECT_EQ(old.reset().error(), Error::kStale);
  }
  void attach_again(unsigned seed) {
    ++attaches_;
    const auto region = allocator_->attach(shared_range_);
    if (!region.ok()) return;
    // Small ones that lie where those of the old pool did, and one that is most of the rest.
    for (Block& block : fresh_) {
      const std::size_t size = &block == std::end(fresh_) - 1 ? 120000 : size_for(seed % 4);
      auto made = Block::create(*allocator_, size, 16, Placement::in_pool(*region));
      if (made.ok()) block = std::move(*made);
    }
  }
  void own_pool(unsigned seed) {
    const Extent range = own_range_[thread_of(seed)];
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

  std::atomic<std::uintptr_t> slots_[kSlots] = {};
  std::atomic<std::uint64_t> pins_[kSlots] = {};  // of the blocks that stood in the slots
  std::atomic<Block*> handles_[kSlots] = {};      // of blocks in the shared pool
  std::atomic<std::uint64_t> handle_pins_[kSlots] = {};
  std::atomic<std::uintptr_t> handle_blocks_[kSlots] = {};  // where they lie, or lay
  Extent shared_range_{};
  std::atomic<unsigned> attaches_{0};  // of the shared range, counted before they begin
  // Set by the revoke whose promise is looked at after the round; the rest is its thread's.
  std::atomic<bool> claimed_{false};
  unsigned attaches_then_ = 0;
  Block fresh_[4];  // if it attached again: blocks of the new pool
  Extent own_range_[2] = {};
  int device_ = -1;
};

const std::vector<PairsTest::Named>& PairsTest::operations() {
  static const std::vector<Named> all = {
      {"allocate", &PairsTest::allocate},
      {"allocate_aligned", &PairsTest::allocate_aligned},
      {"allocate_zeroed", &PairsTest::allocate_zeroed},
      {"deallocate", &PairsTest::deallocate},
      {"deallocate_sized", &PairsTest::deallocate_sized},
      {"reallocate", &PairsTest::reallocate},
      {"free_badly", &PairsTest::free_badly},
      {"look_up", &PairsTest::look_up},
      {"pin", &PairsTest::pin},
      {"unpin", &PairsTest::unpin},
      {"free_pinned", &PairsTest::free_pinned},
      {"attach_shared", &PairsTest::attach_shared},
      {"allocate_shared", &PairsTest::allocate_shared},
      {"zeroed_into_shared", &PairsTest::zeroed_into_shared},
      {"move_into_shared", &PairsTest::move_into_shared},
      {"free_shared", &PairsTest::free_shared},
      {"pin_in_shared", &PairsTest::pin_in_shared},
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

// Neither of two threads leaves before both have come.
class Meeting {
 public:
  void meet(unsigned thread) {
    const unsigned turn = turns_[thread].load(std::memory_order_relaxed) + 1;
    turns_[thread].store(turn);
    // The other one may be off its processor, or want this one.
    for (unsigned looks = 0; turns_[1 - thread].load() < turn; ++looks)
      looks < 200 ? __builtin_ia32_pause() : std::this_thread::yield();
  }

 private:
  std::atomic<unsigned> turns_[2] = {};
};

// Which operation, and whether frees scrub.
class EveryPairTest : public PairsTest,
                      public testing::WithParamInterface<std::tuple<unsigned, bool>> {
 protected:
  void SetUp() override {
    config_.scrub_on_free = scrubs();
    PairsTest::SetUp();
  }
  static bool scrubs() { return std::get<bool>(GetParam()); }
  static const Named& tested() { return operations()[std::get<unsigned>(GetParam())]; }
  static std::string names(const Named& other) {
    return std::string(tested().name) + " with " + other.name;
  }
  // The end of a pin and a revoke meet others within a few instructions, so they take more rounds.
  static bool is_seldom(const Named& operation) {
    const std::string_view name = operation.name;
    return name == "unpin" || name == "revoke_shared";
  }
};

// One operation against each that comes at or after it in the list, both running freely.
TEST_P(EveryPairTest, MeetsEveryOther) {
  for (unsigned other = std::get<unsigned>(GetParam()); other < operations().size(); ++other) {
    SCOPED_TRACE(names(operations()[other]));
    const bool seldom = is_seldom(tested()) || is_seldom(operations()[other]);
    const unsigned rounds = (seldom ? 300 : 60) / (scrubs() ? 2 : 1);
    Meeting before, after;
    const auto work = [&](const Named& operation, unsigned thread) {
      for (unsigned round = 0; round < rounds; ++round) {
        if (round / 2 % 2 == thread) {
          check_revoked();
          prepare(round);
        }
        before.meet(thread);
        // One of them starts a little later: what meets is another part each time.
        if (round % 2 == thread)
          for (unsigned pauses = round * 37 % 128; pauses != 0; --pauses) __builtin_ia32_pause();
        (this->*operation.run)(round + thread * kThreadBit);
        after.meet(thread);
      }
    };
    std::thread second([&] { work(operations()[other], 1); });
    work(tested(), 0);
    second.join();
    clear();
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Operations, EveryPairTest,
                         testing::Combine(testing::Range(0u, 31u), testing::Bool()),
                         [](const auto& tested) {
                           return std::string(
                                      PairsTest::operations()[std::get<0>(tested.param)].name) +
                                  (std::get<1>(tested.param) ? "_scrubbing" : "");
                         });

TEST(EveryPair, TheRangeIsTheWholeList) {
  EXPECT_EQ(PairsTest::operations().size(), 31u);
}

// Pairs that go wrong only within a few instructions of one of them.
struct ClosePair {
  const char* name;
  PairsTest::Operation stopped, other;
  std::vector<unsigned> rounds;  // for which prepare makes what these two want
  unsigned strides;              // from one stop to the next
  bool scrubs;
};

class ClosePairTest : public PairsTest, public testing::WithParamInterface<unsigned> {
 public:
  static const std::vector<ClosePair>& pairs();

 protected:
  void SetUp() override {
    if (testing_support::kSlow) GTEST_SKIP() << "a sanitizer puts signals off";
    config_.scrub_on_free = tested().scrubs;
    PairsTest::SetUp();
    other_.emplace();
  }
  void TearDown() override {
    if (testing_support::kSlow) return;
    other_.reset();
    PairsTest::TearDown();
  }
  static const ClosePair& tested() { return pairs()[GetParam()]; }

  // The first operation stops after its n-th instruction, until another thread has done the other
  // one or waits for a lock. False: the first one has fewer.
  bool is_stopped_at(unsigned round, std::uint64_t n) {
    const auto prepares = [&] { prepare(round); };
    round / 2 % 2 == 0 ? prepares() : other_->run(prepares);
    const auto meets = [&] { (this->*tested().other)(round + kThreadBit); };
    const bool stopped = testing_support::SteppedCall::stopped_at(
        n, [&] { (this->*tested().stopped)(round); },
        [&] {
          other_->start(meets);
          (void)other_->wait_a_little(std::chrono::milliseconds(1));
        });
    other_->wait();
    if (!stopped) other_->run(meets);
    check_revoked();
    return stopped;
  }

  std::optional<testing_support::Worker> other_;
};

const std::vector<ClosePair>& ClosePairTest::pairs() {
  using T = ClosePairTest;
  static const std::vector<ClosePair> all = {
      // A free beside the unpin of the last pin: by the block's own thread, and by another.
      {"deallocate_unpin", &T::deallocate, &T::unpin, {1, 3}, 1, false},
      {"deallocate_scrubs_unpin", &T::deallocate, &T::unpin, {1, 3}, 1, true},
      {"deallocate_sized_unpin", &T::deallocate_sized, &T::unpin, {1, 3}, 2, false},
      {"reallocate_unpin", &T::reallocate, &T::unpin, {3, 5}, 2, false},
      {"free_shared_unpin", &T::free_shared, &T::unpin, {2, 5}, 1, false},
      // The library's own work on a pool's bytes beside a revoke.
      {"unpin_scrubs_revoke", &T::unpin, &T::revoke_shared, {8, 11}, 16, true},
      {"zeroed_into_shared_revoke", &T::zeroed_into_shared, &T::revoke_shared, {3, 4}, 48, false},
      {"move_into_shared_revoke", &T::move_into_shared, &T::revoke_shared, {3, 4}, 48, false},
      // A handle that is made beside a revoke, and another block at the same place.
      {"allocate_shared_revoke", &T::allocate_shared, &T::revoke_shared, {0, 1, 4}, 24, false},
      {"free_shared_revoke", &T::free_shared, &T::revoke_shared, {1, 4}, 4, false},
  };
  return all;
}

// The trap flag stops the first one, so these meet on one processor, and on a busy machine, too.
TEST_P(ClosePairTest, MeetsEverywhere) {
  constexpr std::uint64_t kMostSteps = 5000;
  const testing_support::SteppedCall stepper;
  const std::uint64_t stride = tested().strides * testing_support::kStride;
  std::uint64_t first = 1;  // each round has its stops between those of the others
  for (const unsigned round : tested().rounds) {
    SCOPED_TRACE(round);
    for (std::uint64_t n = first; n < kMostSteps && !HasFailure(); n += stride)
      if (!is_stopped_at(round, n)) break;
    first += (stride + 1) / tested().rounds.size();
  }
  clear();
}

INSTANTIATE_TEST_SUITE_P(Pairs, ClosePairTest, testing::Range(0u, 10u), [](const auto& tested) {
  return std::string(ClosePairTest::pairs()[tested.param].name);
});

TEST(ClosePair, TheRangeIsTheWholeList) {
  EXPECT_EQ(ClosePairTest::pairs().size(), 10u);
}

}  // namespace
}  // namespace exclave
