// What the threads share, and what is looked at when they have ended.
#include "soak/driver.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <set>
#include <string>
#include <thread>

namespace exclave::soak {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kKiB = 1024;
constexpr std::uint64_t kStepsPerRound = 3000;  // of each thread
// A call that has not come back after so long never will.
constexpr std::chrono::seconds kLongestCall{120};

void handle_signal(int) {
  const int error = errno;
  if (Worker* const worker = this_worker; worker != nullptr) worker->on_signal();
  errno = error;
}

void reenter() {
  if (this_worker != nullptr) this_worker->reenter();
}

}  // namespace

void found(const char* what, std::uintptr_t first, std::uint64_t second) {
  if (findings.fetch_add(1) >= 12) return;
  char line[1024];
  const int length = std::snprintf(line, sizeof(line), "found: %s (0x%" PRIxPTR ", %" PRIu64 ")\n",
                                   what, first, second);
  (void)!write(STDERR_FILENO, line, static_cast<std::size_t>(length));
}
void found(const char* what, Error error) {
  char line[256];
  std::snprintf(line, sizeof(line), "%s: %s", what, error_text(error));
  found(line);
}

HostReply CallingPort::host_reserve(std::size_t bytes, std::size_t alignment) noexcept {
  reenter();
  return port.host_reserve(bytes, alignment);
}
int CallingPort::host_release(std::uintptr_t address, std::size_t bytes) noexcept {
  reenter();
  return port.host_release(address, bytes);
}

void Driver::on_gone(void* context, std::uint64_t, std::uintptr_t, std::size_t) {
  Pool& pool = *static_cast<Pool*>(context);
  pool.gone = tick();
  pool.gone_calls += pool.subject->repeats_gone() ? 2 : 1;
  reenter();
}
void Driver::on_misuse(void*, std::int32_t, std::uintptr_t, std::size_t) {
  reenter();
}
bool Driver::on_rescue(void* context, std::size_t) {
  reenter();
  static_cast<Driver*>(context)->allocator_->trim();
  return true;
}

// ---- Beginning and end ----

Driver::Driver(std::uint64_t seed, Plant plant) : plant_(plant), seed_(seed), dice_(seed) {}

Driver::~Driver() {
  workers_ = {};
  subject_.reset();
  allocator_.reset();
  if (port_ != nullptr) ProcessPort::destroy(port_);
  for (const Range& range : ranges_) {
    if (!range.extent.empty())
      munmap(reinterpret_cast<void*>(range.extent.base), range.extent.size);
  }
}

bool Driver::open() {
  static constexpr std::array<std::size_t, 3> kSizes = {400 * kKiB, 64 * kKiB, 1024 * kKiB};
  for (std::size_t i = 0; i != ranges_.size(); ++i) {
    void* const memory =
        mmap(nullptr, kSizes[i], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    ranges_[i].extent = {reinterpret_cast<std::uintptr_t>(memory), kSizes[i]};
  }
  ranges_[2].tame = true;
  ProcessPort::Options options;
  options.book_bytes = std::size_t{1} << 30;
  options.enclave_bytes = std::size_t{64} << 20;
  const auto port = ProcessPort::create(options);
  if (!port.ok()) return false;
  port_ = *port;
  calling_.emplace(CallingPort{*port_});
  // Little is kept, so that regions come and go; now and then the quota is reached.
  config_.quota_bytes = (std::size_t{8} << 20) << dice_.below(3);
  config_.grow_min_bytes = 256 * kKiB;
  config_.grow_max_bytes = 1024 * kKiB;
  config_.keep_free_bytes = dice_.one_in(2) ? 0 : 512 * kKiB;
  config_.scrub_on_free = dice_.one_in(3);
  config_.misuse = &on_misuse;
  config_.rescue = &on_rescue;
  config_.rescue_context = this;
  auto made = Allocator::create(calling_->table(), config_);
  if (!made.ok()) return false;
  allocator_.emplace(std::move(made.value()));
  subject_.emplace(*allocator_, plant_);
  for (unsigned i = 0; i != kWorkers; ++i)
    workers_[i] = std::make_unique<Worker>(*this, seed_ * 16 + 2 * i);
  struct sigaction action {};
  action.sa_handler = &handle_signal;
  action.sa_flags = SA_RESTART;
  return sigaction(SIGUSR1, &action, nullptr) == 0;
}

void Driver::close() {
  if (findings != 0) return;
  free_all();
  for (Range& range : ranges_) {
    range.open_id = 0;
    if (range.pool == nullptr || range.pool->gone != kNever) continue;
    // What drains went with its last block.
    const Status done = allocator_->detach(range.extent);
    if (!done.ok()) found("an empty pool could not be detached", done.error());
  }
  allocator_->trim();
  const Statistics s = allocator_->statistics();
  if (s.regions != 0 || s.live_blocks != 0 || s.pins != 0)
    found("something is left in the end", s.regions, s.live_blocks);
}

void Driver::free_all() {
  for (const auto& worker : workers_) {
    for (const auto& pin : worker->pins_) {
      if (!pin->life.ended.happened()) worker->unpin(*pin);
    }
  }
  for (const Held& held : all_held()) workers_[0]->free_one(held);
  for (const auto& worker : workers_) {
    worker->held_.clear();
    while (worker->handler_held_count_ != 0) worker->free_in_handler();
  }
  for (Stall& stall : market_) {
    stall.held.reset();
    stall.pin = nullptr;
  }
}

std::vector<Held> Driver::all_held() {
  std::vector<Held> all;
  for (const auto& worker : workers_)
    all.insert(all.end(), worker->held_.begin(), worker->held_.end());
  for (const Stall& stall : market_) {
    if (stall.held) all.push_back(*stall.held);
  }
  return all;
}

// ---- A round ----

void Driver::round() {
  from_ = tick();
  focus_ = dice_.one_in(2) ? &ranges_[dice_.below(2)] : nullptr;
  running_ = kWorkers;
  std::vector<std::thread> slots;
  for (const auto& worker : workers_) {
    const std::uint64_t seed = dice_.next();
    slots.emplace_back([this, seed, &worker = *worker] {
      Dice dice(seed);
      for (std::uint64_t left = kStepsPerRound; left != 0 && findings == 0;) {
        const std::uint64_t steps = std::min<std::uint64_t>(left, 100 + dice.below(2000));
        std::thread([&] { worker.one_life(steps); }).join();
        left -= steps;
      }
      --running_;
    });
  }
  send_signals();
  for (std::thread& slot : slots) slot.join();
  check_quiet();
  check_history();
}

// Also looks whether the threads go on.
void Driver::send_signals() {
  const pid_t process = getpid();
  std::uint64_t steps = counts.steps;
  auto since = Clock::now();
  while (running_ != 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(20 + dice_.below(200)));
    Worker& worker = *workers_[dice_.below(kWorkers)];
    if (const pid_t thread = worker.thread; thread != 0)
      syscall(SYS_tgkill, process, thread, SIGUSR1);
    if (const std::uint64_t now = counts.steps; now != steps) {
      steps = now;
      since = Clock::now();
    } else if (Clock::now() - since > kLongestCall) {
      found("a call does not come back");
      tell_journals();
      _exit(1);
    }
  }
}

void Driver::check_quiet() {
  if (!allocator_->validate_books()) found("the books contradict themselves");
  const Statistics s = allocator_->statistics();
  if (s.live_bytes + s.cached_bytes + s.free_bytes + s.overhead_bytes != s.reserved_bytes)
    found("live + cached + free + overhead is not reserved");
  std::size_t live = 0;
  for (const Held& held : all_held()) {
    const RegionId region = held.life->region;
    // In a pool that was revoked it is not live any more.
    live +=
        !region ||
                allocator_->region_of(untrusted_bytes::unsafe_from_address(held.life->extent.base))
                        .value() == region
            ? 1
            : 0;
  }
  for (const auto& worker : workers_) live += worker->handler_held_count_;
  if (s.live_blocks != live) found("blocks were lost or made up", s.live_blocks, live);
}

void Driver::check_history() {
  History history;
  history.from = from_;
  std::vector<Life*> lives;
  for (const auto& worker : workers_) {
    for (const auto& life : worker->lives_) lives.push_back(life.get());
    for (const Glimpse& glimpse : worker->glimpses_) history.glimpses.push_back(glimpse);
    for (std::size_t i = 0; i != worker->handler_life_count_; ++i)
      lives.push_back(&worker->handler_lives_[i]);
    for (const auto& pin : worker->pins_) history.pins.push_back(pin->life);
  }
  std::erase_if(lives, [](const Life* life) { return !life->made.happened(); });
  for (const Life* life : lives) history.lives.push_back(*life);
  for (const auto& pool : pools_) {
    if (!pool->record.attached.happened()) continue;
    Attachment all = pool->record;
    all.gone = pool->gone;
    all.gone_calls = pool->gone_calls;
    history.attachments.push_back(all);
  }
  // Of each kind, which stands before the colon, the first one.
  std::set<std::string> kinds;
  for (const std::string& line : check(history)) {
    if (kinds.insert(line.substr(0, line.find(':'))).second) found(line.c_str());
  }
  for (std::size_t i = 0; i != lives.size(); ++i) lives[i]->revoked = history.lives[i].revoked;

  // The next round needs what is not over.
  for (const auto& worker : workers_) {
    std::erase_if(worker->lives_, [](const auto& life) {
      return !life->made.happened() || life->ended.happened();
    });
    std::erase_if(worker->pins_, [](const auto& pin) { return pin->life.ended.happened(); });
    worker->glimpses_.clear();
    worker->duels_.clear();
    std::array<Life, std::tuple_size_v<decltype(worker->handler_held_)>> kept{};
    for (std::size_t i = 0; i != worker->handler_held_count_; ++i) {
      kept[i] = worker->handler_lives_[worker->handler_held_[i]];
      worker->handler_held_[i] = i;
    }
    std::copy(kept.begin(), kept.end(), worker->handler_lives_.begin());
    worker->handler_life_count_ = worker->handler_held_count_;
  }
  std::erase_if(pools_, [this](const auto& pool) {
    for (const Range& range : ranges_) {
      if (range.pool == pool.get()) return false;  // gone, perhaps, and not looked at
    }
    return true;
  });
}

void Driver::tell_journals() const {
  for (unsigned i = 0; i != kWorkers; ++i) {
    workers_[i]->journal_.tell(i, "");
    workers_[i]->handler_journal_.tell(i, "'s signal handler");
  }
}

}  // namespace exclave::soak
