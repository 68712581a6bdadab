// From an offset in a slab to its slot: slab/slot_index.hpp with the reciprocals of all classes.
#include "slab/slot_index.hpp"

#include "proofs/prover.hpp"
#include "slab/size_class.hpp"

namespace exclave::proofs {
namespace {

// The longest slab, in any class.
constexpr std::uint64_t most_slab_bytes() {
  std::uint64_t most = 0;
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    for (std::uint32_t slabs = 0; slabs < 8; ++slabs) {
      if (slab_units(c, slabs) * kUnitBytes > most) most = slab_units(c, slabs) * kUnitBytes;
    }
  }
  return most;
}
constexpr std::uint64_t kOffsets = std::uint64_t{1} << 32;
static_assert(most_slab_bytes() == std::uint64_t{1} << 20 && most_slab_bytes() <= kOffsets);

void for_each_class(Prover& p, const std::function<void(std::uint64_t)>& body) {
  for (SizeClass c = 0; c < kSizeClasses; ++c) {
    const std::uint32_t bytes = size_class_bytes(c);
    p.in_case("slots of " + std::to_string(bytes) + " bytes", [&] { body(bytes); });
  }
}

// The reciprocal as the core calculates it.
using Reciprocal = std::function<std::uint64_t(std::uint64_t)>;

void slot_search(Prover& p, const Reciprocal& reciprocal_of,
                 const std::function<Fact(const Integer&, const Number&)>& starts) {
  for_each_class(p, [&](std::uint64_t bytes) {
    // Any offset is a quotient and a remainder.
    const Number offset = p.number("offset");
    const Number quotient = p.number("quotient"), rest = p.number("remainder");
    p.assume(exact(offset) == exact(quotient) * Integer(bytes) + exact(rest) && rest < bytes);
    p.assume(offset < kOffsets);
    const Number reciprocal = reciprocal_of(bytes);
    const Integer product = multiply_wide(offset, reciprocal);
    p.show("the slot is the quotient", slot_of<Number>(product) == quotient);
    p.show("one starts there exactly when no remainder is left",
           starts(product, reciprocal) == (rest == 0));
  });
}

// slot_at with a slab's own words, at any address whatever.
void own_slot(Prover& p, const Reciprocal& reciprocal_of) {
  for_each_class(p, [&](std::uint64_t bytes) {
    const Number offset = p.number("offset");
    const Number slots = p.number("slots");
    p.assume(exact(slots) * Integer(bytes) <= Integer(most_slab_bytes()));
    const Number slot = slot_of<Number>(multiply_wide(offset, Number(reciprocal_of(bytes))));
    const Integer quotient = exact(offset) / Integer(bytes);
    p.show("found exactly when a slot starts there",
           is_slot_at<Number>(slot, offset, slots, bytes) ==
               (exact(offset) % Integer(bytes) == Integer(0) && quotient < exact(slots)));
    p.show("and it is that slot",
           implies(is_slot_at<Number>(slot, offset, slots, bytes), exact(slot) == quotient));
  });
}

// With words that do not belong together: the slot may be anything.
void any_slot(Prover& p,
              const std::function<Fact(const Word&, const Word&, const Word&, const Word&)>& is) {
  const Word slot = p.word("slot"), offset = p.word("offset");
  const Word slots = p.word("slots"), bytes = p.word("slot_bytes");
  p.assume(slots < 0x10000 && bytes < 0x100000000);
  p.show("what is found is a slot", implies(is(slot, offset, slots, bytes), slot < slots));
  p.show("that starts at the offset, where nothing wraps",
         implies(is(slot, offset, slots, bytes), exact(slot) * exact(bytes) == exact(offset)));
}

void states(Prover& p, const std::function<Word(const Word&)>& room) {
  const Word slots = p.word("slots");
  p.assume(slots < 0x10000);
  p.show("whole words", room(slots) % Word(8) == 0);
  p.show("a state for each slot, and one for what is left over", slots + 1 <= room(slots));
  p.show("the words that a search looks at are in it", ceil_div<Word>(slots, 8) * 8 <= room(slots));
}

void last_state(Prover& p, std::uint64_t beyond) {
  for_each_class(p, [&](std::uint64_t bytes) {
    const Word offset = p.word("offset"), length = p.word("length");
    p.assume(length <= most_slab_bytes() && offset < length + Word(beyond));
    p.show("the state of any offset in the slab is in the book",
           offset / Word(bytes) < states_for<Word>(length / Word(bytes)));
    p.show("slots are counted in 16 bits", bytes < 1040 || length / Word(bytes) < 0x10000);
  });
}

}  // namespace

Chapter slots_chapter() {
  const Reciprocal reciprocal = [](std::uint64_t bytes) { return slot_reciprocal(bytes); };
  const Reciprocal rounded_down = [](std::uint64_t bytes) { return UINT64_MAX / bytes; };
  const auto starts = [](const Integer& product, const Number& r) {
    return starts_slot<Number>(product, r);
  };
  return {
      {
          {"slot_search", "quotient and remainder in all 80 classes, for all offsets below 2^32",
           [=](Prover& p) { slot_search(p, reciprocal, starts); }},
          {"slot_at", "finds exactly the starts of slots, in all 80 classes, for all 2^64 offsets",
           [=](Prover& p) { own_slot(p, reciprocal); }},
          {"slot_at.any_book", "answers with a slot that starts there, whatever the book holds",
           [](Prover& p) { any_slot(p, is_slot_at<Word>); }},
          {"states_for", "a state for each slot and one more, in whole words",
           [](Prover& p) { states(p, states_for<Word>); }},
          {"find_state", "the state of any offset in a slab is in its book",
           [](Prover& p) { last_state(p, 0); }},
      },
      {
          {"slot_search.rounded_down", "the reciprocal is rounded down",
           [=](Prover& p) { slot_search(p, rounded_down, starts); }},
          {"slot_search.at_most", "a remainder of one passes",
           [=](Prover& p) {
             slot_search(p, reciprocal, [](const Integer& product, const Number& r) {
               return low_word(product).integer() <= exact(r);
             });
           }},
          {"slot_at.rounded_down", "the reciprocal is rounded down",
           [=](Prover& p) { own_slot(p, rounded_down); }},
          {"slot_at.any_book.no_bound", "the slot is not compared with the number of slots",
           [](Prover& p) {
             any_slot(p, [](const Word& slot, const Word& offset, const Word&, const Word& bytes) {
               return slot * bytes == offset;
             });
           }},
          {"states_for.exact", "no state for what is left over",
           [](Prover& p) {
             states(p, [](const Word& slots) { return align_up<Word>(slots, 8); });
           }},
          {"find_state.outside", "offsets far behind the slab",
           [](Prover& p) { last_state(p, 1 << 20); }},
      },
  };
}

}  // namespace exclave::proofs
