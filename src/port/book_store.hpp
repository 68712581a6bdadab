// Trusted memory for the books, and 32-bit references into it.
//
// Readers follow references without a lock while a writer may free and reuse the book behind them.
// So books are type-stable: memory that once held a book of one kind and size only ever holds books
// of that kind and size. A late reader finds a wrong book, never a torn one, and each reader
// verifies what it found (base, owner, identity). The price: memory is not moved from kind to kind;
// it goes back to the port when the allocator goes. docs/adr/0003.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/spin_lock.hpp"
#include "base/units.hpp"
#include "exclave/port.hpp"
#include "exclave/result.hpp"

namespace exclave {

enum class BookKind : std::uint8_t {
  kPagemapMiddle,
  kPagemapLeaf,
  kRegion,    // with its unit entries
  kSlab,      // with its slot states
  kPoolSlab,  // the same, one line further on
  kHeap,
  kSlabMap,  // never released: readers may stay in it
  kPlain,    // only ever reached under a lock
  kCount,
};

// A book's offset in the port's window, in words of eight bytes, so that following it is one
// scaled load. 0: none. Books lie on cache lines, so the low three bits are 0: room for a tag.
using BookRef = std::uint32_t;
inline constexpr unsigned kBookTagBits = 3;
inline constexpr std::size_t kMaxBookWindow = std::size_t{sizeof(std::uint64_t)} << 32;

// What turns references into books. By value, so that a walk along several references keeps it in a
// register, across acquiring loads, too.
class BookView {
 public:
  explicit BookView(std::uintptr_t base) noexcept : base_(base) {}
  template <class T>
  T* at(BookRef ref) const noexcept {
    return at_tagged<T>(ref, 0);
  }
  // The same with the tag still on the reference: taking it off costs nothing here.
  template <class T>
  T* at_tagged(std::uint32_t tagged, std::uint32_t tag) const noexcept {
    return reinterpret_cast<T*>(base_ + std::uintptr_t{tagged} * sizeof(std::uint64_t) -
                                std::uintptr_t{tag} * sizeof(std::uint64_t));
  }

 private:
  std::uintptr_t base_;
};

class BookStore {
 public:
  // Errors: kInvalidArgument when the port's window is out of shape.
  Status open(const PortTable& port) noexcept;
  // Gives everything back to the port. No book may be used afterwards.
  void close() noexcept;

  // Zero-filled, 64-byte aligned; null when the port has no more. O(1).
  void* allocate(BookKind kind, std::size_t bytes) noexcept EXCLAVE_EXCLUDES(lock_);
  // bytes as allocated. Zeroes the book at once, so that late readers find nothing.
  void release(BookKind kind, void* book, std::size_t bytes) noexcept EXCLAVE_EXCLUDES(lock_);
  // The same for a book that is all zero already.
  void release_zero(BookKind kind, void* book, std::size_t bytes) noexcept EXCLAVE_EXCLUDES(lock_);

  template <class T>
  T* at(BookRef ref) const noexcept {
    return view().at<T>(ref);
  }
  BookView view() const noexcept { return BookView(base_); }
  BookRef ref(const void* book) const noexcept {
    return static_cast<BookRef>((reinterpret_cast<std::uintptr_t>(book) - base_) /
                                sizeof(std::uint64_t));
  }

  std::size_t reserved_bytes() const noexcept { return reserved_.load(std::memory_order_relaxed); }
  std::size_t used_bytes() const noexcept { return used_.load(std::memory_order_relaxed); }
  SpinLock& lock() noexcept EXCLAVE_RETURNS_LOCK(lock_) { return lock_; }  // for fork

 private:
  struct Chunk {
    Chunk* next;
    std::size_t bytes;
  };
  static constexpr unsigned kExactLines = 65;
  static constexpr unsigned kSizes = kExactLines + 1 + 8 * 24;

  Chunk* reserve(std::size_t bytes) noexcept EXCLAVE_REQUIRES(lock_);

  std::uintptr_t base_ = 0;
  Extent window_{};
  PortTable port_{};
  SpinLock lock_{LockRank::kBooks};
  Chunk* chunks_ EXCLAVE_GUARDED_BY(lock_) = nullptr;
  std::uintptr_t bump_ EXCLAVE_GUARDED_BY(lock_) = 0;
  std::uintptr_t bump_end_ EXCLAVE_GUARDED_BY(lock_) = 0;
  BookRef free_[static_cast<unsigned>(BookKind::kCount)][kSizes] EXCLAVE_GUARDED_BY(lock_) = {};
  std::atomic<std::size_t> reserved_{0};
  std::atomic<std::size_t> used_{0};
};

}  // namespace exclave
