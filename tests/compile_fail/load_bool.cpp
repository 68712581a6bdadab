// A bool does not come in: most bit patterns are none.
// error: constraints not satisfied
// error: no matching function for call to .(load|store).
#include "exclave/access.hpp"

using namespace exclave;

int good(untrusted_ptr<const int> p) {
  return load(p);
}

#ifdef EXCLAVE_MUST_FAIL
bool bad(untrusted_ptr<const bool> p) {
  return load(p);
}
#endif
