#include "port/book_store.hpp"

#include "base/bits.hpp"

namespace exclave {
namespace {

constexpr std::size_t kChunk = std::size_t{64} << 10;
// Larger books get a chunk of their own, so that the tail of a shared chunk wastes little.
constexpr std::size_t kOwnChunk = std::size_t{16} << 10;

struct Shape {
  std::size_t bytes;  // what is really taken
  unsigned index;     // its free list
};

// Exact cache lines up to 4 KiB and one (a leaf of the pagemap), then eight sizes for each
// doubling. Each book ends in a hidden link for its free list: at the end, where no reader of a
// freed book looks.
Shape shape_of(std::size_t bytes, unsigned exact_lines) noexcept {
  const std::uint64_t lines = ceil_div(bytes + sizeof(BookRef), kCacheLine);
  if (lines <= exact_lines) return {lines * kCacheLine, static_cast<unsigned>(lines)};
  const unsigned shift = floor_log2(lines) - 3;
  const std::uint64_t rounded = align_up(lines, std::uint64_t{1} << shift);
  const unsigned top = floor_log2(rounded) - 3;
  const unsigned step = static_cast<unsigned>(rounded >> top) - 8;
  return {rounded * kCacheLine, exact_lines + 1 + (top - 3) * 8 + step};
}

BookRef* link_of(void* book, std::size_t bytes) noexcept {
  return reinterpret_cast<BookRef*>(static_cast<char*>(book) + bytes - sizeof(BookRef));
}

}  // namespace

Status BookStore::open(const PortTable& port) noexcept {
  const exclave_extent window = port.book_window(port.context);
  const exclave_extent enclave = port.enclave(port.context);
  const Extent inside{enclave.base, enclave.size};
  if (!is_page_range({window.base, window.size}) || window.size > kMaxBookWindow ||
      !is_page_range(inside) || !inside.covers({window.base, window.size})) {
    return Error::kInvalidArgument;
  }
  base_ = window.base;
  window_ = {window.base, window.size};
  port_ = port;
  return {};
}

void BookStore::close() noexcept {
  // The store itself may lie in one of the chunks, so nothing of it is read after that one goes.
  lock_.lock();
  Chunk* chunk = chunks_;
  const PortTable port = port_;
  lock_.unlock();
  while (chunk != nullptr) {
    Chunk* const next = chunk->next;
    port.trusted_release(port.context, chunk, chunk->bytes);
    chunk = next;
  }
}

BookStore::Chunk* BookStore::reserve(std::size_t bytes) noexcept {
  bytes = align_up(bytes, kPageBytes);
  void* const memory = port_.trusted_reserve(port_.context, bytes);
  // Outside the window it could not be named.
  if (memory == nullptr || !window_.covers({reinterpret_cast<std::uintptr_t>(memory), bytes}))
    return nullptr;
  // The first line of each chunk is its header; so no book has the reference 0.
  Chunk* const chunk = static_cast<Chunk*>(memory);
  *chunk = {chunks_, bytes};
  chunks_ = chunk;
  reserved_.store(reserved_bytes() + bytes, std::memory_order_relaxed);
  return chunk;
}

void* BookStore::allocate(BookKind kind, std::size_t bytes) noexcept {
  if (bytes > kMaxBookWindow / 2) return nullptr;
  const Shape shape = shape_of(bytes, kExactLines);
  LockGuard guard(lock_);
  BookRef& head = free_[static_cast<unsigned>(kind)][shape.index];
  std::uintptr_t book = 0;
  if (head != 0) {
    void* const reused = at<void>(head);
    BookRef* const link = link_of(reused, shape.bytes);
    head = *link;
    *link = 0;
    book = reinterpret_cast<std::uintptr_t>(reused);
  } else if (shape.bytes >= kOwnChunk) {
    Chunk* const chunk = reserve(shape.bytes + kCacheLine);
    if (chunk == nullptr) return nullptr;
    book = reinterpret_cast<std::uintptr_t>(chunk) + kCacheLine;
  } else {
    if (bump_end_ - bump_ < shape.bytes) {
      Chunk* const chunk = reserve(kChunk);
      if (chunk == nullptr) return nullptr;
      bump_ = reinterpret_cast<std::uintptr_t>(chunk) + kCacheLine;
      bump_end_ = reinterpret_cast<std::uintptr_t>(chunk) + chunk->bytes;
    }
    book = bump_;
    bump_ += shape.bytes;
  }
  used_.store(used_bytes() + shape.bytes, std::memory_order_relaxed);
  return reinterpret_cast<void*>(book);
}

void BookStore::release(BookKind kind, void* book, std::size_t bytes) noexcept {
  const Shape shape = shape_of(bytes, kExactLines);
  // Word by word and atomic: a late reader may be looking. Release, so that whoever sees a zero
  // sees what the owner took back before.
  std::uint64_t* const words = static_cast<std::uint64_t*>(book);
  for (std::size_t i = 0; i < shape.bytes / sizeof(std::uint64_t); ++i) {
    __atomic_store_n(&words[i], std::uint64_t{0}, __ATOMIC_RELEASE);
  }
  release_zero(kind, book, bytes);
}

void BookStore::release_zero(BookKind kind, void* book, std::size_t bytes) noexcept {
  const Shape shape = shape_of(bytes, kExactLines);
  LockGuard guard(lock_);
  BookRef& head = free_[static_cast<unsigned>(kind)][shape.index];
  *link_of(book, shape.bytes) = head;
  head = ref(book);
  used_.store(used_bytes() - shape.bytes, std::memory_order_relaxed);
}

}  // namespace exclave
