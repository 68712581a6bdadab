// Secrets stay in. Everything that is trusted and was not to be written out holds one byte value,
// the canary, which no caller ever writes; after each scenario all untrusted memory is searched for
// it, and for words that point into the enclave or the stack. THREATS 48, 51 and 53.
#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include "exclave/access.hpp"
#include "exclave/box.hpp"
#include "exclave/ring.hpp"
#include "support/process_fixture.hpp"

namespace exclave {
namespace {

constexpr std::uint8_t kCanary = 0xc5;
constexpr std::size_t kMiB = std::size_t{1} << 20;

class Threat48_Secrets : public testing_support::ProcessFixture {
 protected:
  void SetUp() override {
    ProcessFixture::SetUp();
    hide();
  }
  void TearDown() override {
    expect_nothing_outside();
    ProcessFixture::TearDown();
  }

  // All trusted bytes around what is written out.
  void hide() { std::memset(trusted_, kCanary, sizeof trusted_); }
  // Public bytes in the midst of secret ones.
  std::span<const std::byte> show(std::size_t offset, std::size_t size) {
    hide();
    for (std::size_t i = 0; i < size; ++i)
      trusted_[offset + i] = static_cast<std::uint8_t>(0x20 + i % 0x20);
    return {reinterpret_cast<const std::byte*>(trusted_) + offset, size};
  }
  untrusted_bytes block(std::size_t size, Placement where = {}) {
    const Result<untrusted_bytes> made = allocator_->allocate(size, 16, where);
    EXPECT_TRUE(made.ok());
    return *made;
  }
  static untrusted_span<std::byte> span_at(untrusted_bytes start, std::size_t offset,
                                           std::size_t size) {
    return untrusted_span<std::byte>::unsafe_from(
        untrusted_bytes::unsafe_from_address(start.address() + offset), size);
  }

  // How many bytes or words of trusted things lie in untrusted memory.
  std::size_t secrets_outside() {
    std::size_t found = 0;
    const Extent enclave = port_->enclave();
    const auto stack = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    std::uintptr_t at = 0;
    for (;;) {
      const Result<RegionInfo> region = allocator_->next_region(at);
      if (!region.ok()) return found;
      const auto* const bytes = reinterpret_cast<const std::uint8_t*>(region->extent.base);
      const std::size_t size = region->extent.size;
      found += static_cast<std::size_t>(std::count(bytes, bytes + size, kCanary));
      for (std::size_t i = 0; i + 8 <= size; ++i) {
        if (bytes[i + 5] == 0) continue;  // no user address of this process has a zero there
        std::uint64_t word = 0;
        std::memcpy(&word, bytes + i, sizeof word);
        found += enclave.contains(word) || word - (stack - 8 * kMiB) < 16 * kMiB;
      }
      at = region->extent.end();
    }
  }
  void expect_nothing_outside() { EXPECT_EQ(secrets_outside(), 0u); }

  alignas(64) std::uint8_t trusted_[1024];
};

// Without this the tests below could not fail.
TEST_F(Threat48_Secrets, TheSearchFindsWhatLeaked) {
  const untrusted_bytes start = block(64);
  hide();
  ASSERT_TRUE(copy_out(span_at(start, 3, 1), {reinterpret_cast<std::byte*>(trusted_), 1}).ok());
  EXPECT_EQ(secrets_outside(), 1u);
  const std::uintptr_t pointer = port_->enclave().base + 100;
  std::memcpy(trusted_, &pointer, sizeof pointer);
  ASSERT_TRUE(copy_out(span_at(start, 13, 8), {reinterpret_cast<std::byte*>(trusted_), 8}).ok());
  // The kernel chose where the enclave lies, so the pointer may hold the canary's byte by chance.
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(&pointer);
  const auto chance = static_cast<std::size_t>(std::count(bytes, bytes + sizeof pointer, kCanary));
  EXPECT_EQ(secrets_outside(), 2u + chance);
  ASSERT_TRUE(copy_out(span_at(start, 3, 18), show(0, 18)).ok());
}

TEST_F(Threat48_Secrets, CopiesTakeNothingFromTheirSourcesNeighbours) {
  const untrusted_bytes start = block(512);
  for (std::size_t to = 0; to < 8; ++to) {
    for (std::size_t from = 0; from < 8; ++from) {
      for (std::size_t n = 0; n <= 130; n += n < 20 ? 1 : 7) {
        ASSERT_TRUE(copy_out(span_at(start, 64 + to, n), show(256 + from, n)).ok());
        if (to == 0) {
          ASSERT_TRUE(
              copy_out_padded(span_at(start, 256, (n + 7) / 8 * 8), show(256 + from, n)).ok());
        }
      }
    }
    ASSERT_EQ(secrets_outside(), 0u) << to;
  }
}

TEST_F(Threat48_Secrets, RingsShowWhatWasWrittenAndZeros) {
  const std::size_t bytes = RingLayout::bytes_for(64);
  const Result<untrusted_bytes> memory = allocator_->allocate_zeroed(bytes, 64);
  ASSERT_TRUE(memory.ok());
  auto producer = RingProducer::create(span_at(*memory, 0, bytes));
  auto consumer = RingConsumer::create(span_at(*memory, 0, bytes));
  ASSERT_TRUE(producer.ok() && consumer.ok());
  for (std::size_t n = 1; n <= 80; ++n) {
    (void)producer->write(show(5 + n % 8, n));  // some are too long, some find no room
    (void)producer->write_some(show(3, n));
    std::byte got[80];
    if (n % 3 != 0) (void)consumer->read_some({got, n});
    if (n % 16 == 0) {
      ASSERT_EQ(secrets_outside(), 0u) << n;
    }
  }
}

TEST_F(Threat48_Secrets, HandlesAndTypedObjects) {
  using Record = std::array<std::uint8_t, 13>;
  Record record;
  record.fill(0x33);
  auto box = Box<Record>::create(*allocator_, record);
  ASSERT_TRUE(box.ok());
  ASSERT_TRUE(box->store(record).ok());
  EXPECT_TRUE(box->load().ok());
  auto bytes = Block::create(*allocator_, 100);
  ASSERT_TRUE(bytes.ok());
  expect_nothing_outside();
  ASSERT_TRUE(box->reset().ok());
  EXPECT_FALSE(box->store(record).ok());
}

TEST_F(Threat48_Secrets, BlocksThatMoveShrinkGrowAndAreZeroed) {
  untrusted_bytes start = block(24);
  ASSERT_TRUE(copy_out(span_at(start, 0, 24), show(9, 24)).ok());
  for (const std::size_t size : {40u, 700u, 70000u, 300000u, 100u, 17u, 90000u, 80000u}) {
    const Result<untrusted_bytes> moved = allocator_->reallocate(start, size);
    ASSERT_TRUE(moved.ok());
    start = *moved;
  }
  for (const std::size_t size : {1u, 13u, 100u, 5000u, 100000u})
    EXPECT_TRUE(allocator_->allocate_zeroed(size).ok());
}

TEST_F(Threat48_Secrets, WhatFailsShowsNothing) {
  const untrusted_bytes start = block(64);
  hide();
  EXPECT_FALSE(allocator_->allocate(0).ok());
  EXPECT_FALSE(allocator_->allocate(SIZE_MAX).ok());
  EXPECT_FALSE(allocator_->allocate(64, 3).ok());
  EXPECT_TRUE(allocator_->deallocate(start).ok());
  EXPECT_EQ(allocator_->deallocate(start).error(), Error::kDoubleFree);
  EXPECT_EQ(
      allocator_->deallocate(untrusted_bytes::unsafe_from_address(start.address() + 1)).error(),
      Error::kInteriorFree);
  EXPECT_EQ(allocator_
                ->deallocate(untrusted_bytes::unsafe_from_address(
                    reinterpret_cast<std::uintptr_t>(trusted_)))
                .error(),
            Error::kForeignFree);
  EXPECT_FALSE(allocator_->reallocate(start, 100).ok());
  EXPECT_FALSE(allocator_->attach(port_->enclave()).ok());
  // More than there is room for: nothing is written, not even the start.
  EXPECT_FALSE(copy_out(span_at(block(8), 0, 8),
                        std::span<const std::byte>(reinterpret_cast<std::byte*>(trusted_), 9))
                   .ok());
}

TEST_F(Threat48_Secrets, PoolsMappingsAndMemoryCalls) {
  const testing_support::OwnedDescriptor device(testing_support::memfd_of(4 * kMiB));
  void* const memory = mmap(nullptr, 4 * kMiB, PROT_READ | PROT_WRITE, MAP_SHARED, device.get(), 0);
  ASSERT_NE(memory, MAP_FAILED);
  const Extent range{reinterpret_cast<std::uintptr_t>(memory), 4 * kMiB};
  AttachOptions options;
  options.device = 7;
  const Result<RegionId> pool = allocator_->attach(range, options);
  ASSERT_TRUE(pool.ok());
  std::vector<untrusted_bytes> blocks;
  for (std::size_t size = 1; size < 100000; size = size * 3 + 1) {
    blocks.push_back(block(size, Placement::in_pool(*pool)));
    const auto pin = allocator_->pin({blocks.back().address(), 1});
    ASSERT_TRUE(pin.ok());
    EXPECT_TRUE(allocator_->deallocate(blocks.back()).ok());
    EXPECT_TRUE(allocator_->unpin(*pin).ok());
  }
  const std::intptr_t mapped =
      calls_->mmap(0, 64 << 10, PROT_READ | PROT_WRITE, MAP_SHARED, device.get(), 0);
  ASSERT_GT(mapped, 0);
  const auto address = static_cast<std::uintptr_t>(mapped);
  EXPECT_EQ(calls_->mprotect(address, 8192, PROT_READ), 0);
  EXPECT_EQ(calls_->munmap(address + 4096, 8192), 0);
  EXPECT_NE(calls_->mprotect(address + 4096, 8192, PROT_READ), 0);
  expect_nothing_outside();
  EXPECT_EQ(calls_->munmap(address, 4096), 0);
  EXPECT_EQ(calls_->munmap(address + 3 * 4096, (64 << 10) - 3 * 4096), 0);
  EXPECT_TRUE(allocator_->detach(range, DetachMode::kRevoke).ok());
  const auto* const bytes = static_cast<const std::uint8_t*>(memory);
  EXPECT_EQ(std::count(bytes, bytes + range.size, 0), static_cast<std::ptrdiff_t>(range.size))
      << "books of a pool are inside";
  munmap(memory, range.size);
}

TEST_F(Threat48_Secrets, FreedCachedHandedOverAndReported) {
  std::vector<untrusted_bytes> kept;
  std::thread([&] {
    for (std::size_t size = 1; size < 200000; size = size * 2 + 1) {
      kept.push_back(block(size));
      EXPECT_TRUE(allocator_->deallocate(block(size)).ok());
    }
  }).join();
  for (const untrusted_bytes start : kept) EXPECT_TRUE(allocator_->deallocate(start).ok());
  allocator_->flush_thread();
  expect_nothing_outside();
  (void)allocator_->statistics();
  for (std::uintptr_t at = 0;;) {
    const Result<RunInfo> run = allocator_->next_run(at);
    if (!run.ok()) break;
    at = run->extent.end();
  }
  (void)block(64);
}

}  // namespace
}  // namespace exclave
