// A field listed twice does not stand in for another.
// error: a field is listed twice
#include <cstdint>

#include "exclave/access.hpp"

struct Entry {
  std::uint64_t id;
  std::uint64_t length;
};
EXCLAVE_BOUNDARY_SAFE(Entry, id, length);

#ifdef EXCLAVE_MUST_FAIL
struct Twice {
  std::uint64_t id;
  void* callback;
};
EXCLAVE_BOUNDARY_SAFE(Twice, id, id);

#endif
