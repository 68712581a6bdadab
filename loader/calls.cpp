#include "loader/calls.hpp"

#include <sys/resource.h>

#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/process.hpp"
#include "loader/program_memory.hpp"
#include "loader/segments.hpp"
#include "loader/shortage.hpp"
#include "loader/stats.hpp"
#include "loader/syscalls.hpp"

namespace exclave::loader {
namespace {

constexpr long kSeal = 462;  // mseal, which older headers do not know

std::size_t whole_pages(std::size_t bytes) noexcept {
  return (bytes + kPage - 1) & ~(kPage - 1);
}
bool is_page_aligned(std::uintptr_t n) noexcept {
  return n % kPage == 0;
}

// On each area of the program's inside, up to the first hole, which is -ENOMEM, or error.
template <class F>
long on_areas(Extent range, F call) noexcept {
  struct Walk {
    F& call;
    std::uintptr_t at;
  } walk{call, range.base};
  return g_process.inside->visit(
      range,
      [](void* context, Extent area, int protection) {
        Walk& on = *static_cast<Walk*>(context);
        if (area.base != on.at) return -ENOMEM;
        on.at = area.end();
        return static_cast<int>(on.call(area, protection));
      },
      &walk);
}

// ---- The calls ----

// The limit of data holds for the break by itself, also downwards and at 0, where the kernel lets
// other mappings through. What the pages come to with all else is told by the kernel as they come.
long do_brk(std::uintptr_t address) noexcept {
  const std::uintptr_t first = g_process.first_break;
  std::uint64_t limits[2] = {RLIM_INFINITY, RLIM_INFINITY};
  if (address >= first) (void)system_call(__NR_prlimit64, 0, RLIMIT_DATA, 0, limits);
  const bool beyond =
      limits[0] != RLIM_INFINITY && address - first + g_process.data_bytes > limits[0];
  return static_cast<long>(g_process.calls->brk(beyond ? 0 : address));
}

// To whom the answer may be written is the kernel's to say.
long do_mincore(const Call& call) noexcept {
  constexpr std::size_t kPagesAtOnce = 4096;
  unsigned char residency[kPagesAtOnce];
  const std::size_t size = whole_pages(call.a[1]);
  if (size < call.a[1] || size == 0) {
    return g_process.calls->mincore(call.a[0], call.a[1], residency);
  }
  for (std::size_t done = 0; done < size;) {
    const std::size_t rest = size - done;
    const std::size_t part = rest < kPagesAtOnce * kPage ? rest : kPagesAtOnce * kPage;
    const int error = g_process.calls->mincore(call.a[0] + done, part, residency);
    if (error != 0) return error;
    if (!write_program(call.a[2] + done / kPage, residency, part / kPage)) return -EFAULT;
    done += part;
  }
  return 0;
}

long do_mlockall(const Call& call) noexcept {
  const auto flags = static_cast<int>(call.a[0]);
  const std::size_t now =
      (flags & MCL_CURRENT) != 0 ? g_process.inside->statistics().mapped_bytes : 0;
  const long refused = may_lock(now);
  // Bad flags come first.
  const bool bad = flags == 0 || flags == MCL_ONFAULT ||
                   (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) != 0;
  return refused != 0 && !bad ? refused : g_process.calls->mlockall(flags);
}

long do_mmap(const Call& call, int protection) noexcept {
  auto flags = static_cast<int>(call.a[3]);
  const auto descriptor = static_cast<int>(call.a[4]);
  // Linux looks at the descriptor before all but the offset.
  if ((flags & MAP_ANONYMOUS) == 0 && is_page_aligned(call.a[5]) &&
      failed(RawCalls::status_flags(descriptor))) {
    return -EBADF;
  }
  // What would grow downwards has its whole size from the start.
  if ((flags & MAP_GROWSDOWN) != 0 && !g_process.policy.lies_outside(flags, descriptor))
    flags &= ~MAP_GROWSDOWN;
  return g_process.calls->mmap(call.a[0], call.a[1], protection, flags, descriptor, call.a[5]);
}

long do_mprotect(const Call& call, int protection) noexcept {
  const Extent stack = g_process.stack;
  // Down to the end of the mapping, which is the stack's alone to have.
  if ((protection & (PROT_GROWSDOWN | PROT_GROWSUP)) == PROT_GROWSDOWN && call.a[1] != 0 &&
      is_page_aligned(call.a[0]) && stack.covers({call.a[0], call.a[1]})) {
    return g_process.calls->mprotect(stack.base, call.a[0] + call.a[1] - stack.base,
                                     protection & ~PROT_GROWSDOWN);
  }
  return g_process.calls->mprotect(call.a[0], call.a[1], protection);
}

// The key is the kernel's and the processor's, so there is one inside only.
long do_pkey_mprotect(const Call& call) noexcept {
  const auto protection = static_cast<int>(call.a[2]);
  const auto key = static_cast<int>(call.a[3]);
  const Extent range{call.a[0], whole_pages(call.a[1])};
  if (key != -1 && is_page_aligned(range.base) && !range.empty()) {
    if (!g_process.port.enclave().covers(range)) return -EACCES;
    const long result = on_areas(range, [key](Extent area, int present) {
      return system_call(__NR_pkey_mprotect, area.base, area.size, present, key);
    });
    if (failed(result)) return result;
  }
  return g_process.calls->mprotect(call.a[0], call.a[1], protection);
}

// Deprecated, and emulated by the kernel with a mapping at a fixed place: its own mapping's, which
// is one that it backs.
long do_remap_file_pages(const Call& call) noexcept {
  const Extent range{call.a[0] & ~(kPage - 1), call.a[1] & ~(kPage - 1)};
  if (range.empty() || !g_process.port.program_window().covers(range)) return -EINVAL;
  const long result = on_areas(range, [&](Extent area, int) -> long {
    if (area != range) return -EINVAL;
    return system_call(__NR_remap_file_pages, call.a[0], call.a[1], call.a[2], call.a[3],
                       call.a[4]);
  });
  return result == -ENOMEM ? -EINVAL : result;
}

long do_mseal(const Call& call) noexcept {
  const Extent range{call.a[0], whole_pages(call.a[1])};
  if (call.a[2] != 0 || !is_page_aligned(range.base) || range.size < call.a[1]) return -EINVAL;
  if (range.empty()) return 0;
  const auto seal = [](Extent area, int) { return system_call(kSeal, area.base, area.size, 0); };
  // All or nothing: first is there a hole?
  const long whole = on_areas(range, [](Extent, int) { return 0L; });
  return whole != 0 ? -ENOMEM : on_areas(range, seal);
}

long serve(const Call& call) noexcept {
  MemoryCalls& calls = *g_process.calls;
  const auto protection = static_cast<int>(call.a[2]);
  switch (call.number) {
    case __NR_mmap:
      return do_mmap(call, protection);
    case __NR_munmap:
      return calls.munmap(call.a[0], call.a[1]);
    case __NR_mprotect:
      return do_mprotect(call, protection);
    case __NR_mremap:
      return calls.mremap(call.a[0], call.a[1], call.a[2], static_cast<int>(call.a[3]), call.a[4]);
    case __NR_madvise:
      return calls.madvise(call.a[0], call.a[1], static_cast<int>(call.a[2]));
    case __NR_msync:
      return calls.msync(call.a[0], call.a[1], static_cast<int>(call.a[2]));
    case __NR_mincore:
      return do_mincore(call);
    case __NR_mlock:
      return calls.mlock(call.a[0], call.a[1]);
    case __NR_mlock2:
      return calls.mlock2(call.a[0], call.a[1], static_cast<int>(call.a[2]));
    case __NR_munlock:
      return calls.munlock(call.a[0], call.a[1]);
    case __NR_mlockall:
      return do_mlockall(call);
    case __NR_munlockall:
      return calls.munlockall();
    case __NR_brk:
      return do_brk(call.a[0]);
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
            g_process.policy.lies_outside(static_cast<int>(call.a[3]), static_cast<int>(call.a[4]));
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

long may_lock(std::size_t bytes) noexcept {
  constexpr unsigned kRightToLock = 14;  // CAP_IPC_LOCK
  if (has_right(kRightToLock)) return 0;
  std::uint64_t limits[2] = {};
  (void)system_call(__NR_prlimit64, 0, RLIMIT_MEMLOCK, 0, limits);
  if (limits[0] == 0) return -EPERM;
  return bytes <= limits[0] ? 0 : -ENOMEM;
}

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
    case kSeal:
      return true;
    default:
      return false;
  }
}

long serve_memory_call(const Call& call, Route* route) noexcept {
  const long result = serve(call);
  if (result == -ENOMEM && (call.number == __NR_mmap || call.number == __NR_mremap)) {
    tell_shortage(call);
  }
  *route = route_of(call, result);
  count_call(*route);
  return result;
}

}  // namespace exclave::loader
