// The bytes of managed memory change no decision (THREATS 44), over as many operations as one has
// time for.
//
//   exclave_noninterference [OPERATIONS [SEED]]
//
// One seeded run of operations is made three times: quiet; with another process writing over every
// byte of the memory, all the time; and with every page of it PROT_NONE, so that to read or write
// one byte is to die. Blocks, pools and their regions, pins, looks and memory calls are mixed. Each
// answer, with each address, and each call to the host goes into a hash. The three must be equal.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "exclave/memory_calls.hpp"
#include "exclave/process_port.hpp"
#include "sim/neighbour.hpp"
#include "slab/size_class.hpp"
#include "support/quiet_addresses.hpp"

namespace exclave {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
// All the memory that there is, at the same address in every run. The host gives from the first
// part; pools are attached in the second; the host maps devices in the third.
constexpr Extent kManaged{testing_support::kQuietAddresses, 160 * kMiB};
constexpr Extent kGrown{kManaged.base, 96 * kMiB};
constexpr Extent kPools{kGrown.end(), 32 * kMiB};
constexpr Extent kMapped{kPools.end(), 32 * kMiB};
constexpr std::size_t kPoolBytes = 2 * kMiB;
constexpr std::size_t kPools_ = kPools.size / kPoolBytes;

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "noninterference: %s: %s\n", what, std::strerror(errno));
  std::exit(2);
}

// What was decided, folded into one number.
class Trace {
 public:
  void add(std::uint64_t what) noexcept {
    hash_ = (hash_ ^ what) * 0x9e3779b97f4a7c15;
    hash_ ^= hash_ >> 29;
  }
  std::uint64_t hash() const noexcept { return hash_; }

 private:
  std::uint64_t hash_ = 0x6578636c617665;
};

// Books of its own, untrusted addresses by first fit: the same calls get the same answers.
class PlainPort {
 public:
  explicit PlainPort(Trace& trace) : trace_(trace) {
    const auto made = ProcessPort::create(
        {.book_bytes = std::size_t{1} << 30, .enclave_bytes = std::size_t{64} << 20});
    if (!made.ok()) die("no address space for the books");
    port_ = *made;
  }
  ~PlainPort() { ProcessPort::destroy(port_); }
  PlainPort(const PlainPort&) = delete;
  PlainPort& operator=(const PlainPort&) = delete;

  PortTable table() noexcept { return bind_port(*this); }
  std::uint64_t host_calls() const { return host_calls_; }

  Extent enclave() noexcept { return port_->enclave(); }
  Extent book_window() noexcept { return port_->book_window(); }
  void* trusted_reserve(std::size_t bytes) noexcept { return port_->trusted_reserve(bytes); }
  void trusted_release(void* memory, std::size_t bytes) noexcept {
    port_->trusted_release(memory, bytes);
  }
  bool entropy(void* memory, std::size_t bytes) noexcept {
    std::memset(memory, 0x5a, bytes);
    return true;
  }
  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept {
    return note(give(kGrown, bytes, alignment));
  }
  int host_release(std::uintptr_t address, std::size_t bytes) noexcept {
    note({address + bytes, 0});
    const auto found = out_.find(address);
    if (found == out_.end() || found->second != bytes) return EINVAL;
    out_.erase(found);
    return 0;
  }
  HostReply host_map(const MapRequest& request) noexcept {
    const bool fixed = (request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
    if (!fixed) return note(give(kMapped, request.size, kPageBytes));
    const Extent place{request.hint, request.size};
    if (!kMapped.covers(place)) return note({0, ENOMEM});
    if ((request.flags & MAP_FIXED_NOREPLACE) != 0 && !is_free(place)) return note({0, EEXIST});
    take_out(place);
    out_.emplace(place.base, place.size);
    return note({place.base, 0});
  }
  int host_unmap(std::uintptr_t address, std::size_t bytes) noexcept {
    note({address + bytes, 0});
    take_out({address, bytes});
    return 0;
  }
  int host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept {
    note({address + bytes, protection});
    // A refusal now and then is an answer like any other.
    return host_calls_ % 16 == 0 ? ENOMEM : 0;
  }

 private:
  HostReply note(HostReply reply) noexcept {
    ++host_calls_;
    trace_.add(reply.address);
    trace_.add(static_cast<std::uint64_t>(reply.error));
    return reply;
  }
  bool is_free(Extent place) const {
    auto next = out_.lower_bound(place.base);
    if (next != out_.end() && next->first < place.end()) return false;
    return next == out_.begin() || (--next)->first + next->second <= place.base;
  }
  HostReply give(Extent from, std::size_t bytes, std::size_t alignment) {
    std::uintptr_t at = (from.base + alignment - 1) & ~(alignment - 1);
    for (auto range = out_.lower_bound(from.base); range != out_.end(); ++range) {
      if (range->first >= at + bytes) break;
      at = std::max(at, (range->first + range->second + alignment - 1) & ~(alignment - 1));
    }
    if (bytes > from.size || at + bytes > from.end()) return {0, ENOMEM};
    out_.emplace(at, bytes);
    return {at, 0};
  }
  void take_out(Extent place) {
    auto range = out_.upper_bound(place.base);
    if (range != out_.begin()) --range;
    while (range != out_.end() && range->first < place.end()) {
      const Extent old{range->first, range->second};
      if (old.end() <= place.base) {
        ++range;
        continue;
      }
      range = out_.erase(range);
      if (old.base < place.base) out_.emplace(old.base, place.base - old.base);
      if (old.end() > place.end()) out_.emplace(place.end(), old.end() - place.end());
      range = out_.lower_bound(place.end());
    }
  }

  Trace& trace_;
  ProcessPort* port_ = nullptr;
  std::map<std::uintptr_t, std::size_t> out_;
  std::uint64_t host_calls_ = 0;
};

static_assert(Port<PlainPort>);

// The enclave's own memory: there is none left, which is also an answer.
class NoInside {
 public:
  std::intptr_t map(std::uintptr_t, std::size_t, int, int, int, std::uint64_t) noexcept {
    return -ENOMEM;
  }
  int unmap(std::uintptr_t, std::size_t) noexcept { return 0; }
  int protect(std::uintptr_t, std::size_t, int) noexcept { return -ENOMEM; }
  bool lies_outside(int, int flags, int, std::uint64_t) noexcept {
    return (flags & MAP_SHARED) != 0;
  }
};

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 2 + 1) {}
  std::uint64_t next() noexcept {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545f4914f6cdd1d;
  }
  std::size_t below(std::size_t n) noexcept {
    return static_cast<std::size_t>((next() >> 32) * n >> 32);
  }

 private:
  std::uint64_t state_;
};

// One run of the operations.
class Run {
 public:
  Run(std::uint64_t operations, std::uint64_t seed)
      : operations_(operations), random_(seed), port_(trace_) {
    Config config;
    config.quota_bytes = 80 * kMiB;
    config.grow_min_bytes = kMiB;
    config.grow_max_bytes = 4 * kMiB;
    config.keep_free_bytes = 2 * kMiB;
    auto made = Allocator::create(port_.table(), config);
    if (!made.ok()) die("no allocator");
    allocator_.emplace(std::move(made.value()));
    calls_.emplace(*allocator_, bind_enclave_memory(inside_));
  }

  // The hash of all decisions. false: the books do not hold together.
  bool perform() {
    for (std::uint64_t i = 0; i < operations_; ++i) {
      const std::size_t what = random_.below(1024);
      if (what < 990) {
        block_operation();
      } else if (what < 1006) {
        memory_call();
      } else if (what < 1018) {
        region_operation();
      } else if (what < 1022) {
        look();
      } else if (what == 1022) {
        allocator_->flush_thread();
      } else if (random_.below(16) == 0) {
        allocator_->trim();
      }
      if ((i & 0xfffff) == 0 && !allocator_->validate_books()) return false;
    }
    add_statistics();
    return allocator_->validate_books();
  }

  std::uint64_t hash() const { return trace_.hash(); }
  std::uint64_t host_calls() const { return port_.host_calls(); }

 private:
  static constexpr std::size_t kMostBlocks = 3000;

  struct Block {
    untrusted_bytes at;
    RegionId pool;  // none: grown
  };

  void block_operation() {
    const std::uint64_t r = random_.next();
    // Around a number of blocks that goes up and down.
    if (blocks_.size() < (r >> 16) % kMostBlocks) {
      std::size_t size = 1 + (r >> 32) % 400;
      if (r % 16 == 0) size = 1 + (r >> 32) % 20000;
      if (r % 512 == 0) size = 1 + (r >> 32) % (512 << 10);
      const std::size_t alignment = r % 64 == 1 ? std::size_t{1} << (r >> 8) % 17 : 16;
      Placement where;
      if (r % 8 == 3 && !pools_.empty())
        where = Placement::in_pool(pools_[(r >> 8) % pools_.size()].id);
      if (r % 32 == 7) where = Placement::on_device(static_cast<DeviceTag>(1 + (r >> 8) % 3));
      const auto block = allocator_->allocate(size, alignment, where);
      add(block.error(), block.ok() ? block->address() : 0);
      if (!block.ok()) return;
      blocks_.push_back({*block, pool_of(block->address())});
      return;
    }
    if (blocks_.empty()) return;
    const std::size_t i = (r >> 32) % blocks_.size();
    const untrusted_bytes at = blocks_[i].at;
    if (r % 64 == 0) {
      // Bad ones are told the same way each time.
      add(allocator_
              ->deallocate(untrusted_bytes::unsafe_from_address(at.address() + 1 + (r >> 8) % 64))
              .error());
      return;
    }
    if (r % 64 == 1) {
      // In place: to move would be to read.
      const auto usable = allocator_->usable_size(at);
      add(usable.error(), usable.ok() ? *usable : 0);
      if (usable.ok() && stays(*usable)) add(allocator_->reallocate(at, *usable).error());
      return;
    }
    add(allocator_->deallocate(at).error());
    if (r % 64 == 2) add(allocator_->deallocate(at).error());
    blocks_[i] = blocks_.back();
    blocks_.pop_back();
  }

  // What would move is left alone: a few pages at a large alignment, which are of no size class,
  // and pages that may be pinned.
  bool stays(std::size_t usable) const {
    if (usable > kMaxSmallBytes) return pins_.empty();
    return size_class_bytes(size_class_of(usable)) == usable;
  }

  void region_operation() {
    const std::size_t slot = random_.below(kPools_);
    const Extent place{kPools.base + slot * kPoolBytes, kPageBytes * (1 + random_.below(512))};
    switch (random_.below(6)) {
      case 0:
      case 1: {
        AttachOptions options;
        options.device = static_cast<DeviceTag>(random_.below(4));
        options.open_to_all = random_.below(8) == 0;
        if (random_.below(4) == 0) options.boundary = 8 * kPageBytes;
        const auto id = allocator_->attach(place, options);
        add(id.error());
        if (id.ok()) pools_.push_back({*id, place});
        break;
      }
      case 2:
      case 3: {
        if (pools_.empty()) break;
        const std::size_t i = random_.below(pools_.size());
        const auto mode = static_cast<DetachMode>(random_.below(3));
        const Status gone = allocator_->detach(pools_[i].place, mode);
        add(gone.error());
        forget_gone();
        break;
      }
      case 4: {
        if (blocks_.empty()) break;
        const auto at = blocks_[random_.below(blocks_.size())].at.address();
        const auto pin = allocator_->pin({at, 1 + random_.below(64)});
        add(pin.error());
        if (pin.ok()) pins_.push_back(*pin);
        break;
      }
      default:
        if (pins_.empty()) break;
        std::swap(pins_[random_.below(pins_.size())], pins_.back());
        add(allocator_->unpin(pins_.back()).error());
        pins_.pop_back();
        forget_gone();
        break;
    }
    if (pins_.size() > 32) {
      add(allocator_->unpin(pins_.front()).error());
      pins_.erase(pins_.begin());
      forget_gone();
    }
  }
  // Pools that went, and their blocks with them.
  void forget_gone() {
    const auto is_gone = [this](RegionId id, std::uintptr_t at) {
      const auto info = allocator_->query(at, 1);
      return !info.ok() || !(info->id == id);
    };
    for (std::size_t i = 0; i < pools_.size();) {
      if (!is_gone(pools_[i].id, pools_[i].place.base)) {
        ++i;
        continue;
      }
      const RegionId id = pools_[i].id;
      pools_.erase(pools_.begin() + static_cast<std::ptrdiff_t>(i));
      blocks_.erase(std::remove_if(blocks_.begin(), blocks_.end(),
                                   [&](const Block& block) { return block.pool == id; }),
                    blocks_.end());
    }
  }
  RegionId pool_of(std::uintptr_t at) const {
    for (const Pool& pool : pools_) {
      if (pool.place.contains(at)) return pool.id;
    }
    return {};
  }

  void memory_call() {
    const std::uint64_t r = random_.next();
    const std::uintptr_t at = kMapped.base + (r >> 32) % (kMapped.size / kPageBytes) * kPageBytes;
    const std::size_t length = (1 + (r >> 8) % 32) * kPageBytes;
    switch (r % 8) {
      case 0:
      case 1:
        add(calls_->mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED, 3, r));
        break;
      case 2:
        add(calls_->mmap(at, length, PROT_READ,
                         MAP_SHARED | (r & 256 ? MAP_FIXED : MAP_FIXED_NOREPLACE), 3, r));
        break;
      case 3:
      case 4:
        add(calls_->mprotect(at, length, static_cast<int>(r >> 16) & 3));
        break;
      case 5:
        // Over grown memory and pools, too: they are skipped.
        add(calls_->munmap(kManaged.base + (r >> 32) % (kManaged.size / kPageBytes) * kPageBytes,
                           length));
        break;
      default:
        add(calls_->munmap(at, 4 * length));
        break;
    }
  }

  void look() {
    const std::uintptr_t at = kManaged.base + random_.below(kManaged.size);
    const auto info = allocator_->query(at, 1 + random_.below(9000));
    add(info.error(), info.ok() ? info->extent.base + info->id.value : 0);
    const auto run = allocator_->next_run(at);
    add(run.error(), run.ok() ? run->extent.base + run->live_slots : 0);
    if (random_.below(16) == 0) add_statistics();
  }
  void add_statistics() {
    const Statistics s = allocator_->statistics();
    for (const std::uint64_t n :
         {std::uint64_t{s.reserved_bytes}, std::uint64_t{s.live_bytes},
          std::uint64_t{s.cached_bytes}, std::uint64_t{s.free_bytes},
          std::uint64_t{s.mapping_bytes}, std::uint64_t{s.live_blocks}, std::uint64_t{s.regions},
          std::uint64_t{s.pins}, std::uint64_t{s.trusted_used_bytes}, s.misuse_refused,
          s.lies_refused}) {
      trace_.add(n);
    }
  }

  void add(Error error, std::uint64_t value = 0) {
    trace_.add(static_cast<std::uint64_t>(error));
    trace_.add(value);
  }
  void add(std::intptr_t answer) { trace_.add(static_cast<std::uint64_t>(answer)); }

  struct Pool {
    RegionId id;
    Extent place;
  };

  const std::uint64_t operations_;
  Trace trace_;
  Random random_;
  PlainPort port_;
  NoInside inside_;
  std::optional<Allocator> allocator_;
  std::optional<MemoryCalls> calls_;
  std::vector<Block> blocks_;
  std::vector<Pool> pools_;
  std::vector<PinId> pins_;
};

enum class Outside { kQuiet, kScribbled, kNoAccess };

// The hash, and what is to be told of the run.
std::uint64_t run(Outside outside, std::uint64_t operations, std::uint64_t seed) {
  static constexpr const char* kNames[] = {"quiet", "scribbled", "no access"};
  const int memory = memfd_create("exclave-noninterference", MFD_CLOEXEC);
  if (memory < 0 || ftruncate(memory, static_cast<off_t>(kManaged.size)) != 0) die("no memfd");
  const int protection = outside == Outside::kNoAccess ? PROT_NONE : PROT_READ | PROT_WRITE;
  void* const wanted = reinterpret_cast<void*>(kManaged.base);
  if (mmap(wanted, kManaged.size, protection, MAP_SHARED | MAP_FIXED_NOREPLACE, memory, 0) !=
      wanted)
    die("no place for the managed memory");
  std::unique_ptr<sim::Neighbour> neighbour;
  if (outside == Outside::kScribbled) {
    neighbour = sim::Neighbour::start({.descriptor = memory, .seed = seed + 1});
    if (neighbour == nullptr || !neighbour->add(0, kManaged.size)) die("no neighbour");
    // Before the first operation, too.
    if (!neighbour->wait_for_bytes(kManaged.size)) die("the neighbour does not write");
  }
  const auto start = std::chrono::steady_clock::now();
  std::uint64_t hash = 0;
  {
    Run one(operations, seed);
    if (!one.perform()) {
      std::fprintf(stderr, "noninterference: %s: the books contradict themselves\n",
                   kNames[static_cast<int>(outside)]);
      std::exit(1);
    }
    hash = one.hash();
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const std::uint64_t written = neighbour != nullptr ? neighbour->bytes_written() : 0;
    std::printf("%-10s %016llx  %.1f s, %llu host calls, each byte written over %.1f times\n",
                kNames[static_cast<int>(outside)], static_cast<unsigned long long>(hash), seconds,
                static_cast<unsigned long long>(one.host_calls()),
                static_cast<double>(written) / static_cast<double>(kManaged.size));
    std::fflush(stdout);
  }
  neighbour.reset();
  munmap(wanted, kManaged.size);
  close(memory);
  return hash;
}

bool parse(const char* text, std::uint64_t* number) {
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, *number);
  return error == std::errc() && stop == end && *number != 0;
}

}  // namespace
}  // namespace exclave

int main(int argc, char** argv) {
  using namespace exclave;
  std::uint64_t operations = 1000000, seed = 1;
  if (argc > 3 || (argc > 1 && !parse(argv[1], &operations)) ||
      (argc > 2 && !parse(argv[2], &seed))) {
    std::fprintf(stderr, "usage: %s [OPERATIONS [SEED]], both numbers above 0\n", argv[0]);
    return 2;
  }
  const std::uint64_t quiet = run(Outside::kQuiet, operations, seed);
  const std::uint64_t scribbled = run(Outside::kScribbled, operations, seed);
  const std::uint64_t dark = run(Outside::kNoAccess, operations, seed);
  if (quiet != scribbled || quiet != dark) {
    std::printf("a decision depended on untrusted bytes\n");
    return 1;
  }
  std::printf("%llu operations: the same decisions\n", static_cast<unsigned long long>(operations));
  return 0;
}
