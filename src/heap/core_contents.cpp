// What the library itself does to the contents of blocks: it zeroes and copies. (Frees scrub:
// core_frees.cpp, and unpin in core_regions.cpp.) In an attached pool each piece is touched behind
// the pool's door (door.hpp), so none is after the pool has gone.
#include "access/copy.hpp"
#include "heap/core.hpp"

namespace exclave::core {

// Behind the door of one block's pool, if it has one, as long as this stands.
class AllocatorCore::Visit {
 public:
  // noted: where its thread's heap notes the door, should the thread end meanwhile.
  Visit(const Owner& owner, Door*& noted) noexcept : door_(owner.door), noted_(noted) {
    if (door_ == nullptr) return;
    may_touch_ = door_->enter(owner.region);
    // Noted later than entered and forgotten before it is left: never left twice.
    if (may_touch_) noted_ = door_;
  }
  ~Visit() {
    if (door_ == nullptr || !may_touch_) return;
    noted_ = nullptr;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    door_->leave();
  }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

  bool may_touch() const noexcept { return may_touch_; }

 private:
  Door* const door_;
  Door*& noted_;
  bool may_touch_ = true;
};

// work(offset, bytes) for each piece of `size` bytes. Errors: kNotFound, the pool of the block
// that is written goes; kStale, that of the block that is read.
template <class Work>
Status AllocatorCore::touch(std::size_t size, const Owner& to, const Owner& from,
                            const Work& work) noexcept {
  // GCOVR_EXCL_BR_START: what lies in a pool moves to a pool
  if (to.door == nullptr && from.door == nullptr) {
    // GCOVR_EXCL_BR_STOP
    work(std::size_t{0}, size);
    return {};
  }
  // Closed, so that a signal handler of this thread which detaches the pool hears kReentered and
  // does not wait for itself.
  Gate gate(*this);
  if (!gate.status().ok()) return gate.status();  // GCOVR_EXCL_BR_LINE: the block was placed by one
  for (std::size_t done = 0; done < size;) {
    const std::size_t left = size - done;
    const std::size_t piece = left < Door::kPieceBytes ? left : Door::kPieceBytes;
    const Visit writes(to, gate.heap().visits[0]);
    if (!writes.may_touch()) return Error::kNotFound;
    const Visit reads(from, gate.heap().visits[1]);
    if (!reads.may_touch()) return Error::kStale;
    work(done, piece);
    done += piece;
  }
  return {};
}

AllocatorCore::Owner AllocatorCore::owner_of(std::uintptr_t block, RegionId region) noexcept {
  if (!region) return {};
  Region* const found = registry_.find(block);
  Pool* const pool =
      found != nullptr ? static_cast<Pool*>(found->pool.load(std::memory_order_acquire)) : nullptr;
  // Another pool than the block's, or none, lets nobody in.
  return {pool != nullptr ? &pool->door : &no_door_, region};
}

Status AllocatorCore::zero_block(const PlacedBlock& block, std::size_t size) noexcept {
  const std::uintptr_t start = block.start.address();
  return touch(size, owner_of(start, block.region), {}, [=](std::size_t at, std::size_t bytes) {
    detail::fill_zero_bytes(start + at, bytes);
  });
}

Status AllocatorCore::copy_block(const PlacedBlock& to, const PlacedBlock& from,
                                 std::size_t size) noexcept {
  const std::uintptr_t dst = to.start.address();
  const std::uintptr_t src = from.start.address();
  return touch(size, owner_of(dst, to.region), owner_of(src, from.region),
               [=](std::size_t at, std::size_t bytes) {
                 detail::copy_across_bytes(dst + at, src + at, bytes);
               });
}

void AllocatorCore::scrub_kept(Gate& gate, Door* entered, Extent block) noexcept {
  gate.heap().visits[0] = entered;
  detail::fill_zero_bytes(block.base, block.size);
  gate.heap().visits[0] = nullptr;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (entered != nullptr) entered->leave();
}

Status AllocatorCore::free_placed(const PlacedBlock& block) noexcept {
  return block.region ? deallocate_handle(block.start.address(), block.region)
                      : deallocate(block.start.address());
}

}  // namespace exclave::core
