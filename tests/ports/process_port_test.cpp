#include "exclave/process_port.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "port_holder.hpp"
#include "support/kernel_answers.hpp"
#include "support/sanitizers.hpp"

namespace exclave {
namespace {

using testing_support::in_a_child;
using testing_support::KernelCall;
using testing_support::kSanitized;
using testing_support::use_up_memory;
using testing_support::with_kernel_answers;

static_assert(Port<ProcessPort>);

// How much address space this process has taken.
std::size_t mapped_bytes() {
  std::size_t pages = 0;
  FILE* const statm = fopen("/proc/self/statm", "r");
  EXPECT_EQ(fscanf(statm, "%zu", &pages), 1);
  fclose(statm);
  return pages * kPageBytes;
}

bool all_zero(const void* memory, std::size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(memory);
  return std::all_of(p, p + bytes, [](unsigned char byte) { return byte == 0; });
}

TEST(ProcessPort, RefusesSizesOutOfShape) {
  for (const std::size_t bad :
       {std::size_t{0}, std::size_t{4097}, (std::size_t{32} << 30) + kPageBytes}) {
    ProcessPort::Options options;
    options.book_bytes = bad;
    EXPECT_EQ(ProcessPort::create(options).error(), Error::kInvalidArgument) << bad;
  }
  for (const std::size_t bad : {std::size_t{0}, std::size_t{4097}, SIZE_MAX & ~(kPageBytes - 1)}) {
    ProcessPort::Options options;
    options.enclave_bytes = bad;
    EXPECT_EQ(ProcessPort::create(options).error(), Error::kInvalidArgument) << bad;
  }
  ProcessPort::destroy(nullptr);
}

TEST(ProcessPort, TakesTheLargestSizesThereAre) {
  ProcessPort::Options options;
  options.book_bytes = std::size_t{32} << 30;
  options.enclave_bytes = kPageBytes;
  EXPECT_NE(make_port(options), nullptr);
  options.book_bytes = kPageBytes;
  options.enclave_bytes = std::size_t{1} << 46;  // halved, where so much cannot be had
  EXPECT_NE(make_port(options), nullptr);
}

TEST(ProcessPort, TheWindowHoldsBooksAndHeap) {
  const auto port = make_port();
  const Extent enclave = port->enclave();
  const Extent books = port->book_window();
  const Extent heap = port->enclave_heap();
  EXPECT_EQ(books.size, std::size_t{16} << 30);
  EXPECT_EQ(heap.size, std::size_t{16} << 30);
  EXPECT_TRUE(enclave.covers(books));
  EXPECT_TRUE(enclave.covers(heap));
  EXPECT_FALSE(books.overlaps(heap));
  EXPECT_EQ(enclave.base % kPageBytes, 0u);
  EXPECT_EQ(enclave.size, books.size + heap.size);
}

TEST(ProcessPort, TakesAFreePlaceThatItIsPointedTo) {
  const std::size_t bytes = 64 * kPageBytes;
  ProcessPort::Options options;
  options.book_bytes = bytes;
  options.enclave_bytes = bytes;
  void* const place = mmap(nullptr, 2 * bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(place, MAP_FAILED);
  options.base_hint = reinterpret_cast<std::uintptr_t>(place);
  EXPECT_NE(make_port(options)->enclave().base, options.base_hint) << "it is not free";
  munmap(place, 2 * bytes);
  EXPECT_EQ(make_port(options)->enclave().base, options.base_hint);
}

TEST(ProcessPort, TheTableReachesThePort) {
  const auto port = make_port();
  const PortTable table = port->table();
  EXPECT_EQ(table.enclave(table.context).base, port->enclave().base);
  EXPECT_EQ(table.book_window(table.context).size, port->book_window().size);
  void* const memory = table.trusted_reserve(table.context, kPageBytes);
  ASSERT_NE(memory, nullptr);
  table.trusted_release(table.context, memory, kPageBytes);
  std::uint64_t word = 0;
  EXPECT_EQ(table.entropy(table.context, &word, sizeof word), 0);
  const HostReply reply = table.host_reserve(table.context, kPageBytes, kPageBytes);
  EXPECT_EQ(reply.error, 0);
  EXPECT_EQ(table.host_protect(table.context, reply.address, kPageBytes, PROT_READ), 0);
  EXPECT_EQ(table.host_release(table.context, reply.address, kPageBytes), 0);
  const MapRequest request{0, kPageBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0};
  const HostReply mapped = table.host_map(table.context, &request);
  EXPECT_EQ(mapped.error, 0);
  EXPECT_EQ(table.host_unmap(table.context, mapped.address, kPageBytes), 0);
}

TEST(ProcessPort, LivesWithLittleAddressSpace) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself needs terabytes of address space";
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit limit{std::size_t{2} << 30, std::size_t{2} << 30};
    if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(2);
    const auto made = ProcessPort::create();
    if (!made.ok()) _exit(3);
    void* const memory = made.value()->trusted_reserve(kPageBytes);
    if (memory == nullptr) _exit(4);
    std::memset(memory, 1, kPageBytes);
    ProcessPort::destroy(made.value());
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// What the body answers in a child with so much address space beyond what it has.
int in_a_child_with(std::size_t more_bytes, int (*body)()) {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit{mapped_bytes() + more_bytes, mapped_bytes() + more_bytes};
    _exit(setrlimit(RLIMIT_AS, &limit) == 0 ? body() : 100);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << status;
  return WEXITSTATUS(status);
}

TEST(ProcessPort, EachPartShrinksUntilBothFit) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself needs terabytes of address space";
  EXPECT_EQ(in_a_child_with(kMiB * 256,
                            [] {
                              ProcessPort::Options options;
                              options.book_bytes = 64 * kMiB;
                              return ProcessPort::create(options).ok() ? 0 : 1;
                            }),
            0);
  EXPECT_EQ(in_a_child_with(kMiB * 256,
                            [] {
                              ProcessPort::Options options;
                              options.enclave_bytes = 64 * kMiB;
                              return ProcessPort::create(options).ok() ? 0 : 1;
                            }),
            0);
  EXPECT_EQ(
      in_a_child_with(
          0, [] { return ProcessPort::create().error() == Error::kOutOfTrustedMemory ? 0 : 1; }),
      0)
      << "not even the least";
}

// What of this process counts against a limit to data.
std::size_t data_bytes() {
  std::size_t pages = 0;
  FILE* const statm = fopen("/proc/self/statm", "r");
  EXPECT_EQ(fscanf(statm, "%*u %*u %*u %*u %*u %zu", &pages), 1);
  fclose(statm);
  return pages * kPageBytes;
}

// Takes books until there are none; how many bytes, each page of them written.
std::size_t take_all_books(ProcessPort& port) {
  constexpr std::size_t kStep = 64 << 10;
  std::size_t taken = 0;
  while (void* const memory = port.trusted_reserve(kStep)) {
    for (std::size_t at = 0; at < kStep; at += kPageBytes) static_cast<char*>(memory)[at] = 1;
    taken += kStep;
  }
  return taken;
}

TEST(ProcessPort, WhatNobodyTookIsNoData) {
  const std::size_t before = data_bytes();
  const auto port = make_port();
  EXPECT_LT(data_bytes() - before, 2 * kMiB);
  for (int i = 0; i < 64; ++i) std::memset(port->trusted_reserve(kPageBytes), 1, kPageBytes);
  EXPECT_LT(data_bytes() - before, 4 * kMiB);
}

TEST(ProcessPort, ALimitToDataIsTrustedMemoryThatIsUsedUp) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself takes memory";
  EXPECT_EQ(in_a_child([] {
              const auto port = make_port();
              const rlimit none{data_bytes() + 8 * kMiB, RLIM_INFINITY};
              if (setrlimit(RLIMIT_DATA, &none) != 0) return 1;
              errno = EBUSY;
              const std::size_t taken = take_all_books(*port);
              if (errno != EBUSY) return 2;
              if (taken < 7 * kMiB || taken > 9 * kMiB) return 3;
              const rlimit more{data_bytes() + 16 * kMiB, RLIM_INFINITY};
              if (setrlimit(RLIMIT_DATA, &more) != 0) return 4;
              return take_all_books(*port) >= 15 * kMiB ? 0 : 5;
            }),
            0);
}

TEST(ProcessPort, OfALimitedAddressSpaceItTakesAShareAndTheBooksAsTheyGrow) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself needs terabytes of address space";
  EXPECT_EQ(in_a_child_with(512 * kMiB,
                            [] {
                              rlimit limit{};
                              (void)getrlimit(RLIMIT_AS, &limit);
                              const std::size_t before = mapped_bytes();
                              const auto port = make_port();
                              if (mapped_bytes() - before > limit.rlim_cur / 8 + kMiB) return 1;
                              if (port->book_window().size != std::size_t{16} << 30) return 2;
                              const std::size_t left = limit.rlim_cur - mapped_bytes();
                              const std::size_t taken = take_all_books(*port);
                              return taken + 2 * kMiB > left ? 0 : 3;
                            }),
            0);
}

ProcessPort::Options by_pieces() {
  ProcessPort::Options options;
  options.enclave_bytes = kPageBytes;
  options.reserve_books = false;
  return options;
}

TEST(ProcessPort, BooksThatAreNotReservedTakeAddressSpaceAsTheyGrow) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself maps memory";
  const std::size_t before = mapped_bytes();
  {
    const auto port = make_port(by_pieces());
    EXPECT_EQ(port->book_window().size, std::size_t{16} << 30);
    EXPECT_LT(mapped_bytes() - before, kMiB);
    void* const memory = port->trusted_reserve(5 * kMiB);
    ASSERT_NE(memory, nullptr);
    EXPECT_TRUE(all_zero(memory, 5 * kMiB));
    std::memset(memory, 1, 5 * kMiB);
    EXPECT_LT(mapped_bytes() - before, 8 * kMiB);
    // Each has a place of its own.
    const auto other = make_port(by_pieces());
    EXPECT_FALSE(other->enclave().overlaps(port->enclave()));
  }
  EXPECT_EQ(mapped_bytes(), before) << "all of it goes with the port";
}

TEST(ProcessPort, BooksDoNotGrowOverWhatSomebodyElseMapsInTheirPlace) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer maps memory where it likes";
  const auto port = make_port(by_pieces());
  const std::uintptr_t place = port->book_window().base + 3 * kMiB;
  void* const foreign = mmap(bytes_at(place), kPageBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  ASSERT_EQ(foreign, bytes_at(place));
  *bytes_at(place) = 77;
  EXPECT_EQ(take_all_books(*port), 3 * kMiB);
  EXPECT_EQ(*bytes_at(place), 77);
  munmap(foreign, kPageBytes);
  EXPECT_NE(port->trusted_reserve(kPageBytes), nullptr);
}

TEST(ProcessPort, TheBooksAskTheKernelSeldom) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer stands before the kernel";
  static int calls = 0;
  const auto answer = [](const KernelCall& call) -> long {
    ++calls;
    return call.ask();
  };
  EXPECT_EQ(with_kernel_answers(SYS_mprotect, answer,
                                [] {
                                  const auto port = make_port();
                                  calls = 0;
                                  // A quarter of a gibibyte: 8 calls to the first 8 MiB, then an
                                  // eighth more with each.
                                  for (int i = 0; i < 4096; ++i)
                                    if (port->trusted_reserve(64 << 10) == nullptr) return 1;
                                  return calls <= 40 ? 0 : 2;
                                }),
            0);
}

TEST(ProcessPort, WithoutPagesForItselfItIsNotMade) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself needs terabytes of address space";
  EXPECT_EQ(in_a_child_with(64 * kMiB,
                            [] {
                              // Just as much as the window takes.
                              ProcessPort::Options options;
                              options.book_bytes = options.enclave_bytes = 32 * kMiB;
                              options.base_hint = std::uintptr_t{0x123} << 32;
                              const std::size_t before = mapped_bytes();
                              const Error error = ProcessPort::create(options).error();
                              if (mapped_bytes() != before) return 1;
                              return error == Error::kOutOfTrustedMemory ? 0 : 2;
                            }),
            0);
}

TEST(ProcessPort, StandardInputMayBeClosed) {
  EXPECT_EQ(in_a_child_with(std::size_t{1} << 45,
                            [] {
                              close(0);
                              const auto made = ProcessPort::create({.shared = true});
                              if (!made.ok()) return 1;
                              const HostReply reply = (*made)->host_reserve(kPageBytes, kPageBytes);
                              const auto backing = (*made)->shared_backing(reply.address);
                              if (!backing.ok() || backing->descriptor != 0) return 2;
                              ProcessPort::destroy(*made);
                              return fcntl(0, F_GETFD) == -1 ? 0 : 3;
                            }),
            0);
}

TEST(ProcessPortTrusted, AHoleThatIsJustLargeEnoughServes) {
  ProcessPort::Options options;
  options.book_bytes = 4 * kPageBytes;
  const auto port = make_port(options);
  void* const hole = port->trusted_reserve(kPageBytes);
  ASSERT_NE(port->trusted_reserve(3 * kPageBytes), nullptr);
  port->trusted_release(hole, kPageBytes);
  EXPECT_EQ(port->trusted_reserve(kPageBytes), hole);
}

TEST(ProcessPortTrusted, HolesThatTheListDoesNotHoldAreLostAndNothingElse) {
  constexpr std::size_t kHeld = 512;
  constexpr std::size_t kHoles = kHeld + 8;
  ProcessPort::Options options;
  options.book_bytes = 2 * kHoles * kPageBytes;
  const auto port = make_port(options);
  std::vector<void*> pages;
  for (std::size_t i = 0; i < 2 * kHoles; ++i) pages.push_back(port->trusted_reserve(kPageBytes));
  for (std::size_t i = 0; i < 2 * kHoles; i += 2) port->trusted_release(pages[i], kPageBytes);
  std::vector<void*> again;
  while (void* const page = port->trusted_reserve(kPageBytes)) {
    again.push_back(page);
    ASSERT_LE(again.size(), kHeld);
  }
  EXPECT_EQ(again.size(), kHeld);
  std::sort(again.begin(), again.end());
  for (std::size_t i = 0; i < again.size(); ++i) EXPECT_EQ(again[i], pages[2 * i]);
}

TEST(ProcessPortTrusted, IsZeroDisjointAndInsideTheWindowAlsoWhenReused) {
  ProcessPort::Options options;
  options.book_bytes = std::size_t{64} << 20;
  const auto port = make_port(options);
  std::mt19937_64 random(1);
  std::map<std::uintptr_t, std::size_t> held;
  std::size_t held_bytes = 0;
  for (int step = 0; step < 5000; ++step) {
    if (held_bytes < (std::size_t{32} << 20) && random() % 2 == 0) {
      const std::size_t bytes = (1 + random() % 64) * kPageBytes;
      void* const memory = port->trusted_reserve(bytes);
      ASSERT_NE(memory, nullptr) << "step " << step;
      const auto base = reinterpret_cast<std::uintptr_t>(memory);
      ASSERT_EQ(base % kPageBytes, 0u);
      ASSERT_TRUE(port->book_window().covers({base, bytes}));
      const auto next = held.lower_bound(base);
      ASSERT_TRUE(next == held.end() || next->first >= base + bytes);
      ASSERT_TRUE(next == held.begin() || std::prev(next)->first + std::prev(next)->second <= base);
      ASSERT_TRUE(all_zero(memory, bytes));
      std::memset(memory, 0xa5, bytes);
      held.emplace(base, bytes);
      held_bytes += bytes;
    } else if (!held.empty()) {
      auto victim = held.lower_bound(held.begin()->first + random() % (std::size_t{64} << 20));
      if (victim == held.end()) victim = held.begin();
      port->trusted_release(reinterpret_cast<void*>(victim->first), victim->second);
      held_bytes -= victim->second;
      held.erase(victim);
    }
  }
  // All back: the whole window is one piece again.
  for (const auto& [base, bytes] : held)
    port->trusted_release(reinterpret_cast<void*>(base), bytes);
  EXPECT_NE(port->trusted_reserve(options.book_bytes), nullptr);
}

TEST(ProcessPortTrusted, RunsOutWithNull) {
  ProcessPort::Options options;
  options.book_bytes = 4 * kPageBytes;
  const auto port = make_port(options);
  EXPECT_EQ(port->trusted_reserve(5 * kPageBytes), nullptr);
  EXPECT_EQ(port->trusted_reserve(0), nullptr);
  EXPECT_EQ(port->trusted_reserve(100), nullptr);
  EXPECT_EQ(port->trusted_reserve(SIZE_MAX & ~(kPageBytes - 1)), nullptr);
  void* const all = port->trusted_reserve(4 * kPageBytes);
  EXPECT_NE(all, nullptr);
  EXPECT_EQ(port->trusted_reserve(kPageBytes), nullptr);
  port->trusted_release(all, 4 * kPageBytes);
  EXPECT_NE(port->trusted_reserve(kPageBytes), nullptr);
}

TEST(ProcessPortTrusted, ManyThreadsGetDisjointMemory) {
  const auto port = make_port();
  std::vector<std::thread> threads;
  for (unsigned char mark = 1; mark <= 4; ++mark) {
    threads.emplace_back([&port, mark] {
      for (int i = 0; i < 500; ++i) {
        auto* const memory = static_cast<unsigned char*>(port->trusted_reserve(2 * kPageBytes));
        ASSERT_NE(memory, nullptr);
        ASSERT_TRUE(all_zero(memory, 2 * kPageBytes));
        std::memset(memory, mark, 2 * kPageBytes);
        std::this_thread::yield();
        ASSERT_TRUE(std::all_of(memory, memory + 2 * kPageBytes,
                                [mark](unsigned char b) { return b == mark; }));
        port->trusted_release(memory, 2 * kPageBytes);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST(ProcessPortEntropy, FillsEveryByte) {
  const auto port = make_port();
  std::array<unsigned char, 300> bytes{};
  std::array<bool, 300> seen{};
  for (int round = 0; round < 20; ++round) {
    bytes.fill(0);
    ASSERT_TRUE(port->entropy(bytes.data(), bytes.size()));
    for (std::size_t i = 0; i < bytes.size(); ++i) seen[i] = seen[i] || bytes[i] != 0;
  }
  EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](bool s) { return s; }));
}

TEST(ProcessPortEntropy, WhatTheKernelRefusesIsTold) {
  const auto port = make_port();
  EXPECT_FALSE(port->entropy(reinterpret_cast<void*>(8), 8));
}

TEST(ProcessPortEntropy, ACallThatASignalCutsShortGoesOn) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer stands before the kernel";
  static int calls = 0;
  const auto answer = [](const KernelCall& call) -> long {
    ++calls;
    if (calls % 2 != 0) return -EINTR;
    KernelCall few = call;
    few.arguments[1] = std::min(call.arguments[1], 5ul);
    return few.ask();
  };
  EXPECT_EQ(with_kernel_answers(SYS_getrandom, answer,
                                [] {
                                  const auto port = make_port();
                                  std::array<unsigned char, 16> bytes{};
                                  calls = 0;
                                  if (!port->entropy(bytes.data(), bytes.size())) return 1;
                                  return calls == 8 ? 0 : 2;  // 5 + 5 + 5 + 1
                                }),
            0);
}

TEST(ProcessPort, TellsWhetherTheProcessorHasWideRegisters) {
  EXPECT_EQ(make_port()->has_avx(), __builtin_cpu_supports("avx") != 0);
}

class ProcessPortHost : public testing::TestWithParam<bool> {
 protected:
  PortHolder port_ = make_port({.shared = GetParam()});
};
INSTANTIATE_TEST_SUITE_P(Backing, ProcessPortHost, testing::Bool(),
                         [](const auto& param) { return param.param ? "Shared" : "Private"; });

TEST_P(ProcessPortHost, ReserveIsAlignedZeroWritableAndOutside) {
  for (const std::size_t bytes :
       {std::size_t{4096}, std::size_t{12288}, std::size_t{2} << 20, std::size_t{5} << 20}) {
    for (const std::size_t alignment :
         {std::size_t{4096}, std::size_t{65536}, std::size_t{2} << 20, std::size_t{1} << 30}) {
      errno = EBUSY;  // of an earlier call
      const HostReply reply = port_->host_reserve(bytes, alignment);
      ASSERT_EQ(reply.error, 0);
      EXPECT_EQ(reply.address % alignment, 0u);
      EXPECT_FALSE(port_->enclave().overlaps({reply.address, bytes}));
      EXPECT_TRUE(all_zero(bytes_at(reply.address), bytes));
      std::memset(bytes_at(reply.address), 0x5a, bytes);
      EXPECT_EQ(port_->host_release(reply.address, bytes), 0);
    }
  }
}

TEST_P(ProcessPortHost, ReserveThatCannotBeIsRefused) {
  EXPECT_EQ(port_->host_reserve(0, kPageBytes).error, EINVAL);
  EXPECT_EQ(port_->host_reserve(kPageBytes, 0).error, EINVAL);
  EXPECT_EQ(port_->host_reserve(kPageBytes, 3 * kPageBytes).error, EINVAL);
  EXPECT_EQ(port_->host_reserve(100, kPageBytes).error, EINVAL);
  EXPECT_EQ(port_->host_reserve(std::size_t{1} << 60, kPageBytes).error, ENOMEM);
  const std::size_t before = mapped_bytes();
  EXPECT_EQ(port_->host_reserve(SIZE_MAX & ~(kPageBytes - 1), std::size_t{1} << 30).error, ENOMEM);
  EXPECT_EQ(port_->host_reserve(0 - (2 * kMiB - kPageBytes), 2 * kMiB).error, ENOMEM)
      << "with what is spare it comes to nothing";
  EXPECT_EQ(port_->host_reserve(std::size_t{120} << 40, kPageBytes).error, ENOMEM);
  if (!kSanitized) EXPECT_EQ(mapped_bytes(), before) << "and costs nothing";
}

TEST_P(ProcessPortHost, TrimmedTailsAreNotLeaked) {
  // What over-mapping left would eat the address space in a thousand rounds of 64 GiB.
  for (int i = 0; i < 10000; ++i) {
    const HostReply reply = port_->host_reserve(kPageBytes, std::size_t{1} << 36);
    ASSERT_EQ(reply.error, 0) << i;
    ASSERT_EQ(port_->host_release(reply.address, kPageBytes), 0);
  }
}

TEST_P(ProcessPortHost, MapUnmapProtectArePassedOn) {
  const MapRequest request{
      0, 3 * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0};
  const HostReply mapped = port_->host_map(request);
  ASSERT_EQ(mapped.error, 0);
  *bytes_at(mapped.address) = 1;
  EXPECT_EQ(port_->host_protect(mapped.address, kPageBytes, PROT_READ), 0);
  EXPECT_EQ(port_->host_unmap(mapped.address + kPageBytes, kPageBytes), 0);
  EXPECT_EQ(port_->host_protect(mapped.address, 3 * kPageBytes, PROT_READ), ENOMEM);
  MapRequest again = request;
  again.hint = mapped.address;
  again.flags |= MAP_FIXED_NOREPLACE;
  EXPECT_EQ(port_->host_map(again).error, EEXIST);
  EXPECT_EQ(port_->host_unmap(mapped.address, 3 * kPageBytes), 0);
  EXPECT_EQ(port_->host_unmap(mapped.address + 1, kPageBytes), EINVAL);
  MapRequest bad = request;
  bad.flags = MAP_SHARED;
  EXPECT_EQ(port_->host_map(bad).error, EBADF);
}

TEST_P(ProcessPortHost, RemapAdviceAndResidenceArePassedOn) {
  const MapRequest request{
      0, 2 * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0};
  const std::uintptr_t at = port_->host_map(request).address;
  unsigned char resident[2] = {2, 2};
  errno = EBUSY;  // of an earlier call
  EXPECT_EQ(port_->host_advise(EXCLAVE_MADVISE, at, 2 * kPageBytes, MADV_RANDOM), 0);
  EXPECT_EQ(port_->host_advise(EXCLAVE_MADVISE, at + 1, kPageBytes, MADV_RANDOM), EINVAL);
  EXPECT_EQ(port_->host_resident(at, 2 * kPageBytes, resident), 0);
  EXPECT_EQ(resident[1], 0);
  EXPECT_EQ(port_->host_resident(at + 1, kPageBytes, resident), EINVAL);
  const HostReply moved = port_->host_remap(at, 2 * kPageBytes, 3 * kPageBytes, MREMAP_MAYMOVE, 0);
  ASSERT_EQ(moved.error, 0);
  *bytes_at(moved.address + 2 * kPageBytes) = 1;
  EXPECT_EQ(port_->host_unmap(moved.address, 3 * kPageBytes), 0);
  EXPECT_EQ(port_->host_remap(at + 1, kPageBytes, kPageBytes, 0, 0).error, EINVAL);
}

TEST(ProcessPortShared, BackingLeadsToTheSameBytes) {
  const auto port = make_port({.shared = true});
  std::mt19937_64 random(7);
  std::map<std::uintptr_t, std::size_t> held;
  for (int step = 0; step < 2000; ++step) {
    if (held.size() < 20 && random() % 2 == 0) {
      const std::size_t bytes = (1 + random() % 40) * kPageBytes;
      const HostReply reply = port->host_reserve(bytes, kPageBytes << random() % 6);
      ASSERT_EQ(reply.error, 0);
      ASSERT_TRUE(all_zero(bytes_at(reply.address), bytes)) << "old bytes of the file came back";
      const std::size_t inner = random() % bytes / kPageBytes * kPageBytes;
      const auto backing = port->shared_backing(reply.address + inner);
      ASSERT_TRUE(backing.ok());
      EXPECT_EQ(backing->bytes, bytes - inner);
      auto* const alias = static_cast<unsigned char*>(
          mmap(nullptr, backing->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, backing->descriptor,
               static_cast<off_t>(backing->offset)));
      ASSERT_NE(alias, MAP_FAILED);
      std::memset(alias, static_cast<int>(step | 1), backing->bytes);
      EXPECT_EQ(std::memcmp(alias, bytes_at(reply.address + inner), backing->bytes), 0);
      munmap(alias, backing->bytes);
      std::memset(bytes_at(reply.address), 0xff, bytes);
      held.emplace(reply.address, bytes);
    } else if (!held.empty()) {
      auto victim = held.begin();
      std::advance(victim, random() % held.size());
      EXPECT_EQ(port->host_release(victim->first, victim->second + kPageBytes), EINVAL)
          << "not the whole range";
      ASSERT_EQ(port->host_release(victim->first, victim->second), 0);
      EXPECT_EQ(port->shared_backing(victim->first).error(), Error::kNotFound);
      EXPECT_EQ(port->host_release(victim->first, victim->second), EINVAL) << "twice";
      held.erase(victim);
    }
  }
}

// The file has 4 TiB of offsets; what came back is joined, cut and given out again.
class SharedOffsets : public testing::Test {
 protected:
  static constexpr std::size_t kTiB = std::size_t{1} << 40;

  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "the sanitizer itself needs terabytes of address space";
  }
  std::uintptr_t reserve(std::size_t bytes, std::size_t alignment = kPageBytes) {
    const HostReply reply = port_->host_reserve(bytes, alignment);
    EXPECT_EQ(reply.error, 0);
    return reply.address;
  }
  std::uint64_t offset(std::uintptr_t address) {
    const auto backing = port_->shared_backing(address);
    EXPECT_TRUE(backing.ok());
    return backing->offset;
  }
  void release(std::uintptr_t address, std::size_t bytes) {
    EXPECT_EQ(port_->host_release(address, bytes), 0);
  }

  PortHolder port_ = make_port({.huge_pages = false, .shared = true});
};

TEST_F(SharedOffsets, AllOfThemAreUsedAndThenNoMore) {
  EXPECT_EQ(port_->host_reserve(4 * kTiB + kPageBytes, kPageBytes).error, ENOMEM);
  const std::uintptr_t all = reserve(4 * kTiB);
  EXPECT_EQ(port_->host_reserve(kPageBytes, kPageBytes).error, ENOMEM);
  release(all, 4 * kTiB);
  release(reserve(4 * kTiB), 4 * kTiB);
}

TEST_F(SharedOffsets, NeighboursJoinWhicheverCameBackFirst) {
  for (const bool low_first : {true, false}) {
    const std::uintptr_t low = reserve(kTiB);
    const std::uintptr_t middle = reserve(2 * kTiB);
    const std::uintptr_t high = reserve(kTiB);
    release(low_first ? low : high, kTiB);
    release(low_first ? high : low, kTiB);
    release(middle, 2 * kTiB);
    release(reserve(4 * kTiB), 4 * kTiB);
  }
}

TEST_F(SharedOffsets, WhatIsLeftOnEitherSideServesToo) {
  const std::uintptr_t first = reserve(kPageBytes);
  const std::uintptr_t hole = reserve(kTiB - kPageBytes);
  const std::uintptr_t rest = reserve(3 * kTiB);
  release(hole, kTiB - kPageBytes);
  // Cut so that there is something before it and something behind.
  const std::uintptr_t aligned = reserve(2 * kMiB, 2 * kMiB);
  EXPECT_EQ(offset(aligned), 2 * kMiB);
  const std::uintptr_t before = reserve(2 * kMiB - kPageBytes);
  EXPECT_EQ(offset(before), kPageBytes);
  const std::uintptr_t behind = reserve(kTiB - 4 * kMiB);
  EXPECT_EQ(offset(behind), 4 * kMiB);
  EXPECT_EQ(port_->host_reserve(kPageBytes, kPageBytes).error, ENOMEM);
  release(first, kPageBytes);
  release(rest, 3 * kTiB);
}

// A file beyond it is answered with a signal that ends the process.
TEST(ProcessPortShared, AsMuchAsALimitToTheSizeOfFilesAllows) {
  EXPECT_EQ(in_a_child([] {
              const rlimit limit{kMiB + 1, kMiB + 1};
              if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
              const auto port = make_port({.huge_pages = false, .shared = true});
              const HostReply all = port->host_reserve(kMiB, kPageBytes);
              if (all.error != 0) return 2;
              std::memset(bytes_at(all.address), 1, kMiB);
              if (port->host_reserve(kPageBytes, kPageBytes).error != ENOMEM) return 3;
              return port->host_release(all.address, kMiB);
            }),
            0);
}

// What the port keeps lists of is as it was.
TEST(ProcessPortShared, WithoutMemoryForItsListsItSaysSo) {
  if (kSanitized) GTEST_SKIP() << "the sanitizer itself takes memory";
  EXPECT_EQ(in_a_child([] {
              const auto port = make_port({.huge_pages = false, .shared = true});
              std::array<std::uintptr_t, 100> pages{};
              for (std::uintptr_t& page : pages)
                page = port->host_reserve(kPageBytes, kPageBytes).address;
              if (!use_up_memory()) return 1;
              // The list of holes has room for as many as it had at first.
              std::size_t released = 0;
              while (port->host_release(pages[2 * released], kPageBytes) == 0) ++released;
              if (released != 20) return 2;
              const std::uintptr_t refused = pages[2 * released];
              if (port->host_release(refused, kPageBytes) != ENOMEM) return 3;
              if (!port->shared_backing(refused).ok()) return 4;
              *bytes_at(refused) = 1;
              // None for what is left of a hole that is cut.
              if (port->host_reserve(kPageBytes, kPageBytes).error != ENOMEM) return 5;
              return 0;
            }),
            0);
}

// Little memory would only be rounded up.
TEST(ProcessPort, HugePagesAreAskedForWhereThereIsMuchMemory) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer stands before the kernel";
  static int wishes = 0;
  const auto answer = [](const KernelCall& call) -> long {
    wishes += call.arguments[2] == MADV_HUGEPAGE;
    return call.ask();
  };
  EXPECT_EQ(
      with_kernel_answers(SYS_madvise, answer,
                          [] {
                            const auto port = make_port();
                            wishes = 0;
                            if (port->host_reserve(32 * kMiB - kPageBytes, kPageBytes).error != 0)
                              return 1;
                            if (wishes != 0) return 2;
                            const HostReply much = port->host_reserve(32 * kMiB, kPageBytes);
                            if (much.error != 0 || much.address % (2 * kMiB) != 0) return 3;
                            if (wishes != 1) return 4;
                            const auto plain = make_port({.huge_pages = false});
                            if (plain->host_reserve(32 * kMiB, kPageBytes).error != 0) return 5;
                            return wishes == 1 ? 0 : 6;
                          }),
      0);
}

TEST(ProcessPortShared, PrivateMemoryHasNoBacking) {
  const auto port = make_port();
  const HostReply reply = port->host_reserve(kPageBytes, kPageBytes);
  EXPECT_EQ(port->shared_backing(reply.address).error(), Error::kNotFound);
  port->host_release(reply.address, kPageBytes);
}

}  // namespace
}  // namespace exclave
