#include "exclave/result.hpp"

namespace exclave {

const char* error_text(Error error) noexcept {
  switch (error) {
    case Error::kNone:
      return "no error";
    case Error::kInvalidArgument:
      return "invalid argument";
    case Error::kOutOfMemory:
      return "out of untrusted memory";
    case Error::kOutOfTrustedMemory:
      return "out of trusted memory for the books";
    case Error::kQuota:
      return "the quota of untrusted memory is reached";
    case Error::kHostRefused:
      return "the host refused";
    case Error::kHostLied:
      return "the host's answer failed verification";
    case Error::kInsideEnclave:
      return "the range lies in or across the enclave's own range";
    case Error::kOverlap:
      return "the range overlaps a known region";
    case Error::kNotFound:
      return "no such region, range or block";
    case Error::kBusy:
      return "blocks live in the region";
    case Error::kPinned:
      return "the range is pinned";
    case Error::kDoubleFree:
      return "double free";
    case Error::kInteriorFree:
      return "free of an address inside a block";
    case Error::kForeignFree:
      return "free of an address that was never handed out";
    case Error::kStale:
      return "the handle's region is gone";
    case Error::kWrongSize:
      return "the size or alignment is not the block's";
    case Error::kNotPermitted:
      return "the region's protection or role forbids it";
    case Error::kReentered:
      return "called inside another call of the same thread";
    case Error::kWouldBlock:
      return "no room or no data";
    case Error::kTooManyThreads:
      return "too many threads";
  }
  return "unknown error";
}

}  // namespace exclave
