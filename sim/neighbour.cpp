#include "sim/neighbour.hpp"

#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>

namespace exclave::sim {

namespace {

enum class Order : std::uint32_t { kRest, kWork, kEnd };

struct FileExtent {
  std::uint64_t offset;
  std::size_t bytes;
};

void wait_on(std::atomic<std::uint32_t>& word, std::uint32_t seen, long milliseconds) {
  const timespec at_most{0, milliseconds * 1000000};
  syscall(SYS_futex, &word, FUTEX_WAIT, seen, &at_most, nullptr, 0);
}
void wake(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

}  // namespace

// One page-aligned piece of memory that both processes see. The extents change only while the
// neighbour rests.
struct Neighbour::Control {
  // Each order has a number: order_number is stored with release after order and extents; the
  // neighbour loads it with acquire and answers by storing it to obeyed_number, with release after
  // its last write to shared memory.
  std::atomic<std::uint32_t> order_number{0};
  std::atomic<std::uint32_t> obeyed_number{0};
  std::atomic<Order> order{Order::kRest};
  std::atomic<std::uint64_t> bytes_written{0};
  std::size_t extent_count = 0;
  FileExtent extents[kMaxExtents] = {};
};

// The neighbour's side. Runs after fork in a process that may have had many threads: no malloc, no
// locks.
class Neighbour::Scribbler {
 public:
  Scribbler(Control& control, const Options& options, pid_t parent)
      : control_(control), options_(options), parent_(parent), random_(options.seed * 2 + 1) {}

  [[noreturn]] void run() {
    std::uint32_t obeyed = 0;
    std::size_t extent = 0;
    std::size_t page = 0;
    for (std::uint64_t turn = 0;; ++turn) {
      const std::uint32_t number = control_.order_number.load(std::memory_order_acquire);
      const Order order = control_.order.load(std::memory_order_relaxed);
      if (number != obeyed) {
        if (order == Order::kEnd) _exit(0);
        if (order == Order::kWork) map_all();
        if (order == Order::kRest) unmap_all();
        extent = page = 0;
        obeyed = number;
        control_.obeyed_number.store(number, std::memory_order_release);
        wake(control_.obeyed_number);
      }
      if (turn % 256 == 0 && getppid() != parent_) _exit(0);
      if (order != Order::kWork || pages_ == 0) {
        wait_on(control_.order_number, number, 50);
        if (getppid() != parent_) _exit(0);
        continue;
      }
      if (options_.mode == Mode::kRandomPages) {
        std::uint64_t chosen = next_random() % pages_;
        for (extent = 0; chosen >= pages_of(extent); ++extent) chosen -= pages_of(extent);
        page = static_cast<std::size_t>(chosen);
      } else {
        if (page >= pages_of(extent)) {
          page = 0;
          do {
            extent = (extent + 1) % control_.extent_count;
          } while (pages_of(extent) == 0);
        }
      }
      scribble(mapped_[extent] + page * kPageBytes);
      ++page;
      if (options_.rest_microseconds != 0) {
        const timespec rest{options_.rest_microseconds / 1000000,
                            static_cast<long>(options_.rest_microseconds % 1000000) * 1000};
        nanosleep(&rest, nullptr);
      }
    }
  }

 private:
  std::size_t pages_of(std::size_t extent) const {
    return mapped_[extent] == nullptr ? 0 : control_.extents[extent].bytes / kPageBytes;
  }

  std::uint64_t next_random() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
  }

  void scribble(std::byte* page) {
    auto* const words = reinterpret_cast<std::uint64_t*>(page);
    for (std::size_t i = 0; i < kPageBytes / sizeof(std::uint64_t); ++i) {
      std::atomic_ref(words[i]).store(next_random(), std::memory_order_relaxed);
    }
    control_.bytes_written.fetch_add(kPageBytes, std::memory_order_relaxed);
  }

  void map_all() {
    unmap_all();
    for (std::size_t i = 0; i < control_.extent_count; ++i) {
      const FileExtent& extent = control_.extents[i];
      void* const at =
          mmap(nullptr, extent.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
               options_.descriptor, static_cast<off_t>(extent.offset));
      mapped_[i] = at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
      mapped_bytes_[i] = extent.bytes;
      pages_ += pages_of(i);
    }
    mapped_count_ = control_.extent_count;
  }

  void unmap_all() {
    for (std::size_t i = 0; i < mapped_count_; ++i) {
      if (mapped_[i] != nullptr) munmap(mapped_[i], mapped_bytes_[i]);
    }
    mapped_count_ = 0;
    pages_ = 0;
  }

  Control& control_;
  const Options options_;
  const pid_t parent_;
  std::uint64_t random_;
  std::uint64_t pages_ = 0;  // in all extents
  std::size_t mapped_count_ = 0;
  std::byte* mapped_[kMaxExtents] = {};
  std::size_t mapped_bytes_[kMaxExtents] = {};
};

std::unique_ptr<Neighbour> Neighbour::start(const Options& options) {
  const auto shared = [](std::size_t bytes) {
    void* const memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
  };
  void* const page = shared(sizeof(Control));
  if (page == nullptr) return nullptr;
  auto* const control = new (page) Control;
  // Built here, because the child must not allocate.
  auto scribbler = std::make_unique<Scribbler>(*control, options, getpid());
  const pid_t process = fork();
  if (process == 0) {
    (void)signal(SIGINT,
                 SIG_IGN);  // Ctrl-C is for the parent, which ends this process in good order
    (void)signal(SIGTERM, SIG_DFL);
    prctl(PR_SET_NAME, "exclave-neighb.");
    const auto kept = static_cast<unsigned>(options.descriptor);
    if (kept > 0) syscall(SYS_close_range, 0u, kept - 1, 0u);
    syscall(SYS_close_range, kept + 1, ~0u, 0u);
    scribbler->run();
  }
  if (process < 0) {
    munmap(control, sizeof(Control));
    return nullptr;
  }
  return std::unique_ptr<Neighbour>(new Neighbour(control, process));
}

std::unique_ptr<Neighbour> Neighbour::start(ProcessPort& port, std::uintptr_t any_reserved_address,
                                            Options options) {
  const auto backing = port.shared_backing(any_reserved_address);
  if (!backing.ok()) return nullptr;
  options.descriptor = backing->descriptor;
  return start(options);
}

Neighbour::~Neighbour() {
  stop();
  munmap(control_, sizeof(Control));
}

bool Neighbour::alive() const noexcept {
  if (reaped_) return false;
  int status = 0;
  if (waitpid(process_, &status, WNOHANG) == 0) return true;
  reaped_ = true;
  return false;
}

// Gives an order and waits until it is obeyed, or the neighbour is gone.
void Neighbour::rest_locked() {
  control_->order.store(Order::kRest, std::memory_order_relaxed);
  const std::uint32_t number = control_->order_number.fetch_add(1, std::memory_order_release) + 1;
  wake(control_->order_number);
  for (;;) {
    const std::uint32_t obeyed = control_->obeyed_number.load(std::memory_order_acquire);
    if (obeyed == number || !alive()) return;
    wait_on(control_->obeyed_number, obeyed, 20);
  }
}

void Neighbour::work_locked() {
  if (paused_) return;
  control_->order.store(Order::kWork, std::memory_order_relaxed);
  control_->order_number.fetch_add(1, std::memory_order_release);
  wake(control_->order_number);
}

bool Neighbour::add(std::uint64_t offset, std::size_t bytes) {
  if (bytes == 0 || bytes % kPageBytes != 0 || offset % kPageBytes != 0) return false;
  const std::lock_guard lock(mutex_);
  if (!alive() || control_->extent_count == kMaxExtents) return false;
  rest_locked();
  control_->extents[control_->extent_count++] = {offset, bytes};
  work_locked();
  return true;
}

void Neighbour::remove(std::uint64_t offset, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!alive()) return;
  rest_locked();
  auto* const end = control_->extents + control_->extent_count;
  auto* const found = std::find_if(control_->extents, end, [&](const FileExtent& extent) {
    return extent.offset == offset && extent.bytes == bytes;
  });
  if (found != end) {
    *found = *(end - 1);
    --control_->extent_count;
  }
  work_locked();
}

void Neighbour::pause() {
  const std::lock_guard lock(mutex_);
  paused_ = true;
  rest_locked();
}

void Neighbour::resume() {
  const std::lock_guard lock(mutex_);
  paused_ = false;
  work_locked();
}

void Neighbour::stop() {
  const std::lock_guard lock(mutex_);
  if (!alive()) return;
  control_->order.store(Order::kEnd, std::memory_order_relaxed);
  control_->order_number.fetch_add(1, std::memory_order_release);
  wake(control_->order_number);
  for (int i = 0; i < 200 && alive(); ++i) usleep(1000);
  if (!alive()) return;
  kill(process_, SIGKILL);
  int status = 0;
  while (waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
  reaped_ = true;
}

std::uint64_t Neighbour::bytes_written() const noexcept {
  return control_->bytes_written.load(std::memory_order_relaxed);
}

bool Neighbour::wait_for_bytes(std::uint64_t more) const {
  const std::uint64_t goal = bytes_written() + more;
  for (;;) {
    if (bytes_written() >= goal) return true;
    {
      const std::lock_guard lock(mutex_);
      if (paused_ || control_->extent_count == 0 || !alive()) return false;
    }
    usleep(200);
  }
}

}  // namespace exclave::sim
