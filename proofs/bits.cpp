// base/bits.hpp: powers of two, alignment, rounding.
#include "base/bits.hpp"

#include "base/units.hpp"
#include "proofs/prover.hpp"

namespace exclave::proofs {
namespace {

using Unary = std::function<Word(const Word&)>;
using Binary = std::function<Word(const Word&, const Word&)>;

// One case for each power of two, so that no remainder has to be guessed.
void for_each_power(Prover& p, const std::function<void(const Word&, std::uint64_t)>& body) {
  for (unsigned bit = 0; bit < 64; ++bit) {
    const std::uint64_t power = std::uint64_t{1} << bit;
    p.in_case("alignment 2^" + std::to_string(bit), [&] { body(p.word("value"), power); });
  }
}

void power_of_two(Prover& p, const std::function<Fact(const Word&)>& is_power) {
  const Word value = p.word("value");
  Fact one_of_them = false;
  for (unsigned bit = 0; bit < 64; ++bit)
    one_of_them = one_of_them || value == Word(std::uint64_t{1} << bit);
  p.show("true for 2^0 to 2^63 and nothing else", is_power(value) == one_of_them);
}

void logarithm_up(Prover& p, const Unary& log) {
  const Word value = p.word("value");
  p.assume(value != 0);
  const Word result = log(value);
  p.show("2^result >= value", exact(value) <= Exact(1) << exact(result));
  p.show("2^(result - 1) < value, or the result is 0",
         result == 0 || Exact(1) << exact(select(result == 0, Word(0), result - 1)) < exact(value));
}

void alignment(Prover& p, const std::function<Fact(const Word&, const Word&)>& is_aligned_to,
               const Binary& down) {
  for_each_power(p, [&](const Word& value, std::uint64_t power) {
    const Word rest = value % Word(power);
    p.show("aligned exactly when no remainder is left", is_aligned_to(value, power) == (rest == 0));
    p.show("aligned down by the remainder", down(value, power) == value - rest);
  });
}

void alignment_up(Prover& p, const Binary& up) {
  for_each_power(p, [&](const Word& value, std::uint64_t power) {
    const Word result = up(value, power);
    const Fact fits = exact(value) + Exact(power - 1) <= Exact(UINT64_MAX);
    p.show("a multiple", result % Word(power) == 0);
    p.show("where it fits, the least that is not below",
           implies(fits, value <= result && result - value < Word(power)));
    p.show("0 where it does not fit", implies(!fits, result == 0));
  });
}

void alignment_up_checked(Prover& p,
                          const std::function<Fact(const Word&, const Word&, Word*)>& checked) {
  for_each_power(p, [&](const Word& value, std::uint64_t power) {
    const Word before = p.word("before");
    Word out = before;
    const Fact fits = checked(value, power, &out);
    // The largest multiple that is a word is 2^64 - power.
    p.show("true exactly when a multiple fits", fits == (value <= Word(0 - power)));
    p.show("then the least that is not below",
           implies(fits, out % Word(power) == 0 && value <= out && out - value < Word(power)));
    p.show("else nothing is written", implies(!fits, out == before));
  });
}

void division_up(Prover& p, const Binary& divide) {
  for (const std::uint64_t divisor : {8u, 64u, 4096u, 65536u}) {
    p.in_case("by " + std::to_string(divisor), [&] {
      const Word value = p.word("value");
      const Exact result = exact(divide(value, divisor));
      p.show("enough", exact(value) <= result * Exact(divisor));
      p.show("not one too many", result * Exact(divisor) < exact(value) + Exact(divisor));
    });
  }
}

void pages(Prover& p, const Unary& count) {
  const Word bytes = p.word("bytes");
  const Exact result = exact(count(bytes));
  p.show("enough pages", exact(bytes) <= result * Exact(kPageBytes));
  p.show("not one too many", result * Exact(kPageBytes) < exact(bytes) + Exact(kPageBytes));
}

void zero_byte(Prover& p, const Unary& any_zero) {
  const Word word = p.word("word");
  Fact one_is_zero = false;
  for (unsigned byte = 0; byte < 8; ++byte)
    one_is_zero = one_is_zero || (word >> Word(8 * byte) & Word(0xff)) == 0;
  p.show("not 0 exactly when a byte is", (any_zero(word) != 0) == one_is_zero);
}

}  // namespace

Chapter bits_chapter() {
  const auto aligned = [](const Word& v, const Word& a) { return is_aligned<Word>(v, a); };
  const auto down = [](const Word& v, const Word& a) { return align_down<Word>(v, a); };
  return {
      {
          {"is_power_of_two", "exactly 2^0 to 2^63",
           [](Prover& p) { power_of_two(p, is_power_of_two<Word>); }},
          {"ceil_log2", "the least exponent whose power is not below, for all values but 0",
           [](Prover& p) { logarithm_up(p, ceil_log2<Word>); }},
          {"align_down", "is_aligned and align_down are the remainder's, for all 64 alignments",
           [=](Prover& p) { alignment(p, aligned, down); }},
          {"align_up", "the least multiple not below, or 0 where none fits",
           [](Prover& p) { alignment_up(p, align_up<Word>); }},
          {"checked_align_up", "false exactly where no multiple fits",
           [](Prover& p) { alignment_up_checked(p, checked_align_up<Word>); }},
          {"ceil_div", "the quotient rounded up, by the divisors that the core uses",
           [](Prover& p) { division_up(p, ceil_div<Word>); }},
          {"pages_for", "the fewest pages that hold so many bytes, however odd",
           [](Prover& p) { pages(p, pages_for<Word>); }},
          {"any_zero_byte", "not 0 exactly when one of eight bytes is 0",
           [](Prover& p) { zero_byte(p, any_zero_byte<Word>); }},
      },
      {
          {"is_power_of_two.zero", "0 passes for a power of two",
           [](Prover& p) { power_of_two(p, [](const Word& v) { return (v & (v - 1)) == 0; }); }},
          {"ceil_log2.down", "rounds down",
           [](Prover& p) { logarithm_up(p, [](const Word& v) { return floor_log2(v); }); }},
          {"ceil_log2.undefined", "the logarithm of 0 for the value 1",
           [](Prover& p) {
             logarithm_up(
                 p, [](const Word& v) { return select(v == 1, Word(0), floor_log2(v - 1) + 1); });
           }},
          {"align_down.mask", "the mask is the alignment itself",
           [=](Prover& p) {
             alignment(p, aligned, [](const Word& v, const Word& a) { return v & ~a; });
           }},
          {"align_up.one_less", "one is not taken off the alignment first",
           [](Prover& p) {
             alignment_up(p, [](const Word& v, const Word& a) { return (v + a) & ~(a - 1); });
           }},
          {"checked_align_up.wraps", "a sum that wraps is not seen",
           [](Prover& p) {
             alignment_up_checked(p, [](const Word& v, const Word& a, Word* out) {
               *out = align_up<Word>(v, a);
               return Fact(true);
             });
           }},
          {"ceil_div.wraps", "adds before it divides",
           [](Prover& p) {
             division_up(p, [](const Word& v, const Word& d) { return (v + d - 1) / d; });
           }},
          {"pages_for.down", "an odd length loses its last page",
           [](Prover& p) { pages(p, [](const Word& bytes) { return bytes / kPageBytes; }); }},
          {"any_zero_byte.no_complement", "a byte above 0x80 passes for 0",
           [](Prover& p) {
             zero_byte(p, [](const Word& w) {
               return (w - Word(0x0101010101010101u)) & Word(0x8080808080808080u);
             });
           }},
      },
  };
}

}  // namespace exclave::proofs
