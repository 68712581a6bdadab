// The C ABI with arbitrary numbers and null pointers. Trusted pointers are a C caller's own: they
// are null or good. What can be promised of every call is checked: an error from the list, results
// written on success alone, books that hold together, blocks that lie apart.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <variant>
#include <vector>

#include "exclave/exclave.h"
#include "fuzz/target.hpp"
#include "support/fake_port.hpp"

namespace exclave::fuzz {

// One call of the C ABI. What a number means depends on the function; `nulls` says which pointer
// arguments are null, `base` what addresses count from.
struct CCall {
  enum class Function {
    kAttach,
    kDetach,
    kQuery,
    kValidate,
    kDeviceAddress,
    kPin,
    kUnpin,
    kAllocate,
    kAllocateAt,
    kAllocateZeroed,
    kReallocate,
    kDeallocate,
    kDeallocateSized,
    kUsableSize,
    kRegionOf,
    kDeallocateHandle,
    kFlushThread,
    kTrim,
    kStatistics,
    kNextRegion,
    kNextRun,
    kValidateBooks,
    kCopies,
    kRing,
    kMmap,
    kMunmap,
    kMprotect,
    kCreate,
    kErrorText,
  } function;
  enum class Base { kZero, kWindow, kBlock, kEnclave, kLast } base;
  unsigned nulls;
  std::uint64_t offset;  // of the address
  std::uint64_t size;
  std::uint64_t more;  // alignment, mode, role, flags
  std::uint64_t other;
};

// A port whose untrusted memory is one mapped window, so that what the library writes into blocks
// goes somewhere. Mappings are numbers only: nothing is mapped or unmapped for them.
class WindowPort : public testing_support::FakePort {
 public:
  static constexpr std::size_t kWindowBytes = std::size_t{64} << 20;

  WindowPort() : FakePort(std::size_t{64} << 20) {
    static void* const window = mmap(nullptr, 2 * kWindowBytes, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (window == MAP_FAILED) std::abort();
    base_ = reinterpret_cast<std::uintptr_t>(window);
  }
  // The lower half is the host's to give, the upper one the caller's to attach.
  Extent grown() const { return {base_, kWindowBytes}; }
  Extent attachable() const { return {base_ + kWindowBytes, kWindowBytes}; }

  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept {
    std::uintptr_t at = align(base_, alignment);
    for (const auto& [base, size] : out_) {
      if (base >= at + bytes) break;
      at = std::max(at, align(base + size, alignment));
    }
    if (bytes > kWindowBytes || at + bytes > grown().end()) return {0, ENOMEM};
    out_.emplace(at, bytes);
    return {at, 0};
  }
  int host_release(std::uintptr_t address, std::size_t bytes) noexcept {
    const auto found = out_.find(address);
    EXPECT_TRUE(found != out_.end() && found->second == bytes);
    if (found != out_.end()) out_.erase(found);
    return 0;
  }
  HostReply host_map(const MapRequest& request) noexcept {
    if ((request.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0) {
      // Else it would give the same place twice.
      if (grown().overlaps({request.hint, request.size})) return {0, EEXIST};
      return {request.hint, 0};
    }
    next_map_ += request.size + kPageBytes;
    return {next_map_ - request.size, 0};
  }
  std::size_t grown_ranges() const { return out_.size(); }

 private:
  static std::uintptr_t align(std::uintptr_t at, std::size_t alignment) {
    return (at + alignment - 1) & ~(alignment - 1);
  }
  std::uintptr_t base_ = 0;
  std::uintptr_t next_map_ = kAttachBase;
  std::map<std::uintptr_t, std::size_t> out_;
};

class CApiRun {
 public:
  CApiRun() {
    exclave_config config;
    exclave_config_init(&config);
    config.grow_min_bytes = std::size_t{1} << 20;
    config.grow_max_bytes = std::size_t{4} << 20;
    config.keep_free_bytes = 0;
    const exclave_port table = bind_port(port_);
    EXPECT_EQ(exclave_create(&table, &config, &allocator_), EXCLAVE_OK);
    inside_.context = this;
    inside_.map = [](void*, uintptr_t, size_t, int, int, int, uint64_t) -> intptr_t {
      return -ENOMEM;
    };
    inside_.unmap = [](void*, uintptr_t, size_t) { return 0; };
    inside_.protect = [](void*, uintptr_t, size_t, int) { return 0; };
    inside_.lies_outside = [](void*, int, int flags, int, uint64_t) {
      return (flags & MAP_SHARED) != 0 ? 1 : 0;
    };
  }
  ~CApiRun() {
    for (const exclave_pin_id pin : pins_) {
      EXPECT_EQ(exclave_unpin(allocator_, pin), EXCLAVE_OK);
    }
    for (const auto& [at, size] : blocks_) {
      EXPECT_EQ(exclave_deallocate(allocator_, at), EXCLAVE_OK);
    }
    exclave_statistics end;
    exclave_get_statistics(allocator_, &end);
    EXPECT_EQ(end.live_blocks, 0u);
    EXPECT_TRUE(exclave_validate_books(allocator_));
    exclave_destroy(allocator_);
    EXPECT_EQ(port_.grown_ranges(), 0u);
    EXPECT_EQ(port_.trusted_held(), 0u);
  }
  CApiRun(const CApiRun&) = delete;
  CApiRun& operator=(const CApiRun&) = delete;

  void perform(const CCall& o) {
    call(o);
    // It walks all the books: each time at first, when inputs are short, then now and then.
    if (++steps_ < 16 || steps_ % 8 == 0) EXPECT_TRUE(exclave_validate_books(allocator_));
  }

 private:
  static constexpr exclave_address kUnwritten = 0x5555555555555555;

  exclave_address address_of(const CCall& o) const {
    switch (o.base) {
      case CCall::Base::kZero:
        return o.offset;
      case CCall::Base::kWindow:
        return port_.attachable().base + o.offset % WindowPort::kWindowBytes;
      case CCall::Base::kBlock: {
        if (blocks_.empty()) return o.offset;
        auto block = blocks_.begin();
        std::advance(block, static_cast<std::ptrdiff_t>(o.other % blocks_.size()));
        return block->first + o.offset;
      }
      case CCall::Base::kEnclave:
        return reinterpret_cast<exclave_address>(allocator_) + o.offset;
      case CCall::Base::kLast:
        break;
    }
    return last_ + o.offset;
  }
  static void check_error(int error) {
    EXPECT_TRUE(error >= EXCLAVE_OK && error <= EXCLAVE_TOO_MANY_THREADS) << error;
  }
  // A result is written exactly when the call succeeds.
  template <class T>
  static void check_result(int error, bool asked, const T& result) {
    check_error(error);
    T unwritten;
    std::memset(&unwritten, 0x55, sizeof unwritten);
    const bool written = std::memcmp(&unwritten, &result, sizeof result) != 0;
    EXPECT_EQ(written, asked && error == EXCLAVE_OK);
  }
  template <class T>
  static T unwritten() {
    T value;
    std::memset(&value, 0x55, sizeof value);
    return value;
  }
  void add_block(exclave_address at, std::size_t size) {
    const Extent extent{at, size};
    EXPECT_NE(at, 0u);
    EXPECT_FALSE(extent.overlaps(port_.enclave()));
    EXPECT_TRUE(port_.grown().covers(extent) || port_.attachable().covers(extent));
    const auto next = blocks_.lower_bound(at);
    EXPECT_TRUE(next == blocks_.end() || next->first >= extent.end());
    if (next != blocks_.begin()) {
      EXPECT_LE(std::prev(next)->first + std::prev(next)->second, at);
    }
    blocks_.emplace(at, size);
    last_ = at;
  }
  // Blocks of pools that were revoked are nobody's.
  void forget_stale() {
    for (auto block = blocks_.begin(); block != blocks_.end();) {
      std::size_t usable = 0;
      if (exclave_usable_size(allocator_, block->first, &usable) == EXCLAVE_OK) {
        ++block;
      } else {
        block = blocks_.erase(block);
      }
    }
  }

  void call(const CCall& o) {
    const exclave_address at = address_of(o);
    exclave_allocator* const a = (o.nulls & 1) != 0 ? nullptr : allocator_;
    const bool out = (o.nulls & 2) == 0;
    exclave_placement where{static_cast<int>(o.other % 5) - 1, static_cast<std::uint32_t>(o.more),
                            last_region_};
    const exclave_placement* const place = (o.nulls & 4) != 0 ? nullptr : &where;
    const auto number = static_cast<std::size_t>(o.more);
    switch (o.function) {
      case CCall::Function::kAttach: {
        exclave_attach_options options;
        exclave_attach_options_init(&options);
        options.role = static_cast<int>(o.more % 5) - 1;
        options.protection = static_cast<unsigned>(o.more >> 3) % 6;
        options.device = static_cast<std::uint32_t>(o.other % 3);
        options.open_to_all = (o.more & 64) != 0;
        if ((o.more & 128) != 0) options.boundary = static_cast<std::size_t>(o.other);
        if ((o.more & 256) != 0) options.device_base = o.other;
        if ((o.more & 512) != 0) options.largest_block = static_cast<std::size_t>(o.other);
        auto id = unwritten<exclave_region_id>();
        // A pool's books grow with it.
        if (o.size > std::size_t{1} << 30 && o.size < std::size_t{1} << 48) return;
        const int error = exclave_attach(a, at, o.size, (o.nulls & 4) != 0 ? nullptr : &options,
                                         out ? &id : nullptr);
        check_result(error, out, id);
        if (error != EXCLAVE_OK) return;
        if (out) last_region_ = id;
        last_ = at;
        // Memory that is not ours to write to goes again before a block lies there.
        if (!port_.attachable().covers({at, o.size})) {
          EXPECT_EQ(exclave_detach(allocator_, at, o.size, EXCLAVE_DETACH_BUSY), EXCLAVE_OK);
        }
        return;
      }
      case CCall::Function::kDetach:
        check_error(exclave_detach(a, at, o.size, static_cast<int>(o.more % 5) - 1));
        forget_stale();
        return;
      case CCall::Function::kQuery: {
        auto info = unwritten<exclave_region_info>();
        check_result(exclave_query(a, at, o.size, out ? &info : nullptr), out, info);
        return;
      }
      case CCall::Function::kValidate:
        check_error(exclave_validate(a, at, o.size, static_cast<unsigned>(o.more)));
        return;
      case CCall::Function::kDeviceAddress: {
        auto device = unwritten<std::uint64_t>();
        check_result(exclave_device_address(a, at, out ? &device : nullptr), out, device);
        return;
      }
      case CCall::Function::kPin: {
        auto pin = unwritten<exclave_pin_id>();
        const int error = exclave_pin(a, at, o.size, out ? &pin : nullptr);
        check_result(error, out, pin);
        if (error == EXCLAVE_OK) pins_.push_back(pin);
        return;
      }
      case CCall::Function::kUnpin:
        if (!pins_.empty() && o.other % 2 == 0) {
          const std::size_t i = number % pins_.size();
          EXPECT_EQ(exclave_unpin(allocator_, pins_[i]), EXCLAVE_OK);
          pins_.erase(pins_.begin() + static_cast<std::ptrdiff_t>(i));
          forget_stale();
        } else if (std::find(pins_.begin(), pins_.end(), o.more) == pins_.end()) {
          EXPECT_NE(exclave_unpin(a, o.more), EXCLAVE_OK);
        }
        return;
      case CCall::Function::kAllocate:
      case CCall::Function::kAllocateAt:
      case CCall::Function::kAllocateZeroed: {
        auto block = unwritten<exclave_address>();
        exclave_address* const to = out ? &block : nullptr;
        const auto size = static_cast<std::size_t>(o.size);
        const int error = o.function == CCall::Function::kAllocate ? exclave_allocate(a, size, to)
                          : o.function == CCall::Function::kAllocateAt
                              ? exclave_allocate_at(a, size, number, place, to)
                              : exclave_allocate_zeroed(a, size, number, place, to);
        check_result(error, out, block);
        if (error != EXCLAVE_OK) return;
        add_block(block, size);
        if (o.function == CCall::Function::kAllocateZeroed) {
          std::uint8_t bytes[64] = {1};
          const std::size_t some = std::min<std::size_t>(size, sizeof bytes);
          exclave_copy_in(bytes, block + size - some, some);
          EXPECT_TRUE(std::all_of(bytes, bytes + some, [](std::uint8_t b) { return b == 0; }));
        }
        return;
      }
      case CCall::Function::kReallocate: {
        exclave_address block = at;
        const int error = exclave_reallocate(a, out ? &block : nullptr,
                                             static_cast<std::size_t>(o.size), number, place);
        check_error(error);
        if (error != EXCLAVE_OK) {
          EXPECT_EQ(block, at);
          return;
        }
        EXPECT_TRUE(at == 0 || blocks_.erase(at) == 1) << "there was no such block";
        forget_stale();
        add_block(block, static_cast<std::size_t>(o.size));
        return;
      }
      case CCall::Function::kDeallocate:
      case CCall::Function::kDeallocateSized:
      case CCall::Function::kDeallocateHandle: {
        const bool lives = blocks_.count(at) != 0;
        const int error = o.function == CCall::Function::kDeallocate ? exclave_deallocate(a, at)
                          : o.function == CCall::Function::kDeallocateSized
                              ? exclave_deallocate_sized(a, at, o.size, number)
                              : exclave_deallocate_handle(a, at, last_region_);
        check_error(error);
        if (error == EXCLAVE_OK) {
          EXPECT_TRUE(lives || at == 0) << "a free of nothing went through";
          blocks_.erase(at);
        } else if (o.function == CCall::Function::kDeallocate && a != nullptr) {
          EXPECT_FALSE(lives) << error;
        }
        return;
      }
      case CCall::Function::kUsableSize: {
        auto size = unwritten<std::size_t>();
        const int error = exclave_usable_size(a, at, out ? &size : nullptr);
        check_result(error, out, size);
        if (error == EXCLAVE_OK) {
          EXPECT_EQ(blocks_.count(at), 1u);
          EXPECT_GE(size, blocks_[at]);
        }
        return;
      }
      case CCall::Function::kRegionOf: {
        auto region = unwritten<exclave_region_id>();
        check_result(exclave_region_of(a, at, out ? &region : nullptr), out, region);
        return;
      }
      case CCall::Function::kFlushThread:
        exclave_flush_thread(a);
        return;
      case CCall::Function::kTrim:
        exclave_trim(a);
        return;
      case CCall::Function::kStatistics: {
        exclave_statistics s{};
        exclave_get_statistics(a, out ? &s : nullptr);
        EXPECT_EQ(s.live_bytes + s.cached_bytes + s.free_bytes + s.overhead_bytes,
                  s.reserved_bytes);
        if (a != nullptr && out) {
          EXPECT_EQ(s.live_blocks, blocks_.size());
        }
        return;
      }
      case CCall::Function::kNextRegion: {
        auto info = unwritten<exclave_region_info>();
        check_result(exclave_next_region(a, at, out ? &info : nullptr), out, info);
        return;
      }
      case CCall::Function::kNextRun: {
        auto info = unwritten<exclave_run_info>();
        check_result(exclave_next_run(a, at, out ? &info : nullptr), out, info);
        return;
      }
      case CCall::Function::kValidateBooks:
        EXPECT_EQ(exclave_validate_books(a), a != nullptr);
        return;
      case CCall::Function::kCopies:
        copies(o);
        return;
      case CCall::Function::kRing:
        ring(o);
        return;
      case CCall::Function::kMmap:
      case CCall::Function::kMunmap:
      case CCall::Function::kMprotect:
        memory_call(o, a, at);
        return;
      case CCall::Function::kCreate:
        create(o);
        return;
      case CCall::Function::kErrorText:
        EXPECT_NE(exclave_error_text(static_cast<int>(o.more)), nullptr);
        return;
    }
  }

  // Into a block and back: the bytes that a caller may use are his.
  void copies(const CCall& o) {
    if (blocks_.empty()) return;
    auto block = blocks_.begin();
    std::advance(block, static_cast<std::ptrdiff_t>(o.other % blocks_.size()));
    const auto [at, size] = *block;
    const std::size_t offset = static_cast<std::size_t>(o.offset) % size;
    std::vector<std::uint8_t> bytes(std::min(size - offset, std::size_t{4096}));
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(o.more + i);
    exclave_copy_out(at + offset, bytes.data(), bytes.size());
    std::vector<std::uint8_t> back(bytes.size());
    exclave_copy_in(back.data(), at + offset, back.size());
    EXPECT_TRUE(back == bytes);
    exclave_fill_zero(at + offset, bytes.size());
    if (size >= 8) {
      exclave_store_u64(at / 8 * 8, o.more);
      EXPECT_EQ(exclave_load_u64(at / 8 * 8), o.more);
      exclave_store_u32(at / 8 * 8 + 4, static_cast<std::uint32_t>(o.more));
      EXPECT_EQ(exclave_load_u32(at / 8 * 8 + 4), static_cast<std::uint32_t>(o.more));
    }
  }

  void ring(const CCall& o) {
    alignas(64) static std::uint8_t memory[128 + 1024];
    std::memset(memory, 0, sizeof memory);
    exclave_ring_producer producer{};
    exclave_ring_consumer consumer{};
    // Nobody has given these a ring yet.
    std::uint8_t bytes[64] = {7};
    const auto size = static_cast<std::size_t>(o.size % sizeof bytes);
    EXPECT_EQ(exclave_ring_write((o.nulls & 1) ? nullptr : &producer, bytes, 1 + size % 63),
              EXCLAVE_INVALID_ARGUMENT);
    const auto at = reinterpret_cast<exclave_address>(memory) + (o.offset % 4 == 0 ? 1 : 0);
    const std::size_t room = o.more % 3 == 0 ? static_cast<std::size_t>(o.other % sizeof memory)
                                             : exclave_ring_bytes(64u << (o.more % 5));
    const int made = exclave_ring_producer_init((o.nulls & 2) ? nullptr : &producer, at, room);
    const int ours = exclave_ring_consumer_init((o.nulls & 4) ? nullptr : &consumer, at, room);
    check_error(made);
    check_error(ours);
    if (made != EXCLAVE_OK || ours != EXCLAVE_OK) return;
    const int written = exclave_ring_write(&producer, (o.nulls & 8) ? nullptr : bytes, size);
    check_error(written);
    if (written != EXCLAVE_OK) return;
    std::uint8_t back[64] = {};
    EXPECT_EQ(exclave_ring_read(&consumer, back, size), EXCLAVE_OK);
    EXPECT_EQ(std::memcmp(bytes, back, size), 0);
  }

  void memory_call(const CCall& o, exclave_allocator* a, exclave_address at) {
    const exclave_enclave_memory* const inside = (o.nulls & 8) != 0 ? nullptr : &inside_;
    const auto length = static_cast<std::size_t>(o.size);
    if (o.function == CCall::Function::kMmap) {
      const int flags = static_cast<int>(o.more >> 32) & ~MAP_ANONYMOUS;
      const std::intptr_t answer =
          exclave_mmap(a, inside, at, length, static_cast<int>(o.more % 9), flags, 3, o.other);
      EXPECT_TRUE(answer > 0 || (answer < 0 && answer > -4096)) << answer;
      EXPECT_TRUE(answer < 0 || (a != nullptr && inside != nullptr));
      if (answer <= 0) return;
      last_ = static_cast<exclave_address>(answer);
      const Extent got{last_, length};
      EXPECT_FALSE(got.overlaps(port_.enclave()));
      for (const auto& [block, size] : blocks_) EXPECT_FALSE(got.overlaps({block, size}));
      // The books are walked page by page.
      if (length > std::size_t{1} << 24) {
        EXPECT_EQ(exclave_munmap(allocator_, &inside_, last_, length), 0);
      }
      return;
    }
    const int answer = o.function == CCall::Function::kMunmap
                           ? exclave_munmap(a, inside, at, length)
                           : exclave_mprotect(a, inside, at, length, static_cast<int>(o.more % 16));
    EXPECT_TRUE(answer == 0 || (answer < 0 && answer > -4096)) << answer;
  }

  // An allocator of its own, from any configuration and a table with holes.
  void create(const CCall& o) {
    testing_support::FakePort port(std::size_t{1} << 22);
    exclave_port table = bind_port(port);
    if (o.other % 16 == 1) table.enclave = nullptr;
    if (o.other % 16 == 2) table.book_window = nullptr;
    if (o.other % 16 == 3) table.trusted_reserve = nullptr;
    if (o.other % 16 == 4) table.trusted_release = nullptr;
    if (o.other % 16 == 5) table.entropy = nullptr;
    if (o.other % 16 == 6) table.host_reserve = nullptr;
    if (o.other % 16 == 7) table.host_release = nullptr;
    if (o.other % 16 == 8) table.has_avx = nullptr;
    if (o.other % 16 == 9) port.set_trusted_left(static_cast<std::size_t>(o.offset % (1 << 20)));
    exclave_config config;
    exclave_config_init(&config);
    config.quota_bytes = static_cast<std::size_t>(o.offset);
    config.grow_min_bytes = static_cast<std::size_t>(o.size);
    config.grow_max_bytes = static_cast<std::size_t>(o.more);
    config.keep_free_bytes = static_cast<std::size_t>(o.other);
    auto* made = reinterpret_cast<exclave_allocator*>(kUnwritten);
    const int error = exclave_create((o.nulls & 1) != 0 ? nullptr : &table,
                                     (o.nulls & 4) != 0 ? nullptr : &config,
                                     (o.nulls & 2) != 0 ? nullptr : &made);
    check_error(error);
    EXPECT_EQ(made == reinterpret_cast<exclave_allocator*>(kUnwritten), error != EXCLAVE_OK);
    if (error == EXCLAVE_OK) {
      exclave_address block = kUnwritten;
      const int got = exclave_allocate(made, 100, &block);
      check_error(got);
      EXPECT_EQ(block == kUnwritten, got != EXCLAVE_OK);
      EXPECT_TRUE(exclave_validate_books(made));
      exclave_destroy(made);
    }
    EXPECT_EQ(port.trusted_held(), 0u);
    EXPECT_EQ(port.ranges_out(), 0u);
  }

  WindowPort port_;
  exclave_allocator* allocator_ = nullptr;
  exclave_enclave_memory inside_{};
  std::map<exclave_address, std::size_t> blocks_;
  std::vector<exclave_pin_id> pins_;
  exclave_address last_ = 0;
  exclave_region_id last_region_ = 0;
  std::size_t steps_ = 0;
};

inline std::string cpp_of(const CCall& o) {
  return cpp_call("fuzz::CCall", cpp_enum("fuzz::CCall::Function", o.function),
                  cpp_enum("fuzz::CCall::Base", o.base), o.nulls, o.offset, o.size, o.more,
                  o.other);
}

}  // namespace exclave::fuzz
