#include "page_mover.hpp"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <atomic>

#include "base/units.hpp"

namespace exclave::process_malloc {
namespace {

constexpr int kKeepMapped = 4;  // MREMAP_DONTUNMAP, since Linux 5.7
// Each move leaves the block in one more mapping. From so many on it is copied, into one.
constexpr int kMostPieces = 64;

void* memory(std::uintptr_t address) noexcept {
  return reinterpret_cast<void*>(address);
}

// In place of what is mapped at `to`. False: that may be unmapped now.
bool move(std::uintptr_t to, std::uintptr_t from, std::size_t bytes) noexcept {
  return mremap(memory(from), bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | kKeepMapped,
                memory(to)) == memory(to);
}

enum class Answer : int { kUnknown, kYes, kNo };
constinit std::atomic<Answer> g_can_move{Answer::kUnknown};

// Can this kernel move pages so? Asked once, of two pages that may get lost.
bool can_move() noexcept {
  Answer known = g_can_move.load(std::memory_order_relaxed);
  if (known != Answer::kUnknown) return known == Answer::kYes;
  known = Answer::kNo;
  void* const pages =
      mmap(nullptr, 2 * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages != MAP_FAILED) {
    const auto address = reinterpret_cast<std::uintptr_t>(pages);
    if (move(address + kPageBytes, address, kPageBytes)) {
      known = Answer::kYes;
      (void)munmap(pages, 2 * kPageBytes);
    } else {
      // The second page may be gone, and its place another's.
      (void)munmap(pages, kPageBytes);
    }
  }
  g_can_move.store(known, std::memory_order_relaxed);
  return known == Answer::kYes;
}

// Does the range lie in one mapping? Kernels before 6.17 move no more at once, and find that out
// only after they unmapped the place. So it is asked first: whether it could have a page more,
// where it stands.
bool is_one_mapping(std::uintptr_t from, std::size_t bytes) noexcept {
  if (mremap(memory(from), bytes, bytes + kPageBytes, 0) == MAP_FAILED) return errno != EFAULT;
  (void)munmap(memory(from + bytes), kPageBytes);  // it can, and has it
  return true;
}

// Of the range, in whole pages, what stands in its first mapping.
std::size_t first_mapping(std::uintptr_t from, std::size_t bytes) noexcept {
  if (is_one_mapping(from, bytes)) return bytes;
  std::size_t low = 1, high = bytes / kPageBytes;  // low pages are in one, high ones are not
  while (high - low > 1) {
    const std::size_t middle = low + (high - low) / 2;
    (is_one_mapping(from, middle * kPageBytes) ? low : high) = middle;
  }
  return low * kPageBytes;
}

// After a move that failed, memory stands there again. False: that cannot be told, because
// something is mapped there, the old pages or another thread's new ones.
bool close_hole(std::uintptr_t at, std::size_t bytes) noexcept {
  void* const place =
      mmap(memory(at), bytes, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (place == memory(at)) return true;
  if (place != MAP_FAILED) (void)munmap(place, bytes);  // kernels that do not know the flag
  return false;
}

}  // namespace

Move move_pages(std::uintptr_t to, std::uintptr_t from, std::size_t bytes) noexcept {
  const int saved = errno;
  Move result = can_move() ? Move::kDone : Move::kCopy;
  std::size_t done = 0;
  for (int pieces = 0; result == Move::kDone && done < bytes; ++pieces) {
    if (pieces == kMostPieces) {
      // The rest of it, byte by byte, so that what comes next begins with fewer.
      memcpy(memory(to + done), memory(from + done), bytes - done);
      break;
    }
    const std::size_t piece = first_mapping(from + done, bytes - done);
    if (move(to + done, from + done, piece)) {
      done += piece;
      continue;
    }
    memcpy(memory(from), memory(to), done);
    result = close_hole(to + done, piece) ? Move::kCopy : Move::kTainted;
    // Each one costs its place, so it is the last.
    if (result == Move::kTainted) g_can_move.store(Answer::kNo, std::memory_order_relaxed);
  }
  errno = saved;
  return result;
}

}  // namespace exclave::process_malloc
