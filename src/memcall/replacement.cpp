#include "memcall/replacement.hpp"

#include "base/check.hpp"
#include "region/verify.hpp"

namespace exclave::memcall {

using namespace linux_abi;  // NOLINT(google-build-using-namespace): all of it is used here

Replacement::~Replacement() {
  Registry& registry = core_.registry();
  if (arriving_ != nullptr) {
    registry.remove_from_over(chain_, *arriving_);
    registry.destroy(*arriving_);
  }
  for_each_gap([&](Extent gap) noexcept {
    // What stands in the books by now, because the host lied, is not ours to unmap.
    if (gap.base < filled_to_ && !registry.overlaps(gap)) (void)core_.host_unmap(gate_, gap);
    return 0;
  });
  for (Region* mapping = chain_; mapping != nullptr;) {
    Region* const next = mapping->next_taken;
    EXCLAVE_CHECK(registry.put_back(*mapping).ok());  // its place was reserved
    mapping = next;
  }
}

int Replacement::begin(Extent target, Fill fill) noexcept {
  target_ = target;
  filled_to_ = target.base;
  const Result<Region*> taken = core_.take_mappings_out(target, true, AllocatorCore::Leaves::kNone);
  if (!taken.ok()) return error_number(taken.error());
  chain_ = *taken;
  if (chain_ == nullptr && fill == Fill::kIfNeeded) return 0;
  return for_each_gap([this](Extent gap) noexcept { return this->fill(gap); });
}

int Replacement::begin_anywhere(std::size_t size) noexcept {
  int error = 0;
  const Result<Extent> range = map_filler({0, size}, 0, &error);
  if (!range.ok()) return error;
  // What stands in the books is not ours to unmap.
  if (core_.registry().overlaps(*range)) {
    core_.count_lie();
    return -kEPERM;
  }
  target_ = *range;
  filled_to_ = range->end();
  return 0;
}

int Replacement::hold(const Result<Region*>& made) noexcept {
  if (!made.ok()) return -kENOMEM;
  Registry& registry = core_.registry();
  Region& region = **made;
  region.in_call = current_thread_slot() + 1;
  const Status inserted = registry.insert_over(chain_, region, Protection::kNone);
  if (inserted.ok()) {
    arriving_ = &region;
    return 0;
  }
  registry.destroy(region);
  if (inserted.error() != Error::kOverlap) return -kENOMEM;
  core_.count_lie();
  return -kEPERM;
}

void Replacement::done(Protection protection) noexcept {
  {
    Registry& registry = core_.registry();
    LockGuard guard(registry.lock());
    registry.set_protection_locked(*arriving_, protection);
    arriving_->in_call = 0;
    registry.join_locked(*arriving_);
  }
  arriving_ = nullptr;
  filled_to_ = target_.base;
  while (chain_ != nullptr) {
    Region& mapping = *chain_;
    chain_ = mapping.next_taken;
    core_.finish_region(gate_, mapping);
  }
}

Result<Extent> Replacement::map_filler(Extent place, int flags, int* error) noexcept {
  MapRequest filler{};
  filler.hint = place.base;
  filler.size = place.size;
  filler.flags = kMapPrivate | kMapAnonymous | kMapNoReserve | flags;
  filler.descriptor = -1;
  const HostReply reply = core_.host_map(gate_, filler);
  const Result<Extent> range =
      verify_reply(reply, place.size, kPageBytes, place.base, core_.registry().enclave());
  if (range.error() == Error::kHostLied) {
    core_.count_lie();
    *error = -kEPERM;
  } else if (!range.ok()) {
    // Something stands there that is in no book.
    *error = -(reply.error == kEEXIST ? kEBUSY : allowed_errno(reply.error, {kENOMEM, kEPERM}));
  }
  return range;
}

int Replacement::fill(Extent gap) noexcept {
  int error = 0;
  if (map_filler(gap, kMapFixedNoReplace, &error).ok()) filled_to_ = gap.end();
  return error;
}

template <class F>
int Replacement::for_each_gap(F visit) noexcept {
  std::uintptr_t at = target_.base;
  for (const Region* mapping = chain_;; mapping = mapping->next_taken) {
    const Extent next = mapping != nullptr ? mapping->extent() : Extent{target_.end(), 0};
    if (next.base > at) {
      if (const int error = visit(Extent{at, next.base - at}); error != 0) return error;
    }
    if (mapping == nullptr) return 0;
    at = next.end();
  }
}

}  // namespace exclave::memcall
