// A field that is left out of the declaration is found.
// error: the fields do not fill the type
#include <cstdint>

#include "exclave/access.hpp"

struct Entry {
  std::uint64_t id;
  std::uint64_t length;
};
EXCLAVE_BOUNDARY_SAFE(Entry, id, length);

#ifdef EXCLAVE_MUST_FAIL
struct Hidden {
  std::uint64_t id;
  void* callback;
};
EXCLAVE_BOUNDARY_SAFE(Hidden, id);

#endif
