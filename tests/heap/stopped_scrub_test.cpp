// A bad free, or reallocation, that the host stops after any one of its instructions, while the
// block's holder frees it and the place goes to another: what stands there then is not scrubbed.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <vector>

#include "exclave/process_port.hpp"
#include "support/fake_allocator.hpp"
#include "support/sanitizers.hpp"
#include "support/stepped_call.hpp"
#include "support/worker.hpp"

namespace exclave {
namespace {

using namespace testing_support;

struct Shape {
  const char* name;
  std::size_t size;   // of the blocks at first; the last of them is freed twice
  std::size_t count;  // together as long as the slab or run that the later ones lie in
  std::size_t later;  // size of the blocks that stand there afterwards
  std::size_t later_count;
  std::size_t shorter;  // the stale call is a reallocation to so many bytes; 0: a free
};

class StoppedScrubTest : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
    const Result<ProcessPort*> port = ProcessPort::create();
    ASSERT_TRUE(port.ok());
    port_ = *port;
    Config config;
    config.scrub_on_free = true;
    config.keep_free_bytes = 0;  // freed runs join at once
    auto made = Allocator::create(port_->table(), config);
    ASSERT_TRUE(made.ok());
    allocator_.emplace(std::move(made.value()));
  }
  void TearDown() override {
    allocator_.reset();
    if (port_ != nullptr) ProcessPort::destroy(port_);
  }

  std::vector<std::uintptr_t> take(std::size_t size, std::size_t count) {
    std::vector<std::uintptr_t> blocks;
    for (std::size_t i = 0; i < count; ++i) {
      const Result<untrusted_bytes> block = allocator_->allocate(size);
      EXPECT_TRUE(block.ok());
      blocks.push_back(block.ok() ? block->address() : 0);
    }
    return blocks;
  }
  // Of a block that is another's by now, or nobody's.
  Error stale_call(std::uintptr_t block) {
    if (GetParam().shorter == 0) return free(block);
    const Result<untrusted_bytes> made =
        allocator_->reallocate(bytes_at(block), GetParam().shorter);
    return made.error();
  }
  Error free(std::uintptr_t block) { return allocator_->deallocate(bytes_at(block)).error(); }
  static unsigned char* raw(std::uintptr_t block) {
    return static_cast<unsigned char*>(bytes_at(block).unsafe_raw());
  }
  static bool is_all(std::uintptr_t block, std::size_t size, unsigned char byte) {
    for (std::size_t i = 0; i < size; ++i) {
      if (raw(block)[i] != byte) return false;
    }
    return true;
  }

  ProcessPort* port_ = nullptr;
  std::optional<Allocator> allocator_;
};

TEST_P(StoppedScrubTest, Threat41WhatStandsThereByThenIsLeftAlone) {
  const Shape& shape = GetParam();
  const SteppedCall stepper;
  Worker holder;
  std::uintptr_t keeps_region = 0;
  holder.run([&] { keeps_region = take(200, 1)[0]; });
  unsigned recycled = 0;
  bool more = true;
  for (std::uint64_t n = 1; more && !HasFailure(); n += kStride) {
    std::vector<std::uintptr_t> blocks, later;
    holder.run([&] { blocks = take(shape.size, shape.count); });
    std::sort(blocks.begin(), blocks.end());
    const std::uintptr_t stale = blocks.back();
    bool first = false;
    bool held = false;  // by a lock of the stopped one
    std::atomic<bool> resumed = false;
    Error told = Error::kBusy;
    more = SteppedCall::stopped_at(
        n, [&] { told = stale_call(stale); },
        [&] {
          holder.start([&] {
            first = free(stale) != Error::kNone;  // the stopped one
            if (first) return;
            blocks.pop_back();
            // Who waited for the lock runs beside a reallocation, which may move to that place.
            if (resumed && shape.shorter != 0) return;
            for (const std::uintptr_t block : blocks) EXPECT_EQ(free(block), Error::kNone);
            blocks.clear();
            allocator_->flush_thread();
            later = take(shape.later, shape.later_count);
            for (const std::uintptr_t block : later) std::memset(raw(block), 0xa5, shape.later);
          });
          held = !holder.wait_a_little();
          resumed = held;
        });
    holder.wait();
    // A reallocation that had cut the block before it was freed was a good one.
    const bool was_good = shape.shorter != 0 && told == Error::kNone;
    if (!later.empty() && !was_good && !(held && shape.shorter != 0)) {
      EXPECT_LT(later.back(), stale) << "at " << n;
      EXPECT_GT(later.back() + shape.later, stale) << "it covers the place";
    }
    if (!later.empty() && !was_good) {
      ++recycled;
      EXPECT_NE(told, Error::kNone) << "at " << n;
    }
    for (const std::uintptr_t block : later)
      EXPECT_TRUE(is_all(block, shape.later, 0xa5)) << "at " << n;
    allocator_->flush_thread();
    holder.run([&] {
      for (const std::uintptr_t block : blocks)
        EXPECT_EQ(free(block), block == stale && !was_good ? Error::kDoubleFree : Error::kNone)
            << "at " << n;
      for (const std::uintptr_t block : later) EXPECT_EQ(free(block), Error::kNone) << "at " << n;
      allocator_->flush_thread();
    });
    if ((first || was_good) && !held) break;
    EXPECT_TRUE(allocator_->validate_books()) << "at " << n;
  }
  EXPECT_GT(recycled, 20u) << "the trap flag has no effect here";
  holder.run([&] { EXPECT_EQ(free(keeps_region), Error::kNone); });
}

INSTANTIATE_TEST_SUITE_P(Kinds, StoppedScrubTest,
                         testing::Values(Shape{"Slots", 5120, 6, 12288, 3, 0},
                                         Shape{"Pages", 128 * kKiBytes, 2, 256 * kKiBytes, 1, 0},
                                         Shape{"Tails", 128 * kKiBytes, 2, 256 * kKiBytes, 1,
                                               80 * kKiBytes}),
                         [](const auto& test) { return std::string(test.param.name); });

// While a block becomes shorter, and its tail is scrubbed, it is its holder's all the time.
using ShrinkingTest = StoppedScrubTest;

TEST_P(ShrinkingTest, TheHeadIsLiveAllTheTime) {
  const SteppedCall stepper;
  Worker other;
  constexpr std::size_t kBlock = 84 * kKiBytes;  // 24 pages, by its class
  const std::size_t head = 80 * kKiBytes;
  bool more = true;
  // Most of the way is the loop that scrubs.
  for (std::uint64_t n = 1; more && !HasFailure(); n += 7) {
    const std::uintptr_t block = take(kBlock, 1)[0];
    std::memset(raw(block), 0xa5, kBlock);
    Result<untrusted_bytes> made = Error::kBusy;
    more = SteppedCall::stopped_at(
        n, [&] { made = allocator_->reallocate(bytes_at(block), head); },
        [&] {
          other.start([&] {
            const Result<std::size_t> usable = allocator_->usable_size(bytes_at(block));
            EXPECT_TRUE(usable.ok() && *usable >= head) << "at " << n;
            const Result<PinId> pin = allocator_->pin({block, head});
            ASSERT_TRUE(pin.ok()) << "at " << n;
            EXPECT_TRUE(allocator_->unpin(*pin).ok()) << "at " << n;
          });
          (void)other.wait_a_little();
        });
    other.wait();
    ASSERT_TRUE(made.ok());
    EXPECT_TRUE(is_all(made->address(), head, 0xa5)) << "at " << n;
    EXPECT_EQ(free(made->address()), Error::kNone);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, ShrinkingTest,
                         testing::Values(Shape{"Tails", 0, 0, 0, 0, 80 * kKiBytes}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace exclave
