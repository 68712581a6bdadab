// mmap, munmap and mprotect of the application outside: decode, validate, perform, verify. And
// mappings that come without an mmap.
#include "base/backoff.hpp"
#include "memcall/outside.hpp"
#include "memcall/replacement.hpp"
#include "region/verify.hpp"

namespace exclave::memcall {

using namespace linux_abi;  // NOLINT(google-build-using-namespace): all of it is used here

int allowed_errno(int error, std::initializer_list<int> documented) noexcept {
  for (const int known : documented) {
    if (error == known) return error;
  }
  return kEIO;
}

Protection protection_of(int bits) noexcept {
  return static_cast<Protection>(bits & (kProtRead | kProtWrite));
}

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

namespace {

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
    mapping = core.next_out(next);
  }
  return result;
}

}  // namespace

int unmap_outside(AllocatorCore& core, Extent range) noexcept {
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  return unmap_mappings(core, gate, range);
}

// ---- mprotect ----

int protect_outside(AllocatorCore& core, Extent range, int bits) noexcept {
  if (range.empty()) return 0;
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  Registry& registry = core.registry();
  const std::uint32_t me = current_thread_slot() + 1;
  const Protection wanted = protection_of(bits);
  Backoff backoff;
  for (std::uintptr_t at = range.base; at < range.end();) {
    Region* piece = nullptr;
    Extent part;
    Protection before = Protection::kNone;
    {
      LockGuard guard(registry.lock());
      Region* const mapping = registry.region_at_locked(at);
      if (mapping == nullptr || mapping->traits().role != Role::kMapping) return -kENOMEM;
      if (mapping->in_call == me) return -kEBUSY;
      if (mapping->in_call == 0) {
        part = common(mapping->extent(), Extent{at, range.end() - at});
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
    }
    if (piece == nullptr) {  // another thread's call is at the host; it ends by itself
      backoff.wait();
      continue;
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

int enter_mapping(AllocatorCore& core, Extent range, const AttachOptions& options) noexcept {
  Registry& registry = core.registry();
  const Result<Region*> made = registry.create(range, options, false);
  const Status inserted = made.ok() ? registry.insert(**made) : Status(made.error());
  if (inserted.ok()) return 0;
  if (made.ok()) registry.destroy(**made);
  if (inserted.error() == Error::kOverlap || registry.overlaps(range)) {
    core.count_lie();
    return -kEPERM;
  }
  return -kENOMEM;
}

std::intptr_t map_outside(AllocatorCore& core, const MapRequest& asked) noexcept {
  constexpr int kBadFlags = kMapAnonymous | kMapGrowsDown;
  if (asked.flags & kBadFlags || !is_map_type(asked.flags)) return -kEINVAL;
  if (asked.protection & kProtExec) return -kEACCES;
  MapRequest request = asked;
  request.protection &= kProtAll;  // as on Linux, other bits mean nothing
  Registry& registry = core.registry();
  const bool fixed = (asked.flags & (kMapFixed | kMapFixedNoReplace)) != 0;
  const bool replaces = fixed && (asked.flags & kMapFixedNoReplace) == 0;
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  const Extent target{request.hint, request.size};
  Replacement replacement(core, gate);
  if (fixed) {
    if (const int bad = check_fixed(registry, target, replaces); bad != 0) return bad;
    if (replaces) {
      if (const int bad = replacement.begin(target, Replacement::Fill::kIfNeeded); bad != 0)
        return bad;
    }
    // On free ground the host may only fill a gap: told to replace, it could replace what we know
    // nothing of.
    request.flags &= ~(kMapFixed | kMapFixedNoReplace);
    request.flags |= replacement.needed() ? kMapFixed : kMapFixedNoReplace;
  }

  AttachOptions options;
  options.role = Role::kMapping;
  options.protection = protection_of(request.protection);
  // What is replaced is given up only for a mapping that stands in the books already.
  const bool replacing = replacement.needed();
  if (replacing) {
    const int bad = replacement.hold(registry.create(target, options, false));
    if (bad != 0) return bad;
  }

  const HostReply reply = core.host_map(gate, request);
  Result<Extent> range =
      verify_reply(reply, request.size, kPageBytes, fixed ? request.hint : 0, registry.enclave());
  // The program may keep the address in 32 bits.
  const bool low = !fixed && (asked.flags & kMap32Bit) != 0;
  if (range.ok() && low && range->end() > kMap32BitEnd) range = Error::kHostLied;
  if (!range.ok()) {
    if (range.error() == Error::kHostLied) {
      core.count_lie();
      return -kEPERM;
    }
    // Something stands there that is in no book. Who asked for MAP_FIXED knows no EEXIST.
    if (replaces && reply.error == kEEXIST) return -kEBUSY;
    return -allowed_errno(reply.error,
                          {kEACCES, kEAGAIN, kEBADF, kEEXIST, kEINVAL, kENFILE, kENODEV, kENOMEM,
                           kEOVERFLOW, kEPERM, kETXTBSY, kEOPNOTSUPP});
  }
  if (replacing) {
    replacement.done(options.protection);
    return static_cast<std::intptr_t>(range->base);
  }
  const int entered = enter_mapping(core, *range, options);
  if (entered == 0) return static_cast<std::intptr_t>(range->base);
  // A lie points at memory that is not ours to unmap.
  if (entered == -kENOMEM) (void)core.host_unmap(gate, *range);
  return entered;
}

// ---- Mappings without an mmap ----

int adopt_outside(AllocatorCore& core, std::uintptr_t address, std::size_t size,
                  int protection) noexcept {
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  const HostReply answer{address, 0};
  const Result<Extent> range = verify_reply(answer, size, kPageBytes, 0, core.registry().enclave());
  if (!range.ok()) {
    core.count_lie();
    return -kEPERM;
  }
  AttachOptions options;
  options.role = Role::kMapping;
  options.protection = protection_of(protection);
  return enter_mapping(core, *range, options);
}

int give_up_outside(AllocatorCore& core, Extent range) noexcept {
  AllocatorCore::Gate gate(core);
  if (!gate.status().ok()) return error_number(gate.status().error());
  const Result<Region*> taken = core.take_mappings_out(range, false);
  if (!taken.ok())
    return taken.error() == Error::kNotFound ? -kEINVAL : error_number(taken.error());
  for (Region* mapping = *taken; mapping != nullptr;) {
    Region* const next = mapping->next_taken;
    core.finish_region(gate, *mapping);
    mapping = core.next_out(next);
  }
  return 0;
}

}  // namespace exclave::memcall
