// Words that stand for every value at once, to be put into the core's templates (base/word.hpp).
//
// Bits is a machine word as Z3's bit vector. Number is a 64-bit word as an integer from 0 to 2^64 -
// 1, each operation taken modulo 2^64: for multiplications with constants, which bit vectors are
// slow at.
//
// Where C++ leaves a result undefined (a shift by the width or more, a division by zero, the
// logarithm of 0) Z3 has some value. So each such operation also notes what must hold, and Prover
// shows it.
#pragma once

#include <z3++.h>

#include <concepts>
#include <cstdint>
#include <vector>

namespace exclave::proofs {

z3::context& context();
// What must hold for the operations made so far to be defined.
std::vector<z3::expr>& conditions();

class Fact {
 public:
  Fact(bool value) : fact_(context().bool_val(value)) {}  // NOLINT(google-explicit-constructor)
  explicit Fact(z3::expr fact) : fact_(std::move(fact)) {}
  const z3::expr& expr() const { return fact_; }

  friend Fact operator&&(const Fact& a, const Fact& b) { return Fact(a.fact_ && b.fact_); }
  friend Fact operator||(const Fact& a, const Fact& b) { return Fact(a.fact_ || b.fact_); }
  friend Fact operator!(const Fact& a) { return Fact(!a.fact_); }
  friend Fact operator==(const Fact& a, const Fact& b) { return Fact(a.fact_ == b.fact_); }

 private:
  z3::expr fact_;
};
inline Fact implies(const Fact& a, const Fact& b) {
  return !a || b;
}

template <unsigned kBits>
class Bits {
 public:
  template <std::integral T>
  Bits(T value)  // NOLINT(google-explicit-constructor): as integers convert
      : bits_(context().bv_val(static_cast<std::uint64_t>(value), kBits)) {}
  explicit Bits(z3::expr bits) : bits_(std::move(bits)) {}
  const z3::expr& expr() const { return bits_; }

  friend Bits operator+(const Bits& a, const Bits& b) { return Bits(a.bits_ + b.bits_); }
  friend Bits operator-(const Bits& a, const Bits& b) { return Bits(a.bits_ - b.bits_); }
  friend Bits operator*(const Bits& a, const Bits& b) { return Bits(a.bits_ * b.bits_); }
  friend Bits operator/(const Bits& a, const Bits& b) {
    conditions().push_back(b.bits_ != 0);
    return Bits(z3::udiv(a.bits_, b.bits_));
  }
  friend Bits operator%(const Bits& a, const Bits& b) {
    conditions().push_back(b.bits_ != 0);
    return Bits(z3::urem(a.bits_, b.bits_));
  }
  friend Bits operator&(const Bits& a, const Bits& b) { return Bits(a.bits_ & b.bits_); }
  friend Bits operator|(const Bits& a, const Bits& b) { return Bits(a.bits_ | b.bits_); }
  friend Bits operator^(const Bits& a, const Bits& b) { return Bits(a.bits_ ^ b.bits_); }
  friend Bits operator~(const Bits& a) { return Bits(~a.bits_); }
  friend Bits operator<<(const Bits& a, const Bits& b) {
    conditions().push_back(z3::ult(b.bits_, context().bv_val(kBits, kBits)));
    return Bits(z3::shl(a.bits_, b.bits_));
  }
  friend Bits operator>>(const Bits& a, const Bits& b) {
    conditions().push_back(z3::ult(b.bits_, context().bv_val(kBits, kBits)));
    return Bits(z3::lshr(a.bits_, b.bits_));
  }
  friend Fact operator==(const Bits& a, const Bits& b) { return Fact(a.bits_ == b.bits_); }
  friend Fact operator!=(const Bits& a, const Bits& b) { return Fact(a.bits_ != b.bits_); }
  friend Fact operator<(const Bits& a, const Bits& b) { return Fact(z3::ult(a.bits_, b.bits_)); }
  friend Fact operator<=(const Bits& a, const Bits& b) { return Fact(z3::ule(a.bits_, b.bits_)); }
  friend Fact operator>(const Bits& a, const Bits& b) { return b < a; }
  friend Fact operator>=(const Bits& a, const Bits& b) { return b <= a; }

 private:
  z3::expr bits_;
};

using Word = Bits<64>;
// Wide enough that no sum or product of two words wraps: what a claim is stated in.
using Exact = Bits<128>;

inline Exact exact(const Word& a) {
  return Exact(z3::zext(a.expr(), 64));
}

template <unsigned kBits>
Bits<kBits> select(const Fact& condition, const Bits<kBits>& yes, const Bits<kBits>& no) {
  return Bits<kBits>(z3::ite(condition.expr(), yes.expr(), no.expr()));
}

// The machine's operations of base/bits.hpp, as they are defined.
template <unsigned kBits>
Bits<kBits> floor_log2(const Bits<kBits>& value) {
  conditions().push_back(value.expr() != 0);
  Bits<kBits> result = 0;
  for (unsigned bit = 0; bit < kBits; ++bit)
    result = select(Fact(value.expr().extract(bit, bit) == 1), Bits<kBits>(bit), result);
  return result;
}
template <unsigned kBits>
Bits<kBits> lowest_bit(const Bits<kBits>& value) {
  conditions().push_back(value.expr() != 0);
  Bits<kBits> result = 0;
  for (unsigned bit = kBits; bit-- > 0;)
    result = select(Fact(value.expr().extract(bit, bit) == 1), Bits<kBits>(bit), result);
  return result;
}
inline Exact multiply_wide(const Word& a, const Word& b) {
  return exact(a) * exact(b);
}
inline Word high_word(const Exact& value) {
  return Word(value.expr().extract(127, 64));
}
inline Word low_word(const Exact& value) {
  return Word(value.expr().extract(63, 0));
}

// ---- Integers ----

// Any integer, of which nothing wraps.
class Integer {
 public:
  template <std::integral T>
  Integer(T value)  // NOLINT(google-explicit-constructor): as integers convert
      : integer_(context().int_val(static_cast<std::uint64_t>(value))) {}
  explicit Integer(z3::expr integer) : integer_(std::move(integer)) {}
  const z3::expr& expr() const { return integer_; }
  friend Integer operator+(const Integer& a, const Integer& b) {
    return Integer(a.integer_ + b.integer_);
  }
  friend Integer operator-(const Integer& a, const Integer& b) {
    return Integer(a.integer_ - b.integer_);
  }
  friend Integer operator*(const Integer& a, const Integer& b) {
    return Integer(a.integer_ * b.integer_);
  }
  friend Integer operator/(const Integer& a, const Integer& b) {
    return Integer(a.integer_ / b.integer_);
  }
  friend Integer operator%(const Integer& a, const Integer& b) {
    return Integer(z3::mod(a.integer_, b.integer_));
  }
  friend Fact operator==(const Integer& a, const Integer& b) {
    return Fact(a.integer_ == b.integer_);
  }
  friend Fact operator<(const Integer& a, const Integer& b) {
    return Fact(a.integer_ < b.integer_);
  }
  friend Fact operator<=(const Integer& a, const Integer& b) {
    return Fact(a.integer_ <= b.integer_);
  }

 private:
  z3::expr integer_;
};

inline Integer select(const Fact& condition, const Integer& yes, const Integer& no) {
  return Integer(z3::ite(condition.expr(), yes.expr(), no.expr()));
}
inline Integer two_to_the_64() {
  return Integer(context().int_val("18446744073709551616"));
}

class Number {
 public:
  template <std::integral T>
  Number(T value) : value_(value) {}  // NOLINT(google-explicit-constructor): as integers convert
  explicit Number(const Integer& value) : value_(value) {}
  const Integer& integer() const { return value_; }
  friend Number operator+(const Number& a, const Number& b) {
    const Integer sum = a.value_ + b.value_;
    return Number(select(sum < two_to_the_64(), sum, sum - two_to_the_64()));
  }
  friend Number operator-(const Number& a, const Number& b) {
    const Integer difference = a.value_ - b.value_;
    return Number(select(b.value_ <= a.value_, difference, difference + two_to_the_64()));
  }
  friend Number operator*(const Number& a, const Number& b) {
    return Number(a.value_ * b.value_ % two_to_the_64());
  }
  friend Number operator%(const Number& a, const Number& b) {
    conditions().push_back(!(b == 0).expr());
    return Number(a.value_ % b.value_);
  }
  friend Fact operator==(const Number& a, const Number& b) { return a.value_ == b.value_; }
  friend Fact operator!=(const Number& a, const Number& b) { return !(a == b); }
  friend Fact operator<(const Number& a, const Number& b) { return a.value_ < b.value_; }
  friend Fact operator<=(const Number& a, const Number& b) { return a.value_ <= b.value_; }
  friend Fact operator>(const Number& a, const Number& b) { return b < a; }
  friend Fact operator>=(const Number& a, const Number& b) { return b <= a; }

 private:
  Integer value_;
};

inline Integer exact(const Number& a) {
  return a.integer();
}
inline Number select(const Fact& condition, const Number& yes, const Number& no) {
  return Number(select(condition, yes.integer(), no.integer()));
}

inline Integer multiply_wide(const Number& a, const Number& b) {
  return exact(a) * exact(b);
}
inline Number high_word(const Integer& value) {
  return Number(value / two_to_the_64());
}
inline Number low_word(const Integer& value) {
  return Number(value % two_to_the_64());
}

}  // namespace exclave::proofs
