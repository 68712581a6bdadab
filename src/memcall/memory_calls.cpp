// mmap, munmap and mprotect of the application: decode, validate, perform, verify.
//
// Each call is cut at the enclave's edges: what lies inside goes to the enclave's own manager, what
// lies outside is served here from the registry. Only pages that stand in the books as the
// application's mappings reach the host. The books change before the host is asked when pages go,
// and after it answered when pages come. Every host call is made under no lock; a mapping whose
// protection is at the host is marked, and others wait for it.
#include "exclave/memory_calls.hpp"

#include <initializer_list>

#include "base/extents.hpp"
#include "heap/core.hpp"
#include "memcall/linux_abi.hpp"
#include "region/verify.hpp"

namespace exclave {
namespace {

using core::AllocatorCore;
using namespace linux_abi;  // NOLINT(google-build-using-namespace): all of it is used here

// The errnos that Linux documents for the call; whatever else the host says is EIO. (An errno of
// the host's choice could steer the application: an Iago attack.)
int allowed_errno(int error, std::initializer_list<int> documented) noexcept {
  for (const int known : documented) {
    if (error == known) return error;
  }
  return kEIO;
}

Protection protection_of(int bits) noexcept {
  return static_cast<Protection>(bits & (kProtRead | kProtWrite));
}

// Of what a gate or the books refuse.
int error_number(Error error) noexcept {
  switch (error) {
    case Error::kPinned:
    case Error::kBusy:
    case Error::kReentered:
      return -kEBUSY;
    case Error::kTooManyThreads:
      return -kEAGAIN;
    default:
      return -kENOMEM;  // kOutOfTrustedMemory
  }
}

// ---- munmap ----

// What the host refuses stays in the books, and the first refusal is the answer.
int unmap_mappings(AllocatorCore& core, AllocatorCore::Gate& gate, Extent range) noexcept {
  const Result<Region*> taken = core.take_mappings_out(range, true);
  if (!taken.ok()) return error_number(taken.error());
  int result = 0;
  for (Region* mapping = *taken; mapping != nullptr;) {
    Region* const next = mapping->next_taken;
    const int error = core.host_unmap(gate, mapping->extent());
    if (error == 0) {
      core.finish_region(gate, *mapping);
    } else {
      // Unless another took its place meanwhile: then the host lied, and the old one is gone.
      if (!core.registry().put_back(*mapping).ok()) core.finish_region(gate, *mapping);
      if (result == 0) result = -allowed_errno(error, {kEINVAL, kENOMEM, kEPERM});
    }
    mapping = next;
  }
  return result;
}

int unmap_outside(AllocatorCore& core, Extent range) noexcept {
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  return unmap_mappings(core, gate, range);
}

// ---- mprotect ----

// Changes the mappings from the start of the range up to its end or the first hole.
int protect_outside(AllocatorCore& core, Extent range, int bits) noexcept {
  if (range.empty()) return 0;
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  Registry& registry = core.registry();
  const std::uint32_t me = current_thread_slot() + 1;
  const Protection wanted = protection_of(bits);
  for (std::uintptr_t at = range.base; at < range.end();) {
    Region* piece = nullptr;
    Extent part;
    Protection before = Protection::kNone;
    {
      LockGuard guard(registry.lock());
      Region* const mapping = registry.region_at_locked(at);
      if (mapping == nullptr || mapping->traits().role != Role::kMapping) return -kENOMEM;
      if (mapping->in_call == me) return -kEBUSY;
      if (mapping->in_call != 0)
        continue;  // another thread's call is at the host; it ends by itself
      const std::uintptr_t end =
          mapping->extent().end() < range.end() ? mapping->extent().end() : range.end();
      part = {at, end - at};
      const Result<Region*> isolated = registry.isolate_locked(*mapping, part);
      if (!isolated.ok()) return error_number(isolated.error());
      piece = *isolated;
      piece->in_call = me;
      // Until the host has answered, only what holds before and after is promised.
      before = piece->traits().protection;
      registry.set_protection_locked(
          *piece,
          static_cast<Protection>(static_cast<unsigned>(before) & static_cast<unsigned>(wanted)));
    }
    const int error = core.host_protect(gate, part, bits);
    {
      LockGuard guard(registry.lock());
      registry.set_protection_locked(*piece, error == 0 ? wanted : before);
      piece->in_call = 0;
      registry.join_locked(*piece);
    }
    if (error != 0) return -allowed_errno(error, {kEACCES, kEINVAL, kENOMEM, kEPERM});
    at = part.end();
  }
  return 0;
}

// ---- mmap ----

// Nothing that is not the application's may be replaced: a fixed address must lie on free ground or
// on its own mappings.
int check_fixed(Registry& registry, Extent range, bool replace) noexcept {
  if (!check_outside(range, registry.enclave()).ok()) return -kEINVAL;
  LockGuard guard(registry.lock());
  for (std::uintptr_t at = range.base; at < range.end();) {
    Region* const region = registry.first_in_locked({at, range.end() - at});
    if (region == nullptr) break;
    if (region->traits().role != Role::kMapping) return replace ? -kEBUSY : -kEEXIST;
    if (!replace) return -kEEXIST;
    at = region->extent().end();
  }
  return 0;
}

// Replaces what stands at a fixed address, all at once or not at all. What stands there leaves the
// books; the gaps are filled with inaccessible memory, which fails where somebody else's stands.
// Then every page of the target is ours, and the host may be told to replace it.
class Replacement {
 public:
  Replacement(AllocatorCore& core, AllocatorCore::Gate& gate, Extent target) noexcept
      : core_(core), gate_(gate), target_(target), filled_to_(target.base) {}
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;
  // What was not replaced stands again.
  ~Replacement() {
    for_each_gap([this](Extent gap) noexcept {
      if (gap.base < filled_to_) (void)core_.host_unmap(gate_, gap);
      return 0;
    });
    for (Region* mapping = chain_; mapping != nullptr;) {
      Region* const next = mapping->next_taken;
      if (!core_.registry().put_back(*mapping).ok()) core_.finish_region(gate_, *mapping);
      mapping = next;
    }
  }

  // 0 or a negative errno. Afterwards needed() says whether there is anything to replace.
  int begin() noexcept {
    const Result<Region*> taken = core_.take_mappings_out(target_, true);
    if (!taken.ok()) return error_number(taken.error());
    chain_ = *taken;
    if (chain_ == nullptr) return 0;
    return for_each_gap([this](Extent gap) noexcept { return fill(gap); });
  }
  bool needed() const noexcept { return chain_ != nullptr; }
  // The host has replaced all of it.
  void done() noexcept {
    filled_to_ = target_.base;
    while (chain_ != nullptr) {
      Region& mapping = *chain_;
      chain_ = mapping.next_taken;
      core_.finish_region(gate_, mapping);
    }
  }

 private:
  int fill(Extent gap) noexcept {
    MapRequest filler{};
    filler.hint = gap.base;
    filler.size = gap.size;
    filler.flags = kMapPrivate | kMapAnonymous | kMapNoReserve | kMapFixedNoReplace;
    filler.descriptor = -1;
    const HostReply reply = core_.host_map(gate_, filler);
    const Result<Extent> range =
        verify_reply(reply, gap.size, kPageBytes, gap.base, core_.registry().enclave());
    if (range.ok()) {
      filled_to_ = gap.end();
      return 0;
    }
    if (range.error() != Error::kHostLied)
      return -allowed_errno(reply.error, {kEEXIST, kENOMEM, kEPERM});
    core_.count_lie();
    return -kEPERM;
  }
  // Up to the first error.
  template <class F>
  int for_each_gap(F visit) noexcept {
    std::uintptr_t at = target_.base;
    for (const Region* mapping = chain_;; mapping = mapping->next_taken) {
      const Extent next = mapping != nullptr ? mapping->extent() : Extent{target_.end(), 0};
      if (next.base > at) {
        if (const int error = visit(Extent{at, next.base - at}); error != 0) return error;
      }
      if (mapping == nullptr) return 0;
      at = next.end();
    }
  }

  AllocatorCore& core_;
  AllocatorCore::Gate& gate_;
  const Extent target_;
  Region* chain_ = nullptr;
  std::uintptr_t filled_to_;  // the gaps below are filled
};

std::intptr_t map_outside(AllocatorCore& core, const MapRequest& asked) noexcept {
  constexpr int kBadFlags = kMapAnonymous | kMapGrowsDown;
  const int type = asked.flags & kMapTypeMask;
  if (asked.flags & kBadFlags ||
      (type != kMapShared && type != kMapPrivate && type != kMapSharedValidate))
    return -kEINVAL;
  if (asked.protection & kProtExec) return -kEACCES;
  if (asked.protection & ~kProtAll) return -kEINVAL;
  MapRequest request = asked;
  Registry& registry = core.registry();
  const bool fixed = (asked.flags & (kMapFixed | kMapFixedNoReplace)) != 0;
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  const Extent target{request.hint, request.size};
  Replacement replacement(core, gate, target);
  if (fixed) {
    const bool replace = (asked.flags & kMapFixedNoReplace) == 0;
    if (const int bad = check_fixed(registry, target, replace); bad != 0) return bad;
    if (replace) {
      if (const int bad = replacement.begin(); bad != 0) return bad;
    }
    // On free ground the host may only fill a gap: told to replace, it could replace what we know
    // nothing of.
    request.flags &= ~(kMapFixed | kMapFixedNoReplace);
    request.flags |= replacement.needed() ? kMapFixed : kMapFixedNoReplace;
  }

  const HostReply reply = core.host_map(gate, request);
  const Result<Extent> range =
      verify_reply(reply, request.size, kPageBytes, fixed ? request.hint : 0, registry.enclave());
  if (!range.ok()) {
    if (range.error() == Error::kHostLied) {
      core.count_lie();
      return -kEPERM;
    }
    return -allowed_errno(reply.error,
                          {kEACCES, kEAGAIN, kEBADF, kEEXIST, kEINVAL, kENFILE, kENODEV, kENOMEM,
                           kEOVERFLOW, kEPERM, kETXTBSY, kEOPNOTSUPP});
  }
  replacement.done();
  AttachOptions options;
  options.role = Role::kMapping;
  options.protection = protection_of(request.protection);
  const Result<Region*> made = registry.create(*range, options, false);
  const Status inserted = made.ok() ? registry.insert(**made) : Status(made.error());
  if (inserted.ok()) return static_cast<std::intptr_t>(range->base);
  if (made.ok()) registry.destroy(**made);
  if (inserted.error() == Error::kOverlap || registry.overlaps(*range)) {
    // The host points at memory that stands in the books: not ours to unmap.
    core.count_lie();
    return -kEPERM;
  }
  (void)core.host_unmap(gate, *range);
  return -kENOMEM;
}

}  // namespace

std::intptr_t MemoryCalls::mmap(std::uintptr_t address, std::size_t length, int protection,
                                int flags, int descriptor, std::uint64_t offset) noexcept {
  AllocatorCore& core = *core_;
  const Extent enclave = core.registry().enclave();
  std::uint64_t size = 0;
  if (length == 0) return -kEINVAL;
  if (!checked_align_up(length, kPageBytes, &size) || size > kAddressLimit) return -kENOMEM;
  const bool fixed = (flags & (kMapFixed | kMapFixedNoReplace)) != 0;
  if (fixed && address > kAddressLimit - size) return -kENOMEM;
  if (fixed && !is_aligned(address, kPageBytes)) return -kEINVAL;
  const bool outside =
      (flags & kMapAnonymous) == 0 && inside_.lies_outside != nullptr &&
      inside_.lies_outside(inside_.context, protection, flags, descriptor, offset) != 0;
  if (outside) {
    // A hint that cannot be met is none.
    const bool usable = address <= kAddressLimit - size && !Extent{address, size}.overlaps(enclave);
    MapRequest request{};
    request.hint = fixed || usable ? address : 0;
    request.size = size;
    request.protection = protection;
    request.flags = flags;
    request.descriptor = descriptor;
    request.offset = offset;
    return map_outside(core, request);
  }
  // Private memory never lies outside, wherever it was asked for.
  if (fixed && !enclave.covers({address, size})) return -kENOMEM;
  return inside_.map(inside_.context, address, length, protection, flags, descriptor, offset);
}

int MemoryCalls::munmap(std::uintptr_t address, std::size_t length) noexcept {
  Extent range;
  if (!decode_pages(address, length, &range)) return -kEINVAL;
  AllocatorCore& core = *core_;
  const Parts<std::uintptr_t> parts = cut_by(range, core.registry().enclave());
  // The outside first, and in one: only there can a pin refuse, and then nothing has changed. (No
  // mapping stands in the enclave's part.)
  int result = parts.inside == range ? 0 : unmap_outside(core, range);
  if (result == 0 && !parts.inside.empty()) {
    result = inside_.unmap(inside_.context, parts.inside.base, parts.inside.size);
  }
  return result;
}

int MemoryCalls::mprotect(std::uintptr_t address, std::size_t length, int protection) noexcept {
  if (protection & ~kProtAll) return -kEINVAL;
  if (!is_aligned(address, kPageBytes)) return -kEINVAL;
  if (length == 0) return 0;
  Extent range;
  if (!decode_pages(address, length, &range)) return -kENOMEM;
  AllocatorCore& core = *core_;
  const Parts<std::uintptr_t> parts = cut_by(range, core.registry().enclave());
  if ((protection & kProtExec) && (!parts.below.empty() || !parts.above.empty())) return -kEACCES;
  // In ascending order, as Linux walks, and up to the first hole.
  int result = protect_outside(core, parts.below, protection);
  if (result == 0 && !parts.inside.empty()) {
    result = inside_.protect(inside_.context, parts.inside.base, parts.inside.size, protection);
  }
  if (result == 0) result = protect_outside(core, parts.above, protection);
  return result;
}

}  // namespace exclave
