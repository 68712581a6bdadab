// The ring against a host that forges everything that it can: heads, tails, completions, counts,
// offsets.
#include "tools/enclave_ring.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <climits>
#include <memory>
#include <random>

#include "fake_ring.hpp"
#include "tools/enclave_session.hpp"
#include "tools/failure.hpp"

namespace exclave::tools {
namespace {

constexpr std::uint32_t kDepth = 4;
constexpr std::uint32_t kBytes = 4096;

// The ring alone, on real mappings.
class RingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    port_ = *ProcessPort::create();
    inside_ = std::make_unique<ProcessEnclaveMemory>(port_->enclave_heap());
    allocator_ = std::move(*Allocator::create(port_->table()));
    calls_ = std::make_unique<MemoryCalls>(allocator_, bind_enclave_memory(*inside_));
  }
  void TearDown() override {
    ring_.reset();
    mapping_.reset();
    EXPECT_TRUE(allocator_.validate_books());
    EXPECT_EQ(allocator_.statistics().regions, 0u) << "a mapping is left";
    allocator_ = Allocator();
    inside_.reset();
    ProcessPort::destroy(port_);
  }

  void open() {
    mapping_ = std::make_unique<RingMapping>(allocator_, *calls_, host_.open_ring(host_.entries),
                                             host_.entries, attacks_);
    ring_ = std::make_unique<EnclaveRing>(mapping_->queues(), kDepth, 0x123456789abcdefu, host_,
                                          attacks_);
  }
  // Queues a request and lets the host take it; the user_data that it saw.
  std::uint64_t request() {
    host_.on_enter = [] {};
    EnclaveRing::Request request;
    request.file = 7;
    request.size_bytes = kBytes;
    EXPECT_TRUE(ring_->queue(request));
    EXPECT_EQ(ring_->enter(0), 0);
    return host_.taken.back().user_data;
  }
  void expect_refused(Attack attack, std::uint64_t times = 1) {
    EXPECT_EQ(attacks_.count(attack), times) << attack_text(attack);
    EXPECT_EQ(attacks_.total(), times) << "counted as something else";
  }
  void expect_true_completion_still_works(std::uint64_t user_data) {
    host_.complete(user_data, kBytes);
    const auto completion = ring_->reap();
    ASSERT_TRUE(completion);
    EXPECT_EQ(completion->result, static_cast<std::int32_t>(kBytes));
    EXPECT_EQ(ring_->in_flight(), 0u);
  }

  FakeRing host_;
  AttackLog attacks_;
  ProcessPort* port_ = nullptr;
  std::unique_ptr<ProcessEnclaveMemory> inside_;
  Allocator allocator_;
  std::unique_ptr<MemoryCalls> calls_;
  std::unique_ptr<RingMapping> mapping_;
  std::unique_ptr<EnclaveRing> ring_;
};

using Threat20_ForgedCompletion = RingTest;
using Threat20_ForgedIndex = RingTest;
using Threat46_ForgedCount = RingTest;
using Threat20_ForgedGeometry = RingTest;

TEST_F(RingTest, TheMemoryIsInTheBooksAsTwoMappings) {
  open();
  EXPECT_EQ(allocator_.statistics().regions, 2u);
  EXPECT_EQ(allocator_.query(mapping_->rings().base, mapping_->rings().size)->role, Role::kMapping);
  EXPECT_EQ(mapping_->entries().size, 256 * sizeof(SubmissionEntry));
}

TEST_F(RingTest, AnHonestHostIsBelieved) {
  open();
  for (int round = 0; round < 2000; ++round) {
    const std::uint64_t user_data = request();
    host_.taken.clear();
    expect_true_completion_still_works(user_data);
  }
  EXPECT_EQ(attacks_.total(), 0u);
}

TEST_F(RingTest, MoreThanItsDepthIsNotQueued) {
  open();
  for (std::uint32_t i = 0; i < kDepth; ++i) {
    request();
  }
  EXPECT_FALSE(ring_->queue({}));
  EXPECT_EQ(ring_->in_flight(), kDepth);
}

TEST_F(RingTest, TheEntryOutsideIsWhatWasAsked) {
  open();
  EnclaveRing::Request request;
  request.is_write = true;
  request.registered = true;
  request.file = 9;
  request.block = untrusted_bytes::unsafe_from_address(0x7f0000001000);
  request.size_bytes = 123;
  request.offset = 456789;
  host_.on_enter = [] {};
  ASSERT_TRUE(ring_->queue(request));
  ASSERT_EQ(ring_->enter(0), 0);
  ASSERT_EQ(host_.taken.size(), 1u);
  const SubmissionEntry& entry = host_.taken.front();
  EXPECT_EQ(entry.opcode, IORING_OP_WRITE_FIXED);
  EXPECT_EQ(entry.file, 9);
  EXPECT_EQ(entry.address, 0x7f0000001000u);
  EXPECT_EQ(entry.size_bytes, 123u);
  EXPECT_EQ(entry.offset, 456789u);
  EXPECT_EQ(entry.flags, 0);
  EXPECT_EQ(entry.personality, 0);
  EXPECT_EQ(entry.unused2[0] | entry.unused2[1] | entry.unused, 0u);
}

TEST_F(Threat20_ForgedCompletion, ForNothingInFlight) {
  open();
  const std::uint64_t user_data = request();
  host_.complete((user_data & ~std::uint64_t{0xffff}) | 3, 16);  // a slot that was never used
  host_.complete(0xffff, 16);                                    // no slot at all
  EXPECT_FALSE(ring_->reap());
  expect_refused(Attack::kCompletionUnknown, 2);
  EXPECT_EQ(ring_->in_flight(), 1u);
  expect_true_completion_still_works(user_data);
}

TEST_F(Threat20_ForgedCompletion, Twice) {
  open();
  const std::uint64_t user_data = request();
  host_.complete(user_data, 16);
  host_.complete(user_data, 16);
  EXPECT_TRUE(ring_->reap());
  EXPECT_FALSE(ring_->reap());
  expect_refused(Attack::kCompletionTwice);
}

TEST_F(Threat20_ForgedCompletion, OfAnEarlierUseOfTheSlot) {
  open();
  const std::uint64_t first = request();
  host_.complete(first, 16);
  ASSERT_TRUE(ring_->reap());
  const std::uint64_t second = request();
  ASSERT_EQ(first & 0xffff, second & 0xffff) << "the slot should be used again";
  ASSERT_NE(first, second);
  host_.complete(first, 16);
  EXPECT_FALSE(ring_->reap());
  expect_refused(Attack::kCompletionStale);
  expect_true_completion_still_works(second);
}

TEST_F(Threat46_ForgedCount, LongerThanAsked) {
  open();
  const std::uint64_t user_data = request();
  host_.complete(user_data, kBytes + 1);
  host_.complete(user_data, INT_MAX);
  EXPECT_FALSE(ring_->reap());
  expect_refused(Attack::kResultTooLong, 2);
  EXPECT_EQ(ring_->in_flight(), 1u) << "only its true completion ends it";
  expect_true_completion_still_works(user_data);
}

TEST_F(Threat46_ForgedCount, AnErrnoThatReadsAndWritesDoNotHave) {
  open();
  const std::uint64_t user_data = request();
  for (const std::int32_t result : {INT_MIN, INT_MIN + 1, -4096, -4095, -512, -EEXIST}) {
    host_.complete(user_data, result);
  }
  EXPECT_FALSE(ring_->reap());
  expect_refused(Attack::kResultUndocumented, 6);
  expect_true_completion_still_works(user_data);
}

TEST_F(Threat46_ForgedCount, ADocumentedErrnoIsBelieved) {
  open();
  host_.complete(request(), -ENOSPC);
  const auto completion = ring_->reap();
  ASSERT_TRUE(completion);
  EXPECT_EQ(completion->result, -ENOSPC);
  EXPECT_EQ(attacks_.total(), 0u);
}

TEST_F(Threat46_ForgedCount, MoreSubmittedThanQueued) {
  open();
  host_.enter_answer_extra = 5;
  const std::uint64_t user_data = request();
  expect_refused(Attack::kTooManySubmitted);
  expect_true_completion_still_works(user_data);
}

TEST_F(Threat20_ForgedIndex, TailBeyondTheQueue) {
  open();
  const std::uint64_t user_data = request();
  host_.word(FakeRing::kCqTail) = 2 * host_.entries + 1;
  EXPECT_FALSE(ring_->reap());
  expect_refused(Attack::kTailJump);
  host_.word(FakeRing::kCqTail) = 0;
  expect_true_completion_still_works(user_data);
}

TEST_F(Threat20_ForgedIndex, TailThatGoesBack) {
  open();
  host_.complete(request(), 16);
  ASSERT_TRUE(ring_->reap());
  const std::uint64_t user_data = request();
  host_.word(FakeRing::kCqTail) = 0;
  EXPECT_FALSE(ring_->reap());
  expect_refused(Attack::kTailBackwards);
  host_.word(FakeRing::kCqTail) = 1;
  expect_true_completion_still_works(user_data);
}

TEST_F(Threat20_ForgedIndex, HeadThatPassesTheTail) {
  open();
  host_.claimed_head_extra = 1;
  const std::uint64_t user_data = request();
  expect_refused(Attack::kHeadNonsense);
  host_.claimed_head_extra = 0;
  expect_true_completion_still_works(user_data);
}

TEST_F(Threat20_ForgedIndex, OurOwnIndicesAreNotReadBack) {
  open();
  // What we publish is rewritten by the host; it only harms itself.
  host_.complete(request(), 16);
  host_.word(FakeRing::kCqHead) = 77;
  ASSERT_TRUE(ring_->reap());
  EXPECT_EQ(host_.word(FakeRing::kCqHead), 1u);
  EXPECT_EQ(attacks_.total(), 0u);
}

TEST_F(Threat20_ForgedIndex, AHostThatFeedsForEverIsLeftAlone) {
  open();
  const std::uint64_t user_data = request();
  for (std::uint32_t i = 0; i < 2 * host_.entries; ++i) {
    host_.complete(0xffff, 0);
  }
  EXPECT_FALSE(ring_->reap());  // returns
  EXPECT_EQ(attacks_.count(Attack::kCompletionUnknown), 2 * host_.entries);
  expect_true_completion_still_works(user_data);
}

TEST_F(Threat20_ForgedIndex, WrapsAround) {
  // Indices are free-running 32-bit counters; go once round the queue many times.
  host_.entries = 8;
  open();
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t user_data = request();
    host_.taken.clear();
    expect_true_completion_still_works(user_data);
  }
  EXPECT_EQ(attacks_.total(), 0u);
}

// Each spoilt offer, and the ring must not come to be.
TEST_F(Threat20_ForgedGeometry, IsRefused) {
  const std::vector<std::function<void(io_uring_params&)>> lies{
      [](auto& p) { p.sq_off.head = 1 << 20; },
      [](auto& p) { p.sq_off.head = UINT32_MAX - 3; },
      [](auto& p) { p.sq_off.tail = 2; },
      [](auto& p) { p.cq_off.head = 3; },
      [](auto& p) { p.cq_off.tail = UINT32_MAX; },
      [](auto& p) { p.cq_off.cqes = UINT32_MAX - 15; },
      [](auto& p) { p.cq_off.cqes = 260; },  // not aligned for an entry
      [](auto& p) { p.sq_off.array = UINT32_MAX - 3; },
      [](auto& p) { p.sq_off.array = 6; },
      [](auto& p) { p.sq_entries = 0; },
      [](auto& p) { p.sq_entries = 255; },
      [](auto& p) { p.sq_entries = 128; },  // fewer than asked
      [](auto& p) { p.sq_entries = 1U << 31; },
      [](auto& p) { p.sq_entries = 1U << 17; },  // more than any kernel has
      [](auto& p) { p.cq_entries = 1U << 17; },
      [](auto& p) { p.cq_entries = 0; },
      [](auto& p) { p.cq_entries = 300; },
      [](auto& p) { p.cq_entries = 128; },  // fewer than can be in flight
      [](auto& p) { p.cq_entries = 1U << 31; },
  };
  std::uint64_t refused = 0;
  for (const auto& lie : lies) {
    host_.spoil_offer = [&lie](RingOffer& offer) { lie(offer.parameters); };
    EXPECT_THROW(open(), Failure);
    EXPECT_EQ(attacks_.count(Attack::kRingGeometry), ++refused) << "lie " << refused;
    EXPECT_EQ(allocator_.statistics().regions, 0u);
  }
}

TEST_F(Threat20_ForgedGeometry, AtRandomNeverPointsOutside) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    host_.spoil_offer = [&random](RingOffer& offer) {
      io_uring_params& p = offer.parameters;
      std::uint32_t* const fields[] = {&p.sq_off.head, &p.sq_off.tail, &p.sq_off.array,
                                       &p.cq_off.head, &p.cq_off.tail, &p.cq_off.cqes};
      *fields[random() % 6] =
          static_cast<std::uint32_t>(random() % 3 == 0 ? random() : random() % 0x4000 & ~3U);
    };
    try {
      open();
      const Extent rings = mapping_->rings();
      const RingQueues& queues = mapping_->queues();
      for (const auto& word : {queues.sq_head, queues.sq_tail, queues.cq_head, queues.cq_tail}) {
        EXPECT_TRUE(rings.covers({word.word().address(), sizeof(std::uint32_t)}));
      }
      EXPECT_TRUE(rings.covers({queues.completions.address(), queues.completions.size_bytes()}));
      EXPECT_TRUE(rings.covers({queues.sq_array.address(), queues.sq_array.size_bytes()}));
      ring_.reset();
      mapping_.reset();
    } catch (const Failure&) {
      EXPECT_EQ(allocator_.statistics().regions, 0u);
    }
  }
}

TEST_F(Threat20_ForgedCompletion, RandomBytesInTheWholeRing) {
  open();
  std::mt19937_64 random(11);
  for (int round = 0; round < 2000; ++round) {
    if (ring_->in_flight() < kDepth) {
      request();
    }
    host_.taken.clear();
    // Any completion that is believed must be one in flight, and no longer than asked.
    const std::uint32_t before = ring_->in_flight();
    host_.complete(random() % 4 == 0 ? random() : random() % 8 + (0x123456789abULL << 16),
                   static_cast<std::int32_t>(random()));
    std::uint32_t believed = 0;
    while (const auto completion = ring_->reap()) {
      ++believed;
      EXPECT_LT(completion->slot, kDepth);
      EXPECT_LE(completion->result, static_cast<std::int32_t>(kBytes));
    }
    EXPECT_EQ(ring_->in_flight(), before - believed);
  }
  EXPECT_GT(attacks_.total(), 1000u);
}

// ---- The engine on top: pins, short transfers, a host that does not answer ----

class RingIoTest : public ::testing::Test {
 protected:
  void open(std::uint32_t depth = kDepth) {
    session_ = std::make_unique<EnclaveSession>(host_);
    session_->open_io({Engine::kUring, depth, 65536});
  }
  std::size_t pins() { return session_->allocator().statistics().pins; }
  BlockIo::Transfer transfer(const Block& block) {
    return {true, block.bytes()->data(), static_cast<std::uint32_t>(block.size()), 0};
  }
  void expect_clean_end() {
    for (const EndingStep& step : session_->close()) {
      EXPECT_TRUE(step.as_it_should) << step.act << ": " << step.answer;
    }
  }

  FakeRing host_;
  std::unique_ptr<EnclaveSession> session_;
};

using Threat50_BlockInFlight = RingIoTest;
using Threat51_PartialTransfer = RingIoTest;

TEST_F(RingIoTest, EndsAsAnApplicationWould) {
  open();
  const Block block = session_->pool().take(65536);
  EXPECT_EQ(session_->io().finish(session_->io().start(transfer(block))).moved_bytes, 65536u);
  EXPECT_EQ(host_.fixed_requests, 1u);
}

TEST_F(RingIoTest, ClosingActsAreAnsweredRight) {
  open();
  expect_clean_end();
}

TEST_F(RingIoTest, APoolThatCannotBeRegisteredIsUsedByAddress) {
  host_.register_answer = ENOMEM;
  open();
  EXPECT_EQ(session_->notes().size(), 1u);
  {
    const Block block = session_->pool().take(65536);
    EXPECT_EQ(session_->io().finish(session_->io().start(transfer(block))).moved_bytes, 65536u);
  }
  EXPECT_EQ(host_.fixed_requests, 0u);
  expect_clean_end();
}

TEST_F(Threat50_BlockInFlight, IsPinnedUntilItsTrueCompletion) {
  open();
  const std::size_t before = pins();
  Block block = session_->pool().take(65536);
  const std::uintptr_t address = block.bytes()->address();
  bool answered = false;
  host_.on_enter = [&] {
    if (host_.taken.empty()) {
      return;
    }
    // Lies first; the block must stay pinned through them.
    host_.complete(host_.taken.front().user_data ^ (std::uint64_t{1} << 20), 16);
    host_.complete(host_.taken.front().user_data, INT_MAX);
    EXPECT_EQ(pins(), before + 1);
    if (host_.enters > 3) {
      answered = true;
      host_.complete_all();
    }
  };
  const BlockIo::Ticket ticket = session_->io().start(transfer(block));
  EXPECT_EQ(pins(), before + 1);
  // Freed while in flight: its memory goes to nobody.
  block = Block();
  std::vector<Block> others;
  for (;;) {
    Result<Block> other = Block::create(session_->allocator(), 65536, kPageBytes,
                                        Placement::in_pool(session_->pool().id()));
    if (!other) {
      break;
    }
    EXPECT_NE(other->bytes()->address(), address);
    others.push_back(std::move(*other));
  }
  EXPECT_EQ(session_->allocator().detach(session_->pool().extent(), DetachMode::kRevoke).error(),
            Error::kPinned);
  EXPECT_EQ(session_->io().finish(ticket).moved_bytes, 65536u);
  EXPECT_TRUE(answered);
  EXPECT_EQ(pins(), before);
  EXPECT_GE(session_->attacks().count(Attack::kCompletionStale), 1u);
  EXPECT_GE(session_->attacks().count(Attack::kResultTooLong), 1u);
  others.clear();
  host_.on_enter = nullptr;
  expect_clean_end();
}

TEST_F(Threat50_BlockInFlight, AHostThatNeverAnswersIsGivenUpAndTheBlockStaysPinned) {
  open();
  host_.on_enter = [] {};
  const std::size_t before = pins();
  const Block block = session_->pool().take(65536);
  const BlockIo::Ticket ticket = session_->io().start(transfer(block));
  EXPECT_THROW((void)session_->io().finish(ticket), Failure);
  EXPECT_EQ(pins(), before + 1);
  EXPECT_TRUE(session_->allocator().validate_books());
}

TEST_F(Threat51_PartialTransfer, TheRestIsAskedForAgain) {
  open();
  std::vector<std::pair<std::uint64_t, std::uint32_t>> asked;
  host_.on_enter = [&] {
    while (!host_.taken.empty()) {
      const SubmissionEntry& entry = host_.taken.front();
      asked.emplace_back(entry.offset, entry.size_bytes);
      host_.complete_first(static_cast<std::int32_t>(std::min(entry.size_bytes, 40000U)));
    }
  };
  const Block block = session_->pool().take(65536);
  BlockIo::Transfer two = transfer(block);
  two.offset = 1000;
  EXPECT_EQ(session_->io().finish(session_->io().start(two)).moved_bytes, 65536u);
  EXPECT_THAT(asked, ::testing::ElementsAre(std::pair(1000u, 65536u), std::pair(41000u, 25536u)));
}

TEST_F(Threat51_PartialTransfer, TheEndOfTheFileIsNoWholeBlock) {
  open();
  host_.on_enter = [&] {
    while (!host_.taken.empty()) {
      host_.complete_first(host_.taken.front().offset == 0 ? 100 : 0);
    }
  };
  const Block block = session_->pool().take(65536);
  const BlockIo::Outcome outcome = session_->io().finish(session_->io().start(transfer(block)));
  EXPECT_EQ(outcome.moved_bytes, 100u);
  EXPECT_EQ(outcome.error, 0);
}

TEST_F(RingIoTest, InterruptedTransfersAreRepeated) {
  open();
  int times = 0;
  host_.on_enter = [&] {
    while (!host_.taken.empty()) {
      host_.complete_first(++times < 5 ? (times % 2 == 0 ? -EAGAIN : -EINTR)
                                       : static_cast<std::int32_t>(host_.taken.front().size_bytes));
    }
  };
  const Block block = session_->pool().take(65536);
  EXPECT_EQ(session_->io().finish(session_->io().start(transfer(block))).moved_bytes, 65536u);
  EXPECT_EQ(times, 5);
}

// ---- The other engine ----

TEST(Threat46_DirectIo, MoreThanAskedIsRefused) {
  FakeRing host;
  EnclaveSession session(host);
  session.open_io({Engine::kPread, 1, 65536});
  const Block block = session.pool().take(65536);
  host.on_transfer = [](TransferCall& call) { call.answer = call.size_bytes + 1; };
  EXPECT_EQ(session.io().finish(session.io().start({false, block.bytes()->data(), 65536, 0})).error,
            EIO);
  EXPECT_EQ(session.attacks().count(Attack::kResultTooLong), 1u);
  host.on_transfer = [](TransferCall& call) { call.answer = -5000; };
  EXPECT_EQ(session.io().finish(session.io().start({false, block.bytes()->data(), 65536, 0})).error,
            EIO);
  EXPECT_EQ(session.attacks().count(Attack::kResultUndocumented), 1u);
}

TEST(Threat45_DirectIo, ItsArgumentsAreNotReadBack) {
  FakeRing host;
  EnclaveSession session(host);
  session.open_io({Engine::kPread, 1, 65536});
  const Block block = session.pool().take(65536);
  // The host rewrites the call as it answers: a larger size must not make a larger answer right.
  host.on_transfer = [](TransferCall& call) {
    call.size_bytes = 1 << 30;
    call.answer = 1 << 20;
  };
  EXPECT_EQ(session.io().finish(session.io().start({false, block.bytes()->data(), 65536, 0})).error,
            EIO);
  EXPECT_EQ(session.attacks().count(Attack::kResultTooLong), 1u);
}

// ---- The pool ----

class LyingPool final : public HostCalls {
 public:
  HostReply reply{};
  RingOffer open_ring(std::uint32_t) noexcept override { return {ENOSYS, -1, {}}; }
  int enter_ring(std::uint32_t, std::uint32_t) noexcept override { return -ENOSYS; }
  int register_buffer(Extent) noexcept override { return ENOSYS; }
  int unregister_buffers() noexcept override { return ENOSYS; }
  void close_ring() noexcept override {}
  HostReply open_pool(std::size_t, std::size_t) noexcept override { return reply; }
  void close_pool() noexcept override {}
  int sealed_file() noexcept override { return -1; }
  std::int64_t sealed_file_size() noexcept override { return -ENOSYS; }
  int sync_sealed_file() noexcept override { return ENOSYS; }
  void transfer(untrusted_ptr<TransferCall>) noexcept override {}
};

TEST(Threat02_Pool, InsideTheEnclaveOrCrookedIsRefused) {
  LyingPool host;
  EnclaveSession session(host);
  const std::uintptr_t inside = reinterpret_cast<std::uintptr_t>(session.allocator().core());
  std::uint64_t refused = 0;
  for (const std::uintptr_t address :
       {std::uintptr_t{0}, inside & ~(kPageBytes - 1), std::uintptr_t{0x7f0000000001},
        ~std::uintptr_t{0} << 12, std::uintptr_t{1} << 62}) {
    host.reply = {address, 0};
    EXPECT_THROW(session.open_io({Engine::kPread, 1, 65536}), Failure);
    EXPECT_EQ(session.attacks().count(Attack::kPoolRange), ++refused) << std::hex << address;
  }
  EXPECT_TRUE(session.allocator().validate_books());
}

}  // namespace
}  // namespace exclave::tools
