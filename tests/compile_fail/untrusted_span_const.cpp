// What may only be read is not written.
// error: constraints not satisfied
// error: no matching function for call to .fill_zero.
#include "exclave/access.hpp"

using namespace exclave;

void good(untrusted_span<std::byte> s) {
  fill_zero(s);
}

#ifdef EXCLAVE_MUST_FAIL
void bad(untrusted_span<const std::byte> s) {
  fill_zero(s);
}
#endif
