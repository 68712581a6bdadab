// A reference model of the allocator: maps instead of bitmaps, and every rule of the contract
// spelled out.
//
// next() draws a typed operation from a seed, perform() performs it on the allocator and on the
// model, and compares results and state. All that the allocator decides goes to decisions(), so
// that two runs can be compared. No operation touches a block's memory.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

#include "page/run_class.hpp"
#include "slab/size_class.hpp"
#include "support/allocator_operations.hpp"
#include "support/fake_allocator.hpp"

namespace exclave::testing_support {

class AllocatorModel {
 public:
  struct Options {
    // Where the model attaches memory: places of kPlaceBytes, two in a row with none between.
    std::uintptr_t attach_base = FakePort::kAttachBase;
    // Other models use the same allocator on other threads: no open pools, no sums.
    bool shared = false;
    DeviceTag first_device = 1;
    std::size_t largest_allocation = 3 * kMiBytes;
    std::size_t most_blocks = 300;
    // The host's memory is there for good: growing may not fail.
    bool host_is_generous = true;
  };
  static constexpr std::size_t kPlaces = 12;
  static constexpr std::size_t kPlaceBytes = std::size_t{1} << 20;

  AllocatorModel(Allocator& allocator, std::uint64_t seed, const Options& options)
      : allocator_(allocator), options_(options), random_(seed), seed_(seed) {}

  Operation next() {
    const auto size = [this] {
      switch (pick(8)) {
        case 0:
          return 1 + pick(options_.largest_allocation);
        case 1:
        case 2:
          return 1 + pick(60000);
        default:
          return 1 + pick(1000);
      }
    };
    switch (pick(24)) {
      case 0:
        return AttachOp{pick(kPlaces), pick(4), 1 + pick(pick(3) == 0 ? 250 : 20),
                        attach_options()};
      case 1:
        return DetachOp{pick(kPlaces), static_cast<DetachMode>(pick(3))};
      case 2:
        return DetachPagesOp{pick(kPlaces), pick(30), 1 + pick(10)};
      case 3:
        return PinOp{static_cast<PinOp::What>(pick(3)), pick(1 << 20), pick(1 << 20),
                     1 + pick(1 << 14)};
      case 4:
      case 5:
        return UnpinOp{pick(1 << 20)};
      case 6:
        return QueryOp{options_.attach_base + pick(kPlaces * kPlaceBytes),
                       pick(4) == 0 ? 0 : pick(std::size_t{1} << pick(64))};
      case 7:
        return BadFreeOp{static_cast<BadFreeOp::Kind>(pick(5)), pick(1 << 20), pick(1 << 20)};
      case 8:
        return ResizeOp{pick(1 << 20), pick(1 << 22)};
      case 9:
        if (pick(10) == 0) return TrimOp{};
        if (pick(4) == 0) return FlushOp{};
        [[fallthrough]];
      default:
        // Around a number of blocks that goes up and down.
        if (pick(options_.most_blocks) > blocks_.size() / (1 + step_ / 500 % 3)) {
          return AllocateOp{size(), pick(5) == 0 ? std::size_t{1} << pick(21) : 16,
                            static_cast<Placement::Kind>(pick(3)), pick(1 << 20)};
        }
        return FreeOp{static_cast<FreeOp::Form>(pick(3)), pick(1 << 20)};
    }
  }

  // Draws and performs one operation.
  void step() { perform(next()); }

  // On failure it prints what to run again.
  void perform(const Operation& operation) {
    std::ostringstream where;
    where << "seed " << seed_ << ", step " << step_ << ": " << cpp_of(operation);
    SCOPED_TRACE(where.str());
    std::visit([this](const auto& o) { apply(o); }, operation);
    if (!options_.shared && step_ % 8 == 0) check_statistics();
    ++step_;
  }

  // ---- State ----

  const std::vector<std::uint64_t>& decisions() const { return decisions_; }
  std::size_t live_blocks() const {
    return static_cast<std::size_t>(std::count_if(
        blocks_.begin(), blocks_.end(), [](const auto& entry) { return !entry.second.freed; }));
  }
  std::vector<Extent> block_extents() const {
    std::vector<Extent> extents;
    for (const auto& [at, block] : blocks_) extents.push_back({at, block.usable});
    return extents;
  }
  // Moves every third block of grown memory, unless pinned, to another model, whose thread will
  // free it.
  void give_blocks_to(AllocatorModel& other) {
    std::size_t n = 0;
    for (auto it = blocks_.begin(); it != blocks_.end();) {
      if (it->second.pool == 0 && !is_pinned(it->first, it->second) && ++n % 3 == 0) {
        other.blocks_.insert(*it);
        it = blocks_.erase(it);
      } else {
        ++it;
      }
    }
  }

  void check_statistics() {
    const Statistics s = allocator_.statistics();
    EXPECT_TRUE(sums_up(s));
    std::size_t live_bytes = 0;
    for (const auto& [at, block] : blocks_) live_bytes += block.freed ? 0 : block.usable;
    EXPECT_EQ(s.live_blocks, live_blocks());
    EXPECT_EQ(s.live_bytes, live_bytes);
    EXPECT_EQ(s.pins, pins_.size());
    EXPECT_EQ(s.mapping_bytes, mapping_pages_.size() * kPageBytes);
    std::size_t pool_bytes = 0;
    for (const auto& [base, pool] : pools_) pool_bytes += pool.extent.size;
    EXPECT_EQ(s.reserved_bytes - s.grown_bytes, pool_bytes);
    EXPECT_EQ(s.misuse_refused, misuses_);
  }

  // Undoes everything: at the end nothing may be left.
  void drain() {
    SCOPED_TRACE("seed " + std::to_string(seed_) + ", drain");
    while (!pins_.empty()) apply(UnpinOp{0});
    while (!blocks_.empty()) apply(FreeOp{FreeOp::Form::kSized, 0});
    while (!pools_.empty()) {
      apply(DetachOp{(pools_.begin()->first - options_.attach_base) / kPlaceBytes,
                     DetachMode::kBusy});
    }
    while (!mapping_pages_.empty()) {
      const std::uintptr_t page = mapping_pages_.begin()->first;
      EXPECT_TRUE(allocator_.detach({page, kPageBytes}).ok());
      forget_mapping_pages({page, kPageBytes});
    }
  }

 private:
  struct Block {
    std::size_t size;
    std::size_t alignment;
    std::size_t usable;
    std::uint64_t region;  // id
    std::uintptr_t pool;   // base of its pool; 0: grown
    bool freed = false;    // while pinned
  };
  struct PoolModel {
    Extent extent;
    std::uint64_t id;
    AttachOptions options;
    bool draining = false;
  };
  struct PinModel {
    std::uint64_t id;
    Extent extent;
    std::uintptr_t whole_pool;  // its base; 0: of a block or of pages
  };
  struct MappingPage {
    std::uint64_t id;
    Protection protection;
    std::uint64_t device_base;  // of this page
  };
  using Blocks = std::map<std::uintptr_t, Block>;

  std::size_t pick(std::size_t below) { return static_cast<std::size_t>(random_() % below); }
  void decide(std::uint64_t what) { decisions_.push_back(what); }
  std::uintptr_t place_base(std::size_t place) const {
    return options_.attach_base + place * kPlaceBytes;
  }

  AttachOptions attach_options() {
    AttachOptions options;
    options.role = pick(3) == 0 ? Role::kMapping : Role::kPool;
    if (pick(2) == 0) options.device = options_.first_device + static_cast<DeviceTag>(pick(3));
    if (options.role == Role::kMapping) {
      options.protection = static_cast<Protection>(pick(4));
      if (pick(2) == 0) options.device_base = pick(1000) * kPageBytes;
      return options;
    }
    options.open_to_all = !options_.shared && pick(4) == 0;
    if (pick(6) == 0) options.largest_block = 1 + pick(100000);
    if (pick(6) == 0) options.boundary = kPageBytes << pick(5);
    if (pick(3) == 0) options.device_base = 16 * kPlaceBytes;  // corrected when the base is known
    return options;
  }

  // ---- Blocks ----

  Blocks::iterator chosen_block(std::size_t index) {
    if (blocks_.empty()) return blocks_.end();
    // A fair choice without walking a long map.
    auto it = blocks_.lower_bound(last_chosen_);
    if (it == blocks_.end()) it = blocks_.begin();
    for (std::size_t i = index % 7; i != 0; --i) {
      if (++it == blocks_.end()) it = blocks_.begin();
    }
    last_chosen_ = it->first + 1;
    return it;
  }
  bool is_pinned(std::uintptr_t at, const Block& block) const {
    return std::any_of(pins_.begin(), pins_.end(), [&](const PinModel& pin) {
      return pin.whole_pool == 0 && pin.extent.overlaps({at, block.usable});
    });
  }
  std::size_t blocks_in(std::uintptr_t pool) const {
    return static_cast<std::size_t>(
        std::count_if(blocks_.begin(), blocks_.end(),
                      [&](const auto& entry) { return entry.second.pool == pool; }));
  }

  void apply(const AllocateOp& o) {
    Placement where;
    std::vector<const PoolModel*> allowed;
    bool known = true;
    if (o.where == Placement::Kind::kPool && !pools_.empty()) {
      auto chosen = pools_.begin();
      std::advance(chosen, static_cast<std::ptrdiff_t>(o.target % pools_.size()));
      where = Placement::in_pool(RegionId{chosen->second.id});
      if (!chosen->second.draining) allowed.push_back(&chosen->second);
      known = !allowed.empty();
    } else if (o.where == Placement::Kind::kDevice) {
      where = Placement::on_device(options_.first_device + static_cast<DeviceTag>(o.target % 4));
      known = false;
      for (const auto& [base, pool] : pools_) {
        if (pool.options.device != where.device) continue;
        known = true;
        if (!pool.draining) allowed.push_back(&pool);
      }
    } else {
      for (const auto& [base, pool] : pools_) {
        if (pool.options.open_to_all && !pool.draining) allowed.push_back(&pool);
      }
    }
    const Result<untrusted_bytes> got = allocator_.allocate(o.size, o.alignment, where);
    decide(got.ok() ? got->address() : static_cast<std::uint64_t>(got.error()));
    if (!got.ok()) {
      if (!known) {
        EXPECT_EQ(got.error(), Error::kNotFound);
        return;
      }
      if (where.kind == Placement::Kind::kAnywhere && !options_.host_is_generous) return;
      ASSERT_NE(where.kind, Placement::Kind::kAnywhere) << error_text(got.error());
      EXPECT_EQ(got.error(), Error::kOutOfMemory);
      // An empty pool serves whatever fits it.
      for (const PoolModel* pool : allowed) {
        const bool limited = pool->options.largest_block != 0 || pool->options.boundary != 0;
        EXPECT_TRUE(limited || o.alignment > kPageBytes || o.size > pool->extent.size ||
                    blocks_in(pool->extent.base) != 0)
            << "an empty pool of " << pool->extent.size << " refused " << o.size;
      }
      return;
    }
    const std::uintptr_t at = got->address();
    const Result<std::size_t> usable = allocator_.usable_size(*got);
    ASSERT_TRUE(usable.ok());
    const Extent extent{at, *usable};
    EXPECT_GE(*usable, o.size);
    EXPECT_EQ(*usable % 8, 0u);
    EXPECT_EQ(at % o.alignment, 0u);
    const auto next = blocks_.lower_bound(at);
    if (next != blocks_.end()) {
      EXPECT_GE(next->first, extent.end()) << "overlaps";
    }
    if (next != blocks_.begin()) {
      EXPECT_LE(std::prev(next)->first + std::prev(next)->second.usable, at) << "overlaps";
    }
    Block block{o.size, o.alignment, *usable, 0, 0};
    const auto pool = std::find_if(allowed.begin(), allowed.end(),
                                   [&](const PoolModel* p) { return p->extent.covers(extent); });
    const Result<RegionInfo> region = allocator_.query(at, *usable);
    ASSERT_TRUE(region.ok());
    block.region = region->id.value;
    if (pool != allowed.end()) {
      const PoolModel& in = **pool;
      block.pool = in.extent.base;
      EXPECT_EQ(region->id.value, in.id);
      EXPECT_TRUE(in.options.largest_block == 0 || o.size <= in.options.largest_block);
      if (in.options.boundary != 0) {
        EXPECT_EQ(at / in.options.boundary, (at + o.size - 1) / in.options.boundary);
      }
    } else {
      EXPECT_EQ(where.kind, Placement::Kind::kAnywhere);
      EXPECT_TRUE(region->grown);
    }
    blocks_.emplace(at, block);
  }

  void apply(const FreeOp& o) {
    const auto it = chosen_block(o.block);
    if (it == blocks_.end()) return;
    const auto [at, block] = *it;
    Error error = Error::kNone;
    switch (o.form) {
      case FreeOp::Form::kPlain:
        error = allocator_.deallocate(bytes_at(at)).error();
        break;
      case FreeOp::Form::kSized:
        error = allocator_.deallocate(bytes_at(at), block.size, block.alignment).error();
        break;
      case FreeOp::Form::kHandle:
        error = allocator_.deallocate_handle(bytes_at(at), RegionId{block.region}).error();
        break;
    }
    if (block.freed) {
      EXPECT_EQ(error, Error::kDoubleFree) << "freed already, while pinned";
      ++misuses_;
      return;
    }
    ASSERT_EQ(error, Error::kNone);
    if (is_pinned(at, block)) {
      it->second.freed = true;
      return;
    }
    note_freed(at, block);
    blocks_.erase(it);
    finish_drain(block.pool);
  }

  void note_freed(std::uintptr_t at, const Block& block) {
    last_freed_ = block.pool == 0 ? at : last_freed_;
  }

  void apply(const BadFreeOp& o) {
    std::uintptr_t address = 0;
    Error expected = Error::kNone;
    const auto it = chosen_block(o.block);
    switch (o.kind) {
      case BadFreeOp::Kind::kAgain:
        if (last_freed_ == 0 || blocks_.count(last_freed_) != 0 || options_.shared) return;
        address = last_freed_;
        break;
      case BadFreeOp::Kind::kInterior:
        if (it == blocks_.end()) return;
        address = it->first + 1 + o.offset % (it->second.usable - 1);
        expected = Error::kInteriorFree;
        break;
      case BadFreeOp::Kind::kForeign:
        address = options_.attach_base + (kPlaces + 1) * kPlaceBytes + o.offset;
        expected = Error::kForeignFree;
        break;
      case BadFreeOp::Kind::kWrongSize:
        if (it == blocks_.end() || it->second.freed) return;
        ++misuses_;
        EXPECT_EQ(
            allocator_
                .deallocate(bytes_at(it->first), it->second.usable * 2 + 1, it->second.alignment)
                .error(),
            Error::kWrongSize);
        return;
      case BadFreeOp::Kind::kGone:
        if (it == blocks_.end()) return;
        EXPECT_EQ(allocator_.deallocate_handle(bytes_at(it->first), RegionId{it->second.region + 1})
                      .error(),
                  Error::kStale);
        return;
    }
    ++misuses_;
    const Error error = allocator_.deallocate(bytes_at(address)).error();
    if (expected != Error::kNone) {
      EXPECT_EQ(error, expected);
    } else {
      // Depends on what its memory serves now.
      EXPECT_TRUE(error == Error::kDoubleFree || error == Error::kForeignFree ||
                  error == Error::kInteriorFree)
          << error_text(error);
    }
  }

  void apply(const ResizeOp& o) {
    const auto it = chosen_block(o.block);
    if (it == blocks_.end() || it->second.freed || is_pinned(it->first, it->second)) return;
    Block& block = it->second;
    // Only what is sure to stay in place, for the memory may not be touched.
    const bool pages = block.usable > kMaxSmallBytes;
    // (A few pages at a large alignment are of no size class: those would move.)
    if (!pages && size_class_bytes(size_class_of(block.usable)) != block.usable) return;
    const std::size_t size =
        pages ? kMaxSmallBytes + 1 + o.size % (block.usable - kMaxSmallBytes) : block.usable;
    if (block.pool != 0) {
      const std::size_t largest = pools_.at(block.pool).options.largest_block;
      if (largest != 0 && size > largest) return;  // it would have to leave its pool
    }
    const Result<RegionInfo> region = allocator_.query(it->first, 1);
    ASSERT_TRUE(region.ok());
    const Result<untrusted_bytes> got = allocator_.reallocate(bytes_at(it->first), size);
    if (const auto pool = pools_.find(block.pool); pool != pools_.end()) {
      const PoolModel& in = pool->second;
      if (in.options.largest_block != 0 && size > in.options.largest_block) {
        // It has more bytes than a block may be asked for there.
        EXPECT_EQ(got.error(), in.draining ? Error::kNotFound : Error::kOutOfMemory);
        return;
      }
    }
    ASSERT_TRUE(got.ok());
    EXPECT_EQ(got->address(), it->first);
    const Result<std::size_t> usable = allocator_.usable_size(*got);
    ASSERT_TRUE(usable.ok());
    std::size_t expected = block.usable;
    if (pages) {
      // To its class' length, unless it was given to the page when memory was short.
      const std::size_t rounded = round_run(pages_for(size)) * kPageBytes;
      expected = region->grown && rounded <= block.usable ? rounded : pages_for(size) * kPageBytes;
    }
    EXPECT_EQ(*usable, expected);
    decide(*usable);
    block.usable = *usable;
    if (pages) {
      // A run of pages at any alignment has these.
      block.size = size;
      block.alignment = 16;
    }
  }

  // ---- Regions ----

  static void on_gone(void* context, std::uint64_t id, std::uintptr_t base, std::size_t size) {
    AllocatorModel& model = *static_cast<AllocatorModel*>(context);
    model.gone_.push_back({id, {base, size}});
    // It may call back in: a query, and a block.
    EXPECT_FALSE(model.allocator_.query(base, size).ok());
    if (model.options_.host_is_generous) {
      const Result<untrusted_bytes> block = model.allocator_.allocate(24);
      // The books of huge regions may have taken what there was.
      if (block.error() == Error::kOutOfTrustedMemory) return;
      EXPECT_TRUE(block.ok()) << error_text(block.error());
      EXPECT_TRUE(model.allocator_.deallocate(*block).ok());
    }
  }
  void expect_gone(std::uint64_t id, Extent extent) {
    ASSERT_EQ(gone_.size(), 1u);
    EXPECT_EQ(gone_[0].first, id);
    EXPECT_EQ(gone_[0].second, extent);
    gone_.clear();
  }

  bool is_known(Extent range) const {
    for (const auto& [base, pool] : pools_) {
      if (pool.extent.overlaps(range)) return true;
    }
    const auto page = mapping_pages_.lower_bound(range.base);
    return page != mapping_pages_.end() && page->first < range.end();
  }

  void apply(const AttachOp& o) {
    const Extent range{place_base(o.place) + o.offset_pages * kPageBytes, o.pages * kPageBytes};
    AttachOptions options = o.options;
    if (options.device_base != kNoDeviceAddress && options.boundary != 0) {
      options.device_base = range.base % options.boundary;  // agrees
    }
    options.gone = &on_gone;
    options.gone_context = this;
    const Result<RegionId> id = allocator_.attach(range, options);
    decide(id.ok() ? 1 : static_cast<std::uint64_t>(id.error()) << 32);
    if (is_known(range)) {
      EXPECT_EQ(id.error(), Error::kOverlap);
      return;
    }
    ASSERT_TRUE(id.ok()) << error_text(id.error());
    if (options.role == Role::kPool) {
      pools_.emplace(range.base, PoolModel{range, id->value, options});
      return;
    }
    for (std::size_t i = 0; i < o.pages; ++i) {
      const std::uint64_t device = options.device_base == kNoDeviceAddress
                                       ? kNoDeviceAddress
                                       : options.device_base + i * kPageBytes;
      mapping_pages_.emplace(range.base + i * kPageBytes,
                             MappingPage{id->value, options.protection, device});
    }
  }

  bool pool_is_pinned(const PoolModel& pool) const {
    return std::any_of(pins_.begin(), pins_.end(), [&](const PinModel& pin) {
      return pin.whole_pool == pool.extent.base || pin.extent.overlaps(pool.extent);
    });
  }
  void forget_pool(std::uintptr_t base) {
    const PoolModel pool = pools_.at(base);
    expect_gone(pool.id, pool.extent);
    for (auto it = blocks_.begin(); it != blocks_.end();) {
      it = it->second.pool == base ? blocks_.erase(it) : std::next(it);
    }
    pools_.erase(base);
    EXPECT_FALSE(allocator_.query(pool.extent.base, 1).ok());
  }
  // The last block of a draining pool is gone?
  void finish_drain(std::uintptr_t base) {
    if (base == 0) return;
    const PoolModel& pool = pools_.at(base);
    if (pool.draining && blocks_in(base) == 0 && !pool_is_pinned(pool)) {
      forget_pool(base);
    } else {
      EXPECT_TRUE(allocator_.query(base, 1).ok());
    }
  }

  void apply(const DetachOp& o) {
    const auto it = pools_.lower_bound(place_base(o.place));
    if (it == pools_.end() || it->first >= place_base(o.place) + kPlaceBytes) return;
    PoolModel& pool = it->second;
    // Never in part.
    if (pool.extent.size > kPageBytes) {
      EXPECT_EQ(allocator_.detach({pool.extent.base, pool.extent.size - kPageBytes}).error(),
                Error::kNotFound);
    }
    const Error error = allocator_.detach(pool.extent, o.mode).error();
    decide(static_cast<std::uint64_t>(error));
    const bool live = blocks_in(it->first) != 0;
    if (live && o.mode == DetachMode::kBusy) {
      EXPECT_EQ(error, pool_is_pinned(pool) ? Error::kPinned : Error::kBusy);
    } else if (live && o.mode == DetachMode::kDrain) {
      EXPECT_EQ(error, Error::kNone);
      pool.draining = true;
    } else if (pool_is_pinned(pool)) {
      EXPECT_EQ(error, Error::kPinned);
    } else {
      ASSERT_EQ(error, Error::kNone);
      forget_pool(it->first);
      return;
    }
    const Result<RegionInfo> info = allocator_.query(pool.extent.base, pool.extent.size);
    ASSERT_TRUE(info.ok());
    EXPECT_EQ(info->draining, pool.draining);
  }

  void forget_mapping_pages(Extent range) {
    std::size_t pages = 0;
    for (std::uintptr_t page = range.base; page < range.end(); page += kPageBytes) {
      pages += mapping_pages_.erase(page);
    }
    // Told for each part, whose sizes add up.
    for (const auto& [id, extent] : gone_) {
      EXPECT_TRUE(range.covers(extent));
      pages -= extent.size / kPageBytes;
    }
    EXPECT_EQ(pages, 0u);
    gone_.clear();
  }

  bool all_mapping_pages(Extent range) const {
    for (std::uintptr_t page = range.base; page < range.end(); page += kPageBytes) {
      if (mapping_pages_.count(page) == 0) return false;
    }
    return true;
  }

  void apply(const DetachPagesOp& o) {
    const Extent range{place_base(o.place) + o.first_page * kPageBytes, o.pages * kPageBytes};
    // A range that is exactly a pool would take the pool.
    if (pools_.count(range.base) != 0 && pools_.at(range.base).extent == range) return;
    const Error error = allocator_.detach(range).error();
    decide(static_cast<std::uint64_t>(error));
    if (!all_mapping_pages(range)) {
      // Holes; which of two obstacles is told is not promised.
      EXPECT_TRUE(error == Error::kNotFound || error == Error::kPinned) << error_text(error);
    } else if (std::any_of(pins_.begin(), pins_.end(), [&](const PinModel& pin) {
                 return pin.whole_pool == 0 && pin.extent.overlaps(range);
               })) {
      EXPECT_EQ(error, Error::kPinned);
    } else {
      ASSERT_EQ(error, Error::kNone);
      forget_mapping_pages(range);
    }
    EXPECT_TRUE(gone_.empty());
  }

  void apply(const QueryOp& o) {
    const std::size_t size = o.size == 0 ? 1 : o.size;
    const Result<RegionInfo> info = allocator_.query(o.address, o.size);
    bool expected = false;
    const auto pool = pools_.upper_bound(o.address);
    if (pool != pools_.begin() && std::prev(pool)->second.extent.covers({o.address, size})) {
      expected = true;
      if (info.ok()) {
        EXPECT_EQ(info->id.value, std::prev(pool)->second.id);
        EXPECT_EQ(info->extent, std::prev(pool)->second.extent);
        EXPECT_EQ(info->device, std::prev(pool)->second.options.device);
      }
    }
    const std::uintptr_t first = o.address / kPageBytes * kPageBytes;
    if (const auto page = mapping_pages_.find(first); page != mapping_pages_.end()) {
      // To the end of its pages of the same attach.
      std::uintptr_t end = first;
      for (auto it = page;
           it != mapping_pages_.end() && it->first == end && it->second.id == page->second.id;
           ++it) {
        end += kPageBytes;
      }
      expected = size <= end - o.address;
      if (info.ok()) {
        EXPECT_EQ(info->id.value, page->second.id);
        EXPECT_EQ(info->extent.end(), end);
        EXPECT_EQ(info->protection, page->second.protection);
        if (page->second.device_base != kNoDeviceAddress) {
          EXPECT_EQ(*allocator_.device_address(bytes_at(o.address)),
                    page->second.device_base + (o.address - first));
        }
      }
    }
    EXPECT_EQ(info.ok(), expected);
    decide(info.ok());
  }

  // ---- Pins ----

  void apply(const PinOp& o) {
    Extent range{};
    std::uintptr_t whole_pool = 0;
    bool expected = true;
    switch (o.what) {
      case PinOp::What::kBlock: {
        const auto it = chosen_block(o.target);
        if (it == blocks_.end()) return;
        const std::size_t offset = o.offset % it->second.usable;
        const std::size_t size = std::min(o.size, it->second.usable - offset + (o.offset % 8 == 0));
        range = {it->first + offset, size};
        expected = !it->second.freed && offset + size <= it->second.usable;
        // Freed and kept, it leaves its pool to be pinned.
        if (pools_.count(range.base) != 0 && pools_.at(range.base).extent == range) {
          whole_pool = range.base;
          expected = true;
        }
        break;
      }
      case PinOp::What::kPool: {
        if (pools_.empty()) return;
        auto it = pools_.begin();
        std::advance(it, static_cast<std::ptrdiff_t>(o.target % pools_.size()));
        range = it->second.extent;
        whole_pool = it->first;
        break;
      }
      case PinOp::What::kPages: {
        if (mapping_pages_.empty()) return;
        auto it =
            mapping_pages_.lower_bound(options_.attach_base + o.target % (kPlaces * kPlaceBytes));
        if (it == mapping_pages_.end()) it = mapping_pages_.begin();
        range = {it->first + o.offset % kPageBytes, o.size};
        const std::uintptr_t first = range.base / kPageBytes * kPageBytes;
        const std::uintptr_t end = (range.end() + kPageBytes - 1) / kPageBytes * kPageBytes;
        expected = all_mapping_pages({first, end - first});
        break;
      }
    }
    if (const auto it = blocks_.find(whole_pool);
        it != blocks_.end() && !it->second.freed && it->second.usable == range.size) {
      whole_pool = 0;  // the block that fills it is pinned
    }
    const Result<PinId> pin = allocator_.pin(range);
    decide(static_cast<std::uint64_t>(pin.error()));
    if (!expected) {
      EXPECT_EQ(pin.error(), Error::kNotFound);
      return;
    }
    ASSERT_TRUE(pin.ok()) << error_text(pin.error());
    if (o.what == PinOp::What::kPages) {
      const std::uintptr_t first = range.base / kPageBytes * kPageBytes;
      range = {first, (range.end() + kPageBytes - 1) / kPageBytes * kPageBytes - first};
    }
    pins_.push_back({pin->value, range, whole_pool});
  }

  void apply(const UnpinOp& o) {
    if (pins_.empty()) return;
    const std::size_t index = o.pin % pins_.size();
    const PinModel pin = pins_[index];
    pins_.erase(pins_.begin() + static_cast<std::ptrdiff_t>(index));
    ASSERT_TRUE(allocator_.unpin(PinId{pin.id}).ok());
    EXPECT_EQ(allocator_.unpin(PinId{pin.id}).error(), Error::kNotFound);
    if (pin.whole_pool != 0) {
      finish_drain(pin.whole_pool);
      return;
    }
    auto it = blocks_.upper_bound(pin.extent.base);
    if (it == blocks_.begin()) return;
    --it;
    const auto [at, block] = *it;
    if (!Extent{at, block.usable}.covers(pin.extent) || !block.freed || is_pinned(at, block)) {
      return;
    }
    // Freed while it was pinned: now it went.
    blocks_.erase(it);
    finish_drain(block.pool);
  }

  void apply(const FlushOp&) { allocator_.flush_thread(); }
  void apply(const TrimOp&) { allocator_.trim(); }

  Allocator& allocator_;
  const Options options_;
  std::mt19937_64 random_;
  const std::uint64_t seed_;
  std::uint64_t step_ = 0;
  Blocks blocks_;
  std::map<std::uintptr_t, PoolModel> pools_;
  std::map<std::uintptr_t, MappingPage> mapping_pages_;
  std::vector<PinModel> pins_;
  std::vector<std::pair<std::uint64_t, Extent>> gone_;
  std::vector<std::uint64_t> decisions_;
  std::uintptr_t last_chosen_ = 0;
  std::uintptr_t last_freed_ = 0;
  std::uint64_t misuses_ = 0;
};

}  // namespace exclave::testing_support
