// mremap and brk of the enclave's own memory.
#include "memcall/enclave_core.hpp"
#include "memcall/linux_abi.hpp"

namespace exclave::core {

using namespace linux_abi;  // NOLINT(google-build-using-namespace): all of it is used here

// ---- mremap ----

bool EnclaveCore::is_mapped(Mark me, PageNumber page) noexcept {
  const Section section(*this, me);
  return areas_.at(page) != nullptr;
}

std::intptr_t EnclaveCore::remap(std::uintptr_t old_address, std::size_t old_size,
                                 std::size_t new_size, int flags,
                                 std::uintptr_t new_address) noexcept {
  Move move;
  move.may_move = (flags & kMremapMayMove) != 0;
  move.fixed = (flags & kMremapFixed) != 0;
  move.keep = (flags & kMremapDontUnmap) != 0;
  if ((flags & ~kMremapAll) != 0 || (move.fixed && !move.may_move)) return -kEINVAL;
  if (move.keep && (!move.may_move || old_size != new_size)) return -kEINVAL;
  if (!is_aligned(old_address, kPageBytes)) return -kEINVAL;
  // As in Linux, what wraps is 0.
  Extent old_range{old_address, align_up(old_size, kPageBytes)};
  const Extent new_range{new_address, align_up(new_size, kPageBytes)};
  if (new_range.size == 0) return -kEINVAL;
  if (!options_.range.contains(old_address)) return -kEFAULT;
  Mark me = 0;
  if (const int bad = enter(&me); bad != 0) return bad;
  const PageNumber first = run_of({old_address, kPageBytes}).first;
  if (!is_mapped(me, first)) return -kEFAULT;

  if (move.fixed) {
    if (!is_aligned(new_address, kPageBytes)) return -kEINVAL;
    if (new_range.size > kAddressLimit || new_address > kAddressLimit - new_range.size)
      return -kEINVAL;
    if (old_range.size <= kAddressLimit && old_range.overlaps(new_range)) return -kEINVAL;
    if (!options_.range.covers(new_range)) return -kENOMEM;
  }
  // A second mapping of the same pages, which the enclave does not have.
  if (old_range.size == 0) return -kEINVAL;
  // What is cut off goes first, and may lie in several areas or none.
  if (new_range.size < old_range.size) {
    const int error = unmap(old_address + new_range.size, old_range.size - new_range.size);
    if (error != 0) return error;
    old_range.size = new_range.size;
  }
  if (!move.fixed && !move.keep && old_range.size == new_range.size)
    return static_cast<std::intptr_t>(old_address);
  if (!options_.range.covers(old_range)) return -kEFAULT;
  if (new_range.size > options_.range.size) return -kENOMEM;
  move.from = run_of(old_range);
  move.to = {kNoPage, run_of({0, new_range.size}).count};
  if (move.fixed) move.to = run_of(new_range);
  return remap_pages(me, &move);
}

std::intptr_t EnclaveCore::remap_pages(Mark me, Move* move) noexcept {
  if (const int refused = claim_move(me, move); refused != 0) return refused;
  return move->in_place ? grow(me, *move) : carry_over(me, *move);
}

// May it be done now? *again: not yet.
int EnclaveCore::look_at_move_locked(Mark me, const Move& move, bool* again) noexcept {
  const Area* const area = areas_.at(move.from.first);
  // GCOVR_EXCL_BR_START: it was there a moment ago, but for a race
  if (area == nullptr) return -kEFAULT;
  // GCOVR_EXCL_BR_STOP
  const AreaTree::Look source = areas_.look(move.from, me);
  if (source == AreaTree::Look::kMine) return -kEBUSY;
  // Areas that do not join only because another thread is at work on one of them.
  *again = source == AreaTree::Look::kElsewhere;
  if (*again) return 0;
  if (area->run.end() < move.from.end()) return -kEFAULT;
  // Of a file's copy there are no more bytes to be had.
  const bool from_file = area->kind.has(AreaKind::kFromFile);
  if (from_file && move.to.count > move.from.count) return -kEFAULT;
  if (from_file && move.keep) return -kEINVAL;
  const AreaTree::Look target = move.fixed ? areas_.look(move.to, me) : AreaTree::Look::kQuiet;
  if (target == AreaTree::Look::kMine) return -kEBUSY;
  *again = target == AreaTree::Look::kElsewhere;
  return 0;
}

int EnclaveCore::claim_move(Mark me, Move* move) noexcept {
  for (Backoff backoff;; wait_for_others(&backoff)) {
    const Section section(*this, me);
    bool again = false;
    if (const int bad = look_at_move_locked(me, *move, &again); bad != 0) return bad;
    if (again) continue;
    if (!areas_.prepare(5)) return -kENOMEM;
    Area& area = *areas_.at(move->from.first);
    move->kind = area.kind;
    const PageStretch rest{move->from.end(), move->to.count - move->from.count};
    move->in_place = !move->fixed && !move->keep && rest.first == area.run.end() &&
                     rest.count <= run_of(options_.range).count - rest.first &&
                     areas_.first_in(rest) == nullptr;
    if (move->in_place) {
      move->source = &area;
      move->held = &areas_.add(rest, AreaKind{}, me);
    } else {
      if (!move->may_move || is_full_locked()) return -kENOMEM;
      if (!move->fixed) move->to.first = find_place(move->to.count, run_of(options_.range).count);
      if (move->to.first == kNoPage) return -kENOMEM;
      move->source = &areas_.cut_out(area, move->from);
      move->replaced = areas_.take_out(move->to);
      move->held = &areas_.add(move->to, AreaKind{}, me);
    }
    move->source->in_call = me;
    ++under_way_;
    return 0;
  }
}

std::intptr_t EnclaveCore::grow(Mark me, const Move& move) noexcept {
  int error = 0;
  {
    const Work work(*this, me);
    const Extent whole = extent_of({move.from.first, move.to.count});
    const Extent more = extent_of(move.held->run);
    if (may_lock(me, move.kind, more.size) != 0) {
      error = -kEAGAIN;
    } else {
      error =
          is_stretched(move.kind) ? stretch(extent_of(move.from), whole) : commit(more, move.kind);
    }
  }
  const Section section(*this, me);
  --under_way_;
  if (error == 0) {
    // The new pages are the area's own, also where a neighbour is not joined.
    areas_.extend(*move.source, *move.held);
    note_peak_locked();
  } else {
    areas_.remove(*move.held);
  }
  (void)areas_.settle(*move.source, move.kind);
  return error != 0 ? error : static_cast<std::intptr_t>(extent_of(move.from).base);
}

// To another place. What stands there goes first and, as on Linux, stays away when the move fails.
std::intptr_t EnclaveCore::carry_over(Mark me, const Move& move) noexcept {
  const Extent from = extent_of(move.from);
  const Extent to = extent_of(move.to);
  const Extent tail{to.base + from.size, to.size - from.size};
  bool target_stays = false;
  bool tail_stays = false;
  int error = 0;
  {
    const Work work(*this, me);
    if (move.replaced != nullptr) error = drop(to);
    target_stays = error != 0;
    if (error == 0 && !tail.empty() && may_lock(me, move.kind, tail.size) != 0) error = -kEAGAIN;
    if (error == 0 && !tail.empty() && is_stretched(move.kind)) {
      error = stretch(from, to);
    } else if (error == 0) {
      if (!tail.empty()) error = commit(tail, move.kind);
      if (error == 0) {
        error = errno_of(this->move(from, to.base, move.kind.protection, move.keep));
        tail_stays = error != 0 && !tail.empty() && drop(tail) != 0;
      }
    }
  }
  const Section section(*this, me);
  --under_way_;
  if (error == 0 && !move.keep) {
    areas_.remove(*move.source);
  } else {
    // As on Linux, a lock goes with the pages.
    (void)areas_.settle(*move.source, error == 0 ? move.kind.unlocked() : move.kind);
  }
  if (error == 0) {
    areas_.discard(move.replaced);
    (void)areas_.settle(*move.held, move.kind);
    note_peak_locked();
    return static_cast<std::intptr_t>(to.base);
  }
  areas_.remove(*move.held);
  if (target_stays) {
    areas_.put_back(move.replaced);
  } else {
    areas_.discard(move.replaced);
  }
  // Pages that would not go can be touched, so they are an area.
  if (tail_stays) (void)areas_.settle(areas_.add(run_of(tail), move.kind, me), move.kind);
  return error;
}

// ---- brk ----

int EnclaveCore::start_break(std::uintptr_t address) noexcept {
  Mark me = 0;
  if (const int bad = enter(&me); bad != 0) return bad;
  if (!options_.range.contains(address)) return -kEINVAL;
  const Section section(*this, me);
  if (break_in_call_ != 0 || break_.load(std::memory_order_relaxed) != first_break_) return -kEBUSY;
  first_break_ = address;
  break_.store(address, std::memory_order_relaxed);
  return 0;
}

std::uintptr_t EnclaveCore::set_break(std::uintptr_t address) noexcept {
  Mark me = 0;
  if (enter(&me) != 0) return break_.load(std::memory_order_relaxed);
  std::uintptr_t old_end = 0;
  const std::uintptr_t new_end = align_up(address, kPageBytes);
  for (Backoff backoff;; wait_for_others(&backoff)) {
    const Section section(*this, me);
    const std::uintptr_t present = break_.load(std::memory_order_relaxed);
    if (break_in_call_ == me || address < first_break_ || address > options_.range.end())
      return present;
    if (break_in_call_ != 0) continue;
    old_end = align_up(present, kPageBytes);
    if (new_end == old_end) {
      break_.store(address, std::memory_order_relaxed);
      return address;
    }
    break_in_call_ = me;
    ++under_way_;
    break;
  }
  std::intptr_t error = 0;
  {
    // A fork from a handler would find the break between two sections.
    const Work work(*this, me);
    if (new_end < old_end) {
      error = unmap(new_end, old_end - new_end);
    } else {
      const std::intptr_t at = map(old_end, new_end - old_end, kProtRead | kProtWrite,
                                   kMapPrivate | kMapAnonymous | kMapFixedNoReplace, -1, 0);
      error = at < 0 ? at : 0;
    }
  }
  const Section section(*this, me);
  --under_way_;
  break_in_call_ = 0;
  if (error == 0) break_.store(address, std::memory_order_relaxed);
  return break_.load(std::memory_order_relaxed);
}

}  // namespace exclave::core
