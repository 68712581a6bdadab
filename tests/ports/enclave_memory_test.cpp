// ProcessEnclaveMemory against Linux itself: the same calls on both sides, the same answers, pages
// and bytes.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "exclave/port.hpp"
#include "exclave/process_port.hpp"
#include "support/kernel_answers.hpp"
#include "support/sanitizers.hpp"

namespace exclave {
namespace {

using testing_support::in_a_child;
using testing_support::KernelCall;
using testing_support::kSanitized;
using testing_support::with_kernel_answers;

static_assert(EnclaveMemory<ProcessEnclaveMemory>);

constexpr int kRw = PROT_READ | PROT_WRITE;
constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;

unsigned char* bytes_at(std::uintptr_t address) {
  return reinterpret_cast<unsigned char*>(address);
}

// What the kernel lets this process do with a byte, without a fault.
class Prober {
 public:
  Prober() { EXPECT_EQ(pipe2(ends_, O_CLOEXEC), 0); }
  ~Prober() {
    close(ends_[0]);
    close(ends_[1]);
  }
  bool can_read(std::uintptr_t address) {
    char byte = 0;
    if (write(ends_[1], bytes_at(address), 1) != 1) return false;
    return read(ends_[0], &byte, 1) == 1;
  }
  bool can_write(std::uintptr_t address) {
    // Writes back what is there, or a zero where nothing can be read.
    const char zero = 0;
    const bool readable = write(ends_[1], bytes_at(address), 1) == 1;
    if (!readable && write(ends_[1], &zero, 1) != 1) return false;
    if (read(ends_[0], bytes_at(address), 1) == 1) return true;
    char drain = 0;
    EXPECT_EQ(read(ends_[0], &drain, 1), 1);
    return false;
  }

 private:
  int ends_[2] = {-1, -1};
};

class EnclaveMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    ProcessPort::Options options;
    options.book_bytes = std::size_t{1} << 20;
    options.enclave_bytes = std::size_t{1} << 20;
    auto made = ProcessPort::create(options);
    ASSERT_TRUE(made.ok());
    port_ = made.value();
    heap_ = port_->enclave_heap();
    memory_ = std::make_unique<ProcessEnclaveMemory>(heap_);
  }
  void TearDown() override {
    memory_.reset();
    ProcessPort::destroy(port_);
  }

  std::intptr_t map(std::size_t size, int flags = kPrivate, std::uintptr_t address = 0) {
    return memory_->map(address, size, kRw, flags, -1, 0);
  }

  ProcessPort* port_ = nullptr;
  Extent heap_{};
  std::unique_ptr<ProcessEnclaveMemory> memory_;
  Prober prober_;
};

TEST_F(EnclaveMemoryTest, MapsFromTheTopAndFillsHoles) {
  const std::intptr_t a = map(3 * kPageBytes);
  const std::intptr_t b = map(1);
  EXPECT_EQ(static_cast<std::uintptr_t>(a), heap_.end() - 3 * kPageBytes);
  EXPECT_EQ(b, a - std::intptr_t{kPageBytes});
  EXPECT_EQ(memory_->unmap(static_cast<std::uintptr_t>(a), 2 * kPageBytes), 0);
  EXPECT_EQ(map(kPageBytes), a + std::intptr_t{kPageBytes});
  EXPECT_EQ(map(2 * kPageBytes), b - 2 * std::intptr_t{kPageBytes});
  EXPECT_EQ(map(kPageBytes), a) << "a hole that is just large enough";
}

TEST_F(EnclaveMemoryTest, NothingStaysAccessibleWhenItGoes) {
  const std::intptr_t page = map(kPageBytes);
  EXPECT_TRUE(prober_.can_write(static_cast<std::uintptr_t>(page)));
  memory_.reset();
  EXPECT_FALSE(prober_.can_read(static_cast<std::uintptr_t>(page)));
}

TEST_F(EnclaveMemoryTest, WhatLiesBesideTheHeapIsAHole) {
  const Extent books = port_->book_window();
  EXPECT_EQ(memory_->unmap(books.base, kPageBytes), 0);
  EXPECT_EQ(memory_->unmap(books.end() - kPageBytes, kPageBytes), 0);
  EXPECT_EQ(memory_->unmap(heap_.end(), kPageBytes), 0);
  // But no odd place, and none that wraps.
  EXPECT_EQ(memory_->unmap(books.base + 1, kPageBytes), -EINVAL);
  EXPECT_EQ(memory_->unmap(UINTPTR_MAX - kPageBytes + 1, 2 * kPageBytes), -EINVAL);
  EXPECT_EQ(memory_->protect(UINTPTR_MAX - kPageBytes + 1, 2 * kPageBytes, PROT_READ), -ENOMEM);
}

// In a child, since it takes all memory there is.
TEST_F(EnclaveMemoryTest, WithoutMemoryForItsListEveryCallSaysSo) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself needs terabytes of address space";
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit none{0, 0};
    if (setrlimit(RLIMIT_AS, &none) != 0) _exit(2);
    void* volatile last = nullptr;
    for (std::size_t bytes = std::size_t{1} << 20; bytes != 0; bytes /= 2) {
      do last = std::malloc(bytes);
      while (last != nullptr);
    }
    {
      ProcessEnclaveMemory memory(heap_);
      if (memory.map(0, kPageBytes, kRw, kPrivate, -1, 0) != -ENOMEM) _exit(3);
      if (memory.unmap(heap_.base, kPageBytes) != -ENOMEM) _exit(4);
      if (memory.protect(heap_.base, kPageBytes, kRw) != -ENOMEM) _exit(5);
    }
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// No call reaches a manager.
bool all_say_no(ProcessEnclaveMemory& memory, Extent heap) {
  unsigned char resident = 0;
  return memory.manager() == nullptr &&
         memory.map(0, kPageBytes, kRw, kPrivate, -1, 0) == -ENOMEM &&
         memory.unmap(heap.base, kPageBytes) == -ENOMEM &&
         memory.protect(heap.base, kPageBytes, kRw) == -ENOMEM &&
         memory.remap(heap.base, kPageBytes, kPageBytes, 0, 0) == -ENOMEM &&
         memory.set_break(0) == 0 &&
         memory.advise(EXCLAVE_MADVISE, heap.base, kPageBytes, MADV_NORMAL) == -ENOMEM &&
         memory.resident(heap.base, kPageBytes, &resident) == -ENOMEM &&
         memory.lock_all(MCL_CURRENT) == -ENOMEM;
}

TEST(EnclaveMemory, WithoutMemoryForItsBooksEveryCallSaysSo) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself takes memory";
  EXPECT_EQ(in_a_child([] {
              const auto port = ProcessPort::create();
              // malloc has some, but there is no window for books.
              void* const held = std::malloc(std::size_t{1} << 16);
              if (!testing_support::hold_memory()) return 1;
              std::free(held);
              ProcessEnclaveMemory without_books((*port)->enclave_heap());
              if (!all_say_no(without_books, (*port)->enclave_heap())) return 2;
              // Nor has malloc.
              if (!testing_support::use_up_memory()) return 3;
              ProcessEnclaveMemory without_memory((*port)->enclave_heap());
              return all_say_no(without_memory, (*port)->enclave_heap()) ? 0 : 4;
            }),
            0);
}

TEST_F(EnclaveMemoryTest, ASmallHeapHasTheLeastBooks) {
  memory_.reset();
  ProcessEnclaveMemory small({heap_.base, 16 * kPageBytes});
  EXPECT_EQ(small.map(0, 16 * kPageBytes, kRw, kPrivate, -1, 0),
            static_cast<std::intptr_t>(heap_.base));
}

TEST(EnclaveMemory, OfAHeapThatIsTooLongTheUpperEndServes) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself needs terabytes of address space";
  const std::size_t size = std::size_t{1} << 44;
  void* const place = mmap(nullptr, size, PROT_NONE, kPrivate | MAP_NORESERVE, -1, 0);
  ASSERT_NE(place, MAP_FAILED);
  const auto base = reinterpret_cast<std::uintptr_t>(place);
  {
    ProcessEnclaveMemory memory({base, size});
    const auto map_at = [&](std::uintptr_t address) {
      return memory.map(address, kPageBytes, kRw, kPrivate | MAP_FIXED, -1, 0);
    };
    EXPECT_EQ(map_at(base), -ENOMEM);
    EXPECT_EQ(map_at(base + kPageBytes), static_cast<std::intptr_t>(base + kPageBytes));
    EXPECT_EQ(map_at(base + size - kPageBytes),
              static_cast<std::intptr_t>(base + size - kPageBytes));
  }
  munmap(place, size);
}

TEST_F(EnclaveMemoryTest, AnOldErrnoIsNoAnswer) {
  const std::intptr_t at = map(kPageBytes);
  const auto page = static_cast<std::uintptr_t>(at);
  unsigned char resident = 2;
  errno = EBUSY;
  EXPECT_EQ(memory_->advise(EXCLAVE_MADVISE, page, kPageBytes, MADV_RANDOM), 0);
  errno = EBUSY;
  EXPECT_EQ(memory_->resident(page, kPageBytes, &resident), 0);
  EXPECT_EQ(resident, 0);
  *bytes_at(page) = 1;
  errno = EBUSY;
  EXPECT_EQ(memory_->advise(EXCLAVE_MADVISE, page, kPageBytes, MADV_DONTNEED), 0);
  EXPECT_EQ(*bytes_at(page), 0);
}

// ---- What the kernel may answer ----

class KernelAnswersTest : public testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer stands before the kernel";
  }
};

TEST_F(KernelAnswersTest, AReadThatASignalCutsShortGoesOn) {
  static int calls = 0;
  const auto answer = [](const KernelCall& call) -> long {
    return ++calls == 1 ? -EINTR : call.ask();
  };
  EXPECT_EQ(with_kernel_answers(SYS_pread64, answer,
                                [] {
                                  const auto port = ProcessPort::create();
                                  ProcessEnclaveMemory memory((*port)->enclave_heap());
                                  const int file = memfd_create("test", MFD_CLOEXEC);
                                  if (write(file, "text", 4) != 4) return 1;
                                  calls = 0;
                                  const std::intptr_t at =
                                      memory.map(0, kPageBytes, PROT_READ, MAP_PRIVATE, file, 0);
                                  if (at <= 0) return 2;
                                  const auto address = static_cast<std::uintptr_t>(at);
                                  return std::memcmp(bytes_at(address), "text", 5) == 0 ? 0 : 3;
                                }),
            0);
}

TEST_F(KernelAnswersTest, WhereAddressSpaceIsScarceThereAreFewerBooks) {
  const auto answer = [](const KernelCall& call) -> long {
    return call.arguments[1] > std::size_t{3} << 19 ? -ENOMEM : call.ask();
  };
  static ProcessPort* port = nullptr;
  ProcessPort::Options options;
  options.enclave_bytes = std::size_t{64} << 20;
  const auto made = ProcessPort::create(options);
  ASSERT_TRUE(made.ok());
  port = *made;
  // The heap itself is there already, and stays.
  static Extent heap;
  heap = {port->enclave_heap().base, std::size_t{1} << 20};
  EXPECT_EQ(with_kernel_answers(SYS_mmap, answer,
                                [] {
                                  ProcessEnclaveMemory memory(heap);
                                  return memory.map(0, kPageBytes, kRw, kPrivate, -1, 0) > 0 ? 0
                                                                                             : 1;
                                }),
            0);
  ProcessPort::destroy(port);
}

// Five pages to another place, where the kernel answers what a test wants. 0: they are there; an
// errno: they are all where they were; -1: neither.
struct Move {
  static constexpr std::size_t kMoved = 5 * kPageBytes;
  static inline std::uintptr_t border = 0;
  static bool crosses(const KernelCall& call) {
    return call.arguments[0] < border && call.arguments[0] + call.arguments[1] > border;
  }
  static bool is_below(const KernelCall& call) { return call.arguments[0] < border; }
  static bool is_whole(std::uintptr_t at) {
    for (unsigned char i = 0; i < 5; ++i) {
      if (*bytes_at(at + i * kPageBytes) != i + 1) return false;
    }
    return true;
  }
  static int made() {
    ProcessPort::Options options;
    options.book_bytes = options.enclave_bytes = std::size_t{1} << 20;
    const auto port = ProcessPort::create(options);
    const Extent heap = (*port)->enclave_heap();
    ProcessEnclaveMemory memory(heap);
    const auto from = static_cast<std::uintptr_t>(memory.map(0, kMoved, kRw, kPrivate, -1, 0));
    border = from + 3 * kPageBytes;
    for (unsigned char i = 0; i < 5; ++i)
      *bytes_at(from + i * kPageBytes) = static_cast<unsigned char>(i + 1);
    const std::intptr_t moved =
        memory.remap(from, kMoved, kMoved, MREMAP_MAYMOVE | MREMAP_FIXED, heap.base);
    if (moved < 0) return is_whole(from) ? static_cast<int>(-moved) : 199;
    return is_whole(heap.base) ? 0 : 198;
  }
};

// One area to the manager, two to the kernel.
TEST_F(KernelAnswersTest, PagesMoveInAsManyPartsAsTheKernelSees) {
  EXPECT_EQ(
      with_kernel_answers(
          SYS_mremap,
          [](const KernelCall& call) -> long { return Move::crosses(call) ? -EFAULT : call.ask(); },
          &Move::made),
      0);
}

TEST_F(KernelAnswersTest, AMoveOfNoPartsIsRefused) {
  EXPECT_EQ(with_kernel_answers(
                SYS_mremap, [](const KernelCall&) -> long { return -EFAULT; }, &Move::made),
            EFAULT);
}

TEST_F(KernelAnswersTest, WhatIsRefusedForAnotherReasonIsNotTriedInParts) {
  EXPECT_EQ(
      with_kernel_answers(
          SYS_mremap,
          [](const KernelCall& call) -> long { return Move::crosses(call) ? -ENOMEM : call.ask(); },
          &Move::made),
      ENOMEM);
}

// The kernel does not say whether what stood there is gone: books and pages agree that it is.
TEST_F(KernelAnswersTest, ACopyThatCannotTakeItsPlaceLeavesAHole) {
  const auto refuse = [](const KernelCall&) -> long { return -ENOMEM; };
  EXPECT_EQ(with_kernel_answers(SYS_mremap, refuse,
                                [] {
                                  ProcessPort::Options options;
                                  options.book_bytes = options.enclave_bytes = std::size_t{1} << 20;
                                  const auto port = ProcessPort::create(options);
                                  const Extent heap = (*port)->enclave_heap();
                                  ProcessEnclaveMemory memory(heap);
                                  constexpr int kFixed = MAP_PRIVATE | MAP_FIXED;
                                  const int file = memfd_create("test", MFD_CLOEXEC);
                                  if (memory.map(heap.base, 3 * kPageBytes, kRw,
                                                 kFixed | MAP_ANONYMOUS, -1, 0) < 0) {
                                    return 1;
                                  }
                                  const std::uintptr_t at = heap.base + kPageBytes;
                                  if (memory.map(at, kPageBytes, kRw, kFixed, file, 0) != -ENOMEM)
                                    return 2;
                                  if (memory.protect(at, kPageBytes, kRw) != -ENOMEM) return 3;
                                  const EnclaveManager::Statistics now =
                                      memory.manager()->statistics();
                                  return now.mapped_bytes == 2 * kPageBytes ? 0 : 4;
                                }),
            0);
}

TEST_F(KernelAnswersTest, WhenThePartsDoNotAllMoveNoneDoes) {
  EXPECT_EQ(with_kernel_answers(
                SYS_mremap,
                [](const KernelCall& call) -> long {
                  if (Move::crosses(call)) return -EFAULT;
                  return Move::is_below(call) ? -ENOMEM : call.ask();
                },
                &Move::made),
            ENOMEM);
  // The first is there already, and goes back.
  EXPECT_EQ(with_kernel_answers(
                SYS_mremap,
                [](const KernelCall& call) -> long {
                  if (Move::crosses(call)) return -EFAULT;
                  const bool last = call.arguments[0] >= Move::border;
                  return last ? -ENOMEM : call.ask();
                },
                &Move::made),
            ENOMEM);
}

TEST_F(EnclaveMemoryTest, AFileThatDoesNotFitIntoTheAddressSpaceIsTold) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself needs terabytes of address space";
  const int file = memfd_create("test", MFD_CLOEXEC);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit none{0, 0};
    if (setrlimit(RLIMIT_AS, &none) != 0) _exit(2);
    _exit(memory_->map(0, kPageBytes, kRw, MAP_PRIVATE, file, 0) == -ENOMEM ? 0 : 3);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
  close(file);
}

TEST_F(EnclaveMemoryTest, TakesAFreeHintAndOnlyAFreeOne) {
  const std::uintptr_t hint = heap_.base + 5 * kPageBytes;
  EXPECT_EQ(static_cast<std::uintptr_t>(map(kPageBytes, kPrivate, hint)), hint);
  EXPECT_EQ(static_cast<std::uintptr_t>(map(kPageBytes, kPrivate, hint + kPageBytes + 1)),
            hint + kPageBytes);
  const auto elsewhere = static_cast<std::uintptr_t>(map(kPageBytes, kPrivate, hint));
  EXPECT_EQ(elsewhere, heap_.end() - kPageBytes);
  const auto beyond = static_cast<std::uintptr_t>(map(kPageBytes, kPrivate, heap_.end()));
  EXPECT_TRUE(heap_.covers({beyond, kPageBytes}));
}

TEST_F(EnclaveMemoryTest, FillsUpAndRecovers) {
  EXPECT_EQ(map(heap_.size + kPageBytes), -ENOMEM);
  EXPECT_EQ(map(SIZE_MAX), -ENOMEM);
  const std::intptr_t all = map(heap_.size);
  ASSERT_EQ(static_cast<std::uintptr_t>(all), heap_.base);
  EXPECT_EQ(map(1), -ENOMEM);
  std::memset(bytes_at(heap_.base), 0xee, heap_.size);
  EXPECT_EQ(memory_->unmap(heap_.base, heap_.size), 0);
  EXPECT_FALSE(prober_.can_read(heap_.base));
  ASSERT_EQ(map(heap_.size), all);
  EXPECT_EQ(*bytes_at(heap_.base), 0);
  EXPECT_EQ(*bytes_at(heap_.end() - 1), 0);
}

TEST_F(EnclaveMemoryTest, TheBooksBesideTheHeapAreNeverTouched) {
  void* const book = port_->trusted_reserve(kPageBytes);
  ASSERT_NE(book, nullptr);
  std::memset(book, 0x77, kPageBytes);
  const Extent books = port_->book_window();
  EXPECT_EQ(map(kPageBytes, kPrivate | MAP_FIXED, books.base), -ENOMEM);
  EXPECT_EQ(map(2 * kPageBytes, kPrivate | MAP_FIXED, heap_.base - kPageBytes), -ENOMEM);
  EXPECT_EQ(map(2 * kPageBytes, kPrivate | MAP_FIXED, heap_.end() - kPageBytes), -ENOMEM);
  EXPECT_EQ(memory_->protect(books.base, kPageBytes, PROT_NONE), -ENOMEM);
  EXPECT_EQ(memory_->unmap(books.base, books.size + heap_.size), 0);
  EXPECT_EQ(static_cast<unsigned char*>(book)[kPageBytes - 1], 0x77);
}

TEST_F(EnclaveMemoryTest, SharedMemoryOfDescriptorsStaysOut) {
  const int file = memfd_create("test", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(file, 4096), 0);
  EXPECT_EQ(memory_->map(0, 4096, kRw, MAP_SHARED, file, 0), -ENODEV);
  EXPECT_EQ(memory_->map(0, 4096, kRw, MAP_SHARED_VALIDATE, file, 0), -ENODEV);
  EXPECT_GT(memory_->map(0, 4096, kRw, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 0);
  EXPECT_TRUE(memory_->lies_outside(kRw, MAP_SHARED, file, 0));
  EXPECT_TRUE(memory_->lies_outside(kRw, MAP_SHARED_VALIDATE, file, 0));
  EXPECT_TRUE(memory_->lies_outside(kRw, MAP_SHARED, 0, 0)) << "where standard input was closed";
  EXPECT_FALSE(memory_->lies_outside(kRw, MAP_SHARED, -1, 0));
  EXPECT_FALSE(memory_->lies_outside(kRw, MAP_SHARED | MAP_ANONYMOUS, file, 0));
  EXPECT_FALSE(memory_->lies_outside(kRw, MAP_PRIVATE, file, 0));
  close(file);
}

TEST_F(EnclaveMemoryTest, WhatItDoesNotDoIsSaid) {
  EXPECT_EQ(map(kPageBytes, kPrivate | MAP_GROWSDOWN), -EOPNOTSUPP);
  EXPECT_EQ(map(kPageBytes, kPrivate | MAP_HUGETLB), -ENOMEM);
}

TEST_F(EnclaveMemoryTest, AFailedFileMappingLeavesTheOldPages) {
  const std::uintptr_t at = heap_.base;
  ASSERT_GT(map(2 * kPageBytes, kPrivate | MAP_FIXED, at), 0);
  *bytes_at(at) = 42;
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  EXPECT_EQ(memory_->map(at, kPageBytes, kRw, MAP_PRIVATE | MAP_FIXED, ends[0], 0), -ENODEV);
  EXPECT_EQ(*bytes_at(at), 42);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(EnclaveMemoryTest, ManyThreadsKeepToTheirOwnPages) {
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 500; ++i) {
        const std::size_t size = (1 + random() % 8) * kPageBytes;
        const std::intptr_t at = map(size);
        ASSERT_GT(at, 0);
        auto* const bytes = bytes_at(static_cast<std::uintptr_t>(at));
        ASSERT_EQ(bytes[0], 0);
        std::memset(bytes, static_cast<int>(t + 1), size);
        std::this_thread::yield();
        ASSERT_EQ(bytes[size - 1], t + 1);
        ASSERT_EQ(memory_->unmap(static_cast<std::uintptr_t>(at), size), 0);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

// --- the same calls to Linux and to the enclave's memory ---

// A stretch of address space of which only these tests know: a hole in a large reservation.
class LinuxScratch {
 public:
  explicit LinuxScratch(std::size_t size) : size_(size) {
    guard_ = reinterpret_cast<std::uintptr_t>(
        mmap(nullptr, kGuard, PROT_NONE, kPrivate | MAP_NORESERVE, -1, 0));
    EXPECT_NE(guard_, reinterpret_cast<std::uintptr_t>(MAP_FAILED));
    munmap(bytes_at(base()), size_);
  }
  ~LinuxScratch() { munmap(bytes_at(guard_), kGuard); }
  std::uintptr_t base() const { return guard_ + kGuard / 2; }

 private:
  static constexpr std::size_t kGuard = std::size_t{1} << 30;
  std::uintptr_t guard_ = 0;
  std::size_t size_;
};

// Straight to the kernel: sanitizers stand between, and take odd arguments badly.
std::intptr_t linux_map(std::uintptr_t address, std::size_t size, int protection, int flags,
                        int file, std::uint64_t offset) {
  const long answer = syscall(SYS_mmap, address, size, protection, flags, file, offset);
  return answer == -1 ? -errno : answer;
}
int linux_unmap(std::uintptr_t address, std::size_t size) {
  return syscall(SYS_munmap, address, size) == 0 ? 0 : -errno;
}
int linux_protect(std::uintptr_t address, std::size_t size, int protection) {
  return syscall(SYS_mprotect, address, size, protection) == 0 ? 0 : -errno;
}

constexpr std::size_t kPages = 48;
constexpr std::size_t kFilePages = 64;

class Differential : public EnclaveMemoryTest, public testing::WithParamInterface<std::uint64_t> {
 protected:
  void SetUp() override {
    EnclaveMemoryTest::SetUp();
    file_ = memfd_create("test", MFD_CLOEXEC);
    std::vector<unsigned char> text(kFilePages * kPageBytes - 100);
    for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<unsigned char>(i / 7 + i);
    ASSERT_EQ(write(file_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void TearDown() override {
    close(file_);
    EnclaveMemoryTest::TearDown();
  }

  std::uintptr_t enclave_page(std::size_t page) const { return heap_.base + page * kPageBytes; }
  std::uintptr_t linux_page(std::size_t page) const { return scratch_.base() + page * kPageBytes; }

  // An address relative to its side, an errno as it is.
  static std::intptr_t relative(std::intptr_t answer, std::uintptr_t base) {
    return answer < 0 ? answer : answer - static_cast<std::intptr_t>(base);
  }

  void compare_pages(const std::string& after) {
    for (std::size_t page = 0; page < kPages; ++page) {
      const std::uintptr_t e = enclave_page(page);
      const std::uintptr_t l = linux_page(page);
      const bool readable = prober_.can_read(l);
      ASSERT_EQ(prober_.can_read(e), readable) << "page " << page << after;
      ASSERT_EQ(prober_.can_write(e), prober_.can_write(l)) << "page " << page << after;
      if (readable) {
        ASSERT_EQ(std::memcmp(bytes_at(e), bytes_at(l), kPageBytes), 0) << "page " << page << after;
      }
    }
  }

  int file_ = -1;
  LinuxScratch scratch_{kPages * kPageBytes};
};

TEST_P(Differential, RandomCallsAgree) {
  std::mt19937_64 random(GetParam());
  const int protections[] = {PROT_NONE, PROT_READ, kRw, kRw, kRw};
  for (int step = 0; step < 3000; ++step) {
    const std::size_t page = random() % kPages;
    const std::size_t pages = 1 + random() % std::min<std::size_t>(kPages - page, 12);
    // Any number of bytes within the last page.
    const std::size_t size = pages * kPageBytes - (random() % 2 == 0 ? 0 : random() % kPageBytes);
    const int protection = protections[random() % 5];
    const std::uintptr_t e = enclave_page(page);
    const std::uintptr_t l = linux_page(page);
    std::string what = " after step " + std::to_string(step) + ": ";
    switch (random() % 6) {
      case 0: {
        what += "map fixed";
        const int flags = kPrivate | (random() % 2 == 0 ? MAP_FIXED : MAP_FIXED_NOREPLACE);
        ASSERT_EQ(relative(memory_->map(e, size, protection, flags, -1, 0), heap_.base),
                  relative(linux_map(l, size, protection, flags, -1, 0), scratch_.base()))
            << what;
        break;
      }
      case 1: {
        what += "map a file";
        const int flags = MAP_PRIVATE | (random() % 2 == 0 ? MAP_FIXED : MAP_FIXED_NOREPLACE);
        const std::uint64_t offset = random() % (kFilePages - pages + 1) * kPageBytes;
        ASSERT_EQ(relative(memory_->map(e, size, protection, flags, file_, offset), heap_.base),
                  relative(linux_map(l, size, protection, flags, file_, offset), scratch_.base()))
            << what;
        break;
      }
      case 2:
        what += "unmap";
        ASSERT_EQ(memory_->unmap(e, size), linux_unmap(l, size)) << what;
        break;
      case 3:
      case 4:
        what += "protect";
        ASSERT_EQ(memory_->protect(e, size, protection), linux_protect(l, size, protection))
            << what;
        break;
      default:
        what += "write";
        for (std::size_t i = page; i < page + pages; ++i) {
          if (!prober_.can_write(linux_page(i)) || !prober_.can_write(enclave_page(i))) continue;
          const auto at = random() % kPageBytes;
          const auto byte = static_cast<unsigned char>(random());
          bytes_at(enclave_page(i))[at] = byte;
          bytes_at(linux_page(i))[at] = byte;
        }
    }
    if (step % 16 == 0) {
      ASSERT_NO_FATAL_FAILURE(compare_pages(what));
    }
  }
  compare_pages(" at the end");
}
INSTANTIATE_TEST_SUITE_P(Seeds, Differential, testing::Range<std::uint64_t>(1, 7));

using ErrnoDifferential = Differential;
TEST_P(ErrnoDifferential, BadArgumentsGetTheSameErrno) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const int folder = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int path_only = open("/", O_PATH | O_CLOEXEC);
  const int write_only = open("/proc/self/fd", O_WRONLY | O_CLOEXEC);
  const std::string own = "/proc/self/fd/" + std::to_string(file_);
  const int write_only_file = open(own.c_str(), O_WRONLY | O_CLOEXEC);
  const std::uint64_t odd = 100;
  struct Call {
    const char* what;
    std::uintptr_t offset_in_area;
    std::size_t size;
    int protection;
    int flags;
    int file;
    std::uint64_t offset;
  };
  const Call calls[] = {
      {"no bytes", 0, 0, kRw, kPrivate, -1, 0},
      {"too many bytes", 0, SIZE_MAX, kRw, kPrivate, -1, 0},
      {"no type", 0, 4096, kRw, MAP_ANONYMOUS, -1, 0},
      {"anonymous shared-validate", 0, 4096, kRw, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0},
      {"unknown type", 0, 4096, kRw, 0xc | MAP_ANONYMOUS, -1, 0},
      {"unknown type of a file", 0, 4096, kRw, 0xc, file_, 0},
      {"no type and too many bytes", 0, std::size_t{1} << 50, kRw, MAP_ANONYMOUS, -1, 0},
      {"unaligned offset", 0, 4096, kRw, MAP_PRIVATE, file_, odd},
      {"unaligned offset, anonymous", 0, 4096, kRw, kPrivate, -1, odd},
      {"unaligned fixed address", 1, 4096, kRw, kPrivate | MAP_FIXED, -1, 0},
      {"unaligned fixed address, no replace", 1, 4096, kRw, kPrivate | MAP_FIXED_NOREPLACE, -1, 0},
      {"no descriptor", 0, 4096, kRw, MAP_PRIVATE, -1, 0},
      {"closed descriptor", 0, 4096, kRw, MAP_PRIVATE, 999, 0},
      {"pipe", 0, 4096, kRw, MAP_PRIVATE, ends[0], 0},
      {"folder", 0, 4096, PROT_READ, MAP_PRIVATE, folder, 0},
      {"path only", 0, 4096, PROT_READ, MAP_PRIVATE, path_only, 0},
      {"write only", 0, 4096, PROT_READ, MAP_PRIVATE, write_only_file, 0},
      {"offset beyond", 0, 8192, PROT_READ, MAP_PRIVATE, file_, UINT64_MAX & ~std::uint64_t{4095}},
  };
  for (const Call& call : calls) {
    const std::intptr_t expected = linux_map(scratch_.base() + call.offset_in_area, call.size,
                                             call.protection, call.flags, call.file, call.offset);
    EXPECT_LT(expected, 0) << call.what << " was to be an error";
    EXPECT_EQ(memory_->map(heap_.base + call.offset_in_area, call.size, call.protection, call.flags,
                           call.file, call.offset),
              expected)
        << call.what;
  }
  struct Range {
    std::uintptr_t offset_in_area;
    std::size_t size;
  };
  ASSERT_GE(memory_->map(heap_.base, 4096, kRw, kPrivate | MAP_FIXED, -1, 0), 0);
  ASSERT_GE(linux_map(scratch_.base(), 4096, kRw, kPrivate | MAP_FIXED, -1, 0), 0);
  constexpr int kKeep = kPrivate | MAP_FIXED_NOREPLACE;
  EXPECT_EQ(memory_->map(heap_.base + 1, 4096, kRw, kKeep, -1, 0),
            linux_map(scratch_.base() + 1, 4096, kRw, kKeep, -1, 0))
      << "unaligned, and taken";
  for (const Range range :
       {Range{0, 0}, {1, 4096}, {1, 0}, {0, SIZE_MAX}, {0, SIZE_MAX - 8192}, {4096, 4096}}) {
    for (const int bits : {PROT_READ, 0x100, PROT_READ | 0x40}) {
      EXPECT_EQ(memory_->protect(heap_.base + range.offset_in_area, range.size, bits),
                linux_protect(scratch_.base() + range.offset_in_area, range.size, bits))
          << range.offset_in_area << " " << range.size << " " << bits;
    }
  }
  for (const Range range : {Range{0, 0}, {1, 4096}, {1, 0}, {0, SIZE_MAX}, {4096, 4096}, {0, 1}}) {
    EXPECT_EQ(memory_->unmap(heap_.base + range.offset_in_area, range.size),
              linux_unmap(scratch_.base() + range.offset_in_area, range.size))
        << range.offset_in_area << " " << range.size;
  }
  for (const int file : {ends[0], ends[1], folder, path_only, write_only, write_only_file}) {
    if (file >= 0) close(file);
  }
}
INSTANTIATE_TEST_SUITE_P(Once, ErrnoDifferential, testing::Values(0));

}  // namespace
}  // namespace exclave
