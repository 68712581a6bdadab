// Text without a libc: looking at strings, and writing lines of bounded length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "loader/syscalls.hpp"

extern "C" {
void* memcpy(void* to, const void* from, std::size_t bytes);
void* memmove(void* to, const void* from, std::size_t bytes);
void* memset(void* to, int value, std::size_t bytes);
int memcmp(const void* a, const void* b, std::size_t bytes);
std::size_t strlen(const char* text);
}

namespace exclave::loader {

// substr, without the exception that ours cannot throw. Preconditions: so many there are.
constexpr std::string_view first_of(std::string_view text, std::size_t count) noexcept {
  return {text.data(), count};
}
constexpr std::string_view all_after(std::string_view text, std::size_t count) noexcept {
  return {text.data() + count, text.size() - count};
}
// Takes what stands before the mark, or all, off the text, and the mark with it.
constexpr std::string_view take_before(std::string_view* text, char mark) noexcept {
  std::size_t end = 0;
  while (end < text->size() && (*text)[end] != mark) ++end;
  const std::string_view taken = first_of(*text, end);
  *text = all_after(*text, end < text->size() ? end + 1 : end);
  return taken;
}
constexpr bool starts_with(std::string_view text, std::string_view start) noexcept {
  return text.size() >= start.size() && first_of(text, start.size()) == start;
}

// A line that is cut where it would not fit. One write, so that threads do not mix.
template <std::size_t kBytes>
class Line {
 public:
  Line& text(std::string_view more) noexcept {
    for (const char c : more) put(c);
    return *this;
  }
  Line& put(char c) noexcept {
    if (size_ < kBytes) bytes_[size_++] = c;
    return *this;
  }
  Line& decimal(std::int64_t value) noexcept {
    if (value < 0) put('-');
    return digits(value < 0 ? std::uint64_t{0} - static_cast<std::uint64_t>(value)
                            : static_cast<std::uint64_t>(value),
                  10);
  }
  Line& unsigned_decimal(std::uint64_t value) noexcept { return digits(value, 10); }
  Line& hex(std::uint64_t value) noexcept { return text("0x").digits(value, 16); }
  Line& octal(std::uint64_t value) noexcept { return put('0').digits(value, 8); }
  std::string_view view() const noexcept { return {bytes_, size_}; }
  // Zero-terminated, for paths; the last byte goes when there is no room.
  const char* c_string() noexcept {
    bytes_[size_ < kBytes ? size_ : kBytes - 1] = 0;
    return bytes_;
  }
  void write_to(int descriptor) noexcept {
    if (size_ == kBytes) bytes_[kBytes - 1] = '\n';
    (void)system_call(__NR_write, descriptor, bytes_, size_);
  }

 private:
  Line& digits(std::uint64_t value, unsigned base) noexcept {
    char reversed[24];
    int count = 0;
    do {
      reversed[count++] = "0123456789abcdef"[value % base];
      value /= base;
    } while (value != 0);
    while (count > 0) put(reversed[--count]);
    return *this;
  }

  char bytes_[kBytes];
  std::size_t size_ = 0;
};

// Parses all of the text; false leaves the value alone.
inline bool parse_number(std::string_view text, std::uint64_t* value) noexcept {
  if (text.empty()) return false;
  std::uint64_t sum = 0;
  for (const char c : text) {
    if (c < '0' || c > '9' || __builtin_mul_overflow(sum, std::uint64_t{10}, &sum) ||
        __builtin_add_overflow(sum, static_cast<std::uint64_t>(c - '0'), &sum)) {
      return false;
    }
  }
  *value = sum;
  return true;
}

}  // namespace exclave::loader
