// The application's memory calls: validated, cut at the enclave's edges, and each side served. What
// lies inside goes to the enclave's own manager, what lies outside to outside_*.cpp.
#include "exclave/memory_calls.hpp"

#include "memcall/outside.hpp"
#include "region/verify.hpp"

namespace exclave {

using core::AllocatorCore;
using namespace linux_abi;  // NOLINT(google-build-using-namespace): all of it is used here
using memcall::Holes;

namespace {

// A range that is walked over, up to the end of the lower half: nothing is mapped beyond.
struct Walk {
  Extent range{};
  bool beyond = false;
};

Walk walk_of(std::uintptr_t address, std::size_t size) noexcept {
  if (address >= kAddressLimit) return {{}, size != 0};
  const bool beyond = size > kAddressLimit - address;
  return {{address, beyond ? kAddressLimit - address : size}, beyond};
}

bool is_known_advice(int advice) noexcept {
  return (advice >= 0 && advice <= kMadvDontNeed) ||
         (advice >= kMadvFree && advice <= kMadvCollapse);
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
    return memcall::map_outside(core, request);
  }
  if (!is_map_type(flags)) return -kEINVAL;
  // Private memory never lies outside, wherever it was asked for.
  if (fixed && !enclave.covers({address, size})) return -kENOMEM;
  if (inside_.map == nullptr) return -kENOSYS;
  return inside_.map(inside_.context, address, length, protection, flags, descriptor, offset);
}

int MemoryCalls::munmap(std::uintptr_t address, std::size_t length) noexcept {
  Extent range;
  if (!decode_pages(address, length, &range)) return -kEINVAL;
  AllocatorCore& core = *core_;
  const Parts<std::uintptr_t> parts = cut_by(range, core.registry().enclave());
  // The outside first, and in one: only there can a pin refuse, and then nothing has changed. (No
  // mapping stands in the enclave's part.)
  int result = parts.inside == range ? 0 : memcall::unmap_outside(core, range);
  if (result == 0 && !parts.inside.empty()) {
    result = inside_.unmap == nullptr
                 ? -kENOSYS
                 : inside_.unmap(inside_.context, parts.inside.base, parts.inside.size);
  }
  return result;
}

int MemoryCalls::mprotect(std::uintptr_t address, std::size_t length, int protection) noexcept {
  // In the order in which Linux looks, where more than one thing is wrong.
  if (!is_aligned(address, kPageBytes)) return -kEINVAL;
  if (length == 0) return 0;
  const std::size_t size = align_up(length, kPageBytes);
  if (address + size <= address) return -kENOMEM;
  protection &= ~kProtSem;  // any memory is good for semaphores
  if (protection & ~kProtAll) return -kEINVAL;
  AllocatorCore& core = *core_;
  const Walk walked = walk_of(address, size);
  const Parts<std::uintptr_t> parts = cut_by(walked.range, core.registry().enclave());
  if ((protection & kProtExec) && (!parts.below.empty() || !parts.above.empty())) return -kEACCES;
  // In ascending order, as Linux walks, and up to the first hole.
  int result = memcall::protect_outside(core, parts.below, protection);
  if (result == 0 && !parts.inside.empty()) {
    result = inside_.protect == nullptr ? -kENOSYS
                                        : inside_.protect(inside_.context, parts.inside.base,
                                                          parts.inside.size, protection);
  }
  if (result == 0) result = memcall::protect_outside(core, parts.above, protection);
  return result == 0 && walked.beyond ? -kENOMEM : result;
}

// ---- mremap and brk ----

std::intptr_t MemoryCalls::mremap(std::uintptr_t old_address, std::size_t old_length,
                                  std::size_t new_length, int flags,
                                  std::uintptr_t new_address) noexcept {
  AllocatorCore& core = *core_;
  const Extent enclave = core.registry().enclave();
  const bool fixed = (flags & kMremapFixed) != 0;
  const bool may_move = (flags & kMremapMayMove) != 0;
  const bool keep = (flags & kMremapDontUnmap) != 0;
  if ((flags & ~kMremapAll) != 0 || (fixed && !may_move)) return -kEINVAL;
  if (keep && (!may_move || old_length != new_length)) return -kEINVAL;
  if (!is_aligned(old_address, kPageBytes)) return -kEINVAL;
  // As in Linux, what wraps is 0.
  Extent from{old_address, align_up(old_length, kPageBytes)};
  const Extent to{new_address, align_up(new_length, kPageBytes)};
  if (to.size == 0) return -kEINVAL;
  const bool inside = enclave.contains(old_address);
  if (inside && inside_.remap == nullptr) return -kENOSYS;
  const std::intptr_t there =
      inside ? inside_.remap(inside_.context, old_address, kPageBytes, kPageBytes, 0, 0)
             : (is_application_memory(old_address, 1) ? 0 : -kEFAULT);
  if (there < 0) return there;
  if (fixed) {
    // A mapping stays on its side.
    if (inside ? !(enclave.covers(to) && is_aligned(new_address, kPageBytes))
               : !check_outside(to, enclave).ok())
      return -kEINVAL;
    // (An old range without end is refused with its tail.)
    if (from.overlaps(to)) return -kEINVAL;
  }
  // What is cut off goes first, wherever it lies.
  if (to.size < from.size) {
    if (const int error = munmap(old_address + to.size, from.size - to.size); error != 0)
      return error;
    from.size = to.size;
  }
  if (!fixed && !keep && from.size == to.size) return static_cast<std::intptr_t>(old_address);
  if (to.size >= kAddressLimit) return -kENOMEM;
  // Over the edge: not one mapping.
  if (from.size != 0 && (inside ? !enclave.covers(from) : !check_outside(from, enclave).ok()))
    return -kEFAULT;
  if (inside)
    return inside_.remap(inside_.context, old_address, from.size, to.size, flags, new_address);
  return memcall::remap_outside(core, from, to.size, flags, new_address);
}

std::uintptr_t MemoryCalls::brk(std::uintptr_t address) noexcept {
  return inside_.set_break == nullptr ? 0 : inside_.set_break(inside_.context, address);
}

int MemoryCalls::remap_file_pages(std::uintptr_t, std::size_t, int, std::size_t, int) noexcept {
  return -kEINVAL;
}

// ---- Walks ----

// Below the enclave, inside, above: in ascending order, as Linux walks.
int MemoryCalls::walk(RangeCall call, std::uintptr_t address, std::size_t size, int argument,
                      bool skips_holes) noexcept {
  const Walk walked = walk_of(address, size);
  const Parts<std::uintptr_t> parts = cut_by(walked.range, core_->registry().enclave());
  const Holes holes = skips_holes ? Holes::kSkip : Holes::kStop;
  bool hole = false;
  int error = memcall::advise_outside(*core_, call, parts.below, argument, holes, &hole);
  if (error == 0 && !parts.inside.empty() && (skips_holes || !hole)) {
    error = inside_.advise == nullptr ? -kENOSYS
                                      : inside_.advise(inside_.context, call, parts.inside.base,
                                                       parts.inside.size, argument);
    if (error == -kENOMEM) {
      hole = true;
      error = 0;
    }
  }
  if (error == 0 && (skips_holes || !hole))
    error = memcall::advise_outside(*core_, call, parts.above, argument, holes, &hole);
  return error == 0 && (hole || walked.beyond) ? -kENOMEM : error;
}

int MemoryCalls::madvise(std::uintptr_t address, std::size_t length, int advice) noexcept {
  if (!is_known_advice(advice) || !is_aligned(address, kPageBytes)) return -kEINVAL;
  const std::size_t size = align_up(length, kPageBytes);
  if (size < length || address + size < address) return -kEINVAL;
  if (size == 0) return 0;
  // On both sides of the enclave, before anything is done on either.
  const Extent range = walk_of(address, size).range;
  if (const int pinned = memcall::check_pins(*core_, range, advice); pinned != 0) return pinned;
  const bool populates = advice == kMadvPopulateRead || advice == kMadvPopulateWrite;
  return walk(EXCLAVE_MADVISE, address, size, advice, !populates);
}

int MemoryCalls::msync(std::uintptr_t address, std::size_t length, int flags) noexcept {
  if ((flags & ~kMsAll) != 0 || !is_aligned(address, kPageBytes) ||
      (flags & (kMsAsync | kMsSync)) == (kMsAsync | kMsSync))
    return -kEINVAL;
  const std::size_t size = align_up(length, kPageBytes);
  if (address + size < address) return -kENOMEM;
  return walk(EXCLAVE_MSYNC, address, size, flags, flags != kMsAsync);
}

int MemoryCalls::mlock2(std::uintptr_t address, std::size_t length, int flags) noexcept {
  if ((flags & ~kMlockOnFault) != 0) return -kEINVAL;
  return lock(EXCLAVE_MLOCK, address, length, flags);
}

int MemoryCalls::munlock(std::uintptr_t address, std::size_t length) noexcept {
  return lock(EXCLAVE_MUNLOCK, address, length, 0);
}

// The pages that the bytes lie in; the address need not be aligned.
int MemoryCalls::lock(RangeCall call, std::uintptr_t address, std::size_t length,
                      int flags) noexcept {
  const std::uintptr_t first = align_down(address, kPageBytes);
  const std::size_t size = align_up(length + (address - first), kPageBytes);
  if (first + size < first) return -kEINVAL;
  return walk(call, first, size, flags, false);
}

int MemoryCalls::mlockall(int flags) noexcept {
  if (flags == 0 || (flags & ~kMclAll) != 0 || flags == kMclOnFault) return -kEINVAL;
  return lock_all(flags);
}

int MemoryCalls::munlockall() noexcept {
  return lock_all(0);
}

int MemoryCalls::lock_all(int flags) noexcept {
  if (inside_.lock_all == nullptr) return -kENOSYS;
  const int error = inside_.lock_all(inside_.context, flags);
  if (error != 0 || (flags != 0 && (flags & kMclCurrent) == 0)) return error;
  const int argument = (flags & kMclOnFault) != 0 ? kMlockOnFault : 0;
  return memcall::lock_all_outside(*core_, flags != 0 ? EXCLAVE_MLOCK : EXCLAVE_MUNLOCK, argument);
}

int MemoryCalls::mincore(std::uintptr_t address, std::size_t length,
                         unsigned char* vector) noexcept {
  if (!is_aligned(address, kPageBytes)) return -kEINVAL;
  const Walk walked = walk_of(address, length);
  if (walked.beyond) return -kENOMEM;
  const Extent range{address, align_up(length, kPageBytes)};
  const Parts<std::uintptr_t> parts = cut_by(range, core_->registry().enclave());
  const auto at = [&](Extent part) noexcept {
    return vector + ((part.base - address) >> kPageShift);
  };
  int error = memcall::resident_outside(*core_, parts.below, vector);
  if (error == 0 && !parts.inside.empty()) {
    error = inside_.resident == nullptr ? -kENOSYS
                                        : inside_.resident(inside_.context, parts.inside.base,
                                                           parts.inside.size, at(parts.inside));
  }
  if (error == 0 && !parts.above.empty())
    error = memcall::resident_outside(*core_, parts.above, at(parts.above));
  return error;
}

// ---- Mappings without an mmap ----

int MemoryCalls::adopt(std::uintptr_t address, std::size_t length, int protection) noexcept {
  if (length == 0 || length > kAddressLimit || (protection & ~kProtAll) != 0) return -kEINVAL;
  if ((protection & kProtExec) != 0) return -kEACCES;
  return memcall::adopt_outside(*core_, address, align_up(length, kPageBytes), protection);
}

int MemoryCalls::give_up(std::uintptr_t address, std::size_t length) noexcept {
  Extent range;
  if (!decode_pages(address, length, &range)) return -kEINVAL;
  return memcall::give_up_outside(*core_, range);
}

bool MemoryCalls::is_application_memory(std::uintptr_t address, std::size_t length) const noexcept {
  std::uintptr_t end = 0;
  if (__builtin_add_overflow(address, length, &end)) return false;
  for (std::uintptr_t at = address;;) {
    const Result<RegionInfo> info = core_->query(at, 0);
    if (!info.ok() || info->role != Role::kMapping) return false;
    at = info->extent.end();
    if (at >= end) return true;
  }
}

}  // namespace exclave
