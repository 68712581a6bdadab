// A pointer does not go out.
// error: constraints not satisfied
// error: no matching function for call to .(load|store).
#include "exclave/access.hpp"

using namespace exclave;

int good(untrusted_ptr<const int> p) {
  return load(p);
}

#ifdef EXCLAVE_MUST_FAIL
void bad(untrusted_ptr<const char*> p, const char* trusted) {
  store(p, trusted);
}
#endif
