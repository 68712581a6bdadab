// A copy in is of the type that lies outside.
// error: cannot convert .*untrusted_span
// error: could not convert .*untrusted_span
// error: no matching function for call to .copy_in.
#include "exclave/access.hpp"

using namespace exclave;

Status good(std::span<int> in, untrusted_span<const int> out) {
  return copy_in(in, out);
}

#ifdef EXCLAVE_MUST_FAIL
Status bad(std::span<int> in, untrusted_span<const long> out) {
  return copy_in(in, out);
}
#endif
