// An enum does not come in undeclared: its values must be validated.
// error: constraints not satisfied
// error: no matching function for call to .(load|store).
#include "exclave/access.hpp"

using namespace exclave;

int good(untrusted_ptr<const int> p) {
  return load(p);
}

#ifdef EXCLAVE_MUST_FAIL
enum class Mode : int { kOn };
Mode bad(untrusted_ptr<const Mode> p) {
  return load(p);
}
#endif
