#include "tools/enclave_direct_io.hpp"

#include <cerrno>
#include <string>
#include <utility>

#include "tools/failure.hpp"

namespace exclave::tools {
namespace {

constexpr std::int64_t kMaxErrno = 4095;
// EINTR and EAGAIN in a row.
constexpr unsigned kMaxRetries = 1000;

}  // namespace

DirectIo::DirectIo(Allocator& allocator, HostCalls& host, AttackLog& attacks)
    : allocator_(allocator), host_(host), attacks_(attacks) {
  Result<Box<TransferCall>> call = Box<TransferCall>::create(allocator_, {});
  if (!call) {
    throw Failure(ExitCode::kHost,
                  std::string("no untrusted memory for host calls: ") + error_text(call.error()));
  }
  call_ = std::move(*call);
}

std::int64_t DirectIo::move(const Transfer& transfer, std::uint32_t moved_bytes) {
  TransferCall call;
  call.offset = transfer.offset + moved_bytes;
  call.address = transfer.block.address() + moved_bytes;
  call.size_bytes = transfer.size_bytes - moved_bytes;
  call.is_write = transfer.is_write ? 1 : 0;
  if (!call_.store(call)) {
    return -EIO;
  }
  host_.transfer(*call_.pointer());
  // One copy, and of that only the answer: what was asked for is still known inside.
  const Result<TransferCall> answered = call_.load();
  if (!answered) {
    return -EIO;
  }
  const std::int64_t answer = answered->answer;
  if (answer > static_cast<std::int64_t>(call.size_bytes)) {
    attacks_.refuse(Attack::kResultTooLong);
    return -EIO;
  }
  if (answer < -kMaxErrno) {
    attacks_.refuse(Attack::kResultUndocumented);
    return -EIO;
  }
  return answer;
}

BlockIo::Ticket DirectIo::start(const Transfer& transfer) {
  const Result<PinId> pin = allocator_.pin({transfer.block.address(), transfer.size_bytes});
  if (!pin) {
    throw Failure(ExitCode::kInternal,
                  std::string("a block cannot be pinned: ") + error_text(pin.error()));
  }
  outcome_ = {};
  unsigned retries = 0;
  while (outcome_.moved_bytes < transfer.size_bytes) {
    const std::int64_t moved = move(transfer, outcome_.moved_bytes);
    if ((moved == -EINTR || moved == -EAGAIN) && ++retries < kMaxRetries) {
      continue;
    }
    if (moved <= 0) {
      outcome_.error = static_cast<int>(-moved);
      break;
    }
    retries = 0;
    outcome_.moved_bytes += static_cast<std::uint32_t>(moved);
  }
  (void)allocator_.unpin(*pin);
  return {};
}

BlockIo::Outcome DirectIo::finish(Ticket) {
  return outcome_;
}

}  // namespace exclave::tools
