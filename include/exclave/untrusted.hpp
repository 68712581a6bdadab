// Types for memory that the host can read and write. They have no dereference: bytes cross by
// copy_in and copy_out (exclave/access.hpp).
//
// Both types are a proof: whoever holds one knows that the memory was validated as untrusted when
// it was made, so that nothing inside the enclave is ever read or written through it. The proofs
// come from the allocator, or from checked steps from another proof; everything else is called
// unsafe_.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "exclave/result.hpp"
#include "exclave/types.hpp"

namespace exclave {

// An address of untrusted memory that was validated when the pointer was made: by the allocator
// that handed it out, or by Allocator::validate. One word, trivially copyable.
template <class T>
class untrusted_ptr {
 public:
  constexpr untrusted_ptr() noexcept = default;
  constexpr untrusted_ptr(std::nullptr_t) noexcept {}
  // To const.
  template <class U>
  requires std::is_same_v<const U, T>
  constexpr untrusted_ptr(untrusted_ptr<U> other) noexcept : address_(other.address()) {}

  // For memory that someone else has validated. The name is meant to be seen in review.
  static constexpr untrusted_ptr unsafe_from_address(std::uintptr_t address) noexcept {
    untrusted_ptr p;
    p.address_ = address;
    return p;
  }

  constexpr std::uintptr_t address() const noexcept { return address_; }
  // For handing to a system call or a device; never to be dereferenced.
  void* unsafe_raw() const noexcept { return reinterpret_cast<void*>(address_); }
  constexpr explicit operator bool() const noexcept { return address_ != 0; }
  friend constexpr auto operator<=>(const untrusted_ptr&, const untrusted_ptr&) noexcept = default;

 private:
  std::uintptr_t address_ = 0;
};

using untrusted_bytes = untrusted_ptr<std::byte>;

// A validated range of count objects in untrusted memory. Views of it are checked against its
// bounds. All functions are O(1), touch no memory, and leave the span as it is.
template <class T>
class untrusted_span {
  static_assert(std::is_object_v<T> && !std::is_volatile_v<T>, "exclave: a span is of objects");
  static constexpr bool kIsBytes = std::is_same_v<std::remove_const_t<T>, std::byte>;
  // U, const if T is.
  template <class U>
  using Alike = std::conditional_t<std::is_const_v<T>, const U, U>;

 public:
  using element_type = T;

  // Empty.
  constexpr untrusted_span() noexcept = default;
  // To const.
  template <class U>
  requires std::is_same_v<const U, T>
  constexpr untrusted_span(untrusted_span<U> other) noexcept
      : first_(other.data()), count_(other.size()) {}

  // For memory that someone else has validated: count objects, aligned, not wrapping.
  static constexpr untrusted_span unsafe_from(untrusted_ptr<T> first, std::size_t count) noexcept {
    untrusted_span span;
    span.first_ = first;
    span.count_ = count;
    return span;
  }

  // The range, if the allocator (any type with Allocator's validate) knows it as wholly untrusted,
  // in one region that may be read, and written unless T is const. It may span several blocks: a
  // range of the caller's own block is Block::bytes. Errors: kInvalidArgument (unaligned, count *
  // sizeof(T) overflows), those of Allocator::validate. No objects are always valid.
  template <class Books>
  static Result<untrusted_span> validated(const Books& allocator, std::uintptr_t address,
                                          std::size_t count) noexcept {
    std::size_t size_bytes = 0;
    if (address % alignof(T) != 0 || __builtin_mul_overflow(count, sizeof(T), &size_bytes)) {
      return Error::kInvalidArgument;
    }
    if (count == 0) return untrusted_span();
    constexpr Protection kNeeded = std::is_const_v<T> ? Protection::kRead : Protection::kReadWrite;
    const Result<untrusted_bytes> start = allocator.validate(address, size_bytes, kNeeded);
    if (!start) return start.error();
    return unsafe_from(untrusted_ptr<T>::unsafe_from_address(start->address()), count);
  }

  constexpr untrusted_ptr<T> data() const noexcept { return first_; }
  constexpr std::uintptr_t address() const noexcept { return first_.address(); }
  constexpr std::size_t size() const noexcept { return count_; }
  constexpr std::size_t size_bytes() const noexcept { return count_ * sizeof(T); }
  constexpr bool empty() const noexcept { return count_ == 0; }

  // Objects [offset, offset + count). Errors: kInvalidArgument (not all inside).
  constexpr Result<untrusted_span> subspan(std::size_t offset, std::size_t count) const noexcept {
    if (offset > count_ || count > count_ - offset) return Error::kInvalidArgument;
    return unsafe_from(untrusted_ptr<T>::unsafe_from_address(address() + offset * sizeof(T)),
                       count);
  }
  // The first count objects. Errors: as subspan.
  constexpr Result<untrusted_span> first(std::size_t count) const noexcept {
    return subspan(0, count);
  }
  // All but the first offset objects. Errors: as subspan.
  constexpr Result<untrusted_span> after(std::size_t offset) const noexcept {
    if (offset > count_) return Error::kInvalidArgument;
    return subspan(offset, count_ - offset);
  }
  // One object. Errors: kInvalidArgument (index not inside).
  constexpr Result<untrusted_ptr<T>> at(std::size_t index) const noexcept {
    if (index >= count_) return Error::kInvalidArgument;
    return untrusted_ptr<T>::unsafe_from_address(address() + index * sizeof(T));
  }

  // The same memory as bytes.
  constexpr untrusted_span<Alike<std::byte>> bytes() const noexcept {
    return untrusted_span<Alike<std::byte>>::unsafe_from(
        untrusted_ptr<Alike<std::byte>>::unsafe_from_address(address()), size_bytes());
  }

  // Of bytes: the whole span as objects. Errors: kInvalidArgument (unaligned, or a size that is no
  // multiple).
  template <class U>
  constexpr Result<untrusted_span<Alike<U>>> as() const noexcept {
    static_assert(kIsBytes, "exclave: only bytes are viewed as objects; take bytes() first");
    if (address() % alignof(U) != 0 || count_ % sizeof(U) != 0) return Error::kInvalidArgument;
    return untrusted_span<Alike<U>>::unsafe_from(
        untrusted_ptr<Alike<U>>::unsafe_from_address(address()), count_ / sizeof(U));
  }
  // Of bytes: one object at a byte offset. Errors: kInvalidArgument (unaligned, or not all inside).
  template <class U>
  constexpr Result<untrusted_ptr<Alike<U>>> object_at(std::size_t offset_bytes) const noexcept {
    static_assert(kIsBytes, "exclave: only bytes are viewed as objects; take bytes() first");
    const Result<untrusted_span> range = subspan(offset_bytes, sizeof(U));
    if (!range) return range.error();
    if (range->address() % alignof(U) != 0) return Error::kInvalidArgument;
    return untrusted_ptr<Alike<U>>::unsafe_from_address(range->address());
  }

 private:
  untrusted_ptr<T> first_;
  std::size_t count_ = 0;
};

}  // namespace exclave
