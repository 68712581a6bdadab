// What MemoryCallsRun can be asked to do, and how each operation prints as C++.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

#include "fuzz/target.hpp"
#include "sim/hostile_host.hpp"
#include "support/fake_pages.hpp"

namespace exclave::fuzz {

// An address that means the same in every run: so many bytes from a thing that is there.
struct Place {
  enum class From {
    kZero,
    kMapping,
    kBlock,
    kEnclave,
    kInside,
    kEnclaveEnd,
    kForbidden,
    kLast
  } from;
  std::size_t which;
  std::uint64_t offset;
};
struct MapCall {
  Place at;
  std::size_t length;
  int protection;
  int flags;
  bool device;  // of the device's file; else of none
};
struct UnmapCall {
  Place at;
  std::size_t length;
};
struct ProtectCall {
  Place at;
  std::size_t length;
  int protection;
};
struct RemapCall {
  Place at;
  std::size_t old_length, new_length;
  int flags;
  Place to;
};
struct AdviseCall {
  Place at;
  std::size_t length;
  int advice;
};
struct SyncCall {
  Place at;
  std::size_t length;
  int flags;
};
struct LockCall {
  Place at;
  std::size_t length;
  int flags;
};
struct UnlockCall {
  Place at;
  std::size_t length;
};
struct LockAllCall {
  int flags;  // 0: munlockall
};
struct ResidentCall {
  Place at;
  std::size_t length;
};
struct BreakCall {
  Place at;
};
// As after a shmat and before a shmdt.
struct AdoptCall {
  Place at;
  std::size_t length;
  int protection;
};
struct GiveUpCall {
  Place at;
  std::size_t length;
};
// The program writes to one of its pages inside.
struct WriteInside {
  std::size_t which;
  std::uint64_t value;
};
// The n-th page operation of the kind from now fails. 0: none.
struct PagesFail {
  testing_support::FakePages::Op op;
  std::uint64_t n;
};
// During the next host call it calls back in.
struct HostCallsBack {
  Place at;
};
// The next call of this kind is answered so.
struct HostSays {
  sim::HostCall call;
  sim::Lie lie;
};
// The n-th request for trusted memory fails. 0: none.
struct BooksFail {
  std::uint64_t n;
};
struct TakeBlock {
  std::size_t size;
};
struct FreeBlock {
  std::size_t which;
};
struct PinPages {
  Place at;
  std::size_t length;
};
struct UnpinPages {
  std::size_t which;
};
struct TrimAll {};
using MemoryCallOperation =
    std::variant<MapCall, UnmapCall, ProtectCall, RemapCall, AdviseCall, SyncCall, LockCall,
                 UnlockCall, LockAllCall, ResidentCall, BreakCall, AdoptCall, GiveUpCall,
                 WriteInside, PagesFail, HostCallsBack, HostSays, BooksFail, TakeBlock, FreeBlock,
                 PinPages, UnpinPages, TrimAll>;

// ---- As C++ ----

inline std::string cpp_of(const Place& place) {
  return cpp_call("fuzz::Place", cpp_enum("fuzz::Place::From", place.from), place.which,
                  place.offset);
}
inline std::string cpp_of(const MemoryCallOperation& operation) {
  struct Printer {
    std::string operator()(const MapCall& o) const {
      return cpp_call("fuzz::MapCall", cpp_of(o.at), o.length, o.protection, o.flags, o.device);
    }
    std::string operator()(const UnmapCall& o) const {
      return cpp_call("fuzz::UnmapCall", cpp_of(o.at), o.length);
    }
    std::string operator()(const ProtectCall& o) const {
      return cpp_call("fuzz::ProtectCall", cpp_of(o.at), o.length, o.protection);
    }
    std::string operator()(const RemapCall& o) const {
      return cpp_call("fuzz::RemapCall", cpp_of(o.at), o.old_length, o.new_length, o.flags,
                      cpp_of(o.to));
    }
    std::string operator()(const AdviseCall& o) const {
      return cpp_call("fuzz::AdviseCall", cpp_of(o.at), o.length, o.advice);
    }
    std::string operator()(const SyncCall& o) const {
      return cpp_call("fuzz::SyncCall", cpp_of(o.at), o.length, o.flags);
    }
    std::string operator()(const LockCall& o) const {
      return cpp_call("fuzz::LockCall", cpp_of(o.at), o.length, o.flags);
    }
    std::string operator()(const UnlockCall& o) const {
      return cpp_call("fuzz::UnlockCall", cpp_of(o.at), o.length);
    }
    std::string operator()(const LockAllCall& o) const {
      return cpp_call("fuzz::LockAllCall", o.flags);
    }
    std::string operator()(const ResidentCall& o) const {
      return cpp_call("fuzz::ResidentCall", cpp_of(o.at), o.length);
    }
    std::string operator()(const BreakCall& o) const {
      return cpp_call("fuzz::BreakCall", cpp_of(o.at));
    }
    std::string operator()(const AdoptCall& o) const {
      return cpp_call("fuzz::AdoptCall", cpp_of(o.at), o.length, o.protection);
    }
    std::string operator()(const GiveUpCall& o) const {
      return cpp_call("fuzz::GiveUpCall", cpp_of(o.at), o.length);
    }
    std::string operator()(const WriteInside& o) const {
      return cpp_call("fuzz::WriteInside", o.which, o.value);
    }
    std::string operator()(const PagesFail& o) const {
      return cpp_call("fuzz::PagesFail", cpp_enum("testing_support::FakePages::Op", o.op), o.n);
    }
    std::string operator()(const HostCallsBack& o) const {
      return cpp_call("fuzz::HostCallsBack", cpp_of(o.at));
    }
    std::string operator()(const HostSays& o) const {
      return cpp_call("fuzz::HostSays", cpp_enum("sim::HostCall", o.call),
                      cpp_enum("sim::Lie", o.lie)) +
             " /* " + name_of(o.call) + ": " + name_of(o.lie) + " */";
    }
    std::string operator()(const BooksFail& o) const { return cpp_call("fuzz::BooksFail", o.n); }
    std::string operator()(const TakeBlock& o) const { return cpp_call("fuzz::TakeBlock", o.size); }
    std::string operator()(const FreeBlock& o) const {
      return cpp_call("fuzz::FreeBlock", o.which);
    }
    std::string operator()(const PinPages& o) const {
      return cpp_call("fuzz::PinPages", cpp_of(o.at), o.length);
    }
    std::string operator()(const UnpinPages& o) const {
      return cpp_call("fuzz::UnpinPages", o.which);
    }
    std::string operator()(const TrimAll&) const { return "fuzz::TrimAll{}"; }
  };
  return std::visit(Printer{}, operation);
}

}  // namespace exclave::fuzz
