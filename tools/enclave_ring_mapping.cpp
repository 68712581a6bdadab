#include "tools/enclave_ring_mapping.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>

#include "tools/failure.hpp"

namespace exclave::tools {
namespace {

// The kernel's own limit; keeps every product below far from overflow.
constexpr std::uint32_t kMaxEntries = 1U << 16;

// The constructor turns it into a counted refusal.
struct GeometryNonsense {};

template <class T>
T must(const Result<T>& result) {
  if (!result) {
    throw GeometryNonsense{};
  }
  return *result;
}

std::uint32_t power_of_two(std::uint32_t entries, std::uint32_t least) {
  if (!std::has_single_bit(entries) || entries < least || entries > kMaxEntries) {
    throw GeometryNonsense{};
  }
  return entries;
}

// How much of the ring's descriptor to map, if the host tells the truth about where the arrays lie.
std::size_t ring_bytes(const io_uring_params& parameters) noexcept {
  const std::uint64_t sq_end = std::uint64_t{parameters.sq_off.array} +
                               std::uint64_t{parameters.sq_entries} * sizeof(std::uint32_t);
  const std::uint64_t cq_end = std::uint64_t{parameters.cq_off.cqes} +
                               std::uint64_t{parameters.cq_entries} * sizeof(CompletionEntry);
  return static_cast<std::size_t>(std::max(sq_end, cq_end));
}

constexpr std::size_t kMaxRingBytes = std::size_t{4} << 20;

constexpr std::size_t whole_pages(std::size_t bytes) noexcept {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

}  // namespace

RingMapping::RingMapping(Allocator& allocator, MemoryCalls& calls, const RingOffer& offer,
                         std::uint32_t entries_asked, AttackLog& attacks)
    : allocator_(allocator), calls_(calls), attacks_(attacks), descriptor_(offer.descriptor) {
  // A copy in trusted memory already: the offer came by value.
  const io_uring_params& parameters = offer.parameters;
  constexpr std::uint32_t kNeeded = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP;
  if ((parameters.features & kNeeded) != kNeeded) {
    throw Failure(ExitCode::kHost, "this kernel's io_uring is too old");
  }
  try {
    queues_.sq_entries = power_of_two(parameters.sq_entries, entries_asked);
    // Every request in flight has room for its completion.
    queues_.cq_entries = power_of_two(parameters.cq_entries, queues_.sq_entries);
    if (ring_bytes(parameters) > kMaxRingBytes) {
      throw GeometryNonsense{};
    }
    rings_ = map(IORING_OFF_SQ_RING, ring_bytes(parameters));
    entries_ = map(IORING_OFF_SQES, queues_.sq_entries * sizeof(SubmissionEntry));
    find_queues(parameters);
  } catch (const GeometryNonsense&) {
    unmap();
    attacks_.refuse(Attack::kRingGeometry);
    throw Failure(ExitCode::kHost, "the host's io_uring does not lie in its own memory: refused");
  } catch (const Failure&) {
    unmap();
    throw;
  }
}

RingMapping::~RingMapping() {
  unmap();
}

void RingMapping::unmap() noexcept {
  for (const Extent& mapping : {rings_, entries_}) {
    if (!mapping.empty()) {
      // A host that refuses keeps its own memory mapped; the books say so, and nothing of ours
      // depends on it.
      (void)calls_.munmap(mapping.base, mapping.size);
    }
  }
  forget();
}

Extent RingMapping::map(std::uint64_t token, std::size_t size_bytes) {
  const std::intptr_t answer = calls_.mmap(0, size_bytes, PROT_READ | PROT_WRITE,
                                           MAP_SHARED | MAP_POPULATE, descriptor_, token);
  if (answer < 0) {
    throw Failure(ExitCode::kHost,
                  "the io_uring cannot be mapped: " + errno_text(static_cast<int>(-answer)));
  }
  return {static_cast<std::uintptr_t>(answer), whole_pages(size_bytes)};
}

void RingMapping::find_queues(const io_uring_params& parameters) {
  // The allocator's books say what lies outside, so the two spans are proofs; every step from them
  // is checked.
  const auto rings =
      must(untrusted_span<std::byte>::validated(allocator_, rings_.base, ring_bytes(parameters)));
  const auto word = [&rings](std::uint32_t offset) {
    return must(untrusted_atomic<std::uint32_t>::at(must(rings.object_at<std::uint32_t>(offset))));
  };
  queues_.sq_head = word(parameters.sq_off.head);
  queues_.sq_tail = word(parameters.sq_off.tail);
  queues_.cq_head = word(parameters.cq_off.head);
  queues_.cq_tail = word(parameters.cq_off.tail);
  const std::size_t array_bytes = queues_.sq_entries * sizeof(std::uint32_t);
  queues_.sq_array =
      must(must(rings.subspan(parameters.sq_off.array, array_bytes)).as<std::uint32_t>());
  const std::size_t completion_bytes = queues_.cq_entries * sizeof(CompletionEntry);
  queues_.completions =
      must(must(rings.subspan(parameters.cq_off.cqes, completion_bytes)).as<CompletionEntry>());
  queues_.submissions = must(
      untrusted_span<SubmissionEntry>::validated(allocator_, entries_.base, queues_.sq_entries));
}

}  // namespace exclave::tools
