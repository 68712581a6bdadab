#include "tools/enclave_io_pool.hpp"

#include <cerrno>
#include <string>
#include <utility>

#include "tools/failure.hpp"

namespace exclave::tools {

IoPool::IoPool(Allocator& allocator, HostCalls& host, AttackLog& attacks, std::size_t size_bytes,
               std::size_t alignment)
    : allocator_(allocator), host_(host) {
  const HostReply reply = host_.open_pool(size_bytes, alignment);
  if (reply.error != 0) {
    throw Failure(ExitCode::kHost, "the host gives no shared memory: " + errno_text(reply.error));
  }
  extent_ = {reply.address, size_bytes};
  AttachOptions options;
  options.role = Role::kPool;
  // The allocator verifies the range: whole pages, outside the enclave, over nothing that it knows.
  const Result<RegionId> region = allocator_.attach(extent_, options);
  if (!region) {
    attacks.refuse(Attack::kPoolRange);
    throw Failure(ExitCode::kHost, std::string("the host's shared memory is refused: ") +
                                       error_text(region.error()));
  }
  id_ = *region;
}

IoPool::~IoPool() {
  unregister_from_ring();
  (void)end_use();
}

Block IoPool::take(std::size_t size_bytes) {
  Result<Block> block = Block::create(allocator_, size_bytes, kPageBytes, Placement::in_pool(id_));
  if (!block) {
    throw Failure(ExitCode::kHost,
                  std::string("the I/O pool has no block: ") + error_text(block.error()));
  }
  ++blocks_taken_;
  return std::move(*block);
}

int IoPool::register_with_ring() {
  // Pinned first: from the host's yes on, the kernel may write to it.
  const Result<PinId> pin = allocator_.pin(extent_);
  if (!pin) {
    throw Failure(ExitCode::kInternal,
                  std::string("the I/O pool cannot be pinned: ") + error_text(pin.error()));
  }
  const int error = host_.register_buffer(extent_);
  if (error != 0) {
    (void)allocator_.unpin(*pin);
    return error;
  }
  pin_ = *pin;
  registered_ = true;
  return 0;
}

void IoPool::unregister_from_ring() noexcept {
  // A host that does not unregister keeps its right to write there, so the pin stays.
  if (registered_ && host_.unregister_buffers() == 0) {
    (void)allocator_.unpin(pin_);
    registered_ = false;
  }
}

Status IoPool::end_use() noexcept {
  if (!id_) {
    return {};
  }
  const Status status = allocator_.detach(extent_);
  if (status) {
    id_ = {};
    host_.close_pool();
  }
  return status;
}

}  // namespace exclave::tools
