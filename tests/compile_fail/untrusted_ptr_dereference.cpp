// An untrusted pointer cannot be dereferenced.
// error: no match for .operator\*.
// error: indirection requires pointer operand
#include "exclave/access.hpp"

using namespace exclave;

int good(untrusted_ptr<const int> p) {
  return load(p);
}

#ifdef EXCLAVE_MUST_FAIL
int bad(untrusted_ptr<const int> p) {
  return *p;
}
#endif
