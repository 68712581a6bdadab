// The one clock of a run, and the last calls of each of its threads.
#pragma once

#include <array>
#include <atomic>
#include <cinttypes>
#include <cstdint>
#include <cstdio>

#include "exclave/result.hpp"
#include "exclave/untrusted.hpp"
#include "soak/history.hpp"
#include "soak/subject.hpp"

namespace exclave::soak {

inline std::atomic<Stamp> ticks{1};
inline Stamp tick() {
  return ticks.fetch_add(1);
}

// xorshift; usable in a signal handler.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du) {
    for (int i = 0; i < 4; ++i) (void)next();
  }
  std::uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  std::uint64_t below(std::uint64_t n) { return (next() >> 11) % n; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }

 private:
  std::uint64_t state_;
};

struct Call {
  const char* name = nullptr;
  std::uintptr_t first = 0;
  std::uint64_t second = 0;
  Error answer = Error::kNone;
  std::uintptr_t result = 0;
  Window window{};
};

inline std::uintptr_t address_in(const Result<untrusted_bytes>& answer) {
  return answer.value().address();
}
inline std::uintptr_t address_in(const Result<Subject::Handle>& answer) {
  return answer.value().block.address();
}
template <class Answer>
std::uintptr_t address_in(const Answer&) {
  return 0;
}

// Written by its thread alone; told when the thread has ended, or hangs.
class Journal {
 public:
  // Makes one call, stamps it and writes it down.
  template <class Function>
  auto stamped(Window* window, const char* name, std::uintptr_t first, std::uint64_t second,
               const Function& function) {
    Call& call = calls_[count_++ % calls_.size()];
    const Stamp before = tick();
    call = {name, first, second, Error::kNone, 0, {before, kNever}};
    window->before = before;
    const auto answer = function();
    window->after = tick();
    // Calls from callbacks may have taken the place meanwhile.
    if (call.window.before == before) {
      call.window.after = window->after;
      call.answer = answer.error();
      call.result = address_in(answer);
    }
    return answer;
  }

  void tell(unsigned thread, const char* where) const {
    std::fprintf(stderr, "last calls of thread %u%s:\n", thread, where);
    for (std::size_t i = count_ > calls_.size() ? count_ - calls_.size() : 0; i != count_; ++i) {
      const Call& call = calls_[i % calls_.size()];
      std::fprintf(stderr,
                   "  [%" PRIu64 ", %" PRId64 "] %s(0x%" PRIxPTR ", %" PRIu64 ") -> 0x%" PRIxPTR
                   " %s\n",
                   call.window.before, static_cast<std::int64_t>(call.window.after), call.name,
                   call.first, call.second, call.result, error_text(call.answer));
    }
  }

 private:
  std::array<Call, 40> calls_{};
  std::size_t count_ = 0;
};

}  // namespace exclave::soak
