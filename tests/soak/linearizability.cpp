// Three threads that come and go do everything at once to one allocator, and a shadow outside of it
// looks for what cannot be.
//
//   exclave_linearizability --minutes N | --seconds N [--seed N] [--plant NAME]
//
// They allocate, free, move and hand each other blocks; attach pools and detach them busy, draining
// and by revocation; pin blocks and pools, and free beside the last unpin. Signals stop them
// anywhere for a while, and the handlers allocate. Each callback (the host's, gone, misuse, rescue)
// calls the allocator again. Each call is stamped before and after by one clock.
//
// While they work: a live block keeps its bytes, a zeroed one is zero, no byte of a pool changes
// once detach has answered, a handle names the pool that its block was asked of. Every few
// milliseconds the threads end: no two blocks that certainly lived overlap, no pool went with a
// block or a pin that certainly lived, none gave out a block afterwards, no good free was refused
// (history.cpp); the books hold together, and as many blocks live as are held.
//
// A finding is printed with the seed and the last calls of each thread, and ends the program with
// 1. The threads' interleaving is not in the seed's hand, so a seed makes a finding likely again,
// not certain. --plant makes a fault of the driver's own (subject.hpp).
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "soak/driver.hpp"

namespace exclave::soak {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::chrono::seconds duration{0};
  std::uint64_t seed = 1;
  Plant plant = Plant::kNone;
};

bool parse_number(std::string_view text, std::uint64_t most, std::uint64_t* number) {
  const auto [stop, error] = std::from_chars(text.begin(), text.end(), *number);
  return error == std::errc() && stop == text.end() && *number != 0 && *number <= most;
}

bool parse(int argc, char** argv, Options* options) {
  constexpr std::uint64_t kMost = 7 * 24 * 60;  // minutes: a week
  if (argc % 2 == 0) return false;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i], value = argv[i + 1];
    std::uint64_t number = 0;
    if (name == "--minutes" && parse_number(value, kMost, &number)) {
      options->duration = std::chrono::minutes(number);
    } else if (name == "--seconds" && parse_number(value, 60 * kMost, &number)) {
      options->duration = std::chrono::seconds(number);
    } else if (name == "--seed" && parse_number(value, UINT64_MAX, &number)) {
      options->seed = number;
    } else if (name == "--plant") {
      for (const NamedPlant& plant : kPlants) {
        if (plant.name == value) options->plant = plant.plant;
      }
      if (options->plant == Plant::kNone) return false;
    } else {
      return false;
    }
  }
  return options->duration.count() != 0;
}

int run(const Options& options) {
  const auto begin = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  std::uint64_t seed = options.seed, rounds = 0;
  for (; Clock::now() - begin < options.duration; ++seed) {
    Driver driver(seed, options.plant);
    if (!driver.open()) {
      std::fprintf(stderr, "linearizability: no address space\n");
      return 2;
    }
    for (int round = 0; round != 40 && findings == 0 && Clock::now() - begin < options.duration;
         ++round) {
      driver.round();
      ++rounds;
    }
    driver.close();
    if (findings == 0) continue;
    driver.tell_journals();
    std::fprintf(stderr, "linearizability failed after %.1f s: --seed %llu: %u findings\n",
                 seconds(), static_cast<unsigned long long>(seed), findings.load());
    // Nothing is destroyed: the driver may believe something else than the allocator does.
    std::_Exit(1);
  }
  const auto n = [](const std::atomic<std::uint64_t>& count) {
    return static_cast<unsigned long long>(count.load());
  };
  std::printf(
      "linearizability passed: %llu allocators, %llu rounds, %llu threads, %llu steps, %llu "
      "allocations, %llu frees (%llu of revoked blocks), %llu moves, %llu handles, %llu pools "
      "attached, %llu detached, %llu drains, %llu revoked, %llu detaches refused, %llu pins, %llu "
      "frees beside an unpin, %llu signals with %llu calls, %llu calls from callbacks\n",
      static_cast<unsigned long long>(seed - options.seed), static_cast<unsigned long long>(rounds),
      n(counts.threads), n(counts.steps), n(counts.allocations), n(counts.frees), n(counts.stale),
      n(counts.moves), n(counts.handles), n(counts.attaches), n(counts.busy), n(counts.drained),
      n(counts.revoked), n(counts.refused), n(counts.pins), n(counts.duels), n(counts.signals),
      n(counts.nested), n(counts.reentries));
  return 0;
}

}  // namespace
}  // namespace exclave::soak

int main(int argc, char** argv) {
  exclave::soak::Options options;
  if (exclave::soak::parse(argc, argv, &options)) return exclave::soak::run(options);
  std::fprintf(stderr,
               "usage: %s --minutes N | --seconds N [--seed N] [--plant NAME]; N is 1 to a week\n",
               argv[0]);
  return 2;
}
