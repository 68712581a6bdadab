// Only words that one access can reach are atomic.
// error: untrusted_atomic is of std::uint32_t or std::uint64_t
#include <cstdint>

#include "exclave/access.hpp"

using namespace exclave;

std::uint64_t good(untrusted_atomic<const std::uint64_t> word) {
  return word.load_acquire();
}

#ifdef EXCLAVE_MUST_FAIL
std::uint16_t bad(untrusted_atomic<std::uint16_t> word) {
  return word.load_acquire();
}
#endif
