// What the host answers is believed only after this.
#pragma once

#include "base/units.hpp"
#include "exclave/port.hpp"
#include "exclave/result.hpp"

namespace exclave {

// Is this range a legal place for untrusted memory? Errors: kInvalidArgument (empty, unaligned,
// wrapping, non-canonical), kInsideEnclave (in, straddling or enclosing it).
inline Status check_outside(Extent range, Extent enclave) noexcept {
  if (!is_page_range(range)) return Error::kInvalidArgument;
  if (range.overlaps(enclave)) return Error::kInsideEnclave;
  return {};
}

// A reply to "give me size bytes at this alignment, at exactly this address if it is not 0". Its
// length cannot be seen; its overlap with known regions is checked by Registry::insert. Errors:
// kHostRefused, kHostLied.
inline Result<Extent> verify_reply(HostReply reply, std::size_t size, std::size_t alignment,
                                   std::uintptr_t fixed, Extent enclave) noexcept {
  if (reply.error != 0) return Error::kHostRefused;
  const Extent range{reply.address, size};
  if (!check_outside(range, enclave).ok() || !is_aligned(range.base, alignment) ||
      (fixed != 0 && range.base != fixed)) {
    return Error::kHostLied;
  }
  // No speculation past the check with an unchecked address.
  __builtin_ia32_lfence();
  return range;
}

}  // namespace exclave
