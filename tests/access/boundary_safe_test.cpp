#include "exclave/boundary_safe.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <string>

namespace {

struct Completion {
  std::uint64_t tag;
  std::int32_t result = -1;
  std::uint32_t flags;
};
enum class Opcode : std::uint8_t { kRead, kWrite };
enum Plain : std::uint16_t { kPlain };
struct Nested {
  Completion completions[2];
  std::array<Opcode, 8> opcodes;
  double ratio;
  float x;
  std::byte raw[4];
};
struct Undeclared {
  std::uint32_t value;
};

}  // namespace

EXCLAVE_BOUNDARY_SAFE(Completion, tag, result, flags);
EXCLAVE_BOUNDARY_SAFE(Opcode);
EXCLAVE_BOUNDARY_SAFE(Plain);
EXCLAVE_BOUNDARY_SAFE(Nested, completions, opcodes, ratio, x, raw);

namespace exclave {
namespace {

// What crosses.
static_assert(BoundarySafe<char> && BoundarySafe<std::uint8_t> && BoundarySafe<std::int64_t>);
static_assert(BoundarySafe<const std::uint32_t> && BoundarySafe<std::byte> &&
              BoundarySafe<wchar_t>);
static_assert(BoundarySafe<float> && BoundarySafe<double>);
static_assert(BoundarySafe<std::uint16_t[7]> && BoundarySafe<const std::uint16_t[2][3]>);
static_assert(BoundarySafe<std::array<std::uint32_t, 4>>);
static_assert(BoundarySafe<Completion> && BoundarySafe<Opcode> && BoundarySafe<Plain> &&
              BoundarySafe<Nested>);
static_assert(BoundarySafe<std::array<Nested, 3>>);

// What does not.
static_assert(!BoundarySafe<bool> && !BoundarySafe<const bool> && !BoundarySafe<bool[2]>);
static_assert(!BoundarySafe<std::array<bool, 2>> && !BoundarySafe<std::array<int, 0>>);
static_assert(!BoundarySafe<long double>);
static_assert(!BoundarySafe<Undeclared> && !BoundarySafe<Undeclared[2]> &&
              !BoundarySafe<std::string>);
static_assert(!BoundarySafe<volatile int> && !BoundarySafe<int[]> && !BoundarySafe<void>);

TEST(Threat49_TrustedPointer, NoPointerIsBoundarySafe) {
  EXPECT_FALSE(BoundarySafe<void*>);
  EXPECT_FALSE(BoundarySafe<const char*>);
  EXPECT_FALSE(BoundarySafe<int&>);
  EXPECT_FALSE(BoundarySafe<std::nullptr_t>);
  EXPECT_FALSE(BoundarySafe<int Completion::*>);
  EXPECT_FALSE(BoundarySafe<void (*)()>);
  EXPECT_FALSE((BoundarySafe<std::array<char*, 2>>));
}

}  // namespace
}  // namespace exclave
