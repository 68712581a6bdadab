// A host whose memory is a table of pages and nothing else. No byte stands behind any address that
// it hands out, so who touches one dies: the library keeps its books inside, or the test ends here.
//
// It writes down each call exactly as it came. It answers honestly unless `answer` says otherwise,
// and notes what no correct caller would ask of it: violations() must be empty. All methods are
// thread-safe; `answer` is set before threads start and runs on the calling thread with no lock
// held, so it may call the library.
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "exclave/port.hpp"

namespace exclave::testing_support {

class PageHost {
 public:
  enum class Kind : std::uint8_t {
    kReserve,
    kRelease,
    kMap,
    kUnmap,
    kProtect,
    kRemap,
    kAdvise,
    kResident
  };

  struct Call {
    Kind kind = Kind::kMap;
    Extent extent{};  // kMap: the hint; kReserve: base 0
    int protection = 0;
    int flags = 0;
    int descriptor = -1;
    std::uint64_t offset = 0;
    Extent to{};  // kRemap: the new size; the base is 0 without MREMAP_FIXED
    RangeCall range_call = EXCLAVE_MADVISE;
    int argument = 0;
    friend bool operator==(const Call&, const Call&) = default;
  };
  static Call remap(Extent from, Extent to, int flags) {
    Call call{Kind::kRemap, from};
    call.to = to;
    call.flags = flags;
    return call;
  }
  static Call advise(RangeCall range_call, Extent extent, int argument) {
    Call call{Kind::kAdvise, extent};
    call.range_call = range_call;
    call.argument = argument;
    return call;
  }
  static Call unmap(Extent extent) { return {Kind::kUnmap, extent}; }
  static Call protect(Extent extent, int protection) {
    return {Kind::kProtect, extent, protection};
  }

  // Address space for books and enclave heap, half each.
  explicit PageHost(std::size_t enclave_bytes = std::size_t{256} << 20);
  ~PageHost();
  PageHost(const PageHost&) = delete;
  PageHost& operator=(const PageHost&) = delete;

  PortTable table() noexcept { return bind_port(*this); }

  // ---- The port ----
  Extent enclave() noexcept { return enclave_; }
  Extent book_window() noexcept { return {enclave_.base, enclave_.size / 2}; }
  Extent enclave_heap() noexcept { return {enclave_.base + enclave_.size / 2, enclave_.size / 2}; }
  void* trusted_reserve(std::size_t bytes) noexcept;
  void trusted_release(void* memory, std::size_t bytes) noexcept;
  bool entropy(void* memory, std::size_t bytes) noexcept;
  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept;
  int host_release(std::uintptr_t address, std::size_t bytes) noexcept;
  HostReply host_map(const MapRequest& request) noexcept;
  int host_unmap(std::uintptr_t address, std::size_t bytes) noexcept;
  int host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept;
  HostReply host_remap(std::uintptr_t old_address, std::size_t old_size, std::size_t new_size,
                       int flags, std::uintptr_t new_address) noexcept;
  int host_advise(RangeCall call, std::uintptr_t address, std::size_t bytes, int argument) noexcept;
  // Every byte is 0xff.
  int host_resident(std::uintptr_t address, std::size_t bytes, unsigned char* vector) noexcept;

  // ---- What it is to do ----

  // A reply stands instead of the honest answer, and the pages stay as they are.
  std::function<std::optional<HostReply>(const Call&)> answer;
  // The next mapping without a fixed address comes to stand here.
  void place_next_at(std::uintptr_t address);
  // Pages that somebody else holds, the runtime for one: to touch them is a violation.
  void put_foreign(Extent extent);
  // Pages that the application maps behind the library's back: a device that it attaches itself.
  void put_mapping(Extent extent);
  // No trusted memory from the n-th request on (1: the next); 0: as much as there is.
  void starve_books_from(std::uint64_t n);

  // ---- What happened ----

  std::vector<Call> take_calls();
  std::vector<std::string> violations() const;
  bool is_mapped(std::uintptr_t address) const;
  // -1: no page there.
  int protection_at(std::uintptr_t address) const;
  std::size_t mapped_pages() const;
  std::size_t reserved_bytes() const;
  std::size_t trusted_bytes() const;

 private:
  enum class Holder : std::uint8_t { kMapping, kReserved, kForeign };
  struct Page {
    Holder holder;
    int protection;
  };

  std::optional<HostReply> note(const Call& call);
  bool is_free_locked(Extent extent) const;
  bool are_mappings_locked(Extent extent) const;
  void put_locked(Extent extent, Holder holder, int protection);
  std::uintptr_t free_place_locked(std::size_t bytes, std::size_t alignment);
  void complain_locked(const Call& call, const char* why);

  Extent enclave_{};
  mutable std::mutex mutex_;
  // All below is guarded by mutex_.
  std::uintptr_t books_top_ = 0;
  std::uintptr_t next_place_;
  std::uintptr_t place_next_ = 0;
  std::uint64_t starve_from_ = 0;
  std::size_t trusted_bytes_ = 0;
  std::uint64_t entropy_ = 1;
  std::map<std::uintptr_t, Page> pages_;
  std::map<std::uintptr_t, std::size_t> reserved_;
  std::vector<Call> calls_;
  std::vector<std::string> violations_;
};

static_assert(Port<PageHost>);

void PrintTo(const PageHost::Call& call, std::ostream* out);

// The enclave's own manager, which writes its calls down and answers what it is told to.
class EnclaveRecorder {
 public:
  struct Call {
    // map, unmap, protect, remap, advise, vector (mincore), lock_all, break
    char kind = 'm';
    Extent extent{};
    int protection = 0;
    int flags = 0;
    int descriptor = -1;
    std::uint64_t offset = 0;
    friend bool operator==(const Call&, const Call&) = default;
  };

  std::intptr_t map(std::uintptr_t address, std::size_t size, int protection, int flags,
                    int descriptor, std::uint64_t offset) noexcept;
  int unmap(std::uintptr_t address, std::size_t size) noexcept;
  int protect(std::uintptr_t address, std::size_t size, int protection) noexcept;
  bool lies_outside(int protection, int flags, int descriptor, std::uint64_t offset) noexcept;
  // extent: the old range; offset: the new size; descriptor: unused.
  std::intptr_t remap(std::uintptr_t old_address, std::size_t old_size, std::size_t new_size,
                      int flags, std::uintptr_t new_address) noexcept;
  std::uintptr_t set_break(std::uintptr_t address) noexcept;
  // protection: the call; flags: the argument.
  int advise(RangeCall call, std::uintptr_t address, std::size_t size, int argument) noexcept;
  // Every byte is 1.
  int resident(std::uintptr_t address, std::size_t size, unsigned char* vector) noexcept;
  int lock_all(int flags) noexcept;

  EnclaveMemoryTable table() noexcept { return bind_enclave_memory(*this); }

  std::intptr_t next_map = 0;
  int next_answer = 0;
  bool outside = true;  // the policy
  std::vector<Call> calls;
};

static_assert(EnclaveMemory<EnclaveRecorder>);

}  // namespace exclave::testing_support
