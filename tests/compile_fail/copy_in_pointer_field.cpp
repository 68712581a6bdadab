// A type that holds a pointer cannot be declared.
// error: a field is not boundary-safe
#include <cstdint>

#include "exclave/access.hpp"

struct Entry {
  std::uint64_t address;
};
EXCLAVE_BOUNDARY_SAFE(Entry, address);

#ifdef EXCLAVE_MUST_FAIL
struct WithPointer {
  const char* name;
};
EXCLAVE_BOUNDARY_SAFE(WithPointer, name);

#endif
