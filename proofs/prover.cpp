#include "proofs/prover.hpp"

namespace exclave::proofs {
namespace {

// On an idle machine the longest claim takes seconds.
constexpr unsigned kTimeoutMs = 120000;

std::string hex(const z3::expr& value) {
  // Numerals of bit vectors print as decimal numbers.
  std::uint64_t number = 0;
  if (!value.is_numeral_u64(number)) return value.to_string();
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(number));
  return text;
}

}  // namespace

z3::context& context() {
  static z3::context context;
  return context;
}

std::vector<z3::expr>& conditions() {
  static std::vector<z3::expr> conditions;
  return conditions;
}

Word Prover::word(const char* name) {
  const z3::expr symbol = context().bv_const(name, 64);
  symbols_.push_back({name, symbol});
  return Word(symbol);
}

Number Prover::number(const char* name) {
  const z3::expr symbol = context().int_const(name);
  symbols_.push_back({name, symbol});
  integers_ = true;
  const Number number{Integer(symbol)};
  assume(Integer(0) <= exact(number) && exact(number) < two_to_the_64());
  return number;
}

void Prover::assume(const Fact& fact) {
  assumptions_.push_back(fact.expr());
  assumptions_checked_ = false;
}

void Prover::fail(const std::string& claim, const std::string& why) {
  failure_ = claim + (case_.empty() ? "" : " [" + case_ + "]") + ": " + why;
}

// Are the assumptions possible together with this?
z3::check_result Prover::check(const std::string& claim, const z3::expr& negated) {
  z3::context& c = context();
  z3::solver solver = integers_ ? z3::solver(c)
                                : (z3::tactic(c, "simplify") & z3::tactic(c, "propagate-values") &
                                   z3::tactic(c, "solve-eqs") & z3::tactic(c, "simplify") &
                                   z3::tactic(c, "bit-blast") & z3::tactic(c, "sat"))
                                      .mk_solver();
  z3::params limits(c);
  limits.set("timeout", kTimeoutMs);
  solver.set(limits);
  for (const z3::expr& fact : assumptions_) solver.add(fact);
  solver.add(negated);
  const z3::check_result result = solver.check();
  if (result == z3::sat && !claim.empty()) {
    const z3::model model = solver.get_model();
    std::string values = "counterexample";
    for (const Symbol& symbol : symbols_)
      values += " " + symbol.name + " = " + hex(model.eval(symbol.expr, true));
    fail(claim, values);
  }
  if (result == z3::unknown) fail(claim, "unknown (" + solver.reason_unknown() + ")");
  return result;
}

void Prover::show(const std::string& claim, const Fact& fact) {
  std::vector<z3::expr> defined;
  defined.swap(conditions());
  if (failed()) return;
  ++claims_;
  if (!assumptions_.empty() && !assumptions_checked_) {
    if (check("", context().bool_val(true)) != z3::sat)
      return fail(claim, "assumptions contradict");
    assumptions_checked_ = true;
  }
  z3::expr all_defined = context().bool_val(true);
  for (const z3::expr& condition : defined) all_defined = all_defined && condition;
  if (check(claim + ": is defined", !all_defined) != z3::unsat) return;
  (void)check(claim, !fact.expr());
}

void Prover::in_case(const std::string& name, const std::function<void()>& body) {
  const Prover before = *this;
  case_ = before.case_.empty() ? name : before.case_ + ", " + name;
  assumptions_checked_ = false;
  body();
  symbols_ = before.symbols_;
  assumptions_ = before.assumptions_;
  integers_ = before.integers_;
  case_ = before.case_;
  assumptions_checked_ = before.assumptions_checked_;
}

}  // namespace exclave::proofs
