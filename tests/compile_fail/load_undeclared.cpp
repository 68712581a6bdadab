// A class crosses only when it is declared.
// error: constraints not satisfied
// error: no matching function for call to .(load|store).
#include "exclave/access.hpp"

using namespace exclave;

int good(untrusted_ptr<const int> p) {
  return load(p);
}

#ifdef EXCLAVE_MUST_FAIL
struct Undeclared {
  int value;
};
int bad(untrusted_ptr<const Undeclared> p) {
  return load(p).value;
}
#endif
