// Host replies that were refused because they contradict the enclave side's own books: one counter
// for each kind.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace exclave::tools {

enum class Attack : std::uint8_t {
  kCompletionUnknown,   // for nothing in flight
  kCompletionTwice,     // of a request that is complete already
  kCompletionStale,     // of an earlier use of a slot that is in flight again
  kResultTooLong,       // more bytes than were asked for
  kResultUndocumented,  // an errno that no read or write has
  kTailJump,            // more completions than the queue holds
  kTailBackwards,       // the completion queue's tail went back
  kHeadNonsense,        // the submission queue's head passed its tail, or went back
  kTooManySubmitted,    // more entries taken than were queued
  kRingGeometry,        // a ring whose parts do not lie in its memory
  kPoolRange,           // pool memory that fails verification
  kCount,
};

// One line for people; never null.
constexpr const char* attack_text(Attack attack) noexcept {
  switch (attack) {
    case Attack::kCompletionUnknown:
      return "completion for nothing in flight";
    case Attack::kCompletionTwice:
      return "completion that came twice";
    case Attack::kCompletionStale:
      return "completion of an earlier request";
    case Attack::kResultTooLong:
      return "result longer than asked";
    case Attack::kResultUndocumented:
      return "errno that no read or write has";
    case Attack::kTailJump:
      return "completion tail beyond the queue";
    case Attack::kTailBackwards:
      return "completion tail that went back";
    case Attack::kHeadNonsense:
      return "submission head out of order";
    case Attack::kTooManySubmitted:
      return "more submitted than queued";
    case Attack::kRingGeometry:
      return "ring parts outside its memory";
    case Attack::kPoolRange:
      return "pool memory that is not outside";
    case Attack::kCount:
      break;
  }
  return "unknown";
}

class AttackLog {
 public:
  static constexpr std::size_t kKinds = static_cast<std::size_t>(Attack::kCount);

  void refuse(Attack attack) noexcept { ++counts_[static_cast<std::size_t>(attack)]; }
  std::uint64_t count(Attack attack) const noexcept {
    return counts_[static_cast<std::size_t>(attack)];
  }
  std::uint64_t total() const noexcept {
    std::uint64_t sum = 0;
    for (const std::uint64_t count : counts_) {
      sum += count;
    }
    return sum;
  }

 private:
  std::array<std::uint64_t, kKinds> counts_{};
};

}  // namespace exclave::tools
