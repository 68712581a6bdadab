// Both ends of a ring, and a host that writes over all of it between any two calls. What each end
// must answer follows from its own history and from the index that stands there now.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <variant>

#include "exclave/ring.hpp"
#include "fuzz/target.hpp"

namespace exclave::fuzz {

struct RingWrite {
  std::size_t size;
  bool some;  // as many as fit
};
struct RingRead {
  std::size_t size;
  bool some;
};
struct RingAsk {
  bool producer;
};
// The host moves one of the indices by so much, or sets it.
struct RingPokeIndex {
  bool tail;
  bool relative;
  std::uint64_t value;
};
struct RingPokeData {
  std::size_t offset;
  std::uint8_t value;
};
using RingOperation = std::variant<RingWrite, RingRead, RingAsk, RingPokeIndex, RingPokeData>;

class RingRun {
 public:
  explicit RingRun(std::size_t capacity)
      : capacity_(capacity),
        memory_(static_cast<std::uint8_t*>(std::aligned_alloc(64, all_bytes())), &std::free) {
    std::memset(memory_.get(), kCanary, all_bytes());
    std::memset(ring(), 0, RingLayout::bytes_for(capacity_));
    const auto span = untrusted_span<std::byte>::unsafe_from(
        untrusted_bytes::unsafe_from_address(reinterpret_cast<std::uintptr_t>(ring())),
        RingLayout::bytes_for(capacity_));
    auto producer = RingProducer::create(span);
    auto consumer = RingConsumer::create(span);
    EXPECT_TRUE(producer.ok());
    EXPECT_TRUE(consumer.ok());
    producer_ = std::move(producer.value());
    consumer_ = std::move(consumer.value());
    begun_.assign(8, 0);
  }
  ~RingRun() { check_canaries(); }
  RingRun(const RingRun&) = delete;
  RingRun& operator=(const RingRun&) = delete;

  void perform(const RingOperation& operation) {
    std::visit([this](const auto& o) { apply(o); }, operation);
    check_canaries();
  }

 private:
  static constexpr std::size_t kMargin = 64;
  static constexpr int kCanary = 0x5c;
  using Bytes = std::vector<std::uint8_t>;

  std::size_t all_bytes() const { return RingLayout::bytes_for(capacity_) + 2 * kMargin; }
  std::uint8_t* ring() const { return memory_.get() + kMargin; }
  Bytes snapshot() const { return {ring(), ring() + RingLayout::bytes_for(capacity_)}; }
  std::uint64_t index_at(std::size_t offset) const {
    std::uint64_t value = 0;
    std::memcpy(&value, ring() + offset, sizeof value);
    return value;
  }
  static void put_index(Bytes& memory, std::size_t offset, std::uint64_t value) {
    std::memcpy(memory.data() + offset, &value, sizeof value);
  }
  void check_canaries() const {
    for (std::size_t i = 0; i < kMargin; ++i) {
      EXPECT_EQ(memory_.get()[i], kCanary);
      EXPECT_EQ(memory_.get()[all_bytes() - 1 - i], kCanary);
    }
  }
  std::uint8_t next_byte() { return static_cast<std::uint8_t>(++written_ * 37); }

  // ---- The producer's beliefs ----

  std::size_t producer_room() const {
    return capacity_ - static_cast<std::size_t>(tail_ - head_seen_ / 8 * 8);
  }
  // What it must believe after asking for so much room.
  Error producer_asks(std::size_t wanted) {
    if (producer_room() >= wanted) return Error::kNone;
    const std::uint64_t told = index_at(RingLayout::kHeadOffset);
    // Not backwards, and no more than was ever written.
    if (told < head_seen_ || told > tail_) return Error::kHostLied;
    head_seen_ = told;
    return Error::kNone;
  }
  Error consumer_asks(std::size_t wanted) {
    if (tail_seen_ - head_ >= wanted) return Error::kNone;
    const std::uint64_t told = index_at(RingLayout::kTailOffset);
    if (told < tail_seen_ || told - head_ > capacity_) return Error::kHostLied;
    tail_seen_ = told;
    return Error::kNone;
  }

  void apply(const RingWrite& o) {
    Bytes bytes(o.size);
    for (std::uint8_t& byte : bytes) byte = next_byte();
    const Bytes before = snapshot();
    const std::span<const std::byte> span(reinterpret_cast<const std::byte*>(bytes.data()),
                                          bytes.size());
    Error error = Error::kNone;
    std::size_t count = 0;
    if (!o.some && o.size > producer_.max_message()) {
      error = Error::kInvalidArgument;
    } else if (o.size != 0) {
      error = producer_asks(o.size);
      const std::size_t room = producer_room();
      if (error == Error::kNone) {
        count = o.some ? std::min(room, o.size) : o.size;
        if (count > room || count == 0) error = Error::kWouldBlock;
      }
    }
    if (o.some) {
      const Result<std::size_t> done = producer_.write_some(span);
      EXPECT_EQ(done.error(), error);
      if (error == Error::kNone) {
        EXPECT_EQ(*done, count);
      }
    } else {
      EXPECT_EQ(producer_.write(span).error(), error);
    }
    Bytes expected = before;
    if (error == Error::kNone && o.size != 0) {
      // Whole words: what was written of them before, the new bytes, zeros.
      const std::uint64_t first = tail_ / 8 * 8;
      const std::uint64_t end = tail_ + count;
      for (std::uint64_t at = first; at < (end + 7) / 8 * 8; ++at) {
        const std::uint8_t byte = at < tail_ ? begun_[at % 8]
                                  : at < end ? bytes[static_cast<std::size_t>(at - tail_)]
                                             : std::uint8_t{0};
        expected[RingLayout::kDataOffset + static_cast<std::size_t>(at % capacity_)] = byte;
        begun_[at % 8] = byte;
      }
      tail_ = end;
      put_index(expected, RingLayout::kTailOffset, tail_);
    }
    EXPECT_TRUE(snapshot() == expected) << "wrote what it should not";
  }

  void apply(const RingRead& o) {
    Bytes bytes(o.size, 0xee);
    const Bytes before = snapshot();
    const std::span<std::byte> span(reinterpret_cast<std::byte*>(bytes.data()), bytes.size());
    Error error = Error::kNone;
    std::size_t count = 0;
    if (!o.some && o.size > capacity_) {
      error = Error::kInvalidArgument;
    } else if (o.size != 0) {
      error = consumer_asks(o.size);
      const auto there = static_cast<std::size_t>(tail_seen_ - head_);
      if (error == Error::kNone) {
        count = o.some ? std::min(there, o.size) : o.size;
        if (count > there || count == 0) error = Error::kWouldBlock;
      }
    }
    if (o.some) {
      const Result<std::size_t> done = consumer_.read_some(span);
      EXPECT_EQ(done.error(), error);
      if (error == Error::kNone) {
        EXPECT_EQ(*done, count);
      }
    } else {
      EXPECT_EQ(consumer_.read(span).error(), error);
    }
    Bytes expected_bytes(o.size, 0xee);
    Bytes expected = before;
    if (error == Error::kNone && o.size != 0) {
      for (std::size_t i = 0; i < count; ++i) {
        expected_bytes[i] =
            before[RingLayout::kDataOffset + static_cast<std::size_t>((head_ + i) % capacity_)];
      }
      head_ += count;
      put_index(expected, RingLayout::kHeadOffset, head_);
    }
    EXPECT_TRUE(bytes == expected_bytes);
    EXPECT_TRUE(snapshot() == expected) << "wrote what it should not";
  }

  void apply(const RingAsk& o) {
    const Bytes before = snapshot();
    if (o.producer) {
      const Error error = producer_asks(capacity_ + 1);
      const Result<std::size_t> room = producer_.writable();
      EXPECT_EQ(room.error(), error);
      if (error == Error::kNone) {
        EXPECT_EQ(*room, producer_room());
      }
    } else {
      const Error error = consumer_asks(capacity_ + 1);
      const Result<std::size_t> there = consumer_.readable();
      EXPECT_EQ(there.error(), error);
      if (error == Error::kNone) {
        EXPECT_EQ(*there, tail_seen_ - head_);
      }
    }
    EXPECT_TRUE(snapshot() == before);
  }

  void apply(const RingPokeIndex& o) {
    const std::size_t offset = o.tail ? RingLayout::kTailOffset : RingLayout::kHeadOffset;
    const std::uint64_t value = o.relative ? index_at(offset) + o.value : o.value;
    std::memcpy(ring() + offset, &value, sizeof value);
  }
  void apply(const RingPokeData& o) {
    ring()[RingLayout::kDataOffset + o.offset % capacity_] = o.value;
  }

  const std::size_t capacity_;
  const std::unique_ptr<std::uint8_t, decltype(&std::free)> memory_;
  RingProducer producer_;
  RingConsumer consumer_;
  std::uint64_t written_ = 0;
  // Each end's own index, and the last that it believed of the other's.
  std::uint64_t tail_ = 0, head_seen_ = 0;
  std::uint64_t head_ = 0, tail_seen_ = 0;
  Bytes begun_;  // the bytes of the producer's word, by their place in it
};

inline std::string cpp_of(const RingOperation& operation) {
  struct Printer {
    std::string operator()(const RingWrite& o) const {
      return cpp_call("fuzz::RingWrite", o.size, o.some);
    }
    std::string operator()(const RingRead& o) const {
      return cpp_call("fuzz::RingRead", o.size, o.some);
    }
    std::string operator()(const RingAsk& o) const { return cpp_call("fuzz::RingAsk", o.producer); }
    std::string operator()(const RingPokeIndex& o) const {
      return cpp_call("fuzz::RingPokeIndex", o.tail, o.relative, o.value);
    }
    std::string operator()(const RingPokeData& o) const {
      return cpp_call("fuzz::RingPokeData", o.offset, o.value);
    }
  };
  return std::visit(Printer{}, operation);
}

}  // namespace exclave::fuzz
