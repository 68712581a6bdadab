// Huge blocks that grow: their pages go along by mremap, and whatever that answers nothing is lost.
#include <errno.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMiB = std::size_t{1} << 20;

// What becomes of moves, from the n-th on.
enum class Fate { kServed, kUnknown, kHole, kTaken };
Fate g_fate = Fate::kServed;
int g_moves_left = 0;       // that are served before
std::size_t g_moved = 0;    // bytes, of moves of more than a page
bool g_several = false;     // a move of more than one mapping was asked for
unsigned char* g_stranger;  // what another thread mapped into the hole

std::uintptr_t address_of(const void* memory) {
  return reinterpret_cast<std::uintptr_t>(memory);
}

// How many mappings the range is in.
int mappings_in(std::uintptr_t base, std::size_t size) {
  std::FILE* const file = std::fopen("/proc/self/maps", "re");
  int count = 0;
  unsigned long from = 0, to = 0;
  char line[512];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::sscanf(line, "%lx-%lx", &from, &to) == 2 && from < base + size && to > base) ++count;
  }
  std::fclose(file);
  return count;
}

// In place of libc's, for the library, too.
extern "C" void* mremap(void* from, size_t old_size, size_t new_size, int flags, ...) noexcept {
  va_list rest;
  va_start(rest, flags);
  void* const to = va_arg(rest, void*);
  va_end(rest);
  if ((flags & MREMAP_FIXED) != 0) {
    if (g_fate != Fate::kServed && --g_moves_left < 0) {
      if (g_fate == Fate::kUnknown) {
        errno = EINVAL;
        return MAP_FAILED;
      }
      munmap(to, old_size);
      if (g_fate == Fate::kTaken) {
        g_stranger = static_cast<unsigned char*>(
            mmap(static_cast<char*>(to) + old_size / 2, kPage, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
        memset(g_stranger, 0x77, kPage);
      }
      errno = ENOMEM;
      return MAP_FAILED;
    }
    if (mappings_in(address_of(from), old_size) != 1) g_several = true;
    if (old_size != kPage) g_moved += old_size;
  }
  const long answer = syscall(SYS_mremap, from, old_size, new_size, flags, to);
  return reinterpret_cast<void*>(answer);
}

class PageMoverTest : public ::testing::Test {
 protected:
  void SetUp() override { g_moved = 0, g_several = false, g_stranger = nullptr; }
  void TearDown() override { g_fate = Fate::kServed; }

  // Each test has a process of its own, with a library that knows nothing of this kernel yet.
  template <class Body>
  static void in_new_process(const Body& body) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(
        {
          body();
          _exit(::testing::Test::HasFailure() ? 1 : 0);
        },
        ::testing::ExitedWithCode(0), "");
  }

  static unsigned char* make(std::size_t bytes) {
    auto* const block = static_cast<unsigned char*>(malloc(bytes));
    mark(block, 0, bytes);
    return block;
  }
  // Each page is another.
  static void mark(unsigned char* block, std::size_t from, std::size_t to) {
    for (std::size_t at = from; at < to; at += kPage) memcpy(block + at, &at, sizeof at);
  }
  static bool is_marked(const unsigned char* block, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += kPage)
      if (memcmp(block + at, &at, sizeof at) != 0) return false;
    return true;
  }
  static unsigned char* grown(unsigned char* block, std::size_t bytes) {
    return static_cast<unsigned char*>(realloc(block, bytes));
  }
};

TEST_F(PageMoverTest, AHugeBlockThatGrowsIsNotCopied) {
  in_new_process([] {
    std::size_t size = 80 * kMiB;
    unsigned char* block = make(size);
    std::size_t copied = 0;
    while (size < 400 * kMiB) {
      const std::size_t usable = malloc_usable_size(block);
      const std::size_t more = usable + kMiB;
      g_moved = 0;
      errno = 77;
      block = grown(block, more);
      ASSERT_NE(block, nullptr);
      EXPECT_EQ(errno, 77);
      copied += usable - g_moved;
      EXPECT_TRUE(is_marked(block, size)) << size;
      mark(block, size, more);
      size = more;
    }
    EXPECT_EQ(copied, 0u);
    EXPECT_FALSE(g_several);
    free(block);
  });
}

// Who advises the kernel on a part of a block leaves it in several mappings.
TEST_F(PageMoverTest, EachMoveIsOfOneMapping) {
  for (const std::size_t cuts : {1u, 7u, 200u}) {
    in_new_process([cuts] {
      const std::size_t size = 100 * kMiB;
      unsigned char* block = make(size);
      const std::size_t step = size / (cuts + 1) / kPage * kPage;
      for (std::size_t i = 1; i <= cuts; ++i)
        EXPECT_EQ(madvise(block + i * step, kPage, MADV_SEQUENTIAL), 0);
      EXPECT_GE(mappings_in(address_of(block), size), static_cast<int>(2 * cuts + 1));
      block = grown(block, 2 * size);
      ASSERT_NE(block, nullptr);
      EXPECT_TRUE(is_marked(block, size));
      EXPECT_FALSE(g_several);
      EXPECT_NE(g_moved, 0u);
      // There is an end to pieces.
      EXPECT_LE(mappings_in(address_of(block), 2 * size), 70);
      memset(block, 1, 2 * size);
      free(block);
    });
  }
}

TEST_F(PageMoverTest, AKernelThatCannotIsNotAskedAgain) {
  in_new_process([] {
    g_fate = Fate::kUnknown;
    unsigned char* block = make(100 * kMiB);
    for (std::size_t size = 200 * kMiB; size <= 400 * kMiB; size += 100 * kMiB) {
      block = grown(block, size);
      ASSERT_NE(block, nullptr);
      EXPECT_TRUE(is_marked(block, size - 100 * kMiB));
      mark(block, size - 100 * kMiB, size);
    }
    EXPECT_EQ(g_moves_left, -1);
    free(block);
    malloc_trim(0);
    EXPECT_EQ(mappings_in(address_of(block), 400 * kMiB), 0);
  });
}

// A move that fails leaves a hole. It is closed, and the block is whole.
TEST_F(PageMoverTest, AHoleIsClosed) {
  for (const int moves_before : {0, 1, 2}) {
    in_new_process([moves_before] {
      const std::size_t size = 100 * kMiB;
      unsigned char* block = make(size);
      EXPECT_EQ(madvise(block + 30 * kMiB, 10 * kMiB, MADV_SEQUENTIAL), 0);
      g_fate = Fate::kHole;
      g_moves_left = 1 + moves_before;  // the library tries it once
      block = grown(block, 2 * size);
      ASSERT_NE(block, nullptr);
      EXPECT_EQ(g_moves_left, -1);
      EXPECT_TRUE(is_marked(block, size));
      memset(block, 1, 2 * size);
      free(block);
    });
  }
}

// Where another thread's mapping came to stand in the hole, the place is the other's.
TEST_F(PageMoverTest, WhoMapsIntoAHoleKeepsThePlace) {
  for (const int moves_before : {0, 2}) {
    in_new_process([moves_before] {
      const std::size_t size = 100 * kMiB;
      unsigned char* block = make(size);
      EXPECT_EQ(madvise(block + 30 * kMiB, 10 * kMiB, MADV_SEQUENTIAL), 0);
      g_fate = Fate::kTaken;
      g_moves_left = 1 + moves_before;
      for (std::size_t to = 2 * size; to <= 4 * size; to += size) {
        block = grown(block, to);
        ASSERT_NE(block, nullptr);
        EXPECT_TRUE(is_marked(block, to - size));
        mark(block, to - size, to);
        ASSERT_NE(g_stranger, nullptr);
        EXPECT_GE(address_of(g_stranger) - address_of(block), to);
      }
      EXPECT_EQ(g_moves_left, -1);  // and no more
      memset(block, 1, 4 * size);
      free(block);
      malloc_trim(0);
      for (std::size_t i = 0; i < kPage; ++i) ASSERT_EQ(g_stranger[i], 0x77);
    });
  }
}

}  // namespace
