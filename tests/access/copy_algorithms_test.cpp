// The cutting of ranges into accesses, seen through a bus that records each one.
#include "access/copy_algorithms.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <map>
#include <vector>

#include "support/sanitizers.hpp"

namespace exclave::access {
namespace {

struct Access {
  bool store;
  bool fenced;
  std::uintptr_t address;
  std::size_t width;
};

// Performs each access on ordinary memory and writes it down.
struct RecordingBus {
  static inline std::vector<Access> log;

  static void record(bool store, std::uintptr_t address, std::size_t width, bool fenced = false) {
    log.push_back({store, fenced, address, width});
  }
  static std::uint8_t* at(std::uintptr_t address) {
    return reinterpret_cast<std::uint8_t*>(address);
  }

  static void store_byte_fenced(std::uintptr_t dst, std::uint8_t value) {
    record(true, dst, 1, true);
    *at(dst) = value;
  }
  static void store_word(std::uintptr_t dst, std::uint64_t value) {
    record(true, dst, 8);
    std::memcpy(at(dst), &value, 8);
  }
  static void store_pair(std::uintptr_t dst, const std::uint8_t* src) {
    record(true, dst, 16);
    std::memcpy(at(dst), src, 16);
  }
  static void store_line(std::uintptr_t dst, const std::uint8_t* src) {
    for (std::size_t i = 0; i < 64; i += 16) store_pair(dst + i, src + i);
  }
  static inline bool wide = false;
  static inline bool upper_halves_dirty = false;
  static bool has_wide() { return wide; }
  static void store_wide(std::uintptr_t dst, const std::uint8_t* src) {
    record(true, dst, 32);
    std::memcpy(at(dst), src, 32);
    upper_halves_dirty = true;
  }
  static void store_wide_line(std::uintptr_t dst, const std::uint8_t* src) {
    store_wide(dst, src);
    store_wide(dst + 32, src + 32);
  }
  static void end_wide() { upper_halves_dirty = false; }
  static void store_words(std::uintptr_t dst, const std::uint8_t* src, std::size_t words) {
    for (std::size_t i = 0; i < words; ++i) {
      record(true, dst + 8 * i, 8);
      std::memcpy(at(dst + 8 * i), src + 8 * i, 8);
    }
  }
  static void zero_pair(std::uintptr_t dst) {
    record(true, dst, 16);
    std::memset(at(dst), 0, 16);
  }
  static void zero_line(std::uintptr_t dst) {
    for (std::size_t i = 0; i < 64; i += 16) zero_pair(dst + i);
  }
  static void zero_words(std::uintptr_t dst, std::size_t words) {
    for (std::size_t i = 0; i < words; ++i) store_word(dst + 8 * i, 0);
  }
  static std::uint64_t load_word(std::uintptr_t src) {
    record(false, src, 8);
    std::uint64_t value;
    std::memcpy(&value, at(src), 8);
    return value;
  }
  static void load_pair(std::uint8_t* dst, std::uintptr_t src) { load_words(dst, src, 2); }
  static void load_line(std::uint8_t* dst, std::uintptr_t src) { load_words(dst, src, 8); }
  static void load_words(std::uint8_t* dst, std::uintptr_t src, std::size_t words) {
    for (std::size_t i = 0; i < words; ++i) {
      const std::uint64_t value = load_word(src + 8 * i);
      std::memcpy(dst + 8 * i, &value, 8);
    }
  }
  static void move_words(std::uintptr_t dst, std::uintptr_t src, std::size_t words) {
    for (std::size_t i = 0; i < words; ++i) store_word(dst + 8 * i, load_word(src + 8 * i));
  }
};
static_assert(Bus<RecordingBus>);

class CopyAlgorithms : public testing::Test {
 protected:
  static constexpr std::size_t kBytes = 4096;
  static constexpr std::uint8_t kNeighbour = 0xa5;

  void SetUp() override {
    for (std::size_t i = 0; i < kBytes; ++i) trusted_[i] = static_cast<std::uint8_t>(i * 7 + 1);
    reset();
  }
  void reset() {
    std::memset(outside_, kNeighbour, kBytes);
    RecordingBus::log.clear();
  }
  std::uintptr_t outside(std::size_t offset) const {
    return reinterpret_cast<std::uintptr_t>(outside_) + offset;
  }

  // Every alignment of both sides to a word, every length up to 600, and lengths around the steps
  // of the algorithms; the destination at every word of a wide register; with wide stores and
  // without.
  template <class F>
  void for_all(F&& check) {
    std::vector<std::size_t> lengths;
    constexpr std::size_t kStep = testing_support::kCounted ? 23 : 1;
    for (std::size_t n = 0; n <= 600; n += n < 100 ? 1 : kStep) lengths.push_back(n);
    for (const std::size_t step : {kStringLoadBytes, kStringStoreBytes, std::size_t{1500}}) {
      for (std::size_t n = step - 17; n <= step + 17; ++n) lengths.push_back(n);
    }
    for (const bool wide : {false, true}) {
      RecordingBus::wide = wide;
      for (const std::size_t dst :
           std::initializer_list<std::size_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 24}) {
        for (std::size_t src = 0; src < 8; ++src) {
          for (const std::size_t n : lengths) {
            reset();
            check(64 + dst, 64 + src, n);
            ASSERT_FALSE(RecordingBus::upper_halves_dirty);
            if (HasFailure()) {
              FAIL() << "dst % 32 = " << dst << ", src % 8 = " << src << ", size = " << n
                     << ", wide = " << wide;
            }
          }
        }
      }
    }
  }

  // Stores: rule of INTEL-SA-00615, and all of them inside [first, last).
  void expect_stores_obey(std::uintptr_t first, std::uintptr_t last) {
    for (const Access& a : RecordingBus::log) {
      if (!a.store) continue;
      const bool whole = a.address % 8 == 0 && a.width % 8 == 0;
      ASSERT_TRUE(whole || (a.fenced && a.width == 1))
          << "store of " << a.width << " at " << a.address % 8;
      ASSERT_GE(a.address, first);
      ASSERT_LE(a.address + a.width, last);
    }
  }
  // Loads: rule of INTEL-SA-00657, only words that hold wanted bytes, each of them once.
  void expect_loads_obey(std::uintptr_t first, std::uintptr_t last, std::size_t times = 1) {
    std::map<std::uintptr_t, std::size_t> seen;
    for (const Access& a : RecordingBus::log) {
      if (a.store) continue;
      ASSERT_LT(first, last) << "none is wanted";
      ASSERT_EQ(a.address % 8, 0u);
      ASSERT_EQ(a.width, 8u);
      ASSERT_GT(a.address + 8, first);
      ASSERT_LT(a.address, last);
      ASSERT_LE(++seen[a.address], times) << "a word is fetched again";
    }
  }
  void expect_neighbours_kept(std::size_t offset, std::size_t size) {
    for (std::size_t i = 0; i < kBytes; ++i) {
      if (i >= offset && i < offset + size) continue;
      ASSERT_EQ(outside_[i], kNeighbour) << "byte " << i;
    }
  }

  alignas(64) std::uint8_t outside_[kBytes];
  alignas(64) std::uint8_t trusted_[kBytes];
};

using Threat52_AccessRules = CopyAlgorithms;
using Threat45_FetchedOnce = CopyAlgorithms;

TEST_F(Threat52_AccessRules, CopyOut) {
  for_all([&](std::size_t dst, std::size_t src, std::size_t n) {
    copy_out<RecordingBus>(outside(dst), trusted_ + src, n);
    expect_stores_obey(outside(dst), outside(dst + n));
    ASSERT_EQ(std::memcmp(outside_ + dst, trusted_ + src, n), 0);
    expect_neighbours_kept(dst, n);
    const auto fenced = std::count_if(RecordingBus::log.begin(), RecordingBus::log.end(),
                                      [](const Access& a) { return a.fenced; });
    ASSERT_LT(fenced, 15) << "more than a head and a tail took the slow path";
    if (dst % 8 == 0 && n % 8 == 0) {
      ASSERT_EQ(fenced, 0);
    }
  });
}

TEST_F(Threat52_AccessRules, CopyOutPaddedHasNoSlowPath) {
  for_all([&](std::size_t, std::size_t src, std::size_t n) {
    const std::size_t padded = (n + 7) / 8 * 8;
    copy_out_padded<RecordingBus>(outside(64), trusted_ + src, n);
    expect_stores_obey(outside(64), outside(64 + padded));
    for (const Access& a : RecordingBus::log) ASSERT_FALSE(a.fenced);
    ASSERT_EQ(std::memcmp(outside_ + 64, trusted_ + src, n), 0);
    for (std::size_t i = n; i < padded; ++i) ASSERT_EQ(outside_[64 + i], 0);
    expect_neighbours_kept(64, padded);
  });
}

TEST_F(Threat52_AccessRules, FillZero) {
  for_all([&](std::size_t dst, std::size_t, std::size_t n) {
    fill_zero<RecordingBus>(outside(dst), n);
    expect_stores_obey(outside(dst), outside(dst + n));
    ASSERT_TRUE(
        std::all_of(outside_ + dst, outside_ + dst + n, [](std::uint8_t b) { return b == 0; }));
    expect_neighbours_kept(dst, n);
  });
}

TEST_F(Threat45_FetchedOnce, CopyInFetchesEachWordOnceByTheRules) {
  std::memcpy(outside_, trusted_, kBytes);
  std::vector<std::uint8_t> in(kBytes);
  for_all([&](std::size_t dst, std::size_t src, std::size_t n) {
    for (std::size_t i = 0; i < kBytes; ++i) outside_[i] = static_cast<std::uint8_t>(i * 7 + 1);
    std::fill(in.begin(), in.end(), kNeighbour);
    copy_in<RecordingBus>(in.data() + dst, outside(src), n);
    expect_loads_obey(outside(src), outside(src + n));
    ASSERT_EQ(std::memcmp(in.data() + dst, outside_ + src, n), 0);
    for (std::size_t i = 0; i < kBytes; ++i) {
      if (i < dst || i >= dst + n) {
        ASSERT_EQ(in[i], kNeighbour) << "byte " << i;
      }
    }
  });
}

TEST_F(Threat52_AccessRules, CopyAcross) {
  for_all([&](std::size_t dst, std::size_t src, std::size_t n) {
    const std::size_t from = 2048 + src;
    std::memcpy(outside_ + from, trusted_ + src, n);
    copy_across<RecordingBus>(outside(dst), outside(from), n);
    expect_stores_obey(outside(dst), outside(dst + n));
    // A word where two pieces meet is fetched for each of them, different bytes each time.
    expect_loads_obey(outside(from), outside(from + n), 2);
    ASSERT_EQ(std::memcmp(outside_ + dst, trusted_ + src, n), 0);
    std::memset(outside_ + from, kNeighbour, n);
    expect_neighbours_kept(dst, n);
  });
}

// Wide stores are chosen when there are any, and only then.
TEST_F(Threat52_AccessRules, WideStoresWhereTheyMayBe) {
  for_all([&](std::size_t dst, std::size_t src, std::size_t n) {
    copy_out<RecordingBus>(outside(dst), trusted_ + src, n);
    const bool any = std::any_of(RecordingBus::log.begin(), RecordingBus::log.end(),
                                 [](const Access& a) { return a.width == 32; });
    ASSERT_EQ(any, RecordingBus::wide && (n - head_bytes(dst, n)) / 8 >= 8);
  });
}

}  // namespace
}  // namespace exclave::access
