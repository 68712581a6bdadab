// Runs, units, grains of the slab map, indices of the pagemap: page/run_index.hpp,
// page/slab_window.hpp, region/region.hpp, region/pagemap.hpp.
#include "page/run_index.hpp"
#include "page/slab_window.hpp"
#include "proofs/prover.hpp"
#include "region/pagemap.hpp"

namespace exclave::proofs {
namespace {

using Unary = std::function<Word(const Word&)>;
using Binary = std::function<Word(const Word&, const Word&)>;
using Range = BasicExtent<Word>;

constexpr unsigned kOrders = kAddressBits - kPageShift;
constexpr std::uint64_t kPages = std::uint64_t{1} << (kAddressBits - kPageShift);

void for_each_order(Prover& p, const std::function<void(unsigned)>& body) {
  for (unsigned order = 0; order < kOrders; ++order)
    p.in_case("order " + std::to_string(order), [&] { body(order); });
}

// What is_listed and allocate take for granted: a window names one run at most, and tells which.
void windows(Prover& p, const Binary& page_of) {
  for_each_order(p, [&](unsigned order) {
    const Word first = p.word("first"), pages = p.word("pages"), second = p.word("second");
    const Word end = p.word("end");
    const Word least = std::uint64_t{1} << order;
    p.assume(first < kPages && least <= pages && pages < kPages);
    const Word window = window_of<Word>(first, order);
    const Word page = page_of(window, order);
    p.show("a run that starts in the window holds the page", first <= page && page < first + pages);
    p.show("the next run starts behind the page, in another window",
           implies(second >= first + pages,
                   page < second && window != window_of<Word>(second, order)));
    p.show("a bitmap has a bit for it exactly when the window starts below the end",
           implies(end != 0 && end < 4 * kPages,
                   (window < windows_below<Word>(end, order)) == ((first & ~(least - 1)) < end)));
  });
}

using Place = std::function<Word(const Word&, const BasicRunShape<Word>&)>;
void places(Prover& p, const Place& place) {
  for_each_order(p, [&](unsigned order) {
    const Word start = p.word("start"), pages = p.word("pages"), between = p.word("between");
    p.assume(start < kPages && pages != 0 && pages < kPages);
    const auto crosses = [&](const Word& first, std::uint64_t boundary) {
      return ((first ^ (first + pages - 1)) & ~(Word(boundary) - 1)) != 0;
    };
    // A page, a grain of the slab map.
    for (const unsigned align_order : {0u, 4u}) {
      for (const std::uint64_t boundary : {std::uint64_t{1} << order, kNoBoundary}) {
        const BasicRunShape<Word> shape{pages, std::uint64_t{1} << align_order, boundary};
        const Word first = place(start, shape);
        p.show("aligned, and crosses no boundary",
               implies(pages <= boundary,
                       is_aligned<Word>(first, shape.alignment) && !crosses(first, boundary)));
        p.show("no page before would do",
               implies(pages <= boundary && start <= between && between < first,
                       !is_aligned<Word>(between, shape.alignment) || crosses(between, boundary)));
        p.show("it lies in any stretch that fits",
               implies(pages <= boundary,
                       start <= first && first + pages <= start + pages_that_fit<Word>(shape)));
      }
    }
  });
}

Range range_below_limit(Prover& p) {
  const Range r = {p.word("base"), p.word("size")};
  p.assume(is_page_range<Word>(r));
  return r;
}

void units(Prover& p, const std::function<Word(const Range&)>& count) {
  const Range r = range_below_limit(p);
  const Word address = p.word("address");
  const Word first = first_unit_of<Word>(r);
  p.show("an entry for every address of the region",
         implies(r.contains(address), unit_index<Word>(address, first) < count(r)));
  p.show("and for none whose unit the region does not touch",
         implies(unit_index<Word>(address, first) < count(r),
                 align_down<Word>(address, kUnitBytes) < r.end() &&
                     r.base < align_down<Word>(address, kUnitBytes) + kUnitBytes));
}

void window(Prover& p, const Binary& index_of) {
  const Word first = p.word("first"), count = p.word("count"), address = p.word("address");
  p.assume(first <= kAllGrains && count <= kAllGrains && first + count <= kAllGrains);
  p.show("below the count exactly when the address lies in the window, wild or not",
         (index_of(address, first) < count) ==
             (first * kGrainBytes <= address && address < (first + count) * kGrainBytes));
}

void grains(Prover& p, const std::function<Grains<Word>(const Range&)>& whole) {
  const Range r = range_below_limit(p);
  const Word grain = p.word("grain");
  p.assume(grain < kAllGrains);
  const Grains<Word> all = whole(r), touched = touched_grains<Word>(r);
  p.show("a grain is entered exactly when all of it is in the slab",
         (grain - all.first < all.count) == r.covers({grain * kGrainBytes, kGrainBytes}));
  p.show("a grain is touched exactly when a byte of it is in the region",
         (grain - touched.first < touched.count) == r.overlaps({grain * kGrainBytes, kGrainBytes}));
}

using Grow =
    std::function<Grains<Number>(const Grains<Number>&, const Grains<Number>&, const Number&)>;
void growth(Prover& p, const Grow& grow) {
  const Grains<Number> old = {p.number("old.first"), p.number("old.count")};
  const Grains<Number> wanted = {p.number("first"), p.number("count")};
  const Number least = p.number("least");
  for (const Grains<Number>& g : {old, wanted})
    p.assume(g.first <= kAllGrains && g.count <= kAllGrains && g.first + g.count <= kAllGrains);
  p.assume(wanted.count != 0 && least <= kAllGrains && old.count * 2 <= kAllGrains);
  const Grains<Number> grown = grow(old, wanted, least);
  p.show("it covers what is wanted", covers_grains<Number>(grown, wanted));
  p.show("and what the old one covers", old.count == 0 || covers_grains<Number>(grown, old));
  p.show("twice the old one, and not below the least",
         old.count * 2 <= grown.count && least <= grown.count);
  p.show("within the address space", grown.first + grown.count <= kAllGrains);
}

void pagemap(Prover& p, const Unary& leaf) {
  const Word address = p.word("address");
  const Word root = root_index<Word>(address), middle = middle_index<Word>(address);
  p.show("indices stay in their tables", middle < kMiddleEntries && leaf(address) < kLeafEntries);
  p.show("the root's does exactly in the lower half",
         (root < kRootEntries) == (address < kAddressLimit));
  p.show("the three name the page and no other", (root << Word(kRootShift)) +
                                                         (middle << Word(kMiddleShift)) +
                                                         (leaf(address) << Word(kPageShift)) ==
                                                     align_down<Word>(address, kPageBytes));
}

}  // namespace

Chapter pages_chapter() {
  return {
      {
          {"last_of_window", "a window names one run at most, by a page of it",
           [](Prover& p) { windows(p, last_of_window<Word>); }},
          {"place_run", "the first page that serves, in any stretch that is long enough",
           [](Prover& p) { places(p, place_run<Word>); }},
          {"units_of", "an entry for each unit that the region touches, for any address",
           [](Prover& p) { units(p, units_of<Word>); }},
          {"grain_index", "below the count exactly in the window, for all 2^64 addresses",
           [](Prover& p) { window(p, grain_index<Word>); }},
          {"whole_grains", "the grains that lie wholly in a slab",
           [](Prover& p) { grains(p, whole_grains<Word>); }},
          {"grown_window", "covers the old one and the newcomer, within the address space",
           [](Prover& p) { growth(p, grown_window<Number>); }},
          {"pagemap_indices", "stay in their tables and name one page",
           [](Prover& p) { pagemap(p, leaf_index<Word>); }},
      },
      {
          {"last_of_window.first", "the window's first page, before which a run may have started",
           [](Prover& p) {
             windows(p, [](const Word& window, const Word& order) { return window << order; });
           }},
          {"place_run.aligned", "aligned only, over a boundary perhaps",
           [](Prover& p) {
             places(p, [](const Word& start, const BasicRunShape<Word>& shape) {
               return align_up<Word>(start, shape.alignment);
             });
           }},
          {"units_of.size", "as many units as the size fills, wherever it starts",
           [](Prover& p) {
             units(p, [](const Range& r) { return ceil_div<Word>(r.size, kUnitBytes); });
           }},
          {"grain_index.add", "counts from the wrong side",
           [](Prover& p) {
             window(p, [](const Word& address, const Word& first) {
               return first - (address >> Word(kGrainShift));
             });
           }},
          {"whole_grains.touched", "grains that lie in the slab in part",
           [](Prover& p) { grains(p, touched_grains<Word>); }},
          {"grown_window.no_limit", "grows past the address space",
           [](Prover& p) {
             growth(p, [](const Grains<Number>& old, const Grains<Number>& wanted,
                          const Number& least) {
               const Grains<Number> grown = grown_window<Number>(old, wanted, least);
               return Grains<Number>{select(old.count == 0, grown.first, old.first), grown.count};
             });
           }},
          {"pagemap_indices.shift", "the leaf's index is a bit too high",
           [](Prover& p) {
             pagemap(p, [](const Word& address) { return (address >> 13) % kLeafEntries; });
           }},
      },
  };
}

}  // namespace exclave::proofs
