/* exclave: the whole library for C, and for whatever speaks C (Rust, Go, Zig).
 *
 * What each function does, its errors, its cost and what it trusts are written once, in the C++
 * header of the same part: allocator.hpp, memory_calls.hpp, access.hpp, ring.hpp, process_port.hpp.
 * Here, too:
 * - No error changes anything. Every function that can fail answers an exclave_error; a NULL where
 * an object or a result is expected is EXCLAVE_INVALID_ARGUMENT.
 * - exclave_address is an untrusted address: never dereference it, use exclave_copy_in and
 * exclave_copy_out.
 * - What a caller may get wrong is an int, checked; an enumeration only comes out.
 * - All functions are thread-safe but create and destroy. */
#ifndef EXCLAVE_H
#define EXCLAVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "exclave/port.h"

#if defined(__GNUC__)
#define EXCLAVE_C_API __attribute__((visibility("default")))
#define EXCLAVE_MUST_USE __attribute__((warn_unused_result))
#else
#define EXCLAVE_C_API
#define EXCLAVE_MUST_USE
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define EXCLAVE_ABI_VERSION 0

typedef uintptr_t exclave_address;
typedef uint64_t exclave_region_id; /* 0: none */
typedef uint64_t exclave_pin_id;    /* 0: none */
typedef struct exclave_allocator exclave_allocator;
typedef struct exclave_process_port exclave_process_port;
typedef struct exclave_process_memory exclave_process_memory;

typedef enum exclave_error {
  EXCLAVE_OK = 0,
  EXCLAVE_INVALID_ARGUMENT = 1,
  EXCLAVE_OUT_OF_MEMORY = 2,
  EXCLAVE_OUT_OF_TRUSTED_MEMORY = 3,
  EXCLAVE_QUOTA = 4,
  EXCLAVE_HOST_REFUSED = 5,
  EXCLAVE_HOST_LIED = 6,
  EXCLAVE_INSIDE_ENCLAVE = 7,
  EXCLAVE_OVERLAP = 8,
  EXCLAVE_NOT_FOUND = 9,
  EXCLAVE_BUSY = 10,
  EXCLAVE_PINNED = 11,
  EXCLAVE_DOUBLE_FREE = 12,
  EXCLAVE_INTERIOR_FREE = 13,
  EXCLAVE_FOREIGN_FREE = 14,
  EXCLAVE_STALE = 15,
  EXCLAVE_WRONG_SIZE = 16,
  EXCLAVE_NOT_PERMITTED = 17,
  EXCLAVE_REENTERED = 18,
  EXCLAVE_WOULD_BLOCK = 19,
  EXCLAVE_TOO_MANY_THREADS = 20
} exclave_error;

/* One line for people; never NULL. */
EXCLAVE_C_API const char* exclave_error_text(int error);

/* ---- The allocator ---- */

/* Fill with exclave_config_init, then change what you want. Fields as in exclave::Config. */
typedef struct exclave_config {
  size_t quota_bytes;
  size_t grow_min_bytes;
  size_t grow_max_bytes;
  size_t keep_free_bytes;
  bool scrub_on_free;
  void (*misuse)(void* context, int32_t error, exclave_address address,
                 size_t size_bytes); /* an exclave_error */
  void* misuse_context;
  bool (*rescue)(void* context, size_t size_bytes); /* true: try again */
  void* rescue_context;
  void (*leaked)(void* context, exclave_region_id region, exclave_address block,
                 size_t size_bytes); /* by exclave_destroy, for each live block */
  void* leaked_context;
} exclave_config;

EXCLAVE_C_API void exclave_config_init(exclave_config* config);

/* config may be NULL: the defaults. The port is copied, what its context points to must stay. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_create(const struct exclave_port* port,
                                                            const exclave_config* config,
                                                            exclave_allocator** allocator);
/* NULL is allowed. Calls leaked for each live block, then gone for each attached region; the order,
 * and what they may call, as at ~Allocator. */
EXCLAVE_C_API void exclave_destroy(exclave_allocator* allocator);

/* ---- Regions ---- */

enum { EXCLAVE_PROTECTION_NONE = 0, EXCLAVE_PROTECTION_READ = 1, EXCLAVE_PROTECTION_WRITE = 2 };
typedef enum exclave_role {
  EXCLAVE_POOL = 0,
  EXCLAVE_MAPPING = 1,
  EXCLAVE_FORBIDDEN = 2
} exclave_role;
typedef enum exclave_detach_mode {
  EXCLAVE_DETACH_BUSY = 0,
  EXCLAVE_DETACH_DRAIN = 1,
  EXCLAVE_DETACH_REVOKE = 2
} exclave_detach_mode;
#define EXCLAVE_NO_DEVICE_ADDRESS (~(uint64_t)0)

/* Fill with exclave_attach_options_init. Fields as in exclave::AttachOptions. */
typedef struct exclave_attach_options {
  int role; /* an exclave_role */
  unsigned protection;
  uint32_t device;
  uint64_t device_base;
  bool open_to_all;
  size_t largest_block;
  size_t boundary;
  void (*gone)(void* context, exclave_region_id id, exclave_address base, size_t size_bytes);
  void* gone_context;
} exclave_attach_options;

typedef struct exclave_region_info {
  exclave_region_id id;
  exclave_address base;
  size_t size_bytes;
  exclave_role role;
  unsigned protection;
  bool grown;
  bool draining;
  uint32_t device;
  uint64_t device_base;
} exclave_region_info;

EXCLAVE_C_API void exclave_attach_options_init(exclave_attach_options* options);
/* options may be NULL: a pool. id may be NULL. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_attach(exclave_allocator* allocator,
                                                            exclave_address base, size_t size_bytes,
                                                            const exclave_attach_options* options,
                                                            exclave_region_id* id);
/* Once the region is gone, the library touches none of its bytes any more (Allocator::detach). */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_detach(exclave_allocator* allocator,
                                                            exclave_address base, size_t size_bytes,
                                                            int mode);
/* info may be NULL. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_query(const exclave_allocator* allocator,
                                                           exclave_address address,
                                                           size_t size_bytes,
                                                           exclave_region_info* info);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_validate(const exclave_allocator* allocator,
                                                              exclave_address address,
                                                              size_t size_bytes,
                                                              unsigned needed_protection);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_device_address(
    const exclave_allocator* allocator, exclave_address address, uint64_t* device_address);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_pin(exclave_allocator* allocator,
                                                         exclave_address base, size_t size_bytes,
                                                         exclave_pin_id* pin);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_unpin(exclave_allocator* allocator,
                                                           exclave_pin_id pin);

/* ---- Blocks ---- */

typedef enum exclave_place {
  EXCLAVE_ANYWHERE = 0,
  EXCLAVE_IN_POOL = 1,
  EXCLAVE_ON_DEVICE = 2
} exclave_place;
typedef struct exclave_placement {
  int place;              /* an exclave_place */
  uint32_t device;        /* EXCLAVE_ON_DEVICE */
  exclave_region_id pool; /* EXCLAVE_IN_POOL */
} exclave_placement;

EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_allocate(exclave_allocator* allocator,
                                                              size_t size_bytes,
                                                              exclave_address* block);
/* where may be NULL: anywhere. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_allocate_at(exclave_allocator* allocator,
                                                                 size_t size_bytes,
                                                                 size_t alignment,
                                                                 const exclave_placement* where,
                                                                 exclave_address* block);
/* For owning handles: *region is the region that the block was placed in, to be given to
 * exclave_deallocate_handle. exclave_region_of, asked later, may name that of another block. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_allocate_handle(
    exclave_allocator* allocator, size_t size_bytes, size_t alignment,
    const exclave_placement* where, exclave_address* block, exclave_region_id* region);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_allocate_zeroed(exclave_allocator* allocator,
                                                                     size_t size_bytes,
                                                                     size_t alignment,
                                                                     const exclave_placement* where,
                                                                     exclave_address* block);
/* *block is the old block on the way in (0 allocates) and the new one on the way out; unchanged on
 * error. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_reallocate(exclave_allocator* allocator,
                                                                exclave_address* block,
                                                                size_t size_bytes, size_t alignment,
                                                                const exclave_placement* where);
EXCLAVE_C_API exclave_error exclave_deallocate(exclave_allocator* allocator, exclave_address block);
EXCLAVE_C_API exclave_error exclave_deallocate_sized(exclave_allocator* allocator,
                                                     exclave_address block, size_t size_bytes,
                                                     size_t alignment);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_usable_size(const exclave_allocator* allocator,
                                                                 exclave_address block,
                                                                 size_t* size_bytes);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_region_of(const exclave_allocator* allocator,
                                                               exclave_address block,
                                                               exclave_region_id* region);
EXCLAVE_C_API exclave_error exclave_deallocate_handle(exclave_allocator* allocator,
                                                      exclave_address block,
                                                      exclave_region_id region);

EXCLAVE_C_API void exclave_flush_thread(exclave_allocator* allocator);
EXCLAVE_C_API void exclave_trim(exclave_allocator* allocator);

/* ---- Looking ---- */

typedef enum exclave_run_kind {
  EXCLAVE_RUN_FREE = 0,
  EXCLAVE_RUN_BLOCK = 1,
  EXCLAVE_RUN_SLAB = 2
} exclave_run_kind;
typedef struct exclave_run_info {
  exclave_address base;
  size_t size_bytes;
  exclave_run_kind kind;
  uint32_t slot_bytes, slots, live_slots, cached_slots, owner;
  bool pinned;
} exclave_run_info;

/* Fields as in exclave::Statistics. */
typedef struct exclave_statistics {
  size_t reserved_bytes, live_bytes, cached_bytes, free_bytes, overhead_bytes, grown_bytes,
      mapping_bytes;
  size_t trusted_bytes, trusted_used_bytes, live_blocks, regions, pins;
  uint64_t host_reserve_calls, host_release_calls, host_map_calls, host_unmap_calls,
      host_protect_calls;
  uint64_t lies_refused, misuse_refused;
  uint64_t host_remap_calls, host_advise_calls;
} exclave_statistics;

EXCLAVE_C_API void exclave_get_statistics(const exclave_allocator* allocator,
                                          exclave_statistics* statistics);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_next_region(const exclave_allocator* allocator,
                                                                 exclave_address address,
                                                                 exclave_region_info* info);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_next_run(const exclave_allocator* allocator,
                                                              exclave_address address,
                                                              exclave_run_info* info);
EXCLAVE_C_API bool exclave_validate_books(const exclave_allocator* allocator);

/* ---- The boundary ----
 *
 * In C++ a span of untrusted memory is a proof that the books allowed it. C has addresses only, so
 * each function comes twice:
 * - exclave_checked_*: asks the books of `allocator` first, as untrusted_span::validated does, then
 * copies. Errors: EXCLAVE_INVALID_ARGUMENT, and those of exclave_validate: EXCLAVE_NOT_FOUND
 * (inside the enclave, or in no region), EXCLAVE_NOT_PERMITTED. Use these for every address that
 * came from outside. Cost: one more look into the books, without a lock.
 * - without: the caller vouches for the address: it is his own block, or a range that
 * exclave_validate allowed. What can be told without the books is EXCLAVE_INVALID_ARGUMENT: NULL, a
 * range that wraps, an address that is not aligned as said.
 * On error no byte has moved. */

EXCLAVE_C_API exclave_error exclave_copy_out(exclave_address to, const void* from,
                                             size_t size_bytes);
/* to is 8-aligned; zeros up to the next multiple of 8 follow. No slow tail. */
EXCLAVE_C_API exclave_error exclave_copy_out_padded(exclave_address to, const void* from,
                                                    size_t size_bytes);
EXCLAVE_C_API exclave_error exclave_copy_in(void* to, exclave_address from, size_t size_bytes);
EXCLAVE_C_API exclave_error exclave_fill_zero(exclave_address to, size_t size_bytes);
EXCLAVE_C_API exclave_error exclave_copy_across(exclave_address to, exclave_address from,
                                                size_t size_bytes);
/* One access each, naturally aligned. The two loads can tell of nothing: what they are given is not
 * looked at. */
EXCLAVE_C_API uint32_t exclave_load_u32(exclave_address from);
EXCLAVE_C_API uint64_t exclave_load_u64(exclave_address from);
EXCLAVE_C_API exclave_error exclave_store_u32(exclave_address to, uint32_t value);
EXCLAVE_C_API exclave_error exclave_store_u64(exclave_address to, uint64_t value);

EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_checked_copy_out(
    const exclave_allocator* allocator, exclave_address to, const void* from, size_t size_bytes);
/* The zeros, too, lie in the range that is asked for. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_checked_copy_out_padded(
    const exclave_allocator* allocator, exclave_address to, const void* from, size_t size_bytes);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_checked_copy_in(
    const exclave_allocator* allocator, void* to, exclave_address from, size_t size_bytes);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_checked_fill_zero(
    const exclave_allocator* allocator, exclave_address to, size_t size_bytes);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error
exclave_checked_copy_across(const exclave_allocator* allocator, exclave_address to,
                            exclave_address from, size_t size_bytes);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error
exclave_checked_load_u32(const exclave_allocator* allocator, exclave_address from, uint32_t* value);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error
exclave_checked_load_u64(const exclave_allocator* allocator, exclave_address from, uint64_t* value);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error
exclave_checked_store_u32(const exclave_allocator* allocator, exclave_address to, uint32_t value);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error
exclave_checked_store_u64(const exclave_allocator* allocator, exclave_address to, uint64_t value);

/* A byte ring; layout and rules in ring.hpp. The struct is one side's trusted state: initialise it
 * with the function, leave its inside alone. */
typedef struct exclave_ring_producer {
  uint64_t state[5];
} exclave_ring_producer;
typedef struct exclave_ring_consumer {
  uint64_t state[4];
} exclave_ring_consumer;

EXCLAVE_C_API size_t exclave_ring_bytes(size_t capacity);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_ring_producer_init(exclave_ring_producer* ring,
                                                                        exclave_address memory,
                                                                        size_t size_bytes);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_ring_consumer_init(exclave_ring_consumer* ring,
                                                                        exclave_address memory,
                                                                        size_t size_bytes);
/* The same, and `allocator`'s books allow the memory. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error
exclave_checked_ring_producer_init(const exclave_allocator* allocator, exclave_ring_producer* ring,
                                   exclave_address memory, size_t size_bytes);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error
exclave_checked_ring_consumer_init(const exclave_allocator* allocator, exclave_ring_consumer* ring,
                                   exclave_address memory, size_t size_bytes);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_ring_write(exclave_ring_producer* ring,
                                                                const void* bytes,
                                                                size_t size_bytes);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_ring_read(exclave_ring_consumer* ring,
                                                               void* bytes, size_t size_bytes);

/* ---- The application's memory calls: results as the Linux system calls', 0 or an address or a
 * negative errno. -EINVAL, too: inside is NULL, or without map, unmap or protect ---- */

EXCLAVE_C_API intptr_t exclave_mmap(exclave_allocator* allocator,
                                    const struct exclave_enclave_memory* inside,
                                    exclave_address address, size_t length, int protection,
                                    int flags, int descriptor, uint64_t offset);
EXCLAVE_C_API int exclave_munmap(exclave_allocator* allocator,
                                 const struct exclave_enclave_memory* inside,
                                 exclave_address address, size_t length);
EXCLAVE_C_API int exclave_mprotect(exclave_allocator* allocator,
                                   const struct exclave_enclave_memory* inside,
                                   exclave_address address, size_t length, int protection);

EXCLAVE_C_API intptr_t exclave_mremap(exclave_allocator* allocator,
                                      const struct exclave_enclave_memory* inside,
                                      exclave_address old_address, size_t old_length,
                                      size_t new_length, int flags, exclave_address new_address);
/* The break afterwards; the present one for an address that cannot be; 0: there is none. */
EXCLAVE_C_API exclave_address exclave_brk(exclave_allocator* allocator,
                                          const struct exclave_enclave_memory* inside,
                                          exclave_address address);
EXCLAVE_C_API int exclave_madvise(exclave_allocator* allocator,
                                  const struct exclave_enclave_memory* inside,
                                  exclave_address address, size_t length, int advice);
EXCLAVE_C_API int exclave_msync(exclave_allocator* allocator,
                                const struct exclave_enclave_memory* inside,
                                exclave_address address, size_t length, int flags);
EXCLAVE_C_API int exclave_mincore(exclave_allocator* allocator,
                                  const struct exclave_enclave_memory* inside,
                                  exclave_address address, size_t length, unsigned char* vector);
EXCLAVE_C_API int exclave_mlock(exclave_allocator* allocator,
                                const struct exclave_enclave_memory* inside,
                                exclave_address address, size_t length);
EXCLAVE_C_API int exclave_mlock2(exclave_allocator* allocator,
                                 const struct exclave_enclave_memory* inside,
                                 exclave_address address, size_t length, int flags);
EXCLAVE_C_API int exclave_munlock(exclave_allocator* allocator,
                                  const struct exclave_enclave_memory* inside,
                                  exclave_address address, size_t length);
EXCLAVE_C_API int exclave_mlockall(exclave_allocator* allocator,
                                   const struct exclave_enclave_memory* inside, int flags);
EXCLAVE_C_API int exclave_munlockall(exclave_allocator* allocator,
                                     const struct exclave_enclave_memory* inside);
/* Mappings that come without an mmap, and go (shmat, io_setup); and whether a range is wholly the
 * application's, outside. As the methods of MemoryCalls (memory_calls.hpp). */
EXCLAVE_C_API int exclave_adopt(exclave_allocator* allocator, exclave_address address,
                                size_t length, int protection);
EXCLAVE_C_API int exclave_give_up(exclave_allocator* allocator, exclave_address address,
                                  size_t length);
EXCLAVE_C_API bool exclave_is_application_memory(const exclave_allocator* allocator,
                                                 exclave_address address, size_t length);

/* ---- The manager of the enclave's own memory (enclave_manager.hpp) ---- */

typedef struct exclave_enclave_manager exclave_enclave_manager;
typedef struct exclave_manager_options {
  struct exclave_extent range;
  bool randomize;
  size_t max_areas; /* 0: no limit */
  /* The policy of the table; NULL: all mappings stay inside. */
  int (*lies_outside)(void* context, int protection, int flags, int descriptor, uint64_t offset);
  /* What the program may lock, as EnclaveManager::Options::may_lock; NULL: no limit. */
  int (*may_lock)(void* context, size_t bytes);
  void* policy_context;
} exclave_manager_options;

/* Both tables and the options are copied. Errors as EnclaveManager::create. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error exclave_enclave_manager_create(
    const struct exclave_port* port, const struct exclave_enclave_pages* pages,
    const exclave_manager_options* options, exclave_enclave_manager** manager);
EXCLAVE_C_API void exclave_enclave_manager_destroy(exclave_enclave_manager* manager);
EXCLAVE_C_API struct exclave_enclave_memory exclave_enclave_manager_table(
    exclave_enclave_manager* manager);
EXCLAVE_C_API int exclave_enclave_manager_start_break(exclave_enclave_manager* manager,
                                                      exclave_address address);
/* EnclaveManager::visit: 0, or a negative errno, or what the visitor answered that was not 0. */
EXCLAVE_C_API int exclave_enclave_manager_visit(
    exclave_enclave_manager* manager, struct exclave_extent range,
    int (*visitor)(void* context, struct exclave_extent area, int protection), void* context);
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error
exclave_enclave_manager_before_fork(exclave_enclave_manager* manager);
EXCLAVE_C_API void exclave_enclave_manager_after_fork(exclave_enclave_manager* manager,
                                                      bool in_child);

/* ---- The process port (not in builds for other ports) ---- */

typedef struct exclave_process_options {
  size_t book_bytes;
  size_t enclave_bytes;
  bool huge_pages;
  bool shared;
} exclave_process_options;

EXCLAVE_C_API void exclave_process_options_init(exclave_process_options* options);
/* options may be NULL. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error
exclave_process_port_create(const exclave_process_options* options, exclave_process_port** port);
EXCLAVE_C_API void exclave_process_port_destroy(exclave_process_port* port);
EXCLAVE_C_API struct exclave_port exclave_process_port_table(exclave_process_port* port);
/* The simple manager of the enclave's own memory, and its table for the memory calls. */
EXCLAVE_C_API EXCLAVE_MUST_USE exclave_error
exclave_process_memory_create(exclave_process_port* port, exclave_process_memory** memory);
EXCLAVE_C_API void exclave_process_memory_destroy(exclave_process_memory* memory);
EXCLAVE_C_API struct exclave_enclave_memory exclave_process_memory_table(
    exclave_process_memory* memory);

#ifdef __cplusplus
}
#endif
#endif
