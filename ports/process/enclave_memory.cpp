// The enclave's own memory, by the rules of Linux: every answer is that of the system call, for
// anonymous private memory.
//
// The kernel does the mapping, within a range that stays reserved (PROT_NONE) where nothing is
// mapped; the list of areas says what is, because the kernel cannot tell a hole from reserved
// space.

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "exclave/process_port.hpp"
#include "process/guard.hpp"
#include "process/piece_list.hpp"

namespace exclave {

namespace {

using process::Guard;
using process::PieceList;

constexpr int kProtectionBits = PROT_READ | PROT_WRITE | PROT_EXEC;
constexpr int kReservedFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

// A run of mapped pages, whatever their protection: the kernel knows that.
struct Area {
  std::uintptr_t base;
  std::size_t size;
  std::uintptr_t end() const noexcept { return base + size; }
};

void* as_pointer(std::uintptr_t address) noexcept {
  return reinterpret_cast<void*>(address);
}
bool is_page_aligned(std::uintptr_t n) noexcept {
  return n % kPageBytes == 0;
}

// Rounded up to pages; 0 when that wraps.
std::size_t whole_pages(std::size_t bytes) noexcept {
  return (bytes + kPageBytes - 1) & ~(kPageBytes - 1);
}

bool reserve_again(std::uintptr_t address, std::size_t size) noexcept {
  return mmap(as_pointer(address), size, PROT_NONE, kReservedFlags | MAP_FIXED, -1, 0) !=
         MAP_FAILED;
}

// A private copy of the file, anywhere: 0 or a negative errno. Pages behind the file's end are
// zero.
int copy_of_file(std::size_t size, int protection, int descriptor, std::uint64_t offset,
                 void*& copy) noexcept {
  const int mode = fcntl(descriptor, F_GETFL);
  if (mode < 0 || (mode & O_PATH) != 0) return -EBADF;
  if ((mode & O_ACCMODE) == O_WRONLY) return -EACCES;
  if (offset > INT64_MAX - size) return -EOVERFLOW;
  void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, kReservedFlags, -1, 0);
  if (memory == MAP_FAILED) return -errno;
  int error = 0;
  for (std::size_t done = 0; done < size;) {
    const ssize_t got = pread(descriptor, static_cast<char*>(memory) + done, size - done,
                              static_cast<off_t>(offset + done));
    if (got > 0) {
      done += static_cast<std::size_t>(got);
    } else if (got == 0) {
      break;
    } else if (errno != EINTR) {
      error = errno == EIO
                  ? -EIO
                  : -ENODEV;  // a pipe, a socket, a folder: Linux says ENODEV for what has no mmap
      break;
    }
  }
  if (error == 0 && mprotect(memory, size, protection) != 0) error = -errno;
  if (error != 0) {
    munmap(memory, size);
    return error;
  }
  copy = memory;
  return 0;
}

}  // namespace

struct ProcessEnclaveMemory::State {
  explicit State(Extent range) noexcept : heap(range) {}

  // The highest free place, as Linux does; 0 if there is none.
  std::uintptr_t highest_gap_locked(std::size_t size) noexcept {
    std::uintptr_t top = heap.end();
    for (std::size_t i = areas.count(); i-- > 0;) {
      if (top - areas[i].end() >= size) return top - size;
      top = areas[i].base;
    }
    return top - heap.base >= size ? top - size : 0;
  }

  bool is_free_locked(std::uintptr_t base, std::size_t size) noexcept {
    const std::size_t i = areas.first_ending_above(base);
    return i == areas.count() || areas[i].base >= base + size;
  }

  // Needs room for two. Nothing mapped is left in the range.
  void forget_locked(std::uintptr_t base, std::size_t size) noexcept {
    const std::uintptr_t end = base + size;
    std::size_t i = areas.first_ending_above(base);
    if (i == areas.count()) return;
    if (areas[i].base < base) {
      const Area whole = areas[i];
      areas[i].size = base - whole.base;
      ++i;
      if (whole.end() > end) {
        areas.insert(i, {end, whole.end() - end});
        return;
      }
    }
    std::size_t last = i;
    while (last < areas.count() && areas[last].end() <= end) ++last;
    areas.erase(i, last - i);
    if (i < areas.count() && areas[i].base < end) {
      areas[i].size = areas[i].end() - end;
      areas[i].base = end;
    }
  }

  // Needs room for three. Replaces whatever was mapped there.
  void note_locked(std::uintptr_t base, std::size_t size) noexcept {
    forget_locked(base, size);
    Area area{base, size};
    std::size_t i = areas.first_ending_above(base);
    if (i < areas.count() && areas[i].base == area.end()) {
      area.size += areas[i].size;
      areas.erase(i);
    }
    if (i > 0 && areas[i - 1].end() == area.base) {
      --i;
      area = {areas[i].base, areas[i].size + area.size};
      areas.erase(i);
    }
    areas.insert(i, area);
  }

  const Extent heap;
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  PieceList<Area> areas;  // guarded by lock
};

ProcessEnclaveMemory::ProcessEnclaveMemory(Extent heap) noexcept : state_(nullptr) {
  void* const memory = std::malloc(sizeof(State));
  if (memory == nullptr) return;  // every call then answers -ENOMEM
  if (!reserve_again(heap.base, heap.size)) {
    std::free(memory);
    return;
  }
  state_ = new (memory) State(heap);
}

ProcessEnclaveMemory::~ProcessEnclaveMemory() {
  if (state_ == nullptr) return;
  reserve_again(state_->heap.base, state_->heap.size);
  state_->~State();
  std::free(state_);
}

std::intptr_t ProcessEnclaveMemory::map(std::uintptr_t address, std::size_t size, int protection,
                                        int flags, int descriptor, std::uint64_t offset) noexcept {
  if (state_ == nullptr) return -ENOMEM;
  const int type = flags & MAP_TYPE;
  const bool anonymous = (flags & MAP_ANONYMOUS) != 0;
  const bool fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  if (!is_page_aligned(offset)) return -EINVAL;
  if (size == 0) return -EINVAL;
  size = whole_pages(size);
  if (size == 0 || size > state_->heap.size) return -ENOMEM;
  if (fixed && !is_page_aligned(address)) return -EINVAL;
  if (fixed && !state_->heap.covers({address, size})) return -ENOMEM;
  if (type != MAP_PRIVATE && type != MAP_SHARED && (anonymous || type != MAP_SHARED_VALIDATE))
    return -EINVAL;
  if ((flags & (MAP_GROWSDOWN | MAP_SYNC)) != 0) return -EOPNOTSUPP;
  if ((flags & MAP_HUGETLB) != 0) return -ENOMEM;
  // Bytes that others change too cannot be enclave memory. Anonymous shared memory can: only a fork
  // would see.
  if (!anonymous && type != MAP_PRIVATE) return -ENODEV;
  protection &= kProtectionBits;

  void* copy = nullptr;
  if (!anonymous) {
    const int error = copy_of_file(size, protection, descriptor, offset, copy);
    if (error != 0) return error;
  }

  const Guard guard(state_->lock);
  int error = 0;
  std::uintptr_t place = fixed ? address : whole_pages(address);
  if (!state_->areas.ensure_room(3)) {
    error = ENOMEM;
  } else if (fixed) {
    if ((flags & MAP_FIXED_NOREPLACE) != 0 && !state_->is_free_locked(place, size)) error = EEXIST;
  } else if (place == 0 || !state_->heap.covers({place, size}) ||
             !state_->is_free_locked(place, size)) {
    place = state_->highest_gap_locked(size);
    if (place == 0) error = ENOMEM;
  }
  if (error == 0) {
    const void* const mapped =
        anonymous ? mmap(as_pointer(place), size, protection, kReservedFlags | MAP_FIXED, -1, 0)
                  : mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, as_pointer(place));
    if (mapped == MAP_FAILED) error = errno;
  }
  if (error != 0) {
    if (copy != nullptr) munmap(copy, size);
    return -error;
  }
  state_->note_locked(place, size);
  return static_cast<std::intptr_t>(place);
}

int ProcessEnclaveMemory::unmap(std::uintptr_t address, std::size_t size) noexcept {
  if (state_ == nullptr) return -ENOMEM;
  if (!is_page_aligned(address) || size == 0) return -EINVAL;
  size = whole_pages(size);
  if (size == 0 || address + size < address) return -EINVAL;
  // What lies beside the heap are the books: a hole, as seen from here.
  const std::uintptr_t base = std::max(address, state_->heap.base);
  const std::uintptr_t end = std::min(address + size, state_->heap.end());
  if (base >= end) return 0;
  const Guard guard(state_->lock);
  if (!state_->areas.ensure_room(2)) return -ENOMEM;
  if (!reserve_again(base, end - base)) return -errno;
  state_->forget_locked(base, end - base);
  return 0;
}

int ProcessEnclaveMemory::protect(std::uintptr_t address, std::size_t size,
                                  int protection) noexcept {
  if (state_ == nullptr) return -ENOMEM;
  if (!is_page_aligned(address)) return -EINVAL;
  if (size == 0) return 0;
  size = whole_pages(size);
  if (size == 0 || address + size < address) return -ENOMEM;
  if ((protection & ~kProtectionBits) != 0) return -EINVAL;
  const std::uintptr_t end = address + size;
  const Guard guard(state_->lock);
  for (std::uintptr_t at = address; at < end;) {
    const std::size_t i = state_->areas.first_ending_above(at);
    // The pages before the hole keep their new protection, as Linux does it.
    if (i == state_->areas.count() || state_->areas[i].base > at) return -ENOMEM;
    const std::size_t part = std::min(state_->areas[i].end(), end) - at;
    if (mprotect(as_pointer(at), part, protection) != 0) return -errno;
    at += part;
  }
  return 0;
}

bool ProcessEnclaveMemory::lies_outside(int, int flags, int descriptor, std::uint64_t) noexcept {
  const int type = flags & MAP_TYPE;
  return (type == MAP_SHARED || type == MAP_SHARED_VALIDATE) && (flags & MAP_ANONYMOUS) == 0 &&
         descriptor >= 0;
}

}  // namespace exclave
