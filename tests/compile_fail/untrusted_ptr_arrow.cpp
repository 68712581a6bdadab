// An untrusted pointer has no members of what it points to.
// error: base operand of .->. has non-pointer type
// error: member reference type .* is not a pointer
#include <cstdint>

#include "exclave/access.hpp"

using namespace exclave;

struct Message {
  std::uint64_t length;
};
EXCLAVE_BOUNDARY_SAFE(Message, length);

std::uint64_t good(untrusted_ptr<Message> p) {
  return load(p).length;
}

#ifdef EXCLAVE_MUST_FAIL
std::uint64_t bad(untrusted_ptr<Message> p) {
  return p->length;
}
#endif
