// Crossing the boundary: what goes out is exactly what the caller wrote, what comes in is a copy,
// fetched once.
//
// For all functions here: untrusted ranges are proofs (untrusted.hpp) and are not checked again;
// they are really mapped, or the access faults. Trusted pointers and spans are the caller's and
// must not overlap untrusted memory. No host call, no allocation, no lock; safe from any thread and
// signal handler. What a copy reads while the host or another thread writes is any mix of old and
// new bytes, but each byte is read once. The direction flag may be set on entry to the detail::
// functions.
//
// Cost: whole aligned words are stored as fast as memcpy does it where the port has 32-byte
// registers (exclave_port::has_avx), 16 bytes at a time elsewhere (docs have figures). Each byte
// before the first or after the last word boundary of an untrusted destination costs a VERW and two
// fences, some 50 to 100 ns (INTEL-SA-00615), which copy_out_padded avoids. Loads need no fences:
// INTEL-SA-00657 wants aligned words, which are read whole, so up to 7 bytes on either side of the
// wanted ones are loaded and dropped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "exclave/boundary_safe.hpp"
#include "exclave/config.hpp"
#include "exclave/result.hpp"
#include "exclave/untrusted.hpp"

namespace exclave {

namespace detail {

// The functions that move bytes. Addresses are untrusted and validated, pointers trusted; sizes in
// bytes, 0 does nothing. Neither range may wrap, and they may not overlap. These cannot fail.

// From now on copies may use AVX. Allocator::create calls it when the port says so.
EXCLAVE_API void use_wide_registers() noexcept;

EXCLAVE_API void copy_out_bytes(std::uintptr_t dst, const void* src,
                                std::size_t size_bytes) noexcept;
// dst is 8-aligned. Also writes zeros from dst + size_bytes up to the next multiple of 8.
EXCLAVE_API void copy_out_padded_bytes(std::uintptr_t dst, const void* src,
                                       std::size_t size_bytes) noexcept;
EXCLAVE_API void copy_in_bytes(void* dst, std::uintptr_t src, std::size_t size_bytes) noexcept;
EXCLAVE_API void fill_zero_bytes(std::uintptr_t dst, std::size_t size_bytes) noexcept;
// Untrusted to untrusted. Fast when both are 8-aligned.
EXCLAVE_API void copy_across_bytes(std::uintptr_t dst, std::uintptr_t src,
                                   std::size_t size_bytes) noexcept;

// One access each, acquire or release; naturally aligned.
EXCLAVE_API std::uint64_t load_u64(std::uintptr_t src) noexcept;
EXCLAVE_API std::uint32_t load_u32(std::uintptr_t src) noexcept;
EXCLAVE_API void store_u64(std::uintptr_t dst, std::uint64_t value) noexcept;
EXCLAVE_API void store_u32(std::uintptr_t dst, std::uint32_t value) noexcept;

template <std::size_t kBytes>
struct RawBytes {
  unsigned char bytes[kBytes];
};

}  // namespace detail

// ---- Ranges ----

// Writes all of src to the start of dst. Errors: kInvalidArgument (dst is shorter; nothing
// written).
template <MutableBoundarySafe T>
Status copy_out(untrusted_span<T> dst, std::span<const std::type_identity_t<T>> src) noexcept {
  if (src.size() > dst.size()) return Error::kInvalidArgument;
  detail::copy_out_bytes(dst.address(), src.data(), src.size_bytes());
  return {};
}

// The same without a slow tail: writes zeros up to the next multiple of 8 after it. The caller
// vouches that those up to 7 bytes are his: they are in every block of the allocator, whose slots
// end on a multiple of 8. Errors: kInvalidArgument (dst is shorter, or not 8-aligned; nothing
// written).
inline Status copy_out_padded(untrusted_span<std::byte> dst,
                              std::span<const std::byte> src) noexcept {
  if (src.size() > dst.size() || dst.address() % 8 != 0) return Error::kInvalidArgument;
  detail::copy_out_padded_bytes(dst.address(), src.data(), src.size());
  return {};
}

// Fills all of dst from the start of src: after success no byte of dst is a leftover.
// Errors: kInvalidArgument (src is shorter; dst unchanged).
template <MutableBoundarySafe T, std::size_t N>
Status copy_in(std::span<T, N> dst, untrusted_span<const std::type_identity_t<T>> src) noexcept {
  if (dst.size() > src.size()) return Error::kInvalidArgument;
  detail::copy_in_bytes(dst.data(), src.address(), dst.size_bytes());
  return {};
}

// For a count of bytes that the host reported, such as the result of a read into src: copies that
// many to the start of dst, writes zeros to the rest of dst, and answers the count. dst must be
// able to hold all of src. Errors: kInvalidArgument (dst is shorter than src), kHostLied (more than
// src holds); dst unchanged.
inline Result<std::size_t> copy_in_reported(std::span<std::byte> dst,
                                            untrusted_span<const std::byte> src,
                                            std::uint64_t reported_bytes) noexcept {
  if (dst.size() < src.size()) return Error::kInvalidArgument;
  if (reported_bytes > src.size()) return Error::kHostLied;
  const auto count = static_cast<std::size_t>(reported_bytes);
  detail::copy_in_bytes(dst.data(), src.address(), count);
  for (std::size_t i = count; i < dst.size(); ++i) dst[i] = std::byte{0};
  return count;
}

// Fetches a string once, as many bytes as fit in both, then looks for its terminator in the copy.
// Answers its length without the terminator; everything behind it in dst is zero. The string itself
// is whatever the host likes. Errors: kInvalidArgument (dst empty), kHostLied (no terminator among
// the bytes fetched; dst is all zero). Cost: the smaller size, however short the string.
inline Result<std::size_t> copy_in_string(std::span<char> dst,
                                          untrusted_span<const std::byte> src) noexcept {
  if (dst.empty()) return Error::kInvalidArgument;
  const std::size_t fetched = dst.size() < src.size() ? dst.size() : src.size();
  detail::copy_in_bytes(dst.data(), src.address(), fetched);
  std::size_t length = 0;
  while (length < fetched && dst[length] != '\0') ++length;
  const bool terminated = length < fetched;
  for (std::size_t i = terminated ? length : 0; i < dst.size(); ++i) dst[i] = '\0';
  if (!terminated) return Error::kHostLied;
  return length;
}

// Writes zeros to all of dst.
template <MutableBoundarySafe T>
void fill_zero(untrusted_span<T> dst) noexcept {
  detail::fill_zero_bytes(dst.address(), dst.size_bytes());
}

// Copies all of src to the start of dst, both untrusted, not overlapping. Errors: kInvalidArgument
// (dst is shorter; nothing written).
inline Status copy_across(untrusted_span<std::byte> dst,
                          untrusted_span<const std::byte> src) noexcept {
  if (src.size() > dst.size()) return Error::kInvalidArgument;
  detail::copy_across_bytes(dst.address(), src.address(), src.size());
  return {};
}

// ---- Objects ----

// Writes one object; not as one access. Precondition: not null.
template <MutableBoundarySafeObject T>
void store(untrusted_ptr<T> dst, const std::type_identity_t<T>& value) noexcept {
  detail::copy_out_bytes(dst.address(), &value, sizeof(T));
}

// A copy of one object; not as one access, but each byte is read once. Precondition: not null.
template <BoundarySafeObject T>
std::remove_const_t<T> load(untrusted_ptr<T> src) noexcept {
  detail::RawBytes<sizeof(T)> raw;
  detail::copy_in_bytes(&raw, src.address(), sizeof(T));
  return __builtin_bit_cast(std::remove_const_t<T>, raw);
}

// An index or flag word that a device or peer accesses at the same time, as in the rings of
// io_uring: each operation is one access. Aligned by construction.
template <class T>
class untrusted_atomic {
  static_assert(std::is_same_v<std::remove_const_t<T>, std::uint32_t> ||
                    std::is_same_v<std::remove_const_t<T>, std::uint64_t>,
                "exclave: untrusted_atomic is of std::uint32_t or std::uint64_t");

 public:
  using value_type = std::remove_const_t<T>;

  // Errors: kInvalidArgument (null, or not naturally aligned).
  static constexpr Result<untrusted_atomic> at(untrusted_ptr<T> word) noexcept {
    if (!word || word.address() % sizeof(T) != 0) return Error::kInvalidArgument;
    untrusted_atomic atomic;
    atomic.word_ = word;
    return atomic;
  }

  // Names no word; only for a place that at() fills later.
  constexpr untrusted_atomic() noexcept = default;
  constexpr untrusted_ptr<T> word() const noexcept { return word_; }

  // What the other side wrote before its release store of this value is read after it. A 4-byte
  // value is cut out of the aligned 8 bytes that hold it.
  value_type load_acquire() const noexcept {
    if constexpr (sizeof(T) == 8) {
      return detail::load_u64(word_.address());
    } else {
      return detail::load_u32(word_.address());
    }
  }

  // What was written before is seen before the value. 8 bytes: a plain store. 4 bytes: VERW and two
  // fences (INTEL-SA-00615), so also a full barrier.
  void store_release(value_type value) const noexcept requires(!std::is_const_v<T>) {
    if constexpr (sizeof(T) == 8) {
      detail::store_u64(word_.address(), value);
    } else {
      detail::store_u32(word_.address(), value);
    }
  }

 private:
  untrusted_ptr<T> word_;
};

}  // namespace exclave
