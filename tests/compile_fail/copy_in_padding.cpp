// A type with padding does not cross: declaring it shows the hole.
// error: the fields do not fill the type
#include <cstdint>

#include "exclave/access.hpp"

using namespace exclave;

struct Packed {
  std::uint64_t id;
  std::uint32_t length;
  std::uint32_t reserved;
};
EXCLAVE_BOUNDARY_SAFE(Packed, id, length, reserved);

Status good(std::span<Packed> in, untrusted_span<const Packed> out) {
  return copy_in(in, out);
}

#ifdef EXCLAVE_MUST_FAIL
struct Padded {
  std::uint64_t id;
  std::uint32_t length;
};
EXCLAVE_BOUNDARY_SAFE(Padded, id, length);

#endif
