// What several threads did to one allocator, and the contradictions in it.
//
// Each call carries two stamps of one clock that all threads share, taken before and after it, so
// its effect came at some moment between them. check() tells only what is wrong wherever in their
// windows these moments lay: a block certainly lives from the stamp after its allocation to the
// stamp before its free.
#pragma once

#include <string>
#include <vector>

#include "exclave/types.hpp"

namespace exclave::soak {

using Stamp = std::uint64_t;
inline constexpr Stamp kNever = ~Stamp{0};

// The stamps around one call; kNever while it has not been made.
struct Window {
  Stamp before = kNever;
  Stamp after = kNever;
  bool happened() const { return before != kNever; }
};

// A block, from its allocation to its free.
struct Life {
  Extent extent{};         // what was asked for, at least
  std::size_t usable = 0;  // bytes from there that it may have had, at most
  RegionId region{};       // the pool it was asked of; none: from anywhere
  Window made{};
  Window ended{};               // by a free or a move
  Error answer = Error::kNone;  // of that free
  Window revoked{};             // of its pool; check() fills it in
};

// A call that failed, and may have had a block there meanwhile, as long as it zeroed or copied it.
struct Glimpse {
  Extent extent{};
  Window window{};
};

struct PinLife {
  Extent extent{};
  bool whole_pool = false;
  Window made{};
  Window ended{};
};

// A pool, from attach to the end.
struct Attachment {
  RegionId id{};
  Extent extent{};
  Window attached{};
  Window draining{};                    // the first detach(kDrain) that answered ok
  Window detached{};                    // the detach(kBusy) or detach(kRevoke) that answered ok
  DetachMode mode = DetachMode::kBusy;  // of detached
  Stamp gone = kNever;                  // the callback
  unsigned gone_calls = 0;
  bool is_over() const { return detached.happened() || gone != kNever; }
};

struct History {
  Stamp from = 0;  // blocks, pins and pools that ended before are left out
  std::vector<Life> lives;
  std::vector<PinLife> pins;
  std::vector<Attachment> attachments;
  std::vector<Glimpse> glimpses;
};

// No call is under way. One line for each contradiction; fills in Life::revoked.
std::vector<std::string> check(History& history);

}  // namespace exclave::soak
