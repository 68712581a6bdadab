// Everything at once, for as long as one likes.
//
//   exclave_soak --minutes N | --seconds N [--seed N]
//
// Threads allocate, free, free each other's blocks, reallocate and free what they must not; others
// attach pools, place blocks in them, pin, detach, drain and revoke; others map, protect and unmap
// as an application does. Threads end and new ones take their slots. Meanwhile the host lies and
// refuses, trusted memory runs out now and then, and another process writes over every managed
// byte. Each minute all stop for a moment: the books must hold together and the sums must agree. At
// the end everything must be back where it came from.
//
// The host tells no lie here that no library can see (half of a range is not there, one page at two
// addresses), for the threads would die of it; those that point at memory which another thread is
// just giving back are left out, too. tests/sim tells them all.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "exclave/access.hpp"
#include "exclave/memory_calls.hpp"
#include "sim/hostile_host.hpp"
#include "sim/neighbour.hpp"

namespace exclave {
namespace {

using sim::HostileHost;
using sim::Lie;
using sim::Neighbour;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr unsigned kBlockThreads = 3;
constexpr unsigned kRegionThreads = 1;
constexpr unsigned kMappingThreads = 1;
constexpr unsigned kThreads = kBlockThreads + kRegionThreads + kMappingThreads;
constexpr std::size_t kPoolWindowBytes = 32 * kMiB;

std::atomic<std::uint64_t> failures{0};

// Says what went wrong, a few times, and goes on: the report counts them.
bool expect(bool good, const char* what, int detail = 0) {
  if (good) return true;
  if (failures.fetch_add(1) < 20) std::fprintf(stderr, "soak: %s (%d)\n", what, detail);
  return false;
}

struct Counts {
  std::atomic<std::uint64_t> allocations{0}, refused{0}, frees{0}, remote_frees{0}, moves{0},
      bad_frees{0}, attaches{0}, detaches{0}, gone{0}, pins{0}, maps{0}, unmaps{0}, protects{0},
      threads{0}, trusted_faults{0};
};

std::size_t resident_bytes() {
  std::size_t all = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> all >> resident;
  return resident * kPageBytes;
}

class Soak {
 public:
  Soak(std::uint64_t seed) : seed_(seed) {}

  // false: something went wrong; what, was said.
  bool run(std::chrono::seconds duration) {
    if (!start()) {
      std::fprintf(stderr, "soak: no address space, or no second process\n");
      return false;
    }
    const auto begin = Clock::now();
    const auto end = begin + duration;
    for (unsigned minute = 1; Clock::now() < end; ++minute) {
      const auto until = std::min(end, begin + minute * std::chrono::seconds(60));
      const std::uint64_t before = operations();
      const auto from = Clock::now();
      work_until(until);
      check_quiet();
      tell(minute, static_cast<double>(operations() - before) /
                       std::chrono::duration<double>(Clock::now() - from).count());
      if (failures != 0) break;
    }
    finish();
    return failures == 0;
  }

 private:
  // ---- Start ----

  bool start() {
    HostileHost::Options options;
    options.shared = true;
    options.seed = seed_;
    options.keep_events = false;
    options.lie_window_bytes = 64 * kMiB;
    options.book_bytes = std::size_t{1} << 30;
    host_ = HostileHost::create(options);
    pool_file_ = memfd_create("exclave-soak-pools", MFD_CLOEXEC);
    device_file_ = memfd_create("exclave-soak-device", MFD_CLOEXEC);
    if (host_ == nullptr || pool_file_ < 0 || device_file_ < 0 ||
        ftruncate(pool_file_, kPoolWindowBytes) != 0 || ftruncate(device_file_, kMiB) != 0)
      return false;
    void* const pools =
        mmap(nullptr, kPoolWindowBytes, PROT_READ | PROT_WRITE, MAP_SHARED, pool_file_, 0);
    if (pools == MAP_FAILED) return false;
    pool_window_ = {reinterpret_cast<std::uintptr_t>(pools), kPoolWindowBytes};
    Config config;
    config.quota_bytes = 256 * kMiB;
    config.grow_min_bytes = 2 * kMiB;
    config.grow_max_bytes = 8 * kMiB;
    config.keep_free_bytes = 4 * kMiB;
    config.misuse = [](void* context, std::int32_t, std::uintptr_t, std::size_t) {
      ++static_cast<Soak*>(context)->misuses_;
    };
    config.misuse_context = this;
    auto made = Allocator::create(host_->table(), config);
    if (!made.ok()) return false;
    allocator_.emplace(std::move(made.value()));
    AttachOptions forbidden;
    forbidden.role = Role::kForbidden;
    if (!allocator_->attach(host_->forbidden_window(), forbidden).ok()) return false;
    inside_ = std::make_unique<ProcessEnclaveMemory>(host_->enclave_heap());
    calls_.emplace(*allocator_, bind_enclave_memory(*inside_));
    // Both processes are started while there is one thread; the first region shows the file.
    const HostReply first = host_->honest().host_reserve(kMiB, kPageBytes);
    if (first.error != 0) return false;
    Neighbour::Options scribbler;
    scribbler.seed = seed_ + 1;
    scribbler.rest_microseconds = 20;
    grown_scribbler_ = Neighbour::start(host_->honest(), first.address, scribbler);
    scribbler.descriptor = pool_file_;
    pool_scribbler_ = Neighbour::start(scribbler);
    if (host_->honest().host_release(first.address, kMiB) != 0) return false;
    if (grown_scribbler_ == nullptr || pool_scribbler_ == nullptr ||
        !pool_scribbler_->add(0, kPoolWindowBytes))
      return false;
    host_->on_memory([this](Extent extent, bool added) {
      const std::lock_guard lock(scribbler_mutex_);
      const auto backing = host_->honest().shared_backing(extent.base);
      if (!backing.ok()) return;  // beside the enclave: not of the file
      if (added) {
        expect(grown_scribbler_->add(*backing), "the scribbler is gone");
      } else {
        grown_scribbler_->remove(*backing);
      }
    });
    host_->lie_at_random(
        12, {Lie::kNull, Lie::kMapFailed, Lie::kSmallErrno, Lie::kInside, Lie::kEndsInside,
             Lie::kStartsInside, Lie::kWraps, Lie::kEndsAtTop, Lie::kNonCanonical, Lie::kKernelHalf,
             Lie::kUnaligned, Lie::kForbiddenWindow, Lie::kBadErrno, Lie::kErrorWithAddress,
             Lie::kSuccessWithoutAddress, Lie::kLate, Lie::kRefuse, Lie::kEndsAtEnclave,
             Lie::kStartsAtEnclaveEnd});
    // What a host does not take back stays out, charged to the quota: in the end there would be
    // none. A refused munmap is asked again, so there the refusals are scripted.
    host_->never_at_random(sim::HostCall::kRelease);
    host_->never_at_random(sim::HostCall::kUnmap);
    host_->set_delay(std::chrono::microseconds(500));
    return true;
  }

  // ---- Work ----

  void work_until(Clock::time_point until) {
    stop_ = false;
    std::vector<std::thread> threads;
    std::atomic<unsigned> running{kThreads};
    for (unsigned i = 0; i < kThreads; ++i) {
      threads.emplace_back([this, i, &running] {
        // Threads end and others take their slots; what they held goes on to the next.
        while (!stop_) {
          std::thread([this, i] { one_life(i); }).join();
        }
        --running;
      });
    }
    std::mt19937_64 random(seed_ * 77 + operations());
    while (Clock::now() < until && failures == 0) {
      host_->fail_trusted_nth(1 + random() % 6);
      ++counts_.trusted_faults;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      host_->fail_trusted_nth(0);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    host_->fail_trusted_nth(0);
    stop_ = true;
    for (std::thread& thread : threads) thread.join();
  }

  void one_life(unsigned thread) {
    ++counts_.threads;
    std::mt19937_64 random(seed_ * 1000 + life_.fetch_add(1));
    for (int step = 0; step < 20000 && !stop_; ++step) {
      if (thread < kBlockThreads) {
        block_operation(random, held_[thread]);
      } else if (thread < kBlockThreads + kRegionThreads) {
        region_operation(random);
      } else {
        mapping_operation(random);
      }
    }
  }

  struct Block {
    std::uintptr_t at = 0;
    std::size_t size = 0;
  };
  static untrusted_bytes pointer(std::uintptr_t at) {
    return untrusted_bytes::unsafe_from_address(at);
  }
  // The errors of an allocation with a host and books that fail.
  static bool may_fail_so(Error error) {
    return error == Error::kOutOfMemory || error == Error::kQuota || error == Error::kHostRefused ||
           error == Error::kHostLied || error == Error::kOutOfTrustedMemory ||
           error == Error::kTooManyThreads;
  }

  void block_operation(std::mt19937_64& random, std::vector<Block>& held) {
    const std::uint64_t r = random();
    if (held.size() < (r >> 8) % 4000) {
      std::size_t size = 1 + (r >> 32) % 600;
      if (r % 32 == 0) size = 1 + (r >> 32) % 40000;
      if (r % 1024 == 0) size = 1 + (r >> 32) % (3 * kMiB);
      const auto block =
          r % 16 == 1 ? allocator_->allocate_zeroed(size) : allocator_->allocate(size);
      if (!block.ok()) {
        expect(may_fail_so(block.error()), "an allocation failed so",
               static_cast<int>(block.error()));
        ++counts_.refused;
        return;
      }
      ++counts_.allocations;
      expect(!host_->enclave().overlaps({block->address(), size}), "a block inside the enclave");
      // Some are handed to whoever comes by.
      Block made{block->address(), size};
      if (r % 8 == 2) made = exchange(random, made);
      if (made.at != 0) held.push_back(made);
      return;
    }
    if (held.empty()) return;
    std::swap(held[(r >> 32) % held.size()], held.back());
    Block& block = held.back();
    if (r % 64 == 3) {
      ++counts_.bad_frees;
      const Error error = allocator_->deallocate(pointer(block.at + 1)).error();
      expect(error == Error::kInteriorFree, "a bad free was answered so", static_cast<int>(error));
      return;
    }
    if (r % 16 == 4) {
      const std::size_t size = 1 + (r >> 40) % 3000;
      const auto moved = allocator_->reallocate(pointer(block.at), size);
      if (!moved.ok()) {
        expect(may_fail_so(moved.error()), "a reallocation failed so",
               static_cast<int>(moved.error()));
        return;
      }
      ++counts_.moves;
      block = {moved->address(), size};
      return;
    }
    const Block freed = block;
    held.pop_back();
    free_block(freed);
  }
  void free_block(const Block& block) {
    const Error error = allocator_->deallocate(pointer(block.at), block.size).error();
    expect(error == Error::kNone, "a good free was refused", static_cast<int>(error));
    ++counts_.frees;
  }
  // Leaves a block in the market and takes another thread's, if one lies there.
  Block exchange(std::mt19937_64& random, Block mine) {
    Stall& stall = market_[random() % market_.size()];
    const std::lock_guard lock(stall.mutex);
    std::swap(stall.block, mine);
    if (mine.at != 0) ++counts_.remote_frees;
    return mine;
  }

  // ---- Regions ----

  struct Pool {
    RegionId id;
    Extent extent;
    std::vector<Block> blocks;
    std::vector<PinId> pins;
    bool draining = false;
  };
  static void on_gone(void* context, std::uint64_t, std::uintptr_t, std::size_t) {
    ++static_cast<Soak*>(context)->counts_.gone;
  }

  void region_operation(std::mt19937_64& random) {
    const std::uint64_t r = random();
    const std::size_t slots = kPoolWindowBytes / (2 * kMiB);
    std::optional<Pool>& slot = pools_[(r >> 8) % slots];
    if (!slot) {
      const Extent place{pool_window_.base + (r >> 8) % slots * (2 * kMiB),
                         (1 + (r >> 32) % 512) * kPageBytes};
      AttachOptions options;
      options.device = 7;
      options.gone = &on_gone;
      options.gone_context = this;
      const auto id = allocator_->attach(place, options);
      if (!id.ok()) {
        expect(id.error() == Error::kOutOfTrustedMemory, "an attach failed so",
               static_cast<int>(id.error()));
        return;
      }
      ++counts_.attaches;
      slot = Pool{*id, place, {}, {}, false};
      return;
    }
    Pool& pool = *slot;
    switch (r % 16) {
      case 0:
        detach(slot, static_cast<DetachMode>((r >> 40) % 3));
        return;
      case 1: {
        const auto pin = allocator_->pin(pool.extent);
        if (pin.ok()) {
          pool.pins.push_back(*pin);
          ++counts_.pins;
        }
        return;
      }
      case 2:
      case 3:
        if (!pool.pins.empty()) {
          expect(allocator_->unpin(pool.pins.back()).ok(), "an unpin was refused");
          pool.pins.pop_back();
          forget_if_drained(slot);
        }
        return;
      case 4:
      case 5:
      case 6:
      case 7:
      case 8:
        if (!pool.blocks.empty()) {
          const Block block = pool.blocks.back();
          pool.blocks.pop_back();
          free_block(block);
          forget_if_drained(slot);
        }
        return;
      default: {
        const std::size_t size = 1 + (r >> 32) % 5000;
        const auto block = allocator_->allocate(size, 16, Placement::in_pool(pool.id));
        if (block.ok()) {
          expect(pool.extent.covers({block->address(), size}), "a block outside of its pool");
          pool.blocks.push_back({block->address(), size});
          ++counts_.allocations;
        } else {
          expect(may_fail_so(block.error()) || (pool.draining && block.error() == Error::kNotFound),
                 "an allocation in a pool failed so", static_cast<int>(block.error()));
        }
      }
    }
  }
  void forget_if_drained(std::optional<Pool>& slot) {
    if (slot->draining && slot->blocks.empty() && slot->pins.empty()) {
      expect(!allocator_->query(slot->extent.base, 1).ok(), "a drained pool is still there");
      slot.reset();
    }
  }
  void detach(std::optional<Pool>& slot, DetachMode mode) {
    Pool& pool = *slot;
    const Error error = allocator_->detach(pool.extent, mode).error();
    const bool live = !pool.blocks.empty();
    if (error == Error::kNone) {
      ++counts_.detaches;
      // A block that fills its pool stays while it is pinned, freed or not.
      if ((live || !pool.pins.empty()) && mode == DetachMode::kDrain) {
        expect(allocator_->query(pool.extent.base, 1).ok(), "a pool went that was to drain");
        pool.draining = true;
        return;
      }
      expect(pool.pins.empty(), "a pinned pool went");
      expect(!live || mode == DetachMode::kRevoke, "a pool went with its blocks");
      // Stale pointers hurt nothing.
      if (live) {
        const Error stale =
            allocator_->deallocate_handle(pointer(pool.blocks[0].at), pool.id).error();
        expect(stale == Error::kStale, "a stale handle was answered so", static_cast<int>(stale));
      }
      slot.reset();
      return;
    }
    expect(error == Error::kBusy || error == Error::kPinned, "a detach failed so",
           static_cast<int>(error));
  }

  // ---- Memory calls ----

  void mapping_operation(std::mt19937_64& random) {
    const std::uint64_t r = random();
    if (mappings_.size() < 24 && r % 4 == 0) {
      const std::size_t bytes = (1 + (r >> 16) % 16) * kPageBytes;
      const std::intptr_t at =
          calls_->mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, device_file_, 0);
      if (at > 0) {
        mappings_.push_back({static_cast<std::uintptr_t>(at), bytes});
        ++counts_.maps;
      } else {
        expect(at < 0 && at > -134, "an mmap failed so", static_cast<int>(at));
      }
      return;
    }
    if (mappings_.empty()) return;
    std::swap(mappings_[(r >> 16) % mappings_.size()], mappings_.back());
    const Extent mapping = mappings_.back();
    const std::size_t skip = (r >> 32) % (mapping.size / kPageBytes) * kPageBytes;
    if (r % 4 == 1) {
      const int answer =
          calls_->mprotect(mapping.base + skip, mapping.size - skip, static_cast<int>(r >> 60) & 3);
      expect(answer <= 0 && answer > -134, "an mprotect was answered so", answer);
      ++counts_.protects;
      return;
    }
    // What the host refuses stays, and the rest of the range may be gone: ask until all of it is.
    if (r % 16 == 2) host_->script(sim::HostCall::kUnmap, {Lie::kRefuse, Lie::kBadErrno});
    int answer = -1;
    for (int tries = 0; answer != 0 && tries < 1000; ++tries) {
      answer = calls_->munmap(mapping.base + skip, mapping.size - skip);
      expect(answer <= 0 && answer > -134, "a munmap was answered so", answer);
    }
    host_->unscript(sim::HostCall::kUnmap);
    if (!expect(answer == 0, "a munmap is refused for ever", answer)) return;
    ++counts_.unmaps;
    if (skip == 0) {
      mappings_.pop_back();
    } else {
      mappings_.back().size = skip;
    }
  }

  // ---- Looking ----

  std::uint64_t operations() const {
    return counts_.allocations + counts_.refused + counts_.frees + counts_.moves +
           counts_.bad_frees + counts_.attaches + counts_.detaches + counts_.pins + counts_.maps +
           counts_.unmaps + counts_.protects;
  }

  // No call is under way.
  void check_quiet() {
    expect(allocator_->validate_books(), "the books contradict themselves");
    const Statistics s = allocator_->statistics();
    expect(s.live_bytes + s.cached_bytes + s.free_bytes + s.overhead_bytes == s.reserved_bytes,
           "live + cached + free + overhead is not reserved");
    std::size_t blocks = 0, pool_bytes = 0, mapped = 0;
    for (const auto& held : held_) blocks += held.size();
    for (Stall& stall : market_) blocks += stall.block.at != 0 ? 1 : 0;
    for (const auto& pool : pools_) {
      if (!pool) continue;
      blocks += pool->blocks.size();
      pool_bytes += pool->extent.size;
    }
    for (const Extent mapping : mappings_) mapped += mapping.size;
    expect(s.live_blocks == blocks, "blocks were lost or made up",
           static_cast<int>(s.live_blocks - blocks));
    expect(s.reserved_bytes - s.grown_bytes == pool_bytes, "pools were lost or made up");
    expect(s.mapping_bytes == mapped, "mappings were lost or made up");
    expect(s.misuse_refused == counts_.bad_frees && misuses_ == counts_.bad_frees,
           "bad frees that were not made");
    for (const std::string& violation : host_->violations()) {
      expect(false, violation.c_str());
    }
    expect(grown_scribbler_->alive() && pool_scribbler_->alive(), "a scribbler is gone");
  }

  void tell(unsigned minute, double rate) {
    const Statistics s = allocator_->statistics();
    std::printf(
        "minute %u: %.0f operations/s, %zu blocks live, %zu KiB grown, %zu KiB trusted in use, %zu "
        "KiB resident, %llu lies, %llu MiB scribbled, %llu failures\n",
        minute, rate, s.live_blocks, s.grown_bytes >> 10, s.trusted_used_bytes >> 10,
        resident_bytes() >> 10, static_cast<unsigned long long>(host_->lies()),
        static_cast<unsigned long long>(
            (grown_scribbler_->bytes_written() + pool_scribbler_->bytes_written()) >> 20),
        static_cast<unsigned long long>(failures.load()));
    std::fflush(stdout);
  }

  // ---- End ----

  // Everything back, with a host that is honest now.
  void finish() {
    host_->lie_at_random(0);
    for (auto& held : held_) {
      for (const Block& block : held) free_block(block);
      held.clear();
    }
    for (Stall& stall : market_) {
      if (stall.block.at != 0) free_block(std::exchange(stall.block, {}));
    }
    for (std::optional<Pool>& slot : pools_) {
      if (!slot) continue;
      for (const PinId pin : slot->pins) {
        expect(allocator_->unpin(pin).ok(), "an unpin was refused");
      }
      slot->pins.clear();
      for (const Block& block : std::exchange(slot->blocks, {})) free_block(block);
      if (slot->draining) {
        forget_if_drained(slot);
      } else {
        detach(slot, DetachMode::kBusy);
      }
    }
    for (const Extent mapping : mappings_) {
      expect(calls_->munmap(mapping.base, mapping.size) == 0, "a munmap was refused");
    }
    mappings_.clear();
    expect(allocator_->detach(host_->forbidden_window()).ok(), "the window could not be taken out");
    check_quiet();
    allocator_->trim();
    const Statistics s = allocator_->statistics();
    expect(s.reserved_bytes == 0 && s.regions == 0, "memory is held that nobody uses",
           static_cast<int>(s.regions));
    expect(s.pins == 0 && s.live_blocks == 0 && s.mapping_bytes == 0, "something is left");
    expect(counts_.gone == counts_.attaches, "a pool went without a word, or twice");
    expect(allocator_->validate_books(), "the books contradict themselves at the end");
    calls_.reset();
    allocator_.reset();
    expect(host_->trusted_bytes() == 0, "books were not given back",
           static_cast<int>(host_->trusted_bytes() >> 10));
    expect(host_->handed_out().empty(), "ranges were not given back",
           static_cast<int>(host_->handed_out().size()));
    for (const std::string& violation : host_->violations()) expect(false, violation.c_str());
    const std::uint64_t scribbled =
        grown_scribbler_->bytes_written() + pool_scribbler_->bytes_written();
    expect(scribbled != 0, "nobody scribbled");
    expect(host_->lies() != 0, "the host told no lie");
    grown_scribbler_.reset();
    pool_scribbler_.reset();
    const auto n = [](const std::atomic<std::uint64_t>& count) {
      return static_cast<unsigned long long>(count.load());
    };
    std::printf(
        "end: %llu allocations (%llu refused), %llu frees, %llu blocks taken over from other "
        "threads, %llu reallocations, %llu bad frees, %llu pools attached, %llu detaches, %llu "
        "pins, %llu mmap, %llu munmap, %llu mprotect, %llu threads, %llu faults of trusted memory, "
        "%llu host calls, %llu lies, %llu MiB scribbled\n",
        n(counts_.allocations), n(counts_.refused), n(counts_.frees), n(counts_.remote_frees),
        n(counts_.moves), n(counts_.bad_frees), n(counts_.attaches), n(counts_.detaches),
        n(counts_.pins), n(counts_.maps), n(counts_.unmaps), n(counts_.protects),
        n(counts_.threads), n(counts_.trusted_faults),
        static_cast<unsigned long long>(host_->calls()),
        static_cast<unsigned long long>(host_->lies()),
        static_cast<unsigned long long>(scribbled >> 20));
    std::printf("%s: %zu ranges out, %zu bytes of trusted memory out, %llu failures\n",
                failures == 0 ? "soak passed" : "soak failed", host_->handed_out().size(),
                host_->trusted_bytes(), static_cast<unsigned long long>(failures.load()));
    host_.reset();
    munmap(reinterpret_cast<void*>(pool_window_.base), pool_window_.size);
    close(pool_file_);
    close(device_file_);
  }

  struct Stall {
    std::mutex mutex;
    Block block;
  };

  const std::uint64_t seed_;
  std::unique_ptr<HostileHost> host_;
  std::optional<Allocator> allocator_;
  std::unique_ptr<ProcessEnclaveMemory> inside_;
  std::optional<MemoryCalls> calls_;
  std::mutex scribbler_mutex_;
  std::unique_ptr<Neighbour> grown_scribbler_, pool_scribbler_;
  int pool_file_ = -1, device_file_ = -1;
  Extent pool_window_{};
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> life_{0}, misuses_{0};
  // Each thread's own, from one life to the next.
  std::array<std::vector<Block>, kBlockThreads> held_;
  std::array<std::optional<Pool>, kPoolWindowBytes / (2 * kMiB)> pools_;
  std::vector<Extent> mappings_;
  std::array<Stall, 64> market_;
  Counts counts_;
};

bool parse(const char* text, std::uint64_t most, std::uint64_t* number) {
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, *number);
  return error == std::errc() && stop == end && *number != 0 && *number <= most;
}

}  // namespace
}  // namespace exclave

int main(int argc, char** argv) {
  using namespace exclave;
  constexpr std::uint64_t kMost = 7 * 24 * 60;  // minutes: a week
  std::uint64_t seconds = 0, seed = 1;
  bool good = argc > 1 && argc % 2 == 1;
  for (int i = 1; good && i + 1 < argc; i += 2) {
    std::uint64_t number = 0;
    const std::string option = argv[i];
    good = parse(argv[i + 1],
                 option == "--seed"      ? UINT64_MAX
                 : option == "--minutes" ? kMost
                                         : 60 * kMost,
                 &number);
    if (option == "--minutes") {
      seconds = 60 * number;
    } else if (option == "--seconds") {
      seconds = number;
    } else if (option == "--seed") {
      seed = number;
    } else {
      good = false;
    }
  }
  if (!good || seconds == 0) {
    std::fprintf(stderr, "usage: %s --minutes N | --seconds N [--seed N]; N is 1 to a week\n",
                 argv[0]);
    return 2;
  }
  Soak soak(seed);
  return soak.run(std::chrono::seconds(seconds)) ? 0 : 1;
}
