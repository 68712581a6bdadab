// The hostile host itself: each lie is what it says, honest memory is not lost, wrong calls are
// told.
#include "sim/hostile_host.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

namespace exclave::sim {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::uintptr_t kLowHalfEnd = std::uintptr_t{1} << 47;

class HostileHostTest : public testing::Test {
 protected:
  void SetUp() override {
    host_ = HostileHost::create();
    ASSERT_NE(host_, nullptr);
  }
  HostReply reserve(Lie lie, std::size_t bytes = 4 * kMiB, std::size_t alignment = 2 * kMiB) {
    host_->script(HostCall::kReserve, {lie});
    return host_->host_reserve(bytes, alignment);
  }
  HostReply map(std::size_t bytes, std::uintptr_t hint = 0, int more_flags = 0) {
    const MapRequest request{
        hint, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | more_flags, -1, 0};
    return host_->host_map(request);
  }
  std::unique_ptr<HostileHost> host_;
};

TEST_F(HostileHostTest, IsHonestUnlessTold) {
  const HostReply reply = host_->host_reserve(4 * kMiB, 2 * kMiB);
  ASSERT_EQ(reply.error, 0);
  EXPECT_THAT(host_->handed_out(), testing::ElementsAre(Extent{reply.address, 4 * kMiB}));
  *reinterpret_cast<volatile char*>(reply.address) = 1;
  EXPECT_EQ(host_->host_release(reply.address, 4 * kMiB), 0);
  EXPECT_THAT(host_->handed_out(), IsEmpty());
  EXPECT_THAT(host_->violations(), IsEmpty());
  EXPECT_EQ(host_->calls(), 2u);
  EXPECT_EQ(host_->calls(HostCall::kReserve), 1u);
  EXPECT_EQ(host_->lies(), 0u);
}

TEST_F(HostileHostTest, EveryLieHasANameAndAPlace) {
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(kLastLie); ++i) {
    const auto lie = static_cast<Lie>(i);
    const std::string name = name_of(lie);
    EXPECT_NE(name, "") << i;
    EXPECT_EQ(std::count(names.begin(), names.end(), name), 0) << name;
    names.push_back(name);
    bool fits_somewhere = false;
    for (std::size_t call = 0; call < kHostCalls; ++call) {
      fits_somewhere = fits_somewhere || fits(lie, static_cast<HostCall>(call));
    }
    EXPECT_TRUE(fits_somewhere) << name;
  }
}

// What each lie must look like, as a verifier sees it: the answer, the enclave, the range that is
// out.
TEST_F(HostileHostTest, EachLieIsWhatItSays) {
  const HostReply first = host_->host_reserve(8 * kMiB, 2 * kMiB);
  ASSERT_EQ(first.error, 0);
  const Extent known{first.address, 8 * kMiB};
  const Extent enclave = host_->enclave();
  const std::size_t bytes = 4 * kMiB;
  const std::size_t alignment = 2 * kMiB;
  for (int round = 0; round < 50; ++round) {
    HostReply r = reserve(Lie::kNull);
    EXPECT_EQ(r.address, 0u);
    EXPECT_EQ(r.error, 0);
    EXPECT_EQ(reserve(Lie::kMapFailed).address, UINTPTR_MAX);
    r = reserve(Lie::kSmallErrno);
    EXPECT_TRUE(r.address < 4096 || r.address > UINTPTR_MAX - 4096) << r.address;
    r = reserve(Lie::kInside);
    EXPECT_TRUE(enclave.covers({r.address, bytes}));
    EXPECT_EQ(r.address % alignment, 0u) << "no other rule may catch it";
    r = reserve(Lie::kEndsInside);
    EXPECT_TRUE(!enclave.contains(r.address) && enclave.contains(r.address + bytes - 1));
    EXPECT_EQ(r.address % alignment, 0u);
    r = reserve(Lie::kStartsInside);
    EXPECT_TRUE(enclave.contains(r.address) && !enclave.contains(r.address + bytes - 1));
    EXPECT_EQ(r.address % alignment, 0u);
    r = reserve(Lie::kEncloses, enclave.size + 16 * kMiB);
    EXPECT_LT(r.address, enclave.base);
    EXPECT_GT(r.address + enclave.size + 16 * kMiB, enclave.end());
    r = reserve(Lie::kWraps);
    EXPECT_LT(r.address + bytes, r.address);
    EXPECT_NE(r.address + bytes, 0u);
    EXPECT_EQ(reserve(Lie::kEndsAtTop).address + bytes, 0u);
    r = reserve(Lie::kNonCanonical);
    EXPECT_TRUE(r.address >= kLowHalfEnd && r.address < UINTPTR_MAX - kLowHalfEnd)
        << std::hex << r.address;
    EXPECT_GE(reserve(Lie::kKernelHalf).address, std::uintptr_t{0xffff8} << 44);
    EXPECT_NE(reserve(Lie::kUnaligned).address % kPageBytes, 0u);
    r = reserve(Lie::kUnderAligned);
    EXPECT_EQ(r.address % kPageBytes, 0u);
    EXPECT_NE(r.address % alignment, 0u);
    EXPECT_EQ(reserve(Lie::kOverlapExact).address, known.base);
    r = reserve(Lie::kOverlapNested, 2 * kMiB);
    EXPECT_TRUE(known.covers({r.address, 2 * kMiB}));
    r = reserve(Lie::kOverlapPartly);
    EXPECT_TRUE(r.address < known.base && r.address + bytes > known.base);
    EXPECT_EQ(r.address % alignment, 0u);
    EXPECT_EQ(reserve(Lie::kSameTwice).address, known.base);
    r = reserve(Lie::kForbiddenWindow);
    EXPECT_TRUE(host_->forbidden_window().covers({r.address, bytes}));
    r = reserve(Lie::kBadErrno);
    EXPECT_TRUE(r.error < 0 || r.error > 133);
    r = reserve(Lie::kErrorWithAddress);
    EXPECT_EQ(r.error, ENOMEM);
    EXPECT_NE(r.address, 0u);
    r = reserve(Lie::kSuccessWithoutAddress);
    EXPECT_EQ(r.error, 0);
    r = reserve(Lie::kRefuse);
    EXPECT_EQ(r.error, ENOMEM);
  }
  const HostReply stack = reserve(Lie::kHostStack);
  EXPECT_TRUE(HostileHost::host_stack().overlaps({stack.address, bytes}));
  EXPECT_THAT(host_->handed_out(), SizeIs(1)) << "a lie took honest memory";
  EXPECT_EQ(host_->events().back().lie, Lie::kHostStack);
  EXPECT_EQ(host_->host_release(known.base, known.size), 0);
  EXPECT_THAT(host_->violations(), IsEmpty());
}

TEST_F(HostileHostTest, HonestMemoryBesideTheEnclave) {
  const std::size_t bytes = 4 * kMiB;
  const HostReply below = reserve(Lie::kEndsAtEnclave, bytes);
  ASSERT_EQ(below.error, 0);
  EXPECT_EQ(below.address + bytes, host_->enclave().base);
  const HostReply above = reserve(Lie::kStartsAtEnclaveEnd, bytes);
  ASSERT_EQ(above.error, 0);
  EXPECT_EQ(above.address, host_->enclave().end());
  for (const HostReply& reply : {below, above}) {
    std::memset(reinterpret_cast<void*>(reply.address), 1, bytes);
    EXPECT_EQ(host_->host_release(reply.address, bytes), 0);
  }
  EXPECT_EQ(reserve(Lie::kEndsAtEnclave, bytes).address, below.address) << "it can be had again";
  EXPECT_EQ(*reinterpret_cast<volatile char*>(below.address), 0);
  EXPECT_EQ(reserve(Lie::kEndsAtEnclave, bytes).error, ENOMEM) << "but not twice";
}

TEST_F(HostileHostTest, AnAliasIsOnePageManyTimes) {
  const HostReply reply = reserve(Lie::kAlias);
  ASSERT_EQ(reply.error, 0);
  auto* const bytes = reinterpret_cast<volatile char*>(reply.address);
  bytes[5] = 9;
  EXPECT_EQ(bytes[kPageBytes + 5], 9);
  EXPECT_EQ(host_->host_release(reply.address, 4 * kMiB), 0);
}

TEST_F(HostileHostTest, AShortAnswerHasNoSecondHalf) {
  const HostReply reply = reserve(Lie::kShort);
  ASSERT_EQ(reply.error, 0);
  *reinterpret_cast<volatile char*>(reply.address) = 1;
  EXPECT_DEATH(*reinterpret_cast<volatile char*>(reply.address + 2 * kMiB) = 1, "");
  EXPECT_EQ(host_->host_release(reply.address, 4 * kMiB), 0);
}

TEST_F(HostileHostTest, NoAccessIsNoAccess) {
  host_ = HostileHost::create({.no_access = true});
  const HostReply reply = host_->host_reserve(kMiB, kPageBytes);
  EXPECT_DEATH(*reinterpret_cast<volatile char*>(reply.address) = 1, "");
  EXPECT_EQ(host_->host_release(reply.address, kMiB), 0);
}

TEST_F(HostileHostTest, CallsForWhatWasNotHandedOutAreViolationsAndDoNothing) {
  const HostReply pool = host_->host_reserve(kMiB, kPageBytes);
  const HostReply mapping = map(4 * kPageBytes);
  const auto complaints = [&] { return host_->violations().size(); };
  EXPECT_EQ(host_->host_release(pool.address, kMiB / 2), EINVAL);
  EXPECT_EQ(complaints(), 1u);
  EXPECT_EQ(host_->host_release(pool.address + kPageBytes, kMiB), EINVAL);
  EXPECT_EQ(complaints(), 2u);
  EXPECT_EQ(host_->host_release(mapping.address, 4 * kPageBytes), EINVAL);
  EXPECT_EQ(complaints(), 3u);
  EXPECT_EQ(host_->host_unmap(pool.address, kPageBytes), EINVAL);
  EXPECT_EQ(complaints(), 4u);
  EXPECT_EQ(host_->host_unmap(mapping.address, 5 * kPageBytes), EINVAL);
  EXPECT_EQ(complaints(), 5u);
  EXPECT_EQ(host_->host_unmap(mapping.address + 1, kPageBytes), EINVAL);
  EXPECT_EQ(complaints(), 6u);
  EXPECT_EQ(host_->host_protect(pool.address, kPageBytes, PROT_NONE), EINVAL);
  EXPECT_EQ(complaints(), 7u);
  EXPECT_EQ(host_->host_protect(mapping.address, kPageBytes, PROT_EXEC), EINVAL);
  EXPECT_EQ(complaints(), 8u);
  EXPECT_EQ(map(kPageBytes, pool.address, MAP_FIXED).error, EINVAL);
  EXPECT_EQ(complaints(), 9u);
  EXPECT_EQ(map(kPageBytes, host_->enclave().base, MAP_FIXED).error, EINVAL);
  EXPECT_EQ(complaints(), 10u);
  EXPECT_EQ(map(100).error, EINVAL);
  EXPECT_EQ(complaints(), 11u);
  const HostReply lie = reserve(Lie::kUnderAligned);
  EXPECT_EQ(host_->host_release(lie.address, 4 * kMiB), EINVAL);
  EXPECT_EQ(complaints(), 12u);
  std::memset(reinterpret_cast<void*>(pool.address), 1, kMiB);
  std::memset(reinterpret_cast<void*>(mapping.address), 1, 4 * kPageBytes);
  EXPECT_THAT(host_->handed_out(), SizeIs(2));
}

TEST_F(HostileHostTest, MappingsMayGoPieceByPiece) {
  const HostReply mapping = map(8 * kPageBytes);
  EXPECT_EQ(host_->host_unmap(mapping.address + 2 * kPageBytes, kPageBytes), 0);
  EXPECT_THAT(host_->handed_out(), SizeIs(2));
  EXPECT_EQ(host_->host_protect(mapping.address + 3 * kPageBytes, 2 * kPageBytes, PROT_READ), 0);
  EXPECT_EQ(host_->host_unmap(mapping.address, 2 * kPageBytes), 0);
  EXPECT_EQ(map(kPageBytes, mapping.address, MAP_FIXED).address, mapping.address);
  EXPECT_EQ(host_->host_unmap(mapping.address, kPageBytes), 0);
  EXPECT_EQ(host_->host_unmap(mapping.address + 3 * kPageBytes, 5 * kPageBytes), 0);
  EXPECT_THAT(host_->handed_out(), IsEmpty());
  EXPECT_THAT(host_->violations(), IsEmpty());
}

TEST_F(HostileHostTest, FalseSuccessKeepsAndFalseFailureTakes) {
  HostReply pool = host_->host_reserve(kMiB, kPageBytes);
  host_->script(HostCall::kRelease, {Lie::kFalseSuccess});
  EXPECT_EQ(host_->host_release(pool.address, kMiB), 0);
  *reinterpret_cast<volatile char*>(pool.address) = 1;  // still there
  EXPECT_THAT(host_->handed_out(), IsEmpty());

  pool = host_->host_reserve(kMiB, kPageBytes);
  host_->script(HostCall::kRelease, {Lie::kRefuse, Lie::kBadErrno, Lie::kFalseFailure});
  EXPECT_EQ(host_->host_release(pool.address, kMiB), ENOMEM);
  EXPECT_NE(host_->host_release(pool.address, kMiB), 0);
  *reinterpret_cast<volatile char*>(pool.address) = 1;
  EXPECT_EQ(host_->host_release(pool.address, kMiB), EINVAL);
  EXPECT_DEATH(*reinterpret_cast<volatile char*>(pool.address) = 1, "");
  EXPECT_EQ(host_->host_release(pool.address, kMiB), 0) << "the library may try again";

  const HostReply mapping = map(4 * kPageBytes);
  host_->script(HostCall::kUnmap, {Lie::kFalseSuccess, Lie::kFalseFailure});
  EXPECT_EQ(host_->host_unmap(mapping.address, kPageBytes), 0);
  *reinterpret_cast<volatile char*>(mapping.address) = 1;
  EXPECT_EQ(host_->host_unmap(mapping.address + kPageBytes, kPageBytes), EINVAL);
  EXPECT_DEATH(*reinterpret_cast<volatile char*>(mapping.address + kPageBytes) = 1, "");
  host_->script(HostCall::kProtect, {Lie::kFalseSuccess, Lie::kFalseFailure, Lie::kBadErrno});
  EXPECT_EQ(host_->host_protect(mapping.address + 2 * kPageBytes, kPageBytes, PROT_NONE), 0);
  *reinterpret_cast<volatile char*>(mapping.address + 2 * kPageBytes) = 1;
  EXPECT_EQ(host_->host_protect(mapping.address + 2 * kPageBytes, kPageBytes, PROT_NONE), EACCES);
  EXPECT_DEATH(*reinterpret_cast<volatile char*>(mapping.address + 2 * kPageBytes) = 1, "");
  EXPECT_NE(host_->host_protect(mapping.address + 2 * kPageBytes, kPageBytes, PROT_NONE), 0);
  EXPECT_EQ(host_->host_unmap(mapping.address + kPageBytes, 3 * kPageBytes), 0);
  EXPECT_THAT(host_->handed_out(), IsEmpty());
  EXPECT_THAT(host_->violations(), IsEmpty());
}

constexpr int kMove = MREMAP_MAYMOVE | MREMAP_FIXED;

TEST_F(HostileHostTest, MappingsGrowMoveAndAreSeenTwice) {
  host_ = HostileHost::create();
  const int file = memfd_create("device", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(file, 16 * kPageBytes), 0);
  const auto map_file = [&](std::size_t bytes, std::uintptr_t hint, int flags) {
    const MapRequest request{hint, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | flags, file, 0};
    return host_->host_map(request).address;
  };
  const std::uintptr_t place = map(8 * kPageBytes).address;
  const std::uintptr_t from = map_file(4 * kPageBytes, 0, 0);
  EXPECT_EQ(host_->host_unmap(from + 2 * kPageBytes, 2 * kPageBytes), 0);
  *reinterpret_cast<volatile char*>(from) = 7;
  HostReply reply = host_->host_remap(from, 2 * kPageBytes, 3 * kPageBytes, 0, 0);
  EXPECT_EQ(reply.error, 0);
  EXPECT_EQ(reply.address, from);
  *reinterpret_cast<volatile char*>(from + 2 * kPageBytes) = 7;
  reply = host_->host_remap(from, 0, 2 * kPageBytes, kMove, place);
  EXPECT_EQ(reply.error, 0);
  EXPECT_EQ(reply.address, place);
  EXPECT_EQ(*reinterpret_cast<volatile char*>(place), 7);
  EXPECT_EQ(host_->host_remap(from, 3 * kPageBytes, 4 * kPageBytes, kMove, place).error, 0);
  EXPECT_DEATH(*reinterpret_cast<volatile char*>(from) = 1, "");
  EXPECT_EQ(host_->host_unmap(place, 8 * kPageBytes), 0);
  EXPECT_THAT(host_->handed_out(), IsEmpty());
  EXPECT_THAT(host_->violations(), IsEmpty());
  EXPECT_EQ(host_->lies(), 0u);
  close(file);
}

TEST_F(HostileHostTest, AdviceAndResidenceAreOfWhatIsThere) {
  const std::uintptr_t at = map(4 * kPageBytes).address;
  std::memset(reinterpret_cast<void*>(at), 1, 2 * kPageBytes);
  unsigned char bytes[4] = {9, 9, 9, 9};
  EXPECT_EQ(host_->host_resident(at, 4 * kPageBytes, bytes), 0);
  EXPECT_EQ(bytes[0] & 1, 1);
  EXPECT_EQ(bytes[3] & 1, 0);
  EXPECT_EQ(host_->host_advise(EXCLAVE_MADVISE, at, kPageBytes, MADV_DONTNEED), 0);
  EXPECT_EQ(*reinterpret_cast<volatile char*>(at), 0);
  for (const RangeCall call : {EXCLAVE_MSYNC, EXCLAVE_MLOCK, EXCLAVE_MUNLOCK}) {
    EXPECT_EQ(host_->host_advise(call, at, kPageBytes, call == EXCLAVE_MSYNC ? MS_SYNC : 0), 0);
  }
  EXPECT_THAT(host_->violations(), IsEmpty());
  host_->script(HostCall::kResident, {Lie::kFalseSuccess, Lie::kRefuse, Lie::kGarbage});
  std::fill(std::begin(bytes), std::end(bytes), 9);
  EXPECT_EQ(host_->host_resident(at, 4 * kPageBytes, bytes), 0);
  EXPECT_THAT(bytes, testing::Each(9)) << "not written";
  EXPECT_EQ(host_->host_resident(at, 4 * kPageBytes, bytes), ENOMEM);
  EXPECT_THAT(bytes, testing::Each(9));
  EXPECT_EQ(host_->host_resident(at, 4 * kPageBytes, bytes), 0);
  EXPECT_THAT(bytes, testing::Contains(testing::Gt(1)));
  host_->script(HostCall::kAdvise, {Lie::kFalseSuccess, Lie::kFalseFailure});
  std::memset(reinterpret_cast<void*>(at), 1, 2 * kPageBytes);
  EXPECT_EQ(host_->host_advise(EXCLAVE_MADVISE, at, kPageBytes, MADV_DONTNEED), 0);
  EXPECT_EQ(*reinterpret_cast<volatile char*>(at), 1);
  EXPECT_NE(host_->host_advise(EXCLAVE_MADVISE, at, kPageBytes, MADV_DONTNEED), 0);
  EXPECT_EQ(*reinterpret_cast<volatile char*>(at), 0);
}

TEST_F(HostileHostTest, MovesAndAdviceForWhatWasNotHandedOutAreViolationsAndDoNothing) {
  const std::uintptr_t pool = host_->host_reserve(kMiB, kPageBytes).address;
  const std::uintptr_t a = map(4 * kPageBytes).address;
  const std::uintptr_t b = map(4 * kPageBytes).address;
  std::size_t expected = 0;
  const auto refuses = [&](std::uintptr_t from, std::size_t old_pages, std::size_t new_pages,
                           int flags, std::uintptr_t to) {
    EXPECT_EQ(
        host_->host_remap(from, old_pages * kPageBytes, new_pages * kPageBytes, flags, to).error,
        EINVAL);
    EXPECT_EQ(host_->violations().size(), ++expected);
  };
  refuses(pool, 1, 2, 0, 0);
  refuses(pool, 0, 2, kMove, b);
  refuses(a, 5, 6, 0, 0);
  refuses(a + 1, 1, 2, 0, 0);
  refuses(a, 2, 1, 0, 0);
  refuses(a, 1, 1, 0, 0);
  refuses(a, 0, 1, 0, 0);
  refuses(a, 1, 1, MREMAP_MAYMOVE, 0);
  refuses(a, 1, 2, kMove | MREMAP_DONTUNMAP, b);
  refuses(a, 2, 2, kMove, pool);
  refuses(a, 2, 2, kMove, a + kPageBytes);
  refuses(a, 4, 5, kMove, b);
  constexpr std::uintptr_t kLow = 0x10000000;
  ASSERT_EQ(map(kPageBytes, kLow, MAP_FIXED_NOREPLACE).address, kLow);
  refuses(kLow, 1, (host_->enclave().end() - kLow) / kPageBytes, 0, 0);
  unsigned char bytes[8] = {};
  const auto complains = [&](int error) {
    EXPECT_EQ(error, EINVAL);
    EXPECT_EQ(host_->violations().size(), ++expected);
  };
  complains(host_->host_advise(EXCLAVE_MADVISE, pool, kPageBytes, MADV_DONTNEED));
  complains(host_->host_advise(EXCLAVE_MADVISE, a, kPageBytes, MADV_HWPOISON));
  complains(host_->host_advise(EXCLAVE_MSYNC, a, kPageBytes, 8));
  complains(host_->host_advise(EXCLAVE_MLOCK, a, kPageBytes, 2));
  complains(host_->host_advise(EXCLAVE_MUNLOCK, a, kPageBytes, 1));
  complains(host_->host_advise(EXCLAVE_MADVISE, a, 0, MADV_DONTNEED));
  complains(host_->host_resident(a, 5 * kPageBytes, bytes));
  complains(host_->host_resident(pool, kPageBytes, bytes));
  std::memset(reinterpret_cast<void*>(pool), 1, kMiB);
  std::memset(reinterpret_cast<void*>(a), 1, 4 * kPageBytes);
  EXPECT_THAT(host_->handed_out(), SizeIs(4));
}

TEST_F(HostileHostTest, LiesAboutMovesKeepBothHalvesOfTheStory) {
  const std::uintptr_t place = map(8 * kPageBytes).address;
  const auto source = [&] {
    const std::uintptr_t at = map(4 * kPageBytes).address;
    EXPECT_EQ(host_->host_unmap(at + 2 * kPageBytes, 2 * kPageBytes), 0);
    return at;
  };
  const auto move = [&](Lie lie, std::uintptr_t from, int flags) {
    host_->script(HostCall::kRemap, {lie});
    return host_->host_remap(from, 2 * kPageBytes, 3 * kPageBytes, flags, flags == 0 ? 0 : place);
  };
  // Said, not done.
  std::uintptr_t at = source();
  EXPECT_EQ(move(Lie::kFalseSuccess, at, 0).address, at);
  EXPECT_EQ(host_->host_unmap(at, 3 * kPageBytes), 0) << "the library believes in its tail";
  at = source();
  EXPECT_EQ(move(Lie::kFalseSuccess, at, kMove).address, place);
  *reinterpret_cast<volatile char*>(at) = 1;  // still there
  EXPECT_THAT(host_->handed_out(), SizeIs(1)) << "only the place, as far as the library knows";
  // Done, not said.
  at = source();
  EXPECT_NE(move(Lie::kFalseFailure, at, 0).error, 0);
  *reinterpret_cast<volatile char*>(at + 2 * kPageBytes) = 1;
  EXPECT_EQ(host_->host_unmap(at, 2 * kPageBytes), 0);
  at = source();
  EXPECT_NE(move(Lie::kFalseFailure, at, kMove).error, 0);
  EXPECT_DEATH(*reinterpret_cast<volatile char*>(at) = 1, "");
  EXPECT_EQ(move(Lie::kNone, at, 0).error, EFAULT) << "there is nothing to grow";
  EXPECT_EQ(host_->host_unmap(at, 2 * kPageBytes), 0) << "the library was told that it has it";
  // Neither done nor said: every other lie.
  at = source();
  const std::uintptr_t other = map(4 * kPageBytes).address;
  host_->set_overlap_target({other, 4 * kPageBytes});
  for (int i = 1; i <= static_cast<int>(kLastLie); ++i) {
    const Lie lie = static_cast<Lie>(i);
    // The last answer once more may be the right one.
    if (!fits(lie, HostCall::kRemap) || lie == Lie::kLate || lie == Lie::kSameTwice ||
        lie == Lie::kFalseSuccess || lie == Lie::kFalseFailure)
      continue;
    for (const int flags : {0, kMove}) {
      const HostReply reply = move(lie, at, flags);
      const bool done = reply.error == 0 && reply.address == (flags == 0 ? at : place);
      EXPECT_EQ(done, false) << name_of(lie);
      EXPECT_THAT(host_->handed_out(), SizeIs(3)) << name_of(lie);
    }
  }
  EXPECT_EQ(host_->host_unmap(other, 4 * kPageBytes), 0);
  EXPECT_EQ(host_->host_unmap(at, 2 * kPageBytes), 0);
  EXPECT_EQ(host_->host_unmap(place, 8 * kPageBytes), 0);
  EXPECT_THAT(host_->handed_out(), IsEmpty());
  EXPECT_THAT(host_->violations(), IsEmpty());
}

TEST_F(HostileHostTest, AFixedMappingMayLandElsewhere) {
  const HostReply place = map(kPageBytes);
  host_->script(HostCall::kMap, {Lie::kOtherAddress, Lie::kOtherAddress});
  EXPECT_NE(map(kPageBytes, place.address, MAP_FIXED).address, place.address);
  EXPECT_EQ(map(kPageBytes).error, 0) << "without a fixed address it is no lie";
  EXPECT_EQ(host_->lies(), 1u);
}

TEST_F(HostileHostTest, FailsTheNthCallOfAKind) {
  host_->fail_nth(HostCall::kReserve, 3);
  for (int n = 1; n <= 5; ++n) {
    EXPECT_EQ(host_->host_reserve(kMiB, kPageBytes).error, n == 3 ? ENOMEM : 0) << n;
    EXPECT_EQ(map(kPageBytes).error, 0);
  }
  host_->fail_trusted_nth(2);
  EXPECT_NE(host_->trusted_reserve(kPageBytes), nullptr);
  EXPECT_EQ(host_->trusted_reserve(kPageBytes), nullptr);
  EXPECT_NE(host_->trusted_reserve(kPageBytes), nullptr);
  EXPECT_EQ(host_->trusted_bytes(), 2 * kPageBytes);
  host_->fail_trusted_nth(1, true);
  EXPECT_EQ(host_->trusted_reserve(kPageBytes), nullptr);
  EXPECT_EQ(host_->trusted_reserve(kPageBytes), nullptr);
  host_->fail_entropy(true);
  int word = 0;
  EXPECT_FALSE(host_->entropy(&word, sizeof word));
}

TEST_F(HostileHostTest, CallsBackWithNoLockHeld) {
  int depth = 0;
  host_->during_calls([&](HostCall call) {
    if (++depth == 1) {
      EXPECT_EQ(call, HostCall::kReserve);
      EXPECT_EQ(host_->host_reserve(kMiB, kPageBytes).error, 0);
    }
  });
  EXPECT_EQ(host_->host_reserve(kMiB, kPageBytes).error, 0);
  EXPECT_EQ(depth, 2);
}

TEST_F(HostileHostTest, HoldsCallsUntilItLetsGo) {
  host_->hold(HostCall::kReserve);
  std::atomic<bool> done{false};
  std::thread stuck([&] {
    EXPECT_EQ(host_->host_reserve(kMiB, kPageBytes).error, 0);
    done = true;
  });
  ASSERT_TRUE(host_->wait_until_held(1));
  EXPECT_EQ(map(kPageBytes).error, 0) << "other kinds go on";
  EXPECT_EQ(host_->host_reserve(kMiB, kPageBytes).error, 0) << "so do others of the kind";
  EXPECT_FALSE(done);
  host_->let_go();
  stuck.join();
  EXPECT_TRUE(done);
}

TEST_F(HostileHostTest, TellsOfMemory) {
  std::vector<std::pair<Extent, bool>> told;
  host_->on_memory([&](Extent extent, bool added) { told.emplace_back(extent, added); });
  const HostReply reply = host_->host_reserve(kMiB, kPageBytes);
  reserve(Lie::kInside);
  host_->host_release(reply.address, kMiB);
  const Extent extent{reply.address, kMiB};
  EXPECT_THAT(told, testing::ElementsAre(std::pair(extent, true), std::pair(extent, false)));
}

TEST(HostileHostRandom, TheSameSeedTellsTheSameLies) {
  const auto run = [](std::uint64_t seed) {
    const auto host = HostileHost::create({.seed = seed});
    host->lie_at_random(50);
    std::vector<Lie> lies;
    for (int i = 0; i < 300; ++i) {
      const HostReply reply = host->host_reserve(kMiB, kPageBytes);
      if (i % 3 == 0) host->host_release(reply.address, kMiB);
    }
    for (const auto& event : host->events()) lies.push_back(event.lie);
    return lies;
  };
  const auto first = run(1);
  EXPECT_EQ(first, run(1));
  EXPECT_NE(first, run(2));
  const auto share =
      std::count_if(first.begin(), first.end(), [](Lie lie) { return lie != Lie::kNone; });
  EXPECT_NEAR(static_cast<double>(share) / static_cast<double>(first.size()), 0.5, 0.1);
}

std::size_t address_space_pages() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages;
}

TEST(HostileHostRandom, LeavesNoMemoryBehind) {
  const auto run = [] {
    const auto host = HostileHost::create();
    host->lie_at_random(40);
    std::vector<HostReply> held;
    for (int i = 0; i < 500; ++i) {
      const HostReply reply = host->host_reserve(kMiB, 2 * kMiB);
      if (reply.error == 0) held.push_back(reply);
      if (i % 2 == 0 && !held.empty()) {
        host->host_release(held.back().address, kMiB);
        held.pop_back();
      }
      const MapRequest request{0, kMiB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0};
      const HostReply mapped = host->host_map(request);
      host->host_unmap(mapped.address, kMiB / 2);
    }
  };
  run();
  const std::size_t before = address_space_pages();
  run();
  EXPECT_LT(address_space_pages(), before + 16 * kMiB / kPageBytes);
}

}  // namespace
}  // namespace exclave::sim
