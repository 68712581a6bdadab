// The calls that walk over areas: madvise, msync, mlock and its kin, mincore. For the enclave's own
// memory.
#include "memcall/enclave_core.hpp"

namespace exclave::core {

using namespace linux_abi;  // NOLINT(google-build-using-namespace): all of it is used here

namespace {

bool is_about_forks(int advice) noexcept {
  return advice == kMadvDontFork || advice == kMadvDoFork || advice == kMadvWipeOnFork ||
         advice == kMadvKeepOnFork;
}

AreaKind with_advice(AreaKind kind, int advice) noexcept {
  switch (advice) {
    case kMadvDontFork:
      return kind.with(AreaKind::kDontFork);
    case kMadvDoFork:
      return kind.without(AreaKind::kDontFork);
    case kMadvWipeOnFork:
      // Refused for those, which are not cut for it.
      if (kind.has(AreaKind::kShared | AreaKind::kFromFile)) return kind;
      return kind.with(AreaKind::kWipeOnFork);
    default:
      return kind.without(AreaKind::kWipeOnFork);
  }
}

// By mlock2's flags.
std::uint8_t lock_traits(int flags) noexcept {
  const bool on_fault = (flags & kMlockOnFault) != 0;
  return AreaKind::kLocked | (on_fault ? AreaKind::kOnFault : std::uint8_t{0});
}

}  // namespace

PageStretch EnclaveCore::clip(std::uintptr_t address, std::size_t size, Holes holes,
                              bool* hole) const noexcept {
  const Extent inside = cut_by(Extent{address, size}, options_.range).inside;
  *hole = inside.base != address || inside.size != size;
  // Who stops at a hole does not come as far as the areas when the range begins before them.
  const bool reached = !inside.empty() && (holes == Holes::kSkip || inside.base == address);
  return reached ? run_of(inside) : PageStretch{};
}

int EnclaveCore::hint(RangeCall call, Extent place, int argument) noexcept {
  return pages_.advise == nullptr
             ? 0
             : pages_.advise(pages_.context, call, place.base, place.size, argument);
}

int EnclaveCore::zero(Extent place, AreaKind kind) noexcept {
  if (pages_.zero == nullptr) return commit(place, kind);
  return pages_.zero(pages_.context, place.base, place.size, kind.protection,
                     kind.has(AreaKind::kShared) ? 1 : 0);
}

int EnclaveCore::advise_area(Extent place, AreaKind kind, int advice) noexcept {
  // Whoever serves the pages knows what the advice means for them.
  if (kind.has(AreaKind::kBacked)) return hint(EXCLAVE_MADVISE, place, advice);
  const bool locked = kind.has(AreaKind::kLocked);
  const bool shared = kind.has(AreaKind::kShared);
  const bool from_file = kind.has(AreaKind::kFromFile);
  switch (advice) {
    case kMadvDontNeed:
      if (locked) return -kEINVAL;
      [[fallthrough]];
    case kMadvDontNeedLocked:
      // A file's bytes would come back, so they stay, with what was written to them; shared bytes
      // stay on Linux, too.
      return from_file || shared ? 0 : zero(place, kind);
    case kMadvFree:
      return locked || from_file || shared ? -kEINVAL : zero(place, kind);
    case kMadvRemove:
      if (locked || !(shared || from_file)) return -kEINVAL;
      if (!shared || (kind.protection & kProtWrite) == 0) return -kEACCES;
      return zero(place, kind);
    case kMadvWipeOnFork:
      return from_file || shared ? -kEINVAL : hint(EXCLAVE_MADVISE, place, advice);
    case kMadvCold:
    case kMadvPageOut:
      return locked ? -kEINVAL : hint(EXCLAVE_MADVISE, place, advice);
    case kMadvPopulateRead:
    case kMadvPopulateWrite: {
      const int needed = advice == kMadvPopulateRead ? kProtRead : kProtWrite;
      return (kind.protection & needed) == 0 ? -kEINVAL : hint(EXCLAVE_MADVISE, place, advice);
    }
    default:
      return hint(EXCLAVE_MADVISE, place, advice);
  }
}

int EnclaveCore::lock_run(Mark me, PageStretch run, Holes holes, bool* hole, RangeCall call,
                          int flags) noexcept {
  const std::uint8_t traits = call == EXCLAVE_MLOCK ? lock_traits(flags) : std::uint8_t{0};
  const auto wanted = [traits](AreaKind kind) noexcept { return kind.unlocked().with(traits); };
  // As on Linux, pages that nobody may touch are locked all the same, and mlock says so; mlockall,
  // which skips holes, does not mind them.
  bool untouchable = false;
  const auto work = [&](Extent place, AreaKind kind) noexcept {
    const int error = hint(call, place, flags);
    if (error != -kENOMEM || (holes == Holes::kStop && kind.protection != 0)) return error;
    untouchable = true;
    return 0;
  };
  // Of what is locked already some pages may not be there, and what could not be locked may be
  // locked in part, so all are asked for.
  const int error = change_kinds(me, run, holes, hole, wanted, true, work);
  return error == 0 && untouchable && holes == Holes::kStop ? -kENOMEM : error;
}

int EnclaveCore::advise(RangeCall call, std::uintptr_t address, std::size_t size,
                        int argument) noexcept {
  Extent range;
  if (!decode_pages(address, size, &range)) return -kEINVAL;
  Mark me = 0;
  if (const int bad = enter(&me); bad != 0) return bad;
  const bool populates =
      call == EXCLAVE_MADVISE && (argument == kMadvPopulateRead || argument == kMadvPopulateWrite);
  const bool locks = call == EXCLAVE_MLOCK || call == EXCLAVE_MUNLOCK;
  const bool only_async = call == EXCLAVE_MSYNC && argument == kMsAsync;
  const Holes holes = populates || locks || only_async ? Holes::kStop : Holes::kSkip;
  bool hole = false;
  const PageStretch run = clip(range.base, range.size, holes, &hole);
  int error = 0;
  if (locks) {
    error = lock_run(me, run, holes, &hole, call, argument);
  } else if (call == EXCLAVE_MADVISE && is_about_forks(argument)) {
    error = change_kinds(
        me, run, holes, &hole,
        [argument](AreaKind kind) noexcept { return with_advice(kind, argument); }, true,
        [&](Extent place, AreaKind kind) noexcept { return advise_area(place, kind, argument); });
    // As on Linux, for -ENOMEM says that there are holes.
    if (error == -kENOMEM) error = -kEAGAIN;
  } else if (call == EXCLAVE_MADVISE) {
    error = for_each_area(me, run, holes, &hole, [&](Extent place, AreaKind kind) noexcept {
      return advise_area(place, kind, argument);
    });
  } else {
    // Nothing to write back but where a file's own pages stand.
    error = for_each_area(me, run, holes, &hole, [&](Extent place, AreaKind kind) noexcept {
      if ((argument & kMsInvalidate) != 0 && kind.has(AreaKind::kLocked)) return -kEBUSY;
      return kind.has(AreaKind::kBacked) ? hint(EXCLAVE_MSYNC, place, argument) : 0;
    });
  }
  return error == 0 && hole ? -kENOMEM : error;
}

int EnclaveCore::resident(std::uintptr_t address, std::size_t size,
                          unsigned char* vector) noexcept {
  Extent range;
  if (!decode_pages(address, size, &range)) return -kEINVAL;
  Mark me = 0;
  if (const int bad = enter(&me); bad != 0) return bad;
  bool hole = false;
  const PageStretch run = clip(range.base, range.size, Holes::kStop, &hole);
  const int error =
      for_each_area(me, run, Holes::kStop, &hole, [&](Extent place, AreaKind) noexcept {
        unsigned char* const bytes = vector + ((place.base - range.base) >> kPageShift);
        if (pages_.resident != nullptr)
          return pages_.resident(pages_.context, place.base, place.size, bytes);
        for (std::size_t i = 0; i < place.size >> kPageShift; ++i) bytes[i] = 1;
        return 0;
      });
  return error == 0 && hole ? -kENOMEM : error;
}

int EnclaveCore::lock_all(int flags) noexcept {
  Mark me = 0;
  if (const int bad = enter(&me); bad != 0) return bad;
  const int argument = (flags & kMclOnFault) != 0 ? kMlockOnFault : 0;
  const bool future = (flags & kMclFuture) != 0;
  future_traits_.store(future ? lock_traits(argument) : std::uint8_t{0}, std::memory_order_relaxed);
  if (flags != 0 && (flags & kMclCurrent) == 0) return 0;
  const RangeCall call = flags != 0 ? EXCLAVE_MLOCK : EXCLAVE_MUNLOCK;
  bool hole = false;
  return lock_run(me, run_of(options_.range), Holes::kSkip, &hole, call, argument);
}

// ---- For the runtime ----

int EnclaveCore::visit(Extent range, EnclaveManager::Visitor* visitor, void* context) noexcept {
  if (!is_page_range(range)) return -kEINVAL;
  Mark me = 0;
  if (const int bad = enter(&me); bad != 0) return bad;
  bool hole = false;
  const PageStretch run = clip(range.base, range.size, Holes::kSkip, &hole);
  const int answer =
      for_each_area(me, run, Holes::kSkip, &hole, [&](Extent place, AreaKind kind) noexcept {
        return visitor(context, place, kind.protection);
      });
  return answer == 0 && hole ? -kENOMEM : answer;
}

}  // namespace exclave::core
