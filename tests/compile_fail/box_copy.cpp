// A Box owns its object: it moves, it is not copied.
// error: use of deleted function .*Box
// error: call to implicitly-deleted copy constructor of
#include "exclave/box.hpp"

using namespace exclave;

Box<int> good(Box<int>& box) {
  return static_cast<Box<int>&&>(box);
}

#ifdef EXCLAVE_MUST_FAIL
Box<int> bad(Box<int>& box) {
  return box;
}
#endif
