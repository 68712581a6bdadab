// Workload m: the manager of the enclave's own memory, with up to a million areas, over page
// operations that do nothing: what is left is its books. The last rows go through MemoryCalls, as
// a program's calls do.
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <thread>

#include "policies.hpp"
#include "ticks.hpp"

namespace bench {
namespace {

using exclave::EnclaveManager;
using exclave::Extent;
using exclave::kPageBytes;

struct NullPages {
  int commit(std::uintptr_t, std::size_t, int, bool) noexcept { return 0; }
  int protect(std::uintptr_t, std::size_t, int) noexcept { return 0; }
  int drop(std::uintptr_t, std::size_t) noexcept { return 0; }
  int move(std::uintptr_t, std::uintptr_t, std::size_t, int, bool) noexcept { return 0; }
  int fill(std::uintptr_t, std::size_t, int, std::uint64_t) noexcept { return 0; }
};

constexpr int kAnywhere = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr int kFixed = kAnywhere | MAP_FIXED;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

// An area of three pages, a gap of five, and so on: none has a neighbour. The break is below.
constexpr std::size_t kAreaBytes = 3 * kPageBytes;
constexpr std::size_t kGapBytes = 5 * kPageBytes;
constexpr std::size_t kStride = kAreaBytes + kGapBytes;
constexpr std::size_t kBreakBytes = 64 * kPageBytes;
// Room for this is only where an area has gone.
constexpr std::size_t kWideBytes = kGapBytes + kAreaBytes + kGapBytes;
constexpr std::size_t kMostAreas = 1'000'000;

void must(bool well) {
  if (!well) std::abort();
}

double cpu_ns() {
  timespec now{};
  must(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

exclave::ProcessPort& port() {
  static exclave::ProcessPort* const made = [] {
    exclave::ProcessPort::Options options;
    options.enclave_bytes = 2 * kMostAreas * kStride;
    const auto created = exclave::ProcessPort::create(options);
    must(created.ok());
    return *created;
  }();
  return *made;
}

// A manager whose range is so many bytes and no more.
class Range {
 public:
  explicit Range(std::size_t bytes)
      : base_(port().enclave_heap().base), manager_(create(bytes, pages_)) {
    must(manager_.ok());
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

  std::uintptr_t base() const { return base_; }

  std::uintptr_t map(std::uintptr_t address, std::size_t size, int flags) {
    const std::intptr_t at = manager_->map(address, size, kReadWrite, flags, -1, 0);
    must(at > 0);
    return static_cast<std::uintptr_t>(at);
  }
  void unmap(std::uintptr_t address, std::size_t size) {
    must(manager_->unmap(address, size) == 0);
  }
  void protect(std::uintptr_t address, std::size_t size, int protection) {
    must(manager_->protect(address, size, protection) == 0);
  }
  void visit(std::uintptr_t address) {
    const auto nothing = [](void*, Extent, int) { return 0; };
    must(manager_->visit({address, kPageBytes}, nothing, nullptr) == 0);
  }
  void set_break(std::uintptr_t address) { must(manager_->set_break(address) == address); }
  EnclaveManager::Statistics statistics() { return manager_->statistics(); }
  exclave::EnclaveMemoryTable table() { return manager_->table(); }

 private:
  static exclave::Result<EnclaveManager> create(std::size_t bytes, NullPages& pages) {
    const Extent heap = port().enclave_heap();
    must(bytes <= heap.size);
    EnclaveManager::Options options;
    options.range = {heap.base, bytes};
    return EnclaveManager::create(port().table(), exclave::bind_enclave_pages(pages), options);
  }

  std::uintptr_t base_;
  NullPages pages_;
  exclave::Result<EnclaveManager> manager_;
};

// So many areas, and where they lie.
class Areas : public Range {
 public:
  explicit Areas(std::size_t count) : Range(kBreakBytes + count * kStride), count_(count) {
    for (std::size_t i = 0; i < count; ++i) map(area(i), kAreaBytes, kFixed);
  }

  std::size_t count() const { return count_; }
  std::uintptr_t area(std::size_t i) const { return base() + kBreakBytes + i * kStride; }
  // Of a page: within the area, and within the gap above it, where it touches nothing.
  std::uintptr_t middle(std::size_t i) const { return area(i) + kPageBytes; }
  std::uintptr_t hole(std::size_t i) const { return area(i) + kAreaBytes + 2 * kPageBytes; }

 private:
  std::size_t count_;
};

// Areas in an order without a pattern: a prime step through all of them.
class Order {
 public:
  Order(std::size_t first, std::size_t count) : first_(first), count_(count) {}
  std::size_t next() {
    at_ = (at_ + 611'953) % count_;
    return first_ + at_;
  }

 private:
  std::size_t first_, count_, at_ = 0;
};

template <class F>
void timed(Durations& durations, F call) {
  const std::uint64_t start = ticks();
  call();
  durations.add(ticks() - start);
}

// ---- Single calls ----

constexpr std::size_t kTurns = 20'000;

// Their memory is never given back, so there is one of these.
struct SingleCalls {
  Durations map{kTurns}, unmap{kTurns}, map_far{kTurns}, map_fixed{kTurns}, unmap_fixed{kTurns};
  Durations split{kTurns}, merge{kTurns}, visit{kTurns}, break_up{kTurns}, break_down{kTurns};
  Durations calls_mmap{kTurns}, calls_mprotect{kTurns}, calls_munmap{kTurns};

  template <class F>
  void for_each(F use) {
    use("map", map), use("unmap", unmap), use("map_far", map_far);
    use("map_fixed", map_fixed), use("unmap_fixed", unmap_fixed);
    use("split", split), use("merge", merge), use("visit", visit);
    use("break_up", break_up), use("break_down", break_down);
    use("calls_mmap", calls_mmap), use("calls_mprotect", calls_mprotect);
    use("calls_munmap", calls_munmap);
  }
};

void measure_places(Areas& areas, SingleCalls& times) {
  Order order(0, areas.count());
  for (std::size_t i = 0; i < kTurns; ++i) {
    std::uintptr_t at = 0;
    timed(times.map, [&] { at = areas.map(0, kPageBytes, kAnywhere); });
    timed(times.unmap, [&] { areas.unmap(at, kPageBytes); });

    // One gap of its size, anywhere.
    const std::uintptr_t gone = areas.area(order.next());
    areas.unmap(gone, kAreaBytes);
    timed(times.map_far, [&] { at = areas.map(0, kWideBytes, kAnywhere); });
    areas.unmap(at, kWideBytes);
    areas.map(gone, kAreaBytes, kFixed);

    at = areas.middle(order.next());
    timed(times.visit, [&] { areas.visit(at); });

    timed(times.break_up, [&] { areas.set_break(areas.base() + kPageBytes); });
    timed(times.break_down, [&] { areas.set_break(areas.base()); });
  }
}

// At places that are given: turn about straight and as a program's calls come.
void measure_fixed(Areas& areas, SingleCalls& times) {
  auto allocator = exclave::Allocator::create(port().table());
  must(allocator.ok());
  exclave::MemoryCalls calls(*allocator, areas.table());
  Order order(0, areas.count());
  for (std::size_t i = 0; i < kTurns; ++i) {
    std::uintptr_t at = areas.hole(order.next());
    timed(times.map_fixed, [&] { areas.map(at, kPageBytes, kFixed); });
    timed(times.unmap_fixed, [&] { areas.unmap(at, kPageBytes); });

    at = areas.hole(order.next());
    timed(times.calls_mmap,
          [&] { must(calls.mmap(at, kPageBytes, kReadWrite, kFixed, -1, 0) > 0); });
    timed(times.calls_munmap, [&] { must(calls.munmap(at, kPageBytes) == 0); });

    at = areas.middle(order.next());
    timed(times.split, [&] { areas.protect(at, kPageBytes, PROT_READ); });
    timed(times.merge, [&] { areas.protect(at, kPageBytes, kReadWrite); });

    at = areas.middle(order.next());
    timed(times.calls_mprotect, [&] { must(calls.mprotect(at, kPageBytes, PROT_READ) == 0); });
    areas.protect(at, kPageBytes, kReadWrite);
  }
}

// ---- Two threads ----

// One thread's turns: a page comes in a hole, an area is split and merged again, the page goes.
void take_turns(Areas& areas, Order order, std::size_t turns, Durations& durations) {
  durations.clear();
  for (std::size_t i = 0; i < turns; ++i) {
    const std::uintptr_t hole = areas.hole(order.next());
    const std::uintptr_t middle = areas.middle(order.next());
    timed(durations, [&] {
      areas.map(hole, kPageBytes, kFixed);
      areas.protect(middle, kPageBytes, PROT_READ);
      areas.protect(middle, kPageBytes, kReadWrite);
      areas.unmap(hole, kPageBytes);
    });
  }
}
constexpr double kCallsPerTurn = 4;

// Each on its half of the areas. A call's time as a thread sees it; and the processor time of all,
// waiting in, by the calls of all.
void measure_threads(Areas& areas, benchmark::State& state) {
  static Durations durations[2] = {Durations(kTurns), Durations(kTurns)};
  const std::size_t half = areas.count() / 2;
  for (const unsigned count : {1u, 2u}) {
    std::atomic<unsigned> ready{0};
    const auto body = [&](unsigned n) {
      ready.fetch_add(1);
      while (ready.load() < count) std::this_thread::yield();
      take_turns(areas, Order(n * half, half), kTurns, durations[n]);
    };
    const double start = cpu_ns();
    std::thread threads[2];
    for (unsigned n = 0; n < count; ++n) threads[n] = std::thread(body, n);
    for (unsigned n = 0; n < count; ++n) threads[n].join();
    const double all = cpu_ns() - start;
    double seen = 0;
    for (unsigned n = 0; n < count; ++n) seen += durations[n].ns(0.5) / kCallsPerTurn;
    const std::string name = count == 1 ? "one_thread" : "two_threads";
    state.counters[name + "_ns"] = seen / count;
    state.counters[name + "_cpu_ns"] = all / (count * kCallsPerTurn * kTurns);
  }
}

// ---- Storms ----

// So many pages in one area: every other one is protected, in the order of the addresses, then all
// are at once. CPU time of this thread, for each call of the first part and each area of the
// second.
void measure_storm(std::size_t pages, benchmark::State& state) {
  Range range(pages * kPageBytes);
  range.map(range.base(), pages * kPageBytes, kFixed);
  const std::size_t times = std::max<std::size_t>(1, 100'000 / pages);
  double splitting = 0, merging = 0;
  for (std::size_t i = 0; i < times; ++i) {
    const double start = cpu_ns();
    for (std::size_t page = 0; page < pages; page += 2) {
      range.protect(range.base() + page * kPageBytes, kPageBytes, PROT_READ);
    }
    const double split = cpu_ns();
    must(range.statistics().areas == pages);
    range.protect(range.base(), pages * kPageBytes, kReadWrite);
    merging += cpu_ns() - split;
    splitting += split - start;
    must(range.statistics().areas == 1);
  }
  const auto calls = static_cast<double>(times * pages / 2);
  state.counters["storm_split_ns"] = splitting / calls;
  state.counters["storm_merge_ns"] = merging / (2 * calls);
}

void areas(benchmark::State& state) {
  static SingleCalls times;
  times.for_each([](const char*, Durations& durations) { durations.clear(); });
  const auto count = static_cast<std::size_t>(state.range(0));
  for ([[maybe_unused]] auto _ : state) {
    {
      Areas areas(count);
      measure_places(areas, times);
      measure_fixed(areas, times);
      measure_threads(areas, state);
      state.counters["trusted_bytes"] = static_cast<double>(areas.statistics().trusted_bytes);
    }
    measure_storm(count, state);
  }
  state.counters["areas"] = static_cast<double>(count);
  times.for_each([&](const char* name, const Durations& durations) {
    state.counters[std::string(name) + "_ns"] = durations.ns(0.5);
  });
}

BENCHMARK(areas)->Name("m")->Arg(100)->Arg(10'000)->Arg(kMostAreas)->Iterations(1);

}  // namespace
}  // namespace bench
