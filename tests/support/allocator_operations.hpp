// The operations that the reference model of the allocator draws and performs, as values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

#include "exclave/types.hpp"

namespace exclave::testing_support {

// What is done. Indices are taken modulo what there is.
struct AllocateOp {
  std::size_t size;
  std::size_t alignment;
  Placement::Kind where;
  std::size_t target;
};
struct FreeOp {
  enum class Form { kPlain, kSized, kHandle } form;
  std::size_t block;
};
struct BadFreeOp {
  enum class Kind { kAgain, kInterior, kForeign, kWrongSize, kGone } kind;
  std::size_t block;
  std::size_t offset;
};
struct ResizeOp {
  std::size_t block;
  std::size_t size;
};
struct AttachOp {
  std::size_t place;
  std::size_t offset_pages;
  std::size_t pages;
  AttachOptions options;
};
struct DetachOp {
  std::size_t place;
  DetachMode mode;
};
struct DetachPagesOp {
  std::size_t place;
  std::size_t first_page;
  std::size_t pages;
};
struct PinOp {
  enum class What { kBlock, kPool, kPages } what;
  std::size_t target;
  std::size_t offset;
  std::size_t size;
};
struct UnpinOp {
  std::size_t pin;
};
struct QueryOp {
  std::uintptr_t address;
  std::size_t size;
};
struct FlushOp {};
struct TrimOp {};
using Operation = std::variant<AllocateOp, FreeOp, BadFreeOp, ResizeOp, AttachOp, DetachOp,
                               DetachPagesOp, PinOp, UnpinOp, QueryOp, FlushOp, TrimOp>;

inline std::string name_of(const Operation& operation) {
  static constexpr const char* kNames[] = {"allocate", "free",   "bad free",     "resize",
                                           "attach",   "detach", "detach pages", "pin",
                                           "unpin",    "query",  "flush",        "trim"};
  return kNames[operation.index()];
}

}  // namespace exclave::testing_support
