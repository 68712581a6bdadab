// A byte ring between one producer and one consumer, of which one is the host, a device or another
// process.
//
// Layout in untrusted memory, for whoever writes the other side:
//   offset   0  u64  bytes ever written, by the producer alone
//   offset  64  u64  bytes ever read, by the consumer alone
//   offset 128       data: a power of two of bytes; byte i lies at i % capacity
// Both start at 0. A side stores its index with release order after the data, and loads the other's
// with acquire order.
//
// Trust: each side keeps its own index in trusted memory and never reads it back. The other's index
// is fetched once for each question and believed only if it did not go backwards and claims no more
// than there can be; otherwise kHostLied, and nothing has changed: not the ring, not the caller's
// buffer. So a wild index cannot move an access out of the data area, nor make a byte be read
// twice. The bytes themselves are whatever the host likes.
//
// All stores are whole aligned words (no VERW, no fences): the producer keeps the word that it has
// begun in trusted memory, and does not start on a word that the consumer has not wholly read.
// Bytes of a word that are not yet written are zero outside. So at most 7 bytes of the capacity
// cannot be used.
//
// Thread safety: one thread at a time for each object; the two ends may run on different threads.
// No locks, no host calls. Cost: O(bytes); the other side's cache line is touched only when what is
// known does not suffice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "exclave/access.hpp"

namespace exclave {

struct RingLayout {
  static constexpr std::size_t kTailOffset = 0;
  static constexpr std::size_t kHeadOffset = 64;
  static constexpr std::size_t kDataOffset = 128;
  static constexpr std::size_t kMinCapacity = 64;
  // What the memory of a ring must hold: the capacity is a power of two of at least kMinCapacity.
  static constexpr std::size_t bytes_for(std::size_t capacity) noexcept {
    return kDataOffset + capacity;
  }
};

class EXCLAVE_API RingProducer {
 public:
  // Takes over the producing end of a ring whose memory is zero (allocate_zeroed). It is not owned
  // and must stay. Errors: kInvalidArgument (not 64-aligned, or size is not bytes_for a valid
  // capacity).
  static Result<RingProducer> create(untrusted_span<std::byte> memory) noexcept;

  // Has no ring: writing answers kInvalidArgument.
  RingProducer() noexcept = default;
  RingProducer(RingProducer&&) noexcept = default;
  RingProducer& operator=(RingProducer&&) noexcept = default;

  std::size_t capacity() const noexcept { return capacity_; }
  // The longest write that surely fits once the consumer has read everything.
  std::size_t max_message() const noexcept { return capacity_ == 0 ? 0 : capacity_ - 7; }

  // All of the bytes or none, and the consumer sees them at once.
  // Errors: kWouldBlock (no room now), kInvalidArgument (longer than max_message), kHostLied.
  Status write(std::span<const std::byte> bytes) noexcept {
    return write_bytes(bytes.data(), bytes.size());
  }
  // As many as fit, at least one; answers how many. Errors: kWouldBlock (no room at all),
  // kInvalidArgument, kHostLied.
  Result<std::size_t> write_some(std::span<const std::byte> bytes) noexcept {
    return write_some_bytes(bytes.data(), bytes.size());
  }
  // Room for writing, as the consumer tells it now. Errors: kInvalidArgument, kHostLied.
  Result<std::size_t> writable() noexcept;

 private:
  Status write_bytes(const void* bytes, std::size_t size_bytes) noexcept;
  Result<std::size_t> write_some_bytes(const void* bytes, std::size_t size_bytes) noexcept;
  std::size_t known_room() const noexcept;
  // Room, asking the consumer's index only if less than wanted is known.
  Result<std::size_t> room(std::size_t wanted) noexcept;
  void append(const std::uint8_t* bytes, std::size_t size_bytes) noexcept;

  std::uintptr_t memory_ = 0;
  std::size_t capacity_ = 0;
  std::uint64_t tail_ = 0;  // written by us
  std::uint64_t head_ =
      0;  // last believed value of the consumer's index; head_ <= tail_ <= head_ + capacity_
  std::uint64_t open_word_ =
      0;  // the word that tail_ points into: the bytes before tail_, then zeros
};

class EXCLAVE_API RingConsumer {
 public:
  // Takes over the consuming end. Errors: as RingProducer::create.
  static Result<RingConsumer> create(untrusted_span<std::byte> memory) noexcept;

  // Has no ring: reading answers kInvalidArgument.
  RingConsumer() noexcept = default;
  RingConsumer(RingConsumer&&) noexcept = default;
  RingConsumer& operator=(RingConsumer&&) noexcept = default;

  std::size_t capacity() const noexcept { return capacity_; }

  // Fills all of the bytes or none. Errors: kWouldBlock (not so many there yet), kInvalidArgument
  // (longer than the capacity), kHostLied.
  Status read(std::span<std::byte> bytes) noexcept {
    return read_bytes(bytes.data(), bytes.size());
  }
  // As many as are there, at least one; answers how many. Errors: kWouldBlock, kInvalidArgument,
  // kHostLied.
  Result<std::size_t> read_some(std::span<std::byte> bytes) noexcept {
    return read_some_bytes(bytes.data(), bytes.size());
  }
  // Bytes to read, as the producer tells it now. Errors: kInvalidArgument, kHostLied.
  Result<std::size_t> readable() noexcept;

 private:
  Status read_bytes(void* bytes, std::size_t size_bytes) noexcept;
  Result<std::size_t> read_some_bytes(void* bytes, std::size_t size_bytes) noexcept;
  Result<std::size_t> available(std::size_t wanted) noexcept;
  void take(std::uint8_t* bytes, std::size_t size_bytes) noexcept;

  std::uintptr_t memory_ = 0;
  std::size_t capacity_ = 0;
  std::uint64_t head_ = 0;  // written by us
  std::uint64_t tail_ =
      0;  // last believed value of the producer's index; head_ <= tail_ <= head_ + capacity_
};

}  // namespace exclave
