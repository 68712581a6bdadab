// An untrusted pointer does not turn into a raw one by itself.
// error: cannot convert .*untrusted_(bytes|ptr)
// error: no viable conversion from returned value of type .*untrusted_
#include "exclave/access.hpp"

using namespace exclave;

void* good(untrusted_bytes p) {
  return p.unsafe_raw();
}

#ifdef EXCLAVE_MUST_FAIL
void* bad(untrusted_bytes p) {
  return p;
}
#endif
