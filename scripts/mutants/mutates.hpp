// Included before everything else in the tree of mutants: which mutant is this process?
#pragma once

extern "C" {
extern int exclave_mutant;
extern unsigned char* exclave_mutants_met;
}

// What is decided when compiling stays as it is.
constexpr bool exclave_mutates(int number) noexcept {
  if (__builtin_is_constant_evaluated()) return false;
  if (exclave_mutants_met != nullptr) exclave_mutants_met[number] = 1;
  return number == exclave_mutant;
}
