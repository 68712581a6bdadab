#include "sim/hostile_host.hpp"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "sim/address_space.hpp"

namespace exclave::sim {

namespace {

constexpr std::size_t kMoatBytes = std::size_t{512} << 20;
// So that memory beside the enclave can be aligned as the library asks.
constexpr std::size_t kEnclaveAlignment = std::size_t{64} << 20;
std::size_t index_of(HostCall call) {
  return static_cast<std::size_t>(call);
}

}  // namespace

// ---- Life ----

std::unique_ptr<HostileHost> HostileHost::create(const Options& options) {
  std::unique_ptr<HostileHost> host(new HostileHost(options));
  if (!host->build()) return nullptr;
  return host;
}

// One reservation for the enclave and its two neighbours; the port then takes the middle.
bool HostileHost::build() {
  const std::size_t bytes = options_.book_bytes + options_.enclave_bytes;
  const Extent all = reserve_window(2 * kMoatBytes + bytes + kEnclaveAlignment);
  if (all.empty()) return false;
  const Extent middle{align_up(all.base + kMoatBytes, kEnclaveAlignment), bytes};
  moat_below_ = part_before(all, middle);
  moat_above_ = part_behind(all, middle);
  give_up(middle);
  ProcessPort::Options options;
  options.book_bytes = options_.book_bytes;
  options.enclave_bytes = options_.enclave_bytes;
  options.shared = options_.shared;
  options.base_hint = middle.base;
  const auto made = ProcessPort::create(options);
  if (!made.ok()) return false;
  port_ = made.value();
  forbidden_window_ = reserve_window(options_.lie_window_bytes);
  lie_window_ = reserve_window(options_.lie_window_bytes);
  // Another thread may have been quicker to take the place.
  return port_->enclave() == middle && !forbidden_window_.empty() && !lie_window_.empty();
}

HostileHost::~HostileHost() {
  for (const Range& range : ranges_) {
    if (range.real) give_up(range.extent);
  }
  for (const Extent stray : strays_) give_up(stray);
  give_up(moat_below_);
  give_up(moat_above_);
  give_up(forbidden_window_);
  give_up(lie_window_);
  ProcessPort::destroy(port_);
}

// ---- Settings ----

void HostileHost::script(HostCall call, std::initializer_list<Lie> lies) {
  const std::lock_guard lock(mutex_);
  auto& queue = scripts_[index_of(call)];
  queue.insert(queue.end(), lies);
}

void HostileHost::lie_at_random(unsigned percent, std::vector<Lie> from) {
  const std::lock_guard lock(mutex_);
  percent_ = percent;
  if (from.empty()) {
    for (int i = 1; i <= static_cast<int>(kLastLie); ++i) from.push_back(static_cast<Lie>(i));
  }
  random_lies_ = std::move(from);
}

void HostileHost::never_at_random(HostCall call) {
  const std::lock_guard lock(mutex_);
  never_at_random_[index_of(call)] = true;
}

void HostileHost::unscript(HostCall call) {
  const std::lock_guard lock(mutex_);
  scripts_[index_of(call)].clear();
}

void HostileHost::fail_nth(HostCall call, std::uint64_t n) {
  const std::lock_guard lock(mutex_);
  fail_at_[index_of(call)] = n;
}

void HostileHost::fail_trusted_nth(std::uint64_t n, bool for_good) {
  const std::lock_guard lock(mutex_);
  fail_trusted_at_ = n;
  fail_trusted_for_good_ = for_good;
}

void HostileHost::fail_entropy(bool fail) {
  const std::lock_guard lock(mutex_);
  fail_entropy_ = fail;
}

void HostileHost::during_calls(std::function<void(HostCall)> hook) {
  const std::lock_guard lock(mutex_);
  hook_ = std::move(hook);
}

void HostileHost::hold(HostCall call, unsigned calls) {
  const std::lock_guard lock(mutex_);
  hold_[index_of(call)] = calls;
}

bool HostileHost::wait_until_held(unsigned calls, std::chrono::milliseconds at_most) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, at_most, [&] { return waiting_ >= calls; });
}

void HostileHost::let_go() {
  const std::lock_guard lock(mutex_);
  hold_.fill(0);
  ++let_go_;
  changed_.notify_all();
}

void HostileHost::set_delay(std::chrono::microseconds delay) {
  const std::lock_guard lock(mutex_);
  delay_ = delay;
}

void HostileHost::tolerate_overlaps(bool tolerate) {
  const std::lock_guard lock(mutex_);
  tolerate_overlaps_ = tolerate;
}

void HostileHost::set_overlap_target(Extent known) {
  const std::lock_guard lock(mutex_);
  overlap_target_ = known;
}

void HostileHost::on_memory(std::function<void(Extent, bool)> hook) {
  const std::lock_guard lock(mutex_);
  memory_hook_ = std::move(hook);
}

// ---- Looking ----

std::vector<HostileHost::Event> HostileHost::events() const {
  const std::lock_guard lock(mutex_);
  return events_;
}

std::uint64_t HostileHost::calls(HostCall call) const {
  const std::lock_guard lock(mutex_);
  return calls_[index_of(call)];
}

std::uint64_t HostileHost::calls() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t sum = 0;
  for (const std::uint64_t n : calls_) sum += n;
  return sum;
}

std::uint64_t HostileHost::lies() const {
  const std::lock_guard lock(mutex_);
  return lies_;
}

std::vector<std::string> HostileHost::violations() const {
  const std::lock_guard lock(mutex_);
  return violations_;
}

std::vector<Extent> HostileHost::handed_out() const {
  const std::lock_guard lock(mutex_);
  std::vector<Extent> out;
  for (const Range& range : ranges_) {
    if (range.real) out.push_back(range.extent);
  }
  return out;
}

std::size_t HostileHost::trusted_bytes() const {
  const std::lock_guard lock(mutex_);
  return trusted_bytes_;
}

std::uint64_t HostileHost::trusted_failures() const {
  const std::lock_guard lock(mutex_);
  return trusted_failures_;
}

Extent HostileHost::host_stack() noexcept {
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return {};
  void* base = nullptr;
  std::size_t bytes = 0;
  pthread_attr_getstack(&attributes, &base, &bytes);
  pthread_attr_destroy(&attributes);
  const auto first = align_down(reinterpret_cast<std::uintptr_t>(base), kPageBytes);
  return {first, align_up(reinterpret_cast<std::uintptr_t>(base) + bytes, kPageBytes) - first};
}

// ---- The trusted half: it can only fail ----

void* HostileHost::trusted_reserve(std::size_t bytes) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (fail_trusted_at_ != 0 && --fail_trusted_at_ == 0) {
      if (fail_trusted_for_good_) fail_trusted_at_ = 1;
      ++trusted_failures_;
      return nullptr;
    }
  }
  void* const memory = port_->trusted_reserve(bytes);
  const std::lock_guard lock(mutex_);
  if (memory != nullptr) trusted_bytes_ += bytes;
  if (memory == nullptr) ++trusted_failures_;
  return memory;
}

void HostileHost::trusted_release(void* memory, std::size_t bytes) noexcept {
  port_->trusted_release(memory, bytes);
  const std::lock_guard lock(mutex_);
  trusted_bytes_ -= bytes;
}

bool HostileHost::entropy(void* memory, std::size_t bytes) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (fail_entropy_) return false;
  }
  return port_->entropy(memory, bytes);
}

// ---- The host ----

HostileHost::Plan HostileHost::begin(HostCall call) {
  std::unique_lock lock(mutex_);
  const std::size_t i = index_of(call);
  ++calls_[i];
  Plan plan;
  plan.random = random_();
  if (fail_at_[i] != 0 && --fail_at_[i] == 0) {
    plan.lie = Lie::kRefuse;
  } else if (!scripts_[i].empty()) {
    plan.lie = scripts_[i].front();
    scripts_[i].pop_front();
  } else if (percent_ != 0 && !never_at_random_[i] && random_() % 100 < percent_) {
    std::vector<Lie> fitting;
    std::copy_if(random_lies_.begin(), random_lies_.end(), std::back_inserter(fitting),
                 [call](Lie lie) { return fits(lie, call); });
    if (!fitting.empty()) plan.lie = fitting[random_() % fitting.size()];
  }
  if (!fits(plan.lie, call)) plan.lie = Lie::kNone;
  const auto hook = hook_;
  const auto delay = delay_;
  if (hold_[i] != 0) {
    --hold_[i];
    ++waiting_;
    const std::uint64_t since = let_go_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return let_go_ != since; });
    --waiting_;
  }
  lock.unlock();
  if (hook) hook(call);
  if (plan.lie == Lie::kLate) std::this_thread::sleep_for(delay);
  return plan;
}

void HostileHost::note_event_locked(const Event& event) {
  lies_ += event.lie != Lie::kNone ? 1 : 0;
  if (options_.keep_events) events_.push_back(event);
}

HostReply HostileHost::finish(HostCall call, Lie lie, HostReply reply, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  note_event_locked({call, lie, reply, bytes});
  return reply;
}

void HostileHost::note_handed_out(Extent extent, bool reserved, bool real) {
  const std::lock_guard lock(mutex_);
  ranges_.push_back({extent, reserved, real});
}

// A lie that may be believed: there is no shame in giving it back.
void HostileHost::note_if_believed(Lie lie, const HostReply& reply, std::size_t bytes,
                                   bool reserved) {
  const bool overlap = lie == Lie::kOverlapExact || lie == Lie::kOverlapNested ||
                       lie == Lie::kOverlapPartly || lie == Lie::kSameTwice;
  const std::lock_guard lock(mutex_);
  if (reply.error == 0 && (!can_be_seen(lie) || (overlap && tolerate_overlaps_))) {
    ranges_.push_back({{reply.address, bytes}, reserved, false});
  }
}

void HostileHost::complain(HostCall call, std::uintptr_t address, std::size_t bytes,
                           const char* why) {
  char line[160];
  (void)std::snprintf(line, sizeof line, "%s of [%#zx, +%#zx): %s", name_of(call), address, bytes,
                      why);
  const std::lock_guard lock(mutex_);
  violations_.emplace_back(line);
}

// Answers that no memory stands behind. fixed: the address that was asked for, 0 if none.
HostReply HostileHost::lie_about(const Plan& plan, std::size_t bytes, std::size_t alignment,
                                 std::uintptr_t fixed) {
  const Extent enclave = port_->enclave();
  const std::uint64_t random = plan.random;
  Extent last{};  // the honest range that was handed out last and is still out
  Extent known{};
  {
    const std::lock_guard lock(mutex_);
    for (auto range = ranges_.rbegin(); last.empty() && range != ranges_.rend(); ++range) {
      if (range->real) last = range->extent;
    }
    known = overlap_target_.empty() ? last : overlap_target_;
  }
  // A place of the wanted alignment in a window of ours, with room for the request if there can be.
  const auto place_in = [&](Extent window) {
    const std::uintptr_t first = align_up(window.base, alignment);
    const std::size_t room = window.end() > first + bytes ? window.end() - first - bytes : 0;
    return first + align_down(room == 0 ? 0 : random % room, alignment);
  };
  const std::uintptr_t plausible = place_in(lie_window_);
  switch (plan.lie) {
    case Lie::kNull:
      return {0, 0};
    case Lie::kMapFailed:
      return {UINTPTR_MAX, 0};
    case Lie::kSmallErrno: {
      const std::uintptr_t error = 1 + random % 133;
      return {(random >> 32) % 2 == 0 ? error : 0 - error, 0};
    }
    case Lie::kInside:
      return {place_in(enclave), 0};
    case Lie::kEndsInside: {
      // Aligned, if any aligned place has this property.
      const std::uintptr_t reach = std::min<std::uintptr_t>(bytes, enclave.size);
      const std::uintptr_t last_start = enclave.base - kPageBytes;
      const std::uintptr_t start = align_down(last_start, alignment);
      return {start + bytes > enclave.base ? start : enclave.base + reach / 2 - bytes, 0};
    }
    case Lie::kStartsInside: {
      const std::uintptr_t start = align_down(enclave.end() - kPageBytes, alignment);
      return {start >= enclave.base && start + bytes > enclave.end() ? start
                                                                     : enclave.end() - kPageBytes,
              0};
    }
    case Lie::kEncloses: {
      const std::uintptr_t start = align_down(enclave.base - kPageBytes, alignment);
      return {start + bytes > enclave.base ? start : enclave.base, 0};
    }
    case Lie::kWraps:
      return {align_down(0 - std::max(kPageBytes, bytes / 2), alignment), 0};
    case Lie::kEndsAtTop:
      return {align_down(0 - bytes, alignment), 0};
    case Lie::kNonCanonical:
      return {align_down((std::uintptr_t{1} << 47) + random % (std::uintptr_t{1} << 62), alignment),
              0};
    case Lie::kKernelHalf:
      return {align_down((std::uintptr_t{0xffff8} << 44) + random % (std::uintptr_t{1} << 46),
                         alignment),
              0};
    case Lie::kUnaligned:
      return {plausible + 1 + random % (kPageBytes - 1), 0};
    case Lie::kUnderAligned:
      return {align_up(lie_window_.base, alignment) + (alignment > kPageBytes ? alignment / 2 : 1),
              0};
    case Lie::kOtherAddress:
      return {fixed != 0 ? fixed + kPageBytes : plausible, 0};
    case Lie::kOverlapExact:
      return {known.base, 0};
    case Lie::kOverlapNested: {
      const std::uintptr_t inner = align_down(known.base + known.size / 2, alignment);
      return {inner >= known.base ? inner : known.base, 0};
    }
    case Lie::kOverlapPartly: {
      const std::uintptr_t start = align_down(known.base - 1, alignment);
      return {start + bytes > known.base ? start : known.base - bytes + kPageBytes, 0};
    }
    case Lie::kSameTwice:
      return {last.base, 0};
    case Lie::kHostStack:
      return {align_down(reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)), alignment),
              0};
    case Lie::kForbiddenWindow:
      return {place_in(forbidden_window_), 0};
    case Lie::kBadErrno: {
      constexpr int kErrors[] = {-1, -ENOMEM, INT32_MIN, INT32_MAX, 4096, 134, 512};
      return {random % 2 == 0 ? 0 : plausible, kErrors[(random >> 8) % std::size(kErrors)]};
    }
    case Lie::kErrorWithAddress:
      return {plausible, ENOMEM};
    case Lie::kSuccessWithoutAddress:
      return {0xcccccccccccccccc, 0};
    case Lie::kRandomBits:
      return {random >> (random % 5 * 8), random % 7 == 0 ? static_cast<int>(random) : 0};
    default:
      return {0, ENOMEM};
  }
}

HostReply HostileHost::reserve_beside_enclave(std::size_t bytes, bool below) {
  const Extent enclave = port_->enclave();
  const Extent moat = below ? moat_below_ : moat_above_;
  const Extent place{below ? enclave.base - bytes : enclave.end(), bytes};
  if (bytes > moat.size) return {0, ENOMEM};
  {
    const std::lock_guard lock(mutex_);
    for (const Range& range : ranges_) {
      if (range.extent.overlaps(place)) return {0, ENOMEM};  // taken already
    }
  }
  if (mprotect(as_pointer(place.base), place.size,
               options_.no_access ? PROT_NONE : PROT_READ | PROT_WRITE) != 0) {
    return {0, errno};
  }
  return {place.base, 0};
}

HostReply HostileHost::reserve_honestly(std::size_t bytes, std::size_t alignment, Lie lie) {
  const bool below = lie == Lie::kEndsAtEnclave;
  if (below || lie == Lie::kStartsAtEnclaveEnd) return reserve_beside_enclave(bytes, below);
  const HostReply reply = port_->host_reserve(bytes, alignment);
  if (reply.error != 0) return reply;
  if (lie == Lie::kShort) {
    const std::size_t there = align_down(bytes / 2, kPageBytes);
    bury({reply.address + there, bytes - there});
  }
  if (lie == Lie::kAlias) {
    // Every page of the answer is one and the same.
    const int page = memfd_create("exclave-alias", MFD_CLOEXEC);
    if (page >= 0 && ftruncate(page, static_cast<off_t>(kPageBytes)) == 0) {
      for (std::size_t at = 0; at < bytes && at < (std::size_t{1} << 20); at += kPageBytes) {
        (void)mmap(as_pointer(reply.address + at), kPageBytes, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_FIXED, page, 0);
      }
    }
    if (page >= 0) close(page);
  }
  if (options_.no_access) mprotect(as_pointer(reply.address), bytes, PROT_NONE);
  return reply;
}

HostReply HostileHost::host_reserve(std::size_t bytes, std::size_t alignment) noexcept {
  const Plan plan = begin(HostCall::kReserve);
  const bool truth = plan.lie == Lie::kNone || plan.lie == Lie::kLate || plan.lie == Lie::kShort ||
                     plan.lie == Lie::kAlias || plan.lie == Lie::kEndsAtEnclave ||
                     plan.lie == Lie::kStartsAtEnclaveEnd;
  HostReply reply;
  if (truth) {
    reply = reserve_honestly(bytes, alignment, plan.lie);
    if (reply.error == 0) {
      note_handed_out({reply.address, bytes}, true, true);
      std::function<void(Extent, bool)> hook;
      {
        const std::lock_guard lock(mutex_);
        hook = memory_hook_;
      }
      if (hook) hook({reply.address, bytes}, true);
    }
  } else {
    reply = lie_about(plan, bytes, alignment, 0);
    note_if_believed(plan.lie, reply, bytes, true);
  }
  return finish(HostCall::kReserve, plan.lie, reply, bytes);
}

int HostileHost::host_release(std::uintptr_t address, std::size_t bytes) noexcept {
  const Plan plan = begin(HostCall::kRelease);
  const Extent extent{address, bytes};
  std::function<void(Extent, bool)> hook;
  Range found{};
  {
    const std::lock_guard lock(mutex_);
    const auto matches = [&](bool real) {
      return std::find_if(ranges_.begin(), ranges_.end(), [&](const Range& r) {
        return r.reserved && r.real == real && r.extent == extent;
      });
    };
    auto range = matches(true);
    if (range == ranges_.end()) range = matches(false);
    if (range != ranges_.end()) {
      found = *range;
      // After kFalseFailure it may be released again: the library was told that it still has it.
      if (plan.lie == Lie::kFalseFailure) {
        range->real = false;
      } else if (plan.lie != Lie::kRefuse && plan.lie != Lie::kBadErrno) {
        ranges_.erase(range);
      }
      hook = memory_hook_;
    }
  }
  if (found.extent.empty()) {
    complain(HostCall::kRelease, address, bytes, "not a range that was handed out");
    return finish(HostCall::kRelease, plan.lie, {0, EINVAL}, bytes).error;
  }
  int error = 0;
  const bool takes_back =
      plan.lie == Lie::kNone || plan.lie == Lie::kLate || plan.lie == Lie::kFalseFailure;
  if (takes_back && found.real) {
    if (hook) hook(extent, false);
    const bool in_moat = moat_below_.covers(extent) || moat_above_.covers(extent);
    // Kept as address space while the library may believe in it, so that nothing else comes to
    // stand there.
    const bool keep = plan.lie == Lie::kFalseFailure;
    if (!in_moat && !keep) error = port_->host_release(address, bytes);
    if (in_moat || keep) bury(extent);
    if (keep && !in_moat) {
      const std::lock_guard lock(mutex_);
      strays_.push_back(extent);
    }
  }
  if (plan.lie == Lie::kFalseSuccess && found.real) {
    const std::lock_guard lock(mutex_);
    strays_.push_back(extent);
  }
  if (plan.lie == Lie::kRefuse) error = ENOMEM;
  if (plan.lie == Lie::kFalseFailure) error = EINVAL;
  if (plan.lie == Lie::kBadErrno) error = plan.random % 2 == 0 ? -1 : 4096;
  return finish(HostCall::kRelease, plan.lie, {address, error}, bytes).error;
}

}  // namespace exclave::sim
