// The allocator beside its reference model (tests/support/allocator_model.hpp), for the targets
// allocator and regions.
#pragma once

#include <optional>
#include <utility>

#include "base/units.hpp"
#include "fuzz/target.hpp"
#include "support/allocator_model.hpp"

namespace exclave::fuzz {

// A host that has what is asked for, or one of 6 MiB under a quota of 5.
enum class HostMemory { kPlenty, kLittle };

class AllocatorRun {
 public:
  explicit AllocatorRun(HostMemory memory) {
    Config config;
    config.grow_min_bytes = testing_support::kMiBytes;
    config.grow_max_bytes = 4 * testing_support::kMiBytes;
    config.keep_free_bytes = 2 * testing_support::kMiBytes;
    testing_support::AllocatorModel::Options options;
    if (memory == HostMemory::kLittle) {
      port_.set_host_left(6 * testing_support::kMiBytes);
      config.quota_bytes = 5 * testing_support::kMiBytes;
      options.host_is_generous = false;
    }
    auto made = Allocator::create(port_.table(), config);
    EXPECT_TRUE(made.ok()) << error_text(made.error());
    allocator_.emplace(std::move(made.value()));
    model_.emplace(*allocator_, 0, options);
  }
  ~AllocatorRun() {
    model_->check_statistics();
    model_->drain();
    EXPECT_TRUE(allocator_->validate_books());
    allocator_->trim();
    const Statistics end = allocator_->statistics();
    EXPECT_EQ(end.reserved_bytes, 0u);
    EXPECT_EQ(end.regions, 0u);
    EXPECT_EQ(end.live_blocks, 0u);
    EXPECT_EQ(end.pins, 0u);
    model_.reset();
    allocator_.reset();
    EXPECT_EQ(port_.ranges_out(), 0u);
    EXPECT_EQ(port_.bad_releases(), 0u);
    EXPECT_EQ(port_.trusted_held(), 0u);
  }
  AllocatorRun(const AllocatorRun&) = delete;
  AllocatorRun& operator=(const AllocatorRun&) = delete;

  void perform(const testing_support::Operation& operation) {
    model_->perform(operation);
    validate();
  }

 protected:
  // It walks all the books: each time at first, when inputs are short, then now and then.
  void validate() {
    if (++steps_ < 16 || steps_ % 8 == 0) EXPECT_TRUE(allocator_->validate_books());
  }
  Allocator& allocator() { return *allocator_; }
  Extent enclave() { return port_.enclave(); }

 private:
  // Enough books for what a run does; each run maps and unmaps them.
  testing_support::FakePort port_{std::size_t{64} << 20};
  std::optional<Allocator> allocator_;
  std::optional<testing_support::AllocatorModel> model_;
  std::size_t steps_ = 0;
};

// ---- Operations of the model, from an input ----

inline AttachOptions decode_attach_options(Input& in) {
  AttachOptions options;
  const std::size_t bits = in.pick(256);
  options.role = bits % 4 == 0 ? Role::kMapping : Role::kPool;
  options.device = static_cast<DeviceTag>(bits / 4 % 4);
  if (options.role == Role::kMapping) {
    options.protection = static_cast<Protection>(bits / 16 % 4);
    if (bits & 64) options.device_base = in.pick(256) * kPageBytes;
    return options;
  }
  options.open_to_all = (bits & 16) != 0;
  if (bits & 32) options.largest_block = 1 + in.pick(1 << 16);
  if (bits & 64) options.boundary = kPageBytes << in.pick(5);
  // Corrected when the base is known.
  if (bits & 128) options.device_base = 16 * testing_support::AllocatorModel::kPlaceBytes;
  return options;
}

inline testing_support::Operation decode_region_operation(Input& in) {
  using namespace testing_support;
  switch (in.pick(6)) {
    case 0:
      return AttachOp{in.pick(AllocatorModel::kPlaces), in.pick(4), 1 + in.pick(250),
                      decode_attach_options(in)};
    case 1:
      return DetachOp{in.pick(AllocatorModel::kPlaces), in.choice(DetachMode::kRevoke)};
    case 2:
      return DetachPagesOp{in.pick(AllocatorModel::kPlaces), in.pick(30), 1 + in.pick(10)};
    case 3:
      return PinOp{in.choice(PinOp::What::kPages), in.pick(256), in.pick(1 << 16),
                   1 + in.pick(1 << 14)};
    case 4:
      return UnpinOp{in.pick(256)};
    default: {
      const std::uintptr_t offset = in.pick(AllocatorModel::kPlaces * AllocatorModel::kPlaceBytes);
      return QueryOp{FakePort::kAttachBase + offset, static_cast<std::size_t>(in.odd_number())};
    }
  }
}

inline testing_support::Operation decode_block_operation(Input& in) {
  using namespace testing_support;
  switch (in.pick(16)) {
    case 0:
      return BadFreeOp{in.choice(BadFreeOp::Kind::kGone), in.pick(256), in.pick(1 << 16)};
    case 1:
      return ResizeOp{in.pick(256), in.pick(1 << 22)};
    case 2:
      return FlushOp{};
    case 3:
      return TrimOp{};
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
      return FreeOp{in.choice(FreeOp::Form::kHandle), in.pick(256)};
    default: {
      static constexpr std::size_t kSizes[] = {256, 1024, 9000, 70000, 300000, 3 << 20};
      const std::size_t shape = in.pick(256);
      return AllocateOp{1 + in.pick(kSizes[shape % 6]),
                        shape < 192 ? 16 : std::size_t{1} << in.pick(22),
                        static_cast<Placement::Kind>(shape / 6 % 3), in.pick(256)};
    }
  }
}

}  // namespace exclave::fuzz
