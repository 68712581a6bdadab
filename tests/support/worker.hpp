// A thread that does what it is told, one thing after another. And how to tell that one waits.
#pragma once

#include <pthread.h>
#include <time.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>

namespace exclave::testing_support {

// False: the thread is not done, and waits for another one. By the processor time that it has
// spun away, for on a busy machine it may stand still anywhere; one that sleeps gets little longer.
inline constexpr std::chrono::microseconds kLittle{5000};
template <class Done>
bool done_before_it_waits(pthread_t thread, const Done& done,
                          std::chrono::microseconds most_run = kLittle) {
  using Time = std::chrono::nanoseconds;
  clockid_t clock{};
  const bool has_clock = pthread_getcpuclockid(thread, &clock) == 0;  // else it has ended
  const auto ran_for = [&] {
    timespec ran{};
    if (has_clock) (void)clock_gettime(clock, &ran);
    return Time(std::chrono::seconds(ran.tv_sec)) + Time(ran.tv_nsec);
  };
  const auto most = ran_for() + most_run;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(250);
  while (!done() && ran_for() < most && std::chrono::steady_clock::now() < end)
    std::this_thread::yield();
  return done();
}

class Worker {
 public:
  Worker() : thread_([this] { work(); }) {}
  ~Worker() {
    run(nullptr);
    thread_.join();
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Returns when it is done.
  void run(std::function<void()> task) {
    start(std::move(task));
    turn_.wait(1);
  }
  void start(std::function<void()> task) {
    task_ = std::move(task);
    turn_.store(1);
    turn_.notify_one();
  }
  void wait() { turn_.wait(1); }
  // False: it is not done yet. It may want a lock that the stopped thread holds.
  bool wait_a_little(std::chrono::microseconds most = kLittle) {
    return done_before_it_waits(
        thread_.native_handle(), [this] { return turn_.load() == 0; }, most);
  }

 private:
  void work() {
    for (bool more = true; more;) {
      turn_.wait(0);
      more = task_ != nullptr;
      if (more) task_();
      turn_.store(0);
      turn_.notify_one();
    }
  }

  std::function<void()> task_;
  std::atomic<int> turn_{0};
  std::thread thread_;
};

}  // namespace exclave::testing_support
