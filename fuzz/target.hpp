// What every fuzz target is made of. A target decodes its input into typed operations and performs
// them one after another on a run, an object that holds what is tested and what is expected of it.
// Runs live in fuzz/*_run.hpp, so that a test can perform the same operations: `exclave_fuzz_X
// --print FILE` shows an input as C++ that pastes into one.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace exclave::fuzz {

// The bytes of an input, taken from front to back as numbers; zeros once they are used up.
class Input {
 public:
  Input(const std::uint8_t* bytes, std::size_t size) : next_(bytes), left_(size) {}

  bool empty() const { return left_ == 0; }
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < bytes && left_ != 0; ++i, --left_) {
      value |= std::uint64_t{*next_++} << (8 * i);
    }
    return value;
  }
  // Takes as many bytes as the choice needs.
  std::size_t pick(std::uint64_t below) {
    const std::size_t bytes = below <= 1u << 8 ? 1 : below <= 1u << 16 ? 2 : below >> 32 ? 8 : 4;
    return static_cast<std::size_t>(number(bytes) % below);
  }
  bool flag() { return pick(2) != 0; }
  template <class T>
  T choice(T last) {
    return static_cast<T>(pick(static_cast<std::uint64_t>(last) + 1));
  }
  // Any number, but often one at which something changes: around powers of two, and small ones.
  std::uint64_t odd_number() {
    switch (pick(4)) {
      case 0:
        return number(1);
      case 1:
        return (std::uint64_t{1} << pick(64)) + number(1) - 128;
      case 2:
        return number(4) << 12;
      default:
        return number(8);
    }
  }

 private:
  const std::uint8_t* next_;
  std::size_t left_;
};

// ---- As C++ ----

inline std::string cpp_value(const std::string& value) {
  return value;
}
inline std::string cpp_value(const char* value) {
  return value;
}
inline std::string cpp_value(bool value) {
  return value ? "true" : "false";
}
template <class T>
std::string cpp_value(T value) requires std::is_integral_v<T> {
  std::ostringstream text;
  if (sizeof value == 8 && static_cast<std::uint64_t>(value) > 1u << 16) {
    text << "0x" << std::hex << static_cast<std::uint64_t>(value);
  } else {
    text << +value;
  }
  return text.str();
}
// "Name{a, b}"
template <class... T>
std::string cpp_call(const char* name, const T&... values) {
  std::string text = name;
  const char* between = "{";
  ((text += between + cpp_value(values), between = ", "), ...);
  return text + (sizeof...(values) == 0 ? "{}" : "}");
}
// An enumerator by its number.
template <class E>
std::string cpp_enum(const char* type, E value) {
  return std::string(type) + "(" + std::to_string(static_cast<int>(value)) + ")";
}

// ---- The target ----

// Each target defines these two. perform stops the program when an expectation fails.
void perform(Input input);
void print(Input input, std::ostream& out);

// Both, from a function that decodes one operation and two lines of C++ before the operations.
template <class Run, class Decode>
void perform_all(Run& run, Input& input, Decode decode) {
  while (!input.empty()) run.perform(decode(input));
}
template <class Decode>
void print_all(Input& input, std::ostream& out, Decode decode) {
  while (!input.empty()) out << "run.perform(" << cpp_of(decode(input)) << ");\n";
}

// The first expectation that fails stops the program, after GoogleTest has printed it.
class StopAtFailure : public testing::EmptyTestEventListener {
 public:
  static void install() { testing::UnitTest::GetInstance()->listeners().Append(new StopAtFailure); }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed()) {
      std::fflush(stdout);
      std::abort();
    }
  }
};

inline bool read_file(const std::string& name, std::vector<std::uint8_t>* bytes) {
  std::ifstream file(name, std::ios::binary);
  if (!file) return false;
  bytes->assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  return !file.bad();
}

// Serves `--print FILE` and ends the program; returns if that is not what was asked.
inline void serve_print(int argc, char** argv) {
  if (argc < 2 || std::string(argv[1]) != "--print") return;
  std::vector<std::uint8_t> bytes;
  if (argc != 3 || !read_file(argv[2], &bytes)) {
    std::cerr << argv[0] << ": --print needs one file that can be read\n";
    std::exit(2);
  }
  print(Input(bytes.data(), bytes.size()), std::cout);
  std::exit(0);
}

}  // namespace exclave::fuzz
