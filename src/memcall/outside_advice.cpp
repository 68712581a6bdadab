// The calls that walk over mappings outside: madvise, msync, mlock and its kin, mincore.
#include "base/backoff.hpp"
#include "memcall/outside.hpp"

namespace exclave::memcall {

using namespace linux_abi;  // NOLINT(google-build-using-namespace): all of it is used here

namespace {

// Would the advice take pages from under a device?
bool takes_pages(RangeCall call, int advice) noexcept {
  return call == EXCLAVE_MADVISE &&
         (advice == kMadvDontNeed || advice == kMadvDontNeedLocked || advice == kMadvFree ||
          advice == kMadvRemove || advice == kMadvPageOut);
}

int documented_errno(RangeCall call, int error) noexcept {
  switch (call) {
    case EXCLAVE_MADVISE:
      return allowed_errno(error, {kEACCES, kEAGAIN, kEBADF, kEBUSY, kEFAULT, kEHWPOISON, kEINVAL,
                                   kENOMEM, kENOSYS, kEPERM});
    case EXCLAVE_MSYNC:
      return allowed_errno(error, {kEBUSY, kEINVAL, kENOMEM, kENOSYS});
    default:
      return allowed_errno(error, {kEAGAIN, kEINVAL, kENOMEM, kENOSYS, kEPERM});
  }
}

// MADV_DONTFORK, MADV_DOFORK, and anything else.
enum class Forks : std::uint8_t { kWithout, kWith, kAsBefore };
Forks forks_of(RangeCall call, int advice) noexcept {
  if (call != EXCLAVE_MADVISE) return Forks::kAsBefore;
  return advice == kMadvDontFork ? Forks::kWithout
         : advice == kMadvDoFork ? Forks::kWith
                                 : Forks::kAsBefore;
}

// Marks the mapping for the length of the host's call, on the part that lies in the range. Nothing
// of its facts changes but what `forks` says; then the part is a mapping of its own. Up to the
// first error: 0, a negative errno, with *hole as advise_outside.
enum class Pinned : bool { kRefused, kAllowed };
template <class F>
int for_each_mapping(AllocatorCore& core, Extent range, Holes holes, bool* hole, Pinned pinned,
                     Forks forks, F at_host) noexcept {
  Registry& registry = core.registry();
  const std::uint32_t me = current_thread_slot() + 1;
  Backoff backoff;
  for (std::uintptr_t at = range.base; at < range.end();) {
    Region* mapping = nullptr;
    Extent part;
    bool was_without = false;
    {
      LockGuard guard(registry.lock());
      Region* const region = registry.first_in_locked({at, range.end() - at});
      const bool here = region != nullptr && region->extent().base <= at &&
                        region->traits().role == Role::kMapping;
      if (!here) {
        *hole = true;
        if (region == nullptr || holes == Holes::kStop) return 0;
        const Extent next = region->extent();
        at = next.base > at ? next.base : next.end();
        continue;
      }
      if (region->in_call == me) return -kEBUSY;
      if (region->in_call == 0) {
        part = common(region->extent(), Extent{at, range.end() - at});
        if (pinned == Pinned::kRefused && registry.pins_locked().overlaps(part)) return -kEBUSY;
        mapping = region;
        if (forks != Forks::kAsBefore) {
          const Result<Region*> isolated = registry.isolate_locked(*region, part);
          // -ENOMEM would say that there is a hole.
          if (!isolated.ok()) return -kEAGAIN;
          mapping = *isolated;
          was_without = mapping->dont_fork;
          // While the host is at it, a child of a fork may not have it.
          mapping->dont_fork |= forks == Forks::kWithout;
        }
        mapping->in_call = me;
      }
    }
    if (mapping == nullptr) {  // another thread's call is at the host; it ends by itself
      backoff.wait();
      continue;
    }
    const int error = at_host(part);
    {
      LockGuard guard(registry.lock());
      if (forks != Forks::kAsBefore)
        mapping->dont_fork = error == 0 ? forks == Forks::kWithout : was_without;
      mapping->in_call = 0;
      registry.join_locked(*mapping);
    }
    if (error != 0) return error;
    at = part.end();
  }
  return 0;
}

}  // namespace

int advise_outside(AllocatorCore& core, RangeCall call, Extent range, int argument, Holes holes,
                   bool* hole) noexcept {
  if (range.empty()) return 0;
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  // Pins may have come since check_pins, too.
  const Pinned pinned = takes_pages(call, argument) ? Pinned::kRefused : Pinned::kAllowed;
  const auto ask = [&](Extent part) noexcept {
    const int error = core.host_advise(gate, call, part, argument);
    return error == 0 ? 0 : -documented_errno(call, error);
  };
  return for_each_mapping(core, range, holes, hole, pinned, forks_of(call, argument), ask);
}

int check_pins(AllocatorCore& core, Extent range, int advice) noexcept {
  Registry& registry = core.registry();
  if (!takes_pages(EXCLAVE_MADVISE, advice) || registry.enclave().covers(range)) return 0;
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  LockGuard guard(registry.lock());
  if (!registry.pins_locked().overlaps(range)) return 0;
  for (std::uintptr_t at = range.base; at < range.end();) {
    const Region* const region = registry.first_in_locked({at, range.end() - at});
    if (region == nullptr) break;
    // A pinned block in a pool is not in the way: pools are holes.
    if (region->traits().role == Role::kMapping &&
        registry.pins_locked().overlaps(common(region->extent(), range))) {
      return -kEBUSY;
    }
    at = region->extent().end();
  }
  return 0;
}

int resident_outside(AllocatorCore& core, Extent range, unsigned char* vector) noexcept {
  if (range.empty()) return 0;
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  bool hole = false;
  const auto ask = [&](Extent part) noexcept {
    unsigned char* const bytes = vector + ((part.base - range.base) >> kPageShift);
    const int refused = core.host_resident(gate, part, bytes);
    if (refused != 0) return -allowed_errno(refused, {kEAGAIN, kENOMEM, kENOSYS});
    // Of the host's bytes one bit means something.
    for (std::size_t i = 0; i < part.size >> kPageShift; ++i) bytes[i] &= 1;
    return 0;
  };
  const int error =
      for_each_mapping(core, range, Holes::kStop, &hole, Pinned::kAllowed, Forks::kAsBefore, ask);
  return hole ? -kENOMEM : error;
}

int lock_all_outside(AllocatorCore& core, RangeCall call, int argument) noexcept {
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  constexpr Extent kAll{kPageBytes, kAddressLimit - kPageBytes};
  bool hole = false;
  const auto ask = [&](Extent part) noexcept {
    const int error = core.host_advise(gate, call, part, argument);
    // As on Linux, what cannot be touched does not keep the rest from being locked.
    if (error == 0 || (error == kENOMEM && call == EXCLAVE_MLOCK)) return 0;
    return -documented_errno(call, error);
  };
  return for_each_mapping(core, kAll, Holes::kSkip, &hole, Pinned::kAllowed, Forks::kAsBefore, ask);
}

}  // namespace exclave::memcall
