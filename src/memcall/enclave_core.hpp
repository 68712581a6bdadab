// What stands behind EnclaveManager: the areas under their lock, and the calls that change them.
//
// Each call claims what it needs in one locked section, works on the pages under no lock, and
// settles the books in another section; nothing that settles can fail. While it works, an area that
// is `held` stands in the books at each place where pages come or go, so nobody else takes it, and
// an area whose pages change is marked; who needs one of them waits, holding nothing himself.
// enclave_core.cpp has map, unmap and protect, enclave_remap.cpp mremap and brk, enclave_advice.cpp
// the calls that walk over areas, enclave_fork.cpp what a fork does.
#pragma once

#include <atomic>

#include "base/backoff.hpp"
#include "base/extents.hpp"
#include "base/spin_lock.hpp"
#include "exclave/enclave_manager.hpp"
#include "memcall/area_tree.hpp"
#include "memcall/linux_abi.hpp"
#include "port/thread_slot.hpp"

namespace exclave::core {

class EnclaveCore {
 public:
  using Options = EnclaveManager::Options;

  static Result<EnclaveCore*> create(const PortTable& port, const EnclavePagesTable& pages,
                                     const Options& options) noexcept;
  static void destroy(EnclaveCore* core) noexcept;

  // ---- The calls; see EnclaveManager ----
  std::intptr_t map(std::uintptr_t address, std::size_t size, int protection, int flags,
                    int descriptor, std::uint64_t offset) noexcept;
  int unmap(std::uintptr_t address, std::size_t size) noexcept;
  int protect(std::uintptr_t address, std::size_t size, int protection) noexcept;
  std::intptr_t remap(std::uintptr_t old_address, std::size_t old_size, std::size_t new_size,
                      int flags, std::uintptr_t new_address) noexcept;
  std::uintptr_t set_break(std::uintptr_t address) noexcept;
  int start_break(std::uintptr_t address) noexcept;
  int advise(RangeCall call, std::uintptr_t address, std::size_t size, int argument) noexcept;
  int resident(std::uintptr_t address, std::size_t size, unsigned char* vector) noexcept;
  int lock_all(int flags) noexcept;
  int visit(Extent range, EnclaveManager::Visitor* visitor, void* context) noexcept;

  EnclaveManager::Statistics statistics() noexcept;
  bool validate() noexcept;
  Status before_fork() noexcept EXCLAVE_NO_THREAD_SAFETY_ANALYSIS;
  void after_fork_in_parent() noexcept;
  void after_fork_in_child() noexcept;

  bool lies_outside(int protection, int flags, int descriptor,
                    std::uint64_t offset) const noexcept {
    return options_.lies_outside != nullptr &&
           options_.lies_outside(options_.policy_context, protection, flags, descriptor, offset) !=
               0;
  }

 private:
  using Mark = std::uint16_t;  // this thread's slot + 1

  EnclaveCore(const PortTable& port, const EnclavePagesTable& pages,
              const Options& options) noexcept
      : port_(port), pages_(pages), options_(options), areas_(books_) {}
  Status open() noexcept;

  // ---- Threads ----
  // 0 and this thread's mark; or -EAGAIN, -EBUSY in a handler that came while the lock is held.
  int enter(Mark* me) const noexcept;
  // The lock, and a note of it for signal handlers of this thread.
  class EXCLAVE_SCOPED_CAPABILITY Section {
   public:
    Section(EnclaveCore& core, Mark me) noexcept EXCLAVE_ACQUIRE(core.lock_);
    ~Section() EXCLAVE_RELEASE();
    Section(const Section&) = delete;
    Section& operator=(const Section&) = delete;

   private:
    EnclaveCore& core_;
    std::atomic<std::uint8_t>& inside_;
  };
  // This thread works on pages, under no lock.
  class Work {
   public:
    Work(EnclaveCore& core, Mark me) noexcept;
    ~Work();
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;

   private:
    std::atomic<std::uint8_t>& inside_;
    const std::uint8_t before_;
  };
  void let_forks_go_first() const noexcept;
  Area* next_for_child(Mark me, PageNumber* at) noexcept;
  void bring_to_child(Mark me, Area& area) noexcept;
  // Before one more look, with no lock held. Most calls are over soon.
  void wait_for_others(Backoff* backoff) const noexcept {
    if (pages_.wait != nullptr && backoff->is_long()) {
      pages_.wait(pages_.context);
    } else {
      backoff->wait();
    }
  }

  // ---- Pages and places ----
  Extent extent_of(PageStretch run) const noexcept {
    return {options_.range.base + std::uintptr_t{run.first} * kPageBytes,
            std::size_t{run.count} * kPageBytes};
  }
  // Precondition: whole pages within the range.
  PageStretch run_of(Extent extent) const noexcept {
    return {static_cast<PageNumber>((extent.base - options_.range.base) >> kPageShift),
            static_cast<PageNumber>(extent.size >> kPageShift)};
  }
  // As many areas as there may be: what makes more is -ENOMEM.
  bool is_full_locked() const noexcept EXCLAVE_REQUIRES(lock_) {
    return options_.max_areas != 0 && areas_.count() >= options_.max_areas;
  }
  // The highest free place, or kNoPage.
  PageNumber find_place(PageNumber pages, PageNumber limit) const noexcept EXCLAVE_REQUIRES(lock_);
  PageNumber limit_of(int flags) const noexcept;

  // Fresh pages, locked if the kind is, and with what it says of forks.
  int commit(Extent place, AreaKind kind) noexcept;
  void lock_if_asked(Extent place, AreaKind kind) noexcept;
  // 0, or what the policy says to so many more bytes of the kind.
  int may_lock(Mark me, AreaKind kind, std::size_t more_bytes) noexcept;
  void populate(Extent place, AreaKind kind) noexcept;
  int stretch(Extent from, Extent to) noexcept;
  int drop(Extent place) noexcept;
  // Of a page operation that may say by an answer above 0 that more went than it brought.
  static constexpr int errno_of(int answer) noexcept { return answer > 0 ? -answer : answer; }
  int move(Extent from, std::uintptr_t to, int protection, bool keep) noexcept;

  // ---- map and unmap ----
  struct Wanted {
    PageStretch run{};  // first: kNoPage for anywhere
    bool fixed = false;
    bool replace = false;
    bool from_file = false;  // its bytes, or its own pages: by the descriptor
    PageNumber limit = 0;
    int flags = 0;
    int descriptor = -1;
    std::uint64_t offset = 0;
    AreaKind kind{};
  };
  // A place that is being filled.
  struct Claim {
    Area* held = nullptr;
    Area* replaced = nullptr;  // what stood there
    Area* stage = nullptr;     // where a file is copied to, when something stood there
    AreaKind made{};           // of the copy, as far as it went
    bool lost = false;         // the copy failed, and its pages would not go
    bool gone = false;         // what stood there went, and nothing came in its place
  };
  int decode(std::uintptr_t address, std::size_t size, int protection, int flags,
             std::uint64_t offset, Wanted* wanted) const noexcept;
  int claim(Mark me, const Wanted& wanted, Claim* claimed) noexcept;
  int bring_pages(const Wanted& wanted, Claim* claimed) noexcept;
  int make_copy(Extent place, const Wanted& wanted, AreaKind* made) noexcept;
  int make_backed(Extent place, const Wanted& wanted) noexcept;
  int unmap_run(Mark me, PageStretch run) noexcept;

  // ---- Walks ----
  enum class Holes : bool { kStop, kSkip };
  // The part of a range that may hold areas. *hole: there is more of it than that.
  PageStretch clip(std::uintptr_t address, std::size_t size, Holes holes,
                   bool* hole) const noexcept;
  // Each area, or part of one, in the run: work(extent, kind) on its pages, up to the first error:
  // what work answered, or -EBUSY. *hole: there is one; where holes are skipped it went on behind.
  template <class F>
  int for_each_area(Mark me, PageStretch run, Holes holes, bool* hole, F work) noexcept;
  // The same for what changes kinds: wanted(kind) says which; where it is the same nothing is done,
  // unless all are to be worked on. Also -ENOMEM: books.
  template <class Change, class F>
  int change_kinds(Mark me, PageStretch run, Holes holes, bool* hole, Change wanted, bool all,
                   F work) noexcept;
  int advise_area(Extent place, AreaKind kind, int advice) noexcept;
  int hint(RangeCall call, Extent place, int argument) noexcept;
  int zero(Extent place, AreaKind kind) noexcept;
  int lock_run(Mark me, PageStretch run, Holes holes, bool* hole, RangeCall call,
               int flags) noexcept;

  // ---- remap ----
  struct Move {
    PageStretch from{};
    PageStretch to{};  // first: kNoPage for anywhere
    bool fixed = false;
    bool may_move = false;
    bool keep = false;         // zero pages stay at the old place
    Area* source = nullptr;    // the old range, or the area that it ends; marked
    Area* held = nullptr;      // at the new place, or where the area grows
    Area* replaced = nullptr;  // what stood at the new place
    AreaKind kind{};
    bool in_place = false;
  };
  std::intptr_t remap_pages(Mark me, Move* move) noexcept;
  int claim_move(Mark me, Move* move) noexcept;
  int look_at_move_locked(Mark me, const Move& move, bool* again) noexcept EXCLAVE_REQUIRES(lock_);
  // Does it grow by one page operation, with its old pages?
  bool is_stretched(AreaKind kind) const noexcept {
    return kind.has(AreaKind::kBacked) ||
           (kind.has(AreaKind::kShared) && pages_.stretch != nullptr);
  }
  std::intptr_t grow(Mark me, const Move& move) noexcept;
  std::intptr_t carry_over(Mark me, const Move& move) noexcept;
  bool is_mapped(Mark me, PageNumber page) noexcept;
  void note_peak_locked() noexcept EXCLAVE_REQUIRES(lock_);

  PortTable port_;
  EnclavePagesTable pages_;
  const Options options_;
  PageNumber top_ = 0;  // places are searched from here first
  BookStore books_;
  SpinLock lock_{LockRank::kAreas};
  AreaTree areas_ EXCLAVE_GUARDED_BY(lock_);
  unsigned under_way_ EXCLAVE_GUARDED_BY(lock_) = 0;  // calls that work on pages
  // Forks that wait until none is. A hint, which publishes nothing.
  std::atomic<unsigned> forks_waiting_{0};
  std::uint64_t peak_pages_ EXCLAVE_GUARDED_BY(lock_) = 0;
  std::uintptr_t first_break_ EXCLAVE_GUARDED_BY(lock_) = 0;
  // A handler may ask for the present break while the lock is held.
  std::atomic<std::uintptr_t> break_{0};
  Mark break_in_call_ EXCLAVE_GUARDED_BY(lock_) = 0;
  std::atomic<std::uint8_t> future_traits_{0};  // mlockall: of all that is mapped from now on
  // By thread slot; touched only by its thread and that thread's handlers, so relaxed.
  static constexpr std::uint8_t kLocked = 1, kWorking = 2;
  std::atomic<std::uint8_t> inside_[kMaxThreadSlots] = {};
};

template <class F>
int EnclaveCore::for_each_area(Mark me, PageStretch run, Holes holes, bool* hole, F work) noexcept {
  Backoff backoff;
  for (PageNumber at = run.first; at < run.end();) {
    Area* area = nullptr;
    PageStretch part;
    {
      const Section section(*this, me);
      area = areas_.first_in({at, run.end() - at});
      if (area == nullptr || area->run.first > at) {
        *hole = true;
        if (area == nullptr || holes == Holes::kStop) return 0;
        at = area->run.first;
      }
      if (area->in_call == me) return -linux_abi::kEBUSY;
      if (area->in_call == 0) {
        part = {at, (area->run.end() < run.end() ? area->run.end() : run.end()) - at};
        area->in_call = me;
        ++under_way_;
      }
    }
    if (part.count == 0) {
      wait_for_others(&backoff);
      continue;
    }
    int error = 0;
    {
      const Work pages(*this, me);
      error = work(extent_of(part), area->kind);
    }
    const Section section(*this, me);
    --under_way_;
    (void)areas_.settle(*area, area->kind);
    if (error != 0) return error;
    at = part.end();
  }
  return 0;
}

template <class Change, class F>
int EnclaveCore::change_kinds(Mark me, PageStretch run, Holes holes, bool* hole, Change wanted,
                              bool all, F work) noexcept {
  Backoff backoff;
  for (PageNumber at = run.first; at < run.end();) {
    Area* piece = nullptr;
    PageStretch part;
    bool is_elsewhere = false;
    {
      const Section section(*this, me);
      Area* const area = areas_.first_in({at, run.end() - at});
      if (area == nullptr || area->run.first > at) {
        *hole = true;
        // GCOVR_EXCL_BR_START: counted in one of the instances
        if (area == nullptr || holes == Holes::kStop) return 0;
        // GCOVR_EXCL_BR_STOP
        at = area->run.first;
      }
      if (area->in_call == me) return -linux_abi::kEBUSY;
      is_elsewhere = area->in_call != 0;
      if (!is_elsewhere) {
        part = {at, (area->run.end() < run.end() ? area->run.end() : run.end()) - at};
        if (wanted(area->kind) != area->kind) {
          const bool splits = part != area->run;
          if ((splits && is_full_locked()) || !areas_.prepare(2)) return -linux_abi::kENOMEM;
          piece = &areas_.cut_out(*area, part);
        } else if (all) {  // GCOVR_EXCL_BR_LINE: counted in one of the instances
          piece = area;
        }
        if (piece != nullptr) {
          piece->in_call = me;
          ++under_way_;
        }
        at = part.end();
      }
    }
    if (is_elsewhere) wait_for_others(&backoff);
    if (piece == nullptr) continue;
    int error = 0;
    {
      const Work pages(*this, me);
      error = work(extent_of(part), piece->kind);
    }
    const Section section(*this, me);
    --under_way_;
    (void)areas_.settle(*piece, error == 0 ? wanted(piece->kind) : piece->kind);
    if (error != 0) return error;
  }
  return 0;
}

}  // namespace exclave::core
