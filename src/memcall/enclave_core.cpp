#include "memcall/enclave_core.hpp"

#include <new>

#include "base/bits.hpp"
#include "memcall/linux_abi.hpp"

namespace exclave::core {

using namespace linux_abi;  // NOLINT(google-build-using-namespace): all of it is used here

namespace {

constexpr std::size_t kMaxRangeBytes = std::size_t{kNoPage} << kPageShift;
constexpr std::size_t kCoreBytes = align_up(sizeof(EnclaveCore), kPageBytes);
// The random part of the layout: one sixteenth of the range.
constexpr unsigned kRandomShift = 4;

}  // namespace

// ---- Life ----

Result<EnclaveCore*> EnclaveCore::create(const PortTable& port, const EnclavePagesTable& pages,
                                         const Options& options) noexcept {
  if (port.enclave == nullptr || port.book_window == nullptr || port.trusted_reserve == nullptr ||
      port.trusted_release == nullptr || port.entropy == nullptr || pages.commit == nullptr ||
      pages.protect == nullptr || pages.drop == nullptr || pages.move == nullptr ||
      pages.fill == nullptr) {
    return Error::kInvalidArgument;
  }
  const exclave_extent enclave = port.enclave(port.context);
  const exclave_extent books = port.book_window(port.context);
  if (!is_page_range(options.range) || options.range.size > kMaxRangeBytes ||
      !Extent{enclave.base, enclave.size}.covers(options.range) ||
      options.range.overlaps({books.base, books.size})) {
    return Error::kInvalidArgument;
  }
  void* const memory = port.trusted_reserve(port.context, kCoreBytes);
  if (memory == nullptr) return Error::kOutOfTrustedMemory;
  EnclaveCore* const core = ::new (memory) EnclaveCore(port, pages, options);
  if (const Status opened = core->open(); !opened.ok()) {
    port.trusted_release(port.context, memory, kCoreBytes);
    return opened.error();
  }
  return core;
}

Status EnclaveCore::open() noexcept {
  if (Status window = books_.open(port_); !window.ok()) return window;
  std::uint64_t random[3] = {};  // the shape of the tree, the top, the break
  if (port_.entropy(port_.context, random, sizeof(random)) != 0) return Error::kInvalidArgument;
  const PageStretch all = run_of(options_.range);
  const PageNumber spread = options_.randomize ? (all.count >> kRandomShift) + 1 : 1;
  LockGuard guard(lock_);
  areas_.open(all.count, random[0]);
  top_ = all.count - static_cast<PageNumber>(random[1] % spread);
  first_break_ = options_.range.base + random[2] % spread * kPageBytes;
  break_.store(first_break_, std::memory_order_relaxed);
  return {};
}

void EnclaveCore::destroy(EnclaveCore* core) noexcept {
  const PortTable port = core->port_;
  core->books_.close();
  port.trusted_release(port.context, core, kCoreBytes);
}

// ---- Threads ----

int EnclaveCore::enter(Mark* me) const noexcept {
  const std::uint32_t slot = current_thread_slot();
  if (slot >= kMaxThreadSlots) return -kEAGAIN;
  const std::uint8_t inside = inside_[slot].load(std::memory_order_relaxed);
  if ((inside & kLocked) != 0) return -kEBUSY;
  // A call inside a call goes on: the fork waits for the outer one.
  if (inside == 0 && forks_waiting_.load(std::memory_order_relaxed) != 0) let_forks_go_first();
  *me = static_cast<Mark>(slot + 1);
  return 0;
}

// Else a few threads that call again and again keep a fork out for ever. For milliseconds only, for
// what the fork waits for may be a call that this one, from a signal handler, keeps from its work.
void EnclaveCore::let_forks_go_first() const noexcept {
  constexpr unsigned kLooks = 256;
  Backoff backoff;
  for (unsigned i = 0; i < kLooks && forks_waiting_.load(std::memory_order_relaxed) != 0; ++i)
    wait_for_others(&backoff);
}

// The note comes before the lock and goes after it, so that no handler spins on its own thread.
EnclaveCore::Section::Section(EnclaveCore& core, Mark me) noexcept
    : core_(core), inside_(core.inside_[me - 1]) {
  inside_.store(static_cast<std::uint8_t>(inside_.load(std::memory_order_relaxed) | kLocked),
                std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  core_.lock_.lock();
}

EnclaveCore::Section::~Section() {
  core_.lock_.unlock();
  std::atomic_signal_fence(std::memory_order_seq_cst);
  inside_.store(static_cast<std::uint8_t>(inside_.load(std::memory_order_relaxed) & ~kLocked),
                std::memory_order_relaxed);
}

EnclaveCore::Work::Work(EnclaveCore& core, Mark me) noexcept
    : inside_(core.inside_[me - 1]), before_(inside_.load(std::memory_order_relaxed)) {
#if !defined(NDEBUG)
  check_no_lock_held();
#endif
  inside_.store(static_cast<std::uint8_t>(before_ | kWorking), std::memory_order_relaxed);
}

EnclaveCore::Work::~Work() {
  inside_.store(before_, std::memory_order_relaxed);
}

// ---- Pages and places ----

PageNumber EnclaveCore::find_place(PageNumber pages, PageNumber limit) const noexcept {
  const PageNumber place = areas_.highest_gap(pages, limit < top_ ? limit : top_);
  return place != kNoPage ? place : areas_.highest_gap(pages, limit);
}

// The page below which a mapping must end.
PageNumber EnclaveCore::limit_of(int flags) const noexcept {
  const Extent range = options_.range;
  if ((flags & kMap32Bit) == 0 || range.end() <= kMap32BitEnd) return run_of(range).count;
  return range.base < kMap32BitEnd ? run_of({range.base, kMap32BitEnd - range.base}).count : 0;
}

int EnclaveCore::commit(Extent place, AreaKind kind) noexcept {
  const int error = pages_.commit(pages_.context, place.base, place.size, kind.protection,
                                  kind.has(AreaKind::kShared) ? 1 : 0);
  if (error != 0) return error;
  lock_if_asked(place, kind);
  if (kind.has(AreaKind::kDontFork)) (void)hint(EXCLAVE_MADVISE, place, kMadvDontFork);
  if (kind.has(AreaKind::kWipeOnFork)) (void)hint(EXCLAVE_MADVISE, place, kMadvWipeOnFork);
  return 0;
}
// As on Linux, what cannot be locked or populated now is no failure of the call that maps it.
void EnclaveCore::lock_if_asked(Extent place, AreaKind kind) noexcept {
  if (!kind.has(AreaKind::kLocked)) return;
  (void)hint(EXCLAVE_MLOCK, place, kind.has(AreaKind::kOnFault) ? kMlockOnFault : 0);
}
int EnclaveCore::may_lock(Mark me, AreaKind kind, std::size_t more_bytes) noexcept {
  if (options_.may_lock == nullptr || !kind.has(AreaKind::kLocked)) return 0;
  std::size_t bytes = more_bytes;
  {
    const Section section(*this, me);
    bytes += areas_.locked_pages() * kPageBytes;
  }
  return options_.may_lock(options_.policy_context, bytes);
}
void EnclaveCore::populate(Extent place, AreaKind kind) noexcept {
  const bool writable = (kind.protection & kProtWrite) != 0;
  (void)hint(EXCLAVE_MADVISE, place, writable ? kMadvPopulateWrite : kMadvPopulateRead);
}
int EnclaveCore::stretch(Extent from, Extent to) noexcept {
  return pages_.stretch == nullptr
             ? -kENOMEM
             : pages_.stretch(pages_.context, from.base, from.size, to.base, to.size);
}
int EnclaveCore::drop(Extent place) noexcept {
  return pages_.drop(pages_.context, place.base, place.size);
}
// Above 0: an error, and what stood at the new place is gone.
int EnclaveCore::move(Extent from, std::uintptr_t to, int protection, bool keep) noexcept {
  return pages_.move(pages_.context, from.base, to, from.size, protection, keep ? 1 : 0);
}

void EnclaveCore::note_peak_locked() noexcept {
  const std::uint64_t pages = areas_.mapped_pages();
  if (pages > peak_pages_) peak_pages_ = pages;
}

// ---- map ----

// In the order in which Linux looks, where more than one thing is wrong.
int EnclaveCore::decode(std::uintptr_t address, std::size_t size, int protection, int flags,
                        std::uint64_t offset, Wanted* wanted) const noexcept {
  const int type = flags & kMapTypeMask;
  const bool anonymous = (flags & kMapAnonymous) != 0;
  wanted->fixed = (flags & (kMapFixed | kMapFixedNoReplace)) != 0;
  wanted->replace = (flags & kMapFixedNoReplace) == 0;
  wanted->from_file = !anonymous;
  wanted->limit = limit_of(flags);
  wanted->flags = flags;
  wanted->offset = offset;
  wanted->kind.protection = static_cast<std::uint8_t>(protection & kProtAll);
  std::uint64_t bytes = 0;
  if (!is_aligned(offset, kPageBytes) || size == 0) return -kEINVAL;
  if (!checked_align_up(size, kPageBytes, &bytes) || bytes > options_.range.size) return -kENOMEM;
  if (wanted->fixed && !is_aligned(address, kPageBytes)) return -kEINVAL;
  // A hint is the page that it lies in, and one that cannot be met is none.
  const Extent place{align_down(address, kPageBytes), bytes};
  const bool possible = options_.range.covers(place);
  if (!is_map_type(flags)) return -kEINVAL;
  if (wanted->fixed && !possible) return -kENOMEM;
  if ((flags & (kMapGrowsDown | kMapSync)) != 0) return -kEOPNOTSUPP;
  if ((flags & kMapHugeTlb) != 0) return -kENOMEM;
  // Bytes that others change, too, cannot be enclave memory.
  const bool backed = !anonymous && type != kMapPrivate;
  if (backed && pages_.back == nullptr) return -kENODEV;
  wanted->run = possible ? run_of(place) : PageStretch{kNoPage, run_of({0, bytes}).count};
  std::uint8_t traits = future_traits_.load(std::memory_order_relaxed);
  if ((flags & kMapLocked) != 0) traits |= AreaKind::kLocked;
  if (!anonymous && !backed) traits |= AreaKind::kFromFile;
  if (type != kMapPrivate) traits |= AreaKind::kShared;
  if (backed) traits |= AreaKind::kBacked;
  wanted->kind.traits = traits;
  return 0;
}

int EnclaveCore::claim(Mark me, const Wanted& wanted, Claim* claimed) noexcept {
  for (Backoff backoff;; wait_for_others(&backoff)) {
    const Section section(*this, me);
    if (is_full_locked()) return -kENOMEM;
    PageStretch run = wanted.run;
    if (wanted.fixed) {
      // What is held for a call may be a hole again when it ends.
      const AreaTree::Look look = areas_.look(run, me);
      if (look == AreaTree::Look::kMine) return -kEBUSY;
      if (look == AreaTree::Look::kElsewhere) continue;
      if (!wanted.replace && areas_.first_in(run) != nullptr) return -kEEXIST;
    } else if (run.first == kNoPage || run.end() > wanted.limit ||
               areas_.first_in(run) != nullptr) {
      run.first = find_place(run.count, wanted.limit);
      if (run.first == kNoPage) return -kENOMEM;
    }
    if (!areas_.prepare(4)) return -kENOMEM;
    claimed->replaced = areas_.take_out(run);
    claimed->held = &areas_.add(run, AreaKind{}, me);
    if (wanted.from_file && !wanted.kind.has(AreaKind::kBacked) && claimed->replaced != nullptr) {
      const PageNumber stage = find_place(run.count, run_of(options_.range).count);
      if (stage == kNoPage) {
        areas_.remove(*claimed->held);
        areas_.put_back(claimed->replaced);
        return -kENOMEM;
      }
      claimed->stage = &areas_.add({stage, run.count}, AreaKind{}, me);
    }
    ++under_way_;
    return 0;
  }
}

// *made: of the pages that are there; none where it says so.
int EnclaveCore::make_copy(Extent place, const Wanted& wanted, AreaKind* made) noexcept {
  AreaKind fresh = wanted.kind;
  fresh.protection = kProtRead | kProtWrite;
  if (const int error = commit(place, fresh); error != 0) return error;
  *made = fresh;
  int error = pages_.fill(pages_.context, place.base, place.size, wanted.descriptor, wanted.offset);
  if (error == 0 && wanted.kind != fresh) {
    error = pages_.protect(pages_.context, place.base, place.size, wanted.kind.protection);
    if (error == 0) *made = wanted.kind;
  }
  return error;
}

// Above 0: an error, and what stood at the place is gone.
int EnclaveCore::make_backed(Extent place, const Wanted& wanted) noexcept {
  const int error = pages_.back(pages_.context, place.base, place.size, wanted.kind.protection,
                                wanted.flags, wanted.descriptor, wanted.offset);
  if (error == 0) lock_if_asked(place, wanted.kind);
  return error;
}

int EnclaveCore::bring_pages(const Wanted& wanted, Claim* claimed) noexcept {
  const Extent place = extent_of(claimed->held->run);
  if (!wanted.from_file) {
    const int error = commit(place, wanted.kind);
    if (error == 0 && (wanted.flags & kMapPopulate) != 0) populate(place, wanted.kind);
    return error;
  }
  if (wanted.kind.has(AreaKind::kBacked)) {
    const int error = make_backed(place, wanted);
    claimed->gone = error > 0;
    return errno_of(error);
  }
  // What stands at the place stays until the copy is whole.
  const Extent at = claimed->stage != nullptr ? extent_of(claimed->stage->run) : place;
  int error = make_copy(at, wanted, &claimed->made);
  const bool is_made = claimed->made != AreaKind{};
  if (error == 0 && claimed->stage != nullptr) {
    const int moved = move(at, place.base, wanted.kind.protection, false);
    claimed->gone = moved > 0;
    error = errno_of(moved);
  }
  claimed->lost = error != 0 && is_made && drop(at) != 0;
  return error;
}

std::intptr_t EnclaveCore::map(std::uintptr_t address, std::size_t size, int protection, int flags,
                               int descriptor, std::uint64_t offset) noexcept {
  Wanted wanted;
  wanted.descriptor = descriptor;
  if (const int bad = decode(address, size, protection, flags, offset, &wanted); bad != 0)
    return bad;
  Mark me = 0;
  if (const int bad = enter(&me); bad != 0) return bad;
  const std::size_t bytes = std::size_t{wanted.run.count} * kPageBytes;
  // Who has not asked for a lock hears of no missing right.
  if (const int bad = may_lock(me, wanted.kind, bytes); bad != 0)
    return (flags & kMapLocked) != 0 ? bad : -kEAGAIN;
  Claim claimed;
  if (const int refused = claim(me, wanted, &claimed); refused != 0) return refused;
  const Extent place = extent_of(claimed.held->run);
  int error = 0;
  {
    const Work work(*this, me);
    error = bring_pages(wanted, &claimed);
  }

  const Section section(*this, me);
  --under_way_;
  Area* made = claimed.held;
  if (claimed.stage != nullptr) {
    Area* const spare = error == 0 ? claimed.stage : claimed.held;
    made = error == 0 ? claimed.held : claimed.stage;
    areas_.remove(*spare);
  }
  if (error == 0) {
    areas_.discard(claimed.replaced);
    (void)areas_.settle(*made, wanted.kind);
    note_peak_locked();
    return static_cast<std::intptr_t>(place.base);
  }
  // Pages that would not go can be touched, so they are an area.
  if (claimed.lost) {
    (void)areas_.settle(*made, claimed.made);
  } else {
    areas_.remove(*made);
  }
  if (claimed.gone) {
    areas_.discard(claimed.replaced);
  } else {
    areas_.put_back(claimed.replaced);
  }
  return error;
}

// ---- unmap ----

int EnclaveCore::unmap(std::uintptr_t address, std::size_t size) noexcept {
  Extent range;
  if (!decode_pages(address, size, &range)) return -kEINVAL;
  const Extent inside = cut_by(range, options_.range).inside;
  if (inside.empty()) return 0;
  Mark me = 0;
  if (const int bad = enter(&me); bad != 0) return bad;
  return unmap_run(me, run_of(inside));
}

int EnclaveCore::unmap_run(Mark me, PageStretch run) noexcept {
  Area* gone = nullptr;
  Area* held = nullptr;
  for (Backoff backoff;; wait_for_others(&backoff)) {
    const Section section(*this, me);
    const AreaTree::Look look = areas_.look(run, me);
    if (look == AreaTree::Look::kMine) return -kEBUSY;
    if (look == AreaTree::Look::kElsewhere) continue;
    const Area* const lowest = areas_.first_in(run);
    if (lowest == nullptr) return 0;
    const bool splits = lowest->run.first < run.first && lowest->run.end() > run.end();
    if ((splits && is_full_locked()) || !areas_.prepare(3)) return -kENOMEM;
    gone = areas_.take_out(run);
    // From the first page that is mapped to the last, so that pages of holes are not asked for.
    const Area* last = gone;
    while (last->next != nullptr) last = last->next;
    const PageNumber first = gone->run.first;
    held = &areas_.add({first, last->run.end() - first}, AreaKind{}, me);
    ++under_way_;
    break;
  }
  int error = 0;
  {
    const Work work(*this, me);
    error = drop(extent_of(held->run));
  }
  const Section section(*this, me);
  --under_way_;
  areas_.remove(*held);
  if (error == 0) {
    areas_.discard(gone);
  } else {
    areas_.put_back(gone);
  }
  return error;
}

// ---- protect ----

int EnclaveCore::protect(std::uintptr_t address, std::size_t size, int protection) noexcept {
  if (!is_aligned(address, kPageBytes)) return -kEINVAL;
  if (size == 0) return 0;
  const std::size_t bytes = align_up(size, kPageBytes);
  if (address + bytes <= address) return -kENOMEM;
  protection &= ~kProtSem;
  if ((protection & ~kProtAll) != 0) return -kEINVAL;
  bool hole = false;
  const PageStretch run = clip(address, bytes, Holes::kStop, &hole);
  Mark me = 0;
  if (const int bad = enter(&me); bad != 0) return bad;
  const auto wanted = [protection](AreaKind kind) noexcept {
    kind.protection = static_cast<std::uint8_t>(protection);
    return kind;
  };
  const auto work = [&](Extent place, AreaKind) noexcept {
    return pages_.protect(pages_.context, place.base, place.size, protection);
  };
  const int error = change_kinds(me, run, Holes::kStop, &hole, wanted, false, work);
  return error == 0 && hole ? -kENOMEM : error;
}

// ---- Looking ----

EnclaveManager::Statistics EnclaveCore::statistics() noexcept {
  EnclaveManager::Statistics s;
  Mark me = 0;
  if (enter(&me) != 0) return s;
  const Section section(*this, me);
  s.areas = areas_.count();
  s.mapped_bytes = areas_.mapped_pages() * kPageBytes;
  s.peak_bytes = peak_pages_ * kPageBytes;
  s.trusted_bytes = books_.reserved_bytes() + kCoreBytes;
  return s;
}

bool EnclaveCore::validate() noexcept {
  Mark me = 0;
  if (enter(&me) != 0) return false;
  const Section section(*this, me);
  return areas_.validate();
}

}  // namespace exclave::core
