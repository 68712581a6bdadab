// Blocks, while what they need fails: trusted memory, growth, and the way back to the host.
#include <array>
#include <cstring>
#include <span>
#include <vector>

#include "exclave/access.hpp"
#include "exclave/box.hpp"
#include "exclave/ring.hpp"
#include "support/fault_walk.hpp"

namespace exclave {
namespace {

using namespace testing_support;
using Keeps = FaultWalk::Keeps;

TEST(Faults, SmallBlocksOfAllSizes) {
  survive_every_fault(kGrowing, [](FaultWalk& walk) {
    std::vector<untrusted_bytes> blocks;
    // Enough of one class for a deeper stack and a second slab; then one of each kind of class.
    for (int i = 0; i < 40; ++i) blocks.push_back(walk.allocate(2000));
    for (const std::size_t size : {1u, 100u, 5000u, 30000u, 65536u}) {
      blocks.push_back(walk.allocate(size));
      blocks.push_back(walk.allocate(size, 64));
    }
    for (std::size_t i = 0; i < blocks.size(); i += 2) walk.deallocate(blocks[i]);
    walk.always("flush", [&] { walk.allocator().flush_thread(); });
    for (std::size_t i = 1; i < blocks.size(); i += 2) walk.deallocate(blocks[i]);
  });
}

TEST(Faults, LargeBlocks) {
  survive_every_fault(kGrowing, [](FaultWalk& walk) {
    std::vector<untrusted_bytes> blocks;
    for (const std::size_t size : {70000u, 300000u, 1u << 20})
      blocks.push_back(walk.allocate(size));
    blocks.push_back(walk.allocate(200000, std::size_t{1} << 16));
    blocks.push_back(walk.allocate(std::size_t{3} << 20, std::size_t{1} << 20));
    for (const untrusted_bytes block : blocks) {
      walk.step("usable_size", [&] { return walk.allocator().usable_size(block); });
      walk.step("region_of", [&] { return walk.allocator().region_of(block); });
    }
    for (const untrusted_bytes block : blocks) walk.deallocate(block);
    walk.always("trim", [&] { walk.allocator().trim(); });
  });
}

TEST(Faults, FreedRunsThatAreKeptAtHand) {
  FaultOptions options;
  options.config.keep_free_bytes = std::size_t{4} << 20;
  survive_every_fault(
      kGrowing,
      [](FaultWalk& walk) {
        for (int round = 0; round < 2; ++round) {
          std::vector<untrusted_bytes> blocks;
          for (int i = 0; i < 18; ++i) blocks.push_back(walk.allocate(std::size_t{80} << 10));
          for (const untrusted_bytes block : blocks) walk.deallocate(block);
        }
        walk.always("trim", [&] { walk.allocator().trim(); });
      },
      options);
}

TEST(Faults, ContentsSurviveAMoveThatFails) {
  FaultOptions options;
  options.config.scrub_on_free = true;
  survive_every_fault(
      kGrowing,
      [](FaultWalk& walk) {
        untrusted_bytes block;
        walk.step(
            "allocate_zeroed",
            [&] {
              const auto made = walk.allocator().allocate_zeroed(1000);
              if (made.ok()) block = *made;
              return made;
            },
            Keeps::kBlocks);
        std::array<std::byte, 1000> text{};
        const auto contents = [&block, &text] {
          return untrusted_span<std::byte>::unsafe_from(block, text.size());
        };
        const auto found = [&contents] {
          std::array<std::byte, 1000> copy{};
          EXPECT_TRUE(copy_in(std::span(copy), contents()).ok());
          return copy;
        };
        EXPECT_EQ(found(), text) << "zeros";
        text.fill(std::byte{'x'});
        ASSERT_TRUE(copy_out(contents(), text).ok());
        for (const std::size_t size : {3000u, 100000u, 400000u, 90000u, 1000u}) {
          walk.step(
              "reallocate",
              [&] {
                const auto moved = walk.allocator().reallocate(block, size);
                if (moved.ok()) block = *moved;
                return moved;
              },
              Keeps::kBlocks);
          EXPECT_EQ(found(), text) << size;
        }
        walk.step("deallocate", [&] { return walk.allocator().deallocate(block, 1000); });
      },
      options);
}

TEST(Faults, RescueIsAskedOnceAndWhatItFreesHelps) {
  static Allocator* allocator = nullptr;
  static untrusted_bytes reserve;
  FaultOptions options;
  options.sweep_books = false;
  options.config.rescue = [](void*, std::size_t) {
    if (!reserve) return false;
    EXPECT_TRUE(allocator->deallocate(reserve).ok());
    reserve = nullptr;
    return true;
  };
  survive_every_fault(
      kGrowing,
      [](FaultWalk& walk) {
        allocator = &walk.allocator();
        reserve = nullptr;
        reserve = walk.allocate(std::size_t{1} << 20);
        // What the rescue frees is no longer held, so only the blocks' sum is compared.
        untrusted_bytes block;
        walk.step(
            "allocate",
            [&] {
              const auto made = walk.allocator().allocate(std::size_t{1} << 20);
              if (made.ok()) block = *made;
              return made;
            },
            Keeps::kHalf);
        walk.deallocate(block);
        if (reserve) walk.deallocate(reserve);
        reserve = nullptr;
      },
      options);
}

TEST(Faults, HandlesAndRings) {
  survive_every_fault(kGrowing, [](FaultWalk& walk) {
    Allocator& allocator = walk.allocator();
    Block bytes;
    walk.step(
        "Block::create",
        [&] {
          Result<Block> made = Block::create(allocator, 300000);
          if (made.ok()) bytes = std::move(*made);
          return made.error();
        },
        Keeps::kBlocks);
    Box<std::uint64_t> box;
    walk.step(
        "Box::create",
        [&] {
          auto made = Box<std::uint64_t>::create(allocator, 42);
          if (made.ok()) box = std::move(*made);
          return made.error();
        },
        Keeps::kBlocks);
    Block memory;
    walk.step(
        "Block::create",
        [&] {
          Result<Block> made = Block::create(allocator, RingLayout::bytes_for(4096), 64);
          if (made.ok()) memory = std::move(*made);
          return made.error();
        },
        Keeps::kBlocks);
    const auto span = memory.bytes();
    ASSERT_TRUE(span.ok());
    fill_zero(*span);
    Result<RingProducer> producer = RingProducer::create(*span);
    Result<RingConsumer> consumer = RingConsumer::create(*span);
    ASSERT_TRUE(producer.ok() && consumer.ok());
    const std::byte out[] = {std::byte{1}, std::byte{2}};
    std::byte in[2] = {};
    walk.step("write", [&] { return producer->write(out); });
    walk.step("read", [&] { return consumer->read(in); });
    EXPECT_EQ(std::memcmp(in, out, sizeof in), 0);
    const Result<std::uint64_t> loaded = box.load();
    ASSERT_TRUE(loaded.ok());
    EXPECT_EQ(*loaded, 42u);
    walk.step("Box::reset", [&] { return box.reset(); });
    walk.step("Block::reset", [&] { return bytes.reset(); });
    walk.step("Block::reset", [&] { return memory.reset(); });
  });
}

}  // namespace
}  // namespace exclave
