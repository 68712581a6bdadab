// Nothing but the boundary's functions touches what lies outside, and each access keeps the rules:
// the memory is closed, and opened for one instruction where the fault says who wants in.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "disassembly.hpp"
#include "exclave/box.hpp"
#include "exclave/process_port.hpp"
#include "exclave/ring.hpp"
#include "guarded_memory.hpp"

namespace exclave {
namespace {

using namespace access_test;

constexpr greg_t kTrapFlag = 0x100;
constexpr std::size_t kMaxFaults = 1 << 12;
Step faults[kMaxFaults];
std::size_t fault_count;
std::uintptr_t window_first, window_last;

void protect(int protection) {
  if (mprotect(reinterpret_cast<void*>(window_first), window_last - window_first, protection) != 0)
    std::abort();
}

void on_fault(int, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (address < window_first || address >= window_last || fault_count == kMaxFaults) std::abort();
  faults[fault_count++] = step_of(context);
  protect(PROT_READ | PROT_WRITE);
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] |= kTrapFlag;
}

void on_step(int, siginfo_t*, void* context) {
  protect(PROT_NONE);
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~kTrapFlag;
}

class Threat52_FaultingCode : public BoundaryCodeTest {
 protected:
  // Runs what may touch the range only by the boundary's functions; how many instructions did.
  template <class F>
  static std::size_t expect_rules(std::uintptr_t first, std::size_t size, F&& run) {
    struct sigaction action {};
    struct sigaction segv_before {};
    struct sigaction trap_before {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = on_fault;
    sigaction(SIGSEGV, &action, &segv_before);
    action.sa_sigaction = on_step;
    sigaction(SIGTRAP, &action, &trap_before);
    fault_count = 0;
    window_first = first;
    window_last = first + size;
    protect(PROT_NONE);
    run();
    protect(PROT_READ | PROT_WRITE);
    sigaction(SIGSEGV, &segv_before, nullptr);
    sigaction(SIGTRAP, &trap_before, nullptr);

    EXPECT_LT(fault_count, kMaxFaults);
    for (std::size_t i = 0; i < fault_count; ++i) {
      const Instruction* const instruction = code->find(faults[i].rip);
      if (instruction == nullptr) {
        ADD_FAILURE() << "an access outside the boundary's code";
        break;
      }
      const auto accesses = code->accesses(faults[i], *instruction, window_first, window_last);
      EXPECT_FALSE(accesses.empty()) << show(*instruction);
      bool kept = true;
      for (const Access& access : accesses) kept = kept && keeps_rules(access);
      EXPECT_TRUE(kept) << show(*instruction);
      if (!kept) break;
    }
    return fault_count;
  }
};

// Without this the tests below could not fail.
TEST_F(Threat52_FaultingCode, ForeignAccessesAreSeen) {
  static const GuardedMemory memory(1);
  EXPECT_NONFATAL_FAILURE(
      expect_rules(memory.address(), memory.size(),
                   [] { *const_cast<volatile std::uint8_t*>(memory.host()) = 1; }),
      "an access outside the boundary's code");
}

TEST_F(Threat52_FaultingCode, RingAtEveryOffsetAndLength) {
  constexpr std::size_t kCapacity = 256;
  const GuardedMemory memory(1);
  std::byte bytes[131];
  for (std::size_t i = 0; i < sizeof bytes; ++i) bytes[i] = static_cast<std::byte>(i * 7 + 1);
  for (std::size_t lead = 0; lead < 8; ++lead) {
    for (std::size_t n = 0; n <= 130; n += n < 20 ? 1 : 11) {
      memory.fill(0);
      const auto range = memory.range(0, RingLayout::bytes_for(kCapacity));
      auto producer = RingProducer::create(range);
      auto consumer = RingConsumer::create(range);
      ASSERT_TRUE(producer.ok() && consumer.ok());
      std::byte got[131] = {};
      const std::size_t faulted = expect_rules(memory.address(), memory.size(), [&] {
        if (lead != 0) {
          (void)producer->write({bytes, lead});
          (void)consumer->read({got, lead});
        }
        (void)producer->write({bytes, n});
        (void)producer->writable();
        (void)consumer->readable();
        (void)consumer->read({got, n});
      });
      ASSERT_FALSE(HasFailure()) << "after " << lead << " bytes, " << n;
      EXPECT_GE(faulted, 2u);
      EXPECT_EQ(std::memcmp(bytes, got, n), 0);
    }
  }
}

template <std::size_t kBytes>
using Object = std::array<std::uint8_t, kBytes>;

template <std::size_t kBytes>
bool store_and_load(Box<Object<kBytes>>& box) {
  Object<kBytes> object{};
  for (std::size_t i = 0; i < kBytes; ++i) object[i] = static_cast<std::uint8_t>(i + 3);
  if (!box.store(object)) return false;
  const auto got = box.load();
  return got.ok() && *got == object;
}

template <std::size_t kBytes, class Rules>
void check_box(Allocator& allocator, Rules&& expect_rules) {
  auto box = Box<Object<kBytes>>::create(allocator, {});
  ASSERT_TRUE(box.ok());
  const std::uintptr_t page = box->pointer()->address() & ~(kPageBytes - 1);
  bool right = false;
  const std::size_t faulted =
      expect_rules(page, 2 * kPageBytes, [&] { right = store_and_load(*box); });
  EXPECT_TRUE(right) << kBytes;
  EXPECT_GE(faulted, 2u) << kBytes;
}

TEST_F(Threat52_FaultingCode, BoxesOfEveryLength) {
  const auto port = ProcessPort::create();
  ASSERT_TRUE(port.ok());
  auto allocator = Allocator::create((*port)->table());
  ASSERT_TRUE(allocator.ok());
  const auto rules = [](std::uintptr_t first, std::size_t size, auto&& run) {
    return expect_rules(first, size, run);
  };
  [&]<std::size_t... kLengths>(std::index_sequence<kLengths...>) {
    (check_box<kLengths + 1>(*allocator, rules), ...);
  }
  (std::make_index_sequence<130>());
  *allocator = Allocator();
  ProcessPort::destroy(*port);
}

}  // namespace
}  // namespace exclave
