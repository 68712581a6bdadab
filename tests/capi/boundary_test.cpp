// The boundary's functions in C check what the types of the C++ face prove: nothing is copied to or
// from an address that the books do not allow, nor where the arguments alone are wrong.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <string>

#include "exclave/exclave.h"

namespace {

constexpr std::size_t kPage = 4096;
constexpr exclave_error kBad = EXCLAVE_INVALID_ARGUMENT;
constexpr exclave_address kNowhere = 0x500000000000;
constexpr std::size_t kWraps = ~std::size_t{0};

class CBoundary : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(exclave_process_port_create(nullptr, &port_), EXCLAVE_OK);
    const exclave_port table = exclave_process_port_table(port_);
    ASSERT_EQ(exclave_create(&table, nullptr, &allocator_), EXCLAVE_OK);
    ASSERT_EQ(exclave_allocate(allocator_, 64, &block_), EXCLAVE_OK);
    ASSERT_EQ(exclave_fill_zero(block_, 64), EXCLAVE_OK);
    inside_ = table.enclave(table.context).base;
    void* const pages =
        ::mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(pages, MAP_FAILED);
    read_only_ = reinterpret_cast<exclave_address>(pages);
    exclave_attach_options options;
    exclave_attach_options_init(&options);
    options.role = EXCLAVE_MAPPING;
    options.protection = EXCLAVE_PROTECTION_READ;
    ASSERT_EQ(exclave_attach(allocator_, read_only_, kPage, &options, nullptr), EXCLAVE_OK);
  }
  void TearDown() override {
    EXPECT_EQ(exclave_detach(allocator_, read_only_, kPage, EXCLAVE_DETACH_BUSY), EXCLAVE_OK);
    ::munmap(reinterpret_cast<void*>(read_only_), 2 * kPage);
    EXPECT_EQ(exclave_deallocate(allocator_, block_), EXCLAVE_OK);
    exclave_destroy(allocator_);
    exclave_process_port_destroy(port_);
  }
  std::string bytes_of(exclave_address from, std::size_t count) const {
    std::string bytes(count, 'x');
    EXPECT_EQ(exclave_copy_in(bytes.data(), from, count), EXCLAVE_OK);
    return bytes;
  }
  // Each function that writes to `to` says so.
  void expect_no_write(exclave_address to, exclave_error error) {
    EXPECT_EQ(exclave_checked_copy_out(allocator_, to, "12345678", 8), error);
    EXPECT_EQ(exclave_checked_copy_out_padded(allocator_, to, "12345678", 8), error);
    EXPECT_EQ(exclave_checked_fill_zero(allocator_, to, 8), error);
    EXPECT_EQ(exclave_checked_copy_across(allocator_, to, block_, 8), error);
    EXPECT_EQ(exclave_checked_store_u32(allocator_, to, 1), error);
    EXPECT_EQ(exclave_checked_store_u64(allocator_, to, 1), error);
    exclave_ring_producer producer;
    exclave_ring_consumer consumer;
    const std::size_t bytes = exclave_ring_bytes(64);
    EXPECT_EQ(exclave_checked_ring_producer_init(allocator_, &producer, to, bytes), error);
    EXPECT_EQ(exclave_checked_ring_consumer_init(allocator_, &consumer, to, bytes), error);
  }
  // Each that reads.
  void expect_no_read(exclave_address from, exclave_error error) {
    char bytes[8] = {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'};
    std::uint32_t word = 7;
    std::uint64_t long_word = 7;
    EXPECT_EQ(exclave_checked_copy_in(allocator_, bytes, from, 8), error);
    EXPECT_EQ(exclave_checked_copy_across(allocator_, block_, from, 8), error);
    EXPECT_EQ(exclave_checked_load_u32(allocator_, from, &word), error);
    EXPECT_EQ(exclave_checked_load_u64(allocator_, from, &long_word), error);
    EXPECT_EQ(std::memcmp(bytes, "abcdefgh", 8), 0);
    EXPECT_EQ(word, 7u);
    EXPECT_EQ(long_word, 7u);
    EXPECT_EQ(bytes_of(block_, 8), std::string(8, '\0'));
  }

  exclave_process_port* port_ = nullptr;
  exclave_allocator* allocator_ = nullptr;
  exclave_address block_ = 0;
  exclave_address inside_ = 0;
  exclave_address read_only_ = 0;
};

TEST_F(CBoundary, CheckedCopiesArriveInABlock) {
  EXPECT_EQ(exclave_checked_copy_out(allocator_, block_ + 3, "abc", 3), EXCLAVE_OK);
  EXPECT_EQ(bytes_of(block_, 8), std::string("\0\0\0abc\0\0", 8));
  EXPECT_EQ(exclave_checked_copy_out_padded(allocator_, block_, "xyz", 3), EXCLAVE_OK);
  EXPECT_EQ(bytes_of(block_, 8), std::string("xyz\0\0\0\0\0", 8));
  EXPECT_EQ(exclave_checked_copy_across(allocator_, block_ + 16, block_, 8), EXCLAVE_OK);
  char back[3];
  EXPECT_EQ(exclave_checked_copy_in(allocator_, back, block_ + 16, 3), EXCLAVE_OK);
  EXPECT_EQ(std::memcmp(back, "xyz", 3), 0);
  EXPECT_EQ(exclave_checked_fill_zero(allocator_, block_ + 1, 1), EXCLAVE_OK);
  EXPECT_EQ(bytes_of(block_, 3), std::string("x\0z", 3));
  std::uint32_t word = 0;
  std::uint64_t long_word = 0;
  EXPECT_EQ(exclave_checked_store_u32(allocator_, block_ + 4, 0xdeadbeef), EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_load_u32(allocator_, block_ + 4, &word), EXCLAVE_OK);
  EXPECT_EQ(word, 0xdeadbeefu);
  EXPECT_EQ(exclave_checked_store_u64(allocator_, block_ + 8, 42), EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_load_u64(allocator_, block_ + 8, &long_word), EXCLAVE_OK);
  EXPECT_EQ(long_word, 42u);
  // What may be read may be read.
  EXPECT_EQ(exclave_checked_copy_in(allocator_, back, read_only_, 3), EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_load_u64(allocator_, read_only_, &long_word), EXCLAVE_OK);
}

TEST_F(CBoundary, NothingInsideTheEnclaveIsTouched) {
  expect_no_write(inside_, EXCLAVE_NOT_FOUND);
  expect_no_read(inside_, EXCLAVE_NOT_FOUND);
}

TEST_F(CBoundary, NorWhatNoRegionKnows) {
  expect_no_write(kNowhere, EXCLAVE_NOT_FOUND);
  expect_no_read(kNowhere, EXCLAVE_NOT_FOUND);
}

TEST_F(CBoundary, NorWrittenWhatMayOnlyBeRead) {
  expect_no_write(read_only_, EXCLAVE_NOT_PERMITTED);
  EXPECT_EQ(bytes_of(read_only_, 8), std::string(8, '\0'));
}

// The zeros that follow are written, too: the mapping ends four bytes after the last word begins.
TEST_F(CBoundary, ThePaddingIsAskedFor) {
  exclave_attach_options options;
  exclave_attach_options_init(&options);
  options.role = EXCLAVE_MAPPING;
  const exclave_address page = read_only_ + kPage;
  ASSERT_EQ(exclave_attach(allocator_, page, kPage, &options, nullptr), EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_copy_out_padded(allocator_, page + kPage - 8, "123", 3), EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_copy_out_padded(allocator_, page + kPage - 8, "123456789", 9),
            EXCLAVE_NOT_FOUND);
  EXPECT_EQ(exclave_checked_copy_out_padded(allocator_, page, "123", kWraps), kBad);
  EXPECT_EQ(exclave_checked_copy_out_padded(allocator_, page, "123", kWraps - 7),
            EXCLAVE_NOT_FOUND);
  EXPECT_EQ(exclave_detach(allocator_, page, kPage, EXCLAVE_DETACH_BUSY), EXCLAVE_OK);
}

TEST_F(CBoundary, WhatIsNotAlignedIsRefused) {
  std::uint32_t word = 7;
  std::uint64_t long_word = 7;
  EXPECT_EQ(exclave_copy_out_padded(block_ + 1, "abc", 3), kBad);
  EXPECT_EQ(exclave_checked_copy_out_padded(allocator_, block_ + 4, "abc", 3), kBad);
  EXPECT_EQ(exclave_store_u32(block_ + 2, 1), kBad);
  EXPECT_EQ(exclave_store_u64(block_ + 4, 1), kBad);
  EXPECT_EQ(exclave_checked_store_u32(allocator_, block_ + 2, 1), kBad);
  EXPECT_EQ(exclave_checked_store_u64(allocator_, block_ + 4, 1), kBad);
  EXPECT_EQ(exclave_checked_load_u32(allocator_, block_ + 2, &word), kBad);
  EXPECT_EQ(exclave_checked_load_u64(allocator_, block_ + 4, &long_word), kBad);
  EXPECT_EQ(word, 7u);
  EXPECT_EQ(long_word, 7u);
  EXPECT_EQ(bytes_of(block_, 16), std::string(16, '\0'));
}

TEST_F(CBoundary, RangesThatBeginNowhereOrWrapAreRefused) {
  char bytes[8] = {};
  for (const exclave_address at : {exclave_address{0}, ~exclave_address{7}}) {
    const std::size_t size = at == 0 ? 8 : 16;
    EXPECT_EQ(exclave_copy_out(at, bytes, size), kBad);
    EXPECT_EQ(exclave_copy_out_padded(at, bytes, size), kBad);
    EXPECT_EQ(exclave_copy_in(bytes, at, size), kBad);
    EXPECT_EQ(exclave_fill_zero(at, size), kBad);
    EXPECT_EQ(exclave_copy_across(at, block_, size), kBad);
    EXPECT_EQ(exclave_copy_across(block_, at, size), kBad);
  }
  EXPECT_EQ(exclave_store_u32(0, 1), kBad);
  EXPECT_EQ(exclave_store_u64(0, 1), kBad);
  exclave_ring_producer producer;
  exclave_ring_consumer consumer;
  const std::size_t ring_bytes = exclave_ring_bytes(64);
  for (const exclave_address at : {exclave_address{0}, ~exclave_address{63}}) {
    EXPECT_EQ(exclave_ring_producer_init(&producer, at, ring_bytes), kBad);
    EXPECT_EQ(exclave_ring_consumer_init(&consumer, at, ring_bytes), kBad);
  }
}

TEST_F(CBoundary, EachNullAloneIsAnError) {
  char bytes[8] = {};
  std::uint32_t word = 0;
  std::uint64_t long_word = 0;
  EXPECT_EQ(exclave_copy_out(block_, nullptr, 1), kBad);
  EXPECT_EQ(exclave_copy_out_padded(block_, nullptr, 1), kBad);
  EXPECT_EQ(exclave_copy_in(nullptr, block_, 1), kBad);
  EXPECT_EQ(exclave_checked_copy_out(allocator_, block_, nullptr, 1), kBad);
  EXPECT_EQ(exclave_checked_copy_out_padded(allocator_, block_, nullptr, 1), kBad);
  EXPECT_EQ(exclave_checked_copy_in(allocator_, nullptr, block_, 1), kBad);
  EXPECT_EQ(exclave_checked_load_u32(allocator_, block_, nullptr), kBad);
  EXPECT_EQ(exclave_checked_load_u64(allocator_, block_, nullptr), kBad);
  EXPECT_EQ(exclave_checked_copy_out(nullptr, block_, bytes, 8), kBad);
  EXPECT_EQ(exclave_checked_copy_out_padded(nullptr, block_, bytes, 8), kBad);
  EXPECT_EQ(exclave_checked_copy_in(nullptr, bytes, block_, 8), kBad);
  EXPECT_EQ(exclave_checked_fill_zero(nullptr, block_, 8), kBad);
  EXPECT_EQ(exclave_checked_copy_across(nullptr, block_, block_ + 8, 8), kBad);
  EXPECT_EQ(exclave_checked_load_u32(nullptr, block_, &word), kBad);
  EXPECT_EQ(exclave_checked_load_u64(nullptr, block_, &long_word), kBad);
  EXPECT_EQ(exclave_checked_store_u32(nullptr, block_, 1), kBad);
  EXPECT_EQ(exclave_checked_store_u64(nullptr, block_, 1), kBad);
  const std::size_t ring_bytes = exclave_ring_bytes(64);
  exclave_address memory = 0;
  ASSERT_EQ(exclave_allocate_zeroed(allocator_, ring_bytes, 64, nullptr, &memory), EXCLAVE_OK);
  exclave_ring_producer producer;
  exclave_ring_consumer consumer;
  EXPECT_EQ(exclave_checked_ring_producer_init(nullptr, &producer, memory, ring_bytes), kBad);
  EXPECT_EQ(exclave_checked_ring_consumer_init(nullptr, &consumer, memory, ring_bytes), kBad);
  EXPECT_EQ(exclave_checked_ring_producer_init(allocator_, nullptr, memory, ring_bytes), kBad);
  EXPECT_EQ(exclave_checked_ring_consumer_init(allocator_, nullptr, memory, ring_bytes), kBad);
  EXPECT_EQ(exclave_checked_ring_producer_init(allocator_, &producer, memory, ring_bytes),
            EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_ring_consumer_init(allocator_, &consumer, memory, ring_bytes),
            EXCLAVE_OK);
  EXPECT_EQ(exclave_ring_write(&producer, "a", 1), EXCLAVE_OK);
  EXPECT_EQ(exclave_ring_read(&consumer, bytes, 1), EXCLAVE_OK);
  EXPECT_EQ(exclave_deallocate(allocator_, memory), EXCLAVE_OK);
}

TEST_F(CBoundary, NoBytesAreAlwaysWell) {
  EXPECT_EQ(exclave_copy_out(0, nullptr, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_copy_out_padded(0, nullptr, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_copy_in(nullptr, 0, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_fill_zero(0, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_copy_across(0, 0, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_copy_out(allocator_, inside_, nullptr, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_copy_out_padded(allocator_, inside_, nullptr, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_copy_in(allocator_, nullptr, inside_, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_fill_zero(allocator_, inside_, 0), EXCLAVE_OK);
  EXPECT_EQ(exclave_checked_copy_across(allocator_, inside_, inside_, 0), EXCLAVE_OK);
}

}  // namespace
