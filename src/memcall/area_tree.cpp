#include "memcall/area_tree.hpp"

#include <new>

#include "base/check.hpp"

namespace exclave {
namespace {

constexpr PageNumber greater(PageNumber a, PageNumber b) noexcept {
  return a > b ? a : b;
}
constexpr PageNumber lesser(PageNumber a, PageNumber b) noexcept {
  return a < b ? a : b;
}

struct Summary {
  PageNumber lowest, end, largest_gap;
};

Summary summary_of(const Area& area) noexcept {
  Summary sum{area.run.first, area.run.end(), 0};
  if (const Area* const left = area.links.left; left != nullptr) {
    sum.lowest = left->lowest;
    sum.largest_gap = greater(left->largest_gap, area.run.first - left->end);
  }
  if (const Area* const right = area.links.right; right != nullptr) {
    sum.end = right->end;
    sum.largest_gap =
        greater(sum.largest_gap, greater(right->largest_gap, right->lowest - area.run.end()));
  }
  return sum;
}

}  // namespace

void AreaTree::Traits::update(Area& area) noexcept {
  const Summary sum = summary_of(area);
  area.lowest = sum.lowest;
  area.end = sum.end;
  area.largest_gap = sum.largest_gap;
}

// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool AreaTree::Traits::summary_holds(const Area& area) noexcept {
  const Summary sum = summary_of(area);
  return area.lowest == sum.lowest && area.end == sum.end && area.largest_gap == sum.largest_gap;
}
// GCOVR_EXCL_BR_STOP

void AreaTree::open(PageNumber pages, std::uint64_t seed) noexcept {
  pages_ = pages;
  tree_.seed(seed);
}

// ---- Looking ----

Area* AreaTree::at(PageNumber page) const noexcept {
  Area* const area = tree_.at_or_before(page);
  return area != nullptr && page < area->run.end() ? area : nullptr;
}

Area* AreaTree::first_in(PageStretch run) const noexcept {
  if (Area* const area = at(run.first); area != nullptr) return area;
  Area* const area = tree_.at_or_after(run.first);
  return area != nullptr && area->run.first < run.end() ? area : nullptr;
}

// low, high: where the areas beside this subtree end and begin.
PageNumber AreaTree::highest_gap_in(const Area* area, PageNumber low, PageNumber high,
                                    PageNumber pages, PageNumber limit) noexcept {
  if (low >= limit) return kNoPage;
  if (area == nullptr) {
    const PageNumber top = lesser(high, limit);
    return top - low >= pages ? top - pages : kNoPage;
  }
  const PageNumber largest =
      greater(area->largest_gap, greater(area->lowest - low, high - area->end));
  if (largest < pages) return kNoPage;
  // Only where the limit cuts a gap may the first search be in vain, so this is one path.
  const PageNumber above = highest_gap_in(area->links.right, area->run.end(), high, pages, limit);
  if (above != kNoPage) return above;
  return highest_gap_in(area->links.left, low, area->run.first, pages, limit);
}

AreaTree::Look AreaTree::look(PageStretch run, std::uint16_t me) const noexcept {
  Look seen = Look::kQuiet;
  for (const Area* area = first_in(run); area != nullptr && area->run.first < run.end();
       area = tree_.at_or_after(area->run.end())) {
    if (area->in_call == me) return Look::kMine;
    if (area->in_call != 0) seen = Look::kElsewhere;
  }
  return seen;
}

// ---- Changing ----

bool AreaTree::prepare(unsigned spares) noexcept {
  while (spare_count_ < spares) {
    void* const memory = books_.allocate(BookKind::kPlain, sizeof(Area));
    if (memory == nullptr) return false;
    keep_spare(*::new (memory) Area);
  }
  return true;
}

Area& AreaTree::take_spare() noexcept {
  EXCLAVE_CHECK(spares_ != nullptr);
  Area& area = *spares_;
  spares_ = area.next;
  --spare_count_;
  area = Area{};
  return area;
}

void AreaTree::keep_spare(Area& area) noexcept {
  area.next = spares_;
  spares_ = &area;
  ++spare_count_;
}

void AreaTree::count_pages(const Area& area, std::int64_t pages) noexcept {
  mapped_pages_ += static_cast<std::uint64_t>(pages);
  if (area.kind.has(AreaKind::kLocked)) locked_pages_ += static_cast<std::uint64_t>(pages);
}

void AreaTree::set_kind(Area& area, AreaKind kind) noexcept {
  count_pages(area, -std::int64_t{area.run.count});
  area.kind = kind;
  count_pages(area, area.run.count);
}

void AreaTree::insert(Area& area) noexcept {
  tree_.insert(area);
  ++count_;
  count_pages(area, area.run.count);
}

void AreaTree::erase(Area& area) noexcept {
  tree_.erase(area);
  --count_;
  count_pages(area, -std::int64_t{area.run.count});
}

Area& AreaTree::add(PageStretch run, AreaKind kind, std::uint16_t in_call) noexcept {
  Area& area = take_spare();
  area.run = run;
  area.kind = kind;
  area.in_call = in_call;
  insert(area);
  return area;
}

void AreaTree::remove(Area& area) noexcept {
  erase(area);
  keep_spare(area);
}

Area& AreaTree::split(Area& area, PageNumber at) noexcept {
  const PageNumber end = area.run.end();
  count_pages(area, -std::int64_t{end - at});
  area.run.count = at - area.run.first;
  tree_.refresh(area);
  return add({at, end - at}, area.kind, area.in_call);
}

Area& AreaTree::cut_out(Area& area, PageStretch part) noexcept {
  if (part.end() != area.run.end()) (void)split(area, part.end());
  return part.first != area.run.first ? split(area, part.first) : area;
}

Area* AreaTree::take_out(PageStretch run) noexcept {
  for (const PageNumber edge : {run.first, run.end()}) {
    if (Area* const area = at(edge); area != nullptr && area->run.first != edge)
      (void)split(*area, edge);
  }
  Area* chain = nullptr;
  Area** link = &chain;
  while (Area* const area = first_in(run)) {
    erase(*area);
    area->next = nullptr;
    *link = area;
    link = &area->next;
  }
  return chain;
}

void AreaTree::put_back(Area* chain) noexcept {
  while (chain != nullptr) {
    Area& area = *chain;
    chain = area.next;
    insert(area);
    (void)join(area);
  }
}

void AreaTree::discard(Area* chain) noexcept {
  while (chain != nullptr) {
    Area& area = *chain;
    chain = area.next;
    keep_spare(area);
  }
}

bool AreaTree::are_one(const Area& low, const Area& high) noexcept {
  return low.run.end() == high.run.first && low.kind == high.kind &&
         !low.kind.has(AreaKind::kShared) && low.in_call == 0 && high.in_call == 0;
}

void AreaTree::extend(Area& low, Area& high) noexcept {
  const PageNumber more = high.run.count;
  remove(high);
  low.run.count += more;
  count_pages(low, more);
  tree_.refresh(low);
}

Area& AreaTree::join(Area& area) noexcept {
  Area* low = &area;
  if (Area* const before = area.run.first != 0 ? at(area.run.first - 1) : nullptr;
      before != nullptr && are_one(*before, area)) {
    extend(*before, area);
    low = before;
  }
  if (Area* const after = at(low->run.end()); after != nullptr && are_one(*low, *after))
    extend(*low, *after);
  return *low;
}

Area& AreaTree::settle(Area& area, AreaKind kind) noexcept {
  set_kind(area, kind);
  area.in_call = 0;
  return join(area);
}

// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool AreaTree::validate() const noexcept {
  if (tree_.validate() != static_cast<std::int64_t>(count_)) return false;
  std::uint64_t pages = 0;
  std::uint64_t locked = 0;
  const Area* before = nullptr;
  for (const Area* area = tree_.at_or_after(0); area != nullptr;
       area = tree_.at_or_after(area->run.end())) {
    if (area->run.count == 0 || area->run.end() > pages_) return false;
    if (before != nullptr && (before->run.end() > area->run.first || are_one(*before, *area)))
      return false;  // GCOVR_EXCL_LINE: as above
    pages += area->run.count;
    locked += area->kind.has(AreaKind::kLocked) ? area->run.count : 0;
    before = area;
  }
  return pages == mapped_pages_ && locked == locked_pages_;
}
// GCOVR_EXCL_BR_STOP

}  // namespace exclave
