// Regions that the host is asked for, and what goes back to it.
#include "base/check.hpp"
#include "heap/core.hpp"
#include "region/verify.hpp"

namespace exclave::core {

// Asks for more than is needed, as far as the quota goes, so that the next blocks find it here; for
// just enough when that is refused.
Result<Region*> AllocatorCore::grow(Gate& gate, std::size_t bytes, std::size_t alignment) noexcept {
  bytes = align_up(bytes, kUnitBytes);
  const std::size_t held = grown_bytes_.load(std::memory_order_relaxed);
  EXCLAVE_DCHECK(held <= config_.quota_bytes);
  const std::size_t left = align_down(config_.quota_bytes - held, kUnitBytes);
  std::size_t step = held;
  if (step < config_.grow_min_bytes) step = config_.grow_min_bytes;
  if (step > config_.grow_max_bytes) step = config_.grow_max_bytes;
  if (step > left) step = left;
  if (step > bytes) {
    const Result<Region*> region = grow_by(gate, step, alignment);
    if (region.ok()) return region;
  }
  const Result<Region*> region = grow_by(gate, bytes, alignment);
  if (region.error() != Error::kQuota || !grown_.has_idle(0)) return region;
  // What lies idle counts against the quota, and nothing in it was large enough.
  give_idle_back(gate, 0);
  return grow_by(gate, bytes, alignment);
}

Result<Region*> AllocatorCore::grow_by(Gate& gate, std::size_t bytes,
                                       std::size_t alignment) noexcept {
  std::size_t held = grown_bytes_.load(std::memory_order_relaxed);
  do {
    EXCLAVE_DCHECK(held <= config_.quota_bytes);  // it only grows here
    if (bytes > config_.quota_bytes - held) return Error::kQuota;
    // GCOVR_EXCL_BR_START: a race
  } while (!grown_bytes_.compare_exchange_weak(held, held + bytes, std::memory_order_relaxed));
  // GCOVR_EXCL_BR_STOP
  const auto refuse = [&](Error error) noexcept {
    grown_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
    return error;
  };

  // Large regions at the pagemap's grain need no leaves.
  constexpr std::size_t kGrain = std::size_t{4} << 20;
  if (alignment < kUnitBytes) alignment = kUnitBytes;
  if (bytes >= kGrain && alignment < kGrain) alignment = kGrain;
  HostReply reply{};
  {
    HostCall call(gate, reserve_calls_);
    reply = port_.host_reserve(port_.context, bytes, alignment);
  }
  const Result<Extent> range = verify_reply(reply, bytes, alignment, 0, registry_.enclave());
  if (!range.ok()) {
    if (range.error() == Error::kHostLied) count_lie();
    return refuse(range.error());
  }
  AttachOptions options;
  const Result<Region*> made = registry_.create(*range, options, true);
  Status inserted = made.ok() ? registry_.insert(**made) : Status(made.error());
  if (inserted.ok()) {
    inserted = grown_.add(**made);
    if (inserted.ok()) return *made;
    registry_.remove(**made);
  } else if (inserted.error() == Error::kOverlap) {
    // Someone's memory stands there: it is not for us to release.
    registry_.destroy(**made);
    count_lie();
    return refuse(Error::kHostLied);
  } else if (!made.ok() && registry_.overlaps(*range)) {
    count_lie();
    return refuse(Error::kHostLied);
  }
  if (made.ok()) registry_.destroy(**made);
  HostCall call(gate, release_calls_);
  // A host that does not take it back keeps it charged to the quota, as in give_idle_back.
  if (port_.host_release(port_.context, range->base, range->size) != 0) return inserted.error();
  return refuse(inserted.error());
}

void AllocatorCore::give_idle_back(Gate& gate, std::size_t keep_bytes) noexcept {
  while (Region* const region = grown_.take_idle(keep_bytes)) {
    const Extent extent = region->extent();
    registry_.remove(*region);
    registry_.destroy(*region);
    HostCall call(gate, release_calls_);
    // A host that does not take it back keeps it charged to the quota: it still holds the memory.
    if (port_.host_release(port_.context, extent.base, extent.size) == 0) {
      grown_bytes_.fetch_sub(extent.size, std::memory_order_relaxed);
    }
  }
}

void AllocatorCore::trim_to_config() noexcept {
  Gate gate(*this);
  // GCOVR_EXCL_BR_START: no nested call comes here
  if (gate.status().ok()) give_idle_back(gate, config_.keep_free_bytes);
  // GCOVR_EXCL_BR_STOP
}

}  // namespace exclave::core
