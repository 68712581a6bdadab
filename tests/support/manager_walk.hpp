// As fault_walk.hpp, for the manager of the enclave's own memory: a scenario is walked again and
// again, and each time another page operation, or growth of the books, fails.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "exclave/enclave_manager.hpp"
#include "support/fake_pages.hpp"
#include "support/fake_port.hpp"

namespace exclave::testing_support {

enum class PagePoint : std::uint8_t {
  kCommit,  // as FakePages::Op
  kProtect,
  kDrop,
  kMove,
  kFill,
  kZero,
  kAdvise,
  kResident,
  kTrustedReserve,
  kAny,  // all of them, counted together
};
inline constexpr std::size_t kPagePoints = 10;
inline const char* name_of(PagePoint point) {
  static constexpr const char* kNames[kPagePoints] = {
      "commit",   "protect",         "drop",       "move", "fill", "zero", "advise",
      "resident", "trusted_reserve", "any of them"};
  return kNames[static_cast<std::size_t>(point)];
}

struct PageFault {
  PagePoint point = PagePoint::kAny;
  std::uint64_t nth = 1;  // 1: the next use
  bool for_good = false;  // that use and all after it
};

class ManagerWalk {
 public:
  static constexpr std::uintptr_t kBase = std::uintptr_t{0x3000} << 32;
  static constexpr std::size_t kPages = 64;  // of the scenario
  static constexpr std::size_t kMostFillers = 1100;
  static constexpr int kRefused = -EIO;

  // fillers: so many areas are there before, so that what the port last gave for books ends at
  // another place. all_operations: with those that a runtime need not have.
  ManagerWalk(const PageFault& fault, std::size_t fillers, bool all_operations) : fault_(fault) {
    EnclaveManager::Options options;
    options.range = {kBase, (kPages + 2 * kMostFillers) * kPageBytes};
    pages_.refusal = [this](FakePages::Op op) {
      return fails(static_cast<PagePoint>(op)) ? kRefused : 0;
    };
    const auto attempt = [&] {
      auto made = EnclaveManager::create(
          port_table(), all_operations ? pages_.table() : pages_.FakePages::table(), options);
      if (made.ok()) manager_.emplace(std::move(made.value()));
      return made.error();
    };
    armed_ = fillers == 0;
    if (attempt() != Error::kNone) {
      EXPECT_EQ(port_.trusted_held(), 0u) << "a manager in vain keeps nothing";
      armed_ = false;
      EXPECT_EQ(attempt(), Error::kNone);
    }
    armed_ = false;
    for (std::size_t i = 0; i < fillers; ++i) {
      EXPECT_GT(manager_->map(page(kPages + 2 * i), kPageBytes, PROT_READ,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                0);
    }
    armed_ = true;
  }

  EnclaveManager& manager() { return *manager_; }
  FakePages& pages() { return pages_; }
  static std::uintptr_t page(std::size_t n) { return kBase + n * kPageBytes; }

  enum class Keeps {
    kAll,    // every page and area
    kPages,  // every page. A shared area that was cut stays cut, for nothing says that its pieces
             // were one mapping
    kHalf,   // nothing but books and pages that agree: a walk over several areas ends at the first
             // failure, as Linux's do; a place that was to be replaced is empty
  };

  // operation: answers 0, an address or a negative errno. It may be called several times.
  template <class Operation>
  void step(const char* name, const Operation& operation, Keeps keeps = Keeps::kAll) {
    if (testing::Test::HasFailure()) return;
    SCOPED_TRACE(name);
    if (fired_ != 0 && !fault_.for_good) {
      ASSERT_GE(operation(), 0) << "nothing stands in the way any more";
      return;
    }
    const bool areas = keeps == Keeps::kAll;
    const std::string before = books(areas);
    for (int tries = 0; tries < (fault_.for_good ? 8 : 1); ++tries) {
      const std::uint64_t failures = fired_;
      const std::intptr_t answer = operation();
      const std::string after = books(areas);
      if (answer >= 0) return;
      EXPECT_GT(fired_, failures) << "it failed, and nothing had failed: " << answer;
      EXPECT_TRUE(answer == kRefused || (answer == -ENOMEM && reaches_books())) << answer;
      if (keeps != Keeps::kHalf && !loses_pages()) {
        EXPECT_EQ(after, before);
      }
      // No call is under way any more.
      EXPECT_TRUE(manager_->before_fork().ok());
      manager_->after_fork_in_parent();
    }
    armed_ = false;
    ASSERT_GE(operation(), 0) << "and now nothing stands in the way";
    (void)books();
    armed_ = true;
  }

  bool fired() const { return fired_ != 0; }

  // What stands at each page, as the books say it; they and the pages agree.
  std::string books(bool areas = true) {
    const bool was_armed = std::exchange(armed_, false);
    EXPECT_TRUE(manager_->validate_books());
    std::string text;
    for (std::size_t n = 0; n < kPages; ++n) {
      const auto advise = [&](int advice) {
        return manager_->advise(EXCLAVE_MADVISE, page(n), kPageBytes, advice);
      };
      const int readable = advise(MADV_POPULATE_READ);
      EXPECT_EQ(readable != -ENOMEM, pages_.is_there(page(n))) << n;
      if (readable == -ENOMEM) {
        text += " .";
        continue;
      }
      const int protection =
          (readable == 0 ? PROT_READ : 0) | (advise(MADV_POPULATE_WRITE) == 0 ? PROT_WRITE : 0);
      text += ' ';
      text += "nrwb"[protection];
      EXPECT_EQ(pages_.picture(page(n), 1), std::string(1, "nrwb"[protection])) << n;
      if (advise(MADV_COLD) != 0) text += 'l';  // locked
      if (advise(MADV_WIPEONFORK) != 0) {
        text += 's';  // shared, or of a file
      } else {
        EXPECT_EQ(advise(MADV_KEEPONFORK), 0);
      }
      if (const std::uint64_t value = pages_.read(page(n)); value != 0)
        text += std::to_string(value);
    }
    const EnclaveManager::Statistics s = manager_->statistics();
    EXPECT_EQ(s.mapped_bytes, pages_.count() * kPageBytes);
    if (areas) text += " areas " + std::to_string(s.areas);
    armed_ = was_armed;
    return text;
  }

  void finish() {
    if (testing::Test::HasFatalFailure()) return;
    armed_ = false;
    (void)books();
    EXPECT_EQ(manager_->unmap(kBase, (kPages + 2 * kMostFillers) * kPageBytes), 0);
    EXPECT_EQ(pages_.count(), 0u);
    EXPECT_EQ(manager_->statistics().areas, 0u);
    manager_.reset();
    EXPECT_EQ(port_.trusted_held(), 0u) << "books were not given back";
    EXPECT_THAT(pages_.violations(), testing::IsEmpty());
  }

 private:
  bool reaches_books() const {
    return fault_.point == PagePoint::kTrustedReserve || fault_.point == PagePoint::kAny;
  }
  // Where pages will not even go after a copy failed, they stay in the books.
  bool loses_pages() const { return fault_.point == PagePoint::kAny && fault_.for_good; }

  bool fails(PagePoint point) {
    if (!armed_ || (fault_.point != PagePoint::kAny && fault_.point != point)) return false;
    ++seen_;
    const bool hit = fault_.for_good ? seen_ >= fault_.nth : seen_ == fault_.nth;
    fired_ += hit;
    return hit;
  }

  PortTable port_table() {
    PortTable table{};
    table.context = this;
    table.enclave = [](void*) -> exclave_extent {
      return {kPageBytes, (std::size_t{1} << 47) - kPageBytes};
    };
    table.book_window = [](void* c) -> exclave_extent {
      const Extent window = static_cast<ManagerWalk*>(c)->port_.book_window();
      return {window.base, window.size};
    };
    table.trusted_reserve = [](void* c, std::size_t bytes) -> void* {
      ManagerWalk& walk = *static_cast<ManagerWalk*>(c);
      if (walk.fails(PagePoint::kTrustedReserve)) return nullptr;
      return walk.port_.trusted_reserve(bytes);
    };
    table.trusted_release = [](void* c, void* memory, std::size_t bytes) {
      static_cast<ManagerWalk*>(c)->port_.trusted_release(memory, bytes);
    };
    table.entropy = [](void* c, void* memory, std::size_t bytes) {
      return static_cast<ManagerWalk*>(c)->port_.entropy(memory, bytes) ? 0 : 1;
    };
    return table;
  }

  const PageFault fault_;
  FakePort port_{std::size_t{64} << 20};
  FakePagesWithAll pages_;
  std::optional<EnclaveManager> manager_;
  bool armed_ = false;
  std::uint64_t seen_ = 0;
  std::uint64_t fired_ = 0;
};

// reached: the operations that the scenario uses. Each must fail at least once, and no other may be
// used.
template <class Scenario>
void survive_every_page_fault(std::initializer_list<PagePoint> reached, const Scenario& scenario,
                              bool all_operations = true) {
  constexpr std::uint64_t kMostUses = 500;
  const auto walk_all = [&](PagePoint point, bool for_good, std::size_t fillers) {
    for (std::uint64_t nth = 1;; ++nth) {
      SCOPED_TRACE(std::string(name_of(point)) + ", use " + std::to_string(nth) +
                   (for_good ? " and all after it" : "") + ", after " + std::to_string(fillers) +
                   " areas");
      ManagerWalk walk({point, nth, for_good}, fillers, all_operations);
      if (!testing::Test::HasFailure()) scenario(walk);
      walk.finish();
      if (testing::Test::HasFailure() || !walk.fired()) return nth - 1;
      if (nth == kMostUses) ADD_FAILURE() << "no end of it";
    }
  };
  for (std::size_t i = 0; i < kPagePoints; ++i) {
    const auto point = static_cast<PagePoint>(i);
    const bool expected = point == PagePoint::kTrustedReserve || point == PagePoint::kAny ||
                          std::find(reached.begin(), reached.end(), point) != reached.end();
    for (const bool for_good : {false, true}) {
      const std::uint64_t uses = walk_all(point, for_good, 0);
      if (testing::Test::HasFailure()) return;
      EXPECT_EQ(uses != 0, expected) << name_of(point);
    }
  }
  // Areas share pieces of trusted memory, 64 KiB each: the first runs out somewhere here.
  std::uint64_t met = 0;
  for (std::size_t fillers = 984; fillers <= 1024; ++fillers) {
    for (const bool for_good : {false, true}) {
      met += walk_all(PagePoint::kTrustedReserve, for_good, fillers);
      if (testing::Test::HasFailure()) return;
    }
  }
  EXPECT_NE(met, 0u);
}

}  // namespace exclave::testing_support
