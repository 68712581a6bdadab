// The room access/: the boundary. Every byte that the library itself moves over it goes through
// these functions.
//
// Invariants:
// - Every access obeys the rules of machine_bus.hpp.
// - Nothing here believes or checks an address: that it is untrusted and validated is the caller's
// proof, carried by
//   untrusted_ptr and untrusted_span.
// - Reads of one call fetch each byte once.
// Who may call: any room. The public declarations, with their contracts, are in exclave/access.hpp.
#pragma once

#include "exclave/access.hpp"
