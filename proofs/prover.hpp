// Shows claims about words, and prints values for which one does not hold.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "proofs/words.hpp"

namespace exclave::proofs {

class Prover {
 public:
  // A word that may be anything. Its name is for the counterexample.
  Word word(const char* name);
  Number number(const char* name);

  // What the claims that follow may rest on. Contradictory assumptions prove nothing: show fails.
  void assume(const Fact& fact);
  // Also that every operation made since the last claim is defined. Nothing is tried after a
  // failure.
  void show(const std::string& claim, const Fact& fact);
  // The same under assumptions of its own, and with words of its own.
  void in_case(const std::string& name, const std::function<void()>& body);

  bool failed() const { return !failure_.empty(); }
  // One line: the claim, the case, and what is wrong.
  const std::string& failure() const { return failure_; }
  unsigned claims() const { return claims_; }

 private:
  struct Symbol {
    std::string name;
    z3::expr expr;
  };
  z3::check_result check(const std::string& claim, const z3::expr& negated);
  void fail(const std::string& claim, const std::string& why);

  std::vector<Symbol> symbols_;
  std::vector<z3::expr> assumptions_;
  bool integers_ = false;
  bool assumptions_checked_ = false;
  std::string case_;
  std::string failure_;
  unsigned claims_ = 0;
};

// A theorem of docs/proofs.md.
struct Theorem {
  const char* name;
  const char* says;
  std::function<void(Prover&)> prove;
};
// The same with a mistake in the code, to see that the theorem tells.
struct Plant {
  const char* name;
  const char* mistake;
  std::function<void(Prover&)> prove;
};
struct Chapter {
  std::vector<Theorem> theorems;
  std::vector<Plant> plants;
};

Chapter bits_chapter();
Chapter ranges_chapter();
Chapter classes_chapter();
Chapter slots_chapter();
Chapter pages_chapter();
Chapter rings_chapter();

}  // namespace exclave::proofs
