// The application's memory calls, and the allocator beside them, on the hostile host of sim/ and,
// inside, on the enclave's own manager over a table of pages. Every reply of the host, and which
// page operation fails, is chosen by the input. What the books must say of each page outside is
// kept in a map that follows from the answers alone; what each page inside must be is a model's to
// say.
#pragma once

#include <gmock/gmock.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "exclave/enclave_manager.hpp"
#include "exclave/memory_calls.hpp"
#include "fuzz/inside_model.hpp"
#include "fuzz/memory_calls_operations.hpp"
#include "sim/hostile_host.hpp"
#include "support/fake_pages.hpp"

namespace exclave::fuzz {

class MemoryCallsRun {
 public:
  explicit MemoryCallsRun(std::uint64_t seed) {
    sim::HostileHost::Options options;
    options.seed = seed;
    options.no_access = true;
    options.book_bytes = std::size_t{32} << 20;
    options.enclave_bytes = kInsideBytes;
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
    EnclaveManager::Options inside;
    inside.range = host_->enclave_heap();
    inside.lies_outside = [](void*, int, int flags, int descriptor, std::uint64_t) {
      return descriptor == device() && (flags & MAP_TYPE) != MAP_PRIVATE ? 1 : 0;
    };
    page_operations_.refusal = [this](Op op) {
      if (op != failing_ || fails_in_ == 0 || --fails_in_ != 0) return 0;
      ++refused_;
      return -EIO;
    };
    auto manager = EnclaveManager::create(host_->table(), page_operations_.table(), inside);
    EXPECT_TRUE(manager.ok());
    manager_.emplace(std::move(manager.value()));
    model_.emplace(inside.range);
    calls_.emplace(*allocator_, manager_->table());
    state_ = state_of(allocator_->statistics());
  }
  ~MemoryCallsRun() {
    host_->during_calls(nullptr);
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
    fails_in_ = 0;
    EXPECT_EQ(calls_->munmap(model_->range().base, model_->range().size), 0);
    EXPECT_EQ(page_operations_.count(), 0u);
    EXPECT_EQ(manager_->statistics().areas, 0u);
    EXPECT_THAT(page_operations_.violations(), testing::IsEmpty());
    calls_.reset();
    manager_.reset();
    allocator_.reset();
    EXPECT_THAT(host_->violations(), testing::IsEmpty());
    EXPECT_EQ(host_->trusted_bytes(), 0u);
  }
  MemoryCallsRun(const MemoryCallsRun&) = delete;
  MemoryCallsRun& operator=(const MemoryCallsRun&) = delete;

  void perform(const MemoryCallOperation& operation) {
    unchanged_ = false;
    std::visit([this](const auto& o) { apply(o); }, operation);
    check();
  }

 private:
  // What a device's file holds; mappings beyond it are allowed, as with any file.
  static constexpr std::size_t kMostBytes = std::size_t{1} << 20;
  static constexpr std::size_t kInsideBytes = std::size_t{1} << 20;
  using Op = testing_support::FakePages::Op;

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
      case Place::From::kInside:
        if (!model_->pages().empty()) {
          auto page = model_->pages().begin();
          std::advance(page, static_cast<std::ptrdiff_t>(place.which % model_->pages().size()));
          from = page->first;
        }
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
        -EACCES, -EAGAIN, -EBADF, -EBUSY,     -EEXIST,  -EINVAL,     -EIO,   -ENFILE,
        -ENODEV, -ENOMEM, -EPERM, -EOVERFLOW, -ETXTBSY, -EOPNOTSUPP, -EFAULT};
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
  static std::vector<std::size_t> state_of(const Statistics& s) {
    return {s.reserved_bytes, s.live_bytes, s.grown_bytes, s.mapping_bytes,
            s.live_blocks,    s.regions,    s.pins};
  }

  // ---- The inside ----

  std::uint64_t failures() const { return refused_ + host_->trusted_failures(); }
  // Is the call one that the model foretells: on whole pages of the enclave, and nothing failed?
  bool is_foretold(std::uintptr_t address, std::size_t length, std::uint64_t failures_before) {
    return failures() == failures_before && host_->enclave().covers({address, length}) &&
           address % kPageBytes == 0 && length != 0;
  }
  static std::size_t whole(std::size_t length) { return pages_of(length) * kPageBytes; }

  // Books and pages decide what became of the inside where a page operation failed, or a call went
  // over the edge. They agree, and from then on nothing may change by itself.
  void learn_inside() {
    const auto answer = [&](std::uintptr_t page, int advice) {
      return manager_->advise(EXCLAVE_MADVISE, page, kPageBytes, advice);
    };
    const std::uint64_t armed = std::exchange(fails_in_, 0);
    InsideModel::Pages& pages = model_->pages();
    InsideModel::Pages learnt;
    for (const auto& [address, there] : page_operations_.snapshot()) {
      InsideModel::Page page;
      if (const auto known = pages.find(address); known != pages.end()) page = known->second;
      page.protection = there.protection;
      page.value = there.value;
      page.locked = answer(address, MADV_COLD) == -EINVAL;
      const bool named = answer(address, MADV_WIPEONFORK) == -EINVAL;
      if (named != (page.shared || page.from_file)) {
        // Shared, or of a file: only what would change bytes tells.
        page.shared = named;
        page.from_file = false;
        unsure_ = unsure_ || named;
      }
      learnt.emplace(address, page);
    }
    pages = std::move(learnt);
    model_->set_present_break(manager_->set_break(0));
    fails_in_ = armed;
  }
  // ---- The calls ----

  void apply(const MapCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const bool fixed = (o.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
    const std::uint64_t failed = failures();
    const std::intptr_t answer =
        calls_->mmap(address, o.length, o.protection, o.flags, o.device ? device() : -1, 0);
    const std::size_t length = whole(o.length);
    if (answer <= 0) {
      EXPECT_TRUE(is_errno_of_linux(answer)) << answer;
      // What stood at a fixed address may be gone with a host that lies; nothing else changes.
      if (fixed && o.length <= kMostBytes) {
        learn({address, length});
      } else {
        unchanged_ = true;
      }
      if (failures() != failed) learn_inside();
      return;
    }
    const Extent got{static_cast<std::uintptr_t>(answer), length};
    if (fixed) {
      EXPECT_EQ(got.base, address);
    }
    if (host_->enclave().covers(got)) {
      unchanged_ = true;
      EXPECT_TRUE(model_->range().covers(got));
      const bool replaces = (o.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) == MAP_FIXED;
      EXPECT_TRUE(replaces || model_->is_free(got)) << "something stood there";
      InsideModel::Page page;
      page.protection = o.protection & 7;
      page.locked = (o.flags & MAP_LOCKED) != 0;
      page.shared = (o.flags & MAP_TYPE) == MAP_SHARED;
      page.from_file = (o.flags & MAP_ANONYMOUS) == 0;
      page.value = page.from_file ? testing_support::FakePages::kFileValue : 0;
      model_->map(got, page, page.from_file ? 1 : 0);
      last_ = got.base;
      return;
    }
    EXPECT_FALSE(host_->enclave().overlaps(got));
    EXPECT_TRUE(o.device && (o.flags & MAP_TYPE) != MAP_PRIVATE);
    EXPECT_EQ(o.protection & PROT_EXEC, 0);
    const auto next = pages_.lower_bound(got.base);
    const bool stood = next != pages_.end() && next->first < got.end();
    EXPECT_TRUE(!stood || (o.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) == MAP_FIXED);
    come(got, static_cast<Protection>(o.protection & 3));
  }

  // The application has new pages outside.
  void come(Extent got, Protection protection) {
    EXPECT_FALSE(host_->enclave().overlaps(got));
    EXPECT_FALSE(host_->forbidden_window().overlaps(got));
    for (const Extent block : blocks_) EXPECT_FALSE(block.overlaps(got));
    forget(got);
    last_ = got.base;
    if (got.size > kMostBytes) {
      // Too many to follow: away with it, whatever the host says to that.
      while (calls_->munmap(got.base, got.size) != 0) {
      }
      return;
    }
    for (std::uintptr_t page = got.base; page < got.end(); page += kPageBytes) {
      pages_.emplace(page, protection);
    }
  }

  void apply(const UnmapCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const std::uint64_t failed = failures();
    const int answer = calls_->munmap(address, o.length);
    EXPECT_TRUE(answer == 0 || is_errno_of_linux(answer)) << answer;
    const Extent range = range_of(address, o.length);
    if (is_foretold(address, o.length, failed)) {
      EXPECT_EQ(answer, model_->unmap({address, whole(o.length)}));
    } else if (host_->enclave().overlaps(range)) {
      learn_inside();
    }
    if (address % kPageBytes != 0 || o.length == 0) {
      EXPECT_EQ(answer, -EINVAL);
      unchanged_ = true;
    } else if (is_pinned(range)) {
      // (Or too little memory for the books.)
      EXPECT_TRUE(answer == -EBUSY || answer == -ENOMEM || answer == -EINVAL) << answer;
      unchanged_ = true;
    } else if (answer == 0) {
      forget(range);
    } else {
      learn_what_went(range);
    }
  }
  // After an munmap that failed: what the host refused to unmap stays in the books.
  void learn_what_went(Extent range) {
    const auto before = pages_;
    learn(range);
    const std::vector<Extent> out = host_->handed_out();
    for (const auto& entry : before) {
      const std::uintptr_t page = entry.first;
      if (pages_.count(page) != 0) continue;
      EXPECT_TRUE(std::none_of(out.begin(), out.end(), [&](const Extent& extent) {
        return extent.contains(page);
      })) << "the host still has a page that the books forgot";
    }
  }

  // As far as it can reach the books: beyond the lower half they know nothing.
  static Extent range_of(std::uintptr_t address, std::size_t length) {
    constexpr std::uintptr_t kEnd = std::uintptr_t{1} << 47;
    if (address >= kEnd) return {kEnd, 0};
    return {address, length > kEnd - address ? kEnd - address : whole(length)};
  }
  // How many pages of the range are mappings outside, and whether those are all that lie outside.
  bool all_outside_are_mappings(Extent range) const {
    const auto found = static_cast<std::size_t>(
        std::distance(pages_.lower_bound(range.base), pages_.lower_bound(range.end())));
    const Extent enclave = host_->enclave();
    const std::uintptr_t low = std::max(range.base, enclave.base);
    const std::uintptr_t high = std::min(range.end(), enclave.end());
    return found == (range.size - (low < high ? high - low : 0)) / kPageBytes;
  }

  void apply(const ProtectCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const std::uint64_t failed = failures();
    const int answer = calls_->mprotect(address, o.length, o.protection);
    EXPECT_TRUE(answer == 0 || is_errno_of_linux(answer)) << answer;
    const Extent range = range_of(address, o.length);
    if (is_foretold(address, o.length, failed)) {
      const int protection = o.protection & ~8;  // PROT_SEM
      EXPECT_EQ(answer, (protection & ~7) != 0
                            ? -EINVAL
                            : model_->protect({address, whole(o.length)}, protection));
    } else if (host_->enclave().overlaps(range)) {
      learn_inside();
    }
    if (answer != 0) {
      learn(range);
      return;
    }
    if (o.length == 0) return;
    for (auto page = pages_.lower_bound(range.base);
         page != pages_.end() && page->first < range.end(); ++page) {
      page->second = static_cast<Protection>(o.protection & 3);
    }
    EXPECT_TRUE(all_outside_are_mappings(range)) << "it went over a hole";
  }

  void apply(const RemapCall& o) {
    const std::uintptr_t old_address = address_of(o.at);
    const std::uintptr_t to = address_of(o.to);
    const std::size_t old_size = whole(o.old_length);
    const std::size_t new_size = whole(o.new_length);
    const std::intptr_t answer =
        calls_->mremap(old_address, o.old_length, o.new_length, o.flags, to);
    const bool keep = (o.flags & MREMAP_DONTUNMAP) != 0;
    const bool inside = host_->enclave().contains(old_address);
    if (answer <= 0) {
      EXPECT_TRUE(is_errno_of_linux(answer)) << answer;
      if (new_size >= old_size) {
        unchanged_ = true;
      } else if (old_size - new_size <= SIZE_MAX - old_address - new_size) {
        learn_what_went(range_of(old_address + new_size, old_size - new_size));
      }
      if (inside && answer == -EFAULT && old_size != 0 && old_size <= kInsideBytes) {
        const InsideModel::Page* const first = model_->at(old_address);
        EXPECT_FALSE(first != nullptr && !first->shared && !first->from_file &&
                     model_->is_alike({old_address, std::min(old_size, new_size)}))
            << "it is one area";
      }
      learn_inside();
      return;
    }
    const Extent got{static_cast<std::uintptr_t>(answer), new_size};
    EXPECT_EQ(old_address % kPageBytes, 0u);
    if ((o.flags & MREMAP_FIXED) != 0) {
      EXPECT_EQ(got.base, to);
    } else if (keep || (o.flags & MREMAP_MAYMOVE) == 0) {
      EXPECT_EQ(got.base == old_address, !keep);
    }
    // The tail that was cut off may have lain on both sides.
    if (new_size < old_size) {
      const Extent gone = range_of(old_address + new_size, old_size - new_size);
      forget(gone);
      model_->unmap(gone);
    }
    const Extent from{old_address, std::min(old_size, new_size)};
    if (got.base == old_address && new_size <= from.size) {
      // As on Linux, only the first page has to be there.
      EXPECT_TRUE(inside ? model_->at(old_address) != nullptr : pages_.count(old_address) != 0);
      return;
    }
    if (inside) {
      EXPECT_TRUE(model_->range().covers(got));
      ASSERT_TRUE(model_->is_alike({old_address, from.size == 0 ? kPageBytes : from.size}));
      const bool replaces = (o.flags & MREMAP_FIXED) != 0;
      const Extent more{old_address + from.size, new_size - from.size};
      EXPECT_TRUE(replaces || model_->is_free(got.base == old_address ? more : got));
      EXPECT_NE(from.size, 0u) << "a page of the enclave stands at one place";
      model_->move(from, got, keep);
      return;
    }
    const auto source = pages_.find(old_address);
    ASSERT_NE(source, pages_.end()) << "it moved what is no mapping";
    const Protection protection = source->second;
    for (std::uintptr_t page = from.base; page < from.end(); page += kPageBytes) {
      ASSERT_EQ(pages_.count(page), 1u);
      EXPECT_EQ(pages_[page], protection) << "several mappings";
    }
    if (got.base == old_address) {
      const Extent more{from.end(), new_size - from.size};
      const auto next = pages_.lower_bound(more.base);
      EXPECT_TRUE(next == pages_.end() || next->first >= more.end());
      come(more, protection);
      return;
    }
    if (!keep) {
      EXPECT_FALSE(is_pinned(from));
      forget(from);
    }
    come(got, protection);
  }

  // The calls that walk over a range and leave the pages where they are. foretell: what the inside
  // must answer.
  template <class F>
  void check_walk(std::uintptr_t address, std::size_t length, int answer, std::uint64_t failed,
                  F foretell) {
    EXPECT_TRUE(answer == 0 || is_errno_of_linux(answer)) << answer;
    const Extent range = range_of(address, length);
    if (is_foretold(address, length, failed)) {
      EXPECT_EQ(answer, foretell(Extent{address, whole(length)}));
    } else if (host_->enclave().overlaps(range)) {
      learn_inside();
    }
    // (A length that wraps as it is rounded up is none, as on Linux.)
    if (answer == 0 && length <= SIZE_MAX - kPageBytes) {
      EXPECT_TRUE(all_outside_are_mappings(range)) << "it went over a hole";
    }
  }

  void apply(const AdviseCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const std::uint64_t failed = failures();
    const int answer = calls_->madvise(address, o.length, o.advice);
    const bool known = (o.advice >= 0 && o.advice <= 4) || (o.advice >= 8 && o.advice <= 25);
    if (!known) {
      EXPECT_LE(answer, 0);
      EXPECT_TRUE(answer == -EINVAL || answer == -EPERM || o.length == 0) << answer;
      return;
    }
    const bool unsure = unsure_ && o.advice == MADV_REMOVE;
    check_walk(address, o.length, answer, unsure ? failed - 1 : failed,
               [&](Extent range) { return model_->advise(range, o.advice); });
  }
  void apply(const SyncCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const std::uint64_t failed = failures();
    const int answer = calls_->msync(address, o.length, o.flags);
    constexpr int kBoth = MS_ASYNC | MS_SYNC;
    if ((o.flags & ~7) != 0 || (o.flags & kBoth) == kBoth) {
      EXPECT_EQ(answer, -EINVAL);
      return;
    }
    check_walk(address, o.length, answer, failed,
               [&](Extent range) { return model_->sync(range, o.flags); });
  }
  void apply(const LockCall& o) { lock(o.at, o.length, o.flags, true); }
  void apply(const UnlockCall& o) { lock(o.at, o.length, 0, false); }
  void lock(const Place& at, std::size_t length, int flags, bool locks) {
    const std::uintptr_t address = address_of(at);
    const std::uint64_t failed = failures();
    const int answer =
        locks ? calls_->mlock2(address, length, flags) : calls_->munlock(address, length);
    if (length == 0 || length > SIZE_MAX - address || flags < 0 || flags > 1) {
      EXPECT_TRUE(answer == 0 || is_errno_of_linux(answer)) << answer;
      learn_inside();
      return;
    }
    const std::uintptr_t first = address / kPageBytes * kPageBytes;
    check_walk(first, length + (address - first), answer, failed,
               [&](Extent range) { return model_->lock(range, locks); });
  }
  void apply(const LockAllCall& o) {
    const std::uint64_t failed = failures();
    const int answer = o.flags == 0 ? calls_->munlockall() : calls_->mlockall(o.flags);
    EXPECT_TRUE(answer == 0 || is_errno_of_linux(answer)) << answer;
    if ((o.flags & ~7) != 0 || o.flags == MCL_ONFAULT) {
      EXPECT_EQ(answer, -EINVAL);
      return;
    }
    model_->lock_all(o.flags);
    if (failures() != failed) learn_inside();
  }
  void apply(const ResidentCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const std::size_t length = std::min(o.length, 16 * kMostBytes);
    const std::uint64_t failed = failures();
    std::vector<unsigned char> bytes(pages_of(length) + 1, 0xee);
    const int answer = calls_->mincore(address, length, bytes.data());
    EXPECT_EQ(bytes.back(), 0xee);
    check_walk(address, length, answer, failed,
               [&](Extent range) { return model_->resident(range); });
    bytes.pop_back();
    for (const unsigned char byte : bytes) EXPECT_TRUE(answer != 0 || byte <= 1);
  }
  void apply(const BreakCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const std::uint64_t failed = failures();
    const std::uintptr_t answer = calls_->brk(address);
    if (failures() != failed) {
      learn_inside();
    } else {
      EXPECT_EQ(answer, model_->set_break(address));
    }
  }
  void apply(const AdoptCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const int answer = calls_->adopt(address, o.length, o.protection);
    EXPECT_TRUE(answer == 0 || is_errno_of_linux(answer)) << answer;
    if (answer != 0) {
      unchanged_ = true;
      return;
    }
    const Extent got{address, whole(o.length)};
    const auto next = pages_.lower_bound(got.base);
    EXPECT_TRUE(next == pages_.end() || next->first >= got.end());
    EXPECT_EQ(o.protection & ~3, 0);
    host_->note_adopted(got);
    come(got, static_cast<Protection>(o.protection & 3));
  }
  void apply(const GiveUpCall& o) {
    const std::uintptr_t address = address_of(o.at);
    const int answer = calls_->give_up(address, o.length);
    EXPECT_TRUE(answer == 0 || is_errno_of_linux(answer)) << answer;
    const Extent range = range_of(address, o.length);
    if (answer != 0) {
      unchanged_ = true;
      return;
    }
    EXPECT_FALSE(is_pinned(range) || host_->enclave().overlaps(range));
    EXPECT_TRUE(all_outside_are_mappings(range));
    host_->note_given_up(range);
    forget(range);
  }
  void apply(const WriteInside& o) {
    if (model_->pages().empty()) return;
    auto page = model_->pages().begin();
    std::advance(page, static_cast<std::ptrdiff_t>(o.which % model_->pages().size()));
    page->second.value = o.value;
    page_operations_.write(page->first, o.value);
  }
  void apply(const PagesFail& o) {
    failing_ = o.op;
    fails_in_ = o.n;
  }
  // What it calls changes no page and no book, whatever is under way.
  void apply(const HostCallsBack& o) {
    const std::uintptr_t address = address_of(o.at);
    host_->during_calls([this, address](sim::HostCall) {
      host_->during_calls(nullptr);
      unsigned char byte = 0;
      const std::intptr_t answers[] = {
          calls_->madvise(address / kPageBytes * kPageBytes, 4 * kPageBytes, MADV_NORMAL),
          calls_->mincore(address / kPageBytes * kPageBytes, 1, &byte),
          calls_->mremap(address, 1, 1, MREMAP_MAYMOVE, 0)};
      for (const std::intptr_t answer : answers) {
        EXPECT_TRUE(answer >= 0 || is_errno_of_linux(answer)) << answer;
      }
    });
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
    if (++steps_ < 16 || steps_ % 8 == 0) {
      EXPECT_TRUE(allocator_->validate_books());
      EXPECT_TRUE(manager_->validate_books());
    }
    check_inside();
    const Statistics s = allocator_->statistics();
    std::vector<std::size_t> state = state_of(s);
    if (unchanged_) {
      EXPECT_EQ(state, state_) << "it has changed nothing outside";
    }
    state_ = std::move(state);
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

  void check_inside() {
    const auto there = page_operations_.snapshot();
    const InsideModel::Pages& pages = model_->pages();
    EXPECT_EQ(there.size(), pages.size());
    EXPECT_TRUE(std::equal(there.begin(), there.end(), pages.begin(), pages.end(),
                           [](const auto& page, const auto& expected) {
                             return page.first == expected.first &&
                                    page.second.protection == expected.second.protection &&
                                    page.second.value == expected.second.value;
                           }))
        << "a page inside is not what it must be";
    EXPECT_EQ(manager_->statistics().mapped_bytes, pages.size() * kPageBytes);
    EXPECT_THAT(page_operations_.violations(), testing::IsEmpty());
  }

  std::unique_ptr<sim::HostileHost> host_;
  std::optional<Allocator> allocator_;
  testing_support::FakePagesWithAll page_operations_;
  Op failing_ = Op::kCommit;
  std::uint64_t fails_in_ = 0;  // counts down
  std::uint64_t refused_ = 0;
  std::optional<EnclaveManager> manager_;
  std::optional<InsideModel> model_;
  bool unsure_ = false;  // some pages may be shared, or of a file
  std::optional<MemoryCalls> calls_;
  std::map<std::uintptr_t, Protection> pages_;
  std::vector<Extent> blocks_;
  std::vector<PinId> pins_;
  std::vector<Extent> pinned_;
  std::uintptr_t last_ = 0;
  std::size_t steps_ = 0;
  std::vector<std::size_t> state_;  // after the last operation
  bool unchanged_ = false;          // it must still be so after this one
};

}  // namespace exclave::fuzz
