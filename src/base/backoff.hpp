// The wait between two looks at what another thread is to change.
#pragma once

namespace exclave {

// Holding no lock: the other thread needs it to be done, and who takes a spin lock again at once
// may keep him out for seconds, for on another processor it never looks free. Spins twice as long
// after each look, up to kMost; does not sleep, for the host decides when a sleeper wakes.
class Backoff {
 public:
  void wait() noexcept {
    for (unsigned i = 0; i < pauses_; ++i) __builtin_ia32_pause();
    if (pauses_ < kMost) pauses_ *= 2;
  }
  // At its longest wait: most of what threads wait for is over by then.
  bool is_long() const noexcept { return pauses_ == kMost; }

 private:
  static constexpr unsigned kMost = 256;  // some 10 microseconds
  unsigned pauses_ = 1;
};

}  // namespace exclave
