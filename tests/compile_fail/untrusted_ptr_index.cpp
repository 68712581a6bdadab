// An untrusted pointer or span has no index operator.
// error: no match for .operator\[\].
// error: does not provide a subscript operator
#include "exclave/access.hpp"

using namespace exclave;

int good(untrusted_span<const int> s) {
  return load(*s.at(1));
}

#ifdef EXCLAVE_MUST_FAIL
int bad(untrusted_span<const int> s) {
  return s[1];
}
#endif
