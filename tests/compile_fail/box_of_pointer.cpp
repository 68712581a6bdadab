// A Box holds only what may cross.
// error: template constraint failure
// error: constraints not satisfied
#include "exclave/box.hpp"

using namespace exclave;

using Good = Box<int>;

#ifdef EXCLAVE_MUST_FAIL
using Bad = Box<int*>;
#endif
