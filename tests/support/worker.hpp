// A thread that does what it is told, one thing after another.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>

namespace exclave::testing_support {

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
  bool wait_a_little() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(10);
    while (turn_.load() == 1 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    return turn_.load() == 0;
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
