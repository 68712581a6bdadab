// What the host answers is believed only after this.
#pragma once

#include "base/units.hpp"
#include "exclave/port.hpp"
#include "exclave/result.hpp"

namespace exclave {

// Neither in the enclave nor straddling it: precondition of all that follows is that the enclave's
// range does not wrap.
template <class W = std::uintptr_t>
constexpr Truth<W> is_outside(Given<BasicExtent<W>> range, Given<BasicExtent<W>> enclave) noexcept {
  return is_page_range<W>(range) && !range.overlaps(enclave);
}

// Is a range what was asked for: outside, at this alignment, at exactly this address if it is not
// 0?
template <class W = std::uintptr_t>
constexpr Truth<W> is_as_asked(Given<BasicExtent<W>> range, Given<W> alignment, Given<W> fixed,
                               Given<BasicExtent<W>> enclave) noexcept {
  return is_outside<W>(range, enclave) && is_aligned<W>(range.base, alignment) &&
         (fixed == 0 || range.base == fixed);
}

// Is this range a legal place for untrusted memory? Errors: kInvalidArgument (empty, unaligned,
// wrapping, non-canonical), kInsideEnclave (in, straddling or enclosing it).
inline Status check_outside(Extent range, Extent enclave) noexcept {
  if (!is_page_range(range)) return Error::kInvalidArgument;
  if (!is_outside(range, enclave)) return Error::kInsideEnclave;
  return {};
}

// A reply to "give me size bytes at this alignment, at exactly this address if it is not 0". Its
// length cannot be seen; its overlap with known regions is checked by Registry::insert. Errors:
// kHostRefused, kHostLied.
inline Result<Extent> verify_reply(HostReply reply, std::size_t size, std::size_t alignment,
                                   std::uintptr_t fixed, Extent enclave) noexcept {
  if (reply.error != 0) return Error::kHostRefused;
  const Extent range{reply.address, size};
  if (!is_as_asked(range, alignment, fixed, enclave)) return Error::kHostLied;
  // No speculation past the check with an unchecked address (docs/threat-model.md, "Speculation").
  __builtin_ia32_lfence();
  return range;
}

}  // namespace exclave
