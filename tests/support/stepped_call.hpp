// Stops a call after any one of its instructions, by the trap flag, and does something else there:
// in a signal handler of the same thread, or on another one that the handler waits for.
#pragma once

#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <functional>

namespace exclave::testing_support {

// Loads and stores stand far apart in code that is not optimised, so there every few instructions
// will do.
#if defined(NDEBUG)
inline constexpr std::uint64_t kStride = 1;
#else
inline constexpr std::uint64_t kStride = 7;
#endif

// Of the one thread that is stepped.
class SteppedCall {
 public:
  SteppedCall() {
    struct sigaction action {};
    action.sa_sigaction = &on_trap;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, &before_);
  }
  ~SteppedCall() { sigaction(SIGTRAP, &before_, nullptr); }
  SteppedCall(const SteppedCall&) = delete;
  SteppedCall& operator=(const SteppedCall&) = delete;

  // Runs the body with `inside` after its n-th instruction, which may ask for a further stop by
  // stop_again. False: the body has fewer.
  static bool stopped_at(std::uint64_t n, const std::function<void()>& body,
                         const std::function<void()>& inside) {
    inside_ = &inside;
    steps_ = 0;
    target_ = n;
    // Around the red zone.
    __asm__ volatile(
        "leaq -128(%%rsp), %%rsp\n pushfq\n orq $0x100, (%%rsp)\n popfq\n leaq 128(%%rsp), "
        "%%rsp" ::
            : "memory", "cc");
    body();
    __asm__ volatile(
        "leaq -128(%%rsp), %%rsp\n pushfq\n andq $~0x100, (%%rsp)\n popfq\n leaq 128(%%rsp), "
        "%%rsp" ::
            : "memory", "cc");
    return steps_ >= n;
  }
  // After so many more instructions.
  static void stop_again(std::uint64_t more) { target_ = steps_ + more; }

 private:
  static void on_trap(int, siginfo_t*, void* context) {
    steps_ = steps_ + 1;
    if (steps_ != target_) return;
    (*inside_)();
    if (steps_ < target_) return;
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~greg_t{0x100};
  }

  static inline volatile std::uint64_t steps_ = 0;
  static inline volatile std::uint64_t target_ = 0;
  static inline const std::function<void()>* inside_ = nullptr;
  struct sigaction before_ {};
};

}  // namespace exclave::testing_support
