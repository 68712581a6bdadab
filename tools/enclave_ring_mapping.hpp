// The ring's memory as the enclave side sees it: mapped from the ring's descriptor by the memory
// calls, so it stands in the allocator's books as two mappings of a device. The host's word on
// where heads, tails and entries lie is validated against those mappings before a pointer is made
// of it.
#pragma once

#include <cstdint>

#include "exclave/access.hpp"
#include "exclave/memory_calls.hpp"
#include "tools/enclave_attack_log.hpp"
#include "tools/enclave_host_calls.hpp"
#include "tools/enclave_ring_entries.hpp"

namespace exclave::tools {

// The parts of a ring, all inside its mappings. Entry counts are powers of two.
struct RingQueues {
  std::uint32_t sq_entries = 0;
  std::uint32_t cq_entries = 0;
  untrusted_atomic<std::uint32_t> sq_head{};
  untrusted_atomic<std::uint32_t> sq_tail{};
  untrusted_span<std::uint32_t> sq_array{};
  untrusted_span<SubmissionEntry> submissions{};
  untrusted_atomic<std::uint32_t> cq_head{};
  untrusted_atomic<std::uint32_t> cq_tail{};
  untrusted_span<CompletionEntry> completions{};
};

class RingMapping {
 public:
  // Maps both parts. Throws Failure(kHost) when the host refuses or its geometry is nonsense
  // (counted as an attack); nothing stays mapped then.
  RingMapping(Allocator& allocator, MemoryCalls& calls, const RingOffer& offer,
              std::uint32_t entries_asked, AttackLog& attacks);
  // munmap of what is still mapped.
  ~RingMapping();
  RingMapping(const RingMapping&) = delete;
  RingMapping& operator=(const RingMapping&) = delete;

  const RingQueues& queues() const noexcept { return queues_; }
  // The mappings: heads, tails and completions; submission entries. Whole pages.
  Extent rings() const noexcept { return rings_; }
  Extent entries() const noexcept { return entries_; }
  // The caller has unmapped all of it.
  void forget() noexcept { rings_ = entries_ = {}; }

 private:
  void unmap() noexcept;
  Extent map(std::uint64_t token, std::size_t size_bytes);
  void find_queues(const io_uring_params& parameters);

  Allocator& allocator_;
  MemoryCalls& calls_;
  AttackLog& attacks_;
  int descriptor_;
  Extent rings_{};
  Extent entries_{};
  RingQueues queues_{};
};

}  // namespace exclave::tools
