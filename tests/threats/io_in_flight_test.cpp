// THREATS 50 and 60 with the real kernel as the host: it writes into a buffer that was freed, and
// it takes memory away.
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <csignal>
#include <vector>

#include "exclave/access.hpp"
#include "support/process_fixture.hpp"

namespace exclave {
namespace {

using testing_support::memfd_of;
using testing_support::OwnedDescriptor;
using testing_support::ProcessFixture;

constexpr std::size_t kPage = kPageBytes;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

// ---- 50: a device that still writes ----

// The least of a ring, on the host's side: one read into a block, and its completion.
class OneRead {
 public:
  OneRead() : ring_(static_cast<int>(syscall(SYS_io_uring_setup, 4, &parameters_))) {
    if (ring_.get() < 0) return;
    rings_ = static_cast<char*>(mmap(nullptr, kRingBytes, kReadWrite, MAP_SHARED, ring_.get(),
                                     static_cast<off_t>(IORING_OFF_SQ_RING)));
    sqes_ = static_cast<io_uring_sqe*>(mmap(nullptr, kPage, kReadWrite, MAP_SHARED, ring_.get(),
                                            static_cast<off_t>(IORING_OFF_SQES)));
  }
  ~OneRead() {
    if (ring_.get() < 0) return;
    munmap(rings_, kRingBytes);
    munmap(sqes_, kPage);
  }
  OneRead(const OneRead&) = delete;
  OneRead& operator=(const OneRead&) = delete;

  bool works() const { return ring_.get() >= 0 && rings_ != MAP_FAILED && sqes_ != MAP_FAILED; }
  bool begin(int descriptor, untrusted_bytes to, unsigned bytes) {
    sqes_[0] = {};
    sqes_[0].opcode = IORING_OP_READ;
    sqes_[0].fd = descriptor;
    sqes_[0].addr = to.address();
    sqes_[0].len = bytes;
    reinterpret_cast<unsigned*>(rings_ + parameters_.sq_off.array)[0] = 0;
    __atomic_store_n(reinterpret_cast<unsigned*>(rings_ + parameters_.sq_off.tail), 1u,
                     __ATOMIC_RELEASE);
    return syscall(SYS_io_uring_enter, ring_.get(), 1, 0, 0, nullptr, 0) == 1;
  }
  // What the read came to.
  int wait() {
    syscall(SYS_io_uring_enter, ring_.get(), 0, 1, IORING_ENTER_GETEVENTS, nullptr, 0);
    return reinterpret_cast<io_uring_cqe*>(rings_ + parameters_.cq_off.cqes)->res;
  }

 private:
  static constexpr std::size_t kRingBytes = kPage;
  io_uring_params parameters_{};
  const OwnedDescriptor ring_;
  char* rings_ = nullptr;
  io_uring_sqe* sqes_ = nullptr;
};

class Threat50_FreedInFlight : public ProcessFixture,
                               public testing::WithParamInterface<unsigned> {};

TEST_P(Threat50_FreedInFlight, TheKernelWritesOnlyToWhatNobodyElseHolds) {
  const unsigned bytes = GetParam();
  OneRead read;
  if (!read.works()) GTEST_SKIP() << "io_uring is not allowed here";
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const auto block = allocator_->allocate(bytes);
  ASSERT_TRUE(block.ok());
  const Extent buffer{block->address(), bytes};
  const auto pin = allocator_->pin(buffer);
  ASSERT_TRUE(pin.ok());
  ASSERT_TRUE(read.begin(ends[0], *block, bytes));
  // The caller forgets that the read is in flight.
  ASSERT_TRUE(allocator_->deallocate(*block).ok());
  EXPECT_EQ(allocator_->deallocate(*block).error(), Error::kDoubleFree);

  // Every other block of that size: none lies in the buffer, and each keeps its contents.
  std::vector<untrusted_bytes> others;
  const std::vector<unsigned char> mine(bytes, 0x11);
  for (int i = 0; i < 600; ++i) {
    const auto other = allocator_->allocate(bytes);
    ASSERT_TRUE(other.ok());
    ASSERT_FALSE(buffer.overlaps({other->address(), bytes})) << "handed out while in flight";
    detail::copy_out_bytes(other->address(), mine.data(), bytes);
    others.push_back(*other);
  }
  const std::vector<unsigned char> sent(bytes, 0xee);
  ASSERT_EQ(write(ends[1], sent.data(), bytes), static_cast<ssize_t>(bytes));
  ASSERT_EQ(read.wait(), static_cast<int>(bytes));
  std::vector<unsigned char> back(bytes);
  for (const untrusted_bytes other : others) {
    detail::copy_in_bytes(back.data(), other.address(), bytes);
    ASSERT_EQ(back, mine);
  }
  // The read is done: the block really goes, and may be handed out again.
  ASSERT_TRUE(allocator_->unpin(*pin).ok());
  EXPECT_EQ(allocator_->deallocate(*block).error(), Error::kDoubleFree);
  bool again = false;
  for (int i = 0; i < 1200 && !again; ++i) {
    const auto other = allocator_->allocate(bytes);
    ASSERT_TRUE(other.ok());
    again = other->address() == buffer.base;
    others.push_back(*other);
  }
  EXPECT_TRUE(again) << "the block is lost";
  for (const untrusted_bytes other : others) EXPECT_TRUE(allocator_->deallocate(other).ok());
  close(ends[0]);
  close(ends[1]);
}
INSTANTIATE_TEST_SUITE_P(Sizes, Threat50_FreedInFlight, testing::Values(64u, 3000u, 40000u));

// ---- 60: memory that is gone ----

class Threat60_HostUnmaps : public ProcessFixture {
 protected:
  // Runs in a child process; what ended it: a signal's number, or 0 and its exit status was 0; else
  // -1.
  template <class F>
  static int ends_by(F run) {
    const pid_t child = fork();
    if (child == 0) {
      std::signal(SIGSEGV, SIG_DFL);  // a sanitizer would only report it
      std::signal(SIGBUS, SIG_DFL);
      run();
      _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return -1;
    if (WIFSIGNALED(status)) return WTERMSIG(status);
    return WEXITSTATUS(status) == 0 ? 0 : -1;
  }
};

TEST_F(Threat60_HostUnmaps, TheBooksStandAndOnlyATouchFaults) {
  std::vector<untrusted_bytes> blocks;
  for (std::size_t i = 0; i < 500; ++i) {
    const auto block = allocator_->allocate(16 + i * 37 % 20000);
    ASSERT_TRUE(block.ok());
    blocks.push_back(*block);
  }
  const OwnedDescriptor file(memfd_of(4 * kPage));
  const std::intptr_t mapping = calls_->mmap(0, 4 * kPage, kReadWrite, MAP_SHARED, file.get(), 0);
  ASSERT_GT(mapping, 0);
  std::vector<Extent> regions;
  for (auto region = allocator_->next_region(0); region.ok();
       region = allocator_->next_region(region->extent.end())) {
    regions.push_back(region->extent);
  }
  // The host takes everything, behind our back. (The addresses stay reserved, so that nothing else
  // comes to stand there.)
  for (const Extent region : regions) {
    ASSERT_NE(mmap(reinterpret_cast<void*>(region.base), region.size, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0),
              MAP_FAILED);
  }

  // A touch through the boundary is a clean fault.
  const std::uint64_t value = 1;
  const std::uintptr_t address = blocks[0].address();
  EXPECT_EQ(ends_by([&] { detail::copy_out_bytes(address, &value, sizeof value); }), SIGSEGV);
  EXPECT_EQ(ends_by([&] { (void)detail::load_u64(address & ~std::uintptr_t{7}); }), SIGSEGV);
  EXPECT_EQ(ends_by([] {}), 0);

  // All decisions are taken as before: blocks are freed, told, handed out, and the regions go back.
  EXPECT_TRUE(allocator_->validate_books());
  for (std::size_t i = 0; i < blocks.size(); i += 2) {
    EXPECT_TRUE(allocator_->deallocate(blocks[i]).ok());
    EXPECT_EQ(allocator_->deallocate(blocks[i]).error(), Error::kDoubleFree);
    const auto again = allocator_->allocate(16 + i * 37 % 20000);
    ASSERT_TRUE(again.ok());
    blocks[i] = *again;
  }
  EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(mapping) + kPage, kPage), 0);
  EXPECT_TRUE(allocator_->query(static_cast<std::uintptr_t>(mapping), kPage).ok());
  for (const untrusted_bytes block : blocks) EXPECT_TRUE(allocator_->deallocate(block).ok());
  EXPECT_TRUE(allocator_->validate_books());
  EXPECT_EQ(allocator_->statistics().live_blocks, 0u);
  // Fresh memory is fresh memory.
  allocator_->trim();
  const auto fresh = allocator_->allocate_zeroed(100000);
  ASSERT_TRUE(fresh.ok());
  EXPECT_TRUE(allocator_->deallocate(*fresh).ok());
  EXPECT_EQ(calls_->munmap(static_cast<std::uintptr_t>(mapping), 4 * kPage), 0);
}

TEST_F(Threat60_HostUnmaps, AFileThatShrinksIsABusErrorAndNoMore) {
  const OwnedDescriptor file(memfd_of(4 * kPage));
  const std::intptr_t mapping = calls_->mmap(0, 4 * kPage, kReadWrite, MAP_SHARED, file.get(), 0);
  ASSERT_GT(mapping, 0);
  const auto base = static_cast<std::uintptr_t>(mapping);
  ASSERT_EQ(ftruncate(file.get(), 0), 0);
  EXPECT_EQ(ends_by([&] { (void)detail::load_u64(base); }), SIGBUS);
  EXPECT_TRUE(allocator_->query(base, 4 * kPage).ok());
  EXPECT_EQ(calls_->mprotect(base, 4 * kPage, PROT_READ), 0);
  EXPECT_EQ(calls_->munmap(base, 4 * kPage), 0);
}

}  // namespace
}  // namespace exclave
