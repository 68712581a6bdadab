#include "exclave/process_port.hpp"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <new>

#include "kernel/book_window.hpp"
#include "process/address_space.hpp"
#include "process/calls.hpp"
#include "process/guard.hpp"
#include "process/piece_list.hpp"
#include "process/range_call.hpp"
#include "process/region_zone.hpp"

namespace exclave {

namespace {

using process::as_address;
using process::as_pointer;
using process::Calls;
using process::Guard;
using process::PieceList;
using process::reserve_address_space;
using process::reserve_at;

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
// Huge pages pay where there is much memory; little of it would only be rounded up by them.
constexpr std::size_t kHugeFromBytes = std::size_t{32} << 20;
constexpr std::size_t kBookWindowMost = std::size_t{32} << 30;
constexpr std::size_t kWindowLeast = std::size_t{64} << 20;
// Sparse: only pages that are touched take memory.
constexpr std::uint64_t kSharedFileBytes = std::uint64_t{1} << 42;

constexpr bool is_page_multiple(std::size_t bytes) noexcept {
  return bytes != 0 && bytes % kPageBytes == 0;
}
constexpr bool is_power_of_two(std::size_t n) noexcept {
  return n != 0 && (n & (n - 1)) == 0;
}

// The memory in the books' window; what came back is a short list, first fit.
class BookMemory {
 public:
  BookMemory(Extent window, std::uintptr_t reserved_end) noexcept {
    window_.open(window, reserved_end);
  }

  const kernel::BookWindow<Calls>& window() const noexcept { return window_; }

  void* reserve(std::size_t bytes) noexcept {
    const QuietGuard guard(lock_);
    for (std::size_t i = 0; i < free_count_; ++i) {
      Extent& range = free_[i];
      if (range.size < bytes) continue;
      void* const found = as_pointer(range.base);
      range.base += bytes;
      range.size -= bytes;
      if (range.size == 0) range = free_[--free_count_];
      return found;
    }
    // free of malloc may need books, and keeps errno.
    const int saved = errno;
    void* const fresh = window_.take(bytes);
    errno = saved;
    return fresh;
  }

  // The pages must be dropped already. When the list is full, address space is lost, and nothing
  // else.
  void release(Extent range) noexcept {
    const QuietGuard guard(lock_);
    for (std::size_t i = 0; i < free_count_;) {
      const bool before = free_[i].end() == range.base;
      if (before || free_[i].base == range.end()) {
        if (before) range.base = free_[i].base;
        range.size += free_[i].size;
        free_[i] = free_[--free_count_];
      } else {
        ++i;
      }
    }
    if (!window_.give_back(range) && free_count_ < free_.size()) free_[free_count_++] = range;
  }

  void lock_for_fork() noexcept { pthread_mutex_lock(&lock_); }
  void unlock_after_fork() noexcept { pthread_mutex_unlock(&lock_); }

 private:
  // Not Guard, which makes system calls. The core asks under its own lock, so this one is never
  // waited for.
  struct QuietGuard {
    explicit QuietGuard(pthread_mutex_t& mutex) noexcept : mutex_(mutex) {
      pthread_mutex_lock(&mutex_);
    }
    ~QuietGuard() { pthread_mutex_unlock(&mutex_); }
    pthread_mutex_t& mutex_;
  };

  pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
  kernel::BookWindow<Calls> window_;  // guarded by lock_, as is all below
  std::array<Extent, 512> free_{};
  std::size_t free_count_ = 0;
};

// One big sparse memfd and which of its offsets stand where.
class SharedFile {
 public:
  ~SharedFile() {
    if (descriptor_ >= 0) close(descriptor_);
  }

  bool open() noexcept {
    // Beyond the limit the kernel sends SIGXFSZ.
    rlimit limit{};
    (void)getrlimit(RLIMIT_FSIZE, &limit);
    bytes_ = std::min(limit.rlim_cur / kPageBytes * kPageBytes, kSharedFileBytes);
    descriptor_ = memfd_create("exclave-untrusted", MFD_CLOEXEC);
    return descriptor_ >= 0 && ftruncate(descriptor_, static_cast<off_t>(bytes_)) == 0;
  }
  bool is_open() const noexcept { return descriptor_ >= 0; }

  // Puts fresh bytes of the file over reserved address space. 0 or an errno.
  int map_over(std::uintptr_t address, std::size_t bytes, std::size_t alignment) noexcept {
    const Guard guard(lock_);
    if (!mapped_.ensure_room(1) || !free_.ensure_room(2)) return ENOMEM;
    const std::uint64_t offset = take_offset_locked(bytes, alignment);
    if (offset == kNoOffset) return ENOMEM;
    if (mmap(as_pointer(address), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
             descriptor_, static_cast<off_t>(offset)) == MAP_FAILED) {
      const int error = errno;
      give_offset_locked(offset, bytes);
      return error;
    }
    mapped_.insert(mapped_.first_ending_above(address), {address, bytes, offset});
    return 0;
  }

  // 0 or an errno. The range must be one that map_over mapped, whole.
  int unmap(std::uintptr_t address, std::size_t bytes) noexcept {
    const Guard guard(lock_);
    const std::size_t found = mapped_.first_ending_above(address);
    if (found == mapped_.count() || mapped_[found].base != address || mapped_[found].size != bytes)
      return EINVAL;
    if (!free_.ensure_room(1)) return ENOMEM;
    if (munmap(as_pointer(address), bytes) != 0) return errno;
    const std::uint64_t offset = mapped_[found].offset;
    mapped_.erase(found);
    // Without the hole the next user of these offsets would see old bytes, and the memory would
    // stay taken.
    if (fallocate(descriptor_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0) {
      give_offset_locked(offset, bytes);
    }
    return 0;
  }

  Result<ProcessPort::SharedBacking> find(std::uintptr_t address) noexcept {
    const Guard guard(lock_);
    const std::size_t found = mapped_.first_ending_above(address);
    if (found == mapped_.count() || mapped_[found].base > address) return Error::kNotFound;
    const Mapped& piece = mapped_[found];
    const std::size_t inner = address - piece.base;
    return ProcessPort::SharedBacking{descriptor_, piece.offset + inner, piece.size - inner};
  }

  void lock_for_fork() noexcept { pthread_mutex_lock(&lock_); }
  void unlock_after_fork() noexcept { pthread_mutex_unlock(&lock_); }

 private:
  struct Mapped {
    std::uintptr_t base;
    std::size_t size;
    std::uint64_t offset;
  };
  struct FreeOffsets {
    std::uint64_t base;
    std::uint64_t size;
  };
  static constexpr std::uint64_t kNoOffset = UINT64_MAX;

  // Needs room for one free piece.
  std::uint64_t take_offset_locked(std::size_t bytes, std::size_t alignment) noexcept {
    const auto align_up = [alignment](std::uint64_t n) noexcept {
      return (n + alignment - 1) & ~(alignment - 1);
    };
    for (std::size_t i = 0; i < free_.count(); ++i) {
      const FreeOffsets piece = free_[i];
      const std::uint64_t offset = align_up(piece.base);
      const std::uint64_t end = piece.base + piece.size;
      if (offset > end || bytes > end - offset) continue;
      free_.erase(i);
      if (offset + bytes != end) free_.insert(i, {offset + bytes, end - (offset + bytes)});
      if (offset != piece.base) free_.insert(i, {piece.base, offset - piece.base});
      return offset;
    }
    const std::uint64_t offset = align_up(top_);
    if (offset > bytes_ || bytes > bytes_ - offset) return kNoOffset;
    top_ = offset + bytes;
    return offset;
  }

  // Needs room for one free piece.
  void give_offset_locked(std::uint64_t offset, std::size_t bytes) noexcept {
    FreeOffsets piece{offset, bytes};
    std::size_t i = free_.first_ending_above(offset);
    if (i != free_.count() && free_[i].base == piece.base + piece.size) {
      piece.size += free_[i].size;
      free_.erase(i);
    }
    if (i != 0 && free_[i - 1].base + free_[i - 1].size == piece.base) {
      --i;
      piece = {free_[i].base, free_[i].size + piece.size};
      free_.erase(i);
    }
    free_.insert(i, piece);
  }

  int descriptor_ = -1;
  std::uint64_t bytes_ = 0;
  pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
  PieceList<Mapped> mapped_;     // guarded by lock_
  PieceList<FreeOffsets> free_;  // guarded by lock_
  std::uint64_t top_ = 0;        // guarded by lock_: offsets from here on were never used
};

// ---- Where the window lies ----

struct Place {
  Extent heap{};
  Extent books{};
  std::uintptr_t reserved_end = 0;  // of the books: mapped up to there
  std::uintptr_t flag = 0;          // a page that says that the place is taken; 0: none

  // All of it reserved.
  static Place whole(std::uintptr_t base, std::size_t heap_bytes, std::size_t book_bytes) noexcept {
    const std::uintptr_t heap = base + book_bytes;
    return {{heap, heap_bytes}, {base, book_bytes}, heap, 0};
  }
  // The heap first, so that the books can grow behind it.
  static Place growing(std::uintptr_t base, std::size_t heap_bytes, std::size_t book_bytes,
                       std::uintptr_t flag) noexcept {
    const std::uintptr_t books = base + heap_bytes;
    return {{base, heap_bytes}, {books, book_bytes}, books, flag};
  }

  Extent all() const noexcept { return {std::min(heap.base, books.base), heap.size + books.size}; }
  // mapped_end: of the books; it may have moved.
  void unmap(std::uintptr_t mapped_end) const noexcept {
    const std::uintptr_t base = all().base;
    munmap(as_pointer(base), std::max(mapped_end, heap.end()) - base);
    if (flag != 0) munmap(as_pointer(flag), kPageBytes);
  }
};

// Far below where the kernel puts mappings by itself, from the top or (ulimit -s unlimited) from a
// third of the address space on, and far from where it puts programs: nothing comes to lie there
// that is not told to. Slots of 64 GiB, so that windows of several ports do not overlap; the first
// page of a slot says that it is taken, and is its only page that is reserved with the heap.
bool place_far(std::size_t heap_bytes, std::size_t book_bytes, Place* place) noexcept {
  constexpr std::uintptr_t kFar = std::uintptr_t{16} << 40;
  constexpr std::uintptr_t kSlot = std::uintptr_t{64} << 30;
  const std::size_t bytes = heap_bytes + book_bytes;
  if (bytes > kSlot / 2) return false;
  const std::uintptr_t probe = reserve_address_space(kPageBytes, kPageBytes);
  if (probe == 0) return false;
  munmap(as_pointer(probe), kPageBytes);
  if (probe < 2 * kFar) return false;
  std::uintptr_t slot = (probe - kFar) / kSlot * kSlot;
  for (int tries = 0; !reserve_at(slot, kPageBytes); ++tries) {
    if (tries == 64) return false;
    slot -= kSlot;
  }
  // As random as the kernel's own choice.
  const std::uintptr_t places = (kSlot - bytes) / kHugePageBytes - 1;
  const std::uintptr_t base = slot + (1 + probe / kPageBytes % places) * kHugePageBytes;
  if (!reserve_at(base, heap_bytes)) {
    munmap(as_pointer(slot), kPageBytes);
    return false;
  }
  *place = Place::growing(base, heap_bytes, book_bytes, slot);
  return true;
}

// Halves both parts while there is no room for them.
bool place_anywhere(std::size_t heap_bytes, std::size_t book_bytes, Place* place) noexcept {
  const auto halve = [](std::size_t bytes) noexcept {
    return bytes <= kWindowLeast ? bytes
                                 : std::max(bytes / 2 / kPageBytes * kPageBytes, kWindowLeast);
  };
  for (;;) {
    const std::uintptr_t base = reserve_address_space(heap_bytes + book_bytes, kHugePageBytes);
    if (base != 0) {
      *place = Place::whole(base, heap_bytes, book_bytes);
      return true;
    }
    if (book_bytes <= kWindowLeast && heap_bytes <= kWindowLeast) return false;
    book_bytes = halve(book_bytes);
    heap_bytes = halve(heap_bytes);
  }
}

bool choose_place(const ProcessPort::Options& options, Place* place) noexcept {
  std::size_t heap_bytes = options.enclave_bytes;
  std::size_t book_bytes = options.book_bytes;
  if (options.base_hint != 0 && reserve_at(options.base_hint, heap_bytes + book_bytes)) {
    *place = Place::whole(options.base_hint, heap_bytes, book_bytes);
    return true;
  }
  const std::size_t share = std::max(process::address_space_share(), kPageBytes);
  heap_bytes = std::min(heap_bytes, share);
  if ((!options.reserve_books || book_bytes > share) && place_far(heap_bytes, book_bytes, place))
    return true;
  return place_anywhere(heap_bytes, std::min(book_bytes, share), place);
}

}  // namespace

struct ProcessPort::State {
  State(const Place& where, bool huge) noexcept
      : place(where),
        huge_pages(huge),
        books(place.books, place.reserved_end),
        regions(place.all()) {}

  const Place place;
  const bool huge_pages;
  BookMemory books;
  SharedFile shared;
  process::RegionZone regions;
};

struct ProcessPort::Pages {
  alignas(State) unsigned char state[sizeof(State)];
  alignas(ProcessPort) unsigned char face[sizeof(ProcessPort)];
};

Result<ProcessPort*> ProcessPort::create(const Options& options) noexcept {
  if (!is_page_multiple(options.book_bytes) || options.book_bytes > kBookWindowMost ||
      !is_page_multiple(options.enclave_bytes) || options.enclave_bytes > (std::size_t{1} << 46)) {
    return Error::kInvalidArgument;
  }
  Place place;
  if (!choose_place(options, &place)) return Error::kOutOfTrustedMemory;
  // Pages of its own: operator new would ask for a C++ run-time library, and malloc may be what is
  // built upon this port.
  void* const memory =
      mmap(nullptr, sizeof(Pages), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    place.unmap(place.reserved_end);
    return Error::kOutOfTrustedMemory;
  }
  Pages* const pages = static_cast<Pages*>(memory);
  State* const state = new (&pages->state) State(place, options.huge_pages);
  ProcessPort* const port = new (&pages->face) ProcessPort(state);
  if (options.shared && !state->shared.open()) {
    destroy(port);
    return Error::kHostRefused;
  }
  return port;
}

void ProcessPort::destroy(ProcessPort* port) noexcept {
  if (port == nullptr) return;
  State* const state = port->state_;
  state->place.unmap(state->books.window().mapped_end());
  state->~State();
  munmap(state, sizeof(Pages));
}

void ProcessPort::before_fork() noexcept {
  state_->books.lock_for_fork();
  state_->regions.lock_for_fork();
  state_->shared.lock_for_fork();
}

void ProcessPort::after_fork() noexcept {
  state_->shared.unlock_after_fork();
  state_->regions.unlock_after_fork();
  state_->books.unlock_after_fork();
}

PortTable ProcessPort::table() noexcept {
  return bind_port(*this);
}

Extent ProcessPort::enclave() noexcept {
  return state_->place.all();
}

Extent ProcessPort::book_window() noexcept {
  return state_->place.books;
}

Extent ProcessPort::enclave_heap() noexcept {
  return state_->place.heap;
}

void* ProcessPort::trusted_reserve(std::size_t bytes) noexcept {
  return is_page_multiple(bytes) ? state_->books.reserve(bytes) : nullptr;
}

void ProcessPort::trusted_release(void* memory, std::size_t bytes) noexcept {
  // If the kernel keeps the pages they must not be handed out as zero-filled: then the address
  // space is lost.
  if (madvise(memory, bytes, MADV_DONTNEED) == 0)
    state_->books.release({as_address(memory), bytes});
}

// Asks the processor by CPUID and the system by XGETBV; an enclave's port cannot.
bool ProcessPort::has_avx() noexcept {
  return __builtin_cpu_supports("avx") != 0;
}

bool ProcessPort::entropy(void* memory, std::size_t bytes) noexcept {
  // An enclave must use RDRAND. Here trusted means this process, whose memory the kernel can read
  // anyway, so nothing is gained by mistrusting the kernel's random bytes.
  auto* to = static_cast<unsigned char*>(memory);
  while (bytes != 0) {
    const ssize_t got = getrandom(to, bytes, 0);
    if (got > 0) {
      to += got;
      bytes -= static_cast<std::size_t>(got);
    } else if (got == 0 || errno != EINTR) {
      return false;
    }
  }
  return true;
}

HostReply ProcessPort::host_reserve(std::size_t bytes, std::size_t alignment) noexcept {
  if (!is_page_multiple(bytes) || !is_power_of_two(alignment)) return {0, EINVAL};
  alignment = std::max(alignment, kPageBytes);
  const bool huge = state_->huge_pages && bytes >= kHugeFromBytes;
  if (huge) alignment = std::max(alignment, kHugePageBytes);
  // The spare that is cut off again is never writable, so that it does not count as memory.
  const std::uintptr_t address = state_->regions.reserve(bytes, alignment);
  if (address == 0) return {0, errno};
  int error = 0;
  if (state_->shared.is_open()) {
    error = state_->shared.map_over(address, bytes, std::min(alignment, kHugePageBytes));
  } else if (mmap(as_pointer(address), bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
    error = errno;
  }
  if (error != 0) {
    munmap(as_pointer(address), bytes);
    state_->regions.release({address, bytes});
    return {0, error};
  }
  // A wish: EINVAL where the kernel has none.
  if (huge) madvise(as_pointer(address), bytes, MADV_HUGEPAGE);
  return {address, 0};
}

int ProcessPort::host_release(std::uintptr_t address, std::size_t bytes) noexcept {
  const int error =
      state_->shared.is_open() ? state_->shared.unmap(address, bytes) : host_unmap(address, bytes);
  if (error == 0) state_->regions.release({address, bytes});
  return error;
}

HostReply ProcessPort::host_map(const MapRequest& request) noexcept {
  void* const mapped = mmap(as_pointer(request.hint), request.size, request.protection,
                            request.flags, request.descriptor, static_cast<off_t>(request.offset));
  if (mapped == MAP_FAILED) return {0, errno};
  return {as_address(mapped), 0};
}

int ProcessPort::host_unmap(std::uintptr_t address, std::size_t bytes) noexcept {
  return munmap(as_pointer(address), bytes) == 0 ? 0 : errno;
}

int ProcessPort::host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept {
  return mprotect(as_pointer(address), bytes, protection) == 0 ? 0 : errno;
}

HostReply ProcessPort::host_remap(std::uintptr_t old_address, std::size_t old_size,
                                  std::size_t new_size, int flags,
                                  std::uintptr_t new_address) noexcept {
  void* const moved =
      mremap(as_pointer(old_address), old_size, new_size, flags, as_pointer(new_address));
  if (moved == MAP_FAILED) return {0, errno};
  return {as_address(moved), 0};
}

int ProcessPort::host_advise(RangeCall call, std::uintptr_t address, std::size_t bytes,
                             int argument) noexcept {
  return process::range_call(call, address, bytes, argument) == 0 ? 0 : errno;
}

int ProcessPort::host_resident(std::uintptr_t address, std::size_t bytes,
                               unsigned char* vector) noexcept {
  return mincore(as_pointer(address), bytes, vector) == 0 ? 0 : errno;
}

Result<ProcessPort::SharedBacking> ProcessPort::shared_backing(std::uintptr_t address) noexcept {
  if (!state_->shared.is_open()) return Error::kNotFound;
  return state_->shared.find(address);
}

}  // namespace exclave
