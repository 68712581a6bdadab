// The calls that walk over mappings outside: madvise, msync, mlock and its kin, mincore.
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

// Marks the mapping for the length of the host's call, on the part that lies in the range. Nothing
// of its facts changes. Up to the first error: 0, a negative errno, with *hole as advise_outside.
template <class F>
int for_each_mapping(AllocatorCore& core, Extent range, Holes holes, bool* hole,
                     F at_host) noexcept {
  Registry& registry = core.registry();
  const std::uint32_t me = current_thread_slot() + 1;
  for (std::uintptr_t at = range.base; at < range.end();) {
    Region* mapping = nullptr;
    Extent part;
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
      if (region->in_call != 0) continue;  // another thread's call; it ends by itself
      part = common(region->extent(), Extent{at, range.end() - at});
      mapping = region;
      mapping->in_call = me;
    }
    const int error = at_host(part);
    {
      LockGuard guard(registry.lock());
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
  if (takes_pages(call, argument)) {
    LockGuard guard(core.registry().lock());
    if (core.registry().pins_locked().overlaps(range)) return -kEBUSY;
  }
  return for_each_mapping(core, range, holes, hole, [&](Extent part) noexcept {
    const int error = core.host_advise(gate, call, part, argument);
    return error == 0 ? 0 : -documented_errno(call, error);
  });
}

int resident_outside(AllocatorCore& core, Extent range, unsigned char* vector) noexcept {
  if (range.empty()) return 0;
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  bool hole = false;
  const int error = for_each_mapping(core, range, Holes::kStop, &hole, [&](Extent part) noexcept {
    unsigned char* const bytes = vector + ((part.base - range.base) >> kPageShift);
    const int refused = core.host_resident(gate, part, bytes);
    if (refused != 0) return -allowed_errno(refused, {kEAGAIN, kENOMEM, kENOSYS});
    // Of the host's bytes one bit means something.
    for (std::size_t i = 0; i < part.size >> kPageShift; ++i) bytes[i] &= 1;
    return 0;
  });
  return hole ? -kENOMEM : error;
}

int lock_all_outside(AllocatorCore& core, RangeCall call, int argument) noexcept {
  bool hole = false;
  return advise_outside(core, call, {kPageBytes, kAddressLimit - kPageBytes}, argument,
                        Holes::kSkip, &hole);
}

}  // namespace exclave::memcall
