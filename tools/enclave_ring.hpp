// An io_uring, driven from inside.
//
// The ring's memory belongs to the host, so it holds nothing that is believed: where the queues
// stand, what is in flight and how long it may be is written in the slots here, in trusted memory.
// From the ring come only a head, a tail and completions, each copied in once and then judged
// against those books:
//   a tail may only go forward, and by no more than the queue holds;
//   a completion must name a slot that is in flight, in its present use;
//   its result must be at most what was asked for, or an errno that reads and writes have.
// What fails is refused and counted, and changes nothing: the request stays in flight until its
// true completion.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tools/enclave_attack_log.hpp"
#include "tools/enclave_host_calls.hpp"
#include "tools/enclave_ring_mapping.hpp"

namespace exclave::tools {

// Not thread-safe: one thread drives a ring.
class EnclaveRing {
 public:
  struct Request {
    bool is_write = false;
    bool registered = false;  // the block lies in the registered buffer
    int file = -1;
    untrusted_bytes block{};
    std::uint32_t size_bytes = 0;
    std::uint64_t offset = 0;
  };
  // Believed: slot was in flight and is not any more; result is at most what was asked for, or a
  // negative errno.
  struct Completion {
    std::uint32_t slot = 0;
    std::int32_t result = 0;
  };

  // generation_seed: random, so that what an earlier ring left in memory names no slot of this one.
  EnclaveRing(const RingQueues& queues, std::uint32_t most_in_flight, std::uint64_t generation_seed,
              HostCalls& host, AttackLog& attacks);

  std::uint32_t in_flight() const noexcept { return in_flight_; }
  std::uint32_t most_in_flight() const noexcept {
    return static_cast<std::uint32_t>(slots_.size());
  }

  // Writes the request into the ring; its slot, or none when all are in flight. The host sees it at
  // the next enter().
  std::optional<std::uint32_t> queue(const Request& request) noexcept;
  // Host call: submits what is queued and waits for min_complete completions. 0, or an errno as the
  // host gave it.
  int enter(std::uint32_t min_complete) noexcept;
  // The next completion that can be believed, if one is there. No host call. Looks at no more
  // completions than the queue holds, so a host that feeds nonsense for ever cannot keep it.
  std::optional<Completion> reap() noexcept;

 private:
  struct Slot {
    std::uint64_t user_data = 0;  // of the present use, or of the last one
    std::uint32_t asked_bytes = 0;
    bool in_flight = false;
    bool used = false;
  };
  // user_data: slot in the low bits, generation above.
  static constexpr unsigned kSlotBits = 16;

  bool completions_ready() noexcept;
  std::optional<Completion> judge(const CompletionEntry& entry) noexcept;

  const RingQueues queues_;
  HostCalls& host_;
  AttackLog& attacks_;
  std::vector<Slot> slots_;
  std::uint32_t in_flight_ = 0;
  std::uint64_t next_generation_;
  std::uint32_t sq_tail_ = 0;       // ours
  std::uint32_t sq_head_seen_ = 0;  // the host's, as far as it was believed
  std::uint32_t cq_head_ = 0;       // ours
  std::uint32_t cq_tail_seen_ = 0;  // the host's, as far as it was believed
};

}  // namespace exclave::tools
