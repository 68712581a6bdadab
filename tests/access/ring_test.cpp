#include "exclave/ring.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "guarded_memory.hpp"

namespace exclave {
namespace {

using access_test::GuardedMemory;

// A ring flush with the end of its mapping, or with the start.
struct RingMemory {
  explicit RingMemory(std::size_t capacity_bytes, bool at_end = true)
      : capacity(capacity_bytes),
        memory((RingLayout::bytes_for(capacity_bytes) + kPageBytes - 1) / kPageBytes),
        offset(at_end ? memory.size() - RingLayout::bytes_for(capacity_bytes) : 0) {
    memory.fill(0xcc);
    std::memset(memory.host() + offset, 0, RingLayout::bytes_for(capacity));
  }
  untrusted_span<std::byte> span() const {
    return memory.range(offset, RingLayout::bytes_for(capacity));
  }
  std::uint64_t& tail() const { return *reinterpret_cast<std::uint64_t*>(memory.host() + offset); }
  std::uint64_t& head() const {
    return *reinterpret_cast<std::uint64_t*>(memory.host() + offset + 64);
  }
  std::uint8_t* data() const { return memory.host() + offset + RingLayout::kDataOffset; }
  // The bytes of the mapping that are not the ring's.
  bool surroundings_kept() const {
    const std::uint8_t* host = memory.host();
    const auto kept = [](std::uint8_t b) { return b == 0xcc; };
    return std::all_of(host, host + offset, kept) &&
           std::all_of(host + offset + RingLayout::bytes_for(capacity), host + memory.size(), kept);
  }

  std::size_t capacity;
  GuardedMemory memory;
  std::size_t offset;
};

std::vector<std::byte> bytes_of(std::size_t size, std::uint64_t position) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>((position + i) * 167 >> 3);
  return bytes;
}

TEST(Ring, ShapeOfItsMemoryIsChecked) {
  const GuardedMemory memory(2);
  EXPECT_TRUE(RingProducer::create(memory.range(0, 128 + 64)).ok());
  EXPECT_TRUE(RingConsumer::create(memory.range(64, 128 + 4096)).ok());
  EXPECT_EQ(RingProducer::create(memory.range(8, 128 + 64)).error(), Error::kInvalidArgument);
  EXPECT_EQ(RingProducer::create(memory.range(0, 128 + 63)).error(), Error::kInvalidArgument);
  EXPECT_EQ(RingProducer::create(memory.range(0, 128 + 96)).error(), Error::kInvalidArgument);
  EXPECT_EQ(RingConsumer::create(memory.range(0, 128 + 32)).error(), Error::kInvalidArgument);
  EXPECT_EQ(RingConsumer::create({}).error(), Error::kInvalidArgument);
  RingProducer none;
  std::byte byte{};
  EXPECT_EQ(none.write({&byte, 1}).error(), Error::kInvalidArgument);
  EXPECT_EQ(none.write_some({&byte, 1}).error(), Error::kInvalidArgument);
  EXPECT_EQ(none.write({}).error(), Error::kInvalidArgument);
  EXPECT_EQ(none.writable().error(), Error::kInvalidArgument);
  RingConsumer nothing;
  EXPECT_EQ(nothing.read({&byte, 1}).error(), Error::kInvalidArgument);
  EXPECT_EQ(nothing.read_some({&byte, 1}).error(), Error::kInvalidArgument);
  EXPECT_EQ(nothing.read({}).error(), Error::kInvalidArgument);
  EXPECT_EQ(nothing.readable().error(), Error::kInvalidArgument);
}

TEST(Ring, WriteAndReadAreAllOrNothing) {
  const RingMemory memory(64);
  auto producer = std::move(RingProducer::create(memory.span()).value());
  auto consumer = std::move(RingConsumer::create(memory.span()).value());
  EXPECT_EQ(producer.max_message(), 57u);
  EXPECT_EQ(producer.write(bytes_of(58, 0)).error(), Error::kInvalidArgument);
  std::vector<std::byte> in(40);
  EXPECT_EQ(consumer.read(in).error(), Error::kWouldBlock);
  EXPECT_TRUE(producer.write(bytes_of(37, 0)).ok());
  EXPECT_EQ(consumer.read(in).error(), Error::kWouldBlock);
  EXPECT_EQ(consumer.readable().value(), 37u);
  EXPECT_EQ(producer.write(bytes_of(28, 37)).error(), Error::kWouldBlock);
  EXPECT_EQ(producer.writable().value(), 27u);
  EXPECT_EQ(producer.write_some(bytes_of(28, 37)).value(), 27u);
  EXPECT_EQ(producer.write_some(bytes_of(1, 64)).error(), Error::kWouldBlock);
  EXPECT_TRUE(consumer.read(in).ok());
  EXPECT_EQ(in, bytes_of(40, 0));
  EXPECT_EQ(consumer.read_some(in).value(), 24u);
  in.resize(24);
  EXPECT_EQ(in, bytes_of(24, 40));
  EXPECT_EQ(consumer.read_some(in).error(), Error::kWouldBlock);
  EXPECT_TRUE(producer.write({}).ok());
  EXPECT_TRUE(consumer.read({}).ok());
}

TEST(Ring, AsMuchAsItHolds) {
  const RingMemory memory(64);
  auto producer = std::move(RingProducer::create(memory.span()).value());
  auto consumer = std::move(RingConsumer::create(memory.span()).value());
  EXPECT_EQ(producer.write_some(bytes_of(64, 0)).value(), 64u);
  std::vector<std::byte> in(65);
  EXPECT_EQ(consumer.read(in).error(), Error::kInvalidArgument);
  in.resize(64);
  EXPECT_TRUE(consumer.read(in).ok());
  EXPECT_EQ(in, bytes_of(64, 0));
}

// No bytes: no index is written, either.
TEST(Ring, NothingTouchesNothing) {
  const RingMemory memory(64);
  auto producer = std::move(RingProducer::create(memory.span()).value());
  auto consumer = std::move(RingConsumer::create(memory.span()).value());
  memory.tail() = 77;
  memory.head() = 88;
  EXPECT_TRUE(producer.write({}).ok());
  EXPECT_TRUE(producer.write_some({}).ok());
  EXPECT_TRUE(consumer.read({}).ok());
  EXPECT_TRUE(consumer.read_some({}).ok());
  EXPECT_EQ(memory.tail(), 77u);
  EXPECT_EQ(memory.head(), 88u);
}

TEST(Ring, AnyMixOfSizesArrivesInOrder) {
  for (const std::size_t capacity : {64u, 256u, 4096u}) {
    const RingMemory memory(capacity);
    auto producer = std::move(RingProducer::create(memory.span()).value());
    auto consumer = std::move(RingConsumer::create(memory.span()).value());
    std::mt19937_64 random(capacity);
    std::deque<std::byte> model;
    std::uint64_t written = 0;
    for (int step = 0; step < 200000; ++step) {
      const std::size_t n = random() % (capacity + 9);
      if (random() % 2 == 0) {
        const auto bytes = bytes_of(n, written);
        std::size_t count = 0;
        if (random() % 2 == 0) {
          const Status status = producer.write(bytes);
          if (n > capacity - 7) {
            ASSERT_EQ(status.error(), Error::kInvalidArgument);
          } else if (n + model.size() <= capacity - 7) {
            ASSERT_TRUE(status.ok());
          }
          count = status ? n : 0;
        } else {
          const auto some = producer.write_some(bytes);
          ASSERT_TRUE(some.ok() || some.error() == Error::kWouldBlock);
          ASSERT_TRUE(some.ok() || model.size() > capacity - 8);
          count = some ? *some : 0;
        }
        model.insert(model.end(), bytes.begin(),
                     bytes.begin() + static_cast<std::ptrdiff_t>(count));
        written += count;
        ASSERT_EQ(memory.tail(), written);
      } else {
        std::vector<std::byte> in(n);
        const auto some = consumer.read_some(in);
        const std::size_t expected = std::min(n, model.size());
        ASSERT_EQ(some ? *some : 0, expected);
        ASSERT_TRUE(std::equal(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(expected),
                               model.begin()));
        model.erase(model.begin(), model.begin() + static_cast<std::ptrdiff_t>(expected));
        ASSERT_EQ(memory.head(), written - model.size());
      }
      ASSERT_LE(model.size(), capacity);
    }
    EXPECT_TRUE(memory.surroundings_kept());
  }
}

TEST(Ring, TwoThreads) {
  const RingMemory memory(1024);
  auto producer = std::move(RingProducer::create(memory.span()).value());
  auto consumer = std::move(RingConsumer::create(memory.span()).value());
  constexpr std::uint64_t kTotal = 4 << 20;
  std::thread other([&] {
    std::mt19937_64 random(1);
    for (std::uint64_t at = 0; at < kTotal;) {
      const auto some = producer.write_some(
          bytes_of(std::min<std::uint64_t>(random() % 400 + 1, kTotal - at), at));
      if (some)
        at += *some;
      else
        std::this_thread::yield();
    }
  });
  std::mt19937_64 random(2);
  std::uint64_t at = 0;
  bool same = true;
  while (at < kTotal && same) {
    std::vector<std::byte> in(random() % 400 + 1);
    const auto some = consumer.read_some(in);
    if (!some) {
      same = some.error() == Error::kWouldBlock;
      std::this_thread::yield();
      continue;
    }
    in.resize(*some);
    same = in == bytes_of(*some, at);
    at += *some;
  }
  EXPECT_TRUE(same) << "at " << at;
  if (!same) std::abort();  // the producer waits for ever
  other.join();
}

TEST(Threat48_Padding, ABegunWordIsZeroBehindItsBytes) {
  const RingMemory memory(64);
  auto producer = std::move(RingProducer::create(memory.span()).value());
  std::memset(memory.data(), 0xee, 64);
  ASSERT_TRUE(producer.write(bytes_of(3, 0)).ok());
  EXPECT_EQ(std::memcmp(memory.data(), bytes_of(3, 0).data(), 3), 0);
  for (int i = 3; i < 8; ++i) EXPECT_EQ(memory.data()[i], 0);
  EXPECT_EQ(memory.data()[8], 0xee);
  ASSERT_TRUE(producer.write(bytes_of(9, 3)).ok());
  EXPECT_EQ(std::memcmp(memory.data(), bytes_of(12, 0).data(), 12), 0);
  for (int i = 12; i < 16; ++i) EXPECT_EQ(memory.data()[i], 0);
  EXPECT_EQ(memory.data()[16], 0xee);
}

// A peer's index: near the truth, at its edges, or anything.
std::uint64_t hostile_index(std::mt19937_64& random, std::uint64_t low, std::uint64_t high) {
  switch (random() % 6) {
    case 0:
      return random();
    case 1:
      return low - random() % 3;
    case 2:
      return high + random() % 3;
    case 3:
      return random() & 0xffffffff;
    case 4:
      return ~std::uint64_t{0} - random() % 70;
    default:
      return low + random() % (high - low + 1);
  }
}

TEST(Threat46_HostileIndex, ConsumerNeverLeavesTheDataArea) {
  for (const bool at_end : {true, false}) {
    const RingMemory memory(256, at_end);
    auto consumer = std::move(RingConsumer::create(memory.span()).value());
    std::mt19937_64 random(3);
    for (std::size_t i = 0; i < 256; ++i) memory.data()[i] = static_cast<std::uint8_t>(random());
    std::uint64_t head = 0;  // a model of what may be believed
    std::uint64_t tail = 0;
    std::vector<std::byte> in(300);
    int lies = 0;
    for (int step = 0; step < 1500000; ++step) {
      const std::uint64_t claim = hostile_index(random, tail, head + 256);
      memory.tail() = claim;
      if (random() % 8 == 0) memory.head() = random();  // ours: never read back
      const std::size_t n = random() % 256 + 1;
      std::memset(in.data(), 0x5a, 257);
      const auto some = consumer.read_some(std::span(in).first(n));
      if (tail - head < n) {
        if (claim - tail > head + 256 - tail) {
          ASSERT_EQ(some.error(), Error::kHostLied);
          ASSERT_EQ(in[0], std::byte{0x5a});
          ++lies;
          continue;
        }
        tail = claim;
      }
      const std::size_t expected = std::min<std::size_t>(n, tail - head);
      ASSERT_EQ(some ? *some : 0, expected);
      for (std::size_t i = 0; i < expected; ++i) {
        ASSERT_EQ(in[i], std::byte{memory.data()[(head + i) % 256]});
      }
      ASSERT_EQ(in[expected], std::byte{0x5a});
      head += expected;
      if (expected != 0) {
        ASSERT_EQ(memory.head(), head);
      }
    }
    EXPECT_GT(lies, 100000);
    EXPECT_TRUE(memory.surroundings_kept());
  }
}

TEST(Threat46_HostileIndex, ProducerNeverLeavesTheDataArea) {
  for (const bool at_end : {true, false}) {
    const RingMemory memory(256, at_end);
    auto producer = std::move(RingProducer::create(memory.span()).value());
    std::mt19937_64 random(4);
    std::uint64_t head = 0;
    std::uint64_t tail = 0;
    int lies = 0;
    for (int step = 0; step < 1500000; ++step) {
      const std::uint64_t claim = hostile_index(random, head, tail);
      memory.head() = claim;
      if (random() % 8 == 0) memory.tail() = random();
      const std::size_t n = random() % 249 + 1;
      const auto bytes = bytes_of(n, tail);
      const auto some = producer.write_some(bytes);
      const auto room = [&] { return 256 - (tail - head / 8 * 8); };
      if (room() < n) {
        if (claim - head > tail - head) {
          ASSERT_EQ(some.error(), Error::kHostLied);
          ++lies;
          continue;
        }
        head = claim;
      }
      const std::size_t expected = std::min<std::size_t>(n, room());
      ASSERT_EQ(some ? *some : 0, expected);
      for (std::size_t i = 0; i < expected; ++i) {
        ASSERT_EQ(std::byte{memory.data()[(tail + i) % 256]}, bytes[i]);
      }
      tail += expected;
      if (expected != 0) {
        ASSERT_EQ(memory.tail(), tail);
      }
    }
    EXPECT_GT(lies, 100000);
    EXPECT_TRUE(memory.surroundings_kept());
  }
}

TEST(Threat46_HostileIndex, AllOrNothingTellsTheLieAndMovesNothing) {
  const RingMemory memory(64);
  auto producer = std::move(RingProducer::create(memory.span()).value());
  auto consumer = std::move(RingConsumer::create(memory.span()).value());
  ASSERT_TRUE(producer.write(bytes_of(57, 0)).ok());
  memory.head() = 58;
  EXPECT_EQ(producer.write(bytes_of(8, 57)).error(), Error::kHostLied);
  EXPECT_EQ(memory.tail(), 57u);
  memory.tail() = 65;
  std::vector<std::byte> in(57, std::byte{0x5a});
  EXPECT_EQ(consumer.read(in).error(), Error::kHostLied);
  EXPECT_EQ(in, std::vector<std::byte>(57, std::byte{0x5a}));
  memory.tail() = 57;
  EXPECT_TRUE(consumer.read(in).ok());
  EXPECT_EQ(in, bytes_of(57, 0));
  EXPECT_TRUE(producer.write(bytes_of(8, 57)).ok());
}

// How much there is is asked anew each time, also where no answer could make it more.
TEST(Threat46_HostileIndex, IsToldByAnEmptyAndByAFullRing) {
  const RingMemory memory(64);
  auto producer = std::move(RingProducer::create(memory.span()).value());
  auto consumer = std::move(RingConsumer::create(memory.span()).value());
  memory.head() = 1;
  EXPECT_EQ(producer.writable().error(), Error::kHostLied);
  memory.head() = 0;
  EXPECT_EQ(producer.write_some(bytes_of(64, 0)).value(), 64u);
  EXPECT_EQ(consumer.readable().value(), 64u);
  memory.tail() = 65;
  EXPECT_EQ(consumer.readable().error(), Error::kHostLied);
}

TEST(Threat45_DoubleFetch, AnIndexThatFlipsIsBelievedOrNot) {
  const RingMemory memory(256);
  auto consumer = std::move(RingConsumer::create(memory.span()).value());
  std::atomic<bool> stop{false};
  std::thread host([&] {
    std::mt19937_64 random(5);
    while (!stop) {
      __atomic_store_n(&memory.tail(), __atomic_load_n(&memory.head(), __ATOMIC_RELAXED) + 100,
                       __ATOMIC_RELAXED);
      __atomic_store_n(&memory.tail(), random(), __ATOMIC_RELAXED);
    }
  });
  std::vector<std::byte> in(257, std::byte{0x5a});
  std::uint64_t total = 0;
  for (int i = 0; i < 300000; ++i) {
    const auto some = consumer.read_some(std::span(in).first(256));
    if (some) {
      ASSERT_LE(*some, 256u);
      total += *some;
    }
    ASSERT_EQ(in[256], std::byte{0x5a});
  }
  stop = true;
  host.join();
  EXPECT_EQ(memory.head(), total);
  EXPECT_TRUE(memory.surroundings_kept());
}

}  // namespace
}  // namespace exclave
