// What untrusted memory exists: every region, in the order of the pagemap, none overlapping, none
// inside the enclave.
//
// Invariants (validate()): regions are disjoint page ranges outside the enclave; every page of each
// stands in the pagemap under its region, and no other page does. Readers take no lock; writers
// hold lock(). The registry makes no host call. May be called by page/, heap/ and memcall/.
#pragma once

#include <atomic>

#include "base/extents.hpp"
#include "base/spin_lock.hpp"
#include "exclave/allocator.hpp"
#include "region/pagemap.hpp"
#include "region/pin_table.hpp"
#include "region/region.hpp"

namespace exclave {

class Registry {
 public:
  explicit Registry(BookStore& books) noexcept : books_(books), pagemap_(books), pins_(books) {}
  void open(Extent enclave, std::uint64_t seed) noexcept;

  // ---- Without a lock ----

  // The book that the address' page is entered under, unverified (see Pagemap::find).
  Region* find(std::uintptr_t address) const noexcept { return pagemap_.find(address); }
  // The region in which the range wholly lies, as it stood at one moment during the call. Errors:
  // kNotFound.
  // When is_inside says so while the region is being changed, the change may be one that this very
  // call interrupts, from a signal handler: then kReentered instead of waiting for ever.
  Result<RegionInfo> query(std::uintptr_t address, std::size_t size,
                           bool (*is_inside)(const void* context) = nullptr,
                           const void* context = nullptr) const noexcept;

  // ---- Life of a region ----

  // A book for a region that is not inserted yet; until it is, no query tells of it. Errors:
  // kOutOfTrustedMemory.
  Result<Region*> create(Extent extent, const AttachOptions& options, bool grown) noexcept;
  // A book for a region that is to hold what the mapping holds from that address on, or what comes
  // behind it: its facts, its id. It has the device's addresses only if the mapping has all of
  // it, because what grows has none until somebody states them. Errors: kOutOfTrustedMemory.
  Result<Region*> create_like(const Region& mapping, std::uintptr_t from, Extent extent) noexcept;
  // Gives the book back. Precondition: not inserted.
  void destroy(Region& region) noexcept EXCLAVE_EXCLUDES(lock_);
  // Errors, without change: kInvalidArgument, kInsideEnclave, kOverlap, kOutOfTrustedMemory.
  Status insert(Region& region) noexcept EXCLAVE_EXCLUDES(lock_);
  // A mapping that was taken out or reserved a moment ago stands again, joined with what is left of
  // it. Needs no trusted memory. Errors: kOverlap, never of one whose place is still reserved.
  Status put_back(Region& mapping) noexcept EXCLAVE_EXCLUDES(lock_);
  // After this no reader finds it. Precondition: inserted.
  void remove(Region& region) noexcept EXCLAVE_EXCLUDES(lock_);
  void remove_locked(Region& region) noexcept EXCLAVE_REQUIRES(lock_);
  // The same for a mapping that may be put back.
  void take_out_locked(Region& mapping) noexcept EXCLAVE_REQUIRES(lock_);
  // The first half of take_out_locked, for a mapping whose turn to go comes later: from now on it
  // is a hole for everybody, but nothing can be inserted there. The host still has pages there, so
  // a host that hands the place out lies. caller: the thread's slot + 1.
  void reserve_place_locked(Region& mapping, std::uint32_t caller) noexcept EXCLAVE_REQUIRES(lock_);
  // The second half, right before the place is unmapped: afterwards the host may hand it out.
  void leave_place(Region& mapping) noexcept EXCLAVE_EXCLUDES(lock_);
  // In one step, so that the place is never free: the region stands where the reserved mappings
  // stood, with another protection for the time being. Errors, without change: as insert.
  Status insert_over(Region* reserved, Region& region, Protection protection) noexcept
      EXCLAVE_EXCLUDES(lock_);
  // The other way round.
  void remove_from_over(Region* reserved, Region& region) noexcept EXCLAVE_EXCLUDES(lock_);

  // ---- Under the lock ----

  SpinLock& lock() noexcept EXCLAVE_RETURNS_LOCK(lock_) { return lock_; }
  Region* region_at_locked(std::uintptr_t address) noexcept EXCLAVE_REQUIRES(lock_);
  // The lowest region with a page in the range, or null. The range may be empty.
  Region* first_in_locked(Extent range) noexcept EXCLAVE_REQUIRES(lock_);
  // Cuts a mapping so that `part` is a region of its own. Precondition: the mapping covers it.
  // Errors, without change: kOutOfTrustedMemory.
  Result<Region*> isolate_locked(Region& mapping, Extent part) noexcept EXCLAVE_REQUIRES(lock_);
  void set_protection_locked(Region& region, Protection protection) noexcept
      EXCLAVE_REQUIRES(lock_);
  void forget_device_address_locked(Region& region) noexcept EXCLAVE_REQUIRES(lock_);
  // Joins a mapping with its neighbours where they are one attach with one protection.
  void join_locked(Region& mapping) noexcept EXCLAVE_REQUIRES(lock_);
  void set_draining_locked(Region& region, bool draining) noexcept EXCLAVE_REQUIRES(lock_);
  PinTable& pins_locked() noexcept EXCLAVE_REQUIRES(lock_) { return pins_; }
  bool is_pinned_locked(const Region& region) const noexcept EXCLAVE_REQUIRES(lock_) {
    return region.pins != 0 || pins_.overlaps(region.extent());
  }

  // In the child of a fork: no thread but this one has a call under way. What another thread had
  // reserved, to unmap it, is still mapped here; what is dont_fork is not, and its pins are none.
  void after_fork_in_child(std::uint32_t mine) noexcept EXCLAVE_EXCLUDES(lock_);

  bool overlaps(Extent range) noexcept EXCLAVE_EXCLUDES(lock_);
  Result<RegionInfo> next(std::uintptr_t address) noexcept EXCLAVE_EXCLUDES(lock_);
  std::size_t count() const noexcept { return count_.load(std::memory_order_relaxed); }
  Extent enclave() const noexcept { return enclave_; }
  bool validate() noexcept EXCLAVE_EXCLUDES(lock_);

 private:
  static RegionFacts facts_of(const Region& region) noexcept;
  // Does the range lie in that region? Size 0 stands for the single address. A region that is gone
  // has no size.
  static bool holds(const RegionFacts& facts, std::uintptr_t address, std::size_t size) noexcept {
    return lies_in({facts.base, facts.size}, address, size) && facts.role() != Role::kForbidden;
  }
  [[gnu::noinline]] Result<RegionInfo> query_slow(std::uintptr_t address, std::size_t size,
                                                  bool (*is_inside)(const void* context),
                                                  const void* context) const noexcept;
  Status insert_locked(Region& region) noexcept EXCLAVE_REQUIRES(lock_);
  void forget_locked(Region& mapping) noexcept EXCLAVE_REQUIRES(lock_);
  void stand_again_locked(Region& mapping) noexcept EXCLAVE_REQUIRES(lock_);
  void set_role_locked(Region& region, Role role) noexcept EXCLAVE_REQUIRES(lock_);
  Status split_locked(Region& mapping, std::uintptr_t at) noexcept EXCLAVE_REQUIRES(lock_);
  void absorb_locked(Region& low, Region& high) noexcept EXCLAVE_REQUIRES(lock_);
  void close_facts(Region& region) noexcept;
  void release_book(Region& region) noexcept;
  void resize_locked(Region& region, std::size_t size) noexcept EXCLAVE_REQUIRES(lock_);

  BookStore& books_;
  Extent enclave_{};
  SpinLock lock_{LockRank::kRegistry};
  Pagemap pagemap_;
  PinTable pins_ EXCLAVE_GUARDED_BY(lock_);
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<std::size_t> count_{0};
};

// ---- query ----

// Acquire on each, so that a second look at the sequence comes after all of them.
[[gnu::always_inline]] inline RegionFacts Registry::facts_of(const Region& region) noexcept {
  return {region.id.load(std::memory_order_acquire), region.base.load(std::memory_order_acquire),
          region.size.load(std::memory_order_acquire),
          region.traits_word.load(std::memory_order_acquire),
          region.device_base.load(std::memory_order_acquire)};
}

// Only the answer that is usual; whatever else there may be, query_slow finds out from the start.
inline Result<RegionInfo> Registry::query(std::uintptr_t address, std::size_t size,
                                          bool (*is_inside)(const void* context),
                                          const void* context) const noexcept {
  const BookView books = books_.view();
  if (const BookRef found = pagemap_.find(books, address); EXCLAVE_LIKELY(found != 0)) {
    const Region& region = *books.at<Region>(found);
    // Acquire pairs with FactsWriter's release: the facts are at least as new as this sequence.
    const std::uint64_t sequence = region.sequence.load(std::memory_order_acquire);
    const RegionFacts facts = facts_of(region);
    // An even sequence is not equal to itself with the low bit, and no odd one ever comes back.
    const bool still =
        region.sequence.load(std::memory_order_relaxed) == (sequence | std::uint64_t{1});
    if (EXCLAVE_LIKELY(still && holds(facts, address, size))) return facts.info();
  }
  return query_slow(address, size, is_inside, context);
}

}  // namespace exclave
