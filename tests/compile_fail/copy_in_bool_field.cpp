// A type that holds a bool cannot be declared: most bit patterns are no bool.
// error: a field is not boundary-safe
#include <cstdint>

#include "exclave/access.hpp"

struct Flag {
  std::uint8_t set;
};
EXCLAVE_BOUNDARY_SAFE(Flag, set);

#ifdef EXCLAVE_MUST_FAIL
struct WithBool {
  bool set;
};
EXCLAVE_BOUNDARY_SAFE(WithBool, set);

#endif
