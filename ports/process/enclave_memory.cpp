// Page operations for the manager of the enclave's own memory, by the kernel: within a range that
// stays reserved (PROT_NONE) where nothing is mapped.

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "exclave/process_port.hpp"
#include "process/range_call.hpp"

namespace exclave {

namespace {

constexpr int kReservedFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
constexpr std::size_t kMostHeapBytes = (std::size_t{1} << 44) - kPageBytes;
// An area takes 64 bytes, and every page may be one. Address space, not memory.
constexpr std::size_t kBookBytesPerPage = 80;
constexpr std::size_t kLeastBookBytes = std::size_t{1} << 20;
constexpr std::size_t kMostBookBytes = std::size_t{32} << 30;

void* as_pointer(std::uintptr_t address) noexcept {
  return reinterpret_cast<void*>(address);
}

bool reserve_again(std::uintptr_t address, std::size_t size) noexcept {
  return mmap(as_pointer(address), size, PROT_NONE, kReservedFlags | MAP_FIXED, -1, 0) !=
         MAP_FAILED;
}

// Leaves empty pages behind, so that at no moment another thread's mapping can come to stand there.
int move_pages(std::uintptr_t from, std::uintptr_t to, std::size_t size) noexcept {
  constexpr int kFlags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
  if (mremap(as_pointer(from), size, size, kFlags, as_pointer(to)) != MAP_FAILED) return 0;
  if (errno != EFAULT || size == kPageBytes) return -errno;
  // One area to us is several to the kernel where its pages were first touched at different places.
  const std::size_t half = size / 2 / kPageBytes * kPageBytes;
  int error = move_pages(from, to, half);
  if (error != 0) return error;
  error = move_pages(from + half, to + half, size - half);
  if (error != 0) (void)move_pages(to, from, half);
  return error;
}

struct Pages {
  int commit(std::uintptr_t address, std::size_t size, int protection, bool shared) noexcept {
    const int flags =
        MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE);
    return mmap(as_pointer(address), size, protection, flags, -1, 0) != MAP_FAILED ? 0 : -errno;
  }
  int protect(std::uintptr_t address, std::size_t size, int protection) noexcept {
    return mprotect(as_pointer(address), size, protection) == 0 ? 0 : -errno;
  }
  int drop(std::uintptr_t address, std::size_t size) noexcept {
    return reserve_again(address, size) ? 0 : -errno;
  }
  // What stood at the new place may be gone when the kernel has no room for one more mapping.
  int move(std::uintptr_t from, std::uintptr_t to, std::size_t size, int, bool keep) noexcept {
    const int error = move_pages(from, to, size);
    if (error != 0) {
      (void)reserve_again(to, size);
    } else if (!keep) {
      (void)reserve_again(from, size);
    }
    return error;
  }
  int fill(std::uintptr_t address, std::size_t size, int descriptor,
           std::uint64_t offset) noexcept {
    const int mode = fcntl(descriptor, F_GETFL);
    if (mode < 0 || (mode & O_PATH) != 0) return -EBADF;
    if ((mode & O_ACCMODE) == O_WRONLY) return -EACCES;
    if (offset > INT64_MAX - size) return -EOVERFLOW;
    for (std::size_t done = 0; done < size;) {
      const ssize_t got = pread(descriptor, as_pointer(address + done), size - done,
                                static_cast<off_t>(offset + done));
      if (got > 0) {
        done += static_cast<std::size_t>(got);
      } else if (got == 0) {
        break;
      } else if (errno != EINTR) {
        // A pipe, a socket, a folder: Linux says ENODEV for what has no mmap.
        return errno == EIO ? -EIO : -ENODEV;
      }
    }
    return 0;
  }
  int zero(std::uintptr_t address, std::size_t size, int, bool shared) noexcept {
    const int advice = shared ? MADV_REMOVE : MADV_DONTNEED_LOCKED;
    return madvise(as_pointer(address), size, advice) == 0 ? 0 : -errno;
  }
  int advise(RangeCall call, std::uintptr_t address, std::size_t size, int argument) noexcept {
    return process::range_call(call, address, size, argument) == 0 ? 0 : -errno;
  }
  int resident(std::uintptr_t address, std::size_t size, unsigned char* vector) noexcept {
    return mincore(as_pointer(address), size, vector) == 0 ? 0 : -errno;
  }
};

// Trusted memory for the manager's books, from a window of its own.
class Books {
 public:
  explicit Books(Extent heap) noexcept : heap_(heap) {
    std::size_t bytes = heap.size / kPageBytes * kBookBytesPerPage / kPageBytes * kPageBytes;
    bytes = std::min(bytes + kLeastBookBytes, kMostBookBytes);
    for (; bytes >= kLeastBookBytes; bytes = bytes / 2 / kPageBytes * kPageBytes) {
      void* const window = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, kReservedFlags, -1, 0);
      if (window == MAP_FAILED) continue;
      window_ = {reinterpret_cast<std::uintptr_t>(window), bytes};
      top_ = window_.base;
      break;
    }
  }
  ~Books() {
    if (!window_.empty()) munmap(as_pointer(window_.base), window_.size);
  }
  Books(const Books&) = delete;
  Books& operator=(const Books&) = delete;

  // Of a port, what the manager asks for.
  PortTable table() noexcept {
    PortTable table{};
    table.context = this;
    table.enclave = [](void* c) -> exclave_extent {
      const Books& books = *static_cast<Books*>(c);
      const std::uintptr_t base = std::min(books.window_.base, books.heap_.base);
      return {base, std::max(books.window_.end(), books.heap_.end()) - base};
    };
    table.book_window = [](void* c) -> exclave_extent {
      const Extent window = static_cast<Books*>(c)->window_;
      return {window.base, window.size};
    };
    table.trusted_reserve = [](void* c, std::size_t bytes) -> void* {
      Books& books = *static_cast<Books*>(c);
      if (bytes > books.window_.end() - books.top_) return nullptr;
      books.top_ += bytes;
      return as_pointer(books.top_ - bytes);
    };
    // All goes at once, with the window.
    table.trusted_release = [](void*, void*, std::size_t) {};
    table.entropy = [](void*, void* memory, std::size_t bytes) {
      return getentropy(memory, bytes);
    };
    return table;
  }

 private:
  const Extent heap_;
  Extent window_{};
  std::uintptr_t top_ = 0;  // the store asks under its own lock
};

Extent upper_end(Extent heap) noexcept {
  if (heap.size <= kMostHeapBytes) return heap;
  return {heap.end() - kMostHeapBytes, kMostHeapBytes};
}

}  // namespace

struct ProcessEnclaveMemory::State {
  State(Extent range, bool randomize) noexcept
      : heap(upper_end(range)),
        books(heap),
        made(EnclaveManager::create(books.table(), bind_enclave_pages(pages),
                                    EnclaveManager::Options{heap, randomize})) {}

  const Extent heap;
  Books books;
  Pages pages;
  Result<EnclaveManager> made;
};

ProcessEnclaveMemory::ProcessEnclaveMemory(Extent heap, bool randomize) noexcept : state_(nullptr) {
  if (!reserve_again(heap.base, heap.size)) return;
  void* const memory = std::malloc(sizeof(State));
  if (memory == nullptr) return;
  state_ = new (memory) State(heap, randomize);
  if (state_->made.ok()) return;
  state_->~State();
  std::free(state_);
  state_ = nullptr;
}

ProcessEnclaveMemory::~ProcessEnclaveMemory() {
  if (state_ == nullptr) return;
  (void)reserve_again(state_->heap.base, state_->heap.size);
  state_->~State();
  std::free(state_);
}

EnclaveManager* ProcessEnclaveMemory::manager() noexcept {
  return state_ != nullptr ? &state_->made.value() : nullptr;
}

std::intptr_t ProcessEnclaveMemory::map(std::uintptr_t address, std::size_t size, int protection,
                                        int flags, int descriptor, std::uint64_t offset) noexcept {
  if (state_ == nullptr) return -ENOMEM;
  return state_->made->map(address, size, protection, flags, descriptor, offset);
}

int ProcessEnclaveMemory::unmap(std::uintptr_t address, std::size_t size) noexcept {
  return state_ != nullptr ? state_->made->unmap(address, size) : -ENOMEM;
}

int ProcessEnclaveMemory::protect(std::uintptr_t address, std::size_t size,
                                  int protection) noexcept {
  return state_ != nullptr ? state_->made->protect(address, size, protection) : -ENOMEM;
}

std::intptr_t ProcessEnclaveMemory::remap(std::uintptr_t old_address, std::size_t old_size,
                                          std::size_t new_size, int flags,
                                          std::uintptr_t new_address) noexcept {
  if (state_ == nullptr) return -ENOMEM;
  return state_->made->remap(old_address, old_size, new_size, flags, new_address);
}

std::uintptr_t ProcessEnclaveMemory::set_break(std::uintptr_t address) noexcept {
  return state_ != nullptr ? state_->made->set_break(address) : 0;
}

int ProcessEnclaveMemory::advise(RangeCall call, std::uintptr_t address, std::size_t size,
                                 int argument) noexcept {
  return state_ != nullptr ? state_->made->advise(call, address, size, argument) : -ENOMEM;
}

int ProcessEnclaveMemory::resident(std::uintptr_t address, std::size_t size,
                                   unsigned char* vector) noexcept {
  return state_ != nullptr ? state_->made->resident(address, size, vector) : -ENOMEM;
}

int ProcessEnclaveMemory::lock_all(int flags) noexcept {
  return state_ != nullptr ? state_->made->lock_all(flags) : -ENOMEM;
}

bool ProcessEnclaveMemory::lies_outside(int, int flags, int descriptor, std::uint64_t) noexcept {
  const int type = flags & MAP_TYPE;
  return (type == MAP_SHARED || type == MAP_SHARED_VALIDATE) && (flags & MAP_ANONYMOUS) == 0 &&
         descriptor >= 0;
}

}  // namespace exclave
