// What the C ABI answers to arguments out of range and to addresses that nobody knows: the error,
// and *out stays as it was.
#include "exclave/exclave.h"

#include <gtest/gtest.h>

#include <cstring>

#include "heap/core.hpp"

namespace {

constexpr std::size_t kPage = 4096;
constexpr exclave_address kNowhere = 0x500000000000;

class CApiAnswers : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(exclave_process_port_create(nullptr, &port_), EXCLAVE_OK);
    const exclave_port table = exclave_process_port_table(port_);
    ASSERT_EQ(exclave_create(&table, nullptr, &allocator_), EXCLAVE_OK);
  }
  void TearDown() override {
    EXPECT_TRUE(exclave_validate_books(allocator_));
    exclave_destroy(allocator_);
    exclave_process_port_destroy(port_);
  }

  exclave_process_port* port_ = nullptr;
  exclave_allocator* allocator_ = nullptr;
};

TEST_F(CApiAnswers, AttachTakesOnlyWhatTheEnumerationsHold) {
  exclave_attach_options options;
  exclave_region_id id = 7;
  const auto attach = [&] { return exclave_attach(allocator_, kNowhere, kPage, &options, &id); };
  exclave_attach_options_init(&options);
  options.protection = 4;
  EXPECT_EQ(attach(), EXCLAVE_INVALID_ARGUMENT);
  exclave_attach_options_init(&options);
  options.role = EXCLAVE_FORBIDDEN + 1;
  EXPECT_EQ(attach(), EXCLAVE_INVALID_ARGUMENT);
  options.role = -1;
  EXPECT_EQ(attach(), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_attach(allocator_, kNowhere + 1, kPage, nullptr, &id),
            EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(id, 7u);
  EXPECT_EQ(exclave_attach(allocator_, kNowhere, kPage, nullptr, nullptr), EXCLAVE_OK);
  EXPECT_EQ(exclave_query(allocator_, kNowhere, kPage, nullptr), EXCLAVE_OK);
  EXPECT_EQ(exclave_detach(allocator_, kNowhere, kPage, -1), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_detach(allocator_, kNowhere, kPage, EXCLAVE_DETACH_BUSY), EXCLAVE_OK);
}

TEST_F(CApiAnswers, EachValueOfAnEnumerationIsTaken) {
  exclave_attach_options options;
  exclave_attach_options_init(&options);
  for (const exclave_role role : {EXCLAVE_POOL, EXCLAVE_MAPPING, EXCLAVE_FORBIDDEN}) {
    options.role = role;
    EXPECT_EQ(exclave_attach(allocator_, kNowhere, kPage, &options, nullptr), EXCLAVE_OK) << role;
    EXPECT_EQ(exclave_detach(allocator_, kNowhere, kPage, EXCLAVE_DETACH_REVOKE), EXCLAVE_OK);
  }
  const exclave_placement anywhere{EXCLAVE_ANYWHERE, 0, 0};
  exclave_address block = 0;
  EXPECT_EQ(exclave_allocate_at(allocator_, 64, 16, &anywhere, &block), EXCLAVE_OK);
  EXPECT_EQ(exclave_deallocate(allocator_, block), EXCLAVE_OK);
}

TEST_F(CApiAnswers, AnInitializedConfigHasTheDefaults) {
  exclave_config config;
  std::memset(&config, 0xff, sizeof config);
  exclave_config_init(&config);
  const exclave::Config defaults;
  EXPECT_EQ(config.quota_bytes, defaults.quota_bytes);
  EXPECT_EQ(config.grow_min_bytes, defaults.grow_min_bytes);
  EXPECT_EQ(config.grow_max_bytes, defaults.grow_max_bytes);
  EXPECT_EQ(config.keep_free_bytes, defaults.keep_free_bytes);
  EXPECT_EQ(config.scrub_on_free, defaults.scrub_on_free);
  EXPECT_EQ(config.misuse, nullptr);
  EXPECT_EQ(config.rescue, nullptr);
}

TEST_F(CApiAnswers, ValidationTellsOfBooksThatAreWrong) {
  exclave_address block = 0;
  ASSERT_EQ(exclave_allocate(allocator_, 8 * kPage, &block), EXCLAVE_OK);
  auto& core = *reinterpret_cast<exclave::core::AllocatorCore*>(allocator_);
  std::atomic<exclave::UnitEntry>& unit = *core.registry().find(block)->unit_of(block);
  const exclave::UnitEntry right = unit.exchange(0);
  EXPECT_FALSE(exclave_validate_books(allocator_));
  unit.store(right);
  EXPECT_TRUE(exclave_validate_books(allocator_));
  EXPECT_EQ(exclave_deallocate(allocator_, block), EXCLAVE_OK);
}

TEST_F(CApiAnswers, PlacementTakesOnlyWhatTheEnumerationHolds) {
  for (const int place : {-1, EXCLAVE_ON_DEVICE + 1}) {
    const exclave_placement nonsense{place, 0, 0};
    exclave_address block = 7;
    EXPECT_EQ(exclave_allocate_at(allocator_, 64, 16, &nonsense, &block), EXCLAVE_INVALID_ARGUMENT);
    EXPECT_EQ(exclave_allocate_zeroed(allocator_, 64, 16, &nonsense, &block),
              EXCLAVE_INVALID_ARGUMENT);
    EXPECT_EQ(exclave_reallocate(allocator_, &block, 64, 16, &nonsense), EXCLAVE_INVALID_ARGUMENT);
    EXPECT_EQ(block, 7u);
  }
}

TEST_F(CApiAnswers, AddressesThatNobodyKnows) {
  std::uint64_t out = 7;
  std::size_t size = 7;
  exclave_region_info region{};
  region.id = 7;
  exclave_run_info run{};
  EXPECT_EQ(exclave_device_address(allocator_, kNowhere, &out), EXCLAVE_NOT_FOUND);
  EXPECT_EQ(exclave_pin(allocator_, kNowhere, 1, &out), EXCLAVE_NOT_FOUND);
  EXPECT_EQ(exclave_region_of(allocator_, kNowhere, &out), EXCLAVE_FOREIGN_FREE);
  EXPECT_EQ(exclave_usable_size(allocator_, kNowhere, &size), EXCLAVE_FOREIGN_FREE);
  EXPECT_EQ(exclave_query(allocator_, kNowhere, 1, &region), EXCLAVE_NOT_FOUND);
  EXPECT_EQ(exclave_next_region(allocator_, kNowhere, &region), EXCLAVE_NOT_FOUND);
  EXPECT_EQ(exclave_next_run(allocator_, kNowhere, &run), EXCLAVE_NOT_FOUND);
  EXPECT_EQ(out, 7u);
  EXPECT_EQ(size, 7u);
  EXPECT_EQ(region.id, 7u);
  EXPECT_EQ(run.size_bytes, 0u);
}

TEST_F(CApiAnswers, EachMissingArgumentIsNoticed) {
  exclave_address block = 0;
  std::uint64_t out = 0;
  exclave_region_info region;
  exclave_run_info run;
  exclave_statistics statistics;
  EXPECT_EQ(exclave_allocate_at(allocator_, 1, 1, nullptr, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_allocate_zeroed(allocator_, 1, 1, nullptr, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_reallocate(nullptr, &block, 1, 1, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_device_address(nullptr, 0, &out), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_pin(nullptr, 0, 0, &out), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_region_of(allocator_, 0, nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_next_region(nullptr, 0, &region), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_next_run(nullptr, 0, &run), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_validate(allocator_, 0, 0, 4), EXCLAVE_INVALID_ARGUMENT);
  exclave_get_statistics(nullptr, &statistics);
  exclave_get_statistics(allocator_, nullptr);
  const exclave_enclave_memory inside{};
  EXPECT_EQ(exclave_mmap(allocator_, nullptr, 0, kPage, 0, 0, -1, 0), -22);
  EXPECT_EQ(exclave_mmap(nullptr, &inside, 0, kPage, 0, 0, -1, 0), -22);
  EXPECT_EQ(exclave_munmap(allocator_, nullptr, 0, kPage), -22);
  EXPECT_EQ(exclave_munmap(nullptr, &inside, 0, kPage), -22);
  EXPECT_EQ(exclave_mprotect(allocator_, nullptr, 0, kPage, 0), -22);
  EXPECT_EQ(exclave_mprotect(nullptr, &inside, 0, kPage, 0), -22);
}

// In the middle of a call nobody can say that the books are right.
TEST_F(CApiAnswers, ValidateInsideACallSaysNo) {
  static exclave_port real;
  static exclave_allocator* allocator = nullptr;
  static int asked = 0;
  real = exclave_process_port_table(port_);
  exclave_port table = real;
  table.trusted_reserve = [](void* context, std::size_t bytes) {
    if (allocator != nullptr) {
      EXPECT_FALSE(exclave_validate_books(allocator));
      ++asked;
    }
    return real.trusted_reserve(context, bytes);
  };
  ASSERT_EQ(exclave_create(&table, nullptr, &allocator), EXCLAVE_OK);
  // Its books are so long that the port is asked for them.
  exclave_region_id id = 0;
  EXPECT_EQ(exclave_attach(allocator, kNowhere, std::size_t{1} << 30, nullptr, &id), EXCLAVE_OK);
  EXPECT_NE(asked, 0);
  EXPECT_TRUE(exclave_validate_books(allocator));
  exclave_destroy(allocator);
  allocator = nullptr;
}

TEST_F(CApiAnswers, RingsWithoutMemoryOrBytes) {
  exclave_ring_producer producer;
  exclave_ring_consumer consumer;
  EXPECT_EQ(exclave_ring_producer_init(&producer, 64, 100), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_ring_consumer_init(&consumer, 64, 100), EXCLAVE_INVALID_ARGUMENT);
  const std::size_t bytes = exclave_ring_bytes(64);
  exclave_address memory = 0;
  ASSERT_EQ(exclave_allocate_zeroed(allocator_, bytes, 64, nullptr, &memory), EXCLAVE_OK);
  ASSERT_EQ(exclave_ring_producer_init(&producer, memory, bytes), EXCLAVE_OK);
  ASSERT_EQ(exclave_ring_consumer_init(&consumer, memory, bytes), EXCLAVE_OK);
  EXPECT_EQ(exclave_ring_write(&producer, nullptr, 1), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_ring_read(&consumer, nullptr, 1), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_ring_write(&producer, nullptr, 0), EXCLAVE_OK) << "no bytes need no buffer";
  EXPECT_EQ(exclave_ring_read(&consumer, nullptr, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_deallocate(allocator_, memory), EXCLAVE_OK);
}

}  // namespace
