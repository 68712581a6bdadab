// How a range is cut into accesses that the rules of machine_bus.hpp allow, whatever its alignment
// and length.
//
// Only the untrusted side is aligned; the trusted side may lie anywhere. A template over the bus,
// so that tests can put a recording one in and see each access.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace exclave::access {

inline constexpr std::size_t kWord = 8;

template <class B>
concept Bus = requires(std::uintptr_t untrusted, std::uint8_t* trusted, std::size_t words,
                       std::uint64_t value) {
  B::store_byte_fenced(untrusted, std::uint8_t{});
  B::store_word(untrusted, value);
  B::store_pair(untrusted, trusted);
  B::store_line(untrusted, trusted);
  { B::has_wide() } -> std::same_as<bool>;
  B::store_wide(untrusted, trusted);
  B::store_wide_line(untrusted, trusted);
  B::end_wide();
  B::store_words(untrusted, trusted, words);
  B::zero_pair(untrusted);
  B::zero_line(untrusted);
  B::zero_words(untrusted, words);
  value = B::load_word(untrusted);
  B::load_pair(trusted, untrusted);
  B::load_line(trusted, untrusted);
  B::load_words(trusted, untrusted, words);
  B::move_words(untrusted, untrusted, words);
};

// From here on a string instruction wins over a loop; measured on Zen 4.
inline constexpr std::size_t kStringStoreBytes = 1024;
inline constexpr std::size_t kStringLoadBytes = 768;
// Above this, wide stores that cross a line cost more than aligning the destination first.
inline constexpr std::size_t kUnalignedWideBytes = 256;

// ---- Trusted side only ----

[[gnu::always_inline]] inline void put_word(std::uint8_t* dst, std::uint64_t word) noexcept {
  __builtin_memcpy(dst, &word, kWord);
}

// The low count (< 8) bytes of a word, at any alignment.
[[gnu::always_inline]] inline void put_low_bytes(std::uint8_t* dst, std::uint64_t word,
                                                 std::size_t count) noexcept {
  if ((count & 4) != 0) {
    __builtin_memcpy(dst, &word, 4);
    dst += 4;
    word >>= 32;
  }
  if ((count & 2) != 0) {
    __builtin_memcpy(dst, &word, 2);
    dst += 2;
    word >>= 16;
  }
  if ((count & 1) != 0) *dst = static_cast<std::uint8_t>(word);
}

// count (< 8) bytes as the low ones of a word; the others are zero.
[[gnu::always_inline]] inline std::uint64_t get_low_bytes(const std::uint8_t* src,
                                                          std::size_t count) noexcept {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < count; ++i) word |= std::uint64_t{src[i]} << (8 * i);
  return word;
}

// ---- Whole words: the untrusted side is 8-aligned, bytes is a multiple of 8 ----

// Ends overlap rather than branch: a word may be written twice, with the same value.

// At least 64 bytes, 32 at a time.
template <Bus B>
[[gnu::always_inline]] inline void copy_out_wide(std::uintptr_t dst, const std::uint8_t* src,
                                                 std::size_t bytes) noexcept {
  if (bytes <= kUnalignedWideBytes) {
    const std::size_t last = bytes - 64;
    for (std::size_t done = 0; done < last; done += 64) B::store_wide_line(dst + done, src + done);
    B::store_wide_line(dst + last, src + last);
  } else {
    const std::size_t last = bytes - 128;
    B::store_wide(dst, src);
    for (std::size_t done = -dst % 32; done < last; done += 128) {
      B::store_wide_line(dst + done, src + done);
      B::store_wide_line(dst + done + 64, src + done + 64);
    }
    B::store_wide_line(dst + last, src + last);
    B::store_wide_line(dst + last + 64, src + last + 64);
  }
  B::end_wide();
}

template <Bus B>
[[gnu::always_inline]] inline void copy_out_words(std::uintptr_t dst, const std::uint8_t* src,
                                                  std::size_t bytes) noexcept {
  if (bytes >= 64 && B::has_wide()) {
    copy_out_wide<B>(dst, src, bytes);
  } else if (bytes >= kStringStoreBytes) {
    B::store_words(dst, src, bytes / kWord);
  } else if (bytes >= 64) {
    const std::size_t last = bytes - 64;
    for (std::size_t done = 0; done < last; done += 64) B::store_line(dst + done, src + done);
    B::store_line(dst + last, src + last);
  } else if (bytes >= 16) {
    if (bytes > 32) {
      B::store_pair(dst + 16, src + 16);
      B::store_pair(dst + bytes - 32, src + bytes - 32);
    }
    B::store_pair(dst, src);
    B::store_pair(dst + bytes - 16, src + bytes - 16);
  } else if (bytes != 0) {
    std::uint64_t word;
    __builtin_memcpy(&word, src, kWord);
    B::store_word(dst, word);
  }
}

// Each word is loaded once.
template <Bus B>
[[gnu::always_inline]] inline void copy_in_words(std::uint8_t* dst, std::uintptr_t src,
                                                 std::size_t bytes) noexcept {
  if (bytes >= kStringLoadBytes) {
    B::load_words(dst, src, bytes / kWord);
    return;
  }
  for (; bytes >= 64; bytes -= 64, dst += 64, src += 64) B::load_line(dst, src);
  for (; bytes >= 16; bytes -= 16, dst += 16, src += 16) B::load_pair(dst, src);
  if (bytes != 0) put_word(dst, B::load_word(src));
}

template <Bus B>
[[gnu::always_inline]] inline void zero_out_words(std::uintptr_t dst, std::size_t bytes) noexcept {
  if (bytes >= kStringStoreBytes) {
    B::zero_words(dst, bytes / kWord);
  } else if (bytes >= 64) {
    const std::size_t last = bytes - 64;
    for (std::size_t done = 0; done < last; done += 64) B::zero_line(dst + done);
    B::zero_line(dst + last);
  } else if (bytes >= 16) {
    if (bytes > 32) {
      B::zero_pair(dst + 16);
      B::zero_pair(dst + bytes - 32);
    }
    B::zero_pair(dst);
    B::zero_pair(dst + bytes - 16);
  } else if (bytes != 0) {
    B::store_word(dst, 0);
  }
}

template <Bus B>
[[gnu::always_inline]] inline void copy_across_words(std::uintptr_t dst, std::uintptr_t src,
                                                     std::size_t bytes) noexcept {
  if (bytes >= kStringLoadBytes) {
    B::move_words(dst, src, bytes / kWord);
    return;
  }
  for (; bytes != 0; bytes -= kWord, dst += kWord, src += kWord)
    B::store_word(dst, B::load_word(src));
}

// ---- Any address, any length; the ranges do not wrap and do not overlap ----

// Fewer than 8 bytes that do not fill a word, each with its own fences: some 50 ns a byte. Kept out
// of the fast path.
template <Bus B>
[[gnu::noinline, gnu::cold]] void copy_out_partial_slow(std::uintptr_t dst, const std::uint8_t* src,
                                                        std::size_t size) noexcept {
  for (std::size_t i = 0; i < size; ++i) B::store_byte_fenced(dst + i, src[i]);
}

template <Bus B>
[[gnu::noinline, gnu::cold]] void zero_partial_slow(std::uintptr_t dst, std::size_t size) noexcept {
  for (std::size_t i = 0; i < size; ++i) B::store_byte_fenced(dst + i, 0);
}

// Bytes from an address up to the next word boundary, but at most size.
[[gnu::always_inline]] constexpr std::size_t head_bytes(std::uintptr_t address,
                                                        std::size_t size) noexcept {
  const std::size_t head = -address % kWord;
  return head < size ? head : size;
}

template <Bus B>
[[gnu::noinline]] void copy_out_ends_slow(std::uintptr_t dst, const std::uint8_t* src,
                                          std::size_t size) noexcept {
  const std::size_t head = head_bytes(dst, size);
  copy_out_partial_slow<B>(dst, src, head);
  dst += head;
  src += head;
  size -= head;
  const std::size_t body = size / kWord * kWord;
  copy_out_words<B>(dst, src, body);
  copy_out_partial_slow<B>(dst + body, src + body, size - body);
}

// What has partial words is called last, so that the rest needs no stack.
template <Bus B>
[[gnu::always_inline]] inline void copy_out(std::uintptr_t dst, const std::uint8_t* src,
                                            std::size_t size) noexcept {
  if ((dst | size) % kWord == 0) [[likely]] {
    copy_out_words<B>(dst, src, size);
  } else {
    copy_out_ends_slow<B>(dst, src, size);
  }
}

// dst is 8-aligned. Writes zeros from the end up to the next multiple of 8, so that no byte needs a
// fence.
template <Bus B>
[[gnu::always_inline]] inline void copy_out_padded(std::uintptr_t dst, const std::uint8_t* src,
                                                   std::size_t size) noexcept {
  const std::size_t body = size / kWord * kWord;
  copy_out_words<B>(dst, src, body);
  if (size == body) return;
  std::uint64_t word;
  if (size > kWord) [[likely]] {
    // The last 8 bytes, without those that are out already.
    __builtin_memcpy(&word, src + size - kWord, kWord);
    word >>= 8 * (kWord - (size - body));
  } else {
    word = get_low_bytes(src, size);
  }
  B::store_word(dst + body, word);
}

// Reads the aligned words that hold the wanted bytes, so it never touches a page that they do not
// touch.
template <Bus B>
[[gnu::always_inline]] inline void copy_in(std::uint8_t* dst, std::uintptr_t src,
                                           std::size_t size) noexcept {
  const std::size_t before = src % kWord;
  if (before != 0 && size != 0) {
    const std::size_t wanted = size < kWord - before ? size : kWord - before;
    put_low_bytes(dst, B::load_word(src - before) >> (8 * before), wanted);
    dst += wanted;
    src += wanted;
    size -= wanted;
  }
  const std::size_t body = size / kWord * kWord;
  copy_in_words<B>(dst, src, body);
  if (size != body) put_low_bytes(dst + body, B::load_word(src + body), size - body);
}

template <Bus B>
[[gnu::always_inline]] inline void fill_zero(std::uintptr_t dst, std::size_t size) noexcept {
  if (const std::size_t head = head_bytes(dst, size); head != 0) [[unlikely]] {
    zero_partial_slow<B>(dst, head);
    dst += head;
    size -= head;
  }
  const std::size_t body = size / kWord * kWord;
  zero_out_words<B>(dst, body);
  if (size != body) [[unlikely]]
    zero_partial_slow<B>(dst + body, size - body);
}

// Untrusted to untrusted. Words when both sides are aligned, else through trusted memory.
template <Bus B>
[[gnu::always_inline]] inline void copy_across(std::uintptr_t dst, std::uintptr_t src,
                                               std::size_t size) noexcept {
  if (dst % kWord == 0 && src % kWord == 0) {
    const std::size_t body = size / kWord * kWord;
    copy_across_words<B>(dst, src, body);
    dst += body;
    src += body;
    size -= body;
  }
  std::uint8_t bounce[512];
  while (size != 0) {
    // The first piece ends on a word boundary of dst, so the later ones start on one.
    const std::size_t room = sizeof bounce - dst % kWord;
    const std::size_t piece = size < room ? size : room;
    copy_in<B>(bounce, src, piece);
    copy_out<B>(dst, bounce, piece);
    dst += piece;
    src += piece;
    size -= piece;
  }
}

}  // namespace exclave::access
