#include "exclave/ring.hpp"

#include "access/copy.hpp"
#include "access/ring_index.hpp"

namespace exclave {

namespace {

// The capacity of a ring in this memory, 0 if there can be none.
std::size_t capacity_of(untrusted_span<std::byte> memory) noexcept {
  if (memory.address() % 64 != 0 || memory.size() < RingLayout::bytes_for(RingLayout::kMinCapacity))
    return 0;
  const std::size_t capacity = memory.size() - RingLayout::kDataOffset;
  return is_power_of_two(capacity) ? capacity : 0;
}

}  // namespace

// ---- Producer ----

Result<RingProducer> RingProducer::create(untrusted_span<std::byte> memory) noexcept {
  const std::size_t capacity = capacity_of(memory);
  if (capacity == 0) return Error::kInvalidArgument;
  RingProducer ring;
  ring.memory_ = memory.address();
  ring.capacity_ = capacity;
  detail::store_u64(ring.memory_ + RingLayout::kTailOffset, 0);
  return Result<RingProducer>(static_cast<RingProducer&&>(ring));
}

std::size_t RingProducer::known_room() const noexcept {
  return access::ring_room(capacity_, head_, tail_);
}

Result<std::size_t> RingProducer::room(std::size_t wanted) noexcept {
  if (known_room() < wanted) {
    const std::uint64_t head = detail::load_u64(memory_ + RingLayout::kHeadOffset);
    if (!access::is_credible_head(head, head_, tail_)) return Error::kHostLied;
    head_ = head;
  }
  return known_room();
}

Result<std::size_t> RingProducer::writable() noexcept {
  if (capacity_ == 0) return Error::kInvalidArgument;
  return room(capacity_ + 1);
}

Status RingProducer::write_bytes(const void* bytes, std::size_t size_bytes) noexcept {
  if (size_bytes > max_message() || capacity_ == 0) return Error::kInvalidArgument;
  if (size_bytes == 0) return {};
  const Result<std::size_t> room_bytes = room(size_bytes);
  if (!room_bytes) return room_bytes.error();
  if (*room_bytes < size_bytes) return Error::kWouldBlock;
  append(static_cast<const std::uint8_t*>(bytes), size_bytes);
  return {};
}

Result<std::size_t> RingProducer::write_some_bytes(const void* bytes,
                                                   std::size_t size_bytes) noexcept {
  if (capacity_ == 0) return Error::kInvalidArgument;
  if (size_bytes == 0) return std::size_t{0};
  const Result<std::size_t> room_bytes = room(size_bytes);
  if (!room_bytes) return room_bytes;
  if (*room_bytes == 0) return Error::kWouldBlock;
  const std::size_t count = *room_bytes < size_bytes ? *room_bytes : size_bytes;
  append(static_cast<const std::uint8_t*>(bytes), count);
  return count;
}

void RingProducer::append(const std::uint8_t* bytes, std::size_t size_bytes) noexcept {
  const std::uintptr_t data = memory_ + RingLayout::kDataOffset;
  const std::size_t mask = capacity_ - 1;
  const std::uint64_t tail = tail_ + size_bytes;
  // Finish the word begun earlier, then whole words, then begin the last one.
  if (const std::size_t begun = tail_ % 8; begun != 0) {
    const std::size_t count = size_bytes < 8 - begun ? size_bytes : 8 - begun;
    for (std::size_t i = 0; i < count; ++i)
      open_word_ |= std::uint64_t{bytes[i]} << (8 * (begun + i));
    detail::store_u64(data + (tail_ & mask) - begun, open_word_);
    tail_ += count;
    bytes += count;
    size_bytes -= count;
  }
  if (tail_ % 8 == 0) {
    const std::size_t body = size_bytes / 8 * 8;
    const auto [start, before_wrap] = access::ring_pieces(tail_, body, capacity_);
    detail::copy_out_bytes(data + start, bytes, before_wrap);
    detail::copy_out_bytes(data, bytes + before_wrap, body - before_wrap);
    open_word_ = 0;
    for (std::size_t i = body; i < size_bytes; ++i)
      open_word_ |= std::uint64_t{bytes[i]} << (8 * (i - body));
    if (body != size_bytes) detail::store_u64(data + ((start + body) & mask), open_word_);
  }
  tail_ = tail;
  detail::store_u64(memory_ + RingLayout::kTailOffset, tail);
}

// ---- Consumer ----

Result<RingConsumer> RingConsumer::create(untrusted_span<std::byte> memory) noexcept {
  const std::size_t capacity = capacity_of(memory);
  if (capacity == 0) return Error::kInvalidArgument;
  RingConsumer ring;
  ring.memory_ = memory.address();
  ring.capacity_ = capacity;
  detail::store_u64(ring.memory_ + RingLayout::kHeadOffset, 0);
  return Result<RingConsumer>(static_cast<RingConsumer&&>(ring));
}

Result<std::size_t> RingConsumer::available(std::size_t wanted) noexcept {
  if (tail_ - head_ < wanted) {
    const std::uint64_t tail = detail::load_u64(memory_ + RingLayout::kTailOffset);
    if (!access::is_credible_tail(tail, tail_, head_, capacity_)) return Error::kHostLied;
    tail_ = tail;
  }
  return static_cast<std::size_t>(tail_ - head_);
}

Result<std::size_t> RingConsumer::readable() noexcept {
  if (capacity_ == 0) return Error::kInvalidArgument;
  return available(capacity_ + 1);
}

Status RingConsumer::read_bytes(void* bytes, std::size_t size_bytes) noexcept {
  if (size_bytes > capacity_ || capacity_ == 0) return Error::kInvalidArgument;
  if (size_bytes == 0) return {};
  const Result<std::size_t> there = available(size_bytes);
  if (!there) return there.error();
  if (*there < size_bytes) return Error::kWouldBlock;
  take(static_cast<std::uint8_t*>(bytes), size_bytes);
  return {};
}

Result<std::size_t> RingConsumer::read_some_bytes(void* bytes, std::size_t size_bytes) noexcept {
  if (capacity_ == 0) return Error::kInvalidArgument;
  if (size_bytes == 0) return std::size_t{0};
  const Result<std::size_t> there = available(size_bytes);
  if (!there) return there;
  if (*there == 0) return Error::kWouldBlock;
  const std::size_t count = *there < size_bytes ? *there : size_bytes;
  take(static_cast<std::uint8_t*>(bytes), count);
  return count;
}

void RingConsumer::take(std::uint8_t* bytes, std::size_t size_bytes) noexcept {
  const std::uintptr_t data = memory_ + RingLayout::kDataOffset;
  const auto [start, before_wrap] = access::ring_pieces(head_, size_bytes, capacity_);
  detail::copy_in_bytes(bytes, data + start, before_wrap);
  detail::copy_in_bytes(bytes + before_wrap, data, size_bytes - before_wrap);
  head_ += size_bytes;
  detail::store_u64(memory_ + RingLayout::kHeadOffset, head_);
}

}  // namespace exclave
