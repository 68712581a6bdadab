// The names of the lies, and what they can be told about.
#include "sim/hostile_host.hpp"

namespace exclave::sim {

const char* name_of(HostCall call) noexcept {
  switch (call) {
    case HostCall::kReserve:
      return "Reserve";
    case HostCall::kRelease:
      return "Release";
    case HostCall::kMap:
      return "Map";
    case HostCall::kUnmap:
      return "Unmap";
    case HostCall::kProtect:
      return "Protect";
    case HostCall::kRemap:
      return "Remap";
    case HostCall::kAdvise:
      return "Advise";
    case HostCall::kResident:
      return "Resident";
  }
  return "";
}

const char* name_of(Lie lie) noexcept {
  switch (lie) {
    case Lie::kNone:
      return "None";
    case Lie::kNull:
      return "Null";
    case Lie::kMapFailed:
      return "MapFailed";
    case Lie::kSmallErrno:
      return "SmallErrno";
    case Lie::kInside:
      return "Inside";
    case Lie::kEndsInside:
      return "EndsInside";
    case Lie::kStartsInside:
      return "StartsInside";
    case Lie::kEncloses:
      return "Encloses";
    case Lie::kEndsAtEnclave:
      return "EndsAtEnclave";
    case Lie::kStartsAtEnclaveEnd:
      return "StartsAtEnclaveEnd";
    case Lie::kWraps:
      return "Wraps";
    case Lie::kEndsAtTop:
      return "EndsAtTop";
    case Lie::kNonCanonical:
      return "NonCanonical";
    case Lie::kKernelHalf:
      return "KernelHalf";
    case Lie::kUnaligned:
      return "Unaligned";
    case Lie::kUnderAligned:
      return "UnderAligned";
    case Lie::kShort:
      return "Short";
    case Lie::kOtherAddress:
      return "OtherAddress";
    case Lie::kOverlapExact:
      return "OverlapExact";
    case Lie::kOverlapNested:
      return "OverlapNested";
    case Lie::kOverlapPartly:
      return "OverlapPartly";
    case Lie::kSameTwice:
      return "SameTwice";
    case Lie::kAlias:
      return "Alias";
    case Lie::kHostStack:
      return "HostStack";
    case Lie::kForbiddenWindow:
      return "ForbiddenWindow";
    case Lie::kBadErrno:
      return "BadErrno";
    case Lie::kErrorWithAddress:
      return "ErrorWithAddress";
    case Lie::kSuccessWithoutAddress:
      return "SuccessWithoutAddress";
    case Lie::kLate:
      return "Late";
    case Lie::kRandomBits:
      return "RandomBits";
    case Lie::kRefuse:
      return "Refuse";
    case Lie::kFalseSuccess:
      return "FalseSuccess";
    case Lie::kFalseFailure:
      return "FalseFailure";
    case Lie::kGarbage:
      return "Garbage";
  }
  return "";
}

bool fits(Lie lie, HostCall call) noexcept {
  const bool new_memory = call == HostCall::kReserve || call == HostCall::kMap;
  switch (lie) {
    case Lie::kNone:
    case Lie::kRefuse:
    case Lie::kBadErrno:
    case Lie::kLate:
      return true;
    case Lie::kFalseSuccess:
    case Lie::kFalseFailure:
      return !new_memory;
    case Lie::kGarbage:
      return call == HostCall::kResident;
    // A mapping is aligned to pages and is what the descriptor says.
    case Lie::kUnderAligned:
    case Lie::kShort:
    case Lie::kAlias:
    case Lie::kEndsAtEnclave:
    case Lie::kStartsAtEnclaveEnd:
      return call == HostCall::kReserve;
    case Lie::kOtherAddress:
      return call == HostCall::kMap || call == HostCall::kRemap;
    default:
      return new_memory || call == HostCall::kRemap;
  }
}

bool can_be_seen(Lie lie) noexcept {
  switch (lie) {
    case Lie::kNone:
    case Lie::kEndsAtEnclave:
    case Lie::kStartsAtEnclaveEnd:
    case Lie::kShort:
    case Lie::kAlias:
    case Lie::kHostStack:
    case Lie::kLate:
    case Lie::kRandomBits:
    case Lie::kFalseSuccess:
    case Lie::kGarbage:
      return false;
    default:
      return true;
  }
}

}  // namespace exclave::sim
