#include "exclave/untrusted.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <type_traits>

namespace exclave {
namespace {

using Bytes = untrusted_span<std::byte>;

static_assert(std::is_trivially_copyable_v<untrusted_bytes> &&
              sizeof(untrusted_bytes) == sizeof(void*));
static_assert(std::is_convertible_v<untrusted_ptr<int>, untrusted_ptr<const int>>);
static_assert(!std::is_convertible_v<untrusted_ptr<const int>, untrusted_ptr<int>>);
static_assert(!std::is_convertible_v<untrusted_ptr<int>, untrusted_ptr<const long>>);
static_assert(!std::is_convertible_v<untrusted_bytes, void*> &&
              !std::is_convertible_v<int*, untrusted_ptr<int>>);
static_assert(std::is_convertible_v<Bytes, untrusted_span<const std::byte>>);
static_assert(!std::is_convertible_v<untrusted_span<const std::byte>, Bytes>);

Bytes span_at(std::uintptr_t address, std::size_t size) {
  return Bytes::unsafe_from(untrusted_bytes::unsafe_from_address(address), size);
}

// Knows one region, and remembers what it was asked.
struct Books {
  Extent region{0x10000, 0x1000};
  Protection protection = Protection::kReadWrite;
  mutable Protection asked = Protection::kNone;

  Result<untrusted_bytes> validate(std::uintptr_t address, std::size_t size_bytes,
                                   Protection needed) const noexcept {
    asked = needed;
    if (!region.covers({address, size_bytes})) return Error::kNotFound;
    if ((static_cast<int>(needed) & ~static_cast<int>(protection)) != 0)
      return Error::kNotPermitted;
    return untrusted_bytes::unsafe_from_address(address);
  }
};

TEST(UntrustedSpan, IsMadeFromWhatTheBooksKnow) {
  const Books books;
  const auto words = untrusted_span<std::uint32_t>::validated(books, 0x10004, 3);
  ASSERT_TRUE(words.ok());
  EXPECT_EQ(words->address(), 0x10004u);
  EXPECT_EQ(words->size(), 3u);
  EXPECT_EQ(words->size_bytes(), 12u);
  EXPECT_EQ(books.asked, Protection::kReadWrite);
  EXPECT_TRUE(untrusted_span<const std::uint32_t>::validated(books, 0x10004, 3).ok());
  EXPECT_EQ(books.asked, Protection::kRead);
}

TEST(UntrustedSpan, RefusesWhatTheBooksRefuse) {
  Books books;
  EXPECT_EQ(Bytes::validated(books, 0x10fff, 2).error(), Error::kNotFound);
  EXPECT_EQ(Bytes::validated(books, 0xffff, 2).error(), Error::kNotFound);
  EXPECT_EQ(untrusted_span<std::uint32_t>::validated(books, 0x10002, 1).error(),
            Error::kInvalidArgument);
  constexpr std::size_t kHuge =
      std::numeric_limits<std::size_t>::max() / 4 + 2;  // * 4 wraps to a small size
  EXPECT_EQ(untrusted_span<std::uint32_t>::validated(books, 0x10000, kHuge).error(),
            Error::kInvalidArgument);
  books.protection = Protection::kRead;
  EXPECT_EQ(Bytes::validated(books, 0x10000, 8).error(), Error::kNotPermitted);
  EXPECT_TRUE(untrusted_span<const std::byte>::validated(books, 0x10000, 8).ok());
  EXPECT_TRUE(Bytes::validated(books, 0x666000, 0).value().empty());
}

TEST(UntrustedSpan, ViewsStayInside) {
  const Bytes span = span_at(0x10000, 100);
  EXPECT_EQ(span.subspan(10, 90)->address(), 0x1000au);
  EXPECT_EQ(span.subspan(100, 0)->size(), 0u);
  EXPECT_EQ(span.subspan(10, 91).error(), Error::kInvalidArgument);
  EXPECT_EQ(span.subspan(101, 0).error(), Error::kInvalidArgument);
  EXPECT_EQ(span.subspan(10, SIZE_MAX).error(), Error::kInvalidArgument);
  EXPECT_EQ(span.subspan(SIZE_MAX, 2).error(), Error::kInvalidArgument);
  EXPECT_EQ(span.first(100)->size(), 100u);
  EXPECT_EQ(span.first(101).error(), Error::kInvalidArgument);
  EXPECT_EQ(span.after(40)->size(), 60u);
  EXPECT_EQ(span.after(101).error(), Error::kInvalidArgument);
  EXPECT_EQ(span.at(99)->address(), 0x10063u);
  EXPECT_EQ(span.at(100).error(), Error::kInvalidArgument);
}

TEST(UntrustedSpan, TypedViewsAreAlignedAndWhole) {
  const Bytes span = span_at(0x10000, 24);
  EXPECT_EQ(span.as<std::uint64_t>()->size(), 3u);
  EXPECT_EQ(span.as<std::uint64_t>()->bytes().size(), 24u);
  EXPECT_EQ(span.first(23)->as<std::uint64_t>().error(), Error::kInvalidArgument);
  EXPECT_EQ(span.subspan(4, 16)->as<std::uint64_t>().error(), Error::kInvalidArgument);
  EXPECT_EQ(span.object_at<std::uint64_t>(16)->address(), 0x10010u);
  EXPECT_EQ(span.object_at<std::uint64_t>(17).error(), Error::kInvalidArgument);
  EXPECT_EQ(span.object_at<std::uint64_t>(20).error(), Error::kInvalidArgument);
  EXPECT_EQ(span.object_at<std::uint32_t>(20)->address(), 0x10014u);
  EXPECT_EQ(span.object_at<std::uint64_t>(SIZE_MAX - 3).error(), Error::kInvalidArgument);
  const untrusted_span<const std::byte> readable = span;
  static_assert(std::is_same_v<decltype(readable.as<int>()), Result<untrusted_span<const int>>>);
  static_assert(
      std::is_same_v<decltype(readable.object_at<int>(0)), Result<untrusted_ptr<const int>>>);
}

}  // namespace
}  // namespace exclave
