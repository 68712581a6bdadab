// Moves the contents of huge blocks by their page tables instead of byte by byte (mremap). Both
// blocks keep their places, and the allocator's books know nothing of it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace exclave::process_malloc {

// From here on a block mostly has a region of its own (Config::grow_max_bytes), which goes back to
// the kernel with it, and with it the mappings that moved pages leave in it.
inline constexpr std::size_t kLeastMoved = std::size_t{64} << 20;

enum class Move {
  kDone,    // `to` holds what `from` held; `from` is still mapped, and reads as anything
  kCopy,    // nothing was moved, or it is back: copy the bytes
  kTainted  // the same, but `to` may be another's memory by now: never touch it, never free it
};

// Thread-safe for blocks that belong to the caller. Keeps errno. Whole pages; the ranges do not
// overlap.
[[gnu::cold]] Move move_pages(std::uintptr_t to, std::uintptr_t from, std::size_t bytes) noexcept;

}  // namespace exclave::process_malloc
