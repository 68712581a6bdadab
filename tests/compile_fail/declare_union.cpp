// A union cannot be declared: its members hide each other.
// error: only classes and enums are declared
#include <cstdint>

#include "exclave/access.hpp"

struct Entry {
  std::uint64_t value;
};
EXCLAVE_BOUNDARY_SAFE(Entry, value);

#ifdef EXCLAVE_MUST_FAIL
union Either {
  std::uint64_t value;
  void* pointer;
};
EXCLAVE_BOUNDARY_SAFE(Either, value);

#endif
