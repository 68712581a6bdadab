#include "region/registry.hpp"

#include <new>

#include "base/check.hpp"
#include "region/verify.hpp"

namespace exclave {
namespace {

// An id is a generation that never comes back above the book's reference without its tag bits.
constexpr unsigned kIdRefBits = 32 - kBookTagBits;
constexpr std::uint64_t kMaxGeneration = (std::uint64_t{1} << (64 - kIdRefBits)) - 1;

// Opens a write to facts that readers see; closed by the destructor. Readers retry while the
// sequence is even. Each fact is stored with release, so whoever sees it sees the even sequence,
// too. A region is born open: insert_locked closes it.
//
// A sequence begins at its region's generation, times the writes that a generation has room for;
// when these are used up, it goes on with a new generation. So no odd one comes back, not in the
// book's next life either: a host that stops a reader in the middle for hours gains nothing.
class FactsWriter {
 public:
  FactsWriter(Region& region, std::atomic<std::uint64_t>& generation) noexcept
      : region_(region), generation_(generation) {
    region.sequence.store(region.sequence.load(std::memory_order_relaxed) + 1,
                          std::memory_order_relaxed);
  }
  ~FactsWriter() { close(region_, generation_); }
  // Publishes the facts to query, which loads the sequence with acquire.
  static void close(Region& region, std::atomic<std::uint64_t>& generation) noexcept {
    std::uint64_t open = region.sequence.load(std::memory_order_relaxed);
    if (EXCLAVE_UNLIKELY(open % first_of(1) == 0))
      open = first_of(generation.fetch_add(1, std::memory_order_relaxed) + 1);
    region.sequence.store(open + 1, std::memory_order_release);
  }
  static constexpr std::uint64_t first_of(std::uint64_t generation) noexcept {
    return generation << kIdRefBits;
  }
  // Open, and not where a generation is used up.
  static constexpr std::uint64_t at_birth(std::uint64_t generation) noexcept {
    return first_of(generation) + 2;
  }
  FactsWriter(const FactsWriter&) = delete;
  FactsWriter& operator=(const FactsWriter&) = delete;

 private:
  Region& region_;
  std::atomic<std::uint64_t>& generation_;
};

}  // namespace

void Registry::open(Extent enclave, std::uint64_t seed) noexcept {
  enclave_ = enclave;
  LockGuard guard(lock_);
  pins_.seed(~seed);
}

Result<RegionInfo> Registry::query_slow(std::uintptr_t address, std::size_t size,
                                        bool (*is_inside)(const void* context),
                                        const void* context) const noexcept {
  for (;;) {
    const Region* const region = pagemap_.find(address);
    if (region == nullptr) return Error::kNotFound;
    const std::uint64_t sequence = region->sequence.load(std::memory_order_acquire);
    if (sequence % 2 == 0) {
      if (is_inside != nullptr && is_inside(context)) return Error::kReentered;
      __builtin_ia32_pause();
      continue;
    }
    const RegionFacts facts = facts_of(*region);
    // GCOVR_EXCL_BR_START: a race
    if (region->sequence.load(std::memory_order_acquire) != sequence) continue;
    // GCOVR_EXCL_BR_STOP
    if (holds(facts, address, size)) return facts.info();
    // Not this one; unless the book went to another region between the look at the pagemap and the
    // look at the book.
    // GCOVR_EXCL_BR_START: a race
    if (Extent{facts.base, facts.size}.contains(address)) return Error::kNotFound;
    // GCOVR_EXCL_BR_STOP
    // GCOVR_EXCL_START: as above
    if (pagemap_.find(address) == region &&
        region->sequence.load(std::memory_order_acquire) == sequence) {
      return Error::kNotFound;
    }
    // GCOVR_EXCL_STOP
  }
}

Result<Region*> Registry::create(Extent extent, const AttachOptions& options, bool grown) noexcept {
  const bool pool = options.role == Role::kPool;
  const std::uint64_t first_unit = first_unit_of(extent);
  const std::uint64_t units = pool ? units_of(extent) : 0;
  if (units > UINT32_MAX) return Error::kOutOfTrustedMemory;
  const std::uint64_t generation = generation_.fetch_add(1, std::memory_order_relaxed) + 1;
  // GCOVR_EXCL_BR_START: 2^35 regions
  if (generation > kMaxGeneration) return Error::kOutOfTrustedMemory;
  // GCOVR_EXCL_BR_STOP
  const std::size_t bytes = Region::book_bytes(units);
  void* const memory = books_.allocate(BookKind::kRegion, bytes);
  if (memory == nullptr) return Error::kOutOfTrustedMemory;

  // The book may still be looked at by a late reader of its last life, so it is filled in through
  // its atomics.
  Region* const region = static_cast<Region*>(memory);
  region->sequence.store(FactsWriter::at_birth(generation), std::memory_order_relaxed);
  region->next_taken = nullptr;
  region->pins = 0;
  region->in_call = 0;
  region->taken_out = false;
  region->dont_fork = false;
  region->gone = options.gone;
  region->gone_context = options.gone_context;
  if (pool) {
    region->largest_block = options.largest_block;
    region->boundary = options.boundary;
  }
  region->page_pool.store(nullptr, std::memory_order_release);
  region->page_book = nullptr;
  region->pool.store(nullptr, std::memory_order_release);
  region->first_unit.store(first_unit, std::memory_order_release);
  region->base.store(extent.base, std::memory_order_release);
  region->size.store(extent.size, std::memory_order_release);
  region->device_base.store(options.device_base, std::memory_order_release);
  region->set_traits({options.role, options.protection, grown, false, options.device});
  region->unit_count.store(static_cast<std::uint32_t>(units), std::memory_order_release);
  region->id.store((generation << kIdRefBits) | (books_.ref(region) >> kBookTagBits),
                   std::memory_order_release);
  return region;
}

void Registry::destroy(Region& region) noexcept {
  if (region.taken_out) {
    LockGuard guard(lock_);
    pagemap_.let_go(region.extent());
  }
  release_book(region);
}

void Registry::release_book(Region& region) noexcept {
  // A late reader must not take half-zeroed facts for a region: the first word that goes is the
  // sequence, and while it is zero he tries again.
  static_assert(offsetof(Region, sequence) == 0);
  books_.release(BookKind::kRegion, &region,
                 Region::book_bytes(region.unit_count.load(std::memory_order_relaxed)));
}

Status Registry::insert(Region& region) noexcept {
  LockGuard guard(lock_);
  return insert_locked(region);
}

Status Registry::insert_over(Region* reserved, Region& region, Protection protection) noexcept {
  LockGuard guard(lock_);
  RegionTraits traits = region.traits();
  traits.protection = protection;
  region.set_traits(traits);
  for (Region* below = reserved; below != nullptr; below = below->next_taken) remove_locked(*below);
  const Status inserted = insert_locked(region);
  if (inserted.ok()) return {};
  for (Region* below = reserved; below != nullptr; below = below->next_taken)
    EXCLAVE_CHECK(insert_locked(*below).ok());  // its place is free, and its edges are held
  return inserted;
}

void Registry::remove_from_over(Region* reserved, Region& region) noexcept {
  LockGuard guard(lock_);
  remove_locked(region);
  for (Region* below = reserved; below != nullptr; below = below->next_taken)
    EXCLAVE_CHECK(insert_locked(*below).ok());  // as above
}

Status Registry::put_back(Region& mapping) noexcept {
  LockGuard guard(lock_);
  if (region_at_locked(mapping.extent().base) != &mapping) {
    if (const Status inserted = insert_locked(mapping); !inserted.ok()) return inserted;
  }
  stand_again_locked(mapping);
  return {};
}

void Registry::stand_again_locked(Region& mapping) noexcept {
  pagemap_.let_go(mapping.extent());
  mapping.taken_out = false;
  mapping.in_call = 0;
  set_role_locked(mapping, Role::kMapping);
  join_locked(mapping);
}

Status Registry::insert_locked(Region& region) noexcept {
  const Extent extent = region.extent();
  if (Status legal = check_outside(extent, enclave_); !legal.ok()) return legal;
  if (first_in_locked(extent) != nullptr) return Error::kOverlap;
  if (Status room = pagemap_.prepare(extent); !room.ok()) return room;
  pagemap_.set(extent, &region);
  close_facts(region);
  count_.store(count() + 1, std::memory_order_relaxed);
  return {};
}

// Now it stands in the pagemap. Before that a late reader of the book's last life might have told
// of a region that then never came to stand. What put_back inserts was closed once.
void Registry::close_facts(Region& region) noexcept {
  if (region.sequence.load(std::memory_order_relaxed) % 2 == 0)
    FactsWriter::close(region, generation_);
}

void Registry::remove(Region& region) noexcept {
  LockGuard guard(lock_);
  remove_locked(region);
}

void Registry::remove_locked(Region& region) noexcept {
  pagemap_.set(region.extent(), nullptr);
  count_.store(count() - 1, std::memory_order_relaxed);
}

void Registry::take_out_locked(Region& mapping) noexcept {
  pagemap_.hold(mapping.extent());
  mapping.taken_out = true;
  remove_locked(mapping);
}

void Registry::reserve_place_locked(Region& mapping, std::uint32_t caller) noexcept {
  pagemap_.hold(mapping.extent());
  mapping.taken_out = true;
  mapping.in_call = caller;
  set_role_locked(mapping, Role::kForbidden);
}

void Registry::leave_place(Region& mapping) noexcept {
  LockGuard guard(lock_);
  remove_locked(mapping);
}

// Exact, because every writer of the pagemap holds the lock.
Region* Registry::region_at_locked(std::uintptr_t address) noexcept {
  return pagemap_.find(address);
}

Region* Registry::first_in_locked(Extent range) noexcept {
  return pagemap_.first_in(range);
}

void Registry::resize_locked(Region& region, std::size_t size) noexcept {
  FactsWriter writer(region, generation_);
  region.size.store(size, std::memory_order_release);
}

Result<Region*> Registry::create_like(const Region& mapping, std::uintptr_t from,
                                      Extent extent) noexcept {
  AttachOptions options;
  options.role = Role::kMapping;
  const RegionTraits traits = mapping.traits();
  options.protection = traits.protection;
  options.device = traits.device;
  const std::uint64_t device_base = mapping.device_base.load(std::memory_order_relaxed);
  // Pages that the mapping has not are not mapped on the device either, as far as anybody said.
  if (device_base != kNoDeviceAddress && lies_in(mapping.extent(), from, extent.size))
    options.device_base = device_base + (from - mapping.extent().base);
  options.gone = mapping.gone;
  options.gone_context = mapping.gone_context;
  Result<Region*> made = create(extent, options, false);
  if (!made.ok()) return made;
  (*made)->dont_fork = mapping.dont_fork;
  (*made)->id.store(mapping.id.load(std::memory_order_relaxed), std::memory_order_release);
  return made;
}

// The part from `at` on becomes a region of its own. Readers find the new one before the old one
// shrinks.
Status Registry::split_locked(Region& mapping, std::uintptr_t at) noexcept {
  const auto [low, high] = split_at(mapping.extent(), at);
  if (Status room = pagemap_.prepare(high); !room.ok()) return room;
  const Result<Region*> made = create_like(mapping, high.base, high);
  if (!made.ok()) return made.error();
  Region& upper = **made;
  pagemap_.set(high, &upper);
  close_facts(upper);
  resize_locked(mapping, low.size);
  count_.store(count() + 1, std::memory_order_relaxed);
  return {};
}

Result<Region*> Registry::isolate_locked(Region& mapping, Extent part) noexcept {
  const Extent whole = mapping.extent();
  EXCLAVE_DCHECK(whole.covers(part) && mapping.traits().role == Role::kMapping);
  if (part.end() != whole.end()) {
    if (Status cut = split_locked(mapping, part.end()); !cut.ok()) return cut.error();
  }
  if (part.base == whole.base) return &mapping;
  if (Status cut = split_locked(mapping, part.base); !cut.ok()) {
    join_locked(mapping);
    return cut.error();
  }
  return region_at_locked(part.base);
}

void Registry::forget_device_address_locked(Region& region) noexcept {
  FactsWriter writer(region, generation_);
  region.device_base.store(kNoDeviceAddress, std::memory_order_release);
}

void Registry::set_protection_locked(Region& region, Protection protection) noexcept {
  RegionTraits traits = region.traits();
  traits.protection = protection;
  FactsWriter writer(region, generation_);
  region.set_traits(traits);
}

void Registry::set_role_locked(Region& region, Role role) noexcept {
  RegionTraits traits = region.traits();
  traits.role = role;
  FactsWriter writer(region, generation_);
  region.set_traits(traits);
}

void Registry::set_draining_locked(Region& region, bool draining) noexcept {
  RegionTraits traits = region.traits();
  traits.draining = draining;
  FactsWriter writer(region, generation_);
  region.set_traits(traits);
}

// The pagemap has leaves at both edges of `high` already, so setting it again cannot fail.
void Registry::absorb_locked(Region& low, Region& high) noexcept {
  const Extent extent = high.extent();
  resize_locked(low, joined(low.extent(), extent).size);
  pagemap_.set(extent, &low);
  count_.store(count() - 1, std::memory_order_relaxed);
  release_book(high);
}

void Registry::join_locked(Region& mapping) noexcept {
  // What mremap moved may stand beside what it was not beside before.
  const auto goes_on = [](const Region& a, const Region& b) noexcept {
    const std::uint64_t low = a.device_base.load(std::memory_order_relaxed);
    const std::uint64_t high = b.device_base.load(std::memory_order_relaxed);
    if (low == kNoDeviceAddress || high == kNoDeviceAddress) return low == high;
    return low + a.extent().size == high;
  };
  const auto one = [&](const Region& a, const Region& b) noexcept {
    EXCLAVE_DCHECK(adjoin(a.extent(), b.extent()));  // the next page is the other's
    return a.region_id() == b.region_id() && a.in_call == 0 && b.in_call == 0 &&
           a.traits().protection == b.traits().protection && a.dont_fork == b.dont_fork &&
           goes_on(a, b);
  };
  Region* low = &mapping;
  if (Region* const before = region_at_locked(mapping.extent().base - 1);
      before != nullptr && one(*before, mapping)) {
    absorb_locked(*before, mapping);
    low = before;
  }
  if (Region* const after = region_at_locked(low->extent().end());
      after != nullptr && one(*low, *after)) {
    absorb_locked(*low, *after);
  }
}

void Registry::after_fork_in_child(std::uint32_t mine) noexcept {
  LockGuard guard(lock_);
  for (std::uintptr_t at = 0;;) {
    Region* const region = first_in_locked({at, kAddressLimit - at});
    if (region == nullptr) return;
    at = region->extent().end();
    if (region->in_call == mine) continue;
    if (region->dont_fork) {
      forget_locked(*region);
    } else if (region->in_call == 0) {
      continue;
    } else if (region->taken_out) {
      stand_again_locked(*region);
    } else {
      region->in_call = 0;
      join_locked(*region);
    }
  }
}

// It is no more, and its owner is not told: it lives on in the parent.
void Registry::forget_locked(Region& mapping) noexcept {
  const Extent extent = mapping.extent();
  pins_.remove_in(extent);
  remove_locked(mapping);
  if (mapping.taken_out) pagemap_.let_go(extent);
  release_book(mapping);
}

bool Registry::overlaps(Extent range) noexcept {
  LockGuard guard(lock_);
  return first_in_locked(range) != nullptr;
}

Result<RegionInfo> Registry::next(std::uintptr_t address) noexcept {
  if (address >= kAddressLimit) return Error::kNotFound;
  LockGuard guard(lock_);
  for (std::uintptr_t at = address;;) {
    const Region* const region = first_in_locked({at, kAddressLimit - at});
    if (region == nullptr) return Error::kNotFound;
    if (!region->taken_out) return facts_of(*region).info();
    at = region->extent().end();
  }
}

// GCOVR_EXCL_BR_START: sound books take no branch that says they are not
bool Registry::validate() noexcept {
  LockGuard guard(lock_);
  if (!pagemap_.validate() || !pins_.validate()) return false;
  std::size_t regions = 0;
  for (std::uintptr_t at = 0;; ++regions) {
    Region* const region = first_in_locked({at, kAddressLimit - at});
    if (region == nullptr) return regions == count();
    // Begins where it is first met, so no page of it was met before.
    const Extent extent = region->extent();
    if (extent.base < at || !check_outside(extent, enclave_).ok() || !region->region_id())
      return false;  // GCOVR_EXCL_LINE: as above
    if (pagemap_.find(extent.base - 1) == region) return false;
    for (std::uintptr_t page = extent.base; page < extent.end(); page += kPageBytes) {
      if (pagemap_.find(page) != region) return false;
    }
    at = extent.end();
  }
}
// GCOVR_EXCL_BR_STOP

}  // namespace exclave
