// THREATS 44, 48 and 49 for everything at once: pools, blocks, pins, mappings and memory calls over
// one shared memory, at the same addresses in each run. What is decided does not depend on a byte
// of it, and not a byte of it is written.
#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "exclave/access.hpp"
#include "sim/neighbour.hpp"
#include "support/process_fixture.hpp"
#include "support/quiet_addresses.hpp"

namespace exclave {
namespace {

using sim::Neighbour;
using testing_support::memfd_of;
using testing_support::OwnedDescriptor;

constexpr std::size_t kPage = kPageBytes;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

// A host whose memory is one file, mapped at the same addresses in every run. Its address space is
// handed out in order, and never twice, so the kernel has no say in what the allocator sees.
class FileHost {
 public:
  static constexpr std::size_t kBytes = 256 * kMiB;
  static constexpr std::uintptr_t kBase = testing_support::kQuietAddresses + 1024 * kMiB;
  static constexpr std::uintptr_t kEnclave = kBase + 1024 * kMiB;
  static constexpr std::size_t kEnclaveBytes = 128 * kMiB;

  explicit FileHost(int protection) : file_(memfd_of(kBytes)) {
    map_at(kBase, kBytes, protection, MAP_SHARED, file_.get());
    map_at(kEnclave, kEnclaveBytes, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
  }
  ~FileHost() {
    munmap(reinterpret_cast<void*>(kBase), kBytes);
    munmap(reinterpret_cast<void*>(kEnclave), kEnclaveBytes);
  }
  FileHost(const FileHost&) = delete;
  FileHost& operator=(const FileHost&) = delete;

  Extent enclave() noexcept { return {kEnclave, kEnclaveBytes}; }
  Extent book_window() noexcept { return enclave(); }
  void* trusted_reserve(std::size_t bytes) noexcept {
    books_ += bytes;
    return books_ > kEnclaveBytes ? nullptr : reinterpret_cast<void*>(kEnclave + books_ - bytes);
  }
  void trusted_release(void*, std::size_t) noexcept {}
  bool entropy(void* memory, std::size_t bytes) noexcept {
    std::memset(memory, 0x5a, bytes);
    return true;
  }
  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept {
    const std::uintptr_t place = (top_ + alignment - 1) & ~(alignment - 1);
    if (place + bytes > kBase + kBytes) return {0, ENOMEM};
    top_ = place + bytes;
    return {place, 0};
  }
  int host_release(std::uintptr_t, std::size_t) noexcept { return 0; }
  HostReply host_map(const MapRequest& request) noexcept {
    return (request.flags & MAP_FIXED_NOREPLACE) != 0 ? HostReply{request.hint, 0}
                                                      : host_reserve(request.size, kPage);
  }
  // Pages stay mapped: the neighbour writes to all of them to the end.
  int host_unmap(std::uintptr_t, std::size_t) noexcept { return 0; }
  int host_protect(std::uintptr_t, std::size_t, int) noexcept { return 0; }

  int file() const { return file_.get(); }

 private:
  static void map_at(std::uintptr_t place, std::size_t bytes, int protection, int flags, int file) {
    void* const at = mmap(reinterpret_cast<void*>(place), bytes, protection,
                          flags | MAP_FIXED_NOREPLACE, file, 0);
    if (at != reinterpret_cast<void*>(place)) std::abort();
  }

  const OwnedDescriptor file_;
  std::size_t books_ = 0;
  std::uintptr_t top_ = kBase;
};
static_assert(Port<FileHost>);

class OutsidePolicy {
 public:
  std::intptr_t map(std::uintptr_t, std::size_t, int, int, int, std::uint64_t) noexcept {
    return -ENOMEM;
  }
  int unmap(std::uintptr_t, std::size_t) noexcept { return 0; }
  int protect(std::uintptr_t, std::size_t, int) noexcept { return 0; }
  bool lies_outside(int, int, int, std::uint64_t) noexcept { return true; }
};

// Every answer of a long random run, as numbers. touching: also operations whose contract is to
// write (zeroed, moved).
std::vector<std::uint64_t> decisions(
    FileHost& host, std::uint64_t seed, bool touching,
    const std::function<void()>& now_and_then = [] {}) {
  std::vector<std::uint64_t> log;
  Config config;
  config.grow_min_bytes = kMiB;
  config.grow_max_bytes = 4 * kMiB;
  config.keep_free_bytes = 8 * kMiB;
  auto made = Allocator::create(bind_port(host), config);
  EXPECT_TRUE(made.ok());
  Allocator allocator = std::move(made.value());
  OutsidePolicy inside;
  MemoryCalls calls(allocator, bind_enclave_memory(inside));

  std::mt19937_64 random(seed);
  std::vector<untrusted_bytes> blocks;
  std::vector<PinId> pins;
  std::vector<Extent> mappings;
  std::array<RegionId, 2> pools{};
  const auto log_block = [&](const Result<untrusted_bytes>& block) {
    log.push_back(block.ok() ? block->address() : static_cast<std::uint64_t>(block.error()));
    if (block.ok()) blocks.push_back(*block);
  };
  for (auto& pool : pools) {
    const HostReply place = host.host_reserve(2 * kMiB, kPage);
    AttachOptions options;
    options.device = 4;
    options.device_base = 0x100000;
    const auto attached = allocator.attach({place.address, 2 * kMiB}, options);
    EXPECT_TRUE(attached.ok());
    pool = *attached;
    log.push_back(attached->value);
  }
  for (int step = 0; step < 12000; ++step) {
    if (step % 128 == 0) now_and_then();
    const std::uint64_t dice = random();
    const std::size_t bytes = dice % 32 == 0 ? 1 + (dice >> 8) % 300000 : 1 + (dice >> 8) % 3000;
    switch ((dice >> 40) % 16) {
      case 0:
      case 1:
      case 2:
        log_block(allocator.allocate(bytes));
        break;
      case 3:
        log_block(allocator.allocate(bytes, 64, Placement::in_pool(pools[dice % 2])));
        break;
      case 4:
        log_block(allocator.allocate(bytes, 16, Placement::on_device(4)));
        break;
      case 5:
        if (touching) log_block(allocator.allocate_zeroed(bytes));
        break;
      case 6:
        if (touching && !blocks.empty()) {
          auto& block = blocks[dice % blocks.size()];
          const auto moved = allocator.reallocate(block, bytes);
          log.push_back(moved.ok() ? moved->address() : static_cast<std::uint64_t>(moved.error()));
          if (moved.ok()) block = *moved;
        }
        break;
      case 7:
        if (!blocks.empty()) {
          const auto pin = allocator.pin({blocks[dice % blocks.size()].address(), 1});
          log.push_back(pin.ok() ? pin->value : static_cast<std::uint64_t>(pin.error()));
          if (pin.ok()) pins.push_back(*pin);
        }
        break;
      case 8:
        if (!pins.empty()) {
          log.push_back(static_cast<std::uint64_t>(allocator.unpin(pins.back()).error()));
          pins.pop_back();
        }
        break;
      case 9: {
        const std::size_t pages = 1 + dice % 6;
        if (mappings.size() > 300) break;
        const std::intptr_t at = calls.mmap(0, pages * kPage, kReadWrite, MAP_SHARED, 1, dice);
        log.push_back(static_cast<std::uint64_t>(at));
        if (at > 0) mappings.push_back({static_cast<std::uintptr_t>(at), pages * kPage});
        break;
      }
      case 10:
        if (!mappings.empty()) {
          const Extent mapping = mappings[dice % mappings.size()];
          log.push_back(static_cast<std::uint64_t>(
              calls.mprotect(mapping.base, kPage, static_cast<int>(dice >> 20) % 4)));
          log.push_back(
              static_cast<std::uint64_t>(calls.munmap(mapping.base + mapping.size - kPage, kPage)));
        }
        break;
      default:
        if (!blocks.empty()) {
          auto& block = blocks[dice % blocks.size()];
          log.push_back(static_cast<std::uint64_t>(allocator.deallocate(block).error()));
          if (dice % 64 == 0) {
            log.push_back(static_cast<std::uint64_t>(allocator.deallocate(block).error()));
          }
          block = blocks.back();
          blocks.pop_back();
        }
    }
    if (dice % 1024 == 7) {
      const Statistics s = allocator.statistics();
      log.insert(log.end(), {s.live_bytes, s.cached_bytes, s.free_bytes, s.regions, s.pins});
    }
  }
  EXPECT_TRUE(allocator.validate_books());
  for (const PinId pin : pins) EXPECT_TRUE(allocator.unpin(pin).ok());
  for (const untrusted_bytes block : blocks) EXPECT_TRUE(allocator.deallocate(block).ok());
  for (const RegionId pool : pools) {
    for (auto region = allocator.next_region(0); region.ok();
         region = allocator.next_region(region->extent.end())) {
      if (region->id == pool) {
        log.push_back(static_cast<std::uint64_t>(allocator.detach(region->extent).error()));
      }
    }
  }
  return log;
}

class Threat44_ScribbleEverything : public testing::TestWithParam<std::uint64_t> {};

TEST_P(Threat44_ScribbleEverything, EveryAnswerIsAsInTheQuietRun) {
  std::vector<std::uint64_t> quiet;
  {
    FileHost host(kReadWrite);
    quiet = decisions(host, GetParam(), true);
  }
  ASSERT_GT(quiet.size(), 8000u);
  std::vector<std::uint64_t> scribbled;
  {
    FileHost host(kReadWrite);
    const auto neighbour = Neighbour::start({.descriptor = host.file(), .seed = GetParam()});
    ASSERT_NE(neighbour, nullptr);
    // What is used of the file, again and again, from the first call to the last.
    ASSERT_TRUE(neighbour->add(0, 64 * kMiB));
    scribbled = decisions(host, GetParam(), true,
                          [&] { ASSERT_TRUE(neighbour->wait_for_bytes(kMiB / 16)); });
    EXPECT_GT(neighbour->bytes_written(), 4 * kMiB) << "the neighbour hardly wrote";
  }
  EXPECT_TRUE(scribbled == quiet) << "a decision depended on untrusted bytes";
}

TEST_P(Threat44_ScribbleEverything, WithoutAccessToAnyPageItIsTheSame) {
  std::vector<std::uint64_t> open;
  {
    FileHost host(kReadWrite);
    open = decisions(host, GetParam(), false);
  }
  FileHost host(PROT_NONE);
  EXPECT_TRUE(decisions(host, GetParam(), false) == open);
}
INSTANTIATE_TEST_SUITE_P(Seeds, Threat44_ScribbleEverything, testing::Values(1, 2, 3));

using Words = std::vector<std::uint64_t>;

Words words_of(const FileHost& host) {
  Words words(FileHost::kBytes / sizeof(std::uint64_t));
  for (std::size_t at = 0; at < FileHost::kBytes;) {
    const ssize_t got = pread(host.file(), reinterpret_cast<char*>(words.data()) + at,
                              FileHost::kBytes - at, static_cast<off_t>(at));
    if (got <= 0) std::abort();
    at += static_cast<std::size_t>(got);
  }
  return words;
}

TEST(Threat49_TrustedPointer, NotAByteOfManagedMemoryIsEverWritten) {
  // Every byte has a value that the allocator does not know; a run later each still has it. So
  // neither a pointer nor anything else was left there, and not for a moment either: nothing could
  // have put the old value back unread.
  FileHost host(kReadWrite);
  std::mt19937_64 random(99);
  Words before(FileHost::kBytes / sizeof(std::uint64_t));
  for (std::size_t i = 0; i < 48 * kMiB / sizeof(std::uint64_t); ++i) before[i] = random();
  ASSERT_EQ(pwrite(host.file(), before.data(), 48 * kMiB, 0), static_cast<ssize_t>(48 * kMiB));
  decisions(host, 5, false);
  EXPECT_TRUE(words_of(host) == before);
}

TEST(Threat48_Slack, ZeroedBlocksAndMovesWriteTheirOwnBytesAlone) {
  FileHost host(kReadWrite);
  auto made = Allocator::create(bind_port(host));
  ASSERT_TRUE(made.ok());
  Allocator& allocator = made.value();
  for (const std::size_t bytes : {1u, 7u, 8u, 13u, 100u, 1000u, 5000u, 70001u}) {
    const auto block = allocator.allocate(bytes);
    ASSERT_TRUE(block.ok());
    const std::size_t usable = *allocator.usable_size(*block);
    const std::vector<unsigned char> dirt(usable, 0xdd);
    detail::copy_out_bytes(block->address(), dirt.data(), usable);
    ASSERT_TRUE(allocator.deallocate(*block).ok());
    const auto zeroed = allocator.allocate_zeroed(bytes);
    ASSERT_TRUE(zeroed.ok());
    ASSERT_EQ(zeroed->address(), block->address()) << "the test wants the same block";
    std::vector<unsigned char> back(usable);
    detail::copy_in_bytes(back.data(), zeroed->address(), usable);
    // What was asked for is zero, up to the word; behind it stands what the host saw there before.
    const std::size_t written = (bytes + 7) / 8 * 8;
    for (std::size_t i = 0; i < usable; ++i) ASSERT_EQ(back[i], i < written ? 0 : 0xdd) << i;
    ASSERT_TRUE(allocator.deallocate(*zeroed).ok());
  }
}

TEST(Threat49_TrustedPointer, NoneIsOutsideAfterEverythingThatWrites) {
  FileHost host(kReadWrite);
  decisions(host, 6, true);
  for (const std::uint64_t word : words_of(host)) {
    ASSERT_FALSE((Extent{FileHost::kEnclave, FileHost::kEnclaveBytes}).contains(word))
        << std::hex << word;
  }
}

}  // namespace
}  // namespace exclave
