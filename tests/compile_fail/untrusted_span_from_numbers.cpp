// A span is made by a validated or an unsafe_ factory, not from any address and count.
// error: no matching function for call to .*untrusted_span
// error: no matching constructor for initialization of .untrusted_span
#include "exclave/access.hpp"

using namespace exclave;

untrusted_span<int> good(untrusted_ptr<int> p) {
  return untrusted_span<int>::unsafe_from(p, 4);
}

#ifdef EXCLAVE_MUST_FAIL
untrusted_span<int> bad(untrusted_ptr<int> p) {
  return untrusted_span<int>(p, 4);
}
#endif
