// The areas of the enclave's range: which pages are mapped, with what protection. Books only: no
// lock, no page is touched.
//
// Areas stand in an ordered tree whose nodes know the largest gap below them, so that look-up,
// cut, join and the search for a free place are O(log n). An area is one cache line of trusted
// memory; pages are numbered from the range's base, 32 bits, so a range is less than 16 TiB.
//
// Invariants (validate()): areas are disjoint runs of pages within the range; neighbours that
// could be one area are one. An area with `in_call` is under way in a call of that thread: nobody
// else cuts, joins or removes it.
#pragma once

#include <cstdint>

#include "base/ordered_tree.hpp"
#include "base/units.hpp"
#include "port/book_store.hpp"

namespace exclave {

using PageNumber = std::uint32_t;  // of the range, counted from its base
inline constexpr PageNumber kNoPage = UINT32_MAX;

struct PageStretch {
  PageNumber first = 0;
  PageNumber count = 0;

  constexpr PageNumber end() const noexcept { return first + count; }
  friend constexpr bool operator==(const PageStretch&, const PageStretch&) noexcept = default;
};

// What tells neighbours apart beside where they lie.
struct AreaKind {
  static constexpr std::uint8_t kFromFile = 1;   // a copy of a file: its bytes cannot be made anew
  static constexpr std::uint8_t kShared = 2;     // MAP_SHARED; each such mapping stays by itself
  static constexpr std::uint8_t kLocked = 4;     // mlock
  static constexpr std::uint8_t kBacked = 8;     // a descriptor's own pages; kShared, too
  static constexpr std::uint8_t kOnFault = 16;   // kLocked, too: page by page, as they are touched
  static constexpr std::uint8_t kDontFork = 32;  // MADV_DONTFORK: a fork's child has no such area
  static constexpr std::uint8_t kWipeOnFork = 64;  // MADV_WIPEONFORK: a fork's child finds zeros

  std::uint8_t protection = 0;  // PROT_READ, PROT_WRITE, PROT_EXEC
  std::uint8_t traits = 0;

  constexpr bool has(std::uint8_t trait) const noexcept { return (traits & trait) != 0; }
  constexpr AreaKind with(std::uint8_t trait) const noexcept {
    return {protection, static_cast<std::uint8_t>(traits | trait)};
  }
  constexpr AreaKind without(std::uint8_t trait) const noexcept {
    return {protection, static_cast<std::uint8_t>(traits & ~trait)};
  }
  constexpr AreaKind unlocked() const noexcept { return without(kLocked | kOnFault); }
  friend constexpr bool operator==(const AreaKind&, const AreaKind&) noexcept = default;
};

struct Area {
  TreeLinks<Area> links{};
  Area* next = nullptr;  // of a chain that left the tree, ascending; or of the spares
  PageStretch run{};
  // Of the subtree.
  PageNumber lowest = 0;
  PageNumber end = 0;
  PageNumber largest_gap = 0;  // between two of its areas
  std::uint16_t in_call = 0;   // a call is under way on it: its thread's slot + 1
  AreaKind kind{};
};
static_assert(sizeof(Area) + sizeof(BookRef) <= kCacheLine);

class AreaTree {
 public:
  explicit AreaTree(BookStore& books) noexcept : books_(books) {}
  void open(PageNumber pages, std::uint64_t seed) noexcept;

  // ---- Looking ----
  // The area that holds the page, or null.
  Area* at(PageNumber page) const noexcept;
  // The lowest area with a page in the run, or null.
  Area* first_in(PageStretch run) const noexcept;
  // The highest place of so many free pages that ends at the limit or below, or kNoPage.
  PageNumber highest_gap(PageNumber pages, PageNumber limit) const noexcept {
    return highest_gap_in(tree_.root(), 0, pages_, pages, limit);
  }
  enum class Look : std::uint8_t { kQuiet, kMine, kElsewhere };
  // Is a call under way on any area in the run: one of this thread, or of another?
  Look look(PageStretch run, std::uint16_t me) const noexcept;

  // ---- Changing ----
  // False: there is no trusted memory. After it so many of what says "a spare" cannot fail.
  bool prepare(unsigned spares) noexcept;
  // Takes a spare. Precondition: the run is free.
  Area& add(PageStretch run, AreaKind kind, std::uint16_t in_call) noexcept;
  // Makes the part an area of its own. Takes two spares. Precondition: the area covers it, quiet.
  Area& cut_out(Area& area, PageStretch part) noexcept;
  // Takes all pages of the run out of the books, as a chain; null: there was none. Takes two
  // spares. Precondition: all areas there are quiet.
  Area* take_out(PageStretch run) noexcept;
  // What take_out gave stands again. Precondition: its places are free.
  void put_back(Area* chain) noexcept;
  void discard(Area* chain) noexcept;
  void remove(Area& area) noexcept;
  // The upper one becomes part of the lower one. Precondition: they adjoin.
  void extend(Area& low, Area& high) noexcept;
  void set_kind(Area& area, AreaKind kind) noexcept;
  // The area is of that kind from now on, and quiet; it joins with its neighbours.
  Area& settle(Area& area, AreaKind kind) noexcept;

  std::size_t count() const noexcept { return count_; }
  std::uint64_t mapped_pages() const noexcept { return mapped_pages_; }
  std::uint64_t locked_pages() const noexcept { return locked_pages_; }
  bool validate() const noexcept;

 private:
  struct Traits {
    static TreeLinks<Area>& links(Area& area) noexcept { return area.links; }
    static const TreeLinks<Area>& links(const Area& area) noexcept { return area.links; }
    static std::uintptr_t key(const Area& area) noexcept { return area.run.first; }
    static void update(Area& area) noexcept;
    static bool summary_holds(const Area& area) noexcept;
  };

  static PageNumber highest_gap_in(const Area* area, PageNumber low, PageNumber high,
                                   PageNumber pages, PageNumber limit) noexcept;
  static bool are_one(const Area& low, const Area& high) noexcept;
  // The part from the page on becomes an area of its own. Takes a spare.
  Area& split(Area& area, PageNumber at) noexcept;
  Area& join(Area& area) noexcept;
  // The area has so many pages more or less.
  void count_pages(const Area& area, std::int64_t pages) noexcept;
  void insert(Area& area) noexcept;
  void erase(Area& area) noexcept;
  Area& take_spare() noexcept;
  void keep_spare(Area& area) noexcept;

  BookStore& books_;
  OrderedTree<Area, Traits> tree_;
  PageNumber pages_ = 0;
  Area* spares_ = nullptr;
  unsigned spare_count_ = 0;
  std::size_t count_ = 0;
  std::uint64_t mapped_pages_ = 0;
  std::uint64_t locked_pages_ = 0;  // of areas that are kLocked
};

}  // namespace exclave
