#include "tools/enclave_ring.hpp"

#include <algorithm>
#include <cerrno>

namespace exclave::tools {
namespace {

// What read(2), write(2) and io_uring document for regular files. Anything else is no answer to
// what we asked.
bool documented_errno(std::int32_t error) noexcept {
  switch (error) {
    case EPERM:
    case EINTR:
    case EIO:
    case EBADF:
    case EAGAIN:
    case ENOMEM:
    case EACCES:
    case EFAULT:
    case EBUSY:
    case EINVAL:
    case EFBIG:
    case ENOSPC:
    case ESPIPE:
    case EROFS:
    case EPIPE:
    case EOVERFLOW:
    case EOPNOTSUPP:
    case ENOBUFS:
    case ECANCELED:
    case ESTALE:
    case EDQUOT:
      return true;
    default:
      return false;
  }
}

}  // namespace

EnclaveRing::EnclaveRing(const RingQueues& queues, std::uint32_t most_in_flight,
                         std::uint64_t generation_seed, HostCalls& host, AttackLog& attacks)
    : queues_(queues),
      host_(host),
      attacks_(attacks),
      slots_(std::min({most_in_flight, queues.sq_entries, 1U << kSlotBits})),
      next_generation_(generation_seed >> kSlotBits) {}

std::optional<std::uint32_t> EnclaveRing::queue(const Request& request) noexcept {
  const auto free =
      std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return !slot.in_flight; });
  if (free == slots_.end()) {
    return std::nullopt;
  }
  const auto index = static_cast<std::uint32_t>(free - slots_.begin());
  free->user_data = next_generation_++ << kSlotBits | index;
  free->asked_bytes = request.size_bytes;
  free->in_flight = true;
  free->used = true;
  ++in_flight_;

  SubmissionEntry entry;
  if (request.registered) {
    entry.opcode = request.is_write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
  } else {
    entry.opcode = request.is_write ? IORING_OP_WRITE : IORING_OP_READ;
  }
  entry.file = request.file;
  entry.offset = request.offset;
  entry.address = request.block.address();
  entry.size_bytes = request.size_bytes;
  entry.user_data = free->user_data;

  // There is room: as many entries as slots, and an entry that the host has not taken yet belongs
  // to a slot.
  const std::uint32_t at = sq_tail_ & (queues_.sq_entries - 1);
  store(*queues_.submissions.at(at), entry);
  store(*queues_.sq_array.at(at), at);
  ++sq_tail_;
  // Publishes the entry to the host; pairs with its load of the tail in io_uring_enter.
  queues_.sq_tail.store_release(sq_tail_);
  return index;
}

int EnclaveRing::enter(std::uint32_t min_complete) noexcept {
  const std::uint32_t to_submit = sq_tail_ - sq_head_seen_;
  const int answer = host_.enter_ring(to_submit, min_complete);
  if (answer > 0 && static_cast<std::uint32_t>(answer) > to_submit) {
    attacks_.refuse(Attack::kTooManySubmitted);
  }
  // What the host has taken is where its head stands, if that lies between where it stood and our
  // tail.
  const std::uint32_t head = queues_.sq_head.load_acquire();
  if (head - sq_head_seen_ <= to_submit) {
    sq_head_seen_ = head;
  } else {
    attacks_.refuse(Attack::kHeadNonsense);
  }
  return answer < 0 ? -answer : 0;
}

bool EnclaveRing::completions_ready() noexcept {
  if (cq_head_ != cq_tail_seen_) {
    return true;
  }
  // Publishes the completions before it; pairs with the host's release store.
  const std::uint32_t tail = queues_.cq_tail.load_acquire();
  const std::uint32_t ready = tail - cq_head_;
  if (ready > queues_.cq_entries) {
    const bool backwards = static_cast<std::int32_t>(ready) < 0;
    attacks_.refuse(backwards ? Attack::kTailBackwards : Attack::kTailJump);
    return false;
  }
  cq_tail_seen_ = tail;
  return ready != 0;
}

std::optional<EnclaveRing::Completion> EnclaveRing::reap() noexcept {
  for (std::uint32_t seen = 0; seen < queues_.cq_entries && completions_ready(); ++seen) {
    // One copy; judged and acted upon from that copy.
    const std::uint32_t at = cq_head_ & (queues_.cq_entries - 1);
    const CompletionEntry entry = load(*queues_.completions.at(at));
    ++cq_head_;
    // Gives the entry back; pairs with the host's load of the head.
    queues_.cq_head.store_release(cq_head_);
    if (const std::optional<Completion> completion = judge(entry)) {
      return completion;
    }
  }
  return std::nullopt;
}

std::optional<EnclaveRing::Completion> EnclaveRing::judge(const CompletionEntry& entry) noexcept {
  const auto refuse = [this](Attack attack) {
    attacks_.refuse(attack);
    return std::nullopt;
  };
  const std::uint64_t index = entry.user_data & ((std::uint64_t{1} << kSlotBits) - 1);
  if (index >= slots_.size()) {
    return refuse(Attack::kCompletionUnknown);
  }
  Slot& slot = slots_[index];
  if (!slot.in_flight) {
    const bool was_this = slot.used && entry.user_data == slot.user_data;
    return refuse(was_this ? Attack::kCompletionTwice : Attack::kCompletionUnknown);
  }
  if (entry.user_data != slot.user_data) {
    return refuse(Attack::kCompletionStale);
  }
  if (entry.result >= 0 && static_cast<std::uint32_t>(entry.result) > slot.asked_bytes) {
    return refuse(Attack::kResultTooLong);
  }
  // INT_MIN has no negation.
  if (entry.result < 0 && (entry.result == INT32_MIN || !documented_errno(-entry.result))) {
    return refuse(Attack::kResultUndocumented);
  }
  slot.in_flight = false;
  --in_flight_;
  return Completion{static_cast<std::uint32_t>(index), entry.result};
}

}  // namespace exclave::tools
