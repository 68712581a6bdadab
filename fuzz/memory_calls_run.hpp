// The application's memory calls, and the allocator beside them, on the hostile host of sim/. Every
// reply of the host is chosen by the input. What the books must say of each page is kept in a map
// that follows from the answers alone.
#pragma once

#include <gmock/gmock.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "exclave/memory_calls.hpp"
#include "fuzz/target.hpp"
#include "sim/hostile_host.hpp"

namespace exclave::fuzz {

// An address that means the same in every run: so many bytes from a thing that is there.
struct Place {
  enum class From { kZero, kMapping, kBlock, kEnclave, kEnclaveEnd, kForbidden, kLast } from;
  std::size_t which;
  std::uint64_t offset;
};
struct MapCall {
  Place at;
  std::size_t length;
  int protection;
  int flags;
  bool device;  // of the device's file; else of none
};
struct UnmapCall {
  Place at;
  std::size_t length;
};
struct ProtectCall {
  Place at;
  std::size_t length;
  int protection;
};
// The next call of this kind is answered so.
struct HostSays {
  sim::HostCall call;
  sim::Lie lie;
};
// The n-th request for trusted memory fails. 0: none.
struct BooksFail {
  std::uint64_t n;
};
struct TakeBlock {
  std::size_t size;
};
struct FreeBlock {
  std::size_t which;
};
struct PinPages {
  Place at;
  std::size_t length;
};
struct UnpinPages {
  std::size_t which;
};
struct TrimAll {};
using MemoryCallOperation = std::variant<MapCall, UnmapCall, ProtectCall, HostSays, BooksFail,
                                         TakeBlock, FreeBlock, PinPages, UnpinPages, TrimAll>;

class MemoryCallsRun {
 public:
  explicit MemoryCallsRun(std::uint64_t seed) {
    sim::HostileHost::Options options;
    options.seed = seed;
    options.no_access = true;
    options.lie_window_bytes = std::size_t{16} << 20;
    options.keep_events = false;
    host_ = sim::HostileHost::create(options);
    if (host_ == nullptr) std::abort();
    host_->set_delay(std::chrono::microseconds(0));
    host_->tolerate_overlaps(true);
    Config config;
    config.grow_min_bytes = std::size_t{2} << 20;
    config.grow_max_bytes = std::size_t{4} << 20;
    config.keep_free_bytes = 0;
    auto made = Allocator::create(host_->table(), config);
    EXPECT_TRUE(made.ok());
    allocator_.emplace(std::move(made.value()));
    AttachOptions forbidden;
    forbidden.role = Role::kForbidden;
    EXPECT_TRUE(allocator_->attach(host_->forbidden_window(), forbidden).ok());
    EXPECT_TRUE(allocator_->attach(sim::HostileHost::host_stack(), forbidden).ok());
    inside_ = std::make_unique<ProcessEnclaveMemory>(host_->enclave_heap());
    calls_.emplace(*allocator_, bind_enclave_memory(*inside_));
  }
  ~MemoryCallsRun() {
    host_->lie_at_random(0);
    host_->fail_trusted_nth(0);
    for (const PinId pin : pins_) EXPECT_TRUE(allocator_->unpin(pin).ok());
    pinned_.clear();
    // Replies that the input has left over are used up by the calls that follow.
    for (int tries = 0; !pages_.empty() && tries < 100000; ++tries) {
      apply(UnmapCall{{Place::From::kZero, 0, pages_.begin()->first}, kPageBytes});
    }
    EXPECT_TRUE(pages_.empty());
    for (const Extent block : blocks_) {
      EXPECT_TRUE(allocator_->deallocate(untrusted_bytes::unsafe_from_address(block.base)).ok());
    }
    EXPECT_TRUE(allocator_->validate_books());
    EXPECT_EQ(allocator_->statistics().live_blocks, 0u);
    EXPECT_EQ(allocator_->statistics().mapping_bytes, 0u);
    calls_.reset();
    allocator_.reset();
    EXPECT_THAT(host_->violations(), testing::IsEmpty());
    EXPECT_EQ(host_->trusted_bytes(), 0u);
  }
  MemoryCallsRun(const MemoryCallsRun&) = delete;
  MemoryCallsRun& operator=(const MemoryCallsRun&) = delete;

  void perform(const MemoryCallOperation& operation) {
    std::visit([this](const auto& o) { apply(o); }, operation);
    check();
  }

 private:
  // What a device's file holds; mappings beyond it are allowed, as with any file.
  static constexpr std::size_t kMostBytes = std::size_t{1} << 20;

  static int device() {
    static const int descriptor = [] {
      const int made = memfd_create("exclave-fuzz-device", MFD_CLOEXEC);
      if (made < 0 || ftruncate(made, kMostBytes) != 0) std::abort();
      return made;
    }();
    return descriptor;
  }

  std::uintptr_t address_of(const Place& place) {
    std::uintptr_t from = 0;
    switch (place.from) {
      case Place::From::kZero:
        break;
      case Place::From::kMapping:
        if (!pages_.empty()) {
          auto page = pages_.begin();
          std::advance(page, static_cast<std::ptrdiff_t>(place.which % pages_.size()));
          from = page->first;
        }
        break;
      case Place::From::kBlock:
        if (!blocks_.empty()) from = blocks_[place.which % blocks_.size()].base / 4096 * 4096;
        break;
      case Place::From::kEnclave:
        from = host_->enclave_heap().base;
        break;
      case Place::From::kEnclaveEnd:
        from = host_->enclave().end();
        break;
      case Place::From::kForbidden:
        from = host_->forbidden_window().base;
        break;
      case Place::From::kLast:
        from = last_;
        break;
    }
    return from + place.offset;
  }

  static bool is_errno_of_linux(std::intptr_t answer) {
    static const std::set<std::intptr_t> kKnown = {
        -EACCES, -EAGAIN, -EBADF,  -EBUSY, -EEXIST,    -EINVAL,  -EIO,
        -ENFILE, -ENODEV, -ENOMEM, -EPERM, -EOVERFLOW, -ETXTBSY, -EOPNOTSUPP};
    return kKnown.count(answer) != 0;
  }
  static std::size_t pages_of(std::size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes; }

  // The books decide what became of pages when the host said no in the middle; from then on they
  // may not change by themselves.
  void learn(Extent range) {
    for (auto page = pages_.lower_bound(range.base);
         page != pages_.end() && page->first < range.end();) {
      const Result<RegionInfo> info = allocator_->query(page->first, kPageBytes);
      if (info.ok() && info->role == Role::kMapping) {
        page->second = info->protection;
        ++page;
      } else {
        page = pages_.erase(page);
      }
    }
  }
  void forget(Extent range) {
    pages_.erase(pages_.lower_bound(range.base), pages_.lower_bound(range.end()));
  }
  bool is_pinned(Extent range) const {
    return std::any_of(pinned_.begin(), pinned_.end(),
                       [&](const Extent& pinned) { return pinned.overlaps(range); });
  }
  std::vector<std::size_t> state() const {
    const Statistics s = allocator_->statistics();
    return {s.reserved_bytes, s.live_bytes, s.grown_bytes, s.mapping_bytes,
            s.live_blocks,    s.regions,    s.pins};
  }

  void apply(const MapCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const bool fixed = (o.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
    const auto before = state();
    const std::intptr_t answer =
        calls_->mmap(address, o.length, o.protection, o.flags, o.device ? device() : -1, 0);
    const std::size_t length = pages_of(o.length) * kPageBytes;
    if (answer <= 0) {
      EXPECT_TRUE(is_errno_of_linux(answer)) << answer;
      // What stood at a fixed address may be gone with a host that lies; nothing else changes.
      if (fixed && o.length <= kMostBytes) {
        learn({address, length});
      } else {
        EXPECT_EQ(state(), before);
      }
      return;
    }
    const Extent got{static_cast<std::uintptr_t>(answer), length};
    if (host_->enclave().covers(got)) {
      EXPECT_EQ(state(), before) << "inside is not of the allocator";
      return;
    }
    EXPECT_FALSE(host_->enclave().overlaps(got));
    EXPECT_TRUE(o.device && (o.flags & (MAP_SHARED | MAP_SHARED_VALIDATE)) != 0);
    EXPECT_EQ(o.protection & PROT_EXEC, 0);
    EXPECT_FALSE(host_->forbidden_window().overlaps(got));
    if (fixed) {
      EXPECT_EQ(got.base, address);
    }
    for (const Extent block : blocks_) EXPECT_FALSE(block.overlaps(got));
    const auto next = pages_.lower_bound(got.base);
    const bool stood = next != pages_.end() && next->first < got.end();
    EXPECT_TRUE(!stood || (o.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) == MAP_FIXED);
    forget(got);
    last_ = got.base;
    if (got.size > kMostBytes) {
      // Too many to follow: away with it, whatever the host says to that.
      while (calls_->munmap(got.base, got.size) != 0) {
      }
      return;
    }
    for (std::uintptr_t page = got.base; page < got.end(); page += kPageBytes) {
      pages_.emplace(page, static_cast<Protection>(o.protection & 3));
    }
  }

  void apply(const UnmapCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const auto before = state();
    const int answer = calls_->munmap(address, o.length);
    EXPECT_TRUE(answer == 0 || is_errno_of_linux(answer)) << answer;
    const Extent range = range_of(address, o.length);
    if (address % kPageBytes != 0 || o.length == 0) {
      EXPECT_EQ(answer, -EINVAL);
      EXPECT_EQ(state(), before);
    } else if (is_pinned(range)) {
      // (Or too little memory for the books.)
      EXPECT_TRUE(answer == -EBUSY || answer == -ENOMEM || answer == -EINVAL) << answer;
      EXPECT_EQ(state(), before);
    } else if (answer == 0) {
      forget(range);
    } else {
      const auto before_it = pages_;
      learn(range);
      // What the host refused to unmap stays in the books.
      const std::vector<Extent> out = host_->handed_out();
      for (const auto& entry : before_it) {
        const std::uintptr_t page = entry.first;
        if (pages_.count(page) != 0) continue;
        EXPECT_TRUE(std::none_of(out.begin(), out.end(), [&](const Extent& extent) {
          return extent.contains(page);
        })) << "the host still has a page that the books forgot";
      }
    }
  }

  // As far as it can reach the books: beyond the lower half they know nothing.
  static Extent range_of(std::uintptr_t address, std::size_t length) {
    constexpr std::uintptr_t kEnd = std::uintptr_t{1} << 47;
    if (address >= kEnd) return {kEnd, 0};
    return {address, length > kEnd - address ? kEnd - address : pages_of(length) * kPageBytes};
  }

  void apply(const ProtectCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const int answer = calls_->mprotect(address, o.length, o.protection);
    EXPECT_TRUE(answer == 0 || is_errno_of_linux(answer)) << answer;
    const Extent range = range_of(address, o.length);
    if (answer != 0) {
      learn(range);
      return;
    }
    if (o.length == 0) return;
    std::size_t found = 0;
    for (auto page = pages_.lower_bound(range.base);
         page != pages_.end() && page->first < range.end(); ++page) {
      page->second = static_cast<Protection>(o.protection & 3);
      ++found;
    }
    // Success means that every page outside was a mapping.
    std::size_t outside = pages_of(o.length);
    for (std::uintptr_t page = range.base; page < range.end() && outside <= 4096;
         page += kPageBytes) {
      outside -= host_->enclave().contains(page) ? 1 : 0;
    }
    if (!host_->enclave().overlaps(range) || outside <= 4096) {
      EXPECT_EQ(found, outside);
    }
  }

  void apply(const HostSays& o) {
    if (fits(o.lie, o.call)) host_->script(o.call, {o.lie});
  }
  void apply(const BooksFail& o) { host_->fail_trusted_nth(o.n); }

  void apply(const TakeBlock& o) {
    const Result<untrusted_bytes> block = allocator_->allocate(o.size);
    if (!block.ok()) return;
    const Extent extent{block->address(), o.size};
    EXPECT_FALSE(extent.overlaps(host_->enclave()));
    EXPECT_FALSE(extent.overlaps(host_->forbidden_window()));
    for (const Extent other : blocks_) EXPECT_FALSE(other.overlaps(extent));
    const auto page = pages_.lower_bound(extent.base / kPageBytes * kPageBytes);
    EXPECT_TRUE(page == pages_.end() || page->first >= extent.end());
    blocks_.push_back(extent);
    last_ = extent.base / kPageBytes * kPageBytes;
  }
  void apply(const FreeBlock& o) {
    if (blocks_.empty()) return;
    const std::size_t i = o.which % blocks_.size();
    EXPECT_TRUE(allocator_->deallocate(untrusted_bytes::unsafe_from_address(blocks_[i].base)).ok());
    blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  void apply(const PinPages& o) {
    const std::uintptr_t address = address_of(o.at);
    const Extent range = range_of(address / kPageBytes * kPageBytes, o.length);
    bool all = !range.empty();
    for (std::uintptr_t page = range.base; all && page < range.end(); page += kPageBytes) {
      all = pages_.count(page) != 0;
    }
    if (!all) return;
    const Result<PinId> pin = allocator_->pin(range);
    if (!pin.ok()) {
      EXPECT_EQ(pin.error(), Error::kOutOfTrustedMemory);
      return;
    }
    pins_.push_back(*pin);
    pinned_.push_back(range);
  }
  void apply(const UnpinPages& o) {
    if (pins_.empty()) return;
    const auto i = static_cast<std::ptrdiff_t>(o.which % pins_.size());
    EXPECT_TRUE(allocator_->unpin(pins_[static_cast<std::size_t>(i)]).ok());
    pins_.erase(pins_.begin() + i);
    pinned_.erase(pinned_.begin() + i);
  }
  void apply(const TrimAll&) { allocator_->trim(); }

  void check() {
    // It walks all the books: each time at first, when inputs are short, then now and then.
    if (++steps_ < 16 || steps_ % 8 == 0) EXPECT_TRUE(allocator_->validate_books());
    const Statistics s = allocator_->statistics();
    EXPECT_EQ(s.mapping_bytes, pages_.size() * kPageBytes);
    EXPECT_EQ(s.live_blocks, blocks_.size());
    EXPECT_EQ(s.live_bytes + s.cached_bytes + s.free_bytes + s.overhead_bytes, s.reserved_bytes);
    for (const auto& [page, protection] : pages_) {
      const Result<RegionInfo> info = allocator_->query(page, kPageBytes);
      EXPECT_TRUE(info.ok());
      EXPECT_EQ(info->role, Role::kMapping);
      EXPECT_EQ(info->protection, protection);
    }
    EXPECT_THAT(host_->violations(), testing::IsEmpty());
  }

  std::unique_ptr<sim::HostileHost> host_;
  std::optional<Allocator> allocator_;
  std::unique_ptr<ProcessEnclaveMemory> inside_;
  std::optional<MemoryCalls> calls_;
  std::map<std::uintptr_t, Protection> pages_;
  std::vector<Extent> blocks_;
  std::vector<PinId> pins_;
  std::vector<Extent> pinned_;
  std::uintptr_t last_ = 0;
  std::size_t steps_ = 0;
};

// ---- As C++ ----

inline std::string cpp_of(const Place& place) {
  return cpp_call("fuzz::Place", cpp_enum("fuzz::Place::From", place.from), place.which,
                  place.offset);
}
inline std::string cpp_of(const MemoryCallOperation& operation) {
  struct Printer {
    std::string operator()(const MapCall& o) const {
      return cpp_call("fuzz::MapCall", cpp_of(o.at), o.length, o.protection, o.flags, o.device);
    }
    std::string operator()(const UnmapCall& o) const {
      return cpp_call("fuzz::UnmapCall", cpp_of(o.at), o.length);
    }
    std::string operator()(const ProtectCall& o) const {
      return cpp_call("fuzz::ProtectCall", cpp_of(o.at), o.length, o.protection);
    }
    std::string operator()(const HostSays& o) const {
      return cpp_call("fuzz::HostSays", cpp_enum("sim::HostCall", o.call),
                      cpp_enum("sim::Lie", o.lie)) +
             " /* " + name_of(o.call) + ": " + name_of(o.lie) + " */";
    }
    std::string operator()(const BooksFail& o) const { return cpp_call("fuzz::BooksFail", o.n); }
    std::string operator()(const TakeBlock& o) const { return cpp_call("fuzz::TakeBlock", o.size); }
    std::string operator()(const FreeBlock& o) const {
      return cpp_call("fuzz::FreeBlock", o.which);
    }
    std::string operator()(const PinPages& o) const {
      return cpp_call("fuzz::PinPages", cpp_of(o.at), o.length);
    }
    std::string operator()(const UnpinPages& o) const {
      return cpp_call("fuzz::UnpinPages", o.which);
    }
    std::string operator()(const TrimAll&) const { return "fuzz::TrimAll{}"; }
  };
  return std::visit(Printer{}, operation);
}

}  // namespace exclave::fuzz
