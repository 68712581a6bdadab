// What the machine code of the boundary touches: objdump's listing, read, and the accesses that an
// instruction makes with given registers.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "exclave/access.hpp"
#include "support/sanitizers.hpp"

namespace exclave::access_test {

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

inline unsigned register_width(const std::string& name) {
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

inline int register_number(const std::string& name) {
  static const std::map<std::string, int> kNumbers = {
      {"%r8", REG_R8},   {"%r9", REG_R9},   {"%r10", REG_R10}, {"%r11", REG_R11}, {"%r12", REG_R12},
      {"%r13", REG_R13}, {"%r14", REG_R14}, {"%r15", REG_R15}, {"%rdi", REG_RDI}, {"%rsi", REG_RSI},
      {"%rbp", REG_RBP}, {"%rbx", REG_RBX}, {"%rdx", REG_RDX}, {"%rax", REG_RAX}, {"%rcx", REG_RCX},
      {"%rsp", REG_RSP}, {"%rip", REG_RIP}};
  const auto found = kNumbers.find(name);
  return found == kNumbers.end() ? -1 : found->second;
}

inline Operand parse_operand(const std::string& text) {
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

inline std::vector<std::string> split_operands(const std::string& text) {
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

inline bool starts_with(const std::string& text, const char* prefix) {
  return text.rfind(prefix, 0) == 0;
}

// Fills in what memory the instruction touches, for the few kinds that the boundary is made of.
inline void classify(Instruction& i) {
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

inline std::vector<Instruction> disassemble(const std::string& file) {
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

inline std::string show(const Instruction& i) {
  std::string text = i.function + ": " + i.mnemonic;
  for (const auto& operand : i.operands) text += " " + operand;
  return text;
}

// ---- What ran ----

struct Step {
  std::uint64_t rip;
  std::uint64_t registers[17];
};

inline Step step_of(void* context) {
  const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  Step step{};
  step.rip = static_cast<std::uint64_t>(registers[REG_RIP]);
  for (int i = 0; i < 17; ++i) step.registers[i] = static_cast<std::uint64_t>(registers[i]);
  return step;
}

inline std::uint64_t effective_address(const Step& step, const Operand& operand) {
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

// The boundary's functions in this process.
class BoundaryCode {
 public:
  BoundaryCode() {
    Dl_info info{};
    const auto anchor = reinterpret_cast<std::uint64_t>(&detail::copy_in_bytes);
    if (dladdr(reinterpret_cast<void*>(&detail::copy_in_bytes), &info) == 0) return;
    code_ = disassemble(info.dli_fname);
    std::uint64_t shift = 0;
    for (const Instruction& i : code_) {
      if (i.function == "_ZN7exclave6detail13copy_in_bytesEPvmm") {
        shift = anchor - i.address;
        break;
      }
    }
    for (std::size_t i = 0; i < code_.size(); ++i) at_[code_[i].address + shift] = i;
  }
  bool empty() const { return code_.empty(); }
  // Null: not the boundary's.
  const Instruction* find(std::uint64_t rip) const {
    const auto found = at_.find(rip);
    return found == at_.end() ? nullptr : &code_[found->second];
  }
  // What the step touched of [first, last).
  std::vector<Access> accesses(const Step& step, const Instruction& i, std::uintptr_t first,
                               std::uintptr_t last) const {
    std::vector<Access> found;
    // A string instruction with nothing left to do touches nothing.
    if (i.string && step.registers[REG_RCX] == 0) return found;
    const auto note = [&](const Operand& operand, bool store) {
      if (!operand.present) return;
      const std::uintptr_t address = effective_address(step, operand);
      if (address + 64 <= first || address >= last) return;
      const auto index = static_cast<std::size_t>(&i - code_.data());
      const bool fenced =
          index > 0 && index + 2 < code_.size() && code_[index - 1].mnemonic == "verw" &&
          code_[index + 1].mnemonic == "mfence" && code_[index + 2].mnemonic == "lfence";
      found.push_back({store, fenced, i.known, address, i.width, &i});
    };
    note(i.load, false);
    note(i.store, true);
    return found;
  }

 private:
  std::vector<Instruction> code_;
  std::unordered_map<std::uint64_t, std::size_t> at_;
};

// INTEL-SA-00615 and INTEL-SA-00657: a store is of whole aligned words, or fenced; a load is of one
// aligned word.
inline bool keeps_rules(const Access& a) {
  if (!a.known || a.width == 0) return false;
  if (!a.store) return a.address % 8 == 0 && a.width == 8;
  return (a.address % 8 == 0 && a.width % 8 == 0) || (a.fenced && a.address % a.width == 0);
}

// The boundary's machine code, for tests that watch it run.
class BoundaryCodeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { code = new BoundaryCode; }
  static void TearDownTestSuite() { delete code; }

  void SetUp() override {
    if (testing_support::kSanitized) GTEST_SKIP() << "a sanitizer's code runs in between";
    ASSERT_FALSE(code->empty()) << "objdump (binutils) is needed";
  }

  static inline BoundaryCode* code = nullptr;
};

}  // namespace exclave::access_test
