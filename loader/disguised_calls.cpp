#include "loader/disguised_calls.hpp"

#include <linux/io_uring.h>

#include <atomic>
#include <cstddef>

#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/process.hpp"
#include "loader/program_memory.hpp"
#include "loader/text.hpp"
#include "loader/trace.hpp"

namespace exclave::loader {
namespace {

constexpr int kThisThread = -10000, kThisProcess = -10001;  // PIDFD_SELF_*, of later headers

// What a pidfd stands for, as /proc tells it. 0: nobody says.
long number_of(int pidfd) noexcept {
  Line<64> path;
  path.text("/proc/self/fdinfo/").decimal(pidfd);
  const long file = system_call(__NR_openat, AT_FDCWD, path.c_string(), O_RDONLY | O_CLOEXEC);
  if (failed(file)) return 0;
  char text[512];
  const long bytes = system_call(__NR_read, file, text, sizeof text);
  (void)system_call(__NR_close, file);
  for (std::string_view rest(text, failed(bytes) ? 0 : static_cast<std::size_t>(bytes));
       !rest.empty();) {
    const std::string_view line = take_before(&rest, '\n');
    std::uint64_t number = 0;
    if (starts_with(line, "Pid:\t") && parse_number(all_after(line, 5), &number)) {
      return static_cast<long>(number);
    }
  }
  return 0;
}

// Does it stand for a process of these books? A vfork child has its parent's.
bool is_own(int pidfd) noexcept {
  if (pidfd == kThisThread || pidfd == kThisProcess) return true;
  const long number = number_of(pidfd);
  return number != 0 && (system_call(__NR_tgkill, g_process.pid, number, 0) == 0 ||
                         system_call(__NR_tgkill, system_call(__NR_getpid), number, 0) == 0);
}

// The advice that Linux takes of one process about another. The kernel tells "another" by the
// memory, which a vfork child shares, so the rest must not come there.
bool is_advice_for_others(int advice) noexcept {
  constexpr int kCollapse = 25;
  return advice == MADV_COLD || advice == MADV_PAGEOUT || advice == MADV_WILLNEED ||
         advice == kCollapse;
}

struct IoVector {
  std::uintptr_t base;
  std::size_t bytes;
};
constexpr std::size_t kMostVectors = 1024;
constexpr std::size_t kMostBytes = 0x7ffff000;  // of all vectors of one call

// ---- Rings ----

constexpr std::uint32_t kOnlyRegistered = 1u << 15;  // IORING_SETUP_REGISTERED_FD_ONLY
constexpr std::uint32_t kRegisteredRing = 1u << 31;  // IORING_REGISTER_USE_REGISTERED_RING
constexpr unsigned kMostRequests = 256, kMostRegisters = 64;
constexpr unsigned kMostRestrictions = 512;

struct Ring {
  std::uintptr_t number;
  std::uint32_t marks;  // kRegisteredRing or nothing

  long call(unsigned what, const void* argument, std::size_t count) const noexcept {
    return system_call(__NR_io_uring_register, number, what | marks, argument, count);
  }
};

// struct io_uring_probe, with room.
struct Probe {
  std::uint8_t last_request, told;
  std::uint16_t reserved[7];
  io_uring_probe_op requests[kMostRequests];
};
static_assert(offsetof(Probe, requests) == sizeof(io_uring_probe));

// All that the kernel knows, but for the one. -EBUSY: the program has restricted it itself.
long restrict_ring(const Ring& ring) noexcept {
  static constinit std::atomic<unsigned> known_registers{kMostRegisters};
  Probe probe{};
  const long probed = ring.call(IORING_REGISTER_PROBE, &probe, kMostRequests);
  if (failed(probed)) return probed;
  io_uring_restriction allowed[1 + kMostRequests + kMostRegisters] = {};
  unsigned count = 0;
  allowed[count].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
  allowed[count++].sqe_flags = 0xff;
  for (unsigned i = 0; i <= probe.last_request; ++i) {
    if (i == IORING_OP_MADVISE) continue;
    allowed[count].opcode = IORING_RESTRICTION_SQE_OP;
    allowed[count++].sqe_op = static_cast<__u8>(i);
  }
  for (unsigned i = 0; i < kMostRegisters; ++i) {
    allowed[count + i].opcode = IORING_RESTRICTION_REGISTER_OP;
    allowed[count + i].register_op = static_cast<__u8>(i);
  }
  // One that the kernel does not know is EINVAL for all of them.
  for (unsigned registers = known_registers.load(std::memory_order_relaxed);; --registers) {
    const long result = ring.call(IORING_REGISTER_RESTRICTIONS, allowed, count + registers);
    if (result != -EINVAL || registers == 0) {
      if (result == 0) known_registers.store(registers, std::memory_order_relaxed);
      return result;
    }
  }
}

// A list of the program's own, without the one request.
long restrict_as_asked(const Ring& ring, std::uintptr_t list, std::size_t count) noexcept {
  io_uring_restriction given[kMostRestrictions + 1];
  if (list == 0 || count > kMostRestrictions) return -EINVAL;
  if (!read_program(given, list, count * sizeof given[0])) return -EFAULT;
  std::size_t kept = 0;
  bool any_request = false;
  for (std::size_t i = 0; i < count; ++i) {
    const bool request = given[i].opcode == IORING_RESTRICTION_SQE_OP;
    if (request && given[i].sqe_op == IORING_OP_MADVISE) continue;
    any_request = any_request || request;
    given[kept++] = given[i];
  }
  if (!any_request) {
    // A kernel may take a list without requests to restrict none.
    given[kept] = {};
    given[kept].opcode = IORING_RESTRICTION_SQE_OP;
    given[kept++].sqe_op = IORING_OP_NOP;
  }
  return ring.call(IORING_REGISTER_RESTRICTIONS, given, kept);
}

}  // namespace

bool takes_pages(int advice) noexcept {
  constexpr int kDontNeedLocked = 24;
  return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE ||
         advice == MADV_PAGEOUT || advice == kDontNeedLocked;
}

long advise_process(const Call& call) noexcept {
  const auto pidfd = static_cast<int>(call.a[0]), advice = static_cast<int>(call.a[3]);
  const std::size_t count = call.a[2];
  if (static_cast<unsigned>(call.a[4]) != 0) return -EINVAL;
  if (!is_own(pidfd)) {
    if (is_advice_for_others(advice)) {
      return system_call(call.number, call.a[0], call.a[1], call.a[2], call.a[3], call.a[4]);
    }
    return failed(system_call(__NR_fcntl, pidfd, F_GETFD)) ? -EBADF : -EINVAL;
  }
  IoVector vectors[kMostVectors];
  if (count > kMostVectors) return -EINVAL;
  if (count != 0 && !read_program(vectors, call.a[1], count * sizeof vectors[0])) return -EFAULT;
  for (std::size_t i = 0; i < count; ++i) {
    if (vectors[i].bytes > SIZE_MAX / 2) return -EINVAL;
  }
  std::size_t done = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::size_t bytes = vectors[i].bytes;
    if (bytes > kMostBytes - done) bytes = kMostBytes - done;
    Call part;
    part.number = __NR_madvise;
    part.a[0] = vectors[i].base, part.a[1] = bytes, part.a[2] = call.a[3];
    Route route = Route::kNone;
    const long result = serve_memory_call(part, &route);
    trace_call(part, result, route);
    if (failed(result)) return done != 0 ? static_cast<long>(done) : result;
    done += bytes;
  }
  return static_cast<long>(done);
}

long set_up_ring(const Call& call) noexcept {
  io_uring_params parameters{};
  // Whether they may be written is asked before there is a ring to give back.
  if (!read_program(&parameters, call.a[1], sizeof parameters) ||
      !write_program(call.a[1], &parameters, sizeof parameters)) {
    return -EFAULT;
  }
  const std::uint32_t asked = parameters.flags;
  parameters.flags |= IORING_SETUP_R_DISABLED;
  const long number = system_call(call.number, call.a[0], &parameters);
  if (failed(number)) return number;
  parameters.flags &= ~IORING_SETUP_R_DISABLED | (asked & IORING_SETUP_R_DISABLED);
  (void)write_program(call.a[1], &parameters, sizeof parameters);
  if ((asked & IORING_SETUP_R_DISABLED) != 0) return number;
  const Ring ring{static_cast<std::uintptr_t>(number),
                  (asked & kOnlyRegistered) != 0 ? kRegisteredRing : 0};
  long result = restrict_ring(ring);
  if (!failed(result)) result = ring.call(IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  if (!failed(result)) return number;
  // It stays disabled: where it has no descriptor, until the thread ends.
  if (ring.marks == 0) (void)system_call(__NR_close, number);
  return result;
}

long register_in_ring(const Call& call) noexcept {
  const auto what = static_cast<std::uint32_t>(call.a[1]);
  const Ring ring{call.a[0], what & kRegisteredRing};
  switch (what & ~kRegisteredRing) {
    case IORING_REGISTER_RESTRICTIONS:
      return restrict_as_asked(ring, call.a[2], static_cast<std::uint32_t>(call.a[3]));
    case IORING_REGISTER_ENABLE_RINGS:
      // Where it cannot be restricted it is not enabled; -EBADFD: it was before.
      if (const long result = restrict_ring(ring);
          failed(result) && result != -EBUSY && result != -EBADFD) {
        return result;
      }
      break;
    default:
      break;
  }
  const long result = system_call(call.number, call.a[0], call.a[1], call.a[2], call.a[3]);
  const std::size_t told = static_cast<std::uint32_t>(call.a[3]);
  if (!failed(result) && (what & ~kRegisteredRing) == IORING_REGISTER_PROBE &&
      told > IORING_OP_MADVISE) {
    const std::uint16_t none = 0;
    (void)write_program(call.a[2] + offsetof(Probe, requests) +
                            IORING_OP_MADVISE * sizeof(io_uring_probe_op) +
                            offsetof(io_uring_probe_op, flags),
                        &none, sizeof none);
  }
  return result;
}

}  // namespace exclave::loader
