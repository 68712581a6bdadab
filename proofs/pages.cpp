// Buddies, units, grains of the slab map, indices of the pagemap: page/buddy_index.hpp,
// page/slab_window.hpp, region/region.hpp, region/pagemap.hpp.
#include "page/buddy_index.hpp"
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

void buddies(Prover& p, const Binary& buddy) {
  for_each_order(p, [&](unsigned order) {
    const Word index = p.word("index");
    const Word size = std::uint64_t{1} << order;
    p.assume(index < 4 * kPages && index % size == 0);
    const Word other = buddy(index, order);
    p.show("a block of the order, another one", other % size == 0 && other != index);
    p.show("whose buddy is the first again", buddy(other, order) == index);
    const Word lower = select(is_upper_buddy<Word>(index, order), other, index);
    const Word upper = select(is_upper_buddy<Word>(index, order), index, other);
    p.show("both together are one block of the next order",
           lower % (size * 2) == 0 && upper == lower + size);
  });
}

void blocks(Prover& p, const Binary& end_of_block) {
  for_each_order(p, [&](unsigned order) {
    const Word index = p.word("index"), end = p.word("end");
    const Word size = std::uint64_t{1} << order;
    p.assume(index < 4 * kPages && end != 0 && end < 4 * kPages);
    const Word start = block_start<Word>(index, order);
    p.show("the block holds the index and is aligned",
           start % size == 0 && start <= index && index < end_of_block(index, order) &&
               end_of_block(index, order) - start == size);
    p.show("a bitmap has a bit for it exactly when it starts below the end",
           ((index >> Word(order)) < blocks_below<Word>(end, order)) == (start < end));
  });
}

// Joining goes up order by order: below the order of the edges nothing is left to join.
void edges(Prover& p, const Binary& order_of) {
  const Word first = p.word("first"), last = p.word("last");
  p.assume(first < last && last < 4 * kPages);
  const Word order = order_of(first, last);
  const Word size = Word(1) << order;
  p.show("both edges are starts of blocks of the order",
         (first & (size - 1)) == 0 && (last & (size - 1)) == 0);
  p.show("one of them is an upper buddy's",
         is_upper_buddy<Word>(first, order) || is_upper_buddy<Word>(last, order));
  p.show("the last block of a run that ends at an upper buddy's start is the lower buddy",
         implies(is_upper_buddy<Word>(last, order), buddy_of<Word>(last, order) == last - size));
}

void stretches(Prover& p, const Unary& order_of) {
  const Word start = p.word("start"), pages = p.word("pages");
  p.assume(pages != 0 && start < kPages && pages <= kPages);
  const Word size = block_pages<Word>(order_of(pages));
  p.show("a whole block of the order lies in the stretch",
         align_up<Word>(start, size) + size <= start + pages);
  p.show("of a quarter of it at least", pages < size * 4);
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
          {"buddy_of", "the other half of the block of the next order",
           [](Prover& p) { buddies(p, buddy_of<Word>); }},
          {"buddy_blocks", "the block that holds an index, and its bit",
           [](Prover& p) { blocks(p, block_end<Word>); }},
          {"edge_order", "joining starts where an edge meets a buddy",
           [](Prover& p) { edges(p, edge_order<Word>); }},
          {"order_within", "a stretch holds a whole block of a quarter of it",
           [](Prover& p) { stretches(p, order_within<Word>); }},
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
          {"buddy_of.next", "the next block, whichever half it is",
           [](Prover& p) {
             buddies(p, [](const Word& index, const Word& order) {
               return index + (Word(1) << order);
             });
           }},
          {"buddy_blocks.end", "the end of what lies behind an index, not of its block",
           [](Prover& p) {
             blocks(p, [](const Word& index, const Word& order) {
               return index + (Word(1) << order);
             });
           }},
          {"edge_order.first", "looks at the first edge only",
           [](Prover& p) {
             edges(p, [](const Word& first, const Word&) { return lowest_bit(first | 1 << 30); });
           }},
          {"order_within.half", "half of the stretch, wherever it lies",
           [](Prover& p) { stretches(p, [](const Word& pages) { return floor_log2(pages); }); }},
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
