// An enum without a fixed underlying type has values that are not valid.
// error: the enum needs a fixed underlying type
#include <cstdint>

#include "exclave/access.hpp"

enum class Opcode : std::uint8_t { kRead, kWrite };
EXCLAVE_BOUNDARY_SAFE(Opcode);

#ifdef EXCLAVE_MUST_FAIL
enum Loose { kRead, kWrite };
EXCLAVE_BOUNDARY_SAFE(Loose);

#endif
