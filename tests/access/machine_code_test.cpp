// The machine code of the boundary, as it runs and as it stands in the object file.
//
// First: each instruction is stepped through with the trap flag, and each access to a window of
// memory is worked out from the registers and checked. Second: the object code that an enclave gets
// is read for what no run may show.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <map>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "access/machine_bus.hpp"
#include "disassembly.hpp"
#include "exclave/access.hpp"
#include "guarded_memory.hpp"

// Calls function(a, b, c) with the trap flag set.
extern "C" void exclave_test_step(void* function, std::uint64_t a, std::uint64_t b,
                                  std::uint64_t c);
extern "C" const char exclave_test_step_end[];
asm(R"(
  .text
  .globl exclave_test_step, exclave_test_step_end
  .type exclave_test_step, @function
exclave_test_step:
  movq %rdi, %rax
  movq %rsi, %rdi
  movq %rdx, %rsi
  movq %rcx, %rdx
  subq $8, %rsp
  pushfq
  orq $0x100, (%rsp)
  popfq
  call *%rax
  pushfq
  andq $~0x100, (%rsp)
  popfq
  addq $8, %rsp
  ret
exclave_test_step_end:
  .size exclave_test_step, . - exclave_test_step
)");

namespace exclave {
namespace {

using namespace access_test;

// ---- Stepping ----

constexpr std::size_t kMaxSteps = 1 << 15;
Step steps[kMaxSteps];
std::size_t step_count;

void on_trap(int, siginfo_t*, void* context) {
  const Step step = step_of(context);
  const auto begin = reinterpret_cast<std::uint64_t>(&exclave_test_step);
  if (step.rip >= begin && step.rip < reinterpret_cast<std::uint64_t>(exclave_test_step_end))
    return;
  if (step_count != kMaxSteps) steps[step_count++] = step;
}

class SteppedCode : public BoundaryCodeTest {
 protected:
  void SetUp() override {
    BoundaryCodeTest::SetUp();
    for (std::size_t i = 0; i < sizeof trusted_; ++i)
      trusted_[i] = static_cast<std::uint8_t>(i * 7 + 1);
  }

  // Every access of function(a, b, c) to the window.
  std::vector<Access> trace(void* function, std::uint64_t a, std::uint64_t b, std::uint64_t c) {
    struct sigaction action {};
    struct sigaction before {};
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, &before);
    step_count = 0;
    exclave_test_step(function, a, b, c);
    sigaction(SIGTRAP, &before, nullptr);
    EXPECT_GT(step_count, 0u) << "the trap flag has no effect here";
    EXPECT_LT(step_count, kMaxSteps);

    std::vector<Access> accesses;
    bool dirty = false;  // the upper halves of the wide registers
    for (std::size_t s = 0; s < step_count; ++s) {
      const Instruction* const i = code->find(steps[s].rip);
      if (i == nullptr) {
        ADD_FAILURE() << "an instruction outside the boundary's code ran";
        break;
      }
      if (i->mnemonic == "vmovups") dirty = true;
      if (i->mnemonic == "vzeroupper") dirty = false;
      for (const Access& access :
           code->accesses(steps[s], *i, memory_.address(), memory_.address() + memory_.size())) {
        accesses.push_back(access);
      }
    }
    EXPECT_FALSE(dirty) << "no vzeroupper";
    return accesses;
  }

  // INTEL-SA-00615 and INTEL-SA-00657; stores inside [store_first, store_last), loads of words that
  // hold bytes of [load_first, load_last), each once unless said otherwise.
  void expect_rules(const std::vector<Access>& accesses, std::uintptr_t store_first,
                    std::uintptr_t store_last, std::uintptr_t load_first, std::uintptr_t load_last,
                    std::size_t times = 1) {
    std::map<std::uintptr_t, std::size_t> loads;
    for (const Access& a : accesses) {
      ASSERT_TRUE(keeps_rules(a)) << show(*a.instruction) << " at " << a.address % 8;
      if (a.store) {
        ASSERT_GE(a.address, store_first) << show(*a.instruction);
        ASSERT_LE(a.address + a.width, store_last) << show(*a.instruction);
      } else {
        ASSERT_GT(a.address + 8, load_first) << show(*a.instruction);
        ASSERT_LT(a.address, load_last) << show(*a.instruction);
        ASSERT_LE(++loads[a.address], times) << show(*a.instruction) << " fetches a word again";
      }
    }
  }

  // A step costs microseconds. So it is every alignment of both sides with some lengths, and with
  // more where one side is aligned; or, when asked for (make access-traces), with every length to
  // 130. Then lengths around each step of the algorithms.
  template <class F>
  void for_all(F&& check) {
    for_all_alignments(check);
    if (HasFailure() || !__builtin_cpu_supports("avx")) return;
    detail::use_wide_registers();
    for_all_alignments(check);
    // Back, for the tests that come.
    access::wide_registers.store(false, std::memory_order_relaxed);
  }

  template <class F>
  void for_all_alignments(F&& check) {
    for (std::size_t dst = 0; dst < 8; ++dst) {
      for (std::size_t src = 0; src < 8; ++src) {
        if (every_length()) {
          for (std::size_t n = 0; n <= 130; ++n) check(dst, src, n);
        } else {
          const bool straight = dst == 0 || src == 0;
          for (std::size_t n = straight ? 0 : (dst + src) % 5; n <= 200; n += n >= 20    ? 61
                                                                              : straight ? 1
                                                                                         : 5) {
            check(dst, src, n);
          }
        }
        for (const std::size_t n :
             {256u, 264u, 505u, 512u, 520u, 760u, 775u, 1016u, 1024u, 1031u}) {
          if (dst + src == 0 || dst + src == 7) check(dst, src, n);
        }
        if (HasFailure()) FAIL() << "dst % 8 = " << dst << ", src % 8 = " << src;
      }
    }
    // Where the destination lies in a wide register's place, for the copies that align it.
    for (const std::size_t dst : std::initializer_list<std::size_t>{8, 16, 24}) {
      for (const std::size_t n : {64u, 72u, 256u, 264u, 392u, 600u}) check(dst, 3, n);
      if (HasFailure()) FAIL() << "dst % 32 = " << dst;
    }
  }

  static bool every_length() { return std::getenv("EXCLAVE_EVERY_LENGTH") != nullptr; }
  std::uintptr_t trusted(std::size_t offset) const {
    return reinterpret_cast<std::uintptr_t>(trusted_) + offset;
  }

  access_test::GuardedMemory memory_{2};
  alignas(64) std::uint8_t trusted_[2048];
};

using Threat52_SteppedCode = SteppedCode;

TEST_F(Threat52_SteppedCode, CopyOut) {
  for_all([&](std::size_t dst, std::size_t src, std::size_t n) {
    const std::uintptr_t to = memory_.address() + 64 + dst;
    const auto accesses =
        trace(reinterpret_cast<void*>(&detail::copy_out_bytes), to, trusted(src), n);
    expect_rules(accesses, to, to + n, 0, 0);
    ASSERT_EQ(accesses.empty(), n == 0);
  });
}

TEST_F(Threat52_SteppedCode, CopyOutPadded) {
  for_all([&](std::size_t dst, std::size_t src, std::size_t n) {
    if (dst % 8 != 0) return;
    const std::uintptr_t to = memory_.address() + 64 + dst;
    const auto accesses =
        trace(reinterpret_cast<void*>(&detail::copy_out_padded_bytes), to, trusted(src), n);
    expect_rules(accesses, to, to + (n + 7) / 8 * 8, 0, 0);
    for (const Access& a : accesses) ASSERT_FALSE(a.fenced);
  });
}

TEST_F(Threat52_SteppedCode, CopyIn) {
  for_all([&](std::size_t dst, std::size_t src, std::size_t n) {
    const std::uintptr_t from = memory_.address() + 64 + src;
    const auto accesses =
        trace(reinterpret_cast<void*>(&detail::copy_in_bytes), trusted(dst), from, n);
    expect_rules(accesses, 0, 0, from, from + n);
    ASSERT_EQ(accesses.size(), n == 0 ? 0 : (from + n + 7) / 8 - from / 8);
  });
}

TEST_F(Threat52_SteppedCode, FillZero) {
  for_all([&](std::size_t dst, std::size_t src, std::size_t n) {
    if (src != 0) return;
    const std::uintptr_t to = memory_.address() + 64 + dst;
    expect_rules(trace(reinterpret_cast<void*>(&detail::fill_zero_bytes), to, n, 0), to, to + n, 0,
                 0);
  });
}

TEST_F(Threat52_SteppedCode, CopyAcross) {
  for_all([&](std::size_t dst, std::size_t src, std::size_t n) {
    const std::uintptr_t to = memory_.address() + 64 + dst;
    const std::uintptr_t from = memory_.address() + 4096 + src;
    // Where two pieces meet within a word, each fetches its own bytes of it.
    expect_rules(trace(reinterpret_cast<void*>(&detail::copy_across_bytes), to, from, n), to,
                 to + n, from, from + n, 2);
  });
}

TEST_F(Threat52_SteppedCode, Words) {
  const std::uintptr_t word = memory_.address() + 64;
  for (const std::uintptr_t half : {word, word + 4}) {
    const auto load = trace(reinterpret_cast<void*>(&detail::load_u32), half, 0, 0);
    ASSERT_EQ(load.size(), 1u);
    expect_rules(load, 0, 0, half, half + 4);
    const auto store = trace(reinterpret_cast<void*>(&detail::store_u32), half, 1, 0);
    ASSERT_EQ(store.size(), 1u);
    EXPECT_TRUE(store[0].fenced);
    expect_rules(store, half, half + 4, 0, 0);
  }
  const auto load = trace(reinterpret_cast<void*>(&detail::load_u64), word, 0, 0);
  ASSERT_EQ(load.size(), 1u);
  expect_rules(load, 0, 0, word, word + 8);
  const auto store = trace(reinterpret_cast<void*>(&detail::store_u64), word, 1, 0);
  ASSERT_EQ(store.size(), 1u);
  EXPECT_FALSE(store[0].fenced);
  expect_rules(store, word, word + 8, 0, 0);
}

// ---- The object code that an enclave gets ----

#ifdef EXCLAVE_BUILD_DIR
const char kObjects[] = EXCLAVE_BUILD_DIR "/CMakeFiles/exclave_core_freestanding.dir/src/";
const std::string kObject = std::string(kObjects) + "access/copy.cpp.o";

class Threat55_ObjectCode : public testing::Test {
 protected:
  void SetUp() override {
    code_ = disassemble(kObject);
    ASSERT_FALSE(code_.empty()) << kObject << ": not built, or no objdump";
  }
  std::vector<Instruction> code_;
};

TEST_F(Threat55_ObjectCode, HasAllTheFunctions) {
  for (const char* name :
       {"copy_out_bytes", "copy_out_padded_bytes", "copy_in_bytes", "fill_zero_bytes",
        "copy_across_bytes", "load_u64", "load_u32", "store_u64", "store_u32"}) {
    EXPECT_TRUE(std::any_of(code_.begin(), code_.end(), [&](const Instruction& i) {
      return i.function.find(name) != std::string::npos;
    })) << name;
  }
}

TEST_F(Threat55_ObjectCode, TouchesMemoryOnlyInWaysWeKnow) {
  for (const Instruction& i : code_) {
    if (starts_with(i.mnemonic, "push") || starts_with(i.mnemonic, "pop")) continue;
    EXPECT_TRUE(i.known) << show(i);
  }
}

TEST_F(Threat55_ObjectCode, CallsNothingElse) {
  for (const Instruction& i : code_) {
    if (!starts_with(i.mnemonic, "call") && (!starts_with(i.mnemonic, "jmp") || i.target.empty()))
      continue;
    const bool own = i.target.empty() || i.target.find("7exclave6access") != std::string::npos ||
                     starts_with(i.target, ".text");
    EXPECT_TRUE(own) << show(i) << " -> " << i.target;
  }
}

// (That each run ends with vzeroupper is seen in the steps.)
TEST_F(Threat55_ObjectCode, OfAvxOnlyMovesAreUsed) {
  std::size_t wide = 0;
  for (const Instruction& i : code_) {
    if (i.mnemonic[0] != 'v' || i.mnemonic == "verw" || i.mnemonic == "vzeroupper") continue;
    EXPECT_EQ(i.mnemonic, "vmovups") << show(i);
    EXPECT_EQ(i.width, 32u) << show(i);
    ++wide;
  }
  EXPECT_GE(wide, 16u);
}

TEST_F(Threat55_ObjectCode, Threat54StringInstructionsFollowCld) {
  std::size_t seen = 0;
  for (std::size_t i = 0; i < code_.size(); ++i) {
    EXPECT_NE(code_[i].mnemonic, "std");
    const bool string = code_[i].mnemonic.find("movs") == 0 ||
                        code_[i].mnemonic.find("stos") == 0 ||
                        starts_with(code_[i].mnemonic, "rep");
    if (!string || starts_with(code_[i].mnemonic, "repz ret")) continue;
    ++seen;
    EXPECT_TRUE(code_[i].mnemonic == "rep movsq" || code_[i].mnemonic == "rep stos")
        << show(code_[i]);
    ASSERT_GT(i, 0u);
    EXPECT_EQ(code_[i - 1].mnemonic, "cld") << show(code_[i]);
  }
  EXPECT_GE(seen, 4u);
}

TEST_F(Threat55_ObjectCode, FencesStandAroundOneStore) {
  std::size_t fenced = 0;
  std::size_t verws = 0;
  std::size_t mfences = 0;
  for (std::size_t i = 0; i < code_.size(); ++i) {
    if (code_[i].mnemonic == "mfence") ++mfences;
    if (code_[i].mnemonic != "verw") continue;
    ++verws;
    ASSERT_LT(i + 3, code_.size());
    EXPECT_TRUE(code_[i].load.on_stack()) << show(code_[i]);
    const Instruction& store = code_[i + 1];
    EXPECT_TRUE(store.store.present && !store.load.present &&
                (store.width == 1 || store.width == 4))
        << show(store);
    EXPECT_EQ(code_[i + 2].mnemonic, "mfence");
    EXPECT_EQ(code_[i + 3].mnemonic, "lfence");
    ++fenced;
  }
  EXPECT_EQ(fenced, verws);
  EXPECT_EQ(fenced, mfences);
  EXPECT_GE(fenced, 3u);
}

// Where trusted memory other than the stack is never written, a narrow store is fenced; where it is
// never read, each load is of a word. copy_across does both through its bounce buffer: only the
// steps above see it.
TEST_F(Threat55_ObjectCode, NarrowAccessesStandOnlyWhereTheyMay) {
  for (std::size_t i = 0; i < code_.size(); ++i) {
    const Instruction& here = code_[i];
    const auto in = [&](const char* name) { return here.function.find(name) != std::string::npos; };
    const bool never_writes_trusted = !in("copy_in") && !in("copy_across");
    const bool never_reads_trusted = in("copy_in") || in("load_u") || in("store_u") || in("zero");
    if (never_writes_trusted && here.store.present && !here.store.on_stack() &&
        !here.store.global() && here.width % 8 != 0) {
      EXPECT_EQ(code_[i - 1].mnemonic, "verw") << show(here);
    }
    if (never_reads_trusted && here.load.present && !here.load.on_stack() && !here.load.global()) {
      EXPECT_EQ(here.width, 8u) << show(here);
    }
  }
}

// Where an address that the host may have chosen becomes usable, nothing runs ahead of its check:
// verify_reply, in each object that has it, and validate.
TEST(SpeculationFences, StandBehindTheChecksOfAddresses) {
  for (const char* object : {"heap/core_growth.cpp.o", "memcall/outside_mapping.cpp.o",
                             "memcall/replacement.cpp.o", "heap/core_regions.cpp.o"}) {
    const std::string command = std::string("objdump -d '") + kObjects + object + "'";
    FILE* const pipe = popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    std::size_t fences = 0;
    char line[4096];
    while (std::fgets(line, sizeof line, pipe) != nullptr)
      fences += std::strstr(line, "lfence") != nullptr;
    EXPECT_EQ(pclose(pipe), 0) << object << ": not built, or no objdump";
    EXPECT_GE(fences, 1u) << object;
  }
}
#endif

}  // namespace
}  // namespace exclave
