#include "loader/port.hpp"

#include <sys/resource.h>

#include "loader/inside_pages.hpp"
#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/syscalls.hpp"

namespace exclave::loader {
namespace {

bool map_at(std::uintptr_t address, std::size_t size, int protection) noexcept {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  return RawCalls::mmap(address, size, protection, kFlags, -1, 0) == static_cast<long>(address);
}

HostReply reply_of(long result) noexcept {
  if (failed(result)) return {0, static_cast<int>(-result)};
  return {static_cast<std::uintptr_t>(result), 0};
}

}  // namespace

// Nobody may touch a book that is not there yet, so that limits on data and locks of all memory
// count those that are.
bool LoaderPort::take_books(std::size_t end) noexcept {
  // Of a limited address space the program needs the most.
  std::uint64_t limits[2] = {UINT64_MAX, 0};
  (void)system_call(__NR_prlimit64, 0, RLIMIT_AS, 0, limits);
  std::size_t bytes = end / 8 < kBooksMost ? end / 8 : kBooksMost;
  while (bytes > limits[0] / 8 && bytes > kBooksLeast) bytes /= 2;
  if (!map_at(end - bytes, bytes, PROT_NONE)) return false;
  books_ = {end - bytes, bytes};
  top_.store(books_.base, std::memory_order_relaxed);
  return true;
}

bool LoaderPort::open(std::size_t bytes) noexcept {
  // Where an administrator keeps programs off the lowest pages (vm.mmap_min_addr), a little above.
  std::uintptr_t base = kRangeBase;
  while (!map_at(base, kPage, PROT_NONE)) {
    if (base == 8 * kRangeBase) return false;
    base *= 2;
  }
  (void)system_call(__NR_munmap, base, kPage);
  std::size_t end = bytes != 0 ? bytes : kRangeMost;
  while (!take_books(end)) {
    if (bytes != 0 || end == kRangeLeast) return false;
    end /= 2;
  }
  range_ = {base, end - base};
  return true;
}

void* LoaderPort::trusted_reserve(std::size_t bytes) noexcept {
  std::uintptr_t top = top_.load(std::memory_order_relaxed);
  do {
    if (bytes > books_.end() - top) return nullptr;
  } while (!top_.compare_exchange_weak(top, top + bytes, std::memory_order_relaxed));
  if (!failed(RawCalls::mprotect(top, bytes, PROT_READ | PROT_WRITE))) {
    return reinterpret_cast<void*>(top);
  }
  // Given back, if nobody took what follows meanwhile.
  std::uintptr_t taken = top + bytes;
  (void)top_.compare_exchange_strong(taken, top, std::memory_order_relaxed);
  return nullptr;
}

void LoaderPort::trusted_release(void*, std::size_t) noexcept {}

// In this port the kernel stands for the processor, too.
bool LoaderPort::entropy(void* memory, std::size_t bytes) noexcept {
  return system_call(__NR_getrandom, memory, bytes, 0) == static_cast<long>(bytes);
}

// No blocks are placed: programs have memory inside, and mappings.
HostReply LoaderPort::host_reserve(std::size_t, std::size_t) noexcept {
  return {0, ENOSYS};
}

int LoaderPort::host_release(std::uintptr_t, std::size_t) noexcept {
  return ENOSYS;
}

HostReply LoaderPort::host_map(const MapRequest& request) noexcept {
  // Below 2 GiB lies the range.
  if ((request.flags & MAP_32BIT) != 0) return {0, ENOMEM};
  return reply_of(RawCalls::mmap(request.hint, request.size, request.protection, request.flags,
                                 request.descriptor, request.offset));
}

int LoaderPort::host_unmap(std::uintptr_t address, std::size_t bytes) noexcept {
  return static_cast<int>(-system_call(__NR_munmap, address, bytes));
}

int LoaderPort::host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept {
  return static_cast<int>(-RawCalls::mprotect(address, bytes, protection));
}

HostReply LoaderPort::host_remap(std::uintptr_t old_address, std::size_t old_size,
                                 std::size_t new_size, int flags,
                                 std::uintptr_t new_address) noexcept {
  return reply_of(RawCalls::mremap(old_address, old_size, new_size, flags, new_address));
}

int LoaderPort::host_advise(RangeCall call, std::uintptr_t address, std::size_t bytes,
                            int argument) noexcept {
  return static_cast<int>(-RawCalls::range_call(call, address, bytes, argument));
}

int LoaderPort::host_resident(std::uintptr_t address, std::size_t bytes,
                              unsigned char* vector) noexcept {
  return static_cast<int>(-RawCalls::mincore(address, bytes, vector));
}

}  // namespace exclave::loader
