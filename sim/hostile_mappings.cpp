// The hostile host's half of the application's memory calls: what it handed out, and what it
// answers.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <random>

#include "sim/address_space.hpp"
#include "sim/hostile_host.hpp"

namespace exclave::sim {

namespace {

constexpr const char* kNotHandedOut = "not wholly mappings that were handed out";

}  // namespace

// ---- mmap ----

HostReply HostileHost::host_map(const MapRequest& request) noexcept {
  Plan plan = begin(HostCall::kMap);
  const bool fixed = (request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  if (plan.lie == Lie::kOtherAddress && !fixed) plan.lie = Lie::kNone;  // any address is as good
  if (request.size == 0 || request.size % kPageBytes != 0) {
    complain(HostCall::kMap, request.hint, request.size, "the size is not whole pages");
    return finish(HostCall::kMap, plan.lie, {0, EINVAL}, request.size);
  }
  const Extent place{request.hint, request.size};
  if (fixed) {
    const std::lock_guard lock(mutex_);
    const bool own = std::any_of(ranges_.begin(), ranges_.end(), [&](const Range& range) {
      return range.reserved && range.real && range.extent.overlaps(place);
    });
    if (own || enclave().overlaps(place)) {
      violations_.emplace_back("Map at a fixed address over the enclave or a pool");
      note_event_locked({HostCall::kMap, plan.lie, {0, EINVAL}, request.size});
      return {0, EINVAL};
    }
  }
  const bool replaces = (request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) == MAP_FIXED;
  bool pretends = false;
  if (replaces) {
    const std::lock_guard lock(mutex_);
    // Where it lied before stands something of its own, perhaps a stack: it goes on lying.
    pretends = std::any_of(ranges_.begin(), ranges_.end(), [&](const Range& range) {
      return !range.reserved && !range.real && range.extent.overlaps(place);
    });
    if (pretends && (plan.lie == Lie::kNone || plan.lie == Lie::kLate)) {
      unmap_locked(place, true, true);
      ranges_.push_back({place, false, false});
    }
  }
  HostReply reply;
  if (plan.lie == Lie::kNone || plan.lie == Lie::kLate) {
    reply = pretends ? HostReply{request.hint, 0} : port_->host_map(request);
    if (reply.error == 0 && !pretends) {
      const std::lock_guard lock(mutex_);
      if (replaces) unmap_locked(place, false, true);
      ranges_.push_back({{reply.address, request.size}, false, true});
    }
  } else {
    reply = lie_about(plan, request.size, kPageBytes, fixed ? request.hint : 0);
    note_if_believed(plan.lie, reply, request.size, false);
  }
  return finish(HostCall::kMap, plan.lie, reply, request.size);
}

// ---- What is out ----

bool HostileHost::covered_by_mappings_locked(Extent extent, bool all_real) const {
  std::uintptr_t at = extent.base;
  while (at < extent.end()) {
    const auto range = std::find_if(ranges_.begin(), ranges_.end(), [&](const Range& r) {
      return !r.reserved && (r.real || !all_real) && r.extent.contains(at);
    });
    if (range == ranges_.end()) return false;
    at = range->extent.end();
  }
  return true;
}

bool HostileHost::knows_locked(Extent extent) const {
  return !extent.empty() && (extent.base | extent.size) % kPageBytes == 0 &&
         covered_by_mappings_locked(extent);
}

std::vector<Extent> HostileHost::real_parts_locked(Extent extent) const {
  std::vector<Extent> parts;
  for (const Range& range : ranges_) {
    const Extent part = common_part(range.extent, extent);
    if (!range.reserved && range.real && !part.empty()) parts.push_back(part);
  }
  return parts;
}

// really: the pages go. forget: the library is told that they went. Where ranges lie upon each
// other, because it lied, one of them goes: a real one, or the oldest. For while one was on its way
// out of the books, another may have been believed.
void HostileHost::unmap_locked(Extent extent, bool really, bool forget) {
  std::vector<Extent> left = {extent};  // in ascending order
  for (const bool real : {true, false}) {
    std::vector<Range> changed;
    for (const Range& range : ranges_) {
      if (range.reserved || range.real != real) {
        changed.push_back(range);
        continue;
      }
      std::uintptr_t at = range.extent.base;
      std::vector<Extent> still;
      for (const Extent piece : left) {
        const Extent gone = common_part(range.extent, piece);
        if (gone.empty() || !forget) still.push_back(piece);
        if (gone.empty()) continue;
        if (gone.base > at) changed.push_back({{at, gone.base - at}, false, real});
        at = gone.end();
        if (!forget) changed.push_back({gone, false, real && !really});
        if (real && really) {
          forget ? give_up(gone) : bury(gone);
          if (!forget) strays_.push_back(gone);
        }
        for (const Extent rest : {part_before(piece, gone), part_behind(piece, gone)}) {
          if (forget && !rest.empty()) still.push_back(rest);
        }
      }
      const Extent behind{at, range.extent.end() - at};
      if (!behind.empty()) changed.push_back({behind, false, real});
      left = std::move(still);
    }
    ranges_ = std::move(changed);
  }
}

void HostileHost::note_adopted(Extent mapping) {
  const std::lock_guard lock(mutex_);
  ranges_.push_back({mapping, false, false});
}

void HostileHost::note_given_up(Extent mapping) {
  const std::lock_guard lock(mutex_);
  abandon_locked(mapping);
}

// Pages that the library believes to be gone, and that stay.
void HostileHost::abandon_locked(Extent extent) {
  for (const Extent stays : real_parts_locked(extent)) strays_.push_back(stays);
  unmap_locked(extent, false, true);
}

// ---- munmap, and the calls that leave the pages where they are ----

int HostileHost::error_of(const Plan& plan, int false_failure) {
  switch (plan.lie) {
    case Lie::kRefuse:
      return ENOMEM;
    case Lie::kFalseFailure:
      return false_failure;
    case Lie::kBadErrno:
      return plan.random % 2 == 0 ? -1 : 4096;
    default:
      return 0;
  }
}

int HostileHost::host_unmap(std::uintptr_t address, std::size_t bytes) noexcept {
  const Plan plan = begin(HostCall::kUnmap);
  const Extent extent{address, bytes};
  bool known = false;
  {
    const std::lock_guard lock(mutex_);
    known = knows_locked(extent);
    if (known) {
      switch (plan.lie) {
        case Lie::kRefuse:
        case Lie::kBadErrno:
          break;
        case Lie::kFalseFailure:
          unmap_locked(extent, true, false);
          break;
        case Lie::kFalseSuccess:
          abandon_locked(extent);
          break;
        default:
          unmap_locked(extent, true, true);
      }
    }
  }
  if (!known) complain(HostCall::kUnmap, address, bytes, kNotHandedOut);
  const int error = known ? error_of(plan, EINVAL) : EINVAL;
  return finish(HostCall::kUnmap, plan.lie, {address, error}, bytes).error;
}

int HostileHost::on_pages(HostCall call, Extent extent, const char* wrong, int false_failure,
                          const std::function<int(const Plan&, Extent)>& work) {
  const Plan plan = begin(call);
  std::vector<Extent> real;
  {
    const std::lock_guard lock(mutex_);
    if (wrong == nullptr && !knows_locked(extent)) wrong = kNotHandedOut;
    if (wrong == nullptr) real = real_parts_locked(extent);
  }
  int error = EINVAL;
  if (wrong != nullptr) {
    complain(call, extent.base, extent.size, wrong);
  } else {
    error = 0;
    if (plan.lie != Lie::kFalseSuccess && plan.lie != Lie::kRefuse && plan.lie != Lie::kBadErrno) {
      for (const Extent part : real) {
        if (error == 0) error = work(plan, part);
      }
    }
    if (const int lie = error_of(plan, false_failure); lie != 0) error = lie;
  }
  return finish(call, plan.lie, {extent.base, error}, extent.size).error;
}

int HostileHost::host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept {
  const bool too_much = (protection & ~(PROT_READ | PROT_WRITE)) != 0;
  return on_pages(HostCall::kProtect, {address, bytes},
                  too_much ? "more than read and write" : nullptr, EACCES,
                  [&](const Plan&, Extent part) {
                    return port_->host_protect(part.base, part.size, protection);
                  });
}

int HostileHost::host_advise(RangeCall call, std::uintptr_t address, std::size_t bytes,
                             int argument) noexcept {
  // What Linux 6.1 knows; to poison pages is nothing that a program may ask for.
  const bool known = call == EXCLAVE_MADVISE ? argument >= 0 && argument <= 25
                     : call == EXCLAVE_MSYNC ? argument >= 0 && argument <= 7
                     : call == EXCLAVE_MLOCK ? argument == 0 || argument == MLOCK_ONFAULT
                                             : call == EXCLAVE_MUNLOCK && argument == 0;
  return on_pages(HostCall::kAdvise, {address, bytes}, known ? nullptr : "no such advice", EAGAIN,
                  [&](const Plan&, Extent part) {
                    return port_->host_advise(call, part.base, part.size, argument);
                  });
}

int HostileHost::host_resident(std::uintptr_t address, std::size_t bytes,
                               unsigned char* vector) noexcept {
  return on_pages(HostCall::kResident, {address, bytes}, nullptr, EAGAIN,
                  [&](const Plan& plan, Extent part) {
                    unsigned char* const to = vector + (part.base - address) / kPageBytes;
                    if (plan.lie != Lie::kGarbage)
                      return port_->host_resident(part.base, part.size, to);
                    std::mt19937_64 any(plan.random);
                    for (std::size_t i = 0; i < part.size / kPageBytes; ++i)
                      to[i] = static_cast<unsigned char>(any());
                    return 0;
                  });
}

// ---- mremap ----

// What no correct caller would ask for.
const char* HostileHost::fault_of_remap_locked(Extent from, Extent to, int flags) const {
  const bool moves = flags != 0;
  if ((from.base | from.size | to.base | to.size) % kPageBytes != 0 || to.size < from.size)
    return "not whole pages, or it shrinks";
  if (moves && (flags & ~MREMAP_DONTUNMAP) != (MREMAP_MAYMOVE | MREMAP_FIXED))
    return "other flags than it may have";
  if ((flags & MREMAP_DONTUNMAP) != 0 && from.size != to.size) return "it keeps pages and grows";
  if (!knows_locked(from.empty() ? Extent{from.base, kPageBytes} : from)) return kNotHandedOut;
  if (moves) {
    if (!knows_locked(to)) return "over what was not handed out";
    return from.overlaps(to) ? "onto itself" : nullptr;
  }
  if (from.empty() || from.size == to.size) return "it does not grow";
  return port_->enclave().overlaps(to) ? "into the enclave" : nullptr;
}

// Says it is done.
HostReply HostileHost::pretend_remap_locked(Extent from, Extent to, int flags) {
  if (flags == 0) {
    const Extent tail = part_behind(to, from);
    // Its addresses stay taken, for the library believes in it.
    if (reserve_window(tail.size, tail.base).empty()) return {0, ENOMEM};
    strays_.push_back(tail);
    ranges_.push_back({tail, false, false});
  } else if ((flags & MREMAP_DONTUNMAP) == 0) {
    abandon_locked(from);
  }
  return {to.base, 0};
}

HostReply HostileHost::remap_locked(Extent from, Extent to, int flags, bool tells) {
  // Where it lied before stands nothing that could be moved, or replaced.
  if (!covered_by_mappings_locked(from.empty() ? Extent{from.base, kPageBytes} : from, true) ||
      (flags != 0 && !covered_by_mappings_locked(to, true)))
    return {0, EFAULT};
  const bool leaves = flags != 0 && (flags & MREMAP_DONTUNMAP) == 0 && !from.empty();
  if (leaves && !tells) {
    // A second view comes and the first one goes, so that its addresses are never free.
    (void)port_->host_remap(from.base, 0, to.size, flags, to.base);
    unmap_locked(from, true, false);
    return {to.base, 0};
  }
  const HostReply reply =
      port_->host_remap(from.base, from.size, to.size, flags, flags == 0 ? 0 : to.base);
  if (reply.error != 0) return reply;
  if (flags == 0) {
    const Extent tail = part_behind(to, from);
    if (tells) ranges_.push_back({tail, false, true});
    if (!tells) strays_.push_back(tail);
  } else if (leaves) {
    unmap_locked(from, false, true);
  }
  return reply;
}

HostReply HostileHost::host_remap(std::uintptr_t old_address, std::size_t old_size,
                                  std::size_t new_size, int flags,
                                  std::uintptr_t new_address) noexcept {
  const Plan plan = begin(HostCall::kRemap);
  const Extent from{old_address, old_size};
  const Extent to{flags == 0 ? old_address : new_address, new_size};
  HostReply reply = lie_about(plan, new_size, kPageBytes, to.base);
  const char* wrong = nullptr;
  {
    const std::lock_guard lock(mutex_);
    wrong = fault_of_remap_locked(from, to, flags);
    const bool honest = plan.lie == Lie::kNone || plan.lie == Lie::kLate;
    if (wrong != nullptr) {
      reply = {0, EINVAL};
    } else if (honest || plan.lie == Lie::kFalseFailure) {
      reply = remap_locked(from, to, flags, honest);
      if (!honest) reply = {0, plan.random % 2 == 0 ? ENOMEM : EAGAIN};
    } else if (plan.lie == Lie::kFalseSuccess || (reply.error == 0 && reply.address == to.base)) {
      // (Another lie may come to the same.)
      reply = pretend_remap_locked(from, to, flags);
    }
  }
  if (wrong != nullptr) complain(HostCall::kRemap, old_address, old_size, wrong);
  return finish(HostCall::kRemap, plan.lie, reply, new_size);
}

}  // namespace exclave::sim
