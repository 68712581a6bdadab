#include "exclave/access.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "guarded_memory.hpp"

namespace {

struct Record {
  std::uint64_t id;
  std::uint32_t length;
  std::uint8_t code[3];
  std::uint8_t kind;
};
struct Odd {
  std::uint8_t bytes[13];
};
struct Halves {
  std::uint32_t low;
  std::uint32_t high;
};

}  // namespace

EXCLAVE_BOUNDARY_SAFE(Record, id, length, code, kind);
EXCLAVE_BOUNDARY_SAFE(Odd, bytes);
EXCLAVE_BOUNDARY_SAFE(Halves, low, high);

namespace exclave {
namespace {

using access_test::GuardedMemory;

std::vector<std::byte> pattern(std::size_t size, int seed = 1) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>(i * 31 + static_cast<std::size_t>(seed));
  return bytes;
}

// Runs a body again and again for a while.
template <class F>
void for_a_while(F&& body) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(150);
  while (std::chrono::steady_clock::now() < end) body();
}

// ---- Ranges ----

TEST(CopyOut, WritesAllOrNothing) {
  const GuardedMemory memory(1);
  const auto bytes = pattern(100);
  EXPECT_TRUE(copy_out(memory.range(3, 100), bytes).ok());
  EXPECT_EQ(std::memcmp(memory.host() + 3, bytes.data(), 100), 0);
  memory.fill(0x55);
  EXPECT_EQ(copy_out(memory.range(3, 99), bytes).error(), Error::kInvalidArgument);
  EXPECT_TRUE(
      std::all_of(memory.host(), memory.host() + memory.size(), [](int b) { return b == 0x55; }));
}

TEST(CopyOut, WritesTypedObjects) {
  const GuardedMemory memory(1);
  const Record records[2] = {{1, 2, {3, 4, 5}, 6}, {7, 8, {9, 10, 11}, 12}};
  const auto outside = memory.range(64, 64).as<Record>();
  ASSERT_TRUE(outside.ok());
  EXPECT_TRUE(copy_out(*outside, records).ok());
  EXPECT_EQ(std::memcmp(memory.host() + 64, records, sizeof records), 0);
  std::array<Record, 2> in{};
  EXPECT_TRUE(copy_in(std::span(in), *outside).ok());
  EXPECT_EQ(std::memcmp(in.data(), records, sizeof records), 0);
  std::array<Record, 5> more{};
  EXPECT_EQ(copy_in(std::span(more), *outside).error(), Error::kInvalidArgument);
  EXPECT_EQ(more[0].id, 0u);
}

TEST(Copies, ReachTheLastByteBeforeAnUnmappedPage) {
  const GuardedMemory memory(1);
  for (std::size_t n = 1; n <= 600; ++n) {
    const auto bytes = pattern(n, static_cast<int>(n));
    std::vector<std::byte> in(n);
    for (const std::size_t offset : {std::size_t{0}, memory.size() - n}) {
      const auto range = memory.range(offset, n);
      ASSERT_TRUE(copy_out(range, bytes).ok());
      ASSERT_EQ(std::memcmp(memory.host() + offset, bytes.data(), n), 0);
      ASSERT_TRUE(copy_in(std::span(in), range).ok());
      ASSERT_EQ(in, bytes);
      fill_zero(range);
      ASSERT_TRUE(std::all_of(memory.host() + offset, memory.host() + offset + n,
                              [](int b) { return b == 0; }));
    }
  }
}

TEST(CopyAcross, MovesBetweenUntrustedRanges) {
  const GuardedMemory from(2);
  const GuardedMemory to(2);
  for (std::size_t i = 0; i < from.size(); ++i)
    from.host()[i] = static_cast<std::uint8_t>(i * 13 + i / 256);
  for (const std::size_t dst : {0u, 1u, 5u, 8u}) {
    for (const std::size_t src : {0u, 3u, 7u, 8u}) {
      for (const std::size_t n : {0u, 1u, 7u, 8u, 100u, 511u, 512u, 513u, 5000u}) {
        to.fill(0x77);
        ASSERT_TRUE(copy_across(to.range(dst, n), from.range(src, n)).ok());
        ASSERT_EQ(std::memcmp(to.host() + dst, from.host() + src, n), 0)
            << dst << " " << src << " " << n;
        ASSERT_EQ(to.host()[dst + n], 0x77);
        if (dst != 0) {
          ASSERT_EQ(to.host()[dst - 1], 0x77);
        }
      }
    }
  }
  EXPECT_EQ(copy_across(to.range(0, 7), from.range(0, 8)).error(), Error::kInvalidArgument);
}

// ---- THREATS 45 to 54 ----

TEST(Threat45_DoubleFetch, AWordThatFlipsIsSeenWhole) {
  const GuardedMemory memory(1);
  std::atomic<bool> stop{false};
  auto* word = reinterpret_cast<volatile std::uint64_t*>(memory.host() + 8);
  std::thread host([&] {
    while (!stop) {
      for (int i = 0; i < 100; ++i) *word = 0;
      for (int i = 0; i < 100; ++i) *word = ~std::uint64_t{0};
    }
  });
  const auto halves = memory.range(0, 64).object_at<Halves>(8);
  // Long enough to see both values, however few processors there are.
  long zeros = 0;
  long ones = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while ((zeros < 1000 || ones < 1000) && std::chrono::steady_clock::now() < end) {
    const Halves copy = load(*halves);
    EXPECT_EQ(copy.low, copy.high);
    ++(copy.low == 0 ? zeros : ones);
  }
  stop = true;
  host.join();
  EXPECT_TRUE(zeros != 0 && ones != 0) << "the host never got in between: the test shows nothing";
}

TEST(Threat46_ReportedCount, MoreThanWasAskedForIsALie) {
  const GuardedMemory memory(1);
  memory.fill('x');
  auto in = pattern(100);
  const auto before = in;
  for (const std::uint64_t reported :
       {std::uint64_t{101}, std::uint64_t{1} << 32, ~std::uint64_t{0}}) {
    EXPECT_EQ(copy_in_reported(in, memory.range(0, 100), reported).error(), Error::kHostLied);
  }
  EXPECT_EQ(copy_in_reported(in, memory.range(0, 101), 5).error(), Error::kInvalidArgument);
  EXPECT_EQ(in, before);
  EXPECT_EQ(copy_in_reported(in, memory.range(0, 100), 100).value(), 100u);
  EXPECT_EQ(in[99], std::byte{'x'});
}

TEST(Threat47_LostTerminator, StringIsFetchedOnceAndBounded) {
  const GuardedMemory memory(1);
  memory.fill('a');
  char copy[16];
  std::memset(copy, 'z', sizeof copy);
  const std::size_t end = memory.size() - 16;
  EXPECT_EQ(copy_in_string(copy, memory.range(end, 16)).error(), Error::kHostLied);
  EXPECT_TRUE(std::all_of(std::begin(copy), std::end(copy), [](char c) { return c == 0; }));
  memory.host()[end + 5] = 0;
  ASSERT_EQ(copy_in_string(copy, memory.range(end, 16)).value(), 5u);
  EXPECT_EQ(std::string(copy), "aaaaa");
  EXPECT_TRUE(std::all_of(copy + 5, std::end(copy), [](char c) { return c == 0; }));
  EXPECT_EQ(copy_in_string(copy, memory.range(end, 5)).error(), Error::kHostLied);
  EXPECT_EQ(copy_in_string(std::span(copy).first(5), memory.range(end, 16)).error(),
            Error::kHostLied);
  EXPECT_EQ(copy_in_string(std::span(copy).first(6), memory.range(end, 16)).value(), 5u);
  EXPECT_EQ(copy_in_string(std::span<char>(), memory.range(end, 16)).error(),
            Error::kInvalidArgument);
}

TEST(Threat47_LostTerminator, WhileTheHostMovesIt) {
  const GuardedMemory memory(1);
  memory.fill('a');
  std::atomic<bool> stop{false};
  std::uint8_t* end = memory.host() + memory.size() - 16;
  std::thread host([&] {
    // There is a terminator most of the time, always elsewhere.
    for (std::size_t i = 0; !stop; i = (i + 5) % 16) {
      __atomic_store_n(end + (i + 5) % 16, 0, __ATOMIC_RELAXED);
      __atomic_store_n(end + i, 'a', __ATOMIC_RELAXED);
    }
  });
  for_a_while([&] {
    char copy[17];
    std::memset(copy, 'z', sizeof copy);
    const auto length = copy_in_string(copy, memory.range(memory.size() - 16, 16));
    if (length) {
      ASSERT_LE(*length, 16u);
      ASSERT_EQ(std::strlen(copy), *length);
    } else {
      ASSERT_EQ(length.error(), Error::kHostLied);
      ASSERT_EQ(copy[0], 0);
    }
  });
  stop = true;
  host.join();
}

TEST(Threat48_Padding, SlackReadsBackAsZero) {
  const GuardedMemory memory(1);
  for (std::size_t n = 1; n <= 40; ++n) {
    memory.fill(0xee);
    const auto bytes = pattern(n);
    ASSERT_TRUE(copy_out_padded(memory.range(64, n), bytes).ok());
    ASSERT_EQ(std::memcmp(memory.host() + 64, bytes.data(), n), 0);
    const std::size_t padded = (n + 7) / 8 * 8;
    for (std::size_t i = n; i < padded; ++i) ASSERT_EQ(memory.host()[64 + i], 0);
    ASSERT_EQ(memory.host()[63], 0xee);
    ASSERT_EQ(memory.host()[64 + padded], 0xee);
  }
  EXPECT_EQ(copy_out_padded(memory.range(4, 16), pattern(8)).error(), Error::kInvalidArgument);
  EXPECT_EQ(copy_out_padded(memory.range(8, 7), pattern(8)).error(), Error::kInvalidArgument);
}

TEST(Threat51_PartialWrite, TheRestIsZeroNotAnOldSecret) {
  const GuardedMemory memory(1);
  memory.fill('s');
  auto in = pattern(64);
  ASSERT_EQ(copy_in_reported(in, memory.range(0, 48), 5).value(), 5u);
  for (std::size_t i = 0; i < 64; ++i) EXPECT_EQ(in[i], i < 5 ? std::byte{'s'} : std::byte{0}) << i;
  in = pattern(64);
  ASSERT_EQ(copy_in_reported(in, memory.range(0, 48), 0).value(), 0u);
  EXPECT_EQ(in, std::vector<std::byte>(64));
}

// Two threads own the bytes on either side of the range, in the same words; a write of more than
// the range's own bytes would undo one of theirs.
void expect_neighbours_survive(void (*write)(std::uintptr_t dst, std::size_t size)) {
  const GuardedMemory memory(1);
  for (std::size_t first = 1; first < 8; first += 3) {
    for (std::size_t size : {1u, 2u, 6u, 17u}) {
      std::atomic<bool> stop{false};
      std::atomic<int> lost{0};
      std::atomic<int> ready{0};
      const auto neighbour = [&](std::uint8_t* byte) {
        ++ready;
        for (std::uint8_t value = 0; !stop; ++value) {
          __atomic_store_n(byte, value, __ATOMIC_SEQ_CST);
          for (int i = 0; i < 8; ++i) {
            if (__atomic_load_n(byte, __ATOMIC_SEQ_CST) != value) ++lost;
          }
        }
      };
      std::thread before(neighbour, memory.host() + 64 + first - 1);
      std::thread after(neighbour, memory.host() + 64 + first + size);
      while (ready != 2) std::this_thread::yield();
      const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
      while (std::chrono::steady_clock::now() < end) {
        for (int i = 0; i < 100; ++i) write(memory.address() + 64 + first, size);
      }
      stop = true;
      before.join();
      after.join();
      ASSERT_EQ(lost, 0) << "first " << first << " size " << size;
    }
  }
}

TEST(Threat53_Neighbours, SurviveCopyOut) {
  expect_neighbours_survive([](std::uintptr_t dst, std::size_t size) {
    const std::uint8_t bytes[32] = {1, 2, 3};
    detail::copy_out_bytes(dst, bytes, size);
  });
}

TEST(Threat53_Neighbours, SurviveFillZero) {
  expect_neighbours_survive(
      [](std::uintptr_t dst, std::size_t size) { detail::fill_zero_bytes(dst, size); });
}

TEST(Threat53_Neighbours, SurviveTheFourByteStore) {
  const GuardedMemory memory(1);
  std::atomic<bool> stop{false};
  std::atomic<int> lost{0};
  auto* other = reinterpret_cast<std::uint32_t*>(memory.host() + 68);
  std::thread neighbour([&] {
    for (std::uint32_t value = 0; !stop; ++value) {
      __atomic_store_n(other, value, __ATOMIC_SEQ_CST);
      for (int i = 0; i < 8; ++i) {
        if (__atomic_load_n(other, __ATOMIC_SEQ_CST) != value) ++lost;
      }
    }
  });
  for_a_while([&] { detail::store_u32(memory.address() + 64, 7); });
  stop = true;
  neighbour.join();
  EXPECT_EQ(lost, 0);
}

// Calls with the direction flag set, and clears it again before any other code runs.
template <class Function>
void call_with_direction_flag(Function* function, std::uintptr_t a, std::uintptr_t b,
                              std::size_t n) {
  asm volatile(
      "movq %%rsp, %%rbx\n\t"
      "andq $-16, %%rsp\n\t"
      "subq $256, %%rsp\n\t"
      "std\n\t"
      "call *%%rax\n\t"
      "cld\n\t"
      "movq %%rbx, %%rsp"
      : "+a"(function), "+D"(a), "+S"(b), "+d"(n)
      :
      : "rbx", "rcx", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
        "xmm6", "xmm7", "memory", "cc");
}

TEST(Threat54_DirectionFlag, DoesNotReverseACopy) {
  const GuardedMemory outside(4);
  const auto bytes = pattern(4200);
  std::vector<std::byte> in(4200);
  const auto trusted = reinterpret_cast<std::uintptr_t>(bytes.data());
  const auto inside = reinterpret_cast<std::uintptr_t>(in.data());
  for (const std::size_t n : {1u, 8u, 21u, 64u, 200u, 600u, 1100u, 4096u}) {
    for (const std::size_t offset : {16u, 19u}) {
      const std::uintptr_t here = outside.address() + offset;
      const std::uint8_t* host = outside.host() + offset;
      outside.fill(0x33);
      call_with_direction_flag(detail::copy_out_bytes, here, trusted, n);
      ASSERT_EQ(std::memcmp(host, bytes.data(), n), 0) << n;
      std::fill(in.begin(), in.end(), std::byte{0x44});
      call_with_direction_flag(detail::copy_in_bytes, inside + 8, here, n);
      ASSERT_EQ(std::memcmp(in.data() + 8, bytes.data(), n), 0) << n;
      ASSERT_EQ(in[7], std::byte{0x44});
      for (const std::size_t there : {8192u, 8197u}) {
        std::memset(outside.host() + there - 8, 0x33, 8);
        call_with_direction_flag(detail::copy_across_bytes, outside.address() + there, here, n);
        ASSERT_EQ(std::memcmp(outside.host() + there, bytes.data(), n), 0) << n;
        ASSERT_EQ(outside.host()[there - 1], 0x33);
      }
      call_with_direction_flag(detail::fill_zero_bytes, here, n, 0);
      ASSERT_TRUE(std::all_of(host, host + n, [](int b) { return b == 0; })) << n;
      ASSERT_EQ(host[-1], 0x33);
      call_with_direction_flag(detail::copy_out_padded_bytes, here / 8 * 8, trusted, n);
      ASSERT_EQ(std::memcmp(outside.host() + offset / 8 * 8, bytes.data(), n), 0) << n;
    }
  }
}

// ---- Objects ----

TEST(LoadAndStore, CarryObjectsAtAnyAlignment) {
  const GuardedMemory memory(1);
  Odd odd{};
  for (std::uint8_t i = 0; i < 13; ++i) odd.bytes[i] = static_cast<std::uint8_t>(i + 1);
  for (std::size_t offset = memory.size() - 24; offset <= memory.size() - 13; ++offset) {
    const auto place = memory.range(offset, 13).object_at<Odd>(0);
    ASSERT_TRUE(place.ok());
    memory.fill(0);
    store(*place, odd);
    ASSERT_EQ(std::memcmp(memory.host() + offset, &odd, 13), 0);
    const Odd copy = load(*place);
    ASSERT_EQ(std::memcmp(&copy, &odd, 13), 0);
  }
  const auto number = memory.range(0, 8).object_at<double>(0);
  store(*number, 2.5);
  EXPECT_EQ(load(untrusted_ptr<const double>(*number)), 2.5);
}

TEST(UntrustedAtomic, IsAlignedByConstruction) {
  const GuardedMemory memory(1);
  using P32 = untrusted_ptr<std::uint32_t>;
  using P64 = untrusted_ptr<std::uint64_t>;
  EXPECT_EQ(untrusted_atomic<std::uint32_t>::at(nullptr).error(), Error::kInvalidArgument);
  for (std::size_t i = 0; i < 8; ++i) {
    const auto address = memory.address() + i;
    EXPECT_EQ(untrusted_atomic<std::uint32_t>::at(P32::unsafe_from_address(address)).ok(),
              i % 4 == 0);
    EXPECT_EQ(untrusted_atomic<std::uint64_t>::at(P64::unsafe_from_address(address)).ok(),
              i % 8 == 0);
  }
}

TEST(UntrustedAtomic, LoadsAndStoresItsWordAlone) {
  const GuardedMemory memory(1);
  for (const std::size_t offset :
       {std::size_t{0}, std::size_t{4}, memory.size() - 8, memory.size() - 4}) {
    memory.fill(0x11);
    const auto word = untrusted_atomic<std::uint32_t>::at(
                          *memory.range(0, memory.size()).object_at<std::uint32_t>(offset))
                          .value();
    EXPECT_EQ(word.load_acquire(), 0x11111111u);
    word.store_release(0xdeadbeef);
    EXPECT_EQ(word.load_acquire(), 0xdeadbeefu);
    const std::size_t other = offset ^ 4;
    EXPECT_EQ(memory.host()[other], 0x11);
    EXPECT_EQ(memory.host()[other + 3], 0x11);
  }
  const auto word =
      untrusted_atomic<std::uint64_t>::at(*memory.range(64, 8).object_at<std::uint64_t>(0)).value();
  word.store_release(0x0123456789abcdef);
  EXPECT_EQ(word.load_acquire(), 0x0123456789abcdefu);
  EXPECT_EQ(memory.host()[64], 0xef);
}

}  // namespace
}  // namespace exclave
