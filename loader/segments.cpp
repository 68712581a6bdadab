#include "loader/segments.hpp"

#include <linux/shm.h>

#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/lock.hpp"
#include "loader/process.hpp"
#include "loader/program_memory.hpp"
#include "loader/syscalls.hpp"

namespace exclave::loader {
namespace {

// The kernel's shmid64_ds on x86-64, of which only the size is read.
struct SegmentStatus {
  std::uint64_t permissions[6];
  std::uint64_t bytes;
  std::uint64_t rest[16];
};
constexpr int kIpcStat = 2;

// What stands at the start of a ring: struct aio_ring of the kernel.
struct RingHead {
  std::uint32_t id, events, head, tail, magic, compatible, incompatible, head_bytes;
};
constexpr std::uint32_t kRingMagic = 0xa10a10a1;
constexpr std::size_t kEventBytes = 32;

// shmdt names a segment by its address only.
class Segments {
 public:
  bool add(std::uintptr_t address, std::size_t size) noexcept {
    const Locked guard(lock_);
    for (Extent& segment : segments_) {
      if (segment.empty()) {
        segment = {address, size};
        return true;
      }
    }
    return false;
  }
  // 0: none.
  std::size_t take(std::uintptr_t address) noexcept {
    const Locked guard(lock_);
    for (Extent& segment : segments_) {
      if (segment.base == address && !segment.empty()) {
        const std::size_t size = segment.size;
        segment = {};
        return size;
      }
    }
    return 0;
  }
  void before_fork() noexcept { lock_.lock(); }
  void after_fork() noexcept { lock_.unlock(); }

 private:
  Lock lock_;
  Extent segments_[1024] = {};
};
constinit Segments g_segments;

// The length of a ring, from its head, which the kernel wrote: verified before it is entered.
std::size_t ring_bytes(std::uintptr_t ring) noexcept {
  RingHead head{};
  if (!read_program(&head, ring, sizeof head)) return 0;
  if (head.magic != kRingMagic || head.head_bytes != sizeof head) return 0;
  const std::size_t bytes = sizeof head + head.events * kEventBytes;
  return (bytes + kPage - 1) & ~(kPage - 1);
}

}  // namespace

long attach_segment(int id, std::uintptr_t address, int flags) noexcept {
  SegmentStatus status{};
  const long known = system_call(__NR_shmctl, id, kIpcStat, &status);
  // Without the right to look, attaching would be refused, too.
  if (failed(known)) return known == -EPERM ? -EACCES : known;
  if ((flags & SHM_RND) != 0) address &= ~(kPage - 1);
  if ((flags & SHM_REMAP) != 0 && address == 0) return -EINVAL;
  const int protection = PROT_READ | ((flags & SHM_RDONLY) != 0 ? 0 : PROT_WRITE) |
                         ((flags & SHM_EXEC) != 0 ? PROT_EXEC : 0);
  int placed = 0;
  if (address != 0) placed = (flags & SHM_REMAP) != 0 ? MAP_FIXED : MAP_FIXED_NOREPLACE;
  const std::intptr_t attached = g_process.inside->map(
      address, status.bytes, protection, MAP_SHARED | placed, InsidePages::segment(id), 0);
  // Something stands there, or it is no place for programs.
  if (placed != 0 && (attached == -EEXIST || attached == -ENOMEM)) return -EINVAL;
  if (!failed(attached) && !g_segments.add(static_cast<std::uintptr_t>(attached), status.bytes)) {
    (void)g_process.inside->unmap(static_cast<std::uintptr_t>(attached), status.bytes);
    return -ENOMEM;
  }
  return attached;
}

long detach_segment(std::uintptr_t address) noexcept {
  std::size_t size = g_segments.take(address);
  if (size == 0) return -EINVAL;
  size = (size + kPage - 1) & ~(kPage - 1);
  // What the program mapped over parts of it is no part of it any more.
  const long detached = system_call(__NR_shmdt, address);
  if (failed(detached)) return detached;
  for (Extent rest{address, size}; !rest.empty();) {
    Extent area{rest.end(), 0};
    (void)g_process.inside->visit(
        rest,
        [](void* found, Extent part, int) {
          *static_cast<Extent*>(found) = part;
          return 1;
        },
        &area);
    unsigned char residency = 0;
    if (!area.empty() && system_call(__NR_mincore, area.base, kPage, &residency) == -ENOMEM) {
      (void)g_process.inside->unmap(area.base, area.size);
    }
    rest = {area.end(), rest.end() - area.end()};
  }
  return 0;
}

long make_ring(std::uintptr_t events, std::uintptr_t context) noexcept {
  const long result = system_call(__NR_io_setup, events, context);
  std::uintptr_t ring = 0;
  if (failed(result) || !read_program(&ring, context, sizeof ring)) return result;
  const std::size_t bytes = ring_bytes(ring);
  if (bytes != 0 && g_process.calls->adopt(ring, bytes, PROT_READ | PROT_WRITE) == 0) return 0;
  (void)system_call(__NR_io_destroy, ring);
  const std::uintptr_t none = 0;
  (void)write_program(context, &none, sizeof none);
  return -ENOMEM;
}

// Out of the books first: else another thread's mapping may get the same place while it still
// stands in them.
long destroy_ring(std::uintptr_t context) noexcept {
  const std::size_t bytes = ring_bytes(context);
  const bool known = bytes != 0 && g_process.calls->give_up(context, bytes) == 0;
  const long result = system_call(__NR_io_destroy, context);
  if (failed(result) && known) {
    (void)g_process.calls->adopt(context, bytes, PROT_READ | PROT_WRITE);
  }
  return result;
}

void segments_before_fork() noexcept {
  g_segments.before_fork();
}
void segments_after_fork() noexcept {
  g_segments.after_fork();
}

}  // namespace exclave::loader
