// mremap of the application's mappings outside.
//
// A mapping that grows where it stands gets its new pages in the books after the host has answered,
// as a mapping that comes. One that moves is taken out before the host is asked, as one that goes;
// and the place it goes to is the application's, and in the books, before anything moves. So
// nothing is left to decide when the host has answered, and whatever it answered the books are
// true: on success the new place holds the mapping, else the old one does.
#include "base/backoff.hpp"
#include "memcall/outside.hpp"
#include "memcall/replacement.hpp"
#include "region/verify.hpp"

namespace exclave::memcall {

using namespace linux_abi;  // NOLINT(google-build-using-namespace): all of it is used here

namespace {

int refused(int error) noexcept {
  return -allowed_errno(error, {kEAGAIN, kEFAULT, kEINVAL, kENOMEM, kENOSYS, kEPERM});
}

enum class Pinned : bool { kRefused, kAllowed };

// The mapping in which the old range wholly lies, marked for this thread's call.
Result<Region*> mark_source(AllocatorCore& core, Extent from, Pinned pinned) noexcept {
  Registry& registry = core.registry();
  const std::uint32_t me = current_thread_slot() + 1;
  for (Backoff backoff;; backoff.wait()) {
    LockGuard guard(registry.lock());
    Region* const mapping = registry.region_at_locked(from.base);
    // GCOVR_EXCL_BR_START: it was a mapping a moment ago, but for a race
    if (mapping == nullptr || mapping->traits().role != Role::kMapping ||
        mapping->extent().end() < from.end()) {
      return Error::kNotFound;
    }
    // GCOVR_EXCL_BR_STOP
    if (pinned == Pinned::kRefused && registry.pins_locked().overlaps(from)) return Error::kPinned;
    if (mapping->in_call == me) return Error::kBusy;
    if (mapping->in_call != 0) continue;  // another thread's call; it ends by itself
    mapping->in_call = me;
    return mapping;
  }
}

enum class Pages : bool { kStay, kLeft };

// kLeft: its pages have gone to another place, and others stand here.
void unmark(AllocatorCore& core, Region& mapping, Pages pages) noexcept {
  LockGuard guard(core.registry().lock());
  mapping.in_call = 0;
  if (pages == Pages::kLeft) core.registry().forget_device_address_locked(mapping);
  core.registry().join_locked(mapping);
}

// One mapping taken out of the books for a move, or none.
Result<Region*> take_source(AllocatorCore& core, AllocatorCore::Gate& gate, Extent from) noexcept {
  const Result<Region*> taken = core.take_mappings_out(from, false);
  if (!taken.ok() || (*taken)->next_taken == nullptr) return taken;
  for (Region* mapping = *taken; mapping != nullptr;) {
    Region* const next = mapping->next_taken;
    // GCOVR_EXCL_BR_START: a race: its place was free a moment ago
    if (!core.registry().put_back(*mapping).ok()) core.finish_region(gate, *mapping);
    // GCOVR_EXCL_BR_STOP
    mapping = next;
  }
  return Error::kNotFound;
}

int source_error(Error error) noexcept {
  return error == Error::kNotFound ? -kEFAULT : error_number(error);
}

// -ENOMEM: there is no room behind it, as the books or the host say.
std::intptr_t grow_in_place(AllocatorCore& core, AllocatorCore::Gate& gate, Extent from,
                            std::size_t new_size) noexcept {
  Registry& registry = core.registry();
  const Extent tail{from.end(), new_size - from.size};
  const Result<Region*> source = mark_source(core, from, Pinned::kAllowed);
  if (!source.ok()) return source_error(source.error());
  Region& mapping = **source;
  std::intptr_t answer = -kENOMEM;
  // (Its own pages may stand behind the old range, too.)
  const bool room = check_outside(tail, registry.enclave()).ok() && !registry.overlaps(tail);
  const Result<Region*> made =
      room ? registry.create_like(mapping, tail.base, tail) : Error::kOutOfTrustedMemory;
  if (made.ok()) {
    const HostReply reply = core.host_remap(gate, from, new_size, 0, 0);
    if (reply.error != 0) {
      answer = refused(reply.error);
    } else if (reply.address != from.base) {
      core.count_lie();
      answer = -kEPERM;
    } else {
      const Status inserted = registry.insert(**made);
      if (inserted.ok()) {
        unmark(core, mapping, Pages::kStay);
        return static_cast<std::intptr_t>(from.base);
      }
      if (inserted.error() == Error::kOverlap) {
        core.count_lie();
        answer = -kEPERM;
      } else {
        (void)core.host_unmap(gate, tail);
      }
    }
    registry.destroy(**made);
  }
  unmark(core, mapping, Pages::kStay);
  return answer;
}

// To the place that `landing` holds.
std::intptr_t move_to(AllocatorCore& core, AllocatorCore::Gate& gate, Extent from, bool leaves,
                      int flags, Replacement& landing) noexcept {
  Registry& registry = core.registry();
  const Result<Region*> source =
      leaves ? take_source(core, gate, from) : mark_source(core, from, Pinned::kRefused);
  if (!source.ok()) return source_error(source.error());
  Region& mapping = **source;
  const auto old_stands = [&]() noexcept {
    if (!leaves) {
      unmark(core, mapping, Pages::kStay);
    } else if (!registry.put_back(mapping).ok()) {
      // Another took its place meanwhile: the host lied, and it is gone.
      core.finish_region(gate, mapping);
    }
  };
  const Extent to = landing.target();
  const Protection protection = mapping.traits().protection;
  if (const int bad = landing.hold(registry.create_like(mapping, from.base, to)); bad != 0) {
    old_stands();
    return bad;
  }
  const HostReply reply = core.host_remap(gate, from, to.size, flags, to.base);
  if (reply.error != 0 || reply.address != to.base) {
    old_stands();
    if (reply.error != 0) return refused(reply.error);
    core.count_lie();
    return -kEPERM;
  }
  // Its owner is not told that it is gone, for it lives on.
  if (leaves) {
    registry.destroy(mapping);
  } else {
    // From nothing: the same pages stand in both places.
    unmark(core, mapping, from.empty() ? Pages::kStay : Pages::kLeft);
  }
  landing.done(protection);
  return static_cast<std::intptr_t>(to.base);
}

}  // namespace

std::intptr_t remap_outside(AllocatorCore& core, Extent from, std::size_t new_size, int flags,
                            std::uintptr_t target) noexcept {
  const bool fixed = (flags & kMremapFixed) != 0;
  const bool keep = (flags & kMremapDontUnmap) != 0;
  const bool may_move = (flags & kMremapMayMove) != 0;
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  if (!fixed && !keep && !from.empty()) {
    const std::intptr_t answer = grow_in_place(core, gate, from, new_size);
    if (answer != -kENOMEM) return answer;
  }
  if (!may_move) return -kENOMEM;
  Replacement landing(core, gate);
  if (fixed) {
    const Extent place{target, new_size};
    if (const int bad = check_fixed(core.registry(), place, true); bad != 0) return bad;
    if (const int bad = landing.begin(place, Replacement::Fill::kAlways); bad != 0) return bad;
  } else {
    if (const int bad = landing.begin_anywhere(new_size); bad != 0) return bad;
  }
  const bool leaves = !keep && !from.empty();
  const int host_flags = kMremapMayMove | kMremapFixed | (keep ? kMremapDontUnmap : 0);
  return move_to(core, gate, from, leaves, host_flags, landing);
}

}  // namespace exclave::memcall
