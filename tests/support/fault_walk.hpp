// Walks a scenario again and again, and each time another use of the port fails: the first, the
// second, until a walk meets no failure any more. Once alone, and once with all later ones.
//
// A scenario is a function that takes a FaultWalk and does everything by step(): one operation that
// works, or fails for want of what the port refused and leaves the books as they were; then the
// next try works. Scenarios keep no state between walks.
//
//   TEST(Faults, Pins) {
//     survive_every_fault({FaultPoint::kTrustedReserve}, [](FaultWalk& walk) { ... });
//   }
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "exclave/allocator.hpp"
#include "exclave/memory_calls.hpp"
#include "support/fault_port.hpp"
#include "support/sanitizers.hpp"

namespace exclave::testing_support {

// How an operation ended: an Error of the allocator, or an errno of the memory calls.
struct Outcome {
  Outcome(Error error) : error_(error) {}
  Outcome(const Status& status) : error_(status.error()) {}
  template <class T>
  Outcome(const Result<T>& result) : error_(result.error()) {}
  // 0, an address, or a negative errno.
  static Outcome of_call(std::intptr_t answer) {
    Outcome outcome(Error::kNone);
    if (answer < 0) outcome.number_ = static_cast<int>(-answer);
    return outcome;
  }

  bool ok() const { return error_ == Error::kNone && number_ == 0; }
  std::string text() const {
    return number_ != 0 ? "errno " + std::to_string(number_) : error_text(error_);
  }
  // Is this how a refusal of the port is told? That memory stays with the host is told to nobody.
  bool explained_by(FaultPoint point) const {
    const bool any = point == FaultPoint::kAny;
    if (number_ != 0) {
      return number_ == ENOMEM && point != FaultPoint::kHostRelease &&
             point != FaultPoint::kHostReserve && point != FaultPoint::kEntropy;
    }
    switch (error_) {
      case Error::kOutOfTrustedMemory:
      case Error::kOutOfMemory:
        return any || point == FaultPoint::kTrustedReserve;
      case Error::kHostRefused:
        return any || point == FaultPoint::kHostReserve;
      case Error::kInvalidArgument:
        return any || point == FaultPoint::kEntropy;
      default:
        return false;
    }
  }

 private:
  Error error_;
  int number_ = 0;
};

class FaultWalk {
 public:
  static constexpr std::size_t kQuota = std::size_t{8} << 20;

  // Small growths, everything free goes back at once: the port is asked often.
  static Config small_growths() {
    Config config;
    config.quota_bytes = kQuota;
    config.grow_min_bytes = std::size_t{256} << 10;
    config.grow_max_bytes = std::size_t{512} << 10;
    config.keep_free_bytes = 0;
    return config;
  }

  // fillers: that many small books are taken before the first use that counts, so that what the
  // port last gave for books ends at another place.
  FaultWalk(const Fault& fault, std::size_t fillers, const Config& config) : fault_(fault) {
    if (fillers == 0) port_.arm(fault_);
    create(config);
    if (fillers == 0) return;
    AttachOptions options;
    options.role = Role::kMapping;
    EXPECT_TRUE(allocator_->attach(kFillerRange, options).ok());
    for (std::size_t i = 0; i < fillers; ++i) {
      const Result<PinId> pin = allocator_->pin({kFillerRange.base, kPageBytes});
      EXPECT_TRUE(pin.ok());
      fillers_.push_back(*pin);
    }
    port_.arm(fault_);
  }

  Allocator& allocator() { return *allocator_; }
  MemoryCalls& calls() { return *calls_; }
  FaultPort& port() { return port_; }

  // What an operation that fails must leave as it was.
  enum class Keeps {
    kAll,     // every region, block, slab and free run
    kBlocks,  // what callers hold, and where. An allocation in vain may have grown a region that
              // stays for the next, and given back what the thread had in store
    kHalf,    // nothing but sound books: a call over several mappings ends at the first failure,
              // as Linux's do
  };

  // operation: answers something that makes an Outcome. It may be called several times.
  template <class Operation>
  void step(const char* name, const Operation& operation, Keeps keeps = Keeps::kAll) {
    if (testing::Test::HasFatalFailure()) return;
    SCOPED_TRACE(name);
    if (fired() && !fault_.for_good) {
      // The one failure is over.
      const Outcome after = operation();
      ASSERT_TRUE(after.ok()) << "nothing stands in the way any more: " << after.text();
      return;
    }
    const std::string before = look([&] { return books(keeps); });
    const std::uint64_t failures = port_.fired();
    if (try_once(operation, before, keeps, failures)) return;
    if (fault_.for_good) {
      // In vain again and again: and that leaks nothing. What a try leaves at hand (a region, a
      // stack) the next may give back, so the peaks of two rounds are compared.
      constexpr int kTries = 5;
      std::size_t peaks[2] = {};
      for (int again = 0; again < 2 * kTries; ++again) {
        if (try_once(operation, before, keeps, failures)) return;
        const std::size_t used = look([&] { return allocator_->statistics().trusted_used_bytes; });
        peaks[again / kTries] = std::max(peaks[again / kTries], used);
      }
      EXPECT_LE(peaks[1], peaks[0]) << "each failure takes books";
    }
    port_.heal();
    const Outcome healed = operation();
    ASSERT_TRUE(healed.ok()) << "and now nothing stands in the way: " << healed.text();
    ASSERT_TRUE(allocator_->validate_books());
    port_.resume();
  }
  // An operation that answers nothing: it always works.
  template <class Operation>
  void always(const char* name, const Operation& operation) {
    step(name, [&] {
      operation();
      return Error::kNone;
    });
  }

  // ---- Shorthands ----
  untrusted_bytes allocate(std::size_t size, std::size_t alignment = 16, Placement where = {}) {
    untrusted_bytes got;
    step(
        "allocate",
        [&] {
          const Result<untrusted_bytes> block = allocator_->allocate(size, alignment, where);
          if (block.ok()) got = *block;
          return block;
        },
        Keeps::kBlocks);
    return got;
  }
  void deallocate(untrusted_bytes block) {
    step("deallocate", [&] { return allocator_->deallocate(block); });
  }
  RegionId attach(Extent range, const AttachOptions& options = {}) {
    RegionId got;
    step("attach", [&] {
      const Result<RegionId> id = allocator_->attach(range, options);
      if (id.ok()) got = *id;
      return id;
    });
    return got;
  }
  PinId pin(Extent range) {
    PinId got;
    step("pin", [&] {
      const Result<PinId> id = allocator_->pin(range);
      if (id.ok()) got = *id;
      return id;
    });
    return got;
  }
  void unpin(PinId id) {
    step("unpin", [&] { return allocator_->unpin(id); });
  }

  // Did the fault come about?
  bool fired() const { return port_.fired() != 0; }

  // Nothing may be left over that the host did not refuse to take back.
  void finish() {
    if (testing::Test::HasFatalFailure()) return;
    for (const PinId pin : fillers_) EXPECT_TRUE(allocator_->unpin(pin).ok());
    if (!fillers_.empty()) {
      EXPECT_TRUE(allocator_->detach(kFillerRange).ok());
    }
    EXPECT_TRUE(look([&] { return allocator_->validate_books(); }));
    const Statistics end = look([&] { return allocator_->statistics(); });
    EXPECT_EQ(end.live_blocks, 0u) << "the scenario ends with nothing held";
    EXPECT_EQ(end.pins, 0u);
    EXPECT_EQ(end.mapping_bytes, 0u);
    EXPECT_EQ(end.misuse_refused, 0u);
    EXPECT_EQ(end.lies_refused, 0u);
    allocator_->trim();
    port_.heal();
    EXPECT_EQ(allocator_->statistics().grown_bytes, 0u);
    check_quota();
    calls_.reset();
    allocator_.reset();
    EXPECT_EQ(port_.host().trusted_bytes(), 0u) << "books were not given back";
    EXPECT_THAT(port_.host().violations(), testing::IsEmpty());
    const std::vector<Extent> refused = port_.refused();
    for (const Extent left : port_.host().handed_out()) {
      const bool known = std::any_of(refused.begin(), refused.end(),
                                     [left](Extent extent) { return extent.covers(left); });
      EXPECT_TRUE(known) << std::hex << left.base << "+" << left.size << " was never given back";
    }
  }

 private:
  static constexpr Extent kFillerRange{0x300000000000, std::size_t{4} << 20};

  void create(const Config& config) {
    const auto attempt = [&]() -> Outcome {
      auto made = Allocator::create(port_.table(), config);
      if (made.ok()) allocator_.emplace(std::move(made.value()));
      return made;
    };
    const Outcome first = attempt();
    if (!first.ok()) {
      EXPECT_NE(port_.fired(), 0u);
      EXPECT_TRUE(first.explained_by(fault_.point)) << first.text();
      EXPECT_EQ(port_.host().trusted_bytes(), 0u) << "an allocator in vain keeps nothing";
      port_.heal();
      const Outcome second = attempt();
      ASSERT_TRUE(second.ok()) << second.text();
      port_.resume();
    }
    memory_ = std::make_unique<ProcessEnclaveMemory>(port_.host().enclave_heap());
    calls_.emplace(*allocator_, bind_enclave_memory(*memory_));
  }

  // Looking is no part of what is tested: it takes a heap for this thread if there is none yet.
  template <class Look>
  std::invoke_result_t<const Look&> look(const Look& at) {
    port_.heal();
    const auto seen = at();
    port_.resume();
    return seen;
  }

  template <class Operation>
  bool try_once(const Operation& operation, const std::string& before, Keeps keeps,
                std::uint64_t failures) {
    const Outcome outcome = operation();
    // Where nothing failed, the books are what other tests look at.
    if (outcome.ok() && port_.fired() == failures) return true;
    EXPECT_TRUE(look([&] { return allocator_->validate_books(); }));
    const Statistics s = look([&] { return allocator_->statistics(); });
    EXPECT_EQ(s.live_bytes + s.cached_bytes + s.free_bytes + s.overhead_bytes, s.reserved_bytes);
    if (outcome.ok()) return true;
    EXPECT_GT(port_.fired(), failures) << "it failed, and nothing had failed: " << outcome.text();
    EXPECT_TRUE(outcome.explained_by(fault_.point)) << outcome.text();
    if (keeps != Keeps::kHalf) {
      EXPECT_EQ(look([&] { return books(keeps); }), before);
    }
    return false;
  }

  // The books as text, so that a difference can be read.
  std::string books(Keeps keeps) {
    std::string text;
    char line[240];
    const auto add = [&text, &line](int length) {
      text.append(line, static_cast<std::size_t>(length));
    };
    const Statistics s = allocator_->statistics();
    add(std::snprintf(line, sizeof line, "%zu live in %zu blocks, %zu mapped, %zu pins\n",
                      s.live_bytes, s.live_blocks, s.mapping_bytes, s.pins));
    for (std::uintptr_t at = 0;;) {
      const Result<RegionInfo> region = allocator_->next_region(at);
      if (!region.ok()) break;
      at = region->extent.end();
      if (!region->grown || keeps == Keeps::kAll) {
        add(std::snprintf(line, sizeof line, "%zx+%zx id %zx role %d protection %d%s%s %x %zx\n",
                          region->extent.base, region->extent.size,
                          static_cast<std::size_t>(region->id.value),
                          static_cast<int>(region->role), static_cast<int>(region->protection),
                          region->grown ? " grown" : "", region->draining ? " draining" : "",
                          region->device, static_cast<std::size_t>(region->device_base)));
      }
      if (region->role != Role::kPool) continue;
      for (std::uintptr_t page = region->extent.base; page < at;) {
        const Result<RunInfo> run = allocator_->next_run(page);
        if (!run.ok()) break;
        page = run->extent.end();
        if (run->live_slots == 0 && keeps != Keeps::kAll) continue;
        add(std::snprintf(line, sizeof line, "  %zx+%zx kind %d slots %u of %u bytes, live %u%s",
                          run->extent.base, run->extent.size, static_cast<int>(run->kind),
                          run->slots, run->slot_bytes, run->live_slots,
                          run->pinned ? " pinned" : ""));
        if (keeps == Keeps::kAll) {
          add(std::snprintf(line, sizeof line, " cached %u of %u", run->cached_slots, run->owner));
        }
        text += '\n';
      }
    }
    return text;
  }

  // What was refused is charged to the quota, and nothing else is.
  void check_quota() {
    const std::size_t left = kQuota - std::min(kQuota, port_.refused_release_bytes());
    if (left == 0) return;
    const Result<untrusted_bytes> all = allocator_->allocate(left);
    ASSERT_TRUE(all.ok()) << "the quota is not whole: " << error_text(all.error());
    EXPECT_EQ(allocator_->allocate(1).error(), Error::kQuota);
    EXPECT_TRUE(allocator_->deallocate(*all).ok());
  }

  const Fault fault_;
  FaultPort port_;
  std::optional<Allocator> allocator_;
  std::unique_ptr<ProcessEnclaveMemory> memory_;
  std::optional<MemoryCalls> calls_;
  std::vector<PinId> fillers_;
};

struct FaultOptions {
  Config config = FaultWalk::small_growths();
  // Trusted memory is taken in large pieces that many books share. With this, the walks are
  // repeated with more and more of a piece used up, so that another book finds it full.
  bool sweep_books = true;
  // With walks in which from some use on nothing works, whatever it is.
  bool all_at_once = true;
};

// What a scenario reaches that allocates and frees.
inline constexpr std::initializer_list<FaultPoint> kGrowing = {FaultPoint::kHostReserve,
                                                               FaultPoint::kHostRelease};

// reached: the points that the scenario uses, beside the two that every one does. Each must fail at
// least once, and no other may be used.
template <class Scenario>
void survive_every_fault(std::initializer_list<FaultPoint> reached, const Scenario& scenario,
                         const FaultOptions& options = {}) {
  constexpr std::uint64_t kMostUses = 500;
  // Answers how many walks met the fault.
  const auto walk_all = [&](FaultPoint point, bool for_good, std::size_t fillers) {
    for (std::uint64_t nth = 1;; ++nth) {
      SCOPED_TRACE(std::string(name_of(point)) + ", use " + std::to_string(nth) +
                   (for_good ? " and all after it" : "") + ", after " + std::to_string(fillers) +
                   " books");
      FaultWalk walk({point, nth, for_good}, fillers, options.config);
      if (!testing::Test::HasFatalFailure()) scenario(walk);
      walk.finish();
      if (testing::Test::HasFailure() || !walk.fired()) return nth - 1;
      if (nth == kMostUses) ADD_FAILURE() << "no end of it";
    }
  };
  for (const FaultPoint point : kFaultPoints) {
    const bool expected = point == FaultPoint::kTrustedReserve || point == FaultPoint::kEntropy ||
                          point == FaultPoint::kAny ||
                          std::find(reached.begin(), reached.end(), point) != reached.end();
    if (point == FaultPoint::kAny && !options.all_at_once) continue;
    for (const bool for_good : {false, true}) {
      const std::uint64_t uses = walk_all(point, for_good, 0);
      if (testing::Test::HasFailure()) return;
      EXPECT_EQ(uses != 0, expected) << name_of(point);
    }
  }
  if (!options.sweep_books) return;
  constexpr std::size_t kBooksInAPiece = 1024;  // 64 KiB, of a cache line each
  constexpr std::size_t kStep = kSlow ? 331 : 89;
  for (std::size_t fillers = 1; fillers <= kBooksInAPiece; fillers += kStep) {
    for (const bool for_good : {false, true}) {
      walk_all(FaultPoint::kTrustedReserve, for_good, fillers);
      if (testing::Test::HasFailure()) return;
    }
  }
}

}  // namespace exclave::testing_support
