// The C ABI answers as the C++ face does, for every function of exclave.h, and NULL never crashes
// it.
#include "exclave/exclave.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "access/machine_bus.hpp"
#include "exclave/result.hpp"
#include "support/kernel_answers.hpp"
#include "support/sanitizers.hpp"

namespace {

constexpr std::size_t kPage = 4096;

class CApi : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(exclave_process_port_create(nullptr, &port_), EXCLAVE_OK);
    table_ = exclave_process_port_table(port_);
    exclave_config config;
    exclave_config_init(&config);
    config.misuse = [](void* context, std::int32_t error, exclave_address, std::size_t) {
      static_cast<CApi*>(context)->told_ = error;
    };
    config.misuse_context = this;
    ASSERT_EQ(exclave_create(&table_, &config, &allocator_), EXCLAVE_OK);
  }
  void TearDown() override {
    EXPECT_TRUE(exclave_validate_books(allocator_));
    exclave_destroy(allocator_);
    exclave_process_port_destroy(port_);
  }

  exclave_process_port* port_ = nullptr;
  exclave_allocator* allocator_ = nullptr;
  exclave_port table_{};
  std::int32_t told_ = 0;
};

exclave_address map_pool(std::size_t bytes) {
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? 0 : reinterpret_cast<exclave_address>(memory);
}

TEST_F(CApi, CopiesUseTheRegistersThatThePortAllows) {
  const bool before = exclave::access::wide_registers.exchange(false);
  exclave_allocator* another = nullptr;
  ASSERT_EQ(exclave_create(&table_, nullptr, &another), EXCLAVE_OK);
  EXPECT_EQ(exclave::access::wide_registers, table_.has_avx(table_.context) != 0);
  exclave_destroy(another);
  exclave::access::wide_registers = before;
}

TEST_F(CApi, DestroyTellsWhatIsLeft) {
  struct Told {
    std::vector<std::pair<exclave_region_id, exclave_address>> leaked, gone;
    std::size_t leaked_bytes = 0;
  } told;
  exclave_config config;
  exclave_config_init(&config);
  EXPECT_EQ(config.leaked, nullptr);
  EXPECT_EQ(config.leaked_context, nullptr);
  config.leaked = [](void* context, exclave_region_id region, exclave_address block,
                     std::size_t size) {
    static_cast<Told*>(context)->leaked.emplace_back(region, block);
    static_cast<Told*>(context)->leaked_bytes += size;
  };
  config.leaked_context = &told;
  exclave_allocator* another = nullptr;
  ASSERT_EQ(exclave_create(&table_, &config, &another), EXCLAVE_OK);
  const exclave_address memory = map_pool(16 * kPage);
  ASSERT_NE(memory, 0u);
  exclave_attach_options options;
  exclave_attach_options_init(&options);
  options.gone = [](void* context, exclave_region_id region, exclave_address base, std::size_t) {
    static_cast<Told*>(context)->gone.emplace_back(region, base);
  };
  options.gone_context = &told;
  exclave_region_id id = 0;
  ASSERT_EQ(exclave_attach(another, memory, 16 * kPage, &options, &id), EXCLAVE_OK);
  const exclave_placement where{EXCLAVE_IN_POOL, 0, id};
  exclave_address block = 0;
  ASSERT_EQ(exclave_allocate_at(another, 100, 16, &where, &block), EXCLAVE_OK);
  std::size_t usable = 0;
  ASSERT_EQ(exclave_usable_size(another, block, &usable), EXCLAVE_OK);
  exclave_destroy(another);
  ASSERT_EQ(told.leaked.size(), 1u);
  EXPECT_EQ(told.leaked[0], std::make_pair(id, block));
  EXPECT_EQ(told.leaked_bytes, usable);
  ASSERT_EQ(told.gone.size(), 1u);
  EXPECT_EQ(told.gone[0], std::make_pair(id, memory));
  munmap(reinterpret_cast<void*>(memory), 16 * kPage);
}

TEST_F(CApi, BlocksLiveAndDie) {
  exclave_address block = 0;
  ASSERT_EQ(exclave_allocate(allocator_, 100, &block), EXCLAVE_OK);
  std::size_t usable = 0;
  EXPECT_EQ(exclave_usable_size(allocator_, block, &usable), EXCLAVE_OK);
  EXPECT_GE(usable, 100u);
  exclave_region_id region = 0;
  EXPECT_EQ(exclave_region_of(allocator_, block, &region), EXCLAVE_OK);
  EXPECT_NE(region, 0u);
  exclave_address handle = 0;
  exclave_region_id handle_region = 0;
  for (const std::size_t size : {std::size_t{100}, std::size_t{100000}}) {
    for (const std::size_t alignment : {std::size_t{16}, std::size_t{64}}) {
      ASSERT_EQ(
          exclave_allocate_handle(allocator_, size, alignment, nullptr, &handle, &handle_region),
          EXCLAVE_OK);
      EXPECT_EQ(exclave_region_of(allocator_, handle, &region), EXCLAVE_OK);
      EXPECT_EQ(handle_region, region);
      EXPECT_EQ(exclave_deallocate_handle(allocator_, handle, handle_region), EXCLAVE_OK);
    }
  }
  EXPECT_EQ(exclave_allocate_handle(allocator_, 0, 16, nullptr, &handle, &handle_region),
            EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_region_of(allocator_, block, &region), EXCLAVE_OK);
  EXPECT_EQ(exclave_deallocate_sized(allocator_, block, 50, 16), EXCLAVE_WRONG_SIZE);
  EXPECT_EQ(told_, EXCLAVE_WRONG_SIZE);
  EXPECT_EQ(exclave_deallocate_handle(allocator_, block, region + 1), EXCLAVE_STALE);
  EXPECT_EQ(exclave_deallocate_handle(allocator_, block, region), EXCLAVE_OK);
  EXPECT_EQ(exclave_deallocate(allocator_, block), EXCLAVE_DOUBLE_FREE);
  EXPECT_EQ(told_, EXCLAVE_DOUBLE_FREE);
  EXPECT_EQ(exclave_deallocate(allocator_, 0), EXCLAVE_OK);
}

TEST_F(CApi, PlacedZeroedAndMovedBlocks) {
  const exclave_address pool = map_pool(64 * kPage);
  ASSERT_NE(pool, 0u);
  exclave_attach_options options;
  exclave_attach_options_init(&options);
  options.device = 3;
  options.device_base = 0x7000000;
  exclave_region_id id = 0;
  ASSERT_EQ(exclave_attach(allocator_, pool, 64 * kPage, &options, &id), EXCLAVE_OK);

  const exclave_placement on_device{EXCLAVE_ON_DEVICE, 3, 0};
  const exclave_placement in_pool{EXCLAVE_IN_POOL, 0, id};
  const exclave_placement nonsense{9, 0, 0};
  exclave_address block = 0;
  EXPECT_EQ(exclave_allocate_at(allocator_, 64, 64, &nonsense, &block), EXCLAVE_INVALID_ARGUMENT);
  ASSERT_EQ(exclave_allocate_at(allocator_, 64, 64, &on_device, &block), EXCLAVE_OK);
  std::uint64_t bus = 0;
  EXPECT_EQ(exclave_device_address(allocator_, block, &bus), EXCLAVE_OK);
  EXPECT_EQ(bus, 0x7000000 + (block - pool));
  exclave_copy_out(block, "outside", 8);
  ASSERT_EQ(exclave_reallocate(allocator_, &block, 5000, 16, &in_pool), EXCLAVE_OK);
  char back[8] = {};
  exclave_copy_in(back, block, 8);
  EXPECT_STREQ(back, "outside");
  EXPECT_EQ(exclave_detach(allocator_, pool, 64 * kPage, EXCLAVE_DETACH_BUSY), EXCLAVE_BUSY);
  exclave_address zeroed = 0;
  ASSERT_EQ(exclave_allocate_zeroed(allocator_, 40, 16, &in_pool, &zeroed), EXCLAVE_OK);
  EXPECT_EQ(exclave_load_u64(zeroed), 0u);
  EXPECT_EQ(exclave_deallocate(allocator_, zeroed), EXCLAVE_OK);

  exclave_pin_id pin = 0;
  ASSERT_EQ(exclave_pin(allocator_, block, 5000, &pin), EXCLAVE_OK);
  EXPECT_EQ(exclave_detach(allocator_, pool, 64 * kPage, EXCLAVE_DETACH_REVOKE), EXCLAVE_PINNED);
  EXPECT_EQ(exclave_unpin(allocator_, pin), EXCLAVE_OK);
  EXPECT_EQ(exclave_unpin(allocator_, pin), EXCLAVE_NOT_FOUND);
  EXPECT_EQ(exclave_detach(allocator_, pool, 64 * kPage, EXCLAVE_DETACH_REVOKE), EXCLAVE_OK);
  EXPECT_EQ(exclave_deallocate(allocator_, block), EXCLAVE_FOREIGN_FREE);
  munmap(reinterpret_cast<void*>(pool), 64 * kPage);
}

TEST_F(CApi, GoneIsTold) {
  const exclave_address pool = map_pool(kPage);
  struct Told {
    exclave_region_id id = 0;
    exclave_address base = 0;
    std::size_t size = 0;
  } told;
  exclave_attach_options options;
  exclave_attach_options_init(&options);
  options.gone = [](void* context, exclave_region_id id, exclave_address base, std::size_t size) {
    *static_cast<Told*>(context) = {id, base, size};
  };
  options.gone_context = &told;
  exclave_region_id id = 0;
  ASSERT_EQ(exclave_attach(allocator_, pool, kPage, &options, &id), EXCLAVE_OK);
  ASSERT_EQ(exclave_detach(allocator_, pool, kPage, EXCLAVE_DETACH_DRAIN), EXCLAVE_OK);
  EXPECT_EQ(told.id, id);
  EXPECT_EQ(told.base, pool);
  EXPECT_EQ(told.size, kPage);
  munmap(reinterpret_cast<void*>(pool), kPage);
}

TEST_F(CApi, QuestionsAndLooking) {
  exclave_address block = 0;
  ASSERT_EQ(exclave_allocate(allocator_, 100, &block), EXCLAVE_OK);
  exclave_region_info region{};
  ASSERT_EQ(exclave_query(allocator_, block, 100, &region), EXCLAVE_OK);
  EXPECT_TRUE(region.grown);
  EXPECT_EQ(region.role, EXCLAVE_POOL);
  EXPECT_EQ(exclave_query(allocator_, block, SIZE_MAX, nullptr), EXCLAVE_NOT_FOUND);
  EXPECT_EQ(
      exclave_validate(allocator_, block, 100, EXCLAVE_PROTECTION_READ | EXCLAVE_PROTECTION_WRITE),
      EXCLAVE_OK);
  EXPECT_EQ(exclave_validate(allocator_, block, 100, 4), EXCLAVE_INVALID_ARGUMENT);
  exclave_region_info first{};
  ASSERT_EQ(exclave_next_region(allocator_, 0, &first), EXCLAVE_OK);
  EXPECT_EQ(first.base, region.base);
  EXPECT_EQ(exclave_next_region(allocator_, first.base + first.size_bytes, &first),
            EXCLAVE_NOT_FOUND);
  exclave_run_info run{};
  ASSERT_EQ(exclave_next_run(allocator_, block, &run), EXCLAVE_OK);
  EXPECT_EQ(run.kind, EXCLAVE_RUN_SLAB);
  EXPECT_EQ(run.live_slots, 1u);
  exclave_statistics statistics{};
  exclave_get_statistics(allocator_, &statistics);
  EXPECT_EQ(statistics.live_blocks, 1u);
  EXPECT_EQ(statistics.live_bytes + statistics.cached_bytes + statistics.free_bytes +
                statistics.overhead_bytes,
            statistics.reserved_bytes);
  EXPECT_EQ(exclave_deallocate(allocator_, block), EXCLAVE_OK);
  exclave_flush_thread(allocator_);
  exclave_trim(allocator_);
  exclave_get_statistics(allocator_, &statistics);
  EXPECT_EQ(statistics.reserved_bytes, 0u);
}

TEST_F(CApi, BytesAndWordsCross) {
  exclave_address block = 0;
  ASSERT_EQ(exclave_allocate(allocator_, 64, &block), EXCLAVE_OK);
  exclave_fill_zero(block, 64);
  exclave_copy_out_padded(block, "123", 3);
  exclave_store_u32(block + 8, 0xdeadbeef);
  exclave_store_u64(block + 16, 42);
  EXPECT_EQ(exclave_load_u32(block + 8), 0xdeadbeef);
  EXPECT_EQ(exclave_load_u64(block + 16), 42u);
  exclave_copy_across(block + 32, block, 16);
  char back[16];
  exclave_copy_in(back, block + 32, 16);
  EXPECT_EQ(std::memcmp(back, "123\0\0\0\0\0\xef\xbe\xad\xde\0\0\0\0", 16), 0);
  EXPECT_EQ(exclave_deallocate(allocator_, block), EXCLAVE_OK);
}

TEST_F(CApi, RingCarriesBytes) {
  const std::size_t bytes = exclave_ring_bytes(128);
  exclave_address memory = 0;
  ASSERT_EQ(exclave_allocate_zeroed(allocator_, bytes, 64, nullptr, &memory), EXCLAVE_OK);
  exclave_ring_producer producer;
  exclave_ring_consumer consumer;
  ASSERT_EQ(exclave_ring_producer_init(&producer, memory, bytes), EXCLAVE_OK);
  ASSERT_EQ(exclave_ring_consumer_init(&consumer, memory, bytes), EXCLAVE_OK);
  char out[5] = {};
  EXPECT_EQ(exclave_ring_read(&consumer, out, 5), EXCLAVE_WOULD_BLOCK);
  EXPECT_EQ(exclave_ring_write(&producer, "hello", 5), EXCLAVE_OK);
  EXPECT_EQ(exclave_ring_read(&consumer, out, 5), EXCLAVE_OK);
  EXPECT_EQ(std::memcmp(out, "hello", 5), 0);
  exclave_store_u64(memory, 1u << 20);  // the host claims a megabyte
  EXPECT_EQ(exclave_ring_read(&consumer, out, 1), EXCLAVE_HOST_LIED);
  EXPECT_EQ(exclave_deallocate(allocator_, memory), EXCLAVE_OK);
}

TEST_F(CApi, MemoryCallsAreDispatched) {
  exclave_process_memory* memory = nullptr;
  ASSERT_EQ(exclave_process_memory_create(port_, &memory), EXCLAVE_OK);
  const exclave_enclave_memory inside = exclave_process_memory_table(memory);
  const int device = memfd_create("device", 0);
  ASSERT_EQ(ftruncate(device, 4 * kPage), 0);
  const std::intptr_t outside =
      exclave_mmap(allocator_, &inside, 0, 4 * kPage - 100, 3, MAP_SHARED, device, 0);
  ASSERT_GT(outside, 0);
  const exclave_address address = static_cast<exclave_address>(outside);
  EXPECT_EQ(exclave_mprotect(allocator_, &inside, address, kPage, PROT_READ), 0);
  EXPECT_EQ(exclave_validate(allocator_, address, 1, EXCLAVE_PROTECTION_WRITE),
            EXCLAVE_NOT_PERMITTED);
  EXPECT_EQ(exclave_munmap(allocator_, &inside, address, 4 * kPage), 0);
  EXPECT_EQ(exclave_query(allocator_, address, 1, nullptr), EXCLAVE_NOT_FOUND);
  const std::intptr_t within =
      exclave_mmap(allocator_, &inside, 0, kPage, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_GT(within, 0);
  EXPECT_EQ(exclave_munmap(allocator_, &inside, static_cast<exclave_address>(within), kPage), 0);
  close(device);
  exclave_process_memory_destroy(memory);
}

// Does the page stand in this process' address space, and can its bytes be had?
bool is_mapped(exclave_address page) {
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(page), kPage, &resident) == 0;
}
bool is_readable(exclave_address page) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const bool readable = write(ends[1], reinterpret_cast<const void*>(page), 1) == 1;
  close(ends[0]);
  close(ends[1]);
  return readable;
}

TEST(CApiProcess, OptionsAreTheDefaultOnes) {
  exclave_process_options options;
  std::memset(&options, 0x5a, sizeof options);
  exclave_process_options_init(&options);
  exclave_process_port* port = nullptr;
  ASSERT_EQ(exclave_process_port_create(&options, &port), EXCLAVE_OK);
  const exclave_port table = exclave_process_port_table(port);
  EXPECT_EQ(table.book_window(table.context).size, options.book_bytes);
  EXPECT_EQ(options.book_bytes, std::size_t{16} << 30);
  EXPECT_EQ(options.enclave_bytes, std::size_t{16} << 30);
  EXPECT_TRUE(options.huge_pages);
  EXPECT_FALSE(options.shared);
  exclave_process_port_destroy(port);
}

TEST(CApiProcess, WhatIsDestroyedIsGone) {
  exclave_process_options options;
  exclave_process_options_init(&options);
  options.book_bytes = options.enclave_bytes = std::size_t{1} << 20;
  exclave_process_port* port = nullptr;
  ASSERT_EQ(exclave_process_port_create(&options, &port), EXCLAVE_OK);
  const exclave_port table = exclave_process_port_table(port);
  const exclave_address window = table.enclave(table.context).base;
  exclave_process_memory* memory = nullptr;
  EXPECT_EQ(exclave_process_memory_create(port, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_process_memory_create(nullptr, &memory), EXCLAVE_INVALID_ARGUMENT);
  ASSERT_EQ(exclave_process_memory_create(port, &memory), EXCLAVE_OK);
  const exclave_enclave_memory inside = exclave_process_memory_table(memory);
  const std::intptr_t page = inside.map(inside.context, 0, kPage, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_GT(page, 0);
  EXPECT_TRUE(is_readable(static_cast<exclave_address>(page)));
  exclave_process_memory_destroy(memory);
  EXPECT_FALSE(is_readable(static_cast<exclave_address>(page)));
  EXPECT_TRUE(is_mapped(window));
  exclave_process_port_destroy(port);
  EXPECT_FALSE(is_mapped(window));
}

TEST(CApiProcess, WithoutMemoryForItThereIsNone) {
  if (exclave::testing_support::kSanitized) GTEST_SKIP() << "the sanitizer itself takes memory";
  EXPECT_EQ(exclave::testing_support::in_a_child([] {
              exclave_process_port* port = nullptr;
              if (exclave_process_port_create(nullptr, &port) != EXCLAVE_OK) return 1;
              if (!exclave::testing_support::use_up_memory()) return 2;
              exclave_process_memory* memory = nullptr;
              if (exclave_process_memory_create(port, &memory) != EXCLAVE_OUT_OF_TRUSTED_MEMORY)
                return 3;
              return memory == nullptr ? 0 : 4;
            }),
            0);
}

TEST_F(CApi, NullIsAnErrorEverywhere) {
  exclave_address a = 0;
  std::size_t n = 0;
  std::uint64_t u = 0;
  exclave_allocator* none = nullptr;
  EXPECT_EQ(exclave_create(nullptr, nullptr, &none), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_create(&table_, nullptr, nullptr), EXCLAVE_INVALID_ARGUMENT);
  const exclave_port empty{};
  EXPECT_EQ(exclave_create(&empty, nullptr, &none), EXCLAVE_INVALID_ARGUMENT);
  exclave_destroy(nullptr);
  exclave_config_init(nullptr);
  exclave_attach_options_init(nullptr);
  exclave_process_options_init(nullptr);
  EXPECT_EQ(exclave_attach(nullptr, 0, 0, nullptr, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_detach(nullptr, 0, 0, EXCLAVE_DETACH_BUSY), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_detach(allocator_, kPage, kPage, 7), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_query(nullptr, 0, 0, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_validate(nullptr, 0, 0, 0), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_device_address(allocator_, 0, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_pin(allocator_, 0, 0, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_unpin(nullptr, 0), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_allocate(nullptr, 1, &a), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_allocate(allocator_, 1, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_allocate(allocator_, 0, &a), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_allocate_at(nullptr, 1, 1, nullptr, &a), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_allocate_zeroed(nullptr, 1, 1, nullptr, &a), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_reallocate(allocator_, nullptr, 1, 1, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_deallocate(nullptr, 0), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_deallocate_sized(nullptr, 0, 0, 0), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_deallocate_handle(nullptr, 0, 0), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_usable_size(allocator_, 0, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_usable_size(nullptr, 0, &n), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_region_of(nullptr, 0, &u), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_next_region(allocator_, 0, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_next_run(allocator_, 0, nullptr), EXCLAVE_INVALID_ARGUMENT);
  exclave_get_statistics(nullptr, nullptr);
  exclave_flush_thread(nullptr);
  exclave_trim(nullptr);
  EXPECT_FALSE(exclave_validate_books(nullptr));
  EXPECT_EQ(exclave_ring_producer_init(nullptr, 0, 0), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_ring_consumer_init(nullptr, 0, 0), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_ring_write(nullptr, "", 0), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_ring_read(nullptr, &a, 0), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_mmap(nullptr, nullptr, 0, 0, 0, 0, 0, 0), -EINVAL);
  EXPECT_EQ(exclave_munmap(nullptr, nullptr, 0, 0), -EINVAL);
  EXPECT_EQ(exclave_mprotect(nullptr, nullptr, 0, 0, 0), -EINVAL);
  EXPECT_EQ(exclave_process_port_create(nullptr, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_process_memory_create(nullptr, nullptr), EXCLAVE_INVALID_ARGUMENT);
  exclave_process_port_destroy(nullptr);
  exclave_process_memory_destroy(nullptr);
}

// All arguments are good but one.
TEST_F(CApi, EachNullAloneIsAnError) {
  constexpr exclave_error kBad = EXCLAVE_INVALID_ARGUMENT;
  exclave_address block = 0;
  ASSERT_EQ(exclave_allocate(allocator_, 100, &block), EXCLAVE_OK);
  exclave_address a = 0;
  std::size_t n = 0;
  std::uint64_t u = 0;
  exclave_pin_id pin = 0;
  exclave_region_info region;
  exclave_run_info run;
  exclave_statistics statistics{};
  EXPECT_EQ(exclave_device_address(nullptr, block, &u), kBad);
  EXPECT_EQ(exclave_device_address(allocator_, block, nullptr), kBad);
  EXPECT_EQ(exclave_pin(nullptr, block, 100, &pin), kBad);
  EXPECT_EQ(exclave_pin(allocator_, block, 100, nullptr), kBad);
  EXPECT_EQ(exclave_allocate_at(nullptr, 1, 16, nullptr, &a), kBad);
  EXPECT_EQ(exclave_allocate_at(allocator_, 1, 16, nullptr, nullptr), kBad);
  EXPECT_EQ(exclave_allocate_zeroed(nullptr, 1, 16, nullptr, &a), kBad);
  EXPECT_EQ(exclave_allocate_zeroed(allocator_, 1, 16, nullptr, nullptr), kBad);
  EXPECT_EQ(exclave_allocate_handle(nullptr, 1, 16, nullptr, &a, &u), kBad);
  EXPECT_EQ(exclave_allocate_handle(allocator_, 1, 16, nullptr, nullptr, &u), kBad);
  EXPECT_EQ(exclave_allocate_handle(allocator_, 1, 16, nullptr, &a, nullptr), kBad);
  a = block;
  EXPECT_EQ(exclave_reallocate(nullptr, &a, 200, 16, nullptr), kBad);
  EXPECT_EQ(exclave_reallocate(allocator_, nullptr, 200, 16, nullptr), kBad);
  EXPECT_EQ(a, block);
  EXPECT_EQ(exclave_usable_size(nullptr, block, &n), kBad);
  EXPECT_EQ(exclave_usable_size(allocator_, block, nullptr), kBad);
  EXPECT_EQ(exclave_region_of(nullptr, block, &u), kBad);
  EXPECT_EQ(exclave_region_of(allocator_, block, nullptr), kBad);
  EXPECT_EQ(exclave_next_region(nullptr, 0, &region), kBad);
  EXPECT_EQ(exclave_next_region(allocator_, 0, nullptr), kBad);
  EXPECT_EQ(exclave_next_run(nullptr, 0, &run), kBad);
  EXPECT_EQ(exclave_next_run(allocator_, 0, nullptr), kBad);
  exclave_get_statistics(nullptr, &statistics);
  EXPECT_EQ(statistics.live_blocks, 0u);
  exclave_get_statistics(allocator_, nullptr);
  // No placement at all is none of the three, and none is anywhere.
  for (const int place : {-1, 3, 256}) {
    exclave_placement where{};
    where.place = static_cast<decltype(where.place)>(place);
    EXPECT_EQ(exclave_allocate_at(allocator_, 1, 16, &where, &a), kBad) << place;
    EXPECT_EQ(exclave_allocate_zeroed(allocator_, 1, 16, &where, &a), kBad) << place;
    EXPECT_EQ(exclave_allocate_handle(allocator_, 1, 16, &where, &a, &u), kBad) << place;
    EXPECT_EQ(exclave_reallocate(allocator_, &a, 200, 16, &where), kBad) << place;
  }
  // What fits no enumeration is not cut down to what does.
  exclave_attach_options options;
  for (const int role : {-256, -1, 3, 256, 257, 258}) {
    exclave_attach_options_init(&options);
    options.role = static_cast<decltype(options.role)>(role);
    EXPECT_EQ(exclave_attach(allocator_, kPage * 16, kPage, &options, &u), kBad) << role;
  }
  for (const unsigned protection : {4u, 256u, 259u}) {
    exclave_attach_options_init(&options);
    options.protection = protection;
    EXPECT_EQ(exclave_attach(allocator_, kPage * 16, kPage, &options, &u), kBad) << protection;
    EXPECT_EQ(exclave_validate(allocator_, block, 1, protection), kBad) << protection;
  }
  EXPECT_EQ(exclave_validate(nullptr, block, 1, 3), kBad);
  for (const int mode : {-256, -1, 3, 256})
    EXPECT_EQ(exclave_detach(allocator_, kPage * 16, kPage, mode), kBad) << mode;
  EXPECT_EQ(exclave_detach(nullptr, kPage * 16, kPage, EXCLAVE_DETACH_BUSY), kBad);

  exclave_enclave_memory inside{};
  EXPECT_EQ(exclave_mmap(nullptr, &inside, 0, kPage, 0, 0, 0, 0), -EINVAL);
  EXPECT_EQ(exclave_mmap(allocator_, nullptr, 0, kPage, 0, 0, 0, 0), -EINVAL);
  EXPECT_EQ(exclave_munmap(nullptr, &inside, kPage, kPage), -EINVAL);
  EXPECT_EQ(exclave_munmap(allocator_, nullptr, kPage, kPage), -EINVAL);
  EXPECT_EQ(exclave_mprotect(nullptr, &inside, kPage, kPage, 0), -EINVAL);
  EXPECT_EQ(exclave_mprotect(allocator_, nullptr, kPage, kPage, 0), -EINVAL);

  const std::size_t bytes = exclave_ring_bytes(64);
  exclave_address memory = 0;
  ASSERT_EQ(exclave_allocate_zeroed(allocator_, bytes, 64, nullptr, &memory), EXCLAVE_OK);
  exclave_ring_producer producer;
  exclave_ring_consumer consumer;
  EXPECT_EQ(exclave_ring_producer_init(nullptr, memory, bytes), kBad);
  EXPECT_EQ(exclave_ring_consumer_init(nullptr, memory, bytes), kBad);
  ASSERT_EQ(exclave_ring_producer_init(&producer, memory, bytes), EXCLAVE_OK);
  ASSERT_EQ(exclave_ring_consumer_init(&consumer, memory, bytes), EXCLAVE_OK);
  char byte = 'x';
  EXPECT_EQ(exclave_ring_write(nullptr, &byte, 1), kBad);
  EXPECT_EQ(exclave_ring_write(&producer, nullptr, 1), kBad);
  EXPECT_EQ(exclave_ring_write(&producer, nullptr, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_ring_write(&producer, &byte, 1), EXCLAVE_OK);
  EXPECT_EQ(exclave_ring_read(nullptr, &byte, 1), kBad);
  EXPECT_EQ(exclave_ring_read(&consumer, nullptr, 1), kBad);
  EXPECT_EQ(exclave_ring_read(&consumer, nullptr, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_ring_read(&consumer, &byte, 1), EXCLAVE_OK);
  EXPECT_EQ(exclave_deallocate(allocator_, memory), EXCLAVE_OK);
  EXPECT_EQ(exclave_deallocate(allocator_, block), EXCLAVE_OK);
}

TEST(CApiErrors, AreTheErrorsOfTheCxxFaceAndEachHasItsOwnText) {
  std::set<std::string> texts;
  for (int i = 0; i <= static_cast<int>(exclave::Error::kTooManyThreads); ++i) {
    texts.insert(exclave_error_text(i));
  }
  EXPECT_EQ(texts.size(), static_cast<std::size_t>(exclave::Error::kTooManyThreads) + 1);
  EXPECT_FALSE(texts.count(exclave_error_text(99)));
}

// Every function that exclave.h declares is called by this file.
TEST(CApiHeader, EveryFunctionIsTested) {
  const auto read = [](const char* path) {
    std::ifstream file(std::string(EXCLAVE_SOURCE_DIR) + path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  };
  const std::string header = read("/include/exclave/exclave.h");
  const std::string tests = read("/tests/capi/capi_test.cpp") +
                            read("/tests/capi/memory_calls_test.cpp") +
                            read("/tests/capi/boundary_test.cpp");
  const std::regex declaration("(exclave_[a-z0-9_]+)\\(");
  int functions = 0;
  for (std::sregex_iterator it(header.begin(), header.end(), declaration), end; it != end;
       ++it, ++functions) {
    EXPECT_NE(tests.find((*it)[1].str() + "("), std::string::npos) << (*it)[1] << " is not tested";
  }
  EXPECT_GT(functions, 40);
}

}  // namespace
