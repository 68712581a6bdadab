// The memory calls on real descriptors of this kernel: memfd, /dev/zero, io_uring.
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>

#include "exclave/access.hpp"
#include "support/process_fixture.hpp"

namespace exclave {
namespace {

using testing_support::is_page_mapped;
using testing_support::memfd_of;
using testing_support::OwnedDescriptor;
using testing_support::Prober;
using testing_support::ProcessFixture;

constexpr std::size_t kPage = kPageBytes;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

class DeviceTest : public ProcessFixture {
 protected:
  // Through the boundary, after a look at the books.
  void put(std::intptr_t address, std::size_t offset, const void* from, std::size_t bytes) {
    const auto to = allocator_->validate(static_cast<std::uintptr_t>(address) + offset, bytes,
                                         Protection::kReadWrite);
    ASSERT_TRUE(to.ok()) << error_text(to.error());
    detail::copy_out_bytes(to->address(), from, bytes);
  }
  void get(std::intptr_t address, std::size_t offset, void* to, std::size_t bytes) {
    const auto from = allocator_->validate(static_cast<std::uintptr_t>(address) + offset, bytes,
                                           Protection::kRead);
    ASSERT_TRUE(from.ok()) << error_text(from.error());
    detail::copy_in_bytes(to, from->address(), bytes);
  }
};

TEST_F(DeviceTest, AMemfdAtTwoAddressesIsOneMemory) {
  const OwnedDescriptor file(memfd_of(8 * kPage));
  const std::intptr_t both = calls_->mmap(0, 3 * kPage, kReadWrite, MAP_SHARED, file.get(), kPage);
  const std::intptr_t read = calls_->mmap(0, kPage, PROT_READ, MAP_SHARED, file.get(), 2 * kPage);
  ASSERT_TRUE(both > 0 && read > 0);
  const char text[] = "the same page";
  put(both, kPage, text, sizeof text);
  char back[sizeof text] = {};
  get(read, 0, back, sizeof back);
  EXPECT_STREQ(back, text);
  // The first goes; the second stays as it is.
  EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(both), 3 * kPage), 0);
  EXPECT_FALSE(is_page_mapped(static_cast<std::uintptr_t>(both)));
  get(read, 0, back, sizeof back);
  EXPECT_STREQ(back, text);
}

TEST_F(DeviceTest, DevZeroShared) {
  const OwnedDescriptor zero(open("/dev/zero", O_RDWR | O_CLOEXEC));
  if (zero.get() < 0) GTEST_SKIP() << "no /dev/zero here";
  const std::intptr_t at = calls_->mmap(0, 9280, kReadWrite, MAP_SHARED, zero.get(), 0);
  ASSERT_GT(at, 0);
  put(at, 9279, "x", 1);
  EXPECT_EQ(calls_->mprotect(static_cast<std::uintptr_t>(at) + kPage, kPage, PROT_NONE), 0);
  Prober prober;
  EXPECT_TRUE(prober.can_write(static_cast<std::uintptr_t>(at)));
  EXPECT_FALSE(prober.can_read(static_cast<std::uintptr_t>(at) + kPage));
  EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(at), 9280), 0);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_FALSE(is_page_mapped(static_cast<std::uintptr_t>(at) + i * kPage));
}

TEST_F(DeviceTest, TheKernelsErrnosComeThrough) {
  const OwnedDescriptor file(memfd_of(kPage));
  const OwnedDescriptor read_only(
      open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_GE(read_only.get(), 0);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, read_only.get(), 0), -EACCES);
  EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, 9999, 0), -EBADF);
  EXPECT_EQ(calls_->mmap(0, kPage, PROT_READ, MAP_SHARED, ends[0], 0), -ENODEV);
  EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED, file.get(), 100), -EINVAL);
  EXPECT_EQ(calls_->mmap(0, kPage, kReadWrite, MAP_SHARED_VALIDATE | MAP_SYNC, file.get(), 0),
            -EOPNOTSUPP);
  close(ends[0]);
  close(ends[1]);
  const std::intptr_t at = calls_->mmap(0, kPage, PROT_READ, MAP_SHARED, read_only.get(), 0);
  ASSERT_GT(at, 0);
  EXPECT_EQ(calls_->mprotect(static_cast<std::uintptr_t>(at), kPage, kReadWrite), -EACCES);
  EXPECT_EQ(allocator_->query(static_cast<std::uintptr_t>(at), 1)->protection, Protection::kRead);
  EXPECT_EQ(allocator_->statistics().regions, 1u);
}

TEST_F(DeviceTest, MemoryThatWeDidNotMapIsNotTouched) {
  void* const other = mmap(nullptr, 3 * kPage, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(other, MAP_FAILED);
  const auto address = reinterpret_cast<std::uintptr_t>(other);
  const OwnedDescriptor file(memfd_of(kPage));
  EXPECT_EQ(calls_->munmap(address, 3 * kPage), 0);
  EXPECT_EQ(calls_->mprotect(address, kPage, PROT_NONE), -ENOMEM);
  EXPECT_EQ(calls_->mmap(address, kPage, kReadWrite, MAP_SHARED | MAP_FIXED, file.get(), 0),
            -EBUSY);
  std::memset(other, 1, 3 * kPage);
  munmap(other, 3 * kPage);
}

TEST_F(DeviceTest, AFixedMappingOfABadDescriptorLeavesTheOldOne) {
  const OwnedDescriptor file(memfd_of(4 * kPage));
  const std::intptr_t at = calls_->mmap(0, 4 * kPage, kReadWrite, MAP_SHARED, file.get(), 0);
  ASSERT_GT(at, 0);
  const auto base = static_cast<std::uintptr_t>(at);
  EXPECT_EQ(calls_->mmap(base + kPage, kPage, kReadWrite, MAP_SHARED | MAP_FIXED, 9999, 0), -EBADF);
  EXPECT_TRUE(is_page_mapped(base + kPage));
  EXPECT_TRUE(allocator_->query(base, 4 * kPage).ok());
}

// The rings of io_uring: three mappings of one descriptor, by token, in lengths that are not whole
// pages.
TEST_F(DeviceTest, IoUringRings) {
  io_uring_params parameters{};
  const OwnedDescriptor ring(static_cast<int>(syscall(SYS_io_uring_setup, 64, &parameters)));
  if (ring.get() < 0) GTEST_SKIP() << "io_uring is not allowed here: " << std::strerror(errno);
  const std::size_t sq_bytes = parameters.sq_off.array + parameters.sq_entries * sizeof(unsigned);
  const std::size_t cq_bytes =
      parameters.cq_off.cqes + parameters.cq_entries * sizeof(io_uring_cqe);
  const std::size_t sqe_bytes = parameters.sq_entries * sizeof(io_uring_sqe);
  const int flags = MAP_SHARED | MAP_POPULATE;
  const std::intptr_t sq =
      calls_->mmap(0, sq_bytes, kReadWrite, flags, ring.get(), IORING_OFF_SQ_RING);
  const std::intptr_t cq =
      calls_->mmap(0, cq_bytes, kReadWrite, flags, ring.get(), IORING_OFF_CQ_RING);
  const std::intptr_t sqes =
      calls_->mmap(0, sqe_bytes, kReadWrite, flags, ring.get(), IORING_OFF_SQES);
  ASSERT_GT(sq, 0);
  ASSERT_GT(cq, 0);
  ASSERT_GT(sqes, 0);
  EXPECT_EQ(allocator_->statistics().regions, 3u);
  // A token that the device does not know.
  EXPECT_LT(calls_->mmap(0, kPage, kReadWrite, flags, ring.get(), 0x30000000), 0);

  // The ring says what we asked for, read through the boundary.
  std::uint32_t entries = 0;
  get(sq, parameters.sq_off.ring_entries, &entries, sizeof entries);
  EXPECT_EQ(entries, parameters.sq_entries);

  // One NOP goes round.
  io_uring_sqe nop{};
  nop.opcode = IORING_OP_NOP;
  nop.user_data = 0x1234;
  put(sqes, 0, &nop, sizeof nop);
  const std::uint32_t first = 0;
  const std::uint32_t tail = 1;
  put(sq, parameters.sq_off.array, &first, sizeof first);
  put(sq, parameters.sq_off.tail, &tail, sizeof tail);
  ASSERT_EQ(syscall(SYS_io_uring_enter, ring.get(), 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0), 1);
  io_uring_cqe completion{};
  get(cq, parameters.cq_off.cqes, &completion, sizeof completion);
  EXPECT_EQ(completion.user_data, 0x1234u);

  // The end of an application: by the odd lengths, a part first.
  EXPECT_EQ(calls_->mprotect(static_cast<std::uintptr_t>(sqes), kPage, PROT_READ), 0);
  EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(sqes), sqe_bytes), 0);
  EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(sq), sq_bytes), 0);
  EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(cq), cq_bytes), 0);
  EXPECT_EQ(allocator_->statistics().regions, 0u);
  for (const std::intptr_t at : {sq, cq, sqes})
    EXPECT_FALSE(is_page_mapped(static_cast<std::uintptr_t>(at)));
}

TEST_F(DeviceTest, IoUringLengthsFromTheField) {
  io_uring_params parameters{};
  const OwnedDescriptor ring(static_cast<int>(syscall(SYS_io_uring_setup, 256, &parameters)));
  if (ring.get() < 0) GTEST_SKIP() << "io_uring is not allowed here: " << std::strerror(errno);
  for (const std::size_t length : {std::size_t{2368}, std::size_t{9280}}) {
    const std::intptr_t at = calls_->mmap(0, length, kReadWrite, MAP_SHARED | MAP_POPULATE,
                                          ring.get(), IORING_OFF_SQ_RING);
    ASSERT_GT(at, 0) << length;
    const std::size_t whole = (length + kPage - 1) / kPage * kPage;
    EXPECT_EQ(allocator_->query(static_cast<std::uintptr_t>(at), 1)->extent.size, whole);
    EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(at), length), 0);
  }
}

TEST_F(DeviceTest, AHugePageFileKeepsItsRules) {
  const OwnedDescriptor file(memfd_create("exclave-huge", MFD_CLOEXEC | MFD_HUGETLB));
  constexpr std::size_t kHuge = std::size_t{2} << 20;
  if (file.get() < 0 || ftruncate(file.get(), 2 * kHuge) != 0)
    GTEST_SKIP() << "no huge page files here";
  const std::intptr_t at =
      calls_->mmap(0, 2 * kHuge, kReadWrite, MAP_SHARED | MAP_NORESERVE, file.get(), 0);
  if (at == -ENOMEM) GTEST_SKIP() << "no huge pages are set aside";
  ASSERT_GT(at, 0);
  const auto base = static_cast<std::uintptr_t>(at);
  // The kernel refuses to cut one; the books stay whole.
  EXPECT_EQ(calls_->munmap(base + kPage, kPage), -EINVAL);
  EXPECT_TRUE(allocator_->query(base, 2 * kHuge).ok());
  EXPECT_EQ(calls_->mprotect(base + kPage, kPage, PROT_READ), -EINVAL);
  EXPECT_EQ(allocator_->query(base, 2 * kHuge)->protection, Protection::kReadWrite);
  EXPECT_EQ(calls_->munmap(base + kHuge, kHuge), 0);
  EXPECT_EQ(calls_->munmap(base, kHuge), 0);
}

}  // namespace
}  // namespace exclave
