// A word that may only be read is not stored to.
// error: no matching function for call to .*store_release
// error: invalid reference to function .store_release.
#include <cstdint>

#include "exclave/access.hpp"

using namespace exclave;

void good(untrusted_atomic<std::uint32_t> word) {
  word.store_release(1);
}

#ifdef EXCLAVE_MUST_FAIL
void bad(untrusted_atomic<const std::uint32_t> word) {
  word.store_release(1);
}
#endif
