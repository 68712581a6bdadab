// The public face of the allocator: forwards to the core.
#include "exclave/allocator.hpp"

#include "heap/core.hpp"

namespace exclave {

Result<Allocator> Allocator::create(const PortTable& port, const Config& config) noexcept {
  const Result<core::AllocatorCore*> core = core::AllocatorCore::create(port, config);
  if (!core.ok()) return core.error();
  Allocator allocator;
  allocator.core_ = *core;
  return allocator;
}

Allocator::Allocator(Allocator&& other) noexcept : core_(other.core_) {
  other.core_ = nullptr;
}

Allocator& Allocator::operator=(Allocator&& other) noexcept {
  if (this != &other) {
    if (core_ != nullptr) core::AllocatorCore::destroy(core_);
    core_ = other.core_;
    other.core_ = nullptr;
  }
  return *this;
}

Allocator::~Allocator() {
  if (core_ != nullptr) core::AllocatorCore::destroy(core_);
}

Result<RegionId> Allocator::attach(Extent range, const AttachOptions& options) noexcept {
  return core_->attach(range, options);
}
Status Allocator::detach(Extent range, DetachMode mode) noexcept {
  return core_->detach(range, mode);
}

// Flat: each call in between would cost a tenth of it.
[[gnu::flatten]] Result<RegionInfo> Allocator::query(std::uintptr_t address,
                                                     std::size_t size_bytes) const noexcept {
  return core_->query(address, size_bytes);
}

Result<untrusted_bytes> Allocator::validate(std::uintptr_t address, std::size_t size_bytes,
                                            Protection needed) const noexcept {
  return core_->validate_range(address, size_bytes, needed);
}

Result<std::uint64_t> Allocator::device_address(untrusted_bytes pointer) const noexcept {
  return core_->device_address(pointer.address());
}

Result<PinId> Allocator::pin(Extent range) noexcept {
  return core_->pin(range);
}
Status Allocator::unpin(PinId pin) noexcept {
  return core_->unpin(pin);
}

Result<untrusted_bytes> Allocator::allocate(std::size_t size_bytes) noexcept {
  return core_->allocate(size_bytes);
}
Result<untrusted_bytes> Allocator::allocate(std::size_t size_bytes, std::size_t alignment,
                                            Placement where) noexcept {
  return core_->allocate(size_bytes, alignment, where);
}
Result<PlacedBlock> Allocator::allocate_handle(std::size_t size_bytes, std::size_t alignment,
                                               Placement where) noexcept {
  return core_->allocate_handle(size_bytes, alignment, where);
}
Result<untrusted_bytes> Allocator::allocate_zeroed(std::size_t size_bytes, std::size_t alignment,
                                                   Placement where) noexcept {
  return core_->allocate_zeroed(size_bytes, alignment, where);
}
Result<untrusted_bytes> Allocator::reallocate(untrusted_bytes block, std::size_t size_bytes,
                                              std::size_t alignment, Placement where) noexcept {
  return core_->reallocate(block.address(), size_bytes, alignment, where);
}
Status Allocator::deallocate(untrusted_bytes block) noexcept {
  return core_->deallocate(block.address());
}
Status Allocator::deallocate(untrusted_bytes block, std::size_t size_bytes,
                             std::size_t alignment) noexcept {
  return core_->deallocate_sized(block.address(), size_bytes, alignment);
}
Result<std::size_t> Allocator::usable_size(untrusted_bytes block) const noexcept {
  return core_->usable_size(block.address());
}
Result<RegionId> Allocator::region_of(untrusted_bytes block) const noexcept {
  return core_->region_of(block.address());
}
Status Allocator::deallocate_handle(untrusted_bytes block, RegionId region) noexcept {
  return core_->deallocate_handle(block.address(), region);
}

void Allocator::flush_thread() noexcept {
  core_->flush_thread();
}
void Allocator::trim() noexcept {
  core_->trim();
}
Status Allocator::before_fork() noexcept {
  return core_->before_fork();
}
void Allocator::after_fork_in_parent() noexcept {
  core_->after_fork_in_parent();
}
void Allocator::after_fork_in_child() noexcept {
  core_->after_fork_in_child();
}
Statistics Allocator::statistics() const noexcept {
  return core_->statistics();
}
Result<RegionInfo> Allocator::next_region(std::uintptr_t address) const noexcept {
  return core_->next_region(address);
}
Result<RunInfo> Allocator::next_run(std::uintptr_t address) const noexcept {
  return core_->next_run(address);
}
bool Allocator::validate_books() const noexcept {
  return core_->validate();
}

}  // namespace exclave
