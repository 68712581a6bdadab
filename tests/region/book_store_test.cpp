// Trusted memory for the books: zeroed, type-stable, and it can run out.
#include "port/book_store.hpp"

#include <cstring>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "support/books_fixture.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class BookStoreTest : public BooksFixture {
 protected:
  static bool all_zero(const void* book, std::size_t bytes) {
    const auto* const p = static_cast<const unsigned char*>(book);
    for (std::size_t i = 0; i < bytes; ++i) {
      if (p[i] != 0) return false;
    }
    return true;
  }
};

TEST_F(BookStoreTest, BooksAreZeroedAndOnTheirOwnLines) {
  for (std::size_t bytes = 1; bytes < 9000; bytes += 61) {
    void* const book = books_.allocate(BookKind::kPlain, bytes);
    ASSERT_NE(book, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(book) % kCacheLine, 0u);
    EXPECT_TRUE(all_zero(book, bytes));
    std::memset(book, 0xff, bytes);
  }
}

TEST_F(BookStoreTest, ReleasedBookComesBackZeroed) {
  for (const std::size_t bytes : {64u, 60u, 61u, 4092u, 4093u, 4096u, 40000u, 1000000u}) {
    void* const book = books_.allocate(BookKind::kSlab, bytes);
    std::memset(book, 0xab, bytes);
    books_.release(BookKind::kSlab, book, bytes);
    EXPECT_TRUE(all_zero(book, bytes)) << "a late reader finds nothing";
    void* const again = books_.allocate(BookKind::kSlab, bytes);
    EXPECT_EQ(again, book);
    EXPECT_TRUE(all_zero(again, bytes));
  }
}

TEST_F(BookStoreTest, BookOfZerosGoesBackAsItIs) {
  void* const book = books_.allocate(BookKind::kPagemapLeaf, 4100);
  books_.release_zero(BookKind::kPagemapLeaf, book, 4100);
  EXPECT_TRUE(all_zero(book, 4100));
  EXPECT_EQ(books_.used_bytes(), 0u);
  EXPECT_EQ(books_.allocate(BookKind::kPagemapLeaf, 4100), book);
  EXPECT_TRUE(all_zero(book, 4100));
  EXPECT_EQ(books_.used_bytes(), 65 * kCacheLine);
}

TEST_F(BookStoreTest, FreeLinkDoesNotTouchTheBooksOwnBytes) {
  // Many free books of one size: each names the next one, behind what readers look at.
  std::vector<void*> books;
  for (int i = 0; i < 10; ++i) books.push_back(books_.allocate(BookKind::kRegion, 192 - 4));
  for (void* const book : books) books_.release(BookKind::kRegion, book, 192 - 4);
  for (void* const book : books) EXPECT_TRUE(all_zero(book, 192 - 4));
}

TEST_F(BookStoreTest, MemoryNeverChangesItsKindOrSize) {
  std::map<void*, std::pair<BookKind, std::size_t>> was;
  std::mt19937 random(1);
  std::vector<std::tuple<BookKind, void*, std::size_t>> held;
  const std::size_t sizes[] = {60, 100, 1000, 4096, 6000, 9000, 40000};
  for (int step = 0; step < 5000; ++step) {
    if (random() % 2 == 0 || held.empty()) {
      const auto kind = static_cast<BookKind>(random() % static_cast<unsigned>(BookKind::kCount));
      const std::size_t bytes = sizes[random() % std::size(sizes)];
      void* const book = books_.allocate(kind, bytes);
      ASSERT_NE(book, nullptr);
      const auto [before, fresh] = was.emplace(book, std::make_pair(kind, bytes));
      if (!fresh) {
        EXPECT_EQ(before->second, std::make_pair(kind, bytes));
      }
      held.emplace_back(kind, book, bytes);
    } else {
      std::swap(held[random() % held.size()], held.back());
      const auto [kind, book, bytes] = held.back();
      held.pop_back();
      books_.release(kind, book, bytes);
    }
  }
  // None inside another.
  std::uintptr_t end = 0;
  for (const auto& [book, what] : was) {
    EXPECT_GE(reinterpret_cast<std::uintptr_t>(book), end);
    end = reinterpret_cast<std::uintptr_t>(book) + what.second;
  }
}

TEST_F(BookStoreTest, ReferencesGoBothWaysAndNoneIsZero) {
  for (int i = 0; i < 100; ++i) {
    void* const book = books_.allocate(BookKind::kHeap, 3000);
    const BookRef ref = books_.ref(book);
    EXPECT_NE(ref, 0u);
    EXPECT_EQ(ref % (1u << kBookTagBits), 0u);
    EXPECT_EQ(books_.at<void>(ref), book);
  }
}

TEST_F(BookStoreTest, SteadyUseTakesNoMoreTrustedMemory) {
  const auto churn = [&] {
    std::vector<void*> held;
    for (int i = 0; i < 300; ++i) held.push_back(books_.allocate(BookKind::kPlain, 500));
    for (void* const book : held) books_.release(BookKind::kPlain, book, 500);
  };
  churn();
  const std::size_t reserved = books_.reserved_bytes();
  for (int i = 0; i < 10; ++i) churn();
  EXPECT_EQ(books_.reserved_bytes(), reserved);
  EXPECT_EQ(books_.used_bytes(), 0u);
}

// All lines of a chunk but its header's.
TEST_F(BookStoreTest, SmallBooksFillAChunkToItsEnd) {
  constexpr std::size_t kChunk = std::size_t{64} << 10;
  for (std::size_t i = 1; i < kChunk / kCacheLine; ++i)
    ASSERT_NE(books_.allocate(BookKind::kPlain, 60), nullptr);
  EXPECT_EQ(books_.reserved_bytes(), kChunk);
  ASSERT_NE(books_.allocate(BookKind::kPlain, 60), nullptr);
  EXPECT_EQ(books_.reserved_bytes(), 2 * kChunk);
}

TEST_F(BookStoreTest, UsedBytesCountWhatIsOut) {
  void* const small = books_.allocate(BookKind::kPlain, 60);
  EXPECT_EQ(books_.used_bytes(), 64u);
  void* const large = books_.allocate(BookKind::kPlain, 100000);
  EXPECT_GE(books_.used_bytes(), 100064u);
  EXPECT_GE(books_.reserved_bytes(), books_.used_bytes());
  books_.release(BookKind::kPlain, large, 100000);
  EXPECT_EQ(books_.used_bytes(), 64u);
  books_.release(BookKind::kPlain, small, 60);
  EXPECT_EQ(books_.used_bytes(), 0u);
}

TEST_F(BookStoreTest, OutOfTrustedMemoryIsNullAndReleasedBooksStillServe) {
  void* const book = books_.allocate(BookKind::kPlain, 1000);
  port_.set_trusted_left(0);
  std::vector<void*> rest;
  while (void* const more = books_.allocate(BookKind::kPlain, 1000)) rest.push_back(more);
  EXPECT_FALSE(rest.empty()) << "the chunk had room";
  EXPECT_EQ(books_.allocate(BookKind::kPlain, 100000), nullptr);
  books_.release(BookKind::kPlain, book, 1000);
  EXPECT_EQ(books_.allocate(BookKind::kPlain, 1000), book);
  EXPECT_EQ(books_.allocate(BookKind::kPlain, 1000), nullptr);
}

TEST_F(BookStoreTest, AbsurdSizesAreRefused) {
  EXPECT_EQ(books_.allocate(BookKind::kPlain, SIZE_MAX), nullptr);
  EXPECT_EQ(books_.allocate(BookKind::kPlain, SIZE_MAX - 63), nullptr);
  EXPECT_EQ(books_.allocate(BookKind::kPlain, kMaxBookWindow), nullptr);
}

TEST_F(BookStoreTest, ThreadsGetDifferentBooks) {
  std::vector<std::vector<void*>> got(4);
  std::vector<std::thread> threads;
  for (std::vector<void*>& mine : got) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        void* const book = books_.allocate(BookKind::kPlain, 200);
        if (i % 3 == 0) {
          books_.release(BookKind::kPlain, book, 200);
        } else {
          mine.push_back(book);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<void*> all;
  for (const std::vector<void*>& mine : got) {
    for (void* const book : mine) EXPECT_TRUE(all.insert(book).second);
  }
}

TEST(BookStoreOpenTest, MemoryOutsideTheWindowIsNotUsed) {
  FakePort port(std::size_t{1} << 20);
  alignas(kPageBytes) static char elsewhere[256 * 1024];
  PortTable table = port.table();
  table.trusted_reserve = [](void*, std::size_t bytes) -> void* {
    return bytes <= sizeof elsewhere ? elsewhere : nullptr;
  };
  BookStore books;
  ASSERT_TRUE(books.open(table).ok());
  EXPECT_EQ(books.allocate(BookKind::kPlain, 100), nullptr);
  EXPECT_EQ(books.allocate(BookKind::kPlain, 100000), nullptr);
  EXPECT_EQ(books.reserved_bytes(), 0u);
}

TEST(BookStoreOpenTest, WindowOutOfShapeIsRefused) {
  struct Shape {
    exclave_extent enclave;
    exclave_extent window;
    bool good;
  };
  constexpr std::size_t kGiB = std::size_t{1} << 30;
  const Shape shapes[] = {
      {{0x10000000, 64 * kGiB}, {0x10000000, 32 * kGiB}, true},
      {{0x10000000, 64 * kGiB}, {0x10000000, 32 * kGiB + 4096}, false},  // too large for references
      {{0x10000000, kGiB}, {0x10000000, 2 * kGiB}, false},               // not inside
      {{0x10000000, kGiB}, {0x0ffff000, kGiB}, false},
      {{0x10000000, kGiB}, {0x10000000, 0}, false},
      {{0x10000000, kGiB}, {0x10000800, 4096}, false},
      {{0x10000000, 0}, {0x10000000, 4096}, false},
      {{0, kGiB}, {4096, 4096}, false},
  };
  for (const Shape& shape : shapes) {
    FakePort port(std::size_t{1} << 20);
    PortTable table = port.table();
    table.context = const_cast<Shape*>(&shape);
    table.enclave = [](void* c) { return static_cast<Shape*>(c)->enclave; };
    table.book_window = [](void* c) { return static_cast<Shape*>(c)->window; };
    BookStore books;
    EXPECT_EQ(books.open(table).ok(), shape.good)
        << std::hex << shape.window.base << " " << shape.window.size;
  }
}

}  // namespace
}  // namespace exclave
