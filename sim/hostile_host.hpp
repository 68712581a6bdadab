// A host that lies, refuses, stalls, calls back and stumbles, on demand: a Port around the process
// port.
//
// Its honest half remembers what it handed out. To be asked to release, unmap, protect, move or
// advise anything else is a violation: the library believed a lie, or made an address up. Such a
// call is written down, refused, and never carried out, so a test goes on and asserts that
// violations() is empty. All methods are thread-safe.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "exclave/process_port.hpp"

namespace exclave::sim {

enum class HostCall : std::uint8_t {
  kReserve,
  kRelease,
  kMap,
  kUnmap,
  kProtect,
  kRemap,
  kAdvise,
  kResident
};
inline constexpr std::size_t kHostCalls = 8;
const char* name_of(HostCall call) noexcept;

// The number is the one in the list of threats (docs/threat-model.md).
enum class Lie : std::uint8_t {
  kNone,  // the truth

  // Answers of host_reserve, host_map and host_remap.
  kNull,                   // 1
  kMapFailed,              // 1: MAP_FAILED, with error 0
  kSmallErrno,             // 1: -errno or errno as an address
  kInside,                 // 2
  kEndsInside,             // 3: start outside, end inside
  kStartsInside,           // 4: start inside, end outside
  kEncloses,               // 5: needs a request larger than the enclave
  kEndsAtEnclave,          // 6: honest, and exactly below the enclave
  kStartsAtEnclaveEnd,     // 6: honest, and exactly above it
  kWraps,                  // 7
  kEndsAtTop,              // 8: at 2^64
  kNonCanonical,           // 9
  kKernelHalf,             // 9
  kUnaligned,              // 10
  kUnderAligned,           // 11: to a page, but to less than was asked
  kShort,                  // 12: half of the range is not there. Cannot be seen
  kOtherAddress,           // 13: not the fixed address that was asked for
  kOverlapExact,           // 14
  kOverlapNested,          // 14
  kOverlapPartly,          // 14
  kSameTwice,              // 15: the last answer once more
  kAlias,                  // 16: pages that stand at another address, too. Cannot be seen
  kHostStack,              // 17: seen only if the window is known to be forbidden
  kForbiddenWindow,        // 18: see HostileHost::forbidden_window
  kBadErrno,               // 19: an errno that Linux does not have
  kErrorWithAddress,       // 19: an errno and a plausible address
  kSuccessWithoutAddress,  // 19: success, and the answer was never written
  kLate,                   // 19: the truth, after a while
  kRandomBits,             // 20: what a reply may be that changes while it is read

  // Answers of any call.
  kRefuse,  // an honest errno; nothing is done

  // Answers of all calls but host_reserve and host_map.
  kFalseSuccess,  // says it is done, and does nothing
  kFalseFailure,  // does it, and says that it failed

  // Answers of host_resident.
  kGarbage,  // any bytes
};
inline constexpr Lie kLastLie = Lie::kGarbage;
const char* name_of(Lie lie) noexcept;
// Does the lie make sense as an answer to the call?
bool fits(Lie lie, HostCall call) noexcept;
// Can the library see the lie, from the answer and from its books? Then it must refuse; otherwise
// it must survive.
bool can_be_seen(Lie lie) noexcept;

class HostileHost {
 public:
  struct Options {
    std::size_t book_bytes = std::size_t{64} << 20;
    std::size_t enclave_bytes = std::size_t{64} << 20;
    bool shared = false;     // untrusted memory that a Neighbour can map
    bool no_access = false;  // what host_reserve gives is PROT_NONE: to touch it is to die
    std::uint64_t seed = 1;
    // The windows that lies point to. To validate the books takes time for each page of one that is
    // attached, so who does that after every step wants less.
    std::size_t lie_window_bytes = std::size_t{2} << 30;
    bool keep_events = true;  // false for long runs: events() stays empty
  };
  // Null when the address space does not allow it.
  static std::unique_ptr<HostileHost> create(const Options& options);
  static std::unique_ptr<HostileHost> create() { return create(Options{}); }
  // Every allocator on this port must be gone. Unmaps whatever is still handed out.
  ~HostileHost();
  HostileHost(const HostileHost&) = delete;
  HostileHost& operator=(const HostileHost&) = delete;

  PortTable table() noexcept { return bind_port(*this); }

  // ---- The port ----
  Extent enclave() noexcept { return port_->enclave(); }
  Extent book_window() noexcept { return port_->book_window(); }
  Extent enclave_heap() noexcept { return port_->enclave_heap(); }
  void* trusted_reserve(std::size_t bytes) noexcept;
  void trusted_release(void* memory, std::size_t bytes) noexcept;
  bool entropy(void* memory, std::size_t bytes) noexcept;
  bool has_avx() noexcept { return port_->has_avx(); }
  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept;
  int host_release(std::uintptr_t address, std::size_t bytes) noexcept;
  HostReply host_map(const MapRequest& request) noexcept;
  int host_unmap(std::uintptr_t address, std::size_t bytes) noexcept;
  int host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept;
  HostReply host_remap(std::uintptr_t old_address, std::size_t old_size, std::size_t new_size,
                       int flags, std::uintptr_t new_address) noexcept;
  int host_advise(RangeCall call, std::uintptr_t address, std::size_t bytes, int argument) noexcept;
  int host_resident(std::uintptr_t address, std::size_t bytes, unsigned char* vector) noexcept;

  // ---- What it is to do ----

  // The next calls of this kind are answered so, one for each lie; then it is honest, or random.
  void script(HostCall call, std::initializer_list<Lie> lies);
  // From now on this share of all calls is answered with a lie that fits, drawn from the list (all
  // if empty).
  void lie_at_random(unsigned percent, std::vector<Lie> from = {});
  // Random lies are not for this kind of call; scripted ones are.
  void never_at_random(HostCall call);
  // Forgets what is still scripted for this kind of call.
  void unscript(HostCall call);
  // The n-th call of this kind from now (1: the next) fails with ENOMEM. 0: none.
  void fail_nth(HostCall call, std::uint64_t n);
  // The same for trusted_reserve, which then answers null, once or for good.
  void fail_trusted_nth(std::uint64_t n, bool for_good = false);
  void fail_entropy(bool fail);
  // Runs in each host call, before it is answered, on the calling thread with no lock held. It may
  // call the library.
  void during_calls(std::function<void(HostCall)> hook);
  // The next calls of this kind wait until let_go; the others go on.
  void hold(HostCall call, unsigned calls = 1);
  bool wait_until_held(unsigned calls,
                       std::chrono::milliseconds at_most = std::chrono::seconds(10));
  void let_go();
  void set_delay(std::chrono::microseconds delay);  // of Lie::kLate
  // What was handed out and what the library believes may differ, rightly: after a refused release,
  // or while another thread's release is on its way. Then an overlap may be believed, and giving
  // such a range back is no violation.
  void tolerate_overlaps(bool tolerate);
  // A known range for the lies of overlap; without one they take the last range that was handed
  // out.
  void set_overlap_target(Extent known);
  // The library was told of a mapping that host_map did not give, as of shmat's; and that it is
  // gone again. No page stands there, as behind any lie.
  void note_adopted(Extent mapping);
  void note_given_up(Extent mapping);
  // Told of honest memory that host_reserve hands out (added) or takes back, with no lock held: for
  // a Neighbour.
  void on_memory(std::function<void(Extent, bool added)> hook);

  // ---- What happened ----

  struct Event {
    HostCall call;
    Lie lie;  // kRefuse for fail_nth, too
    HostReply reply;
    std::size_t bytes;
  };
  std::vector<Event> events() const;
  std::uint64_t calls(HostCall call) const;
  std::uint64_t calls() const;
  std::uint64_t lies() const;  // answers that were not the plain truth
  // One line for each call that an honest caller would not have made.
  std::vector<std::string> violations() const;
  // Honest memory that is out: reserved, or mapped, and not taken back.
  std::vector<Extent> handed_out() const;
  // Trusted memory that is out.
  std::size_t trusted_bytes() const;
  // How often trusted_reserve answered null.
  std::uint64_t trusted_failures() const;

  // The range of kForbiddenWindow. Attach it as Role::kForbidden.
  Extent forbidden_window() const noexcept { return forbidden_window_; }
  // The stack of the calling thread, which kHostStack answers overlap. Attach it as
  // Role::kForbidden to have them seen.
  static Extent host_stack() noexcept;
  ProcessPort& honest() noexcept { return *port_; }

 private:
  struct Range {
    Extent extent;
    bool reserved;  // by host_reserve; else by host_map
    bool real;      // false: nothing of ours is mapped there
  };
  struct Plan {
    Lie lie = Lie::kNone;
    std::uint64_t random = 0;
  };

  explicit HostileHost(const Options& options) : options_(options), random_(options.seed) {}
  bool build();

  Plan begin(HostCall call);
  void note_event_locked(const Event& event);
  HostReply finish(HostCall call, Lie lie, HostReply reply, std::size_t bytes);
  HostReply lie_about(const Plan& plan, std::size_t bytes, std::size_t alignment,
                      std::uintptr_t fixed);
  HostReply reserve_honestly(std::size_t bytes, std::size_t alignment, Lie lie);
  HostReply reserve_beside_enclave(std::size_t bytes, bool below);
  void note_handed_out(Extent extent, bool reserved, bool real);
  void note_if_believed(Lie lie, const HostReply& reply, std::size_t bytes, bool reserved);
  void complain(HostCall call, std::uintptr_t address, std::size_t bytes, const char* why);

  // ---- hostile_mappings.cpp ----
  bool covered_by_mappings_locked(Extent extent, bool all_real = false) const;
  bool knows_locked(Extent extent) const;
  std::vector<Extent> real_parts_locked(Extent extent) const;
  void unmap_locked(Extent extent, bool really, bool forget);
  void abandon_locked(Extent extent);
  // The errno of a lie, or 0.
  static int error_of(const Plan& plan, int false_failure);
  // A call that leaves pages where they are. wrong: what no correct caller would ask for, or null.
  // work: on each piece of what is really there; 0 or an errno.
  int on_pages(HostCall call, Extent extent, const char* wrong, int false_failure,
               const std::function<int(const Plan&, Extent)>& work);
  const char* fault_of_remap_locked(Extent from, Extent to, int flags) const;
  HostReply pretend_remap_locked(Extent from, Extent to, int flags);
  // tells: says that it is done. Else what it says is not true.
  HostReply remap_locked(Extent from, Extent to, int flags, bool tells);

  const Options options_;
  ProcessPort* port_ = nullptr;
  Extent moat_below_{};  // reserved beside the enclave, for kEndsAtEnclave and kStartsAtEnclaveEnd
  Extent moat_above_{};
  Extent forbidden_window_{};
  Extent lie_window_{};  // reserved, never handed out: where plausible lies point to

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // All below is guarded by mutex_.
  std::mt19937_64 random_;
  std::array<std::deque<Lie>, kHostCalls> scripts_;
  std::array<std::uint64_t, kHostCalls> fail_at_{};  // counts down
  std::array<std::uint64_t, kHostCalls> calls_{};
  std::array<unsigned, kHostCalls> hold_{};  // how many are still to be held
  std::uint64_t let_go_ = 0;
  unsigned waiting_ = 0;
  unsigned percent_ = 0;
  std::vector<Lie> random_lies_;
  std::array<bool, kHostCalls> never_at_random_{};
  std::function<void(HostCall)> hook_;
  std::function<void(Extent, bool)> memory_hook_;
  std::chrono::microseconds delay_{2000};
  Extent overlap_target_{};
  bool tolerate_overlaps_ = false;
  std::vector<Range> ranges_;
  std::vector<Extent> strays_;  // mapped by us, believed gone by the library
  std::vector<Event> events_;
  std::uint64_t lies_ = 0;
  std::vector<std::string> violations_;
  std::uint64_t fail_trusted_at_ = 0;
  bool fail_trusted_for_good_ = false;
  std::uint64_t trusted_failures_ = 0;
  bool fail_entropy_ = false;
  std::size_t trusted_bytes_ = 0;
};

static_assert(Port<HostileHost>);

}  // namespace exclave::sim
