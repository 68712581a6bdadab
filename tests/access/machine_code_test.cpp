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
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <map>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "access/machine_bus.hpp"
#include "exclave/access.hpp"
#include "guarded_memory.hpp"

#if defined(__SANITIZE_THREAD__)
#define EXCLAVE_TEST_INSTRUMENTED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define EXCLAVE_TEST_INSTRUMENTED 1
#endif
#endif

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

// ---- Reading objdump ----

// A memory operand as AT&T syntax has it: displacement(base, index, scale).
struct Operand {
  bool present = false;
  std::int64_t displacement = 0;
  int base = -1;  // as in ucontext_t
  int index = -1;
  unsigned scale = 1;
  bool on_stack() const { return base == REG_RSP; }
  bool global() const { return base == REG_RIP; }
};

struct Instruction {
  std::uint64_t address = 0;
  std::string function;  // mangled
  std::string mnemonic;  // with prefixes: "rep movsq"
  std::vector<std::string> operands;
  std::string target;  // of a relocation
  Operand load;
  Operand store;
  unsigned width = 0;  // bytes of the memory access
  bool string = false;
  bool known = true;  // do we know whether it loads or stores, and how much?
};

unsigned register_width(const std::string& name) {
  if (name.rfind("%xmm", 0) == 0) return 16;
  if (name.rfind("%ymm", 0) == 0) return 32;
  static const std::map<std::string, unsigned> kOdd = {
      {"%al", 1}, {"%bl", 1}, {"%cl", 1}, {"%dl", 1}, {"%ax", 2}, {"%bx", 2},
      {"%cx", 2}, {"%dx", 2}, {"%si", 2}, {"%di", 2}, {"%bp", 2}, {"%ss", 2}};
  if (const auto odd = kOdd.find(name); odd != kOdd.end()) return odd->second;
  if (name.size() < 3) return 0;
  const char last = name.back();
  if (name[1] == 'e') return 4;
  if (name[1] == 'r') return last == 'd' ? 4 : last == 'w' ? 2 : last == 'b' ? 1 : 8;
  return last == 'l' ? 1 : 0;  // %sil and friends
}

int register_number(const std::string& name) {
  static const std::map<std::string, int> kNumbers = {
      {"%r8", REG_R8},   {"%r9", REG_R9},   {"%r10", REG_R10}, {"%r11", REG_R11}, {"%r12", REG_R12},
      {"%r13", REG_R13}, {"%r14", REG_R14}, {"%r15", REG_R15}, {"%rdi", REG_RDI}, {"%rsi", REG_RSI},
      {"%rbp", REG_RBP}, {"%rbx", REG_RBX}, {"%rdx", REG_RDX}, {"%rax", REG_RAX}, {"%rcx", REG_RCX},
      {"%rsp", REG_RSP}, {"%rip", REG_RIP}};
  const auto found = kNumbers.find(name);
  return found == kNumbers.end() ? -1 : found->second;
}

Operand parse_operand(const std::string& text) {
  Operand operand;
  const auto open = text.find('(');
  if (open == std::string::npos) return operand;
  operand.present = true;
  std::string prefix = text.substr(0, open);
  if (!prefix.empty() && prefix[0] == '*') prefix.erase(0, 1);
  if (const auto colon = prefix.find(':'); colon != std::string::npos)
    prefix = prefix.substr(colon + 1);
  if (!prefix.empty()) {
    const bool minus = prefix[0] == '-';
    const auto value =
        static_cast<std::int64_t>(std::stoull(prefix.substr(minus ? 1 : 0), nullptr, 16));
    operand.displacement = minus ? -value : value;
  }
  std::stringstream inside(text.substr(open + 1, text.find(')') - open - 1));
  std::string part;
  for (int i = 0; std::getline(inside, part, ','); ++i) {
    if (i == 0) operand.base = register_number(part);
    if (i == 1) operand.index = register_number(part);
    if (i == 2) operand.scale = static_cast<unsigned>(std::stoul(part));
  }
  return operand;
}

std::vector<std::string> split_operands(const std::string& text) {
  std::vector<std::string> parts(1);
  int depth = 0;
  for (const char c : text) {
    depth += c == '(' ? 1 : c == ')' ? -1 : 0;
    if (c == ',' && depth == 0)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  if (parts.back().empty()) parts.pop_back();
  return parts;
}

bool starts_with(const std::string& text, const char* prefix) {
  return text.rfind(prefix, 0) == 0;
}

// Fills in what memory the instruction touches, for the few kinds that the boundary is made of.
void classify(Instruction& i) {
  const std::string& m = i.mnemonic;
  if (m == "rep movsq" || m == "rep stos") {
    i.width = 8;
    i.string = true;
    i.store = {true, 0, REG_RDI, -1, 1};
    if (m == "rep movsq") i.load = {true, 0, REG_RSI, -1, 1};
    return;
  }
  std::vector<Operand> parsed;
  for (const auto& text : i.operands) parsed.push_back(parse_operand(text));
  const bool memory =
      std::any_of(parsed.begin(), parsed.end(), [](const Operand& o) { return o.present; });
  if (!memory || starts_with(m, "lea") || m.find("nop") != std::string::npos) return;
  static const std::map<std::string, unsigned> kExtending = {
      {"movzbl", 1}, {"movzbq", 1}, {"movzwl", 2}, {"movzb", 1}};
  static const std::map<std::string, unsigned> kSuffixed = {
      {"movb", 1}, {"movw", 2}, {"movl", 4}, {"movq", 8}, {"movhps", 8}};
  if (m == "verw") {
    i.width = 2;
    i.load = parsed[0];
  } else if (const auto extending = kExtending.find(m); extending != kExtending.end()) {
    i.width = extending->second;
    i.load = parsed[0];
  } else if (m == "cmpb") {
    i.width = 1;
    i.load = parsed[1];
  } else if (m == "mov" || m == "movups" || m == "movaps" || m == "vmovups" ||
             kSuffixed.count(m) != 0) {
    const bool stores = parsed[1].present;
    (stores ? i.store : i.load) = parsed[stores ? 1 : 0];
    const auto suffixed = kSuffixed.find(m);
    i.width =
        suffixed != kSuffixed.end() ? suffixed->second : register_width(i.operands[stores ? 0 : 1]);
    i.known = i.width != 0;
  } else {
    i.known = false;
    i.load = parsed[parsed[0].present ? 0 : 1];
  }
}

std::vector<Instruction> disassemble(const std::string& file) {
  std::vector<Instruction> code;
  const std::string command = "objdump -dr --no-show-raw-insn '" + file + "'";
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return code;
  char buffer[4096];
  std::string function;
  bool wanted = false;
  while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) {
    std::string line(buffer);
    line.erase(line.find_last_not_of(" \n") + 1);
    if (const auto open = line.find(" <");
        !line.empty() && line[0] != ' ' && line.back() == ':' && open != line.npos) {
      function = line.substr(open + 2, line.size() - open - 4);
      wanted = starts_with(function, "_ZN7exclave6detail") ||
               (starts_with(function, "_ZN7exclave6access") &&
                function.find("MachineBus") != function.npos);
      continue;
    }
    if (!wanted) continue;
    if (const auto relocation = line.find("R_X86_64_"); relocation != line.npos) {
      if (!code.empty()) code.back().target = line.substr(line.find_last_of(" \t") + 1);
      continue;
    }
    const auto colon = line.find(":\t");
    if (colon == line.npos) continue;
    Instruction i;
    i.function = function;
    i.address = std::stoull(line.substr(0, colon), nullptr, 16);
    std::stringstream words(line.substr(colon + 2));
    std::string word;
    while (words >> word) {
      const bool prefix = word == "rep" || word == "repz" || word == "repnz" || word == "lock" ||
                          word == "data16" || word == "cs" || word == "notrack" || word == "bnd";
      i.mnemonic += (i.mnemonic.empty() ? "" : " ") + word;
      if (!prefix) break;
    }
    std::getline(words, word);
    word = word.substr(0, word.find('#'));
    word.erase(0, word.find_first_not_of(" \t") == word.npos ? word.size()
                                                             : word.find_first_not_of(" \t"));
    word.erase(word.find_last_not_of(" \t") + 1);
    i.operands = split_operands(word.substr(0, word.find(" <")));
    classify(i);
    code.push_back(i);
  }
  pclose(pipe);
  return code;
}

std::string show(const Instruction& i) {
  std::string text = i.function + ": " + i.mnemonic;
  for (const auto& operand : i.operands) text += " " + operand;
  return text;
}

// ---- Stepping ----

struct Step {
  std::uint64_t rip;
  std::uint64_t registers[17];
};

constexpr std::size_t kMaxSteps = 1 << 15;
Step steps[kMaxSteps];
std::size_t step_count;

void on_trap(int, siginfo_t*, void* context) {
  const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto rip = static_cast<std::uint64_t>(registers[REG_RIP]);
  const auto begin = reinterpret_cast<std::uint64_t>(&exclave_test_step);
  if (rip >= begin && rip < reinterpret_cast<std::uint64_t>(exclave_test_step_end)) return;
  if (step_count == kMaxSteps) return;
  Step& step = steps[step_count++];
  step.rip = rip;
  for (int i = 0; i < 17; ++i) step.registers[i] = static_cast<std::uint64_t>(registers[i]);
}

std::uint64_t effective_address(const Step& step, const Operand& operand) {
  const auto value = [&](int number) { return number < 0 ? 0 : step.registers[number]; };
  return value(operand.base) + operand.scale * value(operand.index) +
         static_cast<std::uint64_t>(operand.displacement);
}

struct Access {
  bool store;
  bool fenced;
  bool known;
  std::uintptr_t address;
  unsigned width;
  const Instruction* instruction;
};

class SteppedCode : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    Dl_info info{};
    const auto anchor = reinterpret_cast<std::uint64_t>(&detail::copy_in_bytes);
    if (dladdr(reinterpret_cast<void*>(&detail::copy_in_bytes), &info) == 0) return;
    code = new std::vector<Instruction>(disassemble(info.dli_fname));
    at = new std::unordered_map<std::uint64_t, std::size_t>;
    std::uint64_t shift = 0;
    for (const Instruction& i : *code) {
      if (i.function == "_ZN7exclave6detail13copy_in_bytesEPvmm") {
        shift = anchor - i.address;
        break;
      }
    }
    for (std::size_t i = 0; i < code->size(); ++i) (*at)[(*code)[i].address + shift] = i;
  }
  static void TearDownTestSuite() {
    delete code;
    delete at;
  }

  void SetUp() override {
#ifdef EXCLAVE_TEST_INSTRUMENTED
    GTEST_SKIP() << "a sanitizer's code runs in between";
#endif
    ASSERT_TRUE(code != nullptr && !code->empty()) << "objdump (binutils) is needed";
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
      const auto found = at->find(steps[s].rip);
      if (found == at->end()) {
        ADD_FAILURE() << "an instruction outside the boundary's code ran";
        break;
      }
      const Instruction& i = (*code)[found->second];
      if (i.mnemonic == "vmovups") dirty = true;
      if (i.mnemonic == "vzeroupper") dirty = false;
      const auto note = [&](const Operand& operand, bool store) {
        if (!operand.present) return;
        const std::uintptr_t address = effective_address(steps[s], operand);
        if (address + 64 <= memory_.address() || address >= memory_.address() + memory_.size())
          return;
        const std::size_t at_code = found->second;
        const bool fenced =
            at_code > 0 && at_code + 2 < code->size() && (*code)[at_code - 1].mnemonic == "verw" &&
            (*code)[at_code + 1].mnemonic == "mfence" && (*code)[at_code + 2].mnemonic == "lfence";
        accesses.push_back({store, fenced, i.known, address, i.width, &i});
      };
      // A string instruction with nothing left to do touches nothing.
      if (i.string && steps[s].registers[REG_RCX] == 0) continue;
      note(i.load, false);
      note(i.store, true);
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
      ASSERT_TRUE(a.known) << show(*a.instruction);
      if (a.store) {
        const bool whole = a.address % 8 == 0 && a.width % 8 == 0 && a.width != 0;
        ASSERT_TRUE(whole || (a.fenced && a.address % a.width == 0))
            << show(*a.instruction) << " at " << a.address % 8;
        ASSERT_GE(a.address, store_first) << show(*a.instruction);
        ASSERT_LE(a.address + a.width, store_last) << show(*a.instruction);
      } else {
        ASSERT_EQ(a.address % 8, 0u) << show(*a.instruction);
        ASSERT_EQ(a.width, 8u) << show(*a.instruction);
        ASSERT_GT(a.address + 8, load_first) << show(*a.instruction);
        ASSERT_LT(a.address, load_last) << show(*a.instruction);
        ASSERT_LE(++loads[a.address], times) << show(*a.instruction) << " fetches a word again";
      }
    }
  }

  // A step costs microseconds, so not all that copy_algorithms_test.cpp goes through: every
  // alignment of both sides with some lengths, and with more where one side is aligned; then
  // lengths around each step of the algorithms.
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
        const bool straight = dst == 0 || src == 0;
        for (std::size_t n = straight ? 0 : (dst + src) % 5; n <= 200; n += n >= 20    ? 61
                                                                            : straight ? 1
                                                                                       : 5) {
          check(dst, src, n);
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

  std::uintptr_t trusted(std::size_t offset) const {
    return reinterpret_cast<std::uintptr_t>(trusted_) + offset;
  }

  static inline std::vector<Instruction>* code = nullptr;
  static inline std::unordered_map<std::uint64_t, std::size_t>* at = nullptr;
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
const char kObject[] =
    EXCLAVE_BUILD_DIR "/CMakeFiles/exclave_core_freestanding.dir/src/access/copy.cpp.o";

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
#endif

}  // namespace
}  // namespace exclave
