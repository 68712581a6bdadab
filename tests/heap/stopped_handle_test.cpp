// A handle that is being made while its pool is revoked, attached again at the same place, and
// served from: the host stops the maker after any one of its instructions.
#include <gtest/gtest.h>

#include <optional>

#include "exclave/box.hpp"
#include "exclave/exclave.h"
#include "exclave/process_port.hpp"
#include "support/fake_allocator.hpp"
#include "support/sanitizers.hpp"
#include "support/stepped_call.hpp"
#include "support/worker.hpp"

namespace exclave {
namespace {

using namespace testing_support;

class Threat66_HandleOfAnother : public testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer puts signals off";
    const Result<ProcessPort*> port = ProcessPort::create();
    ASSERT_TRUE(port.ok());
    port_ = *port;
    auto made = Allocator::create(port_->table());
    ASSERT_TRUE(made.ok());
    allocator_.emplace(std::move(made.value()));
    // This thread's heap is made, with nothing at hand, and so are the books of a pool.
    EXPECT_TRUE(allocator_->deallocate(*allocator_->allocate(64)).ok());
    allocator_->flush_thread();
    ASSERT_TRUE(detach_attached(attach_open()));
  }
  void TearDown() override {
    allocator_.reset();
    if (port_ != nullptr) ProcessPort::destroy(port_);
  }

  // No block in it is ever touched.
  static constexpr Extent kPool{0x300000000000, 64 * kPageBytes};

  RegionId attach_open() {
    AttachOptions options;
    options.device = 7;
    options.open_to_all = true;
    const Result<RegionId> id = allocator_->attach(kPool, options);
    EXPECT_TRUE(id.ok());
    // What is made after it is served from the same slab.
    EXPECT_TRUE(allocator_->allocate(GetParam(), 16, Placement::in_pool(*id)).ok());
    return *id;
  }
  bool detach_attached(RegionId id) {
    return id && allocator_->detach(kPool, DetachMode::kRevoke).ok();
  }

  // What `make` answers is its handle's address and region. Of two handles only one may be told the
  // region that stands.
  template <class Make>
  void stop_everywhere(const Make& make) {
    const SteppedCall stepper;
    Worker other;
    unsigned met = 0;
    bool more = true;
    // The way from the block to its region is longer than this many instructions.
    for (std::uint64_t n = 1; more && !HasFailure(); n += 5 * kStride) {
      const RegionId first = attach_open();
      RegionId second{};
      PlacedBlock theirs{};
      Result<PlacedBlock> mine = Error::kNone;
      more = SteppedCall::stopped_at(
          n, [&] { mine = make(first); },
          [&] {
            other.start([&] {
              EXPECT_TRUE(detach_attached(first));
              second = attach_open();
              theirs = *allocator_->allocate_handle(GetParam(), 16, Placement::in_pool(second));
            });
            (void)other.wait_a_little();  // not done: the stopped one holds a lock
          });
      if (!more) break;
      other.wait();
      EXPECT_EQ(theirs.region, second) << "at " << n;
      if (mine.ok() && mine->start == theirs.start) {
        ++met;
        EXPECT_EQ(mine->region, first) << "at " << n << ": a handle of the other's block";
      }
      ASSERT_TRUE(detach_attached(second));
      if (mine.ok()) (void)allocator_->deallocate_handle(mine->start, mine->region);
    }
    EXPECT_GT(met, 0u) << "the trap flag has no effect here";
  }
  static Result<PlacedBlock> told(Result<Block>& block) {
    if (!block.ok()) return block.error();
    const RegionId region = block->region();
    return PlacedBlock{block->release(), region};
  }

  ProcessPort* port_ = nullptr;
  std::optional<Allocator> allocator_;
};

TEST_P(Threat66_HandleOfAnother, IsNotMadeInAPool) {
  stop_everywhere([&](RegionId pool) {
    Result<Block> block = Block::create(*allocator_, GetParam(), 16, Placement::in_pool(pool));
    return told(block);
  });
}

TEST_P(Threat66_HandleOfAnother, IsNotMadeOnADevice) {
  stop_everywhere([&](RegionId) {
    Result<Block> block = Block::create(*allocator_, GetParam(), 16, Placement::on_device(7));
    return told(block);
  });
}

TEST_P(Threat66_HandleOfAnother, IsNotMadeAnywhere) {
  stop_everywhere([&](RegionId) {
    Result<Block> block = Block::create(*allocator_, GetParam());
    return told(block);
  });
}

TEST_P(Threat66_HandleOfAnother, IsNotMadeByTheCInterface) {
  stop_everywhere([&](RegionId pool) -> Result<PlacedBlock> {
    exclave_placement where{};
    where.place = EXCLAVE_IN_POOL;
    where.pool = pool.value;
    exclave_address block = 0;
    exclave_region_id region = 0;
    const exclave_error error =
        exclave_allocate_handle(reinterpret_cast<exclave_allocator*>(allocator_->core()),
                                GetParam(), 16, &where, &block, &region);
    if (error != EXCLAVE_OK) return static_cast<Error>(error);
    return PlacedBlock{bytes_at(block), {region}};
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, Threat66_HandleOfAnother, testing::Values(64, 40000));

}  // namespace
}  // namespace exclave
