// Which types may cross the boundary: those for which every bit pattern is a value, that hold no
// pointer and no padding.
//
// Built in: integers, std::byte, float, double, and arrays of safe types. Never: bool (most bit
// patterns are no bool), pointers, references, long double (padding). Classes and enums are safe
// only when declared, at global scope:
//
//   struct Completion { std::uint64_t tag; std::int32_t result; std::uint32_t flags; };
//   EXCLAVE_BOUNDARY_SAFE(Completion, tag, result, flags);
//
// The declaration is checked: the fields listed must all be safe and their sizes must add up to the
// whole type, so neither padding nor a pointer that was left out goes unseen. (An anonymous union's
// other members do: don't.) An enum needs a fixed underlying type: EXCLAVE_BOUNDARY_SAFE(Opcode);
// To declare it is to promise that the code that receives one handles values that no enumerator
// names.
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>

namespace exclave {

namespace detail {

template <class T>
inline constexpr bool declared_boundary_safe = false;

template <class T>
inline constexpr bool is_std_array = false;
template <class T, std::size_t N>
inline constexpr bool is_std_array<std::array<T, N>> = N != 0;

template <class T>
consteval bool boundary_safe() {
  if constexpr (std::is_volatile_v<T>) {
    return false;
  } else if constexpr (std::is_const_v<T>) {
    return boundary_safe<std::remove_const_t<T>>();
  } else if constexpr (std::is_bounded_array_v<T>) {
    return boundary_safe<std::remove_extent_t<T>>();
  } else if constexpr (is_std_array<T>) {
    return boundary_safe<typename T::value_type>();
  } else if constexpr (std::is_same_v<T, bool>) {
    return false;
  } else {
    return std::is_integral_v<T> || std::is_same_v<T, std::byte> || std::is_same_v<T, float> ||
           std::is_same_v<T, double> || declared_boundary_safe<T>;
  }
}

template <auto Field>
struct FieldType;
template <class Class, class Member, Member Class::*Field>
struct FieldType<Field> {
  using Type = Member;
};

template <class T, auto... Fields>
struct FieldCheck {
  static constexpr bool kAllSafe = (boundary_safe<typename FieldType<Fields>::Type>() && ...);
  static constexpr std::size_t kBytes = (sizeof(typename FieldType<Fields>::Type) + ... + 0);
  template <auto F>
  static constexpr std::size_t kTimes =
      (std::size_t{std::is_same_v<FieldType<F>, FieldType<Fields>>} + ... + 0);
  static constexpr bool kDistinct = ((kTimes<Fields> == 1) && ...);
};

// The checks behind EXCLAVE_BOUNDARY_SAFE.
template <class T, auto... Fields>
consteval bool check_boundary_declaration() {
  if constexpr (std::is_enum_v<T>) {
    static_assert(sizeof...(Fields) == 0, "exclave: an enum has no fields to list");
    static_assert(
        requires { T{0}; }, "exclave: the enum needs a fixed underlying type, other than bool");
    static_assert(!std::is_same_v<std::underlying_type_t<T>, bool>,
                  "exclave: the enum needs a fixed underlying type, other than bool");
  } else {
    using Check = FieldCheck<T, Fields...>;
    static_assert(std::is_class_v<T>, "exclave: only classes and enums are declared");
    static_assert(std::is_trivially_copyable_v<T>, "exclave: the type is not trivially copyable");
    static_assert(std::is_standard_layout_v<T>, "exclave: the type has no standard layout");
    static_assert(Check::kAllSafe, "exclave: a field is not boundary-safe");
    static_assert(Check::kDistinct, "exclave: a field is listed twice");
    static_assert(Check::kBytes == sizeof(T),
                  "exclave: the fields do not fill the type: padding, or one is not listed");
  }
  return true;
}

}  // namespace detail

template <class T>
inline constexpr bool is_boundary_safe = detail::boundary_safe<T>();

template <class T>
concept BoundarySafe = is_boundary_safe<T>;
// One that can be written.
template <class T>
concept MutableBoundarySafe = BoundarySafe<T> && !std::is_const_v<T>;
// One object rather than an array: what can be returned.
template <class T>
concept BoundarySafeObject = BoundarySafe<T> && !std::is_array_v<T>;
template <class T>
concept MutableBoundarySafeObject = BoundarySafeObject<T> && !std::is_const_v<T>;

}  // namespace exclave

// Turns (Type, a, b) into &Type::a, &Type::b; up to 40 fields.
#define EXCLAVE_DETAIL_PARENS ()
#define EXCLAVE_DETAIL_EXPAND(...) \
  EXCLAVE_DETAIL_EXPAND2(EXCLAVE_DETAIL_EXPAND2(EXCLAVE_DETAIL_EXPAND2(__VA_ARGS__)))
#define EXCLAVE_DETAIL_EXPAND2(...) \
  EXCLAVE_DETAIL_EXPAND1(EXCLAVE_DETAIL_EXPAND1(EXCLAVE_DETAIL_EXPAND1(__VA_ARGS__)))
#define EXCLAVE_DETAIL_EXPAND1(...) \
  EXCLAVE_DETAIL_EXPAND0(EXCLAVE_DETAIL_EXPAND0(EXCLAVE_DETAIL_EXPAND0(__VA_ARGS__)))
#define EXCLAVE_DETAIL_EXPAND0(...) __VA_ARGS__
#define EXCLAVE_DETAIL_FIELD(Type, field, ...) \
  , &Type::field __VA_OPT__(EXCLAVE_DETAIL_FIELD_AGAIN EXCLAVE_DETAIL_PARENS(Type, __VA_ARGS__))
#define EXCLAVE_DETAIL_FIELD_AGAIN() EXCLAVE_DETAIL_FIELD

// Declares a class (with all its fields) or an enum (with none) boundary-safe. At global scope
// only.
#define EXCLAVE_BOUNDARY_SAFE(Type, ...)                                \
  template <>                                                           \
  inline constexpr bool exclave::detail::declared_boundary_safe<Type> = \
      exclave::detail::check_boundary_declaration<Type __VA_OPT__(      \
          EXCLAVE_DETAIL_EXPAND(EXCLAVE_DETAIL_FIELD(Type, __VA_ARGS__)))>()
