// What the manual pages say of each call, errno by errno and effect by effect: natively, which
// proves the test right, and through MemoryCalls, inside the enclave and outside of it.
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "support/end_child.hpp"
#include "support/process_fixture.hpp"
#include "support/quiet_addresses.hpp"

namespace exclave {
namespace {

using testing_support::is_page_mapped;
using testing_support::kQuietAddresses;
using testing_support::memfd_of;
using testing_support::OwnedDescriptor;
using testing_support::Prober;
using testing_support::ProcessFixture;

constexpr std::size_t kPage = kPageBytes;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr std::size_t kWindowPages = 64;

enum class Side : std::uint8_t { kNative, kOurs };
// Private anonymous memory, which stays inside; or a memfd, shared, which lies outside.
enum class Memory : std::uint8_t { kPrivate, kShared };

struct Case {
  Side side;
  Memory memory;
};

std::intptr_t linux_answer(long result) {
  return result == -1 ? -std::intptr_t{errno} : result;
}

class Conformance : public ProcessFixture, public testing::WithParamInterface<Case> {
 protected:
  void SetUp() override {
    ProcessFixture::SetUp();
    base_ = native() || shared() ? kQuietAddresses + (std::uintptr_t{7} << 28)
                                 : port_->enclave_heap().base + 256 * kPage;
    for (std::size_t i = 0; i < kWindowPages; ++i) {
      ASSERT_TRUE(!is_page_mapped(page(i)) || port_->enclave().contains(page(i)));
    }
  }
  void TearDown() override {
    EXPECT_EQ(munlockall(), 0);
    EXPECT_EQ(unmap(0, kWindowPages), 0);
    ProcessFixture::TearDown();
  }

  bool native() const { return GetParam().side == Side::kNative; }
  bool shared() const { return GetParam().memory == Memory::kShared; }
  std::uintptr_t page(std::size_t n) const { return base_ + n * kPage; }
  std::intptr_t answer(std::size_t n) const { return static_cast<std::intptr_t>(page(n)); }
  static volatile unsigned char& byte(std::uintptr_t address) {
    return *reinterpret_cast<volatile unsigned char*>(address);
  }

  // ---- The calls ----

  // Each mapping of the file begins at its start, so no two are one to Linux.
  std::intptr_t map(std::size_t first, std::size_t count, int protection = kReadWrite) {
    const int flags = MAP_FIXED | (shared() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
    const int file = shared() ? file_.get() : -1;
    if (!native()) return calls_->mmap(page(first), count * kPage, protection, flags, file, 0);
    // The offset is the call's seventh argument, on the stack: all of its word must be zero.
    return linux_answer(syscall(SYS_mmap, page(first), count * kPage, protection, flags, file, 0L));
  }
  // Near an address, where it is not fixed.
  std::intptr_t map_near(std::uintptr_t hint, std::size_t count) {
    const int flags = shared() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    const int file = shared() ? file_.get() : -1;
    if (!native()) return calls_->mmap(hint, count * kPage, kReadWrite, flags, file, 0);
    return linux_answer(syscall(SYS_mmap, hint, count * kPage, kReadWrite, flags, file, 0L));
  }
  // Where nothing stands.
  std::intptr_t map_new(std::size_t first, std::size_t count) {
    const int flags = MAP_FIXED_NOREPLACE | (shared() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
    const int file = shared() ? file_.get() : -1;
    if (!native()) return calls_->mmap(page(first), count * kPage, kReadWrite, flags, file, 0);
    return linux_answer(syscall(SYS_mmap, page(first), count * kPage, kReadWrite, flags, file, 0L));
  }
  std::intptr_t unmap(std::size_t first, std::size_t count) {
    if (!native()) return calls_->munmap(page(first), count * kPage);
    return linux_answer(syscall(SYS_munmap, page(first), count * kPage));
  }
  std::intptr_t protect(std::size_t first, std::size_t count, int protection) {
    if (!native()) return calls_->mprotect(page(first), count * kPage, protection);
    return linux_answer(syscall(SYS_mprotect, page(first), count * kPage, protection));
  }
  std::intptr_t protect_bytes(std::uintptr_t address, std::size_t size, int protection) {
    if (!native()) return calls_->mprotect(address, size, protection);
    return linux_answer(syscall(SYS_mprotect, address, size, protection));
  }
  std::intptr_t remap_bytes(std::uintptr_t from, std::size_t old_size, std::size_t new_size,
                            int flags, std::uintptr_t to) {
    if (!native()) return calls_->mremap(from, old_size, new_size, flags, to);
    return linux_answer(syscall(SYS_mremap, from, old_size, new_size, flags, to));
  }
  std::intptr_t remap(std::size_t first, std::size_t old_count, std::size_t new_count,
                      int flags = 0, std::size_t to = 0) {
    return remap_bytes(page(first), old_count * kPage, new_count * kPage, flags, page(to));
  }
  std::intptr_t advise_bytes(std::uintptr_t address, std::size_t size, int advice) {
    if (!native()) return calls_->madvise(address, size, advice);
    return linux_answer(syscall(SYS_madvise, address, size, advice));
  }
  std::intptr_t advise(std::size_t first, std::size_t count, int advice) {
    return advise_bytes(page(first), count * kPage, advice);
  }
  std::intptr_t sync_bytes(std::uintptr_t address, std::size_t size, int flags) {
    if (!native()) return calls_->msync(address, size, flags);
    return linux_answer(syscall(SYS_msync, address, size, flags));
  }
  std::intptr_t resident(std::uintptr_t address, std::size_t size, unsigned char* vector) {
    if (!native()) return calls_->mincore(address, size, vector);
    return linux_answer(syscall(SYS_mincore, address, size, vector));
  }
  std::intptr_t lock(std::uintptr_t address, std::size_t size) {
    if (!native()) return calls_->mlock(address, size);
    return linux_answer(syscall(SYS_mlock, address, size));
  }
  std::intptr_t lock2(std::uintptr_t address, std::size_t size, int flags) {
    if (!native()) return calls_->mlock2(address, size, flags);
    return linux_answer(syscall(SYS_mlock2, address, size, flags));
  }
  std::intptr_t unlock(std::uintptr_t address, std::size_t size) {
    if (!native()) return calls_->munlock(address, size);
    return linux_answer(syscall(SYS_munlock, address, size));
  }
  std::intptr_t lockall(int flags) {
    if (!native()) return calls_->mlockall(flags);
    return linux_answer(syscall(SYS_mlockall, flags));
  }
  std::intptr_t munlockall() {
    if (!native()) return calls_->munlockall();
    return linux_answer(syscall(SYS_munlockall));
  }

  // What the child of a fork answers, 0 to 255; -1: it did not end by itself.
  template <class F>
  int in_child(const F& function) {
    if (!native()) {
      EXPECT_TRUE(inside_->manager()->before_fork().ok());
      EXPECT_TRUE(allocator_->before_fork().ok());
    }
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      if (!native()) {
        allocator_->after_fork_in_child();
        inside_->manager()->after_fork_in_child();
      }
      testing_support::end_child(function());
    }
    if (!native()) {
      allocator_->after_fork_in_parent();
      inside_->manager()->after_fork_in_parent();
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  // ---- Looks ----

  // . for a page that nobody can touch, r or b for what can be read or written, too.
  std::string picture(std::size_t count = 12) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) {
      const bool readable = prober_.can_read(page(i));
      text += !readable ? '.' : prober_.can_write(page(i)) ? 'b' : 'r';
    }
    if (!native()) {
      EXPECT_TRUE(allocator_->validate_books());
      EXPECT_TRUE(inside_->manager()->validate_books());
    }
    return text;
  }
  bool is_resident(std::size_t n) {
    unsigned char byte = 0;
    EXPECT_EQ(resident(page(n), kPage, &byte), 0);
    return (byte & 1) != 0;
  }
  // A locked page refuses to be dropped.
  bool is_locked(std::size_t n) { return advise(n, 1, MADV_DONTNEED) == -EINVAL; }

  OwnedDescriptor file_{memfd_of(kWindowPages * kPage)};
  Prober prober_;
  std::uintptr_t base_ = 0;
};

// ---- mmap(2) and mprotect(2) ----

TEST_P(Conformance, MmapTakesAHintForThePageThatItLiesIn) {
  for (const std::uintptr_t within : {std::uintptr_t{0}, std::uintptr_t{1}, kPage - 1}) {
    EXPECT_EQ(map_near(page(3) + within, 2), answer(3)) << within;
    EXPECT_EQ(unmap(3, 2), 0);
  }
}

TEST_P(Conformance, MmapLooksAtNoOtherBitsOfItsProtection) {
  constexpr int kUnknown = 0x1018;
  EXPECT_EQ(map(2, 1, PROT_READ | kUnknown), answer(2));
  EXPECT_EQ(picture(4), "..r.");
}

TEST_P(Conformance, MprotectGoesUpToTheFirstHoleHoweverFarItReaches) {
  ASSERT_EQ(map(2, 2), answer(2));
  EXPECT_EQ(protect_bytes(page(2), std::size_t{1} << 47, PROT_READ), -ENOMEM);
  EXPECT_EQ(picture(5), "..rr.");
  EXPECT_EQ(protect_bytes(page(2), std::size_t{1} << 63, kReadWrite), -ENOMEM);
  EXPECT_EQ(picture(5), "..bb.");
  EXPECT_EQ(protect_bytes(page(2), ~page(2) + 1, PROT_READ), -ENOMEM) << "the end wraps to 0";
  EXPECT_EQ(protect_bytes(page(2), SIZE_MAX, PROT_READ), -ENOMEM) << "the length does";
  EXPECT_EQ(picture(5), "..bb.");
}

TEST_P(Conformance, MprotectLooksAtTheRangeFirst) {
  constexpr int kUnknown = 16;
  map(0, 2);
  EXPECT_EQ(protect_bytes(page(0) + 1, 0, kUnknown), -EINVAL);
  EXPECT_EQ(protect_bytes(page(0), 0, kUnknown), 0);
  EXPECT_EQ(protect_bytes(page(0), SIZE_MAX - kPage, kUnknown), -ENOMEM);
  EXPECT_EQ(protect_bytes(page(0), kPage, kUnknown), -EINVAL);
  EXPECT_EQ(picture(2), "bb");
}

TEST_P(Conformance, MprotectForSemaphoresIsMprotect) {
  constexpr int kProtSem = 8;  // the libc's headers have no name for it
  map(0, 2);
  EXPECT_EQ(protect(0, 1, PROT_READ | kProtSem), 0);
  EXPECT_EQ(picture(2), "rb");
}

// ---- mremap(2) ----

TEST_P(Conformance, MremapShrinks) {
  ASSERT_EQ(map(2, 4), answer(2));
  byte(page(3)) = 7;
  EXPECT_EQ(remap(2, 4, 2), answer(2));
  EXPECT_EQ(picture(8), "..bb....");
  EXPECT_EQ(byte(page(3)), 7);
  EXPECT_EQ(remap(2, 2, 2), answer(2));
}

TEST_P(Conformance, MremapCountsInWholePages) {
  ASSERT_EQ(map(2, 4), answer(2));
  EXPECT_EQ(remap_bytes(page(2), 4 * kPage - 1, 2 * kPage + 1, 0, 0), answer(2));
  EXPECT_EQ(picture(8), "..bbb...");
}

TEST_P(Conformance, MremapShrinksAcrossHolesAndNeighbours) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(map(5, 2, PROT_READ), answer(5));
  EXPECT_EQ(remap(2, 5, 1), answer(2));
  EXPECT_EQ(picture(8), "..b.....");
}

TEST_P(Conformance, MremapGrowsInPlace) {
  ASSERT_EQ(map(2, 2), answer(2));
  byte(page(3)) = 7;
  EXPECT_EQ(remap(2, 2, 5), answer(2));
  EXPECT_EQ(picture(8), "..bbbbb.");
  EXPECT_EQ(byte(page(3)), 7);
  EXPECT_EQ(byte(page(6)), 0);
  EXPECT_EQ(remap(2, 5, 6), answer(2)) << "it is one mapping still";
}

TEST_P(Conformance, MremapWithoutRoomFails) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(map(4, 1, PROT_READ), answer(4));
  EXPECT_EQ(remap(2, 2, 3), -ENOMEM);
  EXPECT_EQ(remap(2, 1, 2), -ENOMEM);
  EXPECT_EQ(picture(6), "..bbr.");
}

TEST_P(Conformance, MremapMovesWhenItMay) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(map(4, 1, PROT_READ), answer(4));
  byte(page(2)) = 6;
  byte(page(3)) = 7;
  const std::intptr_t at = remap(2, 2, 4, MREMAP_MAYMOVE);
  ASSERT_GT(at, 0);
  const auto moved = static_cast<std::uintptr_t>(at);
  EXPECT_EQ(picture(6), "....r.");
  EXPECT_EQ(byte(moved), 6);
  EXPECT_EQ(byte(moved + kPage), 7);
  EXPECT_EQ(byte(moved + 3 * kPage), 0);
  EXPECT_EQ(remap_bytes(moved, 4 * kPage, 4 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, page(6)),
            answer(6));
  EXPECT_EQ(byte(page(7)), 7);
}

TEST_P(Conformance, MremapFixedReplacesWhatStandsThere) {
  ASSERT_EQ(map(2, 3), answer(2));
  ASSERT_EQ(map(8, 1, PROT_READ), answer(8));
  byte(page(3)) = 7;
  EXPECT_EQ(remap(3, 1, 2, MREMAP_MAYMOVE | MREMAP_FIXED, 7), answer(7));
  EXPECT_EQ(picture(), "..b.b..bb...");
  EXPECT_EQ(byte(page(7)), 7);
}

TEST_P(Conformance, MremapFixedMayShrink) {
  ASSERT_EQ(map(2, 4), answer(2));
  byte(page(2)) = 7;
  EXPECT_EQ(remap(2, 4, 1, MREMAP_MAYMOVE | MREMAP_FIXED, 8), answer(8));
  EXPECT_EQ(picture(), "........b...");
  EXPECT_EQ(byte(page(8)), 7);
}

TEST_P(Conformance, MremapDontunmapLeavesTheOldPlace) {
  ASSERT_EQ(map(2, 2), answer(2));
  byte(page(3)) = 7;
  EXPECT_EQ(remap(2, 2, 2, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, 8), answer(8));
  EXPECT_EQ(picture(), "..bb....bb..");
  EXPECT_EQ(byte(page(9)), 7);
  EXPECT_EQ(byte(page(3)), shared() ? 7 : 0) << "fresh pages; or the file's";
  EXPECT_GT(remap(8, 2, 2, MREMAP_MAYMOVE | MREMAP_DONTUNMAP), 0);
}

TEST_P(Conformance, MremapDontunmapLeavesNoLockBehind) {
  ASSERT_EQ(map(2, 1), answer(2));
  ASSERT_EQ(lock(page(2), kPage), 0);
  EXPECT_EQ(remap(2, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, 8), answer(8));
  EXPECT_FALSE(is_locked(2));
  EXPECT_TRUE(is_locked(8));
}

TEST_P(Conformance, MremapOfNoLengthIsASecondViewOfSharedPages) {
  ASSERT_EQ(map(2, 2), answer(2));
  if (!shared()) {
    EXPECT_EQ(remap(2, 0, 2, MREMAP_MAYMOVE), -EINVAL);
    return;
  }
  EXPECT_EQ(remap(2, 0, 2, MREMAP_MAYMOVE | MREMAP_FIXED, 8), answer(8));
  byte(page(9)) = 7;
  EXPECT_EQ(byte(page(3)), 7);
  EXPECT_EQ(picture(), "..bb....bb..");
}

TEST_P(Conformance, MremapEinval) {
  constexpr int kTo = MREMAP_MAYMOVE | MREMAP_FIXED;
  ASSERT_EQ(map(2, 4), answer(2));
  EXPECT_EQ(remap(2, 1, 1, 8), -EINVAL) << "flags";
  EXPECT_EQ(remap(2, 1, 1, MREMAP_FIXED, 8), -EINVAL) << "MREMAP_FIXED without MREMAP_MAYMOVE";
  EXPECT_EQ(remap(2, 1, 1, MREMAP_DONTUNMAP), -EINVAL) << "DONTUNMAP without MAYMOVE";
  EXPECT_EQ(remap(2, 1, 2, MREMAP_MAYMOVE | MREMAP_DONTUNMAP), -EINVAL) << "and it may not grow";
  EXPECT_EQ(remap_bytes(page(2) + 1, kPage, kPage, 0, 0), -EINVAL) << "not aligned";
  EXPECT_EQ(remap_bytes(page(2), kPage, kPage, kTo, page(8) + 1), -EINVAL);
  EXPECT_EQ(remap(2, 1, 0), -EINVAL) << "new_size 0";
  EXPECT_EQ(remap(2, 4, 4, kTo, 4), -EINVAL) << "overlap";
  EXPECT_EQ(remap(2, 4, 2, kTo, 5), -EINVAL) << "overlap with what would be cut off";
  EXPECT_EQ(remap_bytes(page(2), kPage, kPage, kTo, (std::uintptr_t{1} << 47)), -EINVAL);
  EXPECT_EQ(picture(8), "..bbbb..");
}

TEST_P(Conformance, MremapEfault) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(map(4, 2, PROT_READ), answer(4));
  EXPECT_EQ(remap(8, 1, 1), -EFAULT);
  EXPECT_EQ(remap(8, 1, 2, MREMAP_MAYMOVE), -EFAULT);
  EXPECT_EQ(remap(2, 4, 5, MREMAP_MAYMOVE), -EFAULT) << "mappings of different types";
  EXPECT_EQ(remap(4, 3, 4, MREMAP_MAYMOVE), -EFAULT) << "not all mapped";
  EXPECT_EQ(picture(8), "..bbrr..");
}

// ---- madvise(2) ----

TEST_P(Conformance, MadviseEinval) {
  ASSERT_EQ(map(2, 2), answer(2));
  for (const int unknown : {-1, 5, 6, 7, 50, 99, 1000}) {
    EXPECT_EQ(advise(2, 1, unknown), -EINVAL) << unknown;
    EXPECT_EQ(advise(2, 0, unknown), -EINVAL) << unknown;
  }
  EXPECT_EQ(advise_bytes(page(2) + 1, kPage, MADV_DONTNEED), -EINVAL);
  EXPECT_EQ(advise_bytes(page(2), SIZE_MAX, MADV_DONTNEED), -EINVAL) << "wraps to nothing";
  EXPECT_EQ(advise_bytes(page(2), SIZE_MAX - kPage + 1, MADV_DONTNEED), -EINVAL) << "wraps";
}

TEST_P(Conformance, MadviseOfNothingIsDone) {
  EXPECT_EQ(advise(2, 0, MADV_DONTNEED), 0);
}

TEST_P(Conformance, MadviseDontneedForgetsPrivateBytes) {
  ASSERT_EQ(map(2, 3), answer(2));
  for (std::size_t i = 2; i < 5; ++i) byte(page(i)) = 7;
  EXPECT_EQ(advise_bytes(page(3), 1, MADV_DONTNEED), 0);
  EXPECT_EQ(byte(page(2)), 7);
  EXPECT_EQ(byte(page(3)), shared() ? 7 : 0);
  EXPECT_EQ(byte(page(4)), 7);
  EXPECT_EQ(picture(6), "..bbb.");
}

TEST_P(Conformance, MadviseSkipsHolesAndSaysSo) {
  ASSERT_EQ(map(2, 1), answer(2));
  ASSERT_EQ(map(5, 1), answer(5));
  byte(page(2)) = 7;
  byte(page(5)) = 7;
  EXPECT_EQ(advise(1, 8, MADV_DONTNEED), -ENOMEM);
  EXPECT_EQ(byte(page(2)), shared() ? 7 : 0);
  EXPECT_EQ(byte(page(5)), shared() ? 7 : 0);
  EXPECT_EQ(advise(8, 2, MADV_NORMAL), -ENOMEM);
}

TEST_P(Conformance, MadviseFreeIsForPrivateAnonymousPages) {
  ASSERT_EQ(map(2, 1), answer(2));
  EXPECT_EQ(advise(2, 1, MADV_FREE), shared() ? -EINVAL : 0);
}

TEST_P(Conformance, MadviseRemoveIsForSharedWritablePages) {
  ASSERT_EQ(map(2, 2), answer(2));
  byte(page(3)) = 7;
  EXPECT_EQ(advise(3, 1, MADV_REMOVE), shared() ? 0 : -EINVAL);
  EXPECT_EQ(byte(page(3)), shared() ? 0 : 7);
  // Shared pages that may not be written: -EACCES, or done by later kernels.
  ASSERT_EQ(map(4, 1, PROT_READ), answer(4));
  if (!shared()) {
    EXPECT_EQ(advise(4, 1, MADV_REMOVE), -EINVAL);
  }
}

TEST_P(Conformance, MadviseWipeonforkIsForPrivateAnonymousPages) {
  ASSERT_EQ(map(2, 1), answer(2));
  EXPECT_EQ(advise(2, 1, MADV_WIPEONFORK), shared() ? -EINVAL : 0);
  EXPECT_EQ(advise(2, 1, MADV_KEEPONFORK), 0);
}

TEST_P(Conformance, MadviseHintsAreTaken) {
  ASSERT_EQ(map(2, 2), answer(2));
  byte(page(2)) = 7;
  for (const int advice : {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTFORK,
                           MADV_DOFORK, MADV_DONTDUMP, MADV_DODUMP, MADV_COLD, MADV_PAGEOUT}) {
    EXPECT_EQ(advise(2, 2, advice), 0) << advice;
  }
  EXPECT_EQ(byte(page(2)), 7);
}

// Where the kernel was built without them they are unknown.
TEST_P(Conformance, MadviseOptionalHintsAreTakenOrUnknown) {
  ASSERT_EQ(map(2, 2), answer(2));
  for (const int advice : {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_MERGEABLE, MADV_UNMERGEABLE}) {
    const std::intptr_t taken = advise(2, 2, advice);
    EXPECT_TRUE(taken == 0 || taken == -EINVAL) << advice << ": " << taken;
  }
}

TEST_P(Conformance, MadvisePopulate) {
  ASSERT_EQ(map(2, 2), answer(2));
  EXPECT_EQ(advise(2, 2, MADV_POPULATE_READ), 0);
  EXPECT_EQ(advise(2, 2, MADV_POPULATE_WRITE), 0);
  EXPECT_EQ(advise(3, 3, MADV_POPULATE_READ), -ENOMEM);
  EXPECT_EQ(advise(1, 2, MADV_POPULATE_READ), -ENOMEM);
  ASSERT_EQ(protect(3, 1, PROT_READ), 0);
  EXPECT_EQ(advise(2, 2, MADV_POPULATE_READ), 0);
  EXPECT_EQ(advise(2, 2, MADV_POPULATE_WRITE), -EINVAL);
  ASSERT_EQ(protect(3, 1, PROT_NONE), 0);
  EXPECT_EQ(advise(2, 2, MADV_POPULATE_READ), -EINVAL);
}

TEST_P(Conformance, MadviseOnLockedPages) {
  ASSERT_EQ(map(2, 2), answer(2));
  byte(page(3)) = 7;
  ASSERT_EQ(lock(page(3), kPage), 0);
  for (const int advice : {MADV_DONTNEED, MADV_COLD, MADV_PAGEOUT, MADV_FREE, MADV_REMOVE})
    EXPECT_EQ(advise(3, 1, advice), -EINVAL) << advice;
  EXPECT_EQ(byte(page(3)), 7);
  EXPECT_EQ(advise(2, 2, MADV_DONTNEED_LOCKED), 0);
  EXPECT_EQ(byte(page(3)), shared() ? 7 : 0);
}

TEST_P(Conformance, MadviseEndsAtTheFirstRefusal) {
  ASSERT_EQ(map(2, 3), answer(2));
  for (std::size_t i = 2; i < 5; ++i) byte(page(i)) = 7;
  ASSERT_EQ(lock(page(3), kPage), 0);
  EXPECT_EQ(advise(2, 3, MADV_DONTNEED), -EINVAL);
  EXPECT_EQ(byte(page(2)), shared() ? 7 : 0) << "before it";
  EXPECT_EQ(byte(page(4)), 7) << "and behind it";
}

// ---- msync(2) ----

TEST_P(Conformance, MsyncEinval) {
  ASSERT_EQ(map(2, 2), answer(2));
  EXPECT_EQ(sync_bytes(page(2), kPage, 8), -EINVAL);
  EXPECT_EQ(sync_bytes(page(2), kPage, MS_SYNC | MS_ASYNC), -EINVAL);
  EXPECT_EQ(sync_bytes(page(2) + 1, kPage, MS_SYNC), -EINVAL);
}

TEST_P(Conformance, MsyncWrites) {
  ASSERT_EQ(map(2, 2), answer(2));
  byte(page(2)) = 7;
  for (const int flags : {0, MS_SYNC, MS_ASYNC, MS_INVALIDATE, MS_SYNC | MS_INVALIDATE}) {
    EXPECT_EQ(sync_bytes(page(2), 2 * kPage, flags), 0) << flags;
    EXPECT_EQ(sync_bytes(page(2), kPage + 1, flags), 0) << flags;
    EXPECT_EQ(sync_bytes(page(9), 0, flags), 0) << flags;
    EXPECT_EQ(sync_bytes(page(9), SIZE_MAX, flags), 0) << "wraps to nothing";
  }
  EXPECT_EQ(byte(page(2)), 7);
}

TEST_P(Conformance, MsyncEnomem) {
  ASSERT_EQ(map(2, 1), answer(2));
  ASSERT_EQ(map(4, 1), answer(4));
  for (const int flags : {MS_SYNC, MS_ASYNC}) {
    EXPECT_EQ(sync_bytes(page(2), 3 * kPage, flags), -ENOMEM);
    EXPECT_EQ(sync_bytes(page(1), 2 * kPage, flags), -ENOMEM);
    EXPECT_EQ(sync_bytes(page(4), 2 * kPage, flags), -ENOMEM);
    EXPECT_EQ(sync_bytes(page(8), kPage, flags), -ENOMEM);
    EXPECT_EQ(sync_bytes(page(2), SIZE_MAX - kPage + 1, flags), -ENOMEM) << "wraps";
  }
}

TEST_P(Conformance, MsyncEbusy) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(lock(page(3), 1), 0);
  EXPECT_EQ(sync_bytes(page(2), 2 * kPage, MS_SYNC | MS_INVALIDATE), -EBUSY);
  EXPECT_EQ(sync_bytes(page(2), 2 * kPage, MS_SYNC), 0);
  // It goes on behind a hole, so it comes to the locked page; MS_ASYNC alone does not.
  EXPECT_EQ(sync_bytes(page(1), 3 * kPage, MS_INVALIDATE), -EBUSY);
}

// ---- mincore(2) ----

TEST_P(Conformance, MincoreTellsOfPages) {
  ASSERT_EQ(map(2, 3), answer(2));
  for (std::size_t i = 2; i < 5; ++i) byte(page(i)) = 7;
  unsigned char vector[4] = {0xee, 0xee, 0xee, 0xee};
  EXPECT_EQ(resident(page(2), 2 * kPage + 1, vector), 0);
  EXPECT_EQ(vector[0] & 1, 1);
  EXPECT_EQ(vector[2] & 1, 1);
  EXPECT_EQ(vector[3], 0xee) << "no byte more";
  EXPECT_EQ(resident(page(2), 0, vector), 0);
}

TEST_P(Conformance, MincoreErrors) {
  ASSERT_EQ(map(2, 1), answer(2));
  unsigned char vector[4];
  EXPECT_EQ(resident(page(2) + 1, kPage, vector), -EINVAL);
  EXPECT_EQ(resident(page(2), 2 * kPage, vector), -ENOMEM);
  EXPECT_EQ(resident(page(1), 2 * kPage, vector), -ENOMEM);
  EXPECT_EQ(resident(page(2), SIZE_MAX, vector), -ENOMEM);
  EXPECT_EQ(resident(std::uintptr_t{1} << 62, kPage, vector), -ENOMEM);
}

// ---- mlock(2) ----

TEST_P(Conformance, MlockLocksThePagesThatTheBytesLieIn) {
  ASSERT_EQ(map(2, 4), answer(2));
  EXPECT_EQ(lock(page(3) + 5, kPage), 0);
  EXPECT_FALSE(is_locked(2));
  EXPECT_TRUE(is_locked(3));
  EXPECT_TRUE(is_locked(4));
  EXPECT_FALSE(is_locked(5));
  EXPECT_EQ(unlock(page(4) + 1, 1), 0);
  EXPECT_TRUE(is_locked(3));
  EXPECT_FALSE(is_locked(4));
  EXPECT_EQ(lock(page(2), 0), 0);
  EXPECT_FALSE(is_locked(2));
  EXPECT_EQ(unlock(page(2), 4 * kPage), 0);
  EXPECT_FALSE(is_locked(3));
}

TEST_P(Conformance, MlockGoesUpToTheFirstHole) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(map(5, 1), answer(5));
  EXPECT_EQ(lock(page(2), 4 * kPage), -ENOMEM);
  EXPECT_TRUE(is_locked(2));
  EXPECT_TRUE(is_locked(3));
  EXPECT_FALSE(is_locked(5));
  EXPECT_EQ(lock(page(4), 2 * kPage), -ENOMEM);
  EXPECT_FALSE(is_locked(5));
  EXPECT_EQ(unlock(page(2), 4 * kPage), -ENOMEM);
  EXPECT_FALSE(is_locked(3));
  EXPECT_EQ(unlock(page(8), kPage), -ENOMEM);
}

TEST_P(Conformance, MlockEinval) {
  ASSERT_EQ(map(2, 1), answer(2));
  EXPECT_EQ(lock(page(2), SIZE_MAX - 2 * kPage), -EINVAL) << "wraps";
  EXPECT_EQ(unlock(page(2), SIZE_MAX - 2 * kPage), -EINVAL);
  EXPECT_EQ(lock2(page(2), kPage, 2), -EINVAL);
  EXPECT_EQ(lock2(page(2), kPage, MLOCK_ONFAULT), 0);
  EXPECT_TRUE(is_locked(2));
  EXPECT_EQ(lock2(page(2), kPage, 0), 0);
}

TEST_P(Conformance, MlockBringsPagesEachTimeItIsAsked) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(lock2(page(2), 2 * kPage, MLOCK_ONFAULT), 0);
  EXPECT_FALSE(is_resident(2)) << "nobody has touched it";
  EXPECT_EQ(remap(2, 2, 4), answer(2));
  EXPECT_FALSE(is_resident(5)) << "it grew as it was locked";
  EXPECT_TRUE(is_locked(5));
  EXPECT_EQ(lock(page(2), 4 * kPage), 0);
  EXPECT_TRUE(is_resident(2));
  EXPECT_TRUE(is_resident(5));
  EXPECT_EQ(advise(2, 4, MADV_DONTNEED_LOCKED), 0);
  EXPECT_EQ(is_resident(2), shared());
  EXPECT_EQ(lock(page(2), 4 * kPage), 0);
  EXPECT_TRUE(is_resident(2)) << "it was locked before";
}

TEST_P(Conformance, MlockOfWhatCannotBeTouchedFailsAndLocksIt) {
  ASSERT_EQ(map(2, 2, PROT_NONE), answer(2));
  ASSERT_EQ(map(4, 1), answer(4));
  EXPECT_EQ(lock(page(2), 3 * kPage), -ENOMEM);
  EXPECT_TRUE(is_locked(2));
  // Outside the walk ends where the host refuses.
  EXPECT_EQ(is_locked(4), native() || !shared());
  EXPECT_EQ(unlock(page(2), 3 * kPage), 0);
  EXPECT_FALSE(is_locked(2));
  EXPECT_FALSE(is_locked(4));
}

TEST_P(Conformance, MlockallOnFaultBringsNoPagesLater) {
  ASSERT_EQ(lockall(MCL_FUTURE | MCL_ONFAULT), 0);
  ASSERT_EQ(map(2, 2), answer(2));
  EXPECT_FALSE(is_resident(2));
  // Ours: for what comes inside.
  EXPECT_EQ(is_locked(2), native() || !shared());
  EXPECT_EQ(munlockall(), 0);
}

TEST_P(Conformance, MlockallErrors) {
  EXPECT_EQ(lockall(0), -EINVAL);
  EXPECT_EQ(lockall(8), -EINVAL);
  EXPECT_EQ(lockall(MCL_ONFAULT), -EINVAL);
}

TEST_P(Conformance, MlockallLocksWhatIsThere) {
  if (native()) GTEST_SKIP() << "the whole test would be locked";
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(map(5, 1), answer(5));
  EXPECT_EQ(lockall(MCL_CURRENT), 0);
  EXPECT_TRUE(is_locked(2));
  EXPECT_TRUE(is_locked(5));
  ASSERT_EQ(map(8, 1), answer(8));
  EXPECT_FALSE(is_locked(8));
  EXPECT_EQ(munlockall(), 0);
  EXPECT_FALSE(is_locked(2));
  EXPECT_FALSE(is_locked(5));
  EXPECT_EQ(lockall(MCL_FUTURE | MCL_ONFAULT), 0);
  EXPECT_FALSE(is_locked(2));
  EXPECT_EQ(lockall(MCL_CURRENT | MCL_ONFAULT), 0);
  EXPECT_TRUE(is_locked(2));
}

// ---- fork(2) ----

using Threat72_Fork = Conformance;

TEST_P(Threat72_Fork, MlockIsNotInherited) {
  ASSERT_EQ(map(2, 4), answer(2));
  ASSERT_EQ(lock(page(3), kPage), 0);
  // Another thread's is no other.
  std::thread([&] { EXPECT_EQ(lock2(page(4), kPage, MLOCK_ONFAULT), 0); }).join();
  EXPECT_EQ(in_child([&] {
              if (sync_bytes(page(2), 4 * kPage, MS_INVALIDATE) != 0) return 1;
              if (is_locked(3) || is_locked(4)) return 2;
              if (picture(7) != "..bbbb.") return 3;
              // What the child locks itself is locked.
              if (lock(page(3), kPage) != 0 || !is_locked(3)) return 4;
              return unlock(page(3), kPage) == 0 && unmap(2, 4) == 0 ? 0 : 5;
            }),
            0);
  EXPECT_TRUE(is_locked(3));
  EXPECT_TRUE(is_locked(4));
}

TEST_P(Threat72_Fork, MlockallIsNotInherited) {
  ASSERT_EQ(lockall(MCL_FUTURE | MCL_ONFAULT), 0);
  ASSERT_EQ(map(2, 1), answer(2));
  EXPECT_EQ(in_child([&] {
              if (is_locked(2)) return 1;
              return map(3, 1) == answer(3) && !is_locked(3) ? 0 : 2;
            }),
            0);
  ASSERT_EQ(map(5, 1), answer(5));
  // Ours: for what comes inside.
  EXPECT_EQ(is_locked(5), native() || !shared());
}

TEST_P(Threat72_Fork, DontforkLeavesPagesOut) {
  ASSERT_EQ(map(2, 5), answer(2));
  byte(page(2)) = 6;
  byte(page(3)) = 7;
  ASSERT_EQ(advise(3, 3, MADV_DONTFORK), 0);
  ASSERT_EQ(advise(4, 1, MADV_DOFORK), 0);
  EXPECT_EQ(in_child([&] {
              if (picture(8) != "..b.b.b.") return 1;
              if (sync_bytes(page(2), 5 * kPage, MS_SYNC) != -ENOMEM) return 2;
              if (protect(3, 1, PROT_READ) != -ENOMEM) return 3;
              if (advise(3, 1, MADV_NORMAL) != -ENOMEM) return 4;
              unsigned char vector = 0;
              if (resident(page(5), kPage, &vector) != -ENOMEM) return 5;
              if (remap(3, 1, 2, MREMAP_MAYMOVE) != -EFAULT) return 6;
              // The place is free for another mapping.
              if (map_new(3, 1) != answer(3) || byte(page(3)) == 7) return 7;
              if (map_new(3, 1) != -EEXIST) return 8;
              return byte(page(2)) == 6 && picture(8) == "..bbb.b." ? 0 : 9;
            }),
            0);
  EXPECT_EQ(picture(8), "..bbbbb.");
  EXPECT_EQ(byte(page(3)), 7);
}

TEST_P(Threat72_Fork, DontforkGoesWithThePages) {
  ASSERT_EQ(map(2, 2), answer(2));
  ASSERT_EQ(advise(2, 2, MADV_DONTFORK), 0);
  ASSERT_EQ(remap(2, 2, 3), answer(2)) << "it grows in place";
  EXPECT_EQ(in_child([&] { return picture(6) == "......" ? 0 : 1; }), 0);
  ASSERT_EQ(remap(2, 3, 4, MREMAP_MAYMOVE | MREMAP_FIXED, 7), answer(7));
  ASSERT_EQ(map(2, 1), answer(2)) << "what comes to its place is another mapping";
  ASSERT_EQ(protect(8, 1, PROT_READ), 0);
  EXPECT_EQ(in_child([&] { return picture(12) == "..b........." ? 0 : 1; }), 0);
  EXPECT_EQ(advise(7, 4, MADV_DOFORK), 0);
  EXPECT_EQ(in_child([&] { return picture(12) == "..b....brbb." ? 0 : 1; }), 0);
}

TEST_P(Threat72_Fork, WipeonforkGivesTheChildZeros) {
  ASSERT_EQ(map(2, 4), answer(2));
  for (std::size_t i = 2; i < 6; ++i) byte(page(i)) = 7;
  if (shared()) {
    EXPECT_EQ(advise(2, 4, MADV_WIPEONFORK), -EINVAL);
    EXPECT_EQ(in_child([&] { return byte(page(3)) == 7 ? 0 : 1; }), 0);
    return;
  }
  ASSERT_EQ(advise(3, 3, MADV_WIPEONFORK), 0);
  ASSERT_EQ(advise(4, 1, MADV_KEEPONFORK), 0);
  ASSERT_EQ(protect(5, 1, PROT_READ), 0);
  const auto bytes = [this](std::size_t from) {
    std::string text;
    for (std::size_t i = from; i < from + 4; ++i) text += byte(page(i)) == 0 ? '0' : '7';
    return text;
  };
  EXPECT_EQ(in_child([&] {
              if (bytes(2) != "7070" || picture(7) != "..bbbr.") return 1;
              // Of the child's child, too.
              byte(page(3)) = 7;
              return in_child([&] { return bytes(2) == "7070" ? 0 : 1; }) == 0 ? 0 : 2;
            }),
            0);
  EXPECT_EQ(bytes(2), "7777");
  // What was written after the pages were dropped once, or moved.
  ASSERT_EQ(advise(3, 1, MADV_DONTNEED), 0);
  byte(page(3)) = 7;
  ASSERT_EQ(remap(3, 1, 2, MREMAP_MAYMOVE | MREMAP_FIXED, 8), answer(8));
  byte(page(9)) = 7;
  EXPECT_EQ(in_child([&] { return byte(page(8)) == 0 && byte(page(9)) == 0 ? 0 : 1; }), 0);
}

const auto kCases =
    testing::Values(Case{Side::kNative, Memory::kPrivate}, Case{Side::kNative, Memory::kShared},
                    Case{Side::kOurs, Memory::kPrivate}, Case{Side::kOurs, Memory::kShared});
std::string name_of(const testing::TestParamInfo<Case>& tested) {
  return std::string(tested.param.side == Side::kNative ? "Native" : "Ours") +
         (tested.param.memory == Memory::kPrivate ? "Private" : "Shared");
}
INSTANTIATE_TEST_SUITE_P(Manual, Conformance, kCases, name_of);
INSTANTIATE_TEST_SUITE_P(Manual, Threat72_Fork, kCases, name_of);

// ---- What is meant to differ, or is there on one side only ----

using OnlyOurs = ProcessFixture;

TEST_F(OnlyOurs, LockedMappingsAndLaterOnes) {
  const std::intptr_t locked =
      calls_->mmap(0, kPage, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
  ASSERT_GT(locked, 0);
  EXPECT_EQ(calls_->madvise(static_cast<std::uintptr_t>(locked), kPage, MADV_DONTNEED), -EINVAL);
  EXPECT_EQ(calls_->mlockall(MCL_FUTURE), 0);
  const std::intptr_t later =
      calls_->mmap(0, kPage, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_GT(later, 0);
  EXPECT_EQ(calls_->madvise(static_cast<std::uintptr_t>(later), kPage, MADV_DONTNEED), -EINVAL);
  EXPECT_EQ(calls_->munlockall(), 0);
  EXPECT_EQ(calls_->madvise(static_cast<std::uintptr_t>(later), kPage, MADV_DONTNEED), 0);
}

TEST_F(OnlyOurs, ACopiedFileKeepsItsBytes) {
  const OwnedDescriptor file(memfd_of(2 * kPage));
  ASSERT_EQ(pwrite(file.get(), "x", 1, 0), 1);
  const std::intptr_t at = calls_->mmap(0, 2 * kPage, kReadWrite, MAP_PRIVATE, file.get(), 0);
  ASSERT_GT(at, 0);
  const auto page = static_cast<std::uintptr_t>(at);
  EXPECT_EQ(calls_->madvise(page, 2 * kPage, MADV_DONTNEED), 0);
  EXPECT_EQ(*reinterpret_cast<char*>(page), 'x');
  EXPECT_EQ(calls_->madvise(page, kPage, MADV_FREE), -EINVAL);
  EXPECT_EQ(calls_->madvise(page, kPage, MADV_REMOVE), -EACCES);
  EXPECT_EQ(calls_->madvise(page, kPage, MADV_WIPEONFORK), -EINVAL);
  EXPECT_EQ(
      calls_->mremap(page, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, page - 8 * kPage),
      at - std::intptr_t{8 * kPage});
  EXPECT_EQ(*reinterpret_cast<char*>(page - 8 * kPage), 'x');
}

TEST_F(OnlyOurs, SharedAnonymousMemoryIsInsideAndIsRemovedByAdvice) {
  const std::intptr_t at =
      calls_->mmap(0, 2 * kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_GT(at, 0);
  const auto page = static_cast<std::uintptr_t>(at);
  ASSERT_TRUE(port_->enclave().contains(page));
  *reinterpret_cast<char*>(page) = 7;
  EXPECT_EQ(calls_->madvise(page, kPage, MADV_DONTNEED), 0);
  EXPECT_EQ(*reinterpret_cast<char*>(page), 7);
  EXPECT_EQ(calls_->madvise(page, kPage, MADV_FREE), -EINVAL);
  EXPECT_EQ(calls_->madvise(page, kPage, MADV_WIPEONFORK), -EINVAL);
  EXPECT_EQ(calls_->madvise(page, kPage, MADV_REMOVE), 0);
  EXPECT_EQ(*reinterpret_cast<char*>(page), 0);
  EXPECT_EQ(calls_->mprotect(page, kPage, PROT_READ), 0);
  EXPECT_EQ(calls_->madvise(page, kPage, MADV_REMOVE), -EACCES);
  EXPECT_EQ(calls_->mlock(page, kPage), 0);
  EXPECT_EQ(calls_->madvise(page, kPage, MADV_REMOVE), -EINVAL);
}

TEST_F(OnlyOurs, NoMemoryIsPoisoned) {
  constexpr int kSoftOffline = 101;
  const std::uintptr_t page = static_cast<std::uintptr_t>(
      calls_->mmap(0, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT_EQ(calls_->madvise(page, kPage, MADV_HWPOISON), -EINVAL);
  EXPECT_EQ(calls_->madvise(page, kPage, kSoftOffline), -EINVAL);
}

TEST_F(OnlyOurs, TheBreak) {
  const std::uintptr_t start = calls_->brk(0);
  EXPECT_TRUE(port_->enclave().contains(start));
  EXPECT_EQ(calls_->brk(start + 3 * kPage), start + 3 * kPage);
  *reinterpret_cast<char*>(start + 2 * kPage) = 7;
  EXPECT_EQ(calls_->brk(start + kPage), start + kPage);
  EXPECT_EQ(calls_->brk(start + 3 * kPage), start + 3 * kPage);
  EXPECT_EQ(*reinterpret_cast<char*>(start + 2 * kPage), 0) << "fresh pages are zero";
  EXPECT_EQ(calls_->brk(1), start + 3 * kPage);
}

// Pages that were touched at different places are several mappings to the kernel below.
TEST_F(OnlyOurs, AnAreaOfPiecesMovesAsOne) {
  constexpr int kFixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  const std::uintptr_t base = port_->enclave_heap().base + 64 * kPage;
  for (std::size_t i = 0; i < 7; ++i) {
    // Each page comes from elsewhere, so its history is its own.
    const std::uintptr_t from = base + 256 * kPage + 3 * i * kPage;
    ASSERT_GT(calls_->mmap(from, kPage, kReadWrite, kFixed, -1, 0), 0);
    *reinterpret_cast<char*>(from) = static_cast<char>('a' + i);
    const std::uintptr_t to = base + (i * 3 % 7) * kPage;
    ASSERT_EQ(calls_->mremap(from, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, to),
              static_cast<std::intptr_t>(to));
  }
  const std::uintptr_t target = base + 32 * kPage;
  EXPECT_EQ(calls_->mremap(base, 7 * kPage, 7 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, target),
            static_cast<std::intptr_t>(target));
  for (std::size_t i = 0; i < 7; ++i)
    EXPECT_EQ(*reinterpret_cast<char*>(target + (i * 3 % 7) * kPage), static_cast<char>('a' + i));
}

}  // namespace
}  // namespace exclave
