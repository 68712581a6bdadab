// The operations that the reference model of the allocator draws and performs, as values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
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

// ---- As C++ that makes the same operation again ----

namespace detail {
inline std::string number_of(std::uint64_t n) {
  return n == ~std::uint64_t{0} ? "~std::uint64_t{0}" : std::to_string(n);
}
inline std::string join(const char* name, std::initializer_list<std::string> values) {
  std::string text = std::string(name) + "{";
  const char* between = "";
  for (const std::string& value : values) {
    text += between + value;
    between = ", ";
  }
  return text + "}";
}
template <class E>
std::string enumerator(const char* type, E value) {
  return "static_cast<" + std::string(type) + ">(" + std::to_string(static_cast<int>(value)) + ")";
}
inline std::string cpp(const AttachOptions& o) {
  return join("", {enumerator("Role", o.role), enumerator("Protection", o.protection),
                   number_of(o.device), number_of(o.device_base), o.open_to_all ? "true" : "false",
                   number_of(o.largest_block), number_of(o.boundary)});
}
inline std::string cpp(const AllocateOp& o) {
  return join("AllocateOp", {number_of(o.size), number_of(o.alignment),
                             enumerator("Placement::Kind", o.where), number_of(o.target)});
}
inline std::string cpp(const FreeOp& o) {
  return join("FreeOp", {enumerator("FreeOp::Form", o.form), number_of(o.block)});
}
inline std::string cpp(const BadFreeOp& o) {
  return join("BadFreeOp",
              {enumerator("BadFreeOp::Kind", o.kind), number_of(o.block), number_of(o.offset)});
}
inline std::string cpp(const ResizeOp& o) {
  return join("ResizeOp", {number_of(o.block), number_of(o.size)});
}
inline std::string cpp(const AttachOp& o) {
  return join("AttachOp",
              {number_of(o.place), number_of(o.offset_pages), number_of(o.pages), cpp(o.options)});
}
inline std::string cpp(const DetachOp& o) {
  return join("DetachOp", {number_of(o.place), enumerator("DetachMode", o.mode)});
}
inline std::string cpp(const DetachPagesOp& o) {
  return join("DetachPagesOp", {number_of(o.place), number_of(o.first_page), number_of(o.pages)});
}
inline std::string cpp(const PinOp& o) {
  return join("PinOp", {enumerator("PinOp::What", o.what), number_of(o.target), number_of(o.offset),
                        number_of(o.size)});
}
inline std::string cpp(const UnpinOp& o) {
  return join("UnpinOp", {number_of(o.pin)});
}
inline std::string cpp(const QueryOp& o) {
  return join("QueryOp", {number_of(o.address), number_of(o.size)});
}
inline std::string cpp(const FlushOp&) {
  return "FlushOp{}";
}
inline std::string cpp(const TrimOp&) {
  return "TrimOp{}";
}
}  // namespace detail

inline std::string cpp_of(const Operation& operation) {
  return std::visit([](const auto& o) { return detail::cpp(o); }, operation);
}

}  // namespace exclave::testing_support
