#include "tools/enclave_ring_io.hpp"

#include <algorithm>
#include <cerrno>
#include <string>

#include "tools/failure.hpp"

namespace exclave::tools {
namespace {

// Host calls in a row that bring nothing. An honest kernel waits inside the call until there is
// something.
constexpr unsigned kMaxFruitlessCalls = 1000;
// EAGAIN and EINTR in a row for one transfer.
constexpr unsigned kMaxRetries = 1000;

}  // namespace

RingIo::RingIo(Allocator& allocator, EnclaveRing& ring, int file, bool registered)
    : allocator_(allocator),
      ring_(ring),
      file_(file),
      registered_(registered),
      pending_(ring.most_in_flight()),
      pending_of_slot_(ring.most_in_flight()) {}

BlockIo::Ticket RingIo::start(const Transfer& transfer) {
  const auto free = std::find_if(pending_.begin(), pending_.end(),
                                 [](const Pending& pending) { return !pending.used; });
  if (free == pending_.end()) {
    throw Failure(ExitCode::kInternal, "more transfers than the ring's depth");
  }
  const Result<PinId> pin = allocator_.pin({transfer.block.address(), transfer.size_bytes});
  if (!pin) {
    throw Failure(ExitCode::kInternal,
                  std::string("a block cannot be pinned: ") + error_text(pin.error()));
  }
  *free = Pending{};
  free->transfer = transfer;
  free->used = true;
  free->pin = *pin;
  const auto index = static_cast<std::uint32_t>(free - pending_.begin());
  submit(index);
  return {index};
}

void RingIo::submit(std::uint32_t index) {
  const Pending& pending = pending_[index];
  const Transfer& transfer = pending.transfer;
  EnclaveRing::Request request;
  request.is_write = transfer.is_write;
  request.registered = registered_;
  request.file = file_;
  request.block =
      untrusted_bytes::unsafe_from_address(transfer.block.address() + pending.moved_bytes);
  request.size_bytes = transfer.size_bytes - pending.moved_bytes;
  request.offset = transfer.offset + pending.moved_bytes;
  // A slot is free: there are as many as transfers.
  const std::optional<std::uint32_t> slot = ring_.queue(request);
  pending_of_slot_[slot.value()] = index;
  // An error here is the host's affair until finish() waits in vain.
  (void)ring_.enter(0);
}

void RingIo::apply(const EnclaveRing::Completion& completion) {
  const std::uint32_t index = pending_of_slot_[completion.slot];
  Pending& pending = pending_[index];
  if (completion.result == -EAGAIN || completion.result == -EINTR) {
    if (++pending.retries < kMaxRetries) {
      submit(index);
      return;
    }
  }
  if (completion.result > 0) {
    pending.retries = 0;
    pending.moved_bytes += static_cast<std::uint32_t>(completion.result);
    if (pending.moved_bytes < pending.transfer.size_bytes) {
      submit(index);
      return;
    }
  }
  pending.error = completion.result < 0 ? -completion.result : 0;
  pending.complete = true;
}

bool RingIo::progress() {
  for (unsigned fruitless = 0; fruitless < kMaxFruitlessCalls; ++fruitless) {
    bool any = false;
    while (const std::optional<EnclaveRing::Completion> completion = ring_.reap()) {
      apply(*completion);
      any = true;
    }
    if (any) {
      return true;
    }
    (void)ring_.enter(1);
  }
  return false;
}

BlockIo::Outcome RingIo::finish(Ticket ticket) {
  Pending& pending = pending_[ticket.index];
  while (!pending.complete) {
    if (!progress()) {
      throw Failure(ExitCode::kHost, "the host does not complete what it was asked for");
    }
  }
  // Only now: the device is done with the block.
  (void)allocator_.unpin(pending.pin);
  pending.used = false;
  return {pending.moved_bytes, pending.error};
}

bool RingIo::drain() noexcept {
  try {
    for (std::uint32_t index = 0; index < pending_.size(); ++index) {
      if (pending_[index].used) {
        (void)finish({index});
      }
    }
    return true;
  } catch (const Failure&) {
    return false;
  }
}

}  // namespace exclave::tools
