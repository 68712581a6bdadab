// A lock guard for this port. The library links without a C++ run-time library, so std::mutex is
// out of reach.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace exclave::process {

// Holds a mutex with all signals blocked: a handler that comes back into the port finds no lock of
// its own thread taken.
class [[nodiscard]] Guard {
 public:
  explicit Guard(pthread_mutex_t& mutex) noexcept : mutex_(mutex) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
    pthread_mutex_lock(&mutex_);
  }
  ~Guard() {
    pthread_mutex_unlock(&mutex_);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  pthread_mutex_t& mutex_;
  sigset_t before_;
};

}  // namespace exclave::process
