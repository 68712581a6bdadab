// Everything of the public face.
#pragma once

#include "exclave/access.hpp"
#include "exclave/allocator.hpp"
#include "exclave/boundary_safe.hpp"
#include "exclave/box.hpp"
#include "exclave/memory_calls.hpp"
#include "exclave/process_port.hpp"
#include "exclave/ring.hpp"
#include "exclave/untrusted.hpp"
