// A descriptor's own pages inside, where the runtime has them; locks, populated pages, and walks of
// the runtime's own.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "support/manager_fixture.hpp"

namespace exclave {
namespace {

using testing_support::FakePages;
using testing_support::ManagerFixture;

// What the runtime serves itself is told apart by its value: the page of the descriptor that it is.
class BackingPages : public FakePages {
 public:
  static constexpr std::uint64_t kBackedValue = 5000;
  static constexpr int kRefused = 98;  // by the device, once what stood there is gone
  struct Advice {
    RangeCall call;
    std::uintptr_t address;
    std::size_t size;
    int argument;
    bool operator==(const Advice&) const = default;
  };

  EnclavePagesTable table() noexcept { return bind_enclave_pages(*this); }

  int back(std::uintptr_t address, std::size_t size, int protection, int flags, int descriptor,
           std::uint64_t offset) noexcept {
    if (descriptor == kBadDescriptor) return -EBADF;
    if (descriptor == kRefused) {
      (void)drop(address, size);
      return ENXIO;
    }
    flags_seen = flags;
    (void)commit(address, size, protection, true);
    for (std::size_t at = 0; at < size; at += kPageBytes)
      write(address + at, kBackedValue + (offset + at) / kPageBytes);
    return 0;
  }
  int stretch(std::uintptr_t from, std::size_t old_size, std::uintptr_t to,
              std::size_t new_size) noexcept {
    if (const int error = std::exchange(stretch_error, 0); error != 0) return error;
    const std::uint64_t first = read(from);
    if (from != to) (void)drop(from, old_size);
    (void)commit(to, new_size, PROT_READ | PROT_WRITE, true);
    for (std::size_t at = 0; at < new_size; at += kPageBytes)
      write(to + at, first + at / kPageBytes);
    return 0;
  }
  int advise(RangeCall call, std::uintptr_t address, std::size_t size, int argument) noexcept {
    advice.push_back({call, address, size, argument});
    return advice_error;
  }

  void wait() noexcept {
    ++waits;
    std::this_thread::yield();
  }

  std::atomic<unsigned> waits{0};
  int flags_seen = 0;
  int stretch_error = 0;
  int advice_error = 0;
  std::vector<Advice> advice;
};

class BackedTest : public ManagerFixture {
 protected:
  using Advice = BackingPages::Advice;

  void SetUp() override { start_with(backing_.table()); }
  void start_with(const EnclavePagesTable& table) {
    manager_.reset();
    auto made = EnclaveManager::create(port_table(), table, options());
    ASSERT_TRUE(made.ok()) << error_text(made.error());
    manager_.emplace(std::move(made.value()));
  }
  void TearDown() override {
    EXPECT_THAT(backing_.violations(), testing::IsEmpty());
    ManagerFixture::TearDown();
  }
  std::intptr_t back(std::size_t first, std::size_t count, std::size_t file_page = 0,
                     int descriptor = 3) {
    return manager_->map(page(first), count * kPage, kReadWrite, MAP_SHARED | MAP_FIXED, descriptor,
                         file_page * kPage);
  }
  // A page of the descriptor, '0' and so on; '-' another one's; '.' none.
  std::string content(std::size_t count) {
    EXPECT_TRUE(manager_->validate_books());
    EXPECT_EQ(manager_->statistics().mapped_bytes, backing_.count() * kPage);
    std::string text;
    for (std::size_t i = 0; i < count; ++i) {
      if (!backing_.is_there(page(i))) {
        text += '.';
      } else if (backing_.read(page(i)) < BackingPages::kBackedValue) {
        text += '-';
      } else {
        text += static_cast<char>('0' + (backing_.read(page(i)) - BackingPages::kBackedValue));
      }
    }
    return text;
  }
  Advice on(RangeCall call, std::size_t first, std::size_t count, int argument) {
    return {call, page(first), count * kPage, argument};
  }

  BackingPages backing_;
};

TEST_F(BackedTest, MapsADescriptorsOwnPages) {
  EXPECT_EQ(back(2, 3, 1), answer(2));
  EXPECT_EQ(content(6), "..123.");
  EXPECT_EQ(backing_.flags_seen, MAP_SHARED | MAP_FIXED);
  EXPECT_EQ(manager_->map(page(5), kPage, PROT_READ, MAP_SHARED_VALIDATE | MAP_FIXED, 3, 0),
            answer(5));
  EXPECT_EQ(content(6), "..1230");
  EXPECT_EQ(areas(), 2u) << "each mapping stays by itself";
  EXPECT_EQ(unmap(3, 1), 0);
  EXPECT_EQ(content(6), "..1.30");
  EXPECT_EQ(back(8, 1, 0, FakePages::kBadDescriptor), -EBADF);
  EXPECT_EQ(content(9), "..1.30...");
}

TEST_F(BackedTest, ReplacesInPlace) {
  ASSERT_EQ(map(1, 4), answer(1));
  EXPECT_EQ(back(2, 2, 0, FakePages::kBadDescriptor), -EBADF);
  EXPECT_EQ(content(6), ".----.");
  EXPECT_EQ(areas(), 1u);
  EXPECT_EQ(back(2, 2), answer(2));
  EXPECT_EQ(content(6), ".-01-.");
  EXPECT_EQ(backing_.calls(Op::kMove), 0u) << "a device looks at the address";
  EXPECT_EQ(back(3, 2, 0, BackingPages::kRefused), -ENXIO);
  EXPECT_EQ(content(6), ".-0...") << "what the device refused took away what stood there";
  EXPECT_EQ(back(8, 2, 0, BackingPages::kRefused), -ENXIO);
  EXPECT_EQ(content(10), ".-0.......");
  EXPECT_EQ(areas(), 2u);
}

TEST_F(BackedTest, NeedsNoOtherPlaceToReplaceWhatStandsThere) {
  ASSERT_EQ(map(0, 64), answer(0));
  EXPECT_EQ(back(2, 2), answer(2));
  EXPECT_EQ(content(5), "--01-");
}

TEST_F(BackedTest, GrowsWhereItStandsOrElsewhere) {
  ASSERT_EQ(back(1, 2, 3), answer(1));
  EXPECT_EQ(remap(1, 2, 4), answer(1));
  EXPECT_EQ(content(6), ".3456.");
  ASSERT_EQ(map(5, 1), answer(5));
  EXPECT_EQ(remap(1, 4, 6), -ENOMEM);
  EXPECT_EQ(remap(3, 2, 3, MREMAP_MAYMOVE | MREMAP_FIXED, 10), answer(10)) << "the end of one";
  EXPECT_EQ(content(14), ".34..-....567.");
  EXPECT_EQ(remap(1, 2, 2, MREMAP_MAYMOVE | MREMAP_FIXED, 6), answer(6));
  EXPECT_EQ(content(14), ".....-34..567.");
  EXPECT_EQ(areas(), 3u);
}

// A shared mapping has the pages that it was made with; what it shows behind them (on Linux:
// SIGBUS) is for those to say who made them.
TEST_F(BackedTest, SharedMemoryOfNobodyGrowsAsTheRuntimeSays) {
  constexpr int kShared = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
  ASSERT_EQ(map(1, 2, kReadWrite, kShared), answer(1));
  backing_.write(page(1), BackingPages::kBackedValue + 3);
  EXPECT_EQ(remap(1, 2, 4), answer(1));
  EXPECT_EQ(content(6), ".3456.") << "by one operation, with its old pages";
  EXPECT_EQ(remap(1, 4, 5, MREMAP_MAYMOVE | MREMAP_FIXED, 8), answer(8));
  EXPECT_EQ(content(14), "........34567.");
  // Where the runtime has no such operation, fresh pages.
  EnclavePagesTable without = backing_.table();
  without.stretch = nullptr;
  ASSERT_EQ(unmap(0, 64), 0);
  start_with(without);
  ASSERT_EQ(map(1, 1, kReadWrite, kShared), answer(1));
  backing_.write(page(1), BackingPages::kBackedValue);
  EXPECT_EQ(remap(1, 1, 2), answer(1));
  EXPECT_EQ(remap(1, 2, 3, MREMAP_MAYMOVE | MREMAP_FIXED, 8), answer(8));
  EXPECT_EQ(content(12), "........0--.");
  ASSERT_EQ(unmap(0, 64), 0);
}

TEST_F(BackedTest, WhatCannotGrowStaysAsItWas) {
  ASSERT_EQ(back(1, 2), answer(1));
  ASSERT_EQ(map(8, 4), answer(8));
  backing_.stretch_error = -EAGAIN;
  EXPECT_EQ(remap(1, 2, 4), -EAGAIN);
  EXPECT_EQ(content(13), ".01.....----.");
  backing_.stretch_error = -EAGAIN;
  EXPECT_EQ(remap(1, 2, 3, MREMAP_MAYMOVE | MREMAP_FIXED, 8), -EAGAIN);
  EXPECT_EQ(content(13), ".01........-.") << "as on Linux the new place is unmapped first";
  ASSERT_EQ(map(8, 4), answer(8));
  backing_.fail(Op::kDrop, -EIO);
  EXPECT_EQ(remap(1, 2, 3, MREMAP_MAYMOVE | MREMAP_FIXED, 8), -EIO);
  EXPECT_EQ(content(13), ".01.....----.") << "what will not go keeps its place";
  EnclavePagesTable without = backing_.table();
  without.stretch = nullptr;
  ASSERT_EQ(unmap(0, 64), 0);
  start_with(without);
  ASSERT_EQ(back(1, 2), answer(1));
  EXPECT_EQ(remap(1, 2, 4, MREMAP_MAYMOVE), -ENOMEM);
  EXPECT_EQ(remap(1, 2, 2, MREMAP_MAYMOVE | MREMAP_FIXED, 8), answer(8));
  EXPECT_EQ(content(11), "........01.");
  ASSERT_EQ(unmap(0, 64), 0);
}

TEST_F(BackedTest, WithoutBackThereIsNone) {
  EnclavePagesTable without = backing_.table();
  without.back = nullptr;
  start_with(without);
  EXPECT_EQ(back(1, 2), -ENODEV);
}

TEST_F(BackedTest, EveryAdviceGoesToTheRuntime) {
  ASSERT_EQ(back(1, 2), answer(1));
  ASSERT_EQ(map(3, 1), answer(3));
  for (const int advice : {MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_COLD}) {
    backing_.advice.clear();
    EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, page(1), 2 * kPage, advice), 0);
    EXPECT_THAT(backing_.advice, testing::ElementsAre(on(EXCLAVE_MADVISE, 1, 2, advice)));
  }
  backing_.advice.clear();
  EXPECT_EQ(manager_->advise(EXCLAVE_MSYNC, page(1), 3 * kPage, MS_SYNC), 0);
  EXPECT_THAT(backing_.advice, testing::ElementsAre(on(EXCLAVE_MSYNC, 1, 2, MS_SYNC)));
  backing_.advice_error = -EIO;
  EXPECT_EQ(manager_->advise(EXCLAVE_MSYNC, page(1), 3 * kPage, MS_SYNC), -EIO);
}

// ---- Locks and populated pages ----

TEST_F(BackedTest, WhatIsMappedLockedIsLocked) {
  ASSERT_EQ(map(1, 2, kReadWrite, kPrivate | MAP_FIXED | MAP_LOCKED), answer(1));
  EXPECT_THAT(backing_.advice, testing::ElementsAre(on(EXCLAVE_MLOCK, 1, 2, 0)));
  backing_.advice.clear();
  EXPECT_EQ(remap(1, 2, 3), answer(1));
  EXPECT_THAT(backing_.advice, testing::ElementsAre(on(EXCLAVE_MLOCK, 3, 1, 0)));
  backing_.advice.clear();
  ASSERT_EQ(manager_->lock_all(MCL_FUTURE), 0);
  backing_.advice_error = -EAGAIN;
  ASSERT_EQ(back(8, 1), answer(8)) << "what cannot be locked is mapped";
  EXPECT_THAT(backing_.advice, testing::ElementsAre(on(EXCLAVE_MLOCK, 8, 1, 0)));
}

// The runtime may have locked some of it, as Linux does.
TEST_F(BackedTest, WhatCouldNotBeLockedIsUnlockedAllTheSame) {
  ASSERT_EQ(map(1, 2), answer(1));
  backing_.advice_error = -EAGAIN;
  EXPECT_EQ(manager_->advise(EXCLAVE_MLOCK, page(1), 2 * kPage, 0), -EAGAIN);
  backing_.advice_error = -ENOMEM;
  EXPECT_EQ(manager_->advise(EXCLAVE_MLOCK, page(1), 2 * kPage, 0), -ENOMEM);
  backing_.advice_error = 0;
  EXPECT_EQ(manager_->advise(EXCLAVE_MADVISE, page(1), kPage, MADV_DONTNEED), 0) << "not locked";
  backing_.advice.clear();
  EXPECT_EQ(manager_->advise(EXCLAVE_MUNLOCK, page(1), 2 * kPage, 0), 0);
  EXPECT_THAT(backing_.advice, testing::ElementsAre(on(EXCLAVE_MUNLOCK, 1, 2, 0)));
}

TEST_F(BackedTest, MlockallDoesNotMindWhatCannotBeTouched) {
  ASSERT_EQ(map(1, 1, PROT_NONE), answer(1));
  backing_.advice_error = -ENOMEM;
  EXPECT_EQ(manager_->lock_all(MCL_CURRENT), 0);
  EXPECT_EQ(manager_->lock_all(0), 0);
  EXPECT_EQ(manager_->advise(EXCLAVE_MLOCK, page(1), kPage, 0), -ENOMEM);
  backing_.advice_error = -EAGAIN;
  EXPECT_EQ(manager_->lock_all(MCL_CURRENT), -EAGAIN);
}

TEST_F(BackedTest, PopulatedPagesAreAskedFor) {
  constexpr int kFlags = kPrivate | MAP_FIXED | MAP_POPULATE;
  ASSERT_EQ(map(1, 2, kReadWrite, kFlags), answer(1));
  backing_.advice_error = -ENOMEM;
  ASSERT_EQ(map(4, 1, PROT_READ, kFlags), answer(4));
  EXPECT_THAT(backing_.advice, testing::ElementsAre(on(EXCLAVE_MADVISE, 1, 2, MADV_POPULATE_WRITE),
                                                    on(EXCLAVE_MADVISE, 4, 1, MADV_POPULATE_READ)));
  backing_.fail(Op::kCommit, -ENOMEM);
  backing_.advice.clear();
  EXPECT_EQ(map(8, 1, kReadWrite, kFlags), -ENOMEM);
  EXPECT_THAT(backing_.advice, testing::IsEmpty());
}

// ---- Waiting ----

TEST_F(BackedTest, AThreadThatWaitsLetsOthersRun) {
  ASSERT_EQ(map(0, 2), answer(0));
  const std::function<void()> calls[] = {
      [&] { EXPECT_EQ(unmap(0, 1), 0); }, [&] { EXPECT_EQ(map(0, 2), answer(0)); },
      [&] { EXPECT_EQ(protect(0, 1, PROT_READ), 0); },
      [&] { (void)manager_->advise(EXCLAVE_MSYNC, page(0), kPage, 0); },
      [&] { EXPECT_EQ(remap(0, 2, 4), answer(0)); }};
  for (const auto& call : calls) {
    backing_.waits = 0;
    std::thread other;
    std::atomic<bool> started{false};
    backing_.during = [&](Op) {
      if (started.exchange(true)) return;
      other = std::thread(call);
      while (backing_.waits == 0) std::this_thread::yield();
    };
    EXPECT_EQ(protect(0, 2, PROT_NONE), 0);
    other.join();
    backing_.during = nullptr;
    EXPECT_GT(backing_.waits, 0u);
    ASSERT_EQ(map(0, 2), answer(0));
  }
}

// ---- Walks of the runtime's own ----

struct Seen {
  Extent area;
  int protection;
  bool operator==(const Seen&) const = default;
};

TEST_F(BackedTest, VisitsAreasInTheRange) {
  ASSERT_EQ(map(1, 2), answer(1));
  ASSERT_EQ(map(3, 2, PROT_READ), answer(3));
  ASSERT_EQ(map(6, 1, PROT_NONE), answer(6));
  std::vector<Seen> seen;
  const auto note = [](void* context, Extent area, int protection) {
    static_cast<std::vector<Seen>*>(context)->push_back({area, protection});
    return 0;
  };
  EXPECT_EQ(manager_->visit({page(2), 3 * kPage}, note, &seen), 0);
  EXPECT_THAT(seen, testing::ElementsAre(Seen{{page(2), kPage}, kReadWrite},
                                         Seen{{page(3), 2 * kPage}, PROT_READ}));
  seen.clear();
  EXPECT_EQ(manager_->visit({page(4), 3 * kPage}, note, &seen), -ENOMEM) << "a hole is skipped";
  EXPECT_THAT(seen, testing::ElementsAre(Seen{{page(4), kPage}, PROT_READ},
                                         Seen{{page(6), kPage}, PROT_NONE}));
  EXPECT_EQ(manager_->visit({page(63), 2 * kPage}, note, &seen), -ENOMEM);
  EXPECT_EQ(manager_->visit({page(1) + 1, kPage}, note, &seen), -EINVAL);
  EXPECT_EQ(manager_->visit({page(1), kPage - 1}, note, &seen), -EINVAL);
}

TEST_F(BackedTest, AVisitorEndsTheWalkAndKeepsOthersOut) {
  ASSERT_EQ(map(1, 1), answer(1));
  ASSERT_EQ(map(3, 1), answer(3));
  const auto stop = [](void* context, Extent area, int) {
    auto& manager = *static_cast<EnclaveManager*>(context);
    EXPECT_EQ(manager.unmap(area.base, area.size), -EBUSY);
    return 7;
  };
  EXPECT_EQ(manager_->visit({page(0), 8 * kPage}, stop, &*manager_), 7);
  EXPECT_EQ(unmap(0, 8), 0) << "afterwards nobody holds it";
}

}  // namespace
}  // namespace exclave
