// Owning handles of untrusted memory: Block for bytes, Box<T> for one object. They free what they
// own, and they know the region it lies in, so that a handle whose region was revoked is always
// told, also when another region stands at the same addresses.
//
// Thread safety: as a pointer: one handle is used by one thread at a time. The allocator must
// outlive its handles and stay where it is. What no handle can see: someone freeing its block by a
// bare pointer and getting the slot again. Revocation by another thread while an access is under
// way: the access reaches memory that is still mapped, or faults if the caller unmapped it.
#pragma once

#include <cstddef>

#include "exclave/access.hpp"
#include "exclave/allocator.hpp"

namespace exclave {

// Owns size() bytes.
class Block {
 public:
  // A block of size_bytes. What it holds is what the host put there. May call the host; cost of
  // allocate. Errors: as Allocator::allocate; nothing is kept on error. A pool that is revoked
  // meanwhile makes a stale handle, never a handle of another block.
  static Result<Block> create(Allocator& allocator, std::size_t size_bytes,
                              std::size_t alignment = 16, Placement where = {}) noexcept {
    const Result<PlacedBlock> placed = allocator.allocate_handle(size_bytes, alignment, where);
    if (!placed) return placed.error();
    Block block;
    block.allocator_ = &allocator;
    block.start_ = placed->start;
    block.size_bytes_ = size_bytes;
    block.region_ = placed->region;
    return Result<Block>(static_cast<Block&&>(block));
  }

  // Owns nothing.
  constexpr Block() noexcept = default;
  Block(Block&& other) noexcept
      : allocator_(other.allocator_),
        start_(other.start_),
        size_bytes_(other.size_bytes_),
        region_(other.region_) {
    other.forget();
  }
  Block& operator=(Block&& other) noexcept {
    if (this != &other) {
      static_cast<void>(reset());
      allocator_ = other.allocator_;
      start_ = other.start_;
      size_bytes_ = other.size_bytes_;
      region_ = other.region_;
      other.forget();
    }
    return *this;
  }
  ~Block() { static_cast<void>(reset()); }

  constexpr explicit operator bool() const noexcept { return static_cast<bool>(start_); }
  constexpr std::size_t size() const noexcept { return size_bytes_; }
  constexpr RegionId region() const noexcept { return region_; }

  // The bytes, after a look in the books: one lock-free query. Ask again rather than keep the span:
  // it does not know when its region goes. Errors: kInvalidArgument (owns nothing), kStale.
  Result<untrusted_span<std::byte>> bytes() const noexcept {
    if (!start_) return Error::kInvalidArgument;
    if (stale()) return Error::kStale;
    return untrusted_span<std::byte>::unsafe_from(start_, size_bytes_);
  }

  // Is the block gone, with its region or freed by someone else? false when it owns nothing.
  bool stale() const noexcept {
    if (!start_) return false;
    const Result<RegionId> now = allocator_->region_of(start_);
    return !now || *now != region_;
  }

  // Frees the block; owns nothing afterwards, whatever the answer. Errors: kStale (it was gone
  // already; nothing happened), kReentered and other errors of deallocate (the block leaks).
  Status reset() noexcept {
    if (!start_) return {};
    const untrusted_bytes start = start_;
    const RegionId region = region_;
    Allocator& allocator = *allocator_;
    forget();
    return allocator.deallocate_handle(start, region);
  }

  // Gives the block up without freeing it. Null when it owned nothing.
  untrusted_bytes release() noexcept {
    const untrusted_bytes start = start_;
    forget();
    return start;
  }

 private:
  constexpr void forget() noexcept {
    start_ = nullptr;
    size_bytes_ = 0;
    region_ = {};
  }

  Allocator* allocator_ = nullptr;
  untrusted_bytes start_;
  std::size_t size_bytes_ = 0;
  RegionId region_;
};

// Owns one T outside. What is loaded is whatever the host made of it.
template <MutableBoundarySafeObject T>
class Box {
  static_assert(std::is_default_constructible_v<T>,
                "exclave: Result<T> needs a T to hold on error");

 public:
  // Errors: as Block::create; kStale, its pool was revoked meanwhile.
  static Result<Box> create(Allocator& allocator, const T& value, Placement where = {}) noexcept {
    constexpr std::size_t kAlignment = alignof(T) < 8 ? 8 : alignof(T);
    Result<Block> block = Block::create(allocator, sizeof(T), kAlignment, where);
    if (!block) return block.error();
    Box box;
    box.block_ = static_cast<Block&&>(*block);
    const Status stored = box.store(value);
    if (!stored) return stored.error();
    return Result<Box>(static_cast<Box&&>(box));
  }

  // Owns nothing.
  constexpr Box() noexcept = default;

  constexpr explicit operator bool() const noexcept { return static_cast<bool>(block_); }
  constexpr RegionId region() const noexcept { return block_.region(); }

  // A copy, each byte fetched once. Errors: kInvalidArgument (owns nothing), kStale.
  Result<T> load() const noexcept {
    const Result<untrusted_ptr<T>> object = pointer();
    if (!object) return object.error();
    return exclave::load(*object);
  }

  // Never takes the slow path: the object lies on a word boundary and its slot ends on one. Errors:
  // as load, nothing written.
  Status store(const T& value) noexcept {
    const Result<untrusted_ptr<T>> object = pointer();
    if (!object) return object.error();
    detail::copy_out_padded_bytes(object->address(), &value, sizeof(T));
    return {};
  }

  // For a device or an untrusted_atomic. Errors: as load.
  Result<untrusted_ptr<T>> pointer() const noexcept {
    const Result<untrusted_span<std::byte>> bytes = block_.bytes();
    if (!bytes) return bytes.error();
    return untrusted_ptr<T>::unsafe_from_address(bytes->address());
  }

  bool stale() const noexcept { return block_.stale(); }
  // As Block's.
  Status reset() noexcept { return block_.reset(); }
  untrusted_ptr<T> release() noexcept {
    return untrusted_ptr<T>::unsafe_from_address(block_.release().address());
  }

 private:
  Block block_;
};

}  // namespace exclave
