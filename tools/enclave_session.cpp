#include "tools/enclave_session.hpp"

#include <sys/mman.h>

#include <bit>
#include <cerrno>

#include "tools/enclave_direct_io.hpp"
#include "tools/enclave_ring_io.hpp"
#include "tools/failure.hpp"

namespace exclave::tools {
namespace {

// More than the depth needs: the ring's memory then has pages enough to show what happens to parts
// of a mapping.
constexpr std::uint32_t kRingEntries = 256;
// Pools are aligned to huge pages, so that the kernel can use them.
constexpr std::size_t kPoolAlignment = std::size_t{2} << 20;

// Room for all that can be in flight and one more, in whole huge pages. A block may take up to the
// next power of two; small ones (a small block size, the header, the last block) share slabs, which
// are larger than they.
std::size_t pool_bytes_for(const IoOptions& options) noexcept {
  constexpr std::size_t kSlabRoom = std::size_t{512} << 10;
  const std::size_t blocks = std::size_t{options.depth + 1} * std::bit_ceil(options.block_bytes);
  return (blocks + kSlabRoom + kPoolAlignment - 1) / kPoolAlignment * kPoolAlignment;
}

template <class T>
T value_or_fail(Result<T>&& result, const char* what) {
  if (!result) {
    throw Failure(ExitCode::kInternal, std::string(what) + ": " + error_text(result.error()));
  }
  return std::move(*result);
}

std::string system_answer(std::intptr_t answer) {
  return answer < 0 ? errno_text(static_cast<int>(-answer)) : "done";
}

std::string library_answer(Error error) {
  return error == Error::kNone ? "done" : std::string("refused: ") + error_text(error);
}

}  // namespace

EnclaveSession::EnclaveSession(HostCalls& host)
    : host_(host), port_(value_or_fail(ProcessPort::create(), "no address space for the enclave")) {
  inside_ = std::make_unique<Inside>(port_->enclave_heap());
  allocator_ = value_or_fail(Allocator::create(port_->table()), "no memory for the books");
  calls_ = std::make_unique<MemoryCalls>(allocator_, bind_enclave_memory(*inside_));
}

EnclaveSession::~EnclaveSession() {
  // If the host does not answer, its blocks stay pinned, the pool refuses to be detached, and its
  // memory stays mapped.
  if (io_) {
    (void)io_->drain();
  }
}

void EnclaveSession::open_io(const IoOptions& options) {
  const std::size_t pool_bytes = pool_bytes_for(options);
  pool_ = std::make_unique<IoPool>(allocator_, host_, attacks_, pool_bytes, kPoolAlignment);
  names_.emplace_back(pool_->id(), "I/O pool");
  if (options.engine == Engine::kPread || !open_ring(options)) {
    io_ = std::make_unique<DirectIo>(allocator_, host_, attacks_);
  }
}

bool EnclaveSession::open_ring(const IoOptions& options) {
  const RingOffer offer = host_.open_ring(kRingEntries);
  if (offer.error != 0) {
    const std::string why = "io_uring is not to be had here (" + errno_text(offer.error) + ")";
    if (options.engine == Engine::kUring) {
      throw Failure(ExitCode::kHost, why);
    }
    notes_.push_back(why + ": using pread and pwrite");
    return false;
  }
  inside_->ring_is(offer.descriptor);
  ring_memory_ = std::make_unique<RingMapping>(allocator_, *calls_, offer, kRingEntries, attacks_);
  for (const auto& [extent, name] : {std::pair(ring_memory_->rings(), "ring: queues"),
                                     std::pair(ring_memory_->entries(), "ring: entries")}) {
    if (const Result<RegionInfo> region = allocator_.query(extent.base, extent.size)) {
      names_.emplace_back(region->id, name);
    }
  }
  const int error = pool_->register_with_ring();
  if (error != 0) {
    notes_.push_back("the pool cannot be registered with the ring (" + errno_text(error) +
                     "): each transfer names its memory");
  }
  std::uint64_t seed = 0;
  if (!port_->entropy(&seed, sizeof seed)) {
    throw Failure(ExitCode::kInternal, "no random bytes");
  }
  ring_ =
      std::make_unique<EnclaveRing>(ring_memory_->queues(), options.depth, seed, host_, attacks_);
  io_ = std::make_unique<RingIo>(allocator_, *ring_, host_.sealed_file(), pool_->registered());
  return true;
}

HeapMap EnclaveSession::heap_map() const {
  return take_heap_map(allocator_, names_);
}

std::vector<EndingStep> EnclaveSession::close() {
  std::vector<EndingStep> steps;
  io_.reset();
  if (ring_memory_) {
    close_ring_mappings(steps);
  }
  close_pool(steps);
  const bool valid = allocator_.validate_books();
  steps.push_back({"check every invariant of the books", valid ? "valid" : "BROKEN", valid});
  return steps;
}

void EnclaveSession::close_ring_mappings(std::vector<EndingStep>& steps) {
  const Extent entries = ring_memory_->entries();
  const Extent rings = ring_memory_->rings();
  const auto tell = [&steps](const char* act, int answer, int expected) {
    steps.push_back({act, system_answer(answer), answer == expected});
  };
  // 256 entries of 64 bytes: four pages.
  const std::uintptr_t second = entries.base + kPageBytes;
  const std::uintptr_t last = entries.end() - kPageBytes;
  tell("mprotect the last page of the ring's entries to read-only",
       calls_->mprotect(last, kPageBytes, PROT_READ), 0);
  const Error write_there = allocator_.validate(last, kPageBytes).error();
  steps.push_back({"ask for a pointer that may write to that page", library_answer(write_there),
                   write_there == Error::kNotPermitted});
  tell("munmap the second page of the entries", calls_->munmap(second, kPageBytes), 0);
  tell("mprotect across the hole that this leaves",
       calls_->mprotect(entries.base, entries.size, PROT_READ), -ENOMEM);
  ring_.reset();
  tell("munmap the rest of the entries, over the hole", calls_->munmap(entries.base, entries.size),
       0);
  tell("munmap the ring's queues", calls_->munmap(rings.base, rings.size), 0);
  ring_memory_->forget();
  ring_memory_.reset();
}

void EnclaveSession::close_pool(std::vector<EndingStep>& steps) {
  const Extent pool = pool_->extent();
  const int answer = calls_->munmap(pool.base, pool.size);
  const bool still_there = allocator_.query(pool.base, pool.size).ok();
  steps.push_back({"munmap the allocator's own pool", "skipped: never passed on to the host",
                   answer == 0 && still_there});
  if (pool_->registered()) {
    const Error early = allocator_.detach(pool).error();
    steps.push_back({"detach the pool while the ring has it registered", library_answer(early),
                     early == Error::kPinned});
    pool_->unregister_from_ring();
    steps.push_back({"unregister it, then unpin it",
                     pool_->registered() ? "the host refuses" : "done", !pool_->registered()});
  }
  const Status detached = pool_->end_use();
  steps.push_back({"detach the pool and give it back to the host", library_answer(detached.error()),
                   detached.ok()});
  host_.close_ring();
  allocator_.trim();
}

}  // namespace exclave::tools
