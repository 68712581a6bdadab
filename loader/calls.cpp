#include "loader/calls.hpp"

#include <sys/resource.h>

#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/process.hpp"
#include "loader/segments.hpp"
#include "loader/stats.hpp"
#include "loader/syscalls.hpp"

namespace exclave::loader {
namespace {

constexpr std::uintptr_t kAddressEnd = std::uintptr_t{1} << 47;

std::size_t whole_pages(std::size_t bytes) noexcept {
  return (bytes + kPage - 1) & ~(kPage - 1);
}
bool is_page_aligned(std::uintptr_t n) noexcept {
  return n % kPage == 0;
}

// The part of the range up to its end, the edge of the enclave's range or the next region's.
struct Piece {
  Extent extent;
  bool inside = false;
  bool mapping = false;  // outside: is it the application's?
};
Piece first_piece(Extent range) noexcept {
  const Extent enclave = g_process.port.enclave();
  if (enclave.contains(range.base)) {
    const std::size_t most = enclave.end() - range.base;
    return {{range.base, range.size < most ? range.size : most}, true, false};
  }
  std::uintptr_t end = range.end();
  if (range.base < enclave.base && end > enclave.base) end = enclave.base;
  const Result<RegionInfo> region = g_process.allocator->next_region(range.base);
  bool mapping = false;
  if (region.ok()) {
    const bool here = region->extent.contains(range.base);
    const std::uintptr_t edge = here ? region->extent.end() : region->extent.base;
    if (edge < end) end = edge;
    mapping = here && region->role == Role::kMapping;
  }
  return {{range.base, end - range.base}, false, mapping};
}

// For calls that name a range and change nothing in the books: made for each run of pages that are
// the program's, in ascending order. An error ends it, or a hole where `stop_at_hole`; else holes
// are -ENOMEM at the end, as Linux has it for each of these calls.
template <class F>
long on_program_pages(std::uintptr_t address, std::size_t length, bool stop_at_hole,
                      F call) noexcept {
  const std::size_t size = whole_pages(length);
  if (!is_page_aligned(address)) return -EINVAL;
  if (length != 0 && size == 0) return -EINVAL;
  if (size > kAddressEnd || address > kAddressEnd - size) return -ENOMEM;
  long result = 0;
  const auto visit = [&](Extent part) {
    result = call(part);
    return !failed(result);
  };
  bool hole = false;
  for (Extent rest{address, size}; !rest.empty();) {
    const Piece piece = first_piece(rest);
    if (piece.inside) {
      if (!g_process.inside.each_run(piece.extent, visit)) hole = true;
    } else if (piece.mapping) {
      (void)visit(piece.extent);
    } else {
      hole = true;
    }
    if (failed(result)) return result;
    if (hole && stop_at_hole) break;
    rest = {piece.extent.end(), rest.size - piece.extent.size};
  }
  return hole ? -ENOMEM : 0;
}

// ---- The calls ----

long do_madvise(const Call& call) noexcept {
  // Also of no bytes: the advice is looked at first.
  if (call.a[1] == 0 || !is_page_aligned(call.a[0])) {
    return system_call(__NR_madvise, call.a[0], call.a[1], call.a[2]);
  }
  const auto advice = static_cast<int>(call.a[2]);
  return on_program_pages(call.a[0], call.a[1], false, [advice](Extent part) {
    return system_call(__NR_madvise, part.base, part.size, advice);
  });
}

long do_msync(const Call& call) noexcept {
  const auto flags = static_cast<int>(call.a[2]);
  if ((flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) != 0 ||
      (flags & (MS_ASYNC | MS_SYNC)) == (MS_ASYNC | MS_SYNC)) {
    return -EINVAL;
  }
  return on_program_pages(call.a[0], call.a[1], false, [flags](Extent part) {
    return system_call(__NR_msync, part.base, part.size, flags);
  });
}

long do_mincore(const Call& call) noexcept {
  const std::uintptr_t start = call.a[0], vector = call.a[2];
  return on_program_pages(start, call.a[1], true, [start, vector](Extent part) {
    return system_call(__NR_mincore, part.base, part.size, vector + (part.base - start) / kPage);
  });
}

// Linux widens the range to whole pages here.
long do_mlock(const Call& call, long number, int flags) noexcept {
  const std::uintptr_t base = call.a[0] & ~(kPage - 1);
  const std::size_t length = call.a[1] + (call.a[0] - base);
  if (length < call.a[1]) return -EINVAL;
  if (call.a[1] == 0) return system_call(number, call.a[0], 0, flags);
  return on_program_pages(base, length, true, [number, flags](Extent part) {
    return system_call(number, part.base, part.size, flags);
  });
}

// What Linux says to a lock of so many more bytes: who has no right to lock all has a limit.
long may_lock(std::size_t bytes) noexcept {
  constexpr std::uint32_t kVersion = 0x20080522, kMayLockAll = 1u << 14;  // CAP_IPC_LOCK
  struct {
    std::uint32_t version = kVersion;
    int process = 0;
  } head;
  struct {
    std::uint32_t effective, permitted, inheritable;
  } rights[2] = {};
  if (!failed(system_call(__NR_capget, &head, rights)) &&
      (rights[0].effective & kMayLockAll) != 0) {
    return 0;
  }
  std::uint64_t limits[2] = {};
  (void)system_call(__NR_prlimit64, 0, RLIMIT_MEMLOCK, 0, limits);
  if (limits[0] == 0) return -EPERM;
  return bytes <= limits[0] ? 0 : -ENOMEM;
}

// Of what is mapped now. Future maps are not locked: the kernel would lock the reserved window,
// too.
long do_mlockall(const Call& call) noexcept {
  const auto flags = static_cast<int>(call.a[0]);
  if (flags == 0 || flags == MCL_ONFAULT ||
      (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) != 0) {
    return -EINVAL;
  }
  const bool now = (flags & MCL_CURRENT) != 0;
  if (const long refused = may_lock(now ? g_process.inside.picture().bytes : 0); refused != 0)
    return refused;
  if (!now) return 0;
  const int lock_flags = (flags & MCL_ONFAULT) != 0 ? MLOCK_ONFAULT : 0;
  long result = 0;
  (void)g_process.inside.each_run(g_process.inside.window(), [&](Extent part) {
    const long locked = system_call(__NR_mlock2, part.base, part.size, lock_flags);
    // Pages that cannot be touched are locked all the same, and told by ENOMEM.
    if (failed(locked) && locked != -ENOMEM) result = locked;
    return result == 0;
  });
  return result;
}

long do_mmap(const Call& call, int protection) noexcept {
  const auto flags = static_cast<int>(call.a[3]);
  const auto descriptor = static_cast<int>(call.a[4]);
  // Linux looks at the descriptor before the length.
  if (call.a[1] == 0 && (flags & MAP_ANONYMOUS) == 0 && is_page_aligned(call.a[5]) &&
      failed(system_call(__NR_fcntl, descriptor, F_GETFL))) {
    return -EBADF;
  }
  return g_process.calls->mmap(call.a[0], call.a[1], protection, flags, descriptor, call.a[5]);
}

long do_mremap(const Call& call) noexcept {
  const Extent enclave = g_process.port.enclave();
  const std::uintptr_t old = call.a[0];
  const std::size_t old_size = whole_pages(call.a[1]), new_size = whole_pages(call.a[2]);
  const auto flags = static_cast<int>(call.a[3]);
  if (enclave.contains(old)) {
    return g_process.inside.remap(old, call.a[1], call.a[2], flags, call.a[4]);
  }
  // Outside: it can be cut; what a device mapped in another size or place is the device's to say.
  if (!is_page_aligned(old) || (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0 ||
      new_size == 0) {
    return -EINVAL;
  }
  if (on_program_pages(old, old_size != 0 ? old_size : 1, true, [](Extent) { return 0L; }) != 0) {
    return -EFAULT;
  }
  if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0 || new_size > old_size) return -ENOMEM;
  if (new_size < old_size) {
    const int error = g_process.calls->munmap(old + new_size, old_size - new_size);
    if (error != 0) return error;
  }
  return static_cast<long>(old);
}

long do_pkey_mprotect(const Call& call) noexcept {
  const auto protection = static_cast<int>(call.a[2]);
  const auto key = static_cast<int>(call.a[3]);
  if (key == -1) return g_process.calls->mprotect(call.a[0], call.a[1], protection);
  return on_program_pages(call.a[0], call.a[1], true, [protection, key](Extent part) -> long {
    if (!g_process.port.enclave().covers(part)) return -EACCES;
    return system_call(__NR_pkey_mprotect, part.base, part.size, protection, key);
  });
}

// Deprecated, and emulated by the kernel with a mapping at a fixed place: its own mapping's.
long do_remap_file_pages(const Call& call) noexcept {
  const std::uintptr_t base = call.a[0] & ~(kPage - 1);
  const std::size_t size = call.a[1] & ~(kPage - 1);
  bool whole = false;
  if (size != 0 && base + size > base && g_process.port.enclave().covers({base, size})) {
    whole = g_process.inside.each_run({base, size}, [](Extent) { return true; });
  }
  if (!whole) return -EINVAL;
  return system_call(__NR_remap_file_pages, call.a[0], call.a[1], call.a[2], call.a[3], call.a[4]);
}

long do_mseal(const Call& call) noexcept {
  const std::uintptr_t flags = call.a[2];
  if (flags != 0) return -EINVAL;
  return on_program_pages(call.a[0], call.a[1], true,
                          [](Extent part) { return system_call(462, part.base, part.size, 0); });
}

long serve(const Call& call) noexcept {
  const auto protection = static_cast<int>(call.a[2]);
  switch (call.number) {
    case __NR_mmap:
      return do_mmap(call, protection);
    case __NR_munmap:
      return g_process.calls->munmap(call.a[0], call.a[1]);
    case __NR_mprotect:
      return g_process.calls->mprotect(call.a[0], call.a[1], protection);
    case __NR_mremap:
      return do_mremap(call);
    case __NR_madvise:
      return do_madvise(call);
    case __NR_msync:
      return do_msync(call);
    case __NR_mincore:
      return do_mincore(call);
    case __NR_mlock:
      return do_mlock(call, __NR_mlock, 0);
    case __NR_mlock2:
      return do_mlock(call, __NR_mlock2, static_cast<int>(call.a[2]));
    case __NR_munlock:
      return do_mlock(call, __NR_munlock, 0);
    case __NR_mlockall:
      return do_mlockall(call);
    case __NR_munlockall:
      return system_call(__NR_munlockall);
    case __NR_brk:
      return g_process.inside.set_break(call.a[0]);
    case __NR_pkey_mprotect:
      return do_pkey_mprotect(call);
    case __NR_remap_file_pages:
      return do_remap_file_pages(call);
    case __NR_shmat:
      return attach_segment(static_cast<int>(call.a[0]), call.a[1], static_cast<int>(call.a[2]));
    case __NR_shmdt:
      return detach_segment(call.a[0]);
    case __NR_io_setup:
      return make_ring(call.a[0], call.a[1]);
    case __NR_io_destroy:
      return destroy_ring(call.a[0]);
    default:
      return do_mseal(call);
  }
}

// Where the call's range lies, and whether anything of a failed one was passed on.
Route route_of(const Call& call, long result) noexcept {
  const bool bad = failed(result);
  std::uintptr_t address = call.a[0];
  std::size_t size = call.a[1];
  switch (call.number) {
    case __NR_brk:
    case __NR_mlockall:
    case __NR_munlockall:
      return Route::kInside;
    case __NR_io_setup:
    case __NR_io_destroy:
      return bad ? Route::kRefused : Route::kOutside;
    case __NR_mmap:
      if (bad) {
        const bool outside =
            g_process.inside.lies_outside(static_cast<int>(call.a[2]), static_cast<int>(call.a[3]),
                                          static_cast<int>(call.a[4]), call.a[5]);
        return outside ? Route::kRefused : Route::kInside;
      }
      address = static_cast<std::uintptr_t>(result);
      break;
    case __NR_shmat:
      if (bad) return Route::kRefused;
      address = static_cast<std::uintptr_t>(result);
      size = 1;
      break;
    case __NR_shmdt:
      size = 1;
      break;
    default:
      break;
  }
  const Extent enclave = g_process.port.enclave();
  if (size == 0 || address + size < address) size = 1;
  if (enclave.covers({address, size})) return Route::kInside;
  if (enclave.overlaps({address, size})) return Route::kSplit;
  if (!bad) return Route::kOutside;
  const bool known = g_process.allocator->query(address, 1).ok();
  return known && result != -EACCES ? Route::kOutside : Route::kRefused;
}

}  // namespace

bool is_memory_call(long number) noexcept {
  switch (number) {
    case __NR_mmap:
    case __NR_munmap:
    case __NR_mprotect:
    case __NR_mremap:
    case __NR_madvise:
    case __NR_msync:
    case __NR_mincore:
    case __NR_mlock:
    case __NR_mlock2:
    case __NR_munlock:
    case __NR_mlockall:
    case __NR_munlockall:
    case __NR_brk:
    case __NR_pkey_mprotect:
    case __NR_remap_file_pages:
    case __NR_shmat:
    case __NR_shmdt:
    case __NR_io_setup:
    case __NR_io_destroy:
    case 462:  // mseal
      return true;
    default:
      return false;
  }
}

long serve_memory_call(const Call& call, Route* route) noexcept {
  const long result = serve(call);
  *route = route_of(call, result);
  count_call(*route);
  return result;
}

}  // namespace exclave::loader
