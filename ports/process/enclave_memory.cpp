// The manager of the enclave's own memory in a process: page operations by the kernel, called
// through libc, within a range that stays reserved (PROT_NONE) where nothing is mapped; and books
// in a window of their own.

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "exclave/process_port.hpp"
#include "kernel/enclave_pages.hpp"
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

// The system calls through libc, where the sanitizers see them.
struct Calls {
  static long answer(long result) noexcept { return result != -1 ? result : -errno; }

  static void wait() noexcept { (void)sched_yield(); }
  // By one mapping: at no moment another thread's could come to stand there.
  static long vacate(std::uintptr_t address, std::size_t size) noexcept {
    return mmap(address, size, PROT_NONE, kReservedFlags | MAP_FIXED, -1, 0);
  }
  static long mmap(std::uintptr_t address, std::size_t size, int protection, int flags,
                   int descriptor, off_t offset) noexcept {
    return answer(reinterpret_cast<long>(
        ::mmap(as_pointer(address), size, protection, flags, descriptor, offset)));
  }
  static long mprotect(std::uintptr_t address, std::size_t size, int protection) noexcept {
    return answer(::mprotect(as_pointer(address), size, protection));
  }
  static long mremap(std::uintptr_t from, std::size_t old_size, std::size_t new_size, int flags,
                     std::uintptr_t to) noexcept {
    return answer(reinterpret_cast<long>(
        ::mremap(as_pointer(from), old_size, new_size, flags, as_pointer(to))));
  }
  static long range_call(RangeCall call, std::uintptr_t address, std::size_t size,
                         int argument) noexcept {
    return answer(process::range_call(call, address, size, argument));
  }
  static long mincore(std::uintptr_t address, std::size_t size, unsigned char* vector) noexcept {
    return answer(::mincore(as_pointer(address), size, vector));
  }
  static long status_flags(int descriptor) noexcept { return answer(fcntl(descriptor, F_GETFL)); }
  static long file_kind(int descriptor, kernel::FileKind* kind) noexcept {
    struct stat status {};
    const long result = answer(fstat(descriptor, &status));
    *kind = {status.st_mode, status.st_rdev};
    return result;
  }
  static long pread(int descriptor, std::uintptr_t to, std::size_t size,
                    std::uint64_t offset) noexcept {
    return answer(::pread(descriptor, as_pointer(to), size, static_cast<off_t>(offset)));
  }
};

using Pages = kernel::EnclavePages<Calls>;

bool reserve_again(Extent range) noexcept {
  return Calls::vacate(range.base, range.size) >= 0;
}

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
  if (!reserve_again(heap)) return;
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
  (void)reserve_again(state_->heap);
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
