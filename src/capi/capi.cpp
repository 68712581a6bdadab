// The C ABI: translates and forwards, and knows nothing else. An exclave_allocator is the core by
// another name.
#include "exclave/exclave.h"

#include <new>
#include <span>

#include "exclave/access.hpp"
#include "exclave/memory_calls.hpp"
#include "exclave/ring.hpp"
#include "heap/core.hpp"
#include "memcall/enclave_core.hpp"

namespace {

using exclave::Error;
using exclave::Result;
using exclave::Status;
using exclave::untrusted_bytes;
using exclave::core::AllocatorCore;
using exclave::core::EnclaveCore;

static_assert(EXCLAVE_TOO_MANY_THREADS == static_cast<int>(Error::kTooManyThreads),
              "the two lists of errors are one");
static_assert(EXCLAVE_DETACH_REVOKE == static_cast<int>(exclave::DetachMode::kRevoke));
static_assert(EXCLAVE_FORBIDDEN == static_cast<int>(exclave::Role::kForbidden));
static_assert(EXCLAVE_ON_DEVICE == static_cast<int>(exclave::Placement::Kind::kDevice));
static_assert(EXCLAVE_RUN_SLAB == static_cast<int>(exclave::RunInfo::Kind::kSlab));
static_assert(sizeof(exclave_ring_producer) == sizeof(exclave::RingProducer));
static_assert(sizeof(exclave_ring_consumer) == sizeof(exclave::RingConsumer));

exclave_error c_error(Error error) noexcept {
  return static_cast<exclave_error>(error);
}
exclave_error c_error(Status status) noexcept {
  return c_error(status.error());
}

AllocatorCore& core_of(exclave_allocator* allocator) noexcept {
  return *reinterpret_cast<AllocatorCore*>(allocator);
}
// Looking does not change what a caller can see; the core takes its locks all the same.
AllocatorCore& core_of(const exclave_allocator* allocator) noexcept {
  return core_of(const_cast<exclave_allocator*>(allocator));
}

EnclaveCore& core_of(exclave_enclave_manager* manager) noexcept {
  return *reinterpret_cast<EnclaveCore*>(manager);
}

exclave::Placement placement_of(const exclave_placement* where) noexcept {
  if (where == nullptr) return {};
  return {static_cast<exclave::Placement::Kind>(where->place), where->device, {where->pool}};
}
bool is_placement(const exclave_placement* where) noexcept {
  return where == nullptr ||
         (where->place >= EXCLAVE_ANYWHERE && where->place <= EXCLAVE_ON_DEVICE);
}

exclave_error answer(const Result<untrusted_bytes>& result, exclave_address* block) noexcept {
  if (result.ok()) *block = result->address();
  return c_error(result.error());
}

exclave_region_info info_of(const exclave::RegionInfo& from) noexcept {
  return {from.id.value,
          from.extent.base,
          from.extent.size,
          static_cast<exclave_role>(from.role),
          static_cast<unsigned>(from.protection),
          from.grown,
          from.draining,
          from.device,
          from.device_base};
}

exclave::AttachOptions options_of(const exclave_attach_options& from) noexcept {
  exclave::AttachOptions to;
  to.role = static_cast<exclave::Role>(from.role);
  to.protection = static_cast<exclave::Protection>(from.protection);
  to.device = from.device;
  to.device_base = from.device_base;
  to.open_to_all = from.open_to_all;
  to.largest_block = from.largest_block;
  to.boundary = from.boundary;
  to.gone = from.gone;
  to.gone_context = from.gone_context;
  return to;
}

exclave::Config config_of(const exclave_config& from) noexcept {
  exclave::Config to;
  to.quota_bytes = from.quota_bytes;
  to.grow_min_bytes = from.grow_min_bytes;
  to.grow_max_bytes = from.grow_max_bytes;
  to.keep_free_bytes = from.keep_free_bytes;
  to.scrub_on_free = from.scrub_on_free;
  to.misuse = from.misuse;
  to.misuse_context = from.misuse_context;
  to.rescue = from.rescue;
  to.rescue_context = from.rescue_context;
  to.leaked = from.leaked;
  to.leaked_context = from.leaked_context;
  return to;
}

constexpr exclave_error kBadArgument = EXCLAVE_INVALID_ARGUMENT;
constexpr int kEinval = -22;

bool is_buffer(const void* bytes, std::size_t size_bytes) noexcept {
  return bytes != nullptr || size_bytes == 0;
}
// What can be said without any books: it begins somewhere and does not wrap.
bool is_range(exclave_address address, std::size_t size_bytes) noexcept {
  return size_bytes == 0 || (address != 0 && size_bytes - 1 <= ~address);
}

std::span<const std::byte> trusted(const void* bytes, std::size_t size_bytes) noexcept {
  return {static_cast<const std::byte*>(bytes), size_bytes};
}

// The core, as untrusted_span asks it.
struct Books {
  const AllocatorCore& core;
  Result<untrusted_bytes> validate(std::uintptr_t address, std::size_t size_bytes,
                                   exclave::Protection needed) const noexcept {
    return core.validate_range(address, size_bytes, needed);
  }
};
template <class T>
Result<exclave::untrusted_span<T>> validated(const exclave_allocator* allocator,
                                             exclave_address address, std::size_t count) noexcept {
  if (allocator == nullptr) return Error::kInvalidArgument;
  return exclave::untrusted_span<T>::validated(Books{core_of(allocator)}, address, count);
}

template <class Word>
exclave_error store_word(exclave_address to, Word value) noexcept {
  const auto word =
      exclave::untrusted_atomic<Word>::at(exclave::untrusted_ptr<Word>::unsafe_from_address(to));
  if (word.ok()) word->store_release(value);
  return c_error(word.error());
}
template <class Word>
exclave_error load_checked(const exclave_allocator* allocator, exclave_address from,
                           Word* value) noexcept {
  if (value == nullptr) return kBadArgument;
  const auto range = validated<const Word>(allocator, from, 1);
  if (!range.ok()) return c_error(range.error());
  *value = exclave::untrusted_atomic<const Word>::at(range->data())->load_acquire();
  return EXCLAVE_OK;
}
template <class Word>
exclave_error store_checked(const exclave_allocator* allocator, exclave_address to,
                            Word value) noexcept {
  const auto range = validated<Word>(allocator, to, 1);
  return range.ok() ? store_word<Word>(to, value) : c_error(range.error());
}

template <class End, class CEnd>
exclave_error init_ring(CEnd* ring, exclave_address memory, std::size_t size_bytes) noexcept {
  if (ring == nullptr || !is_range(memory, size_bytes)) return kBadArgument;
  Result<End> made = End::create(exclave::untrusted_span<std::byte>::unsafe_from(
      untrusted_bytes::unsafe_from_address(memory), size_bytes));
  if (made.ok()) ::new (static_cast<void*>(ring)) End(static_cast<End&&>(*made));
  return c_error(made.error());
}

// exclave_enclave_manager_table answers an empty one for NULL.
bool is_whole(const exclave_enclave_memory* inside) noexcept {
  return inside != nullptr && inside->map != nullptr && inside->unmap != nullptr &&
         inside->protect != nullptr;
}

}  // namespace

extern "C" {

const char* exclave_error_text(int error) {
  return exclave::error_text(static_cast<Error>(error));
}

// ---- The allocator ----

void exclave_config_init(exclave_config* config) {
  if (config == nullptr) return;
  const exclave::Config from;
  *config = {from.quota_bytes,
             from.grow_min_bytes,
             from.grow_max_bytes,
             from.keep_free_bytes,
             from.scrub_on_free,
             nullptr,
             nullptr,
             nullptr,
             nullptr,
             nullptr,
             nullptr};
}

exclave_error exclave_create(const exclave_port* port, const exclave_config* config,
                             exclave_allocator** allocator) {
  if (port == nullptr || allocator == nullptr) return kBadArgument;
  const Result<AllocatorCore*> core =
      AllocatorCore::create(*port, config != nullptr ? config_of(*config) : exclave::Config{});
  if (core.ok()) *allocator = reinterpret_cast<exclave_allocator*>(*core);
  return c_error(core.error());
}

void exclave_destroy(exclave_allocator* allocator) {
  if (allocator != nullptr) AllocatorCore::destroy(&core_of(allocator));
}

// ---- Regions ----

void exclave_attach_options_init(exclave_attach_options* options) {
  if (options == nullptr) return;
  const exclave::AttachOptions from;
  *options = {static_cast<int>(from.role),
              static_cast<unsigned>(from.protection),
              from.device,
              from.device_base,
              from.open_to_all,
              from.largest_block,
              from.boundary,
              nullptr,
              nullptr};
}

exclave_error exclave_attach(exclave_allocator* allocator, exclave_address base, size_t size_bytes,
                             const exclave_attach_options* options, exclave_region_id* id) {
  if (allocator == nullptr) return kBadArgument;
  // Out of range here would be out of range of the C++ enumerations.
  if (options != nullptr && (options->protection > 3 || options->role < EXCLAVE_POOL ||
                             options->role > EXCLAVE_FORBIDDEN))
    return kBadArgument;
  const Result<exclave::RegionId> region = core_of(allocator).attach(
      {base, size_bytes}, options != nullptr ? options_of(*options) : exclave::AttachOptions{});
  if (region.ok() && id != nullptr) *id = region->value;
  return c_error(region.error());
}

exclave_error exclave_detach(exclave_allocator* allocator, exclave_address base, size_t size_bytes,
                             int mode) {
  if (allocator == nullptr || mode < EXCLAVE_DETACH_BUSY || mode > EXCLAVE_DETACH_REVOKE)
    return kBadArgument;
  return c_error(
      core_of(allocator).detach({base, size_bytes}, static_cast<exclave::DetachMode>(mode)));
}

exclave_error exclave_query(const exclave_allocator* allocator, exclave_address address,
                            size_t size_bytes, exclave_region_info* info) {
  if (allocator == nullptr) return kBadArgument;
  const Result<exclave::RegionInfo> found = core_of(allocator).query(address, size_bytes);
  if (found.ok() && info != nullptr) *info = info_of(*found);
  return c_error(found.error());
}

exclave_error exclave_validate(const exclave_allocator* allocator, exclave_address address,
                               size_t size_bytes, unsigned needed_protection) {
  if (allocator == nullptr || needed_protection > 3) return kBadArgument;
  return c_error(
      core_of(allocator)
          .validate_range(address, size_bytes, static_cast<exclave::Protection>(needed_protection))
          .error());
}

exclave_error exclave_device_address(const exclave_allocator* allocator, exclave_address address,
                                     uint64_t* device_address) {
  if (allocator == nullptr || device_address == nullptr) return kBadArgument;
  const Result<std::uint64_t> found = core_of(allocator).device_address(address);
  if (found.ok()) *device_address = *found;
  return c_error(found.error());
}

exclave_error exclave_pin(exclave_allocator* allocator, exclave_address base, size_t size_bytes,
                          exclave_pin_id* pin) {
  if (allocator == nullptr || pin == nullptr) return kBadArgument;
  const Result<exclave::PinId> made = core_of(allocator).pin({base, size_bytes});
  if (made.ok()) *pin = made->value;
  return c_error(made.error());
}

exclave_error exclave_unpin(exclave_allocator* allocator, exclave_pin_id pin) {
  return allocator == nullptr ? kBadArgument : c_error(core_of(allocator).unpin({pin}));
}

// ---- Blocks ----

exclave_error exclave_allocate(exclave_allocator* allocator, size_t size_bytes,
                               exclave_address* block) {
  if (allocator == nullptr || block == nullptr) return kBadArgument;
  return answer(core_of(allocator).allocate(size_bytes), block);
}

exclave_error exclave_allocate_at(exclave_allocator* allocator, size_t size_bytes, size_t alignment,
                                  const exclave_placement* where, exclave_address* block) {
  if (allocator == nullptr || block == nullptr || !is_placement(where)) return kBadArgument;
  return answer(core_of(allocator).allocate(size_bytes, alignment, placement_of(where)), block);
}

exclave_error exclave_allocate_handle(exclave_allocator* allocator, size_t size_bytes,
                                      size_t alignment, const exclave_placement* where,
                                      exclave_address* block, exclave_region_id* region) {
  if (allocator == nullptr || block == nullptr || region == nullptr || !is_placement(where))
    return kBadArgument;
  const Result<exclave::PlacedBlock> placed =
      core_of(allocator).allocate_handle(size_bytes, alignment, placement_of(where));
  if (placed.ok()) {
    *block = placed->start.address();
    *region = placed->region.value;
  }
  return c_error(placed.error());
}

exclave_error exclave_allocate_zeroed(exclave_allocator* allocator, size_t size_bytes,
                                      size_t alignment, const exclave_placement* where,
                                      exclave_address* block) {
  if (allocator == nullptr || block == nullptr || !is_placement(where)) return kBadArgument;
  return answer(core_of(allocator).allocate_zeroed(size_bytes, alignment, placement_of(where)),
                block);
}

exclave_error exclave_reallocate(exclave_allocator* allocator, exclave_address* block,
                                 size_t size_bytes, size_t alignment,
                                 const exclave_placement* where) {
  if (allocator == nullptr || block == nullptr || !is_placement(where)) return kBadArgument;
  return answer(core_of(allocator).reallocate(*block, size_bytes, alignment, placement_of(where)),
                block);
}

exclave_error exclave_deallocate(exclave_allocator* allocator, exclave_address block) {
  return allocator == nullptr ? kBadArgument : c_error(core_of(allocator).deallocate(block));
}

exclave_error exclave_deallocate_sized(exclave_allocator* allocator, exclave_address block,
                                       size_t size_bytes, size_t alignment) {
  return allocator == nullptr
             ? kBadArgument
             : c_error(core_of(allocator).deallocate_sized(block, size_bytes, alignment));
}

exclave_error exclave_usable_size(const exclave_allocator* allocator, exclave_address block,
                                  size_t* size_bytes) {
  if (allocator == nullptr || size_bytes == nullptr) return kBadArgument;
  const Result<std::size_t> found = core_of(allocator).usable_size(block);
  if (found.ok()) *size_bytes = *found;
  return c_error(found.error());
}

exclave_error exclave_region_of(const exclave_allocator* allocator, exclave_address block,
                                exclave_region_id* region) {
  if (allocator == nullptr || region == nullptr) return kBadArgument;
  const Result<exclave::RegionId> found = core_of(allocator).region_of(block);
  if (found.ok()) *region = found->value;
  return c_error(found.error());
}

exclave_error exclave_deallocate_handle(exclave_allocator* allocator, exclave_address block,
                                        exclave_region_id region) {
  return allocator == nullptr ? kBadArgument
                              : c_error(core_of(allocator).deallocate_handle(block, {region}));
}

void exclave_flush_thread(exclave_allocator* allocator) {
  if (allocator != nullptr) core_of(allocator).flush_thread();
}

void exclave_trim(exclave_allocator* allocator) {
  if (allocator != nullptr) core_of(allocator).trim();
}

// ---- Looking ----

void exclave_get_statistics(const exclave_allocator* allocator, exclave_statistics* statistics) {
  if (allocator == nullptr || statistics == nullptr) return;
  const exclave::Statistics s = core_of(allocator).statistics();
  *statistics = {s.reserved_bytes,     s.live_bytes,         s.cached_bytes,   s.free_bytes,
                 s.overhead_bytes,     s.grown_bytes,        s.mapping_bytes,  s.trusted_bytes,
                 s.trusted_used_bytes, s.live_blocks,        s.regions,        s.pins,
                 s.host_reserve_calls, s.host_release_calls, s.host_map_calls, s.host_unmap_calls,
                 s.host_protect_calls, s.lies_refused,       s.misuse_refused, s.host_remap_calls,
                 s.host_advise_calls};
}

exclave_error exclave_next_region(const exclave_allocator* allocator, exclave_address address,
                                  exclave_region_info* info) {
  if (allocator == nullptr || info == nullptr) return kBadArgument;
  const Result<exclave::RegionInfo> found = core_of(allocator).next_region(address);
  if (found.ok()) *info = info_of(*found);
  return c_error(found.error());
}

exclave_error exclave_next_run(const exclave_allocator* allocator, exclave_address address,
                               exclave_run_info* info) {
  if (allocator == nullptr || info == nullptr) return kBadArgument;
  const Result<exclave::RunInfo> run = core_of(allocator).next_run(address);
  if (run.ok()) {
    *info = {run->extent.base,  run->extent.size, static_cast<exclave_run_kind>(run->kind),
             run->slot_bytes,   run->slots,       run->live_slots,
             run->cached_slots, run->owner,       run->pinned};
  }
  return c_error(run.error());
}

bool exclave_validate_books(const exclave_allocator* allocator) {
  return allocator != nullptr && core_of(allocator).validate();
}

// ---- The boundary ----

exclave_error exclave_copy_out(exclave_address to, const void* from, size_t size_bytes) {
  if (!is_range(to, size_bytes) || !is_buffer(from, size_bytes)) return kBadArgument;
  exclave::detail::copy_out_bytes(to, from, size_bytes);
  return EXCLAVE_OK;
}
exclave_error exclave_copy_out_padded(exclave_address to, const void* from, size_t size_bytes) {
  if (!is_range(to, size_bytes) || !is_buffer(from, size_bytes) || to % 8 != 0) return kBadArgument;
  exclave::detail::copy_out_padded_bytes(to, from, size_bytes);
  return EXCLAVE_OK;
}
exclave_error exclave_copy_in(void* to, exclave_address from, size_t size_bytes) {
  if (!is_buffer(to, size_bytes) || !is_range(from, size_bytes)) return kBadArgument;
  exclave::detail::copy_in_bytes(to, from, size_bytes);
  return EXCLAVE_OK;
}
exclave_error exclave_fill_zero(exclave_address to, size_t size_bytes) {
  if (!is_range(to, size_bytes)) return kBadArgument;
  exclave::detail::fill_zero_bytes(to, size_bytes);
  return EXCLAVE_OK;
}
exclave_error exclave_copy_across(exclave_address to, exclave_address from, size_t size_bytes) {
  if (!is_range(to, size_bytes) || !is_range(from, size_bytes)) return kBadArgument;
  exclave::detail::copy_across_bytes(to, from, size_bytes);
  return EXCLAVE_OK;
}
uint32_t exclave_load_u32(exclave_address from) {
  return exclave::detail::load_u32(from);
}
uint64_t exclave_load_u64(exclave_address from) {
  return exclave::detail::load_u64(from);
}
exclave_error exclave_store_u32(exclave_address to, uint32_t value) {
  return store_word<std::uint32_t>(to, value);
}
exclave_error exclave_store_u64(exclave_address to, uint64_t value) {
  return store_word<std::uint64_t>(to, value);
}

exclave_error exclave_checked_copy_out(const exclave_allocator* allocator, exclave_address to,
                                       const void* from, size_t size_bytes) {
  if (!is_buffer(from, size_bytes)) return kBadArgument;
  const auto dst = validated<std::byte>(allocator, to, size_bytes);
  return dst.ok() ? c_error(exclave::copy_out(*dst, trusted(from, size_bytes)))
                  : c_error(dst.error());
}
exclave_error exclave_checked_copy_out_padded(const exclave_allocator* allocator,
                                              exclave_address to, const void* from,
                                              size_t size_bytes) {
  std::size_t padded_bytes = 0;
  if (!is_buffer(from, size_bytes) || __builtin_add_overflow(size_bytes, 7, &padded_bytes))
    return kBadArgument;
  const auto dst = validated<std::byte>(allocator, to, padded_bytes - padded_bytes % 8);
  return dst.ok() ? c_error(exclave::copy_out_padded(*dst, trusted(from, size_bytes)))
                  : c_error(dst.error());
}
exclave_error exclave_checked_copy_in(const exclave_allocator* allocator, void* to,
                                      exclave_address from, size_t size_bytes) {
  if (!is_buffer(to, size_bytes)) return kBadArgument;
  const auto src = validated<const std::byte>(allocator, from, size_bytes);
  if (!src.ok()) return c_error(src.error());
  return c_error(exclave::copy_in(std::span(static_cast<std::byte*>(to), size_bytes), *src));
}
exclave_error exclave_checked_fill_zero(const exclave_allocator* allocator, exclave_address to,
                                        size_t size_bytes) {
  const auto dst = validated<std::byte>(allocator, to, size_bytes);
  if (dst.ok()) exclave::fill_zero(*dst);
  return c_error(dst.error());
}
exclave_error exclave_checked_copy_across(const exclave_allocator* allocator, exclave_address to,
                                          exclave_address from, size_t size_bytes) {
  const auto dst = validated<std::byte>(allocator, to, size_bytes);
  if (!dst.ok()) return c_error(dst.error());
  const auto src = validated<const std::byte>(allocator, from, size_bytes);
  return src.ok() ? c_error(exclave::copy_across(*dst, *src)) : c_error(src.error());
}
exclave_error exclave_checked_load_u32(const exclave_allocator* allocator, exclave_address from,
                                       uint32_t* value) {
  return load_checked<std::uint32_t>(allocator, from, value);
}
exclave_error exclave_checked_load_u64(const exclave_allocator* allocator, exclave_address from,
                                       uint64_t* value) {
  return load_checked<std::uint64_t>(allocator, from, value);
}
exclave_error exclave_checked_store_u32(const exclave_allocator* allocator, exclave_address to,
                                        uint32_t value) {
  return store_checked<std::uint32_t>(allocator, to, value);
}
exclave_error exclave_checked_store_u64(const exclave_allocator* allocator, exclave_address to,
                                        uint64_t value) {
  return store_checked<std::uint64_t>(allocator, to, value);
}

size_t exclave_ring_bytes(size_t capacity) {
  return exclave::RingLayout::bytes_for(capacity);
}

exclave_error exclave_ring_producer_init(exclave_ring_producer* ring, exclave_address memory,
                                         size_t size_bytes) {
  return init_ring<exclave::RingProducer>(ring, memory, size_bytes);
}
exclave_error exclave_ring_consumer_init(exclave_ring_consumer* ring, exclave_address memory,
                                         size_t size_bytes) {
  return init_ring<exclave::RingConsumer>(ring, memory, size_bytes);
}
exclave_error exclave_checked_ring_producer_init(const exclave_allocator* allocator,
                                                 exclave_ring_producer* ring,
                                                 exclave_address memory, size_t size_bytes) {
  const auto range = validated<std::byte>(allocator, memory, size_bytes);
  return range.ok() ? exclave_ring_producer_init(ring, memory, size_bytes) : c_error(range.error());
}
exclave_error exclave_checked_ring_consumer_init(const exclave_allocator* allocator,
                                                 exclave_ring_consumer* ring,
                                                 exclave_address memory, size_t size_bytes) {
  const auto range = validated<std::byte>(allocator, memory, size_bytes);
  return range.ok() ? exclave_ring_consumer_init(ring, memory, size_bytes) : c_error(range.error());
}

exclave_error exclave_ring_write(exclave_ring_producer* ring, const void* bytes,
                                 size_t size_bytes) {
  if (ring == nullptr || !is_buffer(bytes, size_bytes)) return kBadArgument;
  return c_error(reinterpret_cast<exclave::RingProducer*>(ring)->write(
      {static_cast<const std::byte*>(bytes), size_bytes}));
}

exclave_error exclave_ring_read(exclave_ring_consumer* ring, void* bytes, size_t size_bytes) {
  if (ring == nullptr || !is_buffer(bytes, size_bytes)) return kBadArgument;
  return c_error(reinterpret_cast<exclave::RingConsumer*>(ring)->read(
      {static_cast<std::byte*>(bytes), size_bytes}));
}

// ---- The memory calls ----

intptr_t exclave_mmap(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                      exclave_address address, size_t length, int protection, int flags,
                      int descriptor, uint64_t offset) {
  if (allocator == nullptr || !is_whole(inside)) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside)
      .mmap(address, length, protection, flags, descriptor, offset);
}

int exclave_munmap(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                   exclave_address address, size_t length) {
  if (allocator == nullptr || !is_whole(inside)) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside).munmap(address, length);
}

int exclave_mprotect(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                     exclave_address address, size_t length, int protection) {
  if (allocator == nullptr || !is_whole(inside)) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside).mprotect(address, length, protection);
}

intptr_t exclave_mremap(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                        exclave_address old_address, size_t old_length, size_t new_length,
                        int flags, exclave_address new_address) {
  if (allocator == nullptr || !is_whole(inside)) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside)
      .mremap(old_address, old_length, new_length, flags, new_address);
}

exclave_address exclave_brk(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                            exclave_address address) {
  if (allocator == nullptr || !is_whole(inside)) return 0;
  return exclave::MemoryCalls(core_of(allocator), *inside).brk(address);
}

int exclave_madvise(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                    exclave_address address, size_t length, int advice) {
  if (allocator == nullptr || !is_whole(inside)) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside).madvise(address, length, advice);
}

int exclave_msync(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                  exclave_address address, size_t length, int flags) {
  if (allocator == nullptr || !is_whole(inside)) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside).msync(address, length, flags);
}

int exclave_mincore(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                    exclave_address address, size_t length, unsigned char* vector) {
  if (allocator == nullptr || !is_whole(inside) || vector == nullptr) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside).mincore(address, length, vector);
}

int exclave_mlock(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                  exclave_address address, size_t length) {
  return exclave_mlock2(allocator, inside, address, length, 0);
}

int exclave_mlock2(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                   exclave_address address, size_t length, int flags) {
  if (allocator == nullptr || !is_whole(inside)) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside).mlock2(address, length, flags);
}

int exclave_munlock(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                    exclave_address address, size_t length) {
  if (allocator == nullptr || !is_whole(inside)) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside).munlock(address, length);
}

int exclave_mlockall(exclave_allocator* allocator, const exclave_enclave_memory* inside,
                     int flags) {
  if (allocator == nullptr || !is_whole(inside)) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside).mlockall(flags);
}

int exclave_munlockall(exclave_allocator* allocator, const exclave_enclave_memory* inside) {
  if (allocator == nullptr || !is_whole(inside)) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), *inside).munlockall();
}

int exclave_adopt(exclave_allocator* allocator, exclave_address address, size_t length,
                  int protection) {
  if (allocator == nullptr) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), {}).adopt(address, length, protection);
}

int exclave_give_up(exclave_allocator* allocator, exclave_address address, size_t length) {
  if (allocator == nullptr) return kEinval;
  return exclave::MemoryCalls(core_of(allocator), {}).give_up(address, length);
}

bool exclave_is_application_memory(const exclave_allocator* allocator, exclave_address address,
                                   size_t length) {
  return allocator != nullptr &&
         exclave::MemoryCalls(core_of(allocator), {}).is_application_memory(address, length);
}

// ---- The manager of the enclave's own memory ----

exclave_error exclave_enclave_manager_create(const exclave_port* port,
                                             const exclave_enclave_pages* pages,
                                             const exclave_manager_options* options,
                                             exclave_enclave_manager** manager) {
  if (port == nullptr || pages == nullptr || options == nullptr || manager == nullptr)
    return kBadArgument;
  const Result<EnclaveCore*> made = EnclaveCore::create(*port, *pages,
                                                        {{options->range.base, options->range.size},
                                                         options->randomize,
                                                         options->max_areas,
                                                         options->lies_outside,
                                                         options->may_lock,
                                                         options->policy_context});
  if (made.ok()) *manager = reinterpret_cast<exclave_enclave_manager*>(*made);
  return c_error(made.error());
}

void exclave_enclave_manager_destroy(exclave_enclave_manager* manager) {
  if (manager != nullptr) EnclaveCore::destroy(&core_of(manager));
}

exclave_enclave_memory exclave_enclave_manager_table(exclave_enclave_manager* manager) {
  return manager != nullptr ? exclave::bind_enclave_memory(core_of(manager))
                            : exclave_enclave_memory{};
}

int exclave_enclave_manager_start_break(exclave_enclave_manager* manager, exclave_address address) {
  return manager != nullptr ? core_of(manager).start_break(address) : kEinval;
}

int exclave_enclave_manager_visit(exclave_enclave_manager* manager, exclave_extent range,
                                  int (*visitor)(void* context, exclave_extent area,
                                                 int protection),
                                  void* context) {
  if (manager == nullptr || visitor == nullptr) return kEinval;
  struct Visit {
    decltype(visitor) function;
    void* context;
  } visit{visitor, context};
  return core_of(manager).visit(
      {range.base, range.size},
      [](void* of, exclave::Extent area, int protection) {
        const Visit& to = *static_cast<const Visit*>(of);
        return to.function(to.context, {area.base, area.size}, protection);
      },
      &visit);
}

exclave_error exclave_enclave_manager_before_fork(exclave_enclave_manager* manager) {
  return manager != nullptr ? c_error(core_of(manager).before_fork()) : kBadArgument;
}

void exclave_enclave_manager_after_fork(exclave_enclave_manager* manager, bool in_child) {
  if (manager == nullptr) return;
  if (in_child) {
    core_of(manager).after_fork_in_child();
  } else {
    core_of(manager).after_fork_in_parent();
  }
}

}  // extern "C"
