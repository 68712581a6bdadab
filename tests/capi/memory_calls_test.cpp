// The application's memory calls and the enclave's manager from C: each reaches its method, and
// each null alone is an error.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "exclave/exclave.h"
#include "support/fake_pages.hpp"

namespace {

constexpr std::size_t kPage = 4096;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

class CMemoryCalls : public testing::Test {
 protected:
  void SetUp() override {
    exclave_process_options options;
    exclave_process_options_init(&options);
    options.book_bytes = std::size_t{64} << 20;
    options.enclave_bytes = std::size_t{64} << 20;
    ASSERT_EQ(exclave_process_port_create(&options, &port_), EXCLAVE_OK);
    table_ = exclave_process_port_table(port_);
    ASSERT_EQ(exclave_create(&table_, nullptr, &allocator_), EXCLAVE_OK);
    ASSERT_EQ(exclave_process_memory_create(port_, &memory_), EXCLAVE_OK);
    inside_ = exclave_process_memory_table(memory_);
  }
  void TearDown() override {
    exclave_process_memory_destroy(memory_);
    exclave_destroy(allocator_);
    exclave_process_port_destroy(port_);
  }
  exclave_address map(std::size_t pages) {
    const std::intptr_t at = exclave_mmap(allocator_, &inside_, 0, pages * kPage, kReadWrite,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_GT(at, 0);
    return static_cast<exclave_address>(at);
  }

  exclave_process_port* port_ = nullptr;
  exclave_port table_{};
  exclave_allocator* allocator_ = nullptr;
  exclave_process_memory* memory_ = nullptr;
  exclave_enclave_memory inside_{};
};

TEST_F(CMemoryCalls, EachReachesItsMethod) {
  const exclave_address at = map(4);
  *reinterpret_cast<char*>(at) = 7;
  EXPECT_EQ(exclave_mremap(allocator_, &inside_, at, 4 * kPage, 2 * kPage, 0, 0),
            static_cast<std::intptr_t>(at));
  EXPECT_EQ(exclave_madvise(allocator_, &inside_, at, kPage, MADV_DONTNEED), 0);
  EXPECT_EQ(*reinterpret_cast<char*>(at), 0);
  EXPECT_EQ(exclave_msync(allocator_, &inside_, at, kPage, MS_SYNC), 0);
  unsigned char resident = 0;
  EXPECT_EQ(exclave_mincore(allocator_, &inside_, at, kPage, &resident), 0);
  EXPECT_EQ(exclave_mlock(allocator_, &inside_, at, kPage), 0);
  EXPECT_EQ(exclave_madvise(allocator_, &inside_, at, kPage, MADV_DONTNEED), -EINVAL);
  EXPECT_EQ(exclave_munlock(allocator_, &inside_, at, kPage), 0);
  EXPECT_EQ(exclave_mlock2(allocator_, &inside_, at, kPage, MLOCK_ONFAULT), 0);
  EXPECT_EQ(exclave_munlockall(allocator_, &inside_), 0);
  EXPECT_EQ(exclave_mlockall(allocator_, &inside_, MCL_CURRENT), 0);
  EXPECT_EQ(exclave_madvise(allocator_, &inside_, at, kPage, MADV_DONTNEED), -EINVAL);
  const exclave_address start = exclave_brk(allocator_, &inside_, 0);
  EXPECT_EQ(exclave_brk(allocator_, &inside_, start + kPage), start + kPage);
}

TEST_F(CMemoryCalls, MappingsAreAdoptedAndGivenUp) {
  void* const memory = mmap(nullptr, kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const auto at = reinterpret_cast<exclave_address>(memory);
  EXPECT_FALSE(exclave_is_application_memory(allocator_, at, kPage));
  EXPECT_EQ(exclave_adopt(allocator_, at, kPage, PROT_READ), 0);
  EXPECT_TRUE(exclave_is_application_memory(allocator_, at, kPage));
  EXPECT_EQ(exclave_give_up(allocator_, at, kPage), 0);
  EXPECT_FALSE(exclave_is_application_memory(allocator_, at, kPage));
  EXPECT_FALSE(exclave_is_application_memory(nullptr, at, kPage));
  EXPECT_EQ(exclave_adopt(nullptr, at, kPage, PROT_READ), -EINVAL);
  EXPECT_EQ(exclave_give_up(nullptr, at, kPage), -EINVAL);
  munmap(memory, kPage);
}

TEST_F(CMemoryCalls, EachNullAloneIsAnError) {
  unsigned char resident = 0;
  for (int which = 0; which < 2; ++which) {
    exclave_allocator* const allocator = which == 0 ? nullptr : allocator_;
    const exclave_enclave_memory* const inside = which == 0 ? &inside_ : nullptr;
    EXPECT_EQ(exclave_mremap(allocator, inside, kPage, kPage, kPage, 0, 0), -EINVAL);
    EXPECT_EQ(exclave_brk(allocator, inside, 0), 0u);
    EXPECT_EQ(exclave_madvise(allocator, inside, kPage, 0, 0), -EINVAL);
    EXPECT_EQ(exclave_msync(allocator, inside, kPage, 0, 0), -EINVAL);
    EXPECT_EQ(exclave_mincore(allocator, inside, kPage, 0, &resident), -EINVAL);
    EXPECT_EQ(exclave_mlock(allocator, inside, kPage, 0), -EINVAL);
    EXPECT_EQ(exclave_mlock2(allocator, inside, kPage, 0, 0), -EINVAL);
    EXPECT_EQ(exclave_munlock(allocator, inside, kPage, 0), -EINVAL);
    EXPECT_EQ(exclave_mlockall(allocator, inside, MCL_CURRENT), -EINVAL);
    EXPECT_EQ(exclave_munlockall(allocator, inside), -EINVAL);
  }
  EXPECT_EQ(exclave_mincore(allocator_, &inside_, kPage, 0, nullptr), -EINVAL);
}

// As the table of a manager that could not be made.
TEST_F(CMemoryCalls, ATableWithoutTheThreeCallsThatMustBeThereIsAnError) {
  const exclave_extent enclave = table_.enclave(table_.context);
  const exclave_address at = enclave.base + enclave.size - kPage;
  exclave_enclave_memory tables[] = {exclave_enclave_manager_table(nullptr), inside_, inside_,
                                     inside_};
  tables[1].map = nullptr;
  tables[2].unmap = nullptr;
  tables[3].protect = nullptr;
  for (const exclave_enclave_memory& table : tables) {
    EXPECT_EQ(
        exclave_mmap(allocator_, &table, 0, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
        -EINVAL);
    EXPECT_EQ(exclave_munmap(allocator_, &table, at, kPage), -EINVAL);
    EXPECT_EQ(exclave_mprotect(allocator_, &table, at, kPage, PROT_READ), -EINVAL);
    EXPECT_EQ(exclave_mremap(allocator_, &table, at, kPage, kPage, 0, 0), -EINVAL);
    EXPECT_EQ(exclave_brk(allocator_, &table, 0), 0u);
    EXPECT_EQ(exclave_madvise(allocator_, &table, at, kPage, 0), -EINVAL);
  }
}

TEST_F(CMemoryCalls, AManagerIsMadeFromTwoTables) {
  exclave::testing_support::FakePages pages;
  const exclave_enclave_pages operations = pages.table();
  const exclave_extent enclave = table_.enclave(table_.context);
  const exclave_extent books = table_.book_window(table_.context);
  exclave_manager_options options{};
  options.range = {books.base + books.size, enclave.base + enclave.size - books.base - books.size};
  options.max_areas = 1;
  std::size_t asked = 0;
  options.may_lock = [](void* context, std::size_t bytes) {
    *static_cast<std::size_t*>(context) = bytes;
    return -EPERM;
  };
  options.policy_context = &asked;
  exclave_enclave_manager* manager = nullptr;
  EXPECT_EQ(exclave_enclave_manager_create(nullptr, &operations, &options, &manager),
            EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_enclave_manager_create(&table_, nullptr, &options, &manager),
            EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_enclave_manager_create(&table_, &operations, nullptr, &manager),
            EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_enclave_manager_create(&table_, &operations, &options, nullptr),
            EXCLAVE_INVALID_ARGUMENT);
  const exclave_manager_options empty{};
  EXPECT_EQ(exclave_enclave_manager_create(&table_, &operations, &empty, &manager),
            EXCLAVE_INVALID_ARGUMENT);
  ASSERT_EQ(exclave_enclave_manager_create(&table_, &operations, &options, &manager), EXCLAVE_OK);
  const exclave_enclave_memory inside = exclave_enclave_manager_table(manager);
  EXPECT_EQ(exclave_mmap(allocator_, &inside, 0, kPage, kReadWrite,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0),
            -EPERM);
  EXPECT_EQ(asked, kPage);
  EXPECT_GT(
      exclave_mmap(allocator_, &inside, 0, kPage, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
      0);
  EXPECT_EQ(pages.count(), 1u);
  EXPECT_EQ(
      exclave_mmap(allocator_, &inside, 0, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
      -ENOMEM)
      << "one area is the limit";
  int protection = -1;
  const auto note = [](void* context, exclave_extent area, int of) {
    *static_cast<int*>(context) = of;
    return area.size == kPage ? 5 : 6;
  };
  EXPECT_EQ(exclave_enclave_manager_visit(manager, options.range, note, &protection), 5);
  EXPECT_EQ(protection, kReadWrite);
  EXPECT_EQ(exclave_enclave_manager_visit(nullptr, options.range, note, &protection), -EINVAL);
  EXPECT_EQ(exclave_enclave_manager_visit(manager, options.range, nullptr, nullptr), -EINVAL);
  EXPECT_EQ(exclave_enclave_manager_start_break(manager, options.range.base + kPage), 0);
  EXPECT_EQ(exclave_brk(allocator_, &inside, 0), options.range.base + kPage);
  EXPECT_EQ(exclave_enclave_manager_before_fork(manager), EXCLAVE_OK);
  EXPECT_EQ(exclave_enclave_manager_before_fork(manager), EXCLAVE_REENTERED);
  exclave_enclave_manager_after_fork(manager, false);
  EXPECT_EQ(exclave_enclave_manager_before_fork(manager), EXCLAVE_OK);
  exclave_enclave_manager_after_fork(manager, true);
  exclave_enclave_manager_destroy(manager);

  exclave_enclave_manager_destroy(nullptr);
  exclave_enclave_manager_after_fork(nullptr, true);
  EXPECT_EQ(exclave_enclave_manager_before_fork(nullptr), EXCLAVE_INVALID_ARGUMENT);
  EXPECT_EQ(exclave_enclave_manager_start_break(nullptr, kPage), -EINVAL);
  EXPECT_EQ(exclave_enclave_manager_table(nullptr).map, nullptr);
}

}  // namespace
