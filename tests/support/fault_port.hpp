// An honest host that fails on demand: one kind of call, or any, at its n-th use, once or from then
// on.
//
// Behind it stands a HostileHost that tells no lies: real memory, and violations() where the
// library asks for what it was never given. What the library may rightly have left outside is what
// the host refused to take back: refused().
#pragma once

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "sim/hostile_host.hpp"

namespace exclave::testing_support {

enum class FaultPoint : std::uint8_t {
  kTrustedReserve,
  kEntropy,
  kHostReserve,
  kHostRelease,
  kHostMap,
  kHostUnmap,
  kHostProtect,
  kHostRemap,
  kHostAdvise,
  kHostResident,
  kAny,  // all of them, counted together
};
inline constexpr std::array kFaultPoints = {
    FaultPoint::kTrustedReserve, FaultPoint::kEntropy,   FaultPoint::kHostReserve,
    FaultPoint::kHostRelease,    FaultPoint::kHostMap,   FaultPoint::kHostUnmap,
    FaultPoint::kHostProtect,    FaultPoint::kHostRemap, FaultPoint::kHostAdvise,
    FaultPoint::kHostResident,   FaultPoint::kAny,
};

inline const char* name_of(FaultPoint point) {
  static constexpr const char* kNames[] = {
      "trusted_reserve", "entropy",    "host_reserve", "host_release",  "host_map",   "host_unmap",
      "host_protect",    "host_remap", "host_advise",  "host_resident", "any of them"};
  return kNames[static_cast<std::size_t>(point)];
}

struct Fault {
  FaultPoint point = FaultPoint::kAny;
  std::uint64_t nth = 1;  // 1: the next use
  bool for_good = false;  // that use and all after it
};

class FaultPort {
 public:
  FaultPort() : host_(sim::HostileHost::create()) {
    if (host_ == nullptr) std::abort();
  }

  PortTable table() noexcept { return bind_port(*this); }

  // ---- The port ----
  Extent enclave() noexcept { return host_->enclave(); }
  Extent book_window() noexcept { return host_->book_window(); }
  void* trusted_reserve(std::size_t bytes) noexcept {
    return fails(FaultPoint::kTrustedReserve) ? nullptr : host_->trusted_reserve(bytes);
  }
  void trusted_release(void* memory, std::size_t bytes) noexcept {
    host_->trusted_release(memory, bytes);
  }
  bool entropy(void* memory, std::size_t bytes) noexcept {
    return !fails(FaultPoint::kEntropy) && host_->entropy(memory, bytes);
  }
  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept {
    if (fails(FaultPoint::kHostReserve)) return {0, ENOMEM};
    return host_->host_reserve(bytes, alignment);
  }
  int host_release(std::uintptr_t address, std::size_t bytes) noexcept {
    if (fails(FaultPoint::kHostRelease)) return refuse({address, bytes}, true);
    return host_->host_release(address, bytes);
  }
  HostReply host_map(const MapRequest& request) noexcept {
    if (fails(FaultPoint::kHostMap)) return {0, ENOMEM};
    return host_->host_map(request);
  }
  int host_unmap(std::uintptr_t address, std::size_t bytes) noexcept {
    if (fails(FaultPoint::kHostUnmap)) return refuse({address, bytes}, false);
    return host_->host_unmap(address, bytes);
  }
  int host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept {
    if (fails(FaultPoint::kHostProtect)) return ENOMEM;
    return host_->host_protect(address, bytes, protection);
  }

  HostReply host_remap(std::uintptr_t old_address, std::size_t old_size, std::size_t new_size,
                       int flags, std::uintptr_t new_address) noexcept {
    if (fails(FaultPoint::kHostRemap)) return {0, ENOMEM};
    return host_->host_remap(old_address, old_size, new_size, flags, new_address);
  }
  int host_advise(RangeCall call, std::uintptr_t address, std::size_t bytes,
                  int argument) noexcept {
    if (fails(FaultPoint::kHostAdvise)) return ENOMEM;
    return host_->host_advise(call, address, bytes, argument);
  }
  int host_resident(std::uintptr_t address, std::size_t bytes, unsigned char* vector) noexcept {
    if (fails(FaultPoint::kHostResident)) return ENOMEM;
    return host_->host_resident(address, bytes, vector);
  }

  // ---- What it is to do ----

  // Once. Uses count from now.
  void arm(const Fault& fault) {
    const std::lock_guard lock(mutex_);
    fault_ = fault;
    armed_ = set_ = true;
  }
  // Uses neither fail nor count until resume.
  void heal() {
    const std::lock_guard lock(mutex_);
    armed_ = false;
  }
  void resume() {
    const std::lock_guard lock(mutex_);
    armed_ = set_;
  }

  // ---- What happened ----

  // How many uses failed.
  std::uint64_t fired() const {
    const std::lock_guard lock(mutex_);
    return fired_;
  }
  // What host_release and host_unmap were asked to take back and did not.
  std::vector<Extent> refused() const {
    const std::lock_guard lock(mutex_);
    return refused_;
  }
  // The part of it that host_reserve gave.
  std::size_t refused_release_bytes() const {
    const std::lock_guard lock(mutex_);
    return refused_release_bytes_;
  }
  sim::HostileHost& host() noexcept { return *host_; }

 private:
  bool fails(FaultPoint point) {
    const std::lock_guard lock(mutex_);
    if (!armed_ || (fault_.point != FaultPoint::kAny && fault_.point != point)) return false;
    ++seen_;
    const bool hit = fault_.for_good ? seen_ >= fault_.nth : seen_ == fault_.nth;
    fired_ += hit;
    return hit;
  }
  int refuse(Extent extent, bool reserved) {
    const std::lock_guard lock(mutex_);
    refused_.push_back(extent);
    if (reserved) refused_release_bytes_ += extent.size;
    return ENOMEM;
  }

  const std::unique_ptr<sim::HostileHost> host_;
  mutable std::mutex mutex_;
  // All below is guarded by mutex_.
  Fault fault_;
  bool set_ = false;
  bool armed_ = false;
  std::uint64_t seen_ = 0;
  std::uint64_t fired_ = 0;
  std::vector<Extent> refused_;
  std::size_t refused_release_bytes_ = 0;
};

static_assert(Port<FaultPort>);

}  // namespace exclave::testing_support
