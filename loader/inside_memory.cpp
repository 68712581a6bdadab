#include "loader/inside_memory.hpp"

#include "loader/linux_abi.hpp"
#include "loader/syscalls.hpp"

namespace exclave::loader {
namespace {

constexpr std::uintptr_t kLow2GiB = std::uintptr_t{2} << 30;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
constexpr int kShmRemap = 040000;

bool is_page_aligned(std::uintptr_t n) noexcept {
  return n % kPageBytes == 0;
}
// Rounded up to pages; 0 when that wraps.
std::size_t whole_pages(std::size_t bytes) noexcept {
  return (bytes + kPageBytes - 1) & ~(kPageBytes - 1);
}
long reserve_again(Extent range) noexcept {
  return system_call(__NR_mmap, range.base, range.size, PROT_NONE, kAnonymous | MAP_NORESERVE, -1,
                     0);
}

// struct statfs of the system call.
struct FileSystem {
  std::int64_t type, block_bytes, rest[13];
};
constexpr std::int64_t kHugePageFiles = 0x958458f6;

// Huge pages lie at multiples of their size, and a length is rounded up to it.
std::size_t alignment_for(int flags, int descriptor) noexcept {
  if ((flags & MAP_ANONYMOUS) == 0) {
    FileSystem system{};
    const bool huge =
        !failed(system_call(__NR_fstatfs, descriptor, &system)) && system.type == kHugePageFiles;
    return huge ? static_cast<std::size_t>(system.block_bytes) : kPageBytes;
  }
  if ((flags & MAP_HUGETLB) == 0) return kPageBytes;
  const int log2 = flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK;
  return log2 == 0 ? kHugePage : std::size_t{1} << log2;
}

}  // namespace

void InsideMemory::open(Extent window, void* zeroes, const Policy& policy,
                        std::size_t spread_bytes) noexcept {
  pages_.open(window, zeroes);
  policy_ = &policy;
  search_from_ = window.end() - spread_bytes;
}

bool InsideMemory::is_in_window(std::uintptr_t address, std::size_t size) const noexcept {
  return pages_.window().covers({address, size});
}

// A hint is met where it is free; else the highest place below where the search begins, and above
// it when there is none.
std::uintptr_t InsideMemory::place_locked(std::uintptr_t hint, std::size_t size,
                                          std::size_t alignment, int flags) noexcept {
  if ((flags & MAP_32BIT) != 0) return pages_.highest_gap(size, alignment, kLow2GiB);
  hint = (hint + alignment - 1) & ~(alignment - 1);
  if (hint != 0 && is_in_window(hint, size) && pages_.has_none_of({hint, size})) return hint;
  const std::uintptr_t place = pages_.highest_gap(size, alignment, search_from_);
  return place != 0 ? place : pages_.highest_gap(size, alignment, pages_.window().end());
}

void InsideMemory::note_mapped_locked(Extent range) noexcept {
  pages_.add(range);
  if (pages_.count() > peak_pages_) peak_pages_ = pages_.count();
}

int InsideMemory::free_locked(Extent range) noexcept {
  const long result = reserve_again(range);
  if (failed(result)) return static_cast<int>(result);
  pages_.remove(range);
  return 0;
}

// A call with a fixed place failed, and the kernel may have taken away what stood there first: what
// it left as a hole must not be anybody else's.
void InsideMemory::mend_locked(Extent range) noexcept {
  while (!range.empty()) {
    const Extent run{range.base, pages_.run_at(range)};
    unsigned char residency = 0;
    bool gone = !pages_.has(run.base);
    for (std::uintptr_t at = run.base; !gone && at < run.end(); at += kPageBytes) {
      gone = system_call(__NR_mincore, at, kPageBytes, &residency) == -ENOMEM;
    }
    if (gone) (void)free_locked(run);
    range = {run.end(), range.size - run.size};
  }
}

// ---- mmap, munmap, mprotect ----

std::intptr_t InsideMemory::map(std::uintptr_t address, std::size_t size, int protection, int flags,
                                int descriptor, std::uint64_t offset) noexcept {
  const bool fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  if (size == 0 || !is_page_aligned(offset)) return -EINVAL;
  const std::size_t alignment = alignment_for(flags, descriptor);
  size = whole_pages(size);
  if (size == 0 || size > pages_.window().size) return -ENOMEM;
  size = (size + alignment - 1) & ~(alignment - 1);
  if (fixed && (address & (alignment - 1)) != 0) return -EINVAL;
  if (fixed && !is_in_window(address, size)) return -ENOMEM;

  const Locked guard(lock_);
  const std::uintptr_t place = fixed ? address : place_locked(address, size, alignment, flags);
  if (place == 0) return -ENOMEM;
  const Extent range{place, size};
  const bool was_free = pages_.has_none_of(range);
  if ((flags & MAP_FIXED_NOREPLACE) != 0 && !was_free) return -EEXIST;
  // What grows downwards would grow into reserved space: it has its whole size from the start.
  constexpr int kOurs = MAP_FIXED_NOREPLACE | MAP_32BIT | MAP_GROWSDOWN;
  const long mapped = system_call(__NR_mmap, place, size, protection, (flags & ~kOurs) | MAP_FIXED,
                                  descriptor, offset);
  if (failed(mapped)) {
    mend_locked(range);
    return mapped;
  }
  note_mapped_locked(range);
  if ((flags & MAP_TYPE) != MAP_PRIVATE) shared_maps_.fetch_add(1, std::memory_order_relaxed);
  return mapped;
}

int InsideMemory::unmap(std::uintptr_t address, std::size_t size) noexcept {
  if (!is_page_aligned(address) || size == 0) return -EINVAL;
  size = whole_pages(size);
  if (size == 0 || address + size < address) return -EINVAL;
  const Extent window = pages_.window();
  const std::uintptr_t base = address > window.base ? address : window.base;
  const std::uintptr_t end = address + size < window.end() ? address + size : window.end();
  if (base >= end) return 0;
  const Locked guard(lock_);
  // Free runs are reserved already: whoever unmaps a terabyte asks the kernel only for what is his.
  for (Extent rest{base, end - base}; !rest.empty();) {
    const Extent run{rest.base, pages_.run_at(rest)};
    if (pages_.has(run.base)) {
      if (const int error = free_locked(run); error != 0) return error;
    }
    rest = {run.end(), rest.size - run.size};
  }
  return 0;
}

int InsideMemory::protect(std::uintptr_t address, std::size_t size, int protection) noexcept {
  if (!is_page_aligned(address)) return -EINVAL;
  size = whole_pages(size);
  const Extent window = pages_.window();
  const Locked guard(lock_);
  for (Extent rest{address, size}; !rest.empty();) {
    // The pages before a hole keep their new protection, as Linux does it.
    if (!window.contains(rest.base) || !pages_.has(rest.base)) return -ENOMEM;
    const std::size_t most = rest.end() <= window.end() ? rest.size : window.end() - rest.base;
    const Extent run{rest.base, pages_.run_at({rest.base, most})};
    const long result = system_call(__NR_mprotect, run.base, run.size, protection);
    if (failed(result)) return static_cast<int>(result);
    rest = {run.end(), rest.size - run.size};
  }
  return 0;
}

bool InsideMemory::lies_outside(int, int flags, int descriptor, std::uint64_t) noexcept {
  const int type = flags & MAP_TYPE;
  return (type == MAP_SHARED || type == MAP_SHARED_VALIDATE) && (flags & MAP_ANONYMOUS) == 0 &&
         policy_->allows(descriptor);
}

// ---- mremap ----

std::intptr_t InsideMemory::move_locked(Extent from, std::size_t new_size, int flags,
                                        Extent to) noexcept {
  const int keep = flags & MREMAP_DONTUNMAP;
  const long moved = system_call(__NR_mremap, from.base, from.size, new_size,
                                 MREMAP_MAYMOVE | MREMAP_FIXED | keep, to.base);
  if (failed(moved)) {
    mend_locked(to);
    return moved;
  }
  note_mapped_locked(to);
  if (keep == 0 && !from.empty()) (void)free_locked(from);
  return moved;
}

// In place: the kernel grows a mapping into a hole only, so the reserved pages behind it go first.
bool InsideMemory::grow_locked(Extent from, std::size_t new_size) noexcept {
  const Extent added{from.end(), new_size - from.size};
  if (from.empty() || !is_in_window(added.base, added.size) || !pages_.has_none_of(added)) {
    return false;
  }
  if (failed(system_call(__NR_munmap, added.base, added.size))) return false;
  if (failed(system_call(__NR_mremap, from.base, from.size, new_size, 0, 0))) {
    (void)reserve_again(added);
    return false;
  }
  note_mapped_locked(added);
  return true;
}

std::intptr_t InsideMemory::remap(std::uintptr_t address, std::size_t old_size,
                                  std::size_t new_size, int flags,
                                  std::uintptr_t new_address) noexcept {
  constexpr int kKnown = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
  const bool may_move = (flags & MREMAP_MAYMOVE) != 0, fixed = (flags & MREMAP_FIXED) != 0;
  const bool keep = (flags & MREMAP_DONTUNMAP) != 0;
  if ((flags & ~kKnown) != 0 || ((fixed || keep) && !may_move)) return -EINVAL;
  old_size = whole_pages(old_size);
  new_size = whole_pages(new_size);
  if (!is_page_aligned(address) || new_size == 0 || (keep && old_size != new_size)) return -EINVAL;
  const Extent from{address, old_size};
  if (fixed && (!is_page_aligned(new_address) || !is_in_window(new_address, new_size) ||
                Extent{new_address, new_size}.overlaps(from))) {
    return -EINVAL;
  }
  const Locked guard(lock_);
  if (!is_in_window(address, old_size == 0 ? kPageBytes : old_size) || !pages_.has(address) ||
      pages_.run_at(from) != old_size) {
    return -EFAULT;
  }
  if (fixed) return move_locked(from, new_size, flags, {new_address, new_size});
  if (!keep && old_size != 0 && new_size <= old_size) {
    if (new_size == old_size) return static_cast<std::intptr_t>(address);
    const int error = free_locked({address + new_size, old_size - new_size});
    return error != 0 ? error : static_cast<std::intptr_t>(address);
  }
  if (!keep && grow_locked(from, new_size)) return static_cast<std::intptr_t>(address);
  if (!may_move) return -ENOMEM;
  const std::uintptr_t place = place_locked(keep ? new_address : 0, new_size, kPageBytes, 0);
  if (place == 0) return -ENOMEM;
  return move_locked(from, new_size, flags, {place, new_size});
}

// ---- brk ----

void InsideMemory::start_break(std::uintptr_t start) noexcept {
  break_start_ = break_ = start;
}

std::intptr_t InsideMemory::set_break(std::uintptr_t wanted) noexcept {
  const Locked guard(lock_);
  const auto now = static_cast<std::intptr_t>(break_);
  if (wanted < break_start_ || wanted > pages_.window().end()) return now;
  const std::uintptr_t old_end = whole_pages(break_), new_end = whole_pages(wanted);
  if (new_end < old_end) {
    if (free_locked({new_end, old_end - new_end}) != 0) return now;
  } else if (new_end > old_end) {
    const Extent added{old_end, new_end - old_end};
    if (!pages_.has_none_of(added)) return now;
    if (failed(system_call(__NR_mmap, added.base, added.size, PROT_READ | PROT_WRITE, kAnonymous,
                           -1, 0))) {
      mend_locked(added);
      return now;
    }
    note_mapped_locked(added);
  }
  break_ = wanted;
  return static_cast<std::intptr_t>(wanted);
}

// ---- System V segments ----

std::intptr_t InsideMemory::attach_segment(int id, std::uintptr_t address, std::size_t size,
                                           int flags) noexcept {
  size = whole_pages(size);
  const Locked guard(lock_);
  const std::uintptr_t place = address != 0 ? address : place_locked(0, size, kPageBytes, 0);
  if (place == 0) return -ENOMEM;
  if (!is_page_aligned(place) || !is_in_window(place, size)) return -EINVAL;
  const Extent range{place, size};
  const bool was_free = pages_.has_none_of(range);
  if (!was_free && (flags & kShmRemap) == 0) return -EINVAL;
  const long attached = system_call(__NR_shmat, id, place, flags | kShmRemap);
  if (failed(attached)) {
    mend_locked(range);
    return attached;
  }
  note_mapped_locked(range);
  shared_maps_.fetch_add(1, std::memory_order_relaxed);
  return attached;
}

int InsideMemory::detach_segment(std::uintptr_t address, std::size_t size) noexcept {
  const Locked guard(lock_);
  const long result = system_call(__NR_shmdt, address);
  if (failed(result)) return static_cast<int>(result);
  return free_locked({address, whole_pages(size)});
}

InsideMemory::Picture InsideMemory::picture() noexcept {
  const Locked guard(lock_);
  return {pages_.count() * kPageBytes, peak_pages_ * kPageBytes, pages_.runs(),
          shared_maps_.load(std::memory_order_relaxed)};
}

}  // namespace exclave::loader
