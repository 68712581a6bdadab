// Extents and the checks on what the host and callers say: exclave/types.hpp, base/units.hpp,
// base/extents.hpp, region/verify.hpp.
#include "base/extents.hpp"
#include "proofs/prover.hpp"
#include "region/verify.hpp"

namespace exclave::proofs {
namespace {

using Range = BasicExtent<Word>;
using RangeQuestion = std::function<Fact(const Range&, const Range&)>;
// Where no bit is looked at, only sums and comparisons.
using Span = BasicExtent<Number>;
using SpanQuestion = std::function<Fact(const Span&, const Span&)>;

Range range(Prover& p, const char* base, const char* size) {
  return {p.word(base), p.word(size)};
}
Span span(Prover& p, const char* base, const char* size) {
  return {p.number(base), p.number(size)};
}

// What it means that an address is in a range: without any wrap.
Exact end_of(const Range& r) {
  return exact(r.base) + exact(r.size);
}
Integer end_of(const Span& r) {
  return exact(r.base) + exact(r.size);
}
template <class W>
Fact in(const W& address, const BasicExtent<W>& r) {
  return r.base <= address && exact(address) < end_of(r);
}
Fact does_not_wrap(const Range& r) {
  return end_of(r) <= Exact(UINT64_MAX);
}
Fact does_not_wrap(const Span& r) {
  return end_of(r) <= Integer(UINT64_MAX);
}

void contains(Prover& p, const std::function<Fact(const Span&, const Number&)>& has) {
  const Span r = span(p, "base", "size");
  const Number address = p.number("address");
  p.assume(end_of(r) <= two_to_the_64());
  p.show("true exactly for the addresses from base to before the end",
         has(r, address) == in(address, r));
}

void overlaps(Prover& p, const SpanQuestion& meet) {
  const Span a = span(p, "a.base", "a.size");
  const Span b = span(p, "b.base", "b.size");
  p.assume(does_not_wrap(a) && does_not_wrap(b));
  const Number address = p.number("address");
  p.show("an address in both makes them overlap",
         implies(in(address, a) && in(address, b), meet(a, b)));
  const Number witness = select(a.base < b.base, b.base, a.base);
  p.show("if they overlap, the higher base is in both",
         implies(meet(a, b), in(witness, a) && in(witness, b)));
}

// With no assumption at all.
void covers(Prover& p, const SpanQuestion& holds) {
  const Span a = span(p, "outer.base", "outer.size");
  const Span b = span(p, "inner.base", "inner.size");
  p.show("true exactly when base and end are within, also where ends wrap",
         holds(a, b) == (a.base <= b.base && end_of(b) <= end_of(a)));
  const Number address = p.number("address");
  p.show("then every address of the one is in the other",
         implies(holds(a, b) && in(address, b), in(address, a)));
}

void lies(Prover& p, const std::function<Fact(const Span&, const Number&, const Number&)>& within) {
  const Span r = span(p, "base", "bytes");
  const Number address = p.number("address"), size = p.number("size");
  p.assume(does_not_wrap(r));
  p.show("the address is in it, and so is the end of the range, wrapping or not",
         within(r, address, size) == (in(address, r) && exact(address) + exact(size) <= end_of(r)));
}

Fact page_range_as_defined(const Range& r) {
  return r.size != 0 && r.base != 0 && r.base % Word(4096) == 0 && r.size % Word(4096) == 0 &&
         end_of(r) <= Exact(std::uint64_t{1} << 47);
}

void page_range(Prover& p, const std::function<Fact(const Range&)>& is) {
  const Range r = range(p, "base", "size");
  p.show("true exactly for nonempty whole pages from page 1 to 2^47",
         is(r) == page_range_as_defined(r));
}

void outside(Prover& p, const RangeQuestion& is) {
  const Range r = range(p, "base", "size");
  const Range enclave = range(p, "enclave.base", "enclave.size");
  p.assume(does_not_wrap(enclave));
  const Word address = p.word("address");
  p.show("no address of what passes is in the enclave, in page zero or above the lower half",
         implies(is(r, enclave) && in(address, r), !in(address, enclave) && Word(4096) <= address &&
                                                       address < Word(std::uint64_t{1} << 47)));
  const Word witness = select(r.base < enclave.base, enclave.base, r.base);
  p.show(
      "a page range that is refused has an address in the enclave",
      implies(page_range_as_defined(r) && !is(r, enclave), in(witness, r) && in(witness, enclave)));
}

using ReplyQuestion = std::function<Fact(const Range&, const Word&, const Word&, const Range&)>;
void reply(Prover& p, const ReplyQuestion& good) {
  for (unsigned bit = 12; bit <= 47; ++bit) {
    p.in_case("alignment 2^" + std::to_string(bit), [&] {
      const Range r = range(p, "address", "size");
      const Word fixed = p.word("fixed");
      const Range enclave = range(p, "enclave.base", "enclave.size");
      p.assume(does_not_wrap(enclave));
      const Word alignment = std::uint64_t{1} << bit;
      p.show("passes exactly when it lies outside, is aligned, and where it was asked for",
             good(r, alignment, fixed, enclave) ==
                 (is_outside<Word>(r, enclave) && r.base % alignment == 0 &&
                  (fixed == 0 || fixed == r.base)));
    });
  }
}

void common_part(Prover& p, const std::function<Span(const Span&, const Span&)>& both) {
  const Span a = span(p, "a.base", "a.size");
  const Span b = span(p, "b.base", "b.size");
  p.assume(does_not_wrap(a) && does_not_wrap(b) && a.overlaps(b));
  const Number address = p.number("address");
  p.show("exactly the addresses that both have",
         in(address, both(a, b)) == (in(address, a) && in(address, b)));
}

using Cut = std::function<Parts<Number>(const Span&, const Span&)>;
void cut(Prover& p, const Cut& cut_in_three) {
  const Span r = span(p, "base", "size");
  const Span enclave = span(p, "enclave.base", "enclave.size");
  p.assume(does_not_wrap(r) && does_not_wrap(enclave));
  const Number address = p.number("address");
  const Parts<Number> parts = cut_in_three(r, enclave);
  p.show("below: what is in the range and below the enclave",
         in(address, parts.below) == (in(address, r) && address < enclave.base));
  p.show("inside: what is in both",
         in(address, parts.inside) == (in(address, r) && in(address, enclave)));
  p.show("above: what is in the range and at the enclave's end or above",
         implies(enclave.base <= enclave.end(),
                 in(address, parts.above) == (in(address, r) && enclave.end() <= address)));
  p.show("together as long as the range",
         exact(parts.below.size) + exact(parts.inside.size) + exact(parts.above.size) ==
             exact(r.size));
}

void split_and_join(Prover& p, const std::function<Halves<Word>(const Range&, const Word&)>& split,
                    const std::function<Range(const Range&, const Range&)>& join) {
  const Range whole = range(p, "base", "size");
  const Word at = p.word("at");
  const Word address = p.word("address");
  p.assume(page_range_as_defined(whole) && at % Word(4096) == 0);
  p.assume(whole.base < at && exact(at) < end_of(whole));
  const Halves<Word> halves = split(whole, at);
  p.show("both halves are page ranges",
         page_range_as_defined(halves.low) && page_range_as_defined(halves.high));
  p.show("each address of the whole is in one of them, and no other",
         in(address, whole) == !(in(address, halves.low) == in(address, halves.high)));
  p.show("they adjoin", adjoin<Word>(halves.low, halves.high));
  const Range again = join(halves.low, halves.high);
  p.show("joined they are the whole", again.base == whole.base && again.size == whole.size);
}

void join(Prover& p, const RangeQuestion& meet,
          const std::function<Range(const Range&, const Range&)>& join_two) {
  const Range low = range(p, "low.base", "low.size");
  const Range high = range(p, "high.base", "high.size");
  const Word address = p.word("address");
  p.assume(page_range_as_defined(low) && page_range_as_defined(high) && meet(low, high));
  const Range both = join_two(low, high);
  p.show("a page range again", page_range_as_defined(both));
  p.show("of exactly the addresses of the two",
         in(address, both) == (in(address, low) || in(address, high)));
}

void widened(Prover& p, const std::function<Range(const Range&)>& pages) {
  const Range r = range(p, "base", "size");
  p.assume(r.size != 0 && end_of(r) <= Exact(std::uint64_t{1} << 47));
  const Range whole = pages(r);
  p.show("whole pages", whole.base % Word(4096) == 0 && whole.size % Word(4096) == 0);
  p.show("that hold the range", whole.base <= r.base && end_of(r) <= end_of(whole));
  p.show("and none that it does not touch",
         r.base - whole.base < 4096 && end_of(whole) < end_of(r) + 4096);
}

void decoded(Prover& p, const std::function<Fact(const Word&, const Word&, Range*)>& decode) {
  const Word address = p.word("address"), length = p.word("length");
  const Range before = range(p, "before.base", "before.size");
  Range out = before;
  const Fact good = decode(address, length, &out);
  const Exact rounded = (exact(length) + 4095) / 4096 * 4096;
  p.show("passes exactly when aligned, nonempty and, in whole pages, below 2^47",
         good == (address % Word(4096) == 0 && length != 0 &&
                  exact(address) + rounded <= Exact(std::uint64_t{1} << 47)));
  p.show("then it is the pages of the length",
         implies(good, out.base == address && exact(out.size) == rounded));
  p.show("else nothing is written",
         implies(!good, out.base == before.base && out.size == before.size));
}

}  // namespace

Chapter ranges_chapter() {
  const auto extent_overlaps = [](const Span& a, const Span& b) { return a.overlaps(b); };
  return {
      {
          {"extent.contains", "the addresses from base to before the end",
           [](Prover& p) {
             contains(p, [](const Span& r, const Number& a) { return r.contains(a); });
           }},
          {"extent.overlaps", "exactly when an address is in both",
           [=](Prover& p) { overlaps(p, extent_overlaps); }},
          {"extent.covers", "exactly when one lies within the other, for all four words",
           [](Prover& p) { covers(p, [](const Span& a, const Span& b) { return a.covers(b); }); }},
          {"lies_in", "a query's range is in the region, for all addresses and sizes",
           [](Prover& p) { lies(p, lies_in<Number>); }},
          {"is_page_range", "nonempty whole pages from page 1 to 2^47",
           [](Prover& p) { page_range(p, is_page_range<Word>); }},
          {"is_outside", "nothing that passes has an address in the enclave",
           [](Prover& p) { outside(p, is_outside<Word>); }},
          {"is_as_asked", "a host's reply passes exactly when it is what was asked for",
           [](Prover& p) { reply(p, is_as_asked<Word>); }},
          {"common", "exactly the addresses that both extents have",
           [](Prover& p) { common_part(p, common<Number>); }},
          {"cut_by", "each address of a memory call's range goes to the side where it lies",
           [](Prover& p) { cut(p, cut_by<Number>); }},
          {"split_at", "two page ranges that are the whole, and joined are it again",
           [](Prover& p) { split_and_join(p, split_at<Word>, joined<Word>); }},
          {"joined", "a page range of exactly the addresses of the two",
           [](Prover& p) { join(p, adjoin<Word>, joined<Word>); }},
          {"whole_pages", "the pages that a range touches, and no other",
           [](Prover& p) { widened(p, whole_pages<Word>); }},
          {"decode_pages", "what a memory call's address and length mean, or nothing",
           [](Prover& p) { decoded(p, decode_pages<Word>); }},
      },
      {
          {"extent.contains.end", "the end is in the extent",
           [](Prover& p) {
             contains(p, [](const Span& r, const Number& a) { return a - r.base <= r.size; });
           }},
          {"extent.overlaps.empty", "an empty extent overlaps what is around it",
           [](Prover& p) {
             overlaps(p, [](const Span& a, const Span& b) {
               return a.base < b.end() && b.base < a.end();
             });
           }},
          {"extent.covers.wraps", "compares ends, which may wrap",
           [](Prover& p) {
             covers(p, [](const Span& a, const Span& b) {
               return a.base <= b.base && b.end() <= a.end();
             });
           }},
          {"lies_in.wraps", "compares ends, which may wrap",
           [](Prover& p) {
             lies(p, [](const Span& r, const Number& a, const Number& n) {
               return r.contains(a) && a + n <= r.end();
             });
           }},
          {"is_page_range.wraps", "compares the end, which may wrap",
           [](Prover& p) {
             page_range(p, [](const Range& r) {
               return r.size != 0 && r.base != 0 && is_aligned<Word>(r.base | r.size, kPageBytes) &&
                      r.end() <= kAddressLimit;
             });
           }},
          {"is_outside.ends_only",
           "looks only at the ends, so that what encloses the enclave passes",
           [](Prover& p) {
             outside(p, [](const Range& r, const Range& enclave) {
               return is_page_range<Word>(r) && !enclave.contains(r.base) &&
                      !enclave.contains(r.end() - 1);
             });
           }},
          {"is_as_asked.not_fixed", "a fixed address is not compared",
           [](Prover& p) {
             reply(p, [](const Range& r, const Word& alignment, const Word&, const Range& enclave) {
               return is_as_asked<Word>(r, alignment, 0, enclave);
             });
           }},
          {"common.lower", "takes the lower base",
           [](Prover& p) {
             common_part(p, [](const Span& a, const Span& b) {
               return common<Number>({select(a.base < b.base, a.base, b.base), a.size}, b);
             });
           }},
          {"cut_by.above", "what lies above starts at the enclave's end, also below it",
           [](Prover& p) {
             cut(p, [](const Span& r, const Span& enclave) {
               Parts<Number> parts = cut_by<Number>(r, enclave);
               parts.above = {enclave.end(), r.end() - enclave.end()};
               return parts;
             });
           }},
          {"split_at.high", "the high half keeps the length of the whole",
           [](Prover& p) {
             split_and_join(
                 p,
                 [](const Range& whole, const Word& at) {
                   return Halves<Word>{{whole.base, at - whole.base}, {at, whole.size}};
                 },
                 joined<Word>);
           }},
          {"joined.gap", "extents that do not adjoin are joined",
           [](Prover& p) {
             join(
                 p, [](const Range& a, const Range& b) { return a.end() <= b.base; }, joined<Word>);
           }},
          {"whole_pages.size", "rounds base and length apart from each other",
           [](Prover& p) {
             widened(p, [](const Range& r) {
               return Range{align_down<Word>(r.base, kPageBytes),
                            align_up<Word>(r.size, kPageBytes)};
             });
           }},
          {"decode_pages.wraps", "a length that wraps when it is rounded",
           [](Prover& p) {
             decoded(p, [](const Word& address, const Word& length, Range* out) {
               const Word size = align_up<Word>(length, kPageBytes);
               const Fact good = is_aligned<Word>(address, kPageBytes) && length != 0 &&
                                 size <= kAddressLimit && address <= kAddressLimit - size;
               *out = {select(good, address, out->base), select(good, size, out->size)};
               return good;
             });
           }},
      },
  };
}

}  // namespace exclave::proofs
