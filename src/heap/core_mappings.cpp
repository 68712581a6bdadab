// For the memory calls: mappings taken out of the books, and the host calls, counted.
#include "base/backoff.hpp"
#include "heap/core.hpp"

namespace exclave::core {
namespace {

constexpr int kNoSuchCall = 38;  // ENOSYS

}  // namespace

// ---- The books ----

// Can the mappings in the range go? *first and *last are the outermost ones, null when there is
// none.
Status AllocatorCore::look_at_mappings_locked(Extent range, bool holes_ok, Region** first,
                                              Region** last) noexcept {
  const std::uint32_t me = current_thread_slot() + 1;
  *first = *last = nullptr;
  std::uintptr_t covered = range.base;
  bool elsewhere = false;
  for (std::uintptr_t at = range.base; at < range.end();) {
    Region* const region = registry_.first_in_locked({at, range.end() - at});
    if (region == nullptr) break;
    const Extent part = common(region->extent(), range);
    at = region->extent().end();
    if (region->traits().role != Role::kMapping) continue;
    if (registry_.pins_locked().overlaps(part)) return Error::kPinned;
    if (region->in_call == me) return Error::kBusy;
    elsewhere |= region->in_call != 0;
    if (*first == nullptr) *first = region;
    *last = region;
    if (part.base == covered) covered = part.end();
  }
  if (!holes_ok && covered < range.end()) return Error::kNotFound;
  return elsewhere ? Error::kWouldBlock : Error::kNone;
}

// A place whose pages the host is still to be told to unmap stays reserved: were it free in the
// books, the host could hand it out as a growth, and later be asked to unmap that.
Result<Region*> AllocatorCore::take_mappings_out(Extent range, bool holes_ok,
                                                 Leaves leaves) noexcept {
  for (Backoff backoff;; backoff.wait()) {
    LockGuard guard(registry_.lock());
    // The usual case, in short: all of one mapping, and nothing in its way.
    if (Region* const only = registry_.region_at_locked(range.base);
        leaves == Leaves::kFirst && only != nullptr && only->extent() == range &&
        only->traits().role == Role::kMapping && only->in_call == 0 &&
        !registry_.pins_locked().overlaps(range)) {
      registry_.take_out_locked(*only);
      only->next_taken = nullptr;
      return only;
    }
    // First look, then change: nothing has happened if anything stands in the way.
    Region* first = nullptr;
    Region* last = nullptr;
    const Status looked = look_at_mappings_locked(range, holes_ok, &first, &last);
    if (looked.error() == Error::kWouldBlock)
      continue;  // another thread's call is at the host; it ends by itself
    if (!looked.ok()) return looked.error();
    if (first == nullptr) return static_cast<Region*>(nullptr);

    // Cut the edges. A cut moves no byte in or out of the books.
    if (last != first) {
      if (Result<Region*> cut = registry_.isolate_locked(*last, common(last->extent(), range));
          !cut.ok())
        return cut.error();
    }
    const Result<Region*> lowest = registry_.isolate_locked(*first, common(first->extent(), range));
    if (!lowest.ok()) {
      registry_.join_locked(*last);
      return lowest.error();
    }

    Region* chain = nullptr;
    Region** link = &chain;
    for (Region* region = *lowest; region != nullptr;) {
      const std::uintptr_t at = region->extent().end();
      if (region->traits().role == Role::kMapping) {
        if (link == &chain && leaves == Leaves::kFirst) {
          registry_.take_out_locked(*region);
        } else {
          registry_.reserve_place_locked(*region, current_thread_slot() + 1);
        }
        region->next_taken = nullptr;
        *link = region;
        link = &region->next_taken;
      }
      region = at < range.end() ? registry_.first_in_locked({at, range.end() - at}) : nullptr;
    }
    return chain;
  }
}

// ---- The host ----

HostReply AllocatorCore::host_map(Gate& gate, const MapRequest& request) noexcept {
  HostCall call(gate, map_calls_);
  return port_.host_map(port_.context, &request);
}

int AllocatorCore::host_unmap(Gate& gate, Extent range) noexcept {
  HostCall call(gate, unmap_calls_);
  return port_.host_unmap(port_.context, range.base, range.size);
}

int AllocatorCore::host_protect(Gate& gate, Extent range, int protection) noexcept {
  HostCall call(gate, protect_calls_);
  return port_.host_protect(port_.context, range.base, range.size, protection);
}

HostReply AllocatorCore::host_remap(Gate& gate, Extent from, std::size_t new_size, int flags,
                                    std::uintptr_t to) noexcept {
  if (port_.host_remap == nullptr) return {0, kNoSuchCall};
  HostCall call(gate, remap_calls_);
  return port_.host_remap(port_.context, from.base, from.size, new_size, flags, to);
}

int AllocatorCore::host_advise(Gate& gate, RangeCall what, Extent range, int argument) noexcept {
  if (port_.host_advise == nullptr) return kNoSuchCall;
  HostCall call(gate, advise_calls_);
  return port_.host_advise(port_.context, what, range.base, range.size, argument);
}

int AllocatorCore::host_resident(Gate& gate, Extent range, unsigned char* vector) noexcept {
  if (port_.host_resident == nullptr) return kNoSuchCall;
  HostCall call(gate, advise_calls_);
  return port_.host_resident(port_.context, range.base, range.size, vector);
}

}  // namespace exclave::core
