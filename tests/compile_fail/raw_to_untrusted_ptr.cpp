// A raw pointer, which may be trusted, does not turn into an untrusted one.
// error: could not convert .*untrusted_ptr
// error: no viable conversion from returned value of type .int \*
#include "exclave/access.hpp"

using namespace exclave;

untrusted_ptr<int> good(std::uintptr_t address) {
  return untrusted_ptr<int>::unsafe_from_address(address);
}

#ifdef EXCLAVE_MUST_FAIL
untrusted_ptr<int> bad(int* p) {
  return p;
}
#endif
