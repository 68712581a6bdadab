#include "loader/port.hpp"

#include "loader/inside_pages.hpp"
#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/syscalls.hpp"

namespace exclave::loader {
namespace {

HostReply reply_of(long result) noexcept {
  if (failed(result)) return {0, static_cast<int>(-result)};
  return {static_cast<std::uintptr_t>(result), 0};
}

}  // namespace

bool LoaderPort::open(std::size_t bytes) noexcept {
  constexpr int kReserved = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  for (; bytes >= kRangeLeast; bytes /= 2) {
    // Where an administrator keeps programs off the lowest pages (vm.mmap_min_addr), a little
    // above.
    for (std::uintptr_t base = kRangeBase; base <= 8 * kRangeBase; base *= 2) {
      const std::size_t size = bytes - base;
      const long mapped = system_call(__NR_mmap, base, size, PROT_NONE, kReserved, -1, 0);
      if (mapped != static_cast<long>(base)) continue;
      const std::size_t book_bytes = bytes / 8 < kBooksMost ? bytes / 8 : kBooksMost;
      const std::uintptr_t books = bytes - book_bytes;
      if (failed(system_call(__NR_mprotect, books, book_bytes, PROT_READ | PROT_WRITE))) {
        (void)system_call(__NR_munmap, base, size);
        continue;
      }
      range_ = {base, size};
      books_ = {books, book_bytes};
      top_.store(books, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

void* LoaderPort::trusted_reserve(std::size_t bytes) noexcept {
  std::uintptr_t top = top_.load(std::memory_order_relaxed);
  do {
    if (bytes > books_.end() - top) return nullptr;
  } while (!top_.compare_exchange_weak(top, top + bytes, std::memory_order_relaxed));
  return reinterpret_cast<void*>(top);
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
