// Memory calls on several threads at once: THREATS 39 and 40, on a host of pages and on the real
// kernel.
#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "support/page_host_fixture.hpp"
#include "support/process_fixture.hpp"

namespace exclave {
namespace {

using testing_support::is_page_mapped;
using testing_support::kDevice;
using testing_support::kPage;
using testing_support::kReadWrite;
using testing_support::memfd_of;
using testing_support::OwnedDescriptor;
using testing_support::PageHost;
using testing_support::PageHostFixture;
using testing_support::ProcessFixture;

using Kind = PageHost::Kind;

constexpr std::uintptr_t kPlace = std::uintptr_t{0x3000} << 32;
constexpr std::size_t kPages = 32;

// Ends a group of threads after a while; on a busy machine not before each has shown what it is
// there for.
class Clock {
 public:
  explicit Clock(int milliseconds)
      : end_(std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds)) {}
  bool running() const { return std::chrono::steady_clock::now() < end_; }
  bool running_until(bool shown) const {
    return running() || (!shown && std::chrono::steady_clock::now() < end_ + kPatience);
  }

 private:
  static constexpr std::chrono::seconds kPatience{20};
  std::chrono::steady_clock::time_point end_;
};

using Threat39_QueryUnmapUse = PageHostFixture;
TEST_F(Threat39_QueryUnmapUse, TheBooksNeverPromiseMoreThanTheHostGave) {
  const Clock clock(1200);
  std::atomic<std::uint64_t> found{0};
  const auto running = [&] { return clock.running_until(found > 0); };
  const auto changer = [&](unsigned seed) {
    std::mt19937_64 random(seed);
    while (running()) {
      const std::size_t first = random() % kPages;
      const std::size_t count = 1 + random() % std::min<std::size_t>(6, kPages - first);
      const std::uintptr_t at = kPlace + first * kPage;
      switch (random() % 4) {
        case 0: {
          const std::intptr_t answer =
              calls_->mmap(at, count * kPage, PROT_READ, MAP_SHARED | MAP_FIXED, kDevice, 0);
          // EBUSY: between the old mapping's end and the new one's begin another thread was
          // faster. EPERM: the same, seen in the books.
          EXPECT_TRUE(answer == static_cast<std::intptr_t>(at) || answer == -EBUSY ||
                      answer == -EPERM)
              << answer;
          break;
        }
        case 1:
          EXPECT_EQ(calls_->munmap(at, count * kPage), 0);
          break;
        default: {
          const int answer =
              calls_->mprotect(at, count * kPage, random() % 2 == 0 ? PROT_READ : PROT_NONE);
          EXPECT_TRUE(answer == 0 || answer == -ENOMEM) << answer;
        }
      }
    }
  };
  const auto looker = [&](unsigned seed) {
    std::mt19937_64 random(seed);
    while (running()) {
      const std::size_t first = random() % kPages;
      const std::size_t count = 1 + random() % (kPages - first);
      const std::uintptr_t at = kPlace + first * kPage;
      const auto info = allocator_->query(at, count * kPage);
      if (!info.ok()) {
        EXPECT_EQ(info.error(), Error::kNotFound);
        continue;
      }
      found.fetch_add(1, std::memory_order_relaxed);
      EXPECT_TRUE(info->extent.covers({at, count * kPage}));
      EXPECT_TRUE((Extent{kPlace, kPages * kPage}).covers(info->extent));
      EXPECT_EQ(info->role, Role::kMapping);
      EXPECT_TRUE(info->protection == Protection::kRead || info->protection == Protection::kNone);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 3; ++i) threads.emplace_back(changer, i + 1);
  threads.emplace_back(looker, 10);
  for (auto& thread : threads) thread.join();
  EXPECT_GT(found.load(), 0u);
  EXPECT_TRUE(allocator_->validate_books());
  // Now that it is quiet the books and the host agree on every page.
  EXPECT_EQ(book(kPlace, kPages), table(kPlace, kPages));
  EXPECT_EQ(calls_->munmap(kPlace, kPages * kPage), 0);
  EXPECT_EQ(host_->mapped_pages(), 0u);
  EXPECT_EQ(allocator_->statistics().lies_refused, 0u) << "an honest host was called a liar";
}

using Threat40_HoleTakenOnAnotherThread = PageHostFixture;
TEST_F(Threat40_HoleTakenOnAnotherThread, TheNewMappingIsWhole) {
  map(3, kPlace);
  std::atomic<bool> hole{false};
  std::atomic<bool> taken{false};
  host_->answer = [&](const PageHost::Call& call) -> std::optional<HostReply> {
    if (call.kind != Kind::kUnmap || hole.exchange(true)) return std::nullopt;
    EXPECT_EQ(host_->host_unmap(call.extent.base, call.extent.size), 0);
    host_->place_next_at(call.extent.base);
    std::thread other([&] {
      EXPECT_EQ(calls_->mmap(0, kPage, PROT_READ, MAP_SHARED, kDevice, 0),
                static_cast<std::intptr_t>(kPlace + kPage));
      taken = true;
    });
    other.join();
    return HostReply{0, 0};
  };
  EXPECT_EQ(calls_->munmap(kPlace + kPage, kPage), 0);
  EXPECT_TRUE(taken);
  EXPECT_EQ(book(kPlace, 3), "brb");
}

// On the real kernel, which hands a hole to whoever asks next.
using Threat40_RealKernel = ProcessFixture;
TEST_F(Threat40_RealKernel, ManyThreadsMapAndUnmapTheSameHoles) {
  const OwnedDescriptor file(memfd_of(64 * kPage));
  const Clock clock(1200);
  std::atomic<std::uint64_t> rounds{0};
  const auto worker = [&](unsigned seed) {
    std::mt19937_64 random(seed);
    while (clock.running_until(rounds > 100)) {
      const std::size_t pages = 1 + random() % 4;
      const std::intptr_t answer =
          calls_->mmap(0, pages * kPage, kReadWrite, MAP_SHARED, file.get(), 0);
      ASSERT_GT(answer, 0) << std::strerror(static_cast<int>(-answer));
      const auto base = static_cast<std::uintptr_t>(answer);
      // It is ours alone until we give it back.
      const auto info = allocator_->query(base, pages * kPage);
      ASSERT_TRUE(info.ok());
      ASSERT_EQ(info->extent, (Extent{base, pages * kPage}));
      ASSERT_EQ(calls_->mprotect(base, kPage, PROT_READ), 0);
      ASSERT_EQ(allocator_->query(base, kPage)->protection, Protection::kRead);
      if (pages > 2) {
        ASSERT_EQ(calls_->munmap(base + kPage, kPage), 0);
        ASSERT_TRUE(allocator_->query(base + 2 * kPage, kPage).ok());
      }
      // Not over the hole: another thread may have it by now.
      const std::size_t low = pages > 2 ? 1 : pages;
      ASSERT_EQ(calls_->munmap(base, low * kPage), 0);
      if (pages > 2) {
        ASSERT_EQ(calls_->munmap(base + 2 * kPage, (pages - 2) * kPage), 0);
      }
      rounds.fetch_add(1, std::memory_order_relaxed);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; ++i) threads.emplace_back(worker, i + 1);
  for (auto& thread : threads) thread.join();
  EXPECT_GT(rounds.load(), 100u);
  EXPECT_EQ(allocator_->statistics().regions, 0u);
  EXPECT_EQ(allocator_->statistics().lies_refused, 0u);
}

// One page, everybody at it, with pins.
TEST_F(Threat39_QueryUnmapUse, PinnedPagesAreNeverTakenAway) {
  const Clock clock(800);
  std::atomic<std::uint64_t> pinned{0};
  const auto running = [&] { return clock.running_until(pinned >= 10); };
  std::thread unmapper([&] {
    while (running()) {
      const int answer = calls_->munmap(kPlace, 4 * kPage);
      EXPECT_TRUE(answer == 0 || answer == -EBUSY) << answer;
      const std::intptr_t mapped =
          calls_->mmap(kPlace, 4 * kPage, kReadWrite, MAP_SHARED | MAP_FIXED_NOREPLACE, kDevice, 0);
      EXPECT_TRUE(mapped > 0 || mapped == -EEXIST) << mapped;
    }
  });
  std::thread toggler([&] {
    while (running()) {
      (void)calls_->mprotect(kPlace + kPage, kPage, PROT_READ);
      (void)calls_->mprotect(kPlace + kPage, kPage, kReadWrite);
    }
  });
  std::thread pinner([&] {
    while (running()) {
      const auto pin = allocator_->pin({kPlace + kPage, 2 * kPage});
      if (!pin.ok()) continue;
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(allocator_->query(kPlace + kPage, kPage).ok());
        EXPECT_TRUE(host_->is_mapped(kPlace + 2 * kPage));
      }
      EXPECT_TRUE(allocator_->unpin(*pin).ok());
      pinned.fetch_add(1, std::memory_order_relaxed);
    }
  });
  unmapper.join();
  toggler.join();
  pinner.join();
  EXPECT_GT(pinned.load(), 0u);
}

}  // namespace
}  // namespace exclave
