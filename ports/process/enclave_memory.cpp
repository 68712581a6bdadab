// The manager of the enclave's own memory in a process: page operations by the kernel, called
// through libc, within a range that stays reserved (PROT_NONE) where nothing is mapped; and books
// in a window of their own.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "exclave/process_port.hpp"
#include "kernel/book_window.hpp"
#include "kernel/enclave_pages.hpp"
#include "process/address_space.hpp"
#include "process/calls.hpp"

namespace exclave {

namespace {

constexpr std::size_t kMostHeapBytes = (std::size_t{1} << 44) - kPageBytes;
// An area takes 64 bytes, and every page may be one. Address space, not memory.
constexpr std::size_t kBookBytesPerPage = 80;
constexpr std::size_t kLeastBookBytes = std::size_t{1} << 20;
constexpr std::size_t kMostBookBytes = std::size_t{32} << 30;

using process::as_pointer;
using process::Calls;
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
    bytes = std::max(std::min(bytes, process::address_space_share()), kLeastBookBytes);
    for (; bytes >= kLeastBookBytes; bytes = bytes / 2 / kPageBytes * kPageBytes) {
      const std::uintptr_t base = process::reserve_address_space(bytes, kPageBytes);
      if (base == 0) continue;
      window_.open({base, bytes}, base + bytes);
      break;
    }
  }
  ~Books() {
    const Extent window = window_.extent();
    if (!window.empty()) munmap(as_pointer(window.base), window.size);
  }
  Books(const Books&) = delete;
  Books& operator=(const Books&) = delete;

  // Of a port, what the manager asks for.
  PortTable table() noexcept {
    PortTable table{};
    table.context = this;
    table.enclave = [](void* c) -> exclave_extent {
      const Books& books = *static_cast<Books*>(c);
      const Extent window = books.window_.extent();
      const std::uintptr_t base = std::min(window.base, books.heap_.base);
      return {base, std::max(window.end(), books.heap_.end()) - base};
    };
    table.book_window = [](void* c) -> exclave_extent {
      const Extent window = static_cast<Books*>(c)->window_.extent();
      return {window.base, window.size};
    };
    table.trusted_reserve = [](void* c, std::size_t bytes) -> void* {
      return static_cast<Books*>(c)->window_.take(bytes);
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
  kernel::BookWindow<Calls> window_;
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
