// The functions of access.hpp that move bytes, beside memcpy. Both sides lie between pages that
// cannot be touched, at any distance from them; whatever was not to be written must be as before.
#pragma once

#include <sys/mman.h>

#include <cstring>

#include "exclave/access.hpp"
#include "exclave/process_port.hpp"
#include "fuzz/target.hpp"

namespace exclave::fuzz {

// Memory between two pages that cannot be touched.
class FencedMemory {
 public:
  static constexpr std::size_t kBytes = 2 * kPageBytes;
  FencedMemory() {
    void* const all =
        mmap(nullptr, kBytes + 2 * kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) std::abort();
    start_ = static_cast<std::uint8_t*>(all) + kPageBytes;
    if (mprotect(start_, kBytes, PROT_READ | PROT_WRITE) != 0) std::abort();
  }
  ~FencedMemory() { munmap(start_ - kPageBytes, kBytes + 2 * kPageBytes); }
  FencedMemory(const FencedMemory&) = delete;
  FencedMemory& operator=(const FencedMemory&) = delete;

  std::uint8_t* start() const { return start_; }
  std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(start_); }
  void fill(std::uint64_t seed) const {
    for (std::size_t i = 0; i < kBytes; ++i) {
      seed = seed * 6364136223846793005 + 1442695040888963407;
      start_[i] = static_cast<std::uint8_t>(seed >> 56);
    }
  }
  std::vector<std::uint8_t> copy() const { return {start_, start_ + kBytes}; }

 private:
  std::uint8_t* start_;
};

struct AccessOp {
  enum class Kind {
    kCopyOut,
    kCopyOutPadded,
    kCopyIn,
    kFillZero,
    kCopyAcross,
    kCopyInReported,
    kCopyInString,
    kStoreU64,
    kStoreU32,
    kLoad,
  } kind;
  std::size_t to;  // offsets into the two sides
  std::size_t from;
  std::size_t size;
  std::uint64_t number;  // a count that the host reports, a value that is stored
  std::uint64_t seed;    // of what stands there before
};

class AccessorsRun {
 public:
  // wide: with the registers that the machine has; narrow copies come first, for there is no way
  // back.
  AccessorsRun() = default;
  explicit AccessorsRun(bool wide) {
    if (!wide) return;
    static const bool kHasAvx = [] {
      const auto port = ProcessPort::create();
      if (!port.ok()) return false;
      const bool has = (*port)->has_avx();
      ProcessPort::destroy(*port);
      return has;
    }();
    if (kHasAvx) detail::use_wide_registers();
  }

  void perform(AccessOp o) {
    // Within the memory, and as the functions ask for it.
    o.to %= FencedMemory::kBytes;
    o.from %= FencedMemory::kBytes;
    const std::size_t room = FencedMemory::kBytes - std::max(o.to, o.from);
    o.size %= room + 1;
    trusted_.fill(o.seed);
    untrusted_.fill(~o.seed);
    other_.fill(o.seed + 1);
    const std::vector<std::uint8_t> trusted = trusted_.copy();
    const std::vector<std::uint8_t> outside = untrusted_.copy();
    const std::vector<std::uint8_t> other = other_.copy();
    std::vector<std::uint8_t> expected_trusted = trusted;
    std::vector<std::uint8_t> expected_outside = outside;
    std::uint8_t* const inside = trusted_.start();
    using Kind = AccessOp::Kind;
    switch (o.kind) {
      case Kind::kCopyOut:
        EXPECT_TRUE(copy_out(range(untrusted_, o.to, o.size), bytes(inside + o.from, o.size)).ok());
        std::memcpy(expected_outside.data() + o.to, trusted.data() + o.from, o.size);
        break;
      case Kind::kCopyOutPadded: {
        const Status done =
            copy_out_padded(range(untrusted_, o.to, o.size), bytes(inside + o.from, o.size));
        EXPECT_EQ(done.error(), o.to % 8 == 0 ? Error::kNone : Error::kInvalidArgument);
        if (!done.ok()) break;
        std::memcpy(expected_outside.data() + o.to, trusted.data() + o.from, o.size);
        for (std::size_t i = o.to + o.size; i % 8 != 0; ++i) expected_outside[i] = 0;
        break;
      }
      case Kind::kCopyIn:
        EXPECT_TRUE(
            copy_in(bytes(inside + o.to, o.size), const_range(untrusted_, o.from, o.size)).ok());
        std::memcpy(expected_trusted.data() + o.to, outside.data() + o.from, o.size);
        break;
      case Kind::kFillZero:
        fill_zero(range(untrusted_, o.to, o.size));
        std::memset(expected_outside.data() + o.to, 0, o.size);
        break;
      case Kind::kCopyAcross:
        EXPECT_TRUE(
            copy_across(range(untrusted_, o.to, o.size), const_range(other_, o.from, o.size)).ok());
        std::memcpy(expected_outside.data() + o.to, other.data() + o.from, o.size);
        break;
      case Kind::kCopyInReported: {
        const Result<std::size_t> count = copy_in_reported(
            bytes(inside + o.to, o.size), const_range(untrusted_, o.from, o.size), o.number);
        EXPECT_EQ(count.error(), o.number > o.size ? Error::kHostLied : Error::kNone);
        if (!count.ok()) break;
        EXPECT_EQ(*count, o.number);
        std::memset(expected_trusted.data() + o.to, 0, o.size);
        std::memcpy(expected_trusted.data() + o.to, outside.data() + o.from, *count);
        break;
      }
      case Kind::kCopyInString: {
        const std::span<char> into(reinterpret_cast<char*>(inside + o.to), o.size);
        const Result<std::size_t> length =
            copy_in_string(into, const_range(untrusted_, o.from, o.size));
        const void* const end =
            o.size == 0 ? nullptr : std::memchr(outside.data() + o.from, 0, o.size);
        EXPECT_EQ(length.error(), o.size == 0      ? Error::kInvalidArgument
                                  : end == nullptr ? Error::kHostLied
                                                   : Error::kNone);
        std::memset(expected_trusted.data() + o.to, 0, o.size);
        if (end == nullptr) break;
        const auto plain = static_cast<std::size_t>(static_cast<const std::uint8_t*>(end) -
                                                    (outside.data() + o.from));
        EXPECT_EQ(*length, plain);
        std::memcpy(expected_trusted.data() + o.to, outside.data() + o.from, plain);
        break;
      }
      case Kind::kStoreU64: {
        const std::size_t at = o.to / 8 * 8;
        detail::store_u64(untrusted_.address() + at, o.number);
        std::memcpy(expected_outside.data() + at, &o.number, 8);
        break;
      }
      case Kind::kStoreU32: {
        const std::size_t at = o.to / 4 * 4;
        const auto value = static_cast<std::uint32_t>(o.number);
        detail::store_u32(untrusted_.address() + at, value);
        std::memcpy(expected_outside.data() + at, &value, 4);
        break;
      }
      case Kind::kLoad: {
        std::uint64_t word = 0;
        std::memcpy(&word, outside.data() + o.from / 8 * 8, 8);
        EXPECT_EQ(detail::load_u64(untrusted_.address() + o.from / 8 * 8), word);
        std::uint32_t half = 0;
        std::memcpy(&half, outside.data() + o.from / 4 * 4, 4);
        EXPECT_EQ(detail::load_u32(untrusted_.address() + o.from / 4 * 4), half);
        break;
      }
    }
    EXPECT_TRUE(trusted_.copy() == expected_trusted);
    EXPECT_TRUE(untrusted_.copy() == expected_outside);
    EXPECT_TRUE(other_.copy() == other);
  }

 private:
  static std::span<std::byte> bytes(std::uint8_t* at, std::size_t size) {
    return {reinterpret_cast<std::byte*>(at), size};
  }
  static untrusted_span<std::byte> range(const FencedMemory& memory, std::size_t offset,
                                         std::size_t size) {
    return untrusted_span<std::byte>::unsafe_from(
        untrusted_bytes::unsafe_from_address(memory.address() + offset), size);
  }
  static untrusted_span<const std::byte> const_range(const FencedMemory& memory, std::size_t offset,
                                                     std::size_t size) {
    return range(memory, offset, size);
  }

  FencedMemory trusted_;
  FencedMemory untrusted_;
  FencedMemory other_;
};

inline std::string cpp_of(const AccessOp& o) {
  return cpp_call("fuzz::AccessOp", cpp_enum("fuzz::AccessOp::Kind", o.kind), o.to, o.from, o.size,
                  o.number, o.seed);
}

}  // namespace exclave::fuzz
