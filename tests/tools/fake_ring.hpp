// A host with a ring that is only memory: a memfd laid out as the kernel lays out an io_uring,
// mapped a second time by the test, which plays the kernel and lies as it likes.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <functional>
#include <stdexcept>
#include <vector>

#include "tools/enclave_host_calls.hpp"
#include "tools/enclave_ring_entries.hpp"
#include "tools/host_shared_pool.hpp"
#include "tools/unique_fd.hpp"

namespace exclave::tools {

class FakeRing final : public HostCalls {
 public:
  static constexpr std::uint32_t kSqHead = 0;
  static constexpr std::uint32_t kSqTail = 64;
  static constexpr std::uint32_t kCqHead = 128;
  static constexpr std::uint32_t kCqTail = 192;
  static constexpr std::uint32_t kCompletions = 256;

  FakeRing() : file_(::memfd_create("fake-ring", MFD_CLOEXEC)) {
    // Sparse: the entries lie at their token, 256 MiB further on.
    if (::ftruncate(file_.get(), static_cast<off_t>(IORING_OFF_SQES + (1 << 20))) != 0) {
      throw std::runtime_error("memfd");
    }
    ring_ = map(0);
    entries_ = map(IORING_OFF_SQES);
  }
  ~FakeRing() override {
    ::munmap(ring_, kMapped);
    ::munmap(entries_, kMapped);
  }

  // ---- What the test sets ----
  std::uint32_t entries = 256;
  // Changes the offer before the enclave side sees it.
  std::function<void(RingOffer&)> spoil_offer;
  // Runs in each enter, after the host took the queued entries; else every request is completed in
  // full.
  std::function<void()> on_enter;
  int enter_answer_extra = 0;  // how many too many it claims to have taken
  std::function<void(TransferCall&)> on_transfer;
  std::uint32_t claimed_head_extra = 0;
  int register_answer = 0;
  int unregister_answer = 0;

  // ---- What the test sees and does ----
  std::deque<SubmissionEntry> taken;  // requests that wait for their completion
  std::uint64_t enters = 0;
  std::uint64_t fixed_requests = 0;

  void complete(std::uint64_t user_data, std::int32_t result) {
    const std::uint32_t tail = word(kCqTail).load(std::memory_order_relaxed);
    const CompletionEntry entry{user_data, result, 0};
    std::memcpy(ring_ + kCompletions + (tail & (2 * entries - 1)) * sizeof entry, &entry,
                sizeof entry);
    word(kCqTail).store(tail + 1, std::memory_order_release);
  }
  void complete_first(std::int32_t result) {
    const SubmissionEntry entry = taken.front();
    taken.pop_front();
    complete(entry.user_data, result);
  }
  void complete_all() {
    while (!taken.empty()) {
      complete_first(static_cast<std::int32_t>(taken.front().size_bytes));
    }
  }
  std::atomic_ref<std::uint32_t> word(std::uint32_t offset) {
    return std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(ring_ + offset));
  }

  // ---- HostCalls ----
  RingOffer open_ring(std::uint32_t) noexcept override {
    RingOffer offer;
    offer.descriptor = file_.get();
    io_uring_params& p = offer.parameters;
    p.sq_entries = entries;
    p.cq_entries = 2 * entries;
    p.features = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP;
    p.sq_off.head = kSqHead;
    p.sq_off.tail = kSqTail;
    p.sq_off.array = array_offset();
    p.cq_off.head = kCqHead;
    p.cq_off.tail = kCqTail;
    p.cq_off.cqes = kCompletions;
    if (spoil_offer) {
      spoil_offer(offer);
    }
    return offer;
  }
  int enter_ring(std::uint32_t to_submit, std::uint32_t) noexcept override {
    ++enters;
    const std::uint32_t tail = word(kSqTail).load(std::memory_order_acquire);
    std::uint32_t count = 0;
    for (; head_ != tail && count < to_submit; ++head_, ++count) {
      std::uint32_t at = 0;
      std::memcpy(&at, ring_ + array_offset() + (head_ & (entries - 1)) * sizeof at, sizeof at);
      SubmissionEntry entry;
      std::memcpy(&entry, entries_ + at * sizeof entry, sizeof entry);
      fixed_requests +=
          entry.opcode == IORING_OP_READ_FIXED || entry.opcode == IORING_OP_WRITE_FIXED;
      taken.push_back(entry);
    }
    word(kSqHead).store(head_ + claimed_head_extra, std::memory_order_release);
    if (on_enter) {
      on_enter();
    } else {
      complete_all();
    }
    return static_cast<int>(count) + enter_answer_extra;
  }
  int register_buffer(Extent) noexcept override { return register_answer; }
  int unregister_buffers() noexcept override { return unregister_answer; }
  void close_ring() noexcept override {}
  HostReply open_pool(std::size_t size_bytes, std::size_t alignment) noexcept override {
    return pool_.open(size_bytes, alignment);
  }
  void close_pool() noexcept override { pool_.close(); }
  int sealed_file() noexcept override { return 7; }
  std::int64_t sealed_file_size() noexcept override { return 0; }
  int sync_sealed_file() noexcept override { return 0; }
  void transfer(untrusted_ptr<TransferCall> call) noexcept override {
    auto& mine = *static_cast<TransferCall*>(call.unsafe_raw());
    mine.answer = mine.size_bytes;
    if (on_transfer) {
      on_transfer(mine);
    }
  }

 private:
  static constexpr std::size_t kMapped = 1 << 16;
  std::uint32_t array_offset() const {
    return kCompletions + 2 * entries * static_cast<std::uint32_t>(sizeof(CompletionEntry));
  }
  unsigned char* map(std::uint64_t offset) {
    void* const at = ::mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(),
                            static_cast<off_t>(offset));
    if (at == MAP_FAILED) {
      throw std::runtime_error("mmap");
    }
    return static_cast<unsigned char*>(at);
  }

  UniqueFd file_;
  unsigned char* ring_ = nullptr;
  unsigned char* entries_ = nullptr;
  std::uint32_t head_ = 0;
  HostSharedPool pool_;
};

}  // namespace exclave::tools
