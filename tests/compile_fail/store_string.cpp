// A class that owns memory does not go out.
// error: constraints not satisfied
// error: no matching function for call to .store.
#include <string>

#include "exclave/access.hpp"

using namespace exclave;

Status good(untrusted_span<char> p, const std::string& text) {
  return copy_out(p, text);
}

#ifdef EXCLAVE_MUST_FAIL
void bad(untrusted_ptr<std::string> p, const std::string& text) {
  store(p, text);
}
#endif
