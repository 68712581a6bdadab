// The memory calls on what lies outside: only pages that stand in the books as the application's
// mappings reach the host.
//
// The books change before the host is asked when pages go, and after it answered when pages come.
// Every host call is made under no lock; a mapping that is at the host is marked with its thread,
// and others wait for it. Answers are those of the system calls.
#pragma once

#include <initializer_list>

#include "base/extents.hpp"
#include "heap/core.hpp"
#include "memcall/linux_abi.hpp"

namespace exclave::memcall {

using core::AllocatorCore;

// The errnos that Linux documents for the call; whatever else the host says is EIO. (An errno of
// the host's choice could steer the application: an Iago attack.)
int allowed_errno(int error, std::initializer_list<int> documented) noexcept;
// Of what a gate or the books refuse; negative.
int error_number(Error error) noexcept;
Protection protection_of(int bits) noexcept;
// Nothing that is not the application's may be replaced: a fixed address must lie on free ground or
// on its own mappings.
int check_fixed(Registry& registry, Extent range, bool replace) noexcept;

// ---- outside_mapping.cpp ----
std::intptr_t map_outside(AllocatorCore& core, const MapRequest& asked) noexcept;
int unmap_outside(AllocatorCore& core, Extent range) noexcept;
// From the start of the range up to its end or the first hole.
int protect_outside(AllocatorCore& core, Extent range, int bits) noexcept;
int adopt_outside(AllocatorCore& core, std::uintptr_t address, std::size_t size,
                  int protection) noexcept;
int give_up_outside(AllocatorCore& core, Extent range) noexcept;

// ---- outside_remap.cpp ----
// from.size 0: a second mapping of the pages that begin there. Whole pages, flags and target
// validated; new_size is not less than from.size.
std::intptr_t remap_outside(AllocatorCore& core, Extent from, std::size_t new_size, int flags,
                            std::uintptr_t target) noexcept;

// ---- outside_advice.cpp ----
enum class Holes : bool { kStop, kSkip };
// *hole: there is one; who skips holes went on behind it. Else 0, or what stopped it.
int advise_outside(AllocatorCore& core, RangeCall call, Extent range, int argument, Holes holes,
                   bool* hole) noexcept;
// -EBUSY where the advice would take pages of a mapping that are pinned.
int check_pins(AllocatorCore& core, Extent range, int advice) noexcept;
int resident_outside(AllocatorCore& core, Extent range, unsigned char* vector) noexcept;
int lock_all_outside(AllocatorCore& core, RangeCall call, int argument) noexcept;

}  // namespace exclave::memcall
