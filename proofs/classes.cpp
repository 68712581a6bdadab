// Size classes and run classes: slab/size_class.hpp, page/run_class.hpp.
#include "page/run_class.hpp"
#include "proofs/prover.hpp"
#include "slab/size_class.hpp"

namespace exclave::proofs {
namespace {

using Unary = std::function<Word(const Word&)>;

void size_classes(Prover& p, const Unary& class_of, const Unary& bytes_of) {
  const Word bytes = p.word("bytes");
  p.assume(1 <= bytes && bytes <= kMaxSmallBytes);
  const Word c = class_of(bytes);
  p.show("it is one of the classes", c < kSizeClasses);
  p.show("its slots hold the size", bytes <= bytes_of(c));
  p.show("the slots of the class before do not",
         c == 0 || bytes_of(select(c == 0, Word(0), c - 1)) < bytes);
  p.show("up to 128 bytes less than 16 are lost, above less than an eighth",
         bytes_of(c) - bytes < select(bytes <= 128, Word(16), (bytes + 7) / 8));
}

void class_lengths(Prover& p, const Unary& class_of, const Unary& bytes_of) {
  const Word c = p.word("class");
  p.assume(c < kSizeClasses);
  p.show("a class' own length is of the class", class_of(bytes_of(c)) == c);
  p.show("whole 16 bytes, at most 64 KiB",
         bytes_of(c) % Word(16) == 0 && 1 <= bytes_of(c) && bytes_of(c) <= kMaxSmallBytes);
  p.show("longer than the class before",
         c == 0 || bytes_of(select(c == 0, Word(0), c - 1)) < bytes_of(c));
  p.show("one byte more is of the next",
         c == kSizeClasses - 1 || class_of(bytes_of(c) + 1) == c + 1);
}

// The core calculates lengths in 32 bits.
void class_lengths_in_32_bits(Prover& p, const std::function<Bits<32>(const Bits<32>&)>& bytes_of) {
  const Word c = p.word("class");
  p.assume(c < kSizeClasses);
  const Bits<32> narrow = bytes_of(Bits<32>(c.expr().extract(31, 0)));
  p.show("the same as in 64", Word(z3::zext(narrow.expr(), 32)) == size_class_bytes<Word>(c));
}

void table(Prover& p, const Unary& entry_of) {
  const Word bytes = p.word("bytes");
  p.assume(1 <= bytes && bytes <= kMaxSmallBytes);
  const Word entry = entry_of(bytes);
  p.show("the entry is in the table", entry < kMaxSmallBytes / 16);
  p.show("it holds the size's class", size_class_number<Word>(first_bytes_of_entry<Word>(entry)) ==
                                          size_class_number<Word>(bytes));
}

void run_classes(Prover& p, const Unary& class_of) {
  const Word pages = p.word("pages");
  p.assume(17 <= pages && pages <= 2048);
  const Word c = class_of(pages);
  const Word length = run_class_pages<Word>(c);
  p.show("it is one of the classes", c < kRunClasses);
  p.show("its runs are long enough", pages <= length);
  p.show("those of the class before are not",
         c == 0 || run_class_pages<Word>(select(c == 0, Word(0), c - 1)) < pages);
  p.show("the length is what a request is rounded to", length == round_run<Word>(pages));
  p.show("less than a quarter is lost", (length - pages) * 4 < pages);
  p.show("a run of that length is of the class", class_of(length) == c);
}

void rounded_runs(Prover& p, const Unary& rounded) {
  const Word pages = p.word("pages");
  p.assume(pages != 0);
  p.show("a request has a class exactly from 17 to 2048 pages",
         has_run_class<Word>(pages) == (17 <= pages && pages <= 2048));
  p.show("never fewer", pages <= rounded(pages));
  p.show("others stay as they are", has_run_class<Word>(pages) || rounded(pages) == pages);
  p.show("what is rounded stays as it is", rounded(rounded(pages)) == rounded(pages));
  const Word given = p.word("given");
  p.show("a run that may serve a request is long enough",
         implies(may_serve_run<Word>(given, pages), pages <= given));
}

Word class_without_low_step(const Word& bytes) {
  const Word last = bytes - 1;
  const Word shift = floor_log2(last | 64) - 3;
  return shift * 8 + (last >> shift) - 32;
}

}  // namespace

Chapter classes_chapter() {
  const Unary bytes_of = [](const Word& c) { return size_class_bytes<Word>(c); };
  return {
      {
          {"size_class", "the smallest class that holds the size; less than an eighth is lost",
           [=](Prover& p) { size_classes(p, size_class_number<Word>, bytes_of); }},
          {"size_class_bytes", "of each class, and back",
           [=](Prover& p) { class_lengths(p, size_class_number<Word>, bytes_of); }},
          {"size_class_bytes.32", "in the core's 32 bits as in 64",
           [](Prover& p) { class_lengths_in_32_bits(p, size_class_bytes<Bits<32>>); }},
          {"size_class_entry", "the table's entry is of the size's class",
           [](Prover& p) { table(p, size_class_entry<Word>); }},
          {"run_class", "the smallest class that is long enough; less than a quarter is lost",
           [](Prover& p) { run_classes(p, run_class_number<Word>); }},
          {"round_run", "never shorter, for all lengths",
           [](Prover& p) { rounded_runs(p, round_run<Word>); }},
      },
      {
          {"size_class.low", "the steps below 128 bytes are 8",
           [=](Prover& p) { size_classes(p, class_without_low_step, bytes_of); }},
          {"size_class.next", "a class' own length is put into the next class",
           [=](Prover& p) {
             size_classes(
                 p, [](const Word& b) { return size_class_number<Word>(b + 1); }, bytes_of);
           }},
          {"size_class_bytes.step", "a class is one step short",
           [](Prover& p) {
             class_lengths(p, size_class_number<Word>, [](const Word& c) {
               return select(c == 43, size_class_bytes<Word>(c) - 16, size_class_bytes<Word>(c));
             });
           }},
          {"size_class_bytes.32.wide", "one class is longer in 32 bits",
           [](Prover& p) {
             class_lengths_in_32_bits(p, [](const Bits<32>& c) {
               return select(c == 79, Bits<32>(0x8000), size_class_bytes<Bits<32>>(c));
             });
           }},
          {"size_class_entry.last", "the entry is that of the size, not of its last byte",
           [](Prover& p) { table(p, [](const Word& bytes) { return bytes / 16; }); }},
          {"run_class.whole", "the class of the length, not of its last page",
           [](Prover& p) {
             run_classes(p, [](const Word& pages) {
               const Word shift = floor_log2(pages) - 2;
               return (shift - 2) * 4 + (pages >> shift) - 4;
             });
           }},
          {"round_run.down", "rounds down",
           [](Prover& p) {
             rounded_runs(p, [](const Word& pages) {
               return select(
                   has_run_class<Word>(pages),
                   align_down<Word>(pages, Word(1) << run_class_shift<Word>((pages - 1) | 16)),
                   pages);
             });
           }},
      },
  };
}

}  // namespace exclave::proofs
