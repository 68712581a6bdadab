// A ring's indices: access/ring_index.hpp. They wrap at 2^64, so claims are about distances.
#include "access/ring_index.hpp"

#include "proofs/prover.hpp"

namespace exclave::proofs {
namespace {

using access::RingPieces;
using Ternary = std::function<Number(const Number&, const Number&, const Number&)>;

constexpr std::uint64_t kLargestCapacity = std::uint64_t{1} << 47;

// The first byte of the word that the index points into.
Number word_of(const Number& index) {
  return index - index % 8;
}

void head(Prover& p,
          const std::function<Fact(const Number&, const Number&, const Number&)>& credible) {
  const Number said = p.number("said"), known = p.number("known_head"), tail = p.number("tail");
  p.show("the unread bytes never become more, whatever the consumer says",
         implies(credible(said, known, tail), tail - said <= tail - known));
  p.show("without a wrap: exactly from what was known to what is written",
         implies(known <= tail, credible(said, known, tail) == (known <= said && said <= tail)));
}

void tail(Prover& p,
          const std::function<Fact(const Number&, const Number&, const Number&, const Number&)>&
              credible) {
  const Number said = p.number("said"), known = p.number("known_tail"), head = p.number("head");
  const Number capacity = p.number("capacity");
  p.assume(capacity <= kLargestCapacity && known - head <= capacity);
  p.show("never more unread bytes than the capacity, whatever the producer says",
         implies(credible(said, known, head, capacity), said - head <= capacity));
  p.show("never fewer than were known",
         implies(credible(said, known, head, capacity), known - head <= said - head));
  p.show(
      "without a wrap: exactly from what was known to a capacity beyond the head",
      implies(head <= known && exact(head) + exact(capacity) <= Integer(UINT64_MAX),
              credible(said, known, head, capacity) == (known <= said && said <= head + capacity)));
}

void room(Prover& p, const Ternary& room_of) {
  const Number capacity = p.number("capacity"), head = p.number("head"), tail = p.number("tail");
  p.assume(capacity <= kLargestCapacity && tail - head <= capacity &&
           tail - word_of(head) <= capacity);
  const Number bytes = room_of(capacity, head, tail);
  p.show("at most the capacity", bytes <= capacity);
  const Number written = p.number("written");
  p.show("after a write that fits, no byte of an unread word is overwritten",
         implies(written <= bytes, (tail + written) - word_of(head) <= capacity));
  const Number said = p.number("said");
  p.show("nor after the consumer went on",
         implies(access::is_credible_head<Number>(said, head, tail),
                 tail - word_of(said) <= tail - word_of(head)));
  p.show("once all is read, all but seven bytes can be written",
         implies(head == tail, capacity - bytes <= 7));
}

void pieces(Prover& p,
            const std::function<RingPieces<Word>(const Word&, const Word&, const Word&)>& cut) {
  for (unsigned bit = 6; bit <= 47; ++bit) {
    p.in_case("capacity 2^" + std::to_string(bit), [&] {
      const Word capacity = std::uint64_t{1} << bit;
      const Word index = p.word("index"), size = p.word("size"), byte = p.word("byte");
      p.assume(size <= capacity && byte < size);
      const RingPieces<Word> at = cut(index, size, capacity);
      const Word rest = size - at.before_wrap;
      p.show("neither piece leaves the data", at.before_wrap <= size && at.start < capacity &&
                                                  at.start + at.before_wrap <= capacity &&
                                                  rest <= capacity);
      p.show("each byte lies at its index modulo the capacity",
             select(byte < at.before_wrap, at.start + byte, byte - at.before_wrap) ==
                 (index + byte) % capacity);
      p.show("the pieces do not meet", rest <= at.start || rest == 0);
    });
  }
}

}  // namespace

Chapter rings_chapter() {
  return {
      {
          {"ring.head", "the consumer's index is believed only from what was known to the tail",
           [](Prover& p) { head(p, access::is_credible_head<Number>); }},
          {"ring.tail", "the producer's index is believed only up to the capacity",
           [](Prover& p) { tail(p, access::is_credible_tail<Number>); }},
          {"ring.room", "a write that fits overwrites nothing unread",
           [](Prover& p) { room(p, access::ring_room<Number>); }},
          {"ring.pieces", "each byte in the data, at its index modulo the capacity",
           [](Prover& p) { pieces(p, access::ring_pieces<Word>); }},
      },
      {
          {"ring.head.backwards", "an index that goes backwards passes",
           [](Prover& p) {
             head(p, [](const Number& said, const Number&, const Number& tail) {
               return said <= tail;
             });
           }},
          {"ring.tail.from_known", "the capacity is counted from what was known",
           [](Prover& p) {
             tail(p, [](const Number& said, const Number& known, const Number&,
                        const Number& capacity) { return said - known <= capacity; });
           }},
          {"ring.room.no_word", "counts from the next unread byte, not from its word",
           [](Prover& p) {
             room(p, [](const Number& capacity, const Number& head, const Number& tail) {
               return capacity - (tail - head);
             });
           }},
          {"ring.pieces.wrap", "the first piece does not end at the capacity",
           [](Prover& p) {
             pieces(p, [](const Word& index, const Word& size, const Word& capacity) {
               return RingPieces<Word>{index & (capacity - 1), size};
             });
           }},
      },
  };
}

}  // namespace exclave::proofs
