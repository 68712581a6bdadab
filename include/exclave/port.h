/* The Port contract: what a platform supplies. One table of functions, for C, C++ and Rust alike.
 *
 * The library copies the table into trusted memory when an allocator is created. Functions named
 * host_* leave the enclave; whatever they answer is verified before it is believed, and no lock is
 * held while they run. They may be called from several threads at once, may fail, may call back
 * into the library. The others are trusted.
 *
 * The one part that is not in the table is the thread slot: it is on the hot path and is fixed when
 * the library is compiled (EXCLAVE_THREAD_SLOT_HEADER; docs/porting.md). */
#ifndef EXCLAVE_PORT_H
#define EXCLAVE_PORT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A raw answer of the host. error: 0 or a Linux errno, both unverified. */
struct exclave_host_reply {
  uintptr_t address;
  int error;
};

struct exclave_extent {
  uintptr_t base;
  size_t size;
};

/* A mapping of a device or of shared memory. offset is an opaque token that only the device
 * understands. */
struct exclave_map_request {
  uintptr_t hint; /* 0: anywhere */
  size_t size;    /* bytes, a multiple of a page */
  int protection; /* PROT_READ | PROT_WRITE bits */
  int flags;      /* MAP_* bits of Linux, passed on as they came */
  int descriptor;
  uint64_t offset;
};

/* The calls that walk over a range of pages and differ in their last argument only. */
enum exclave_range_call {
  EXCLAVE_MADVISE = 0, /* argument: the advice */
  EXCLAVE_MSYNC = 1,   /* MS_* */
  EXCLAVE_MLOCK = 2,   /* mlock2's flags; 0 is mlock */
  EXCLAVE_MUNLOCK = 3  /* 0 */
};

struct exclave_port {
  void* context;

  /* Trusted. The enclave's own range; constant. No untrusted address lies in it. */
  struct exclave_extent (*enclave)(void* context);
  /* Trusted. The window in which trusted_reserve answers: inside the enclave, at most 32 GiB;
   * constant. */
  struct exclave_extent (*book_window)(void* context);
  /* Trusted. Zero-filled, page-aligned trusted memory for the books; NULL when there is none left.
   * bytes is a multiple of a page. May be called under a lock, so it must not leave the enclave. */
  void* (*trusted_reserve)(void* context, size_t bytes);
  /* Trusted. Takes back exactly what one trusted_reserve gave. */
  void (*trusted_release)(void* context, void* memory, size_t bytes);
  /* Trusted. Fills memory with random bytes from a source the host does not control (RDRAND); 0 on
   * success. */
  int (*entropy)(void* context, void* memory, size_t bytes);
  /* Trusted. 1 if AVX may be used: copies to untrusted memory are then up to twice as fast.
   * Constant. NULL: no. docs/porting.md says how to know inside an enclave. */
  int (*has_avx)(void* context);

  /* Host calls. */
  /* Fresh committed read-write untrusted memory: bytes and alignment are multiples of a page,
   * powers of two for alignment. */
  struct exclave_host_reply (*host_reserve)(void* context, size_t bytes, size_t alignment);
  /* Takes back a range that host_reserve gave, whole; 0 or an errno. */
  int (*host_release)(void* context, uintptr_t address, size_t bytes);
  /* mmap, munmap and mprotect for the application's outside mappings. 0 or an errno. */
  struct exclave_host_reply (*host_map)(void* context, const struct exclave_map_request* request);
  int (*host_unmap)(void* context, uintptr_t address, size_t bytes);
  int (*host_protect)(void* context, uintptr_t address, size_t bytes, int protection);

  /* The rest of the application's memory calls outside. NULL: none, and the call answers -ENOSYS
   * where it lies outside. */
  /* mremap. Either flags are 0: the mapping grows where it stands. Or MREMAP_MAYMOVE and
   * MREMAP_FIXED are set, and the new place is wholly the application's. */
  struct exclave_host_reply (*host_remap)(void* context, uintptr_t old_address, size_t old_size,
                                          size_t new_size, int flags, uintptr_t new_address);
  /* call: an exclave_range_call. All pages are the application's. 0 or an errno. */
  int (*host_advise)(void* context, int call, uintptr_t address, size_t bytes, int argument);
  /* mincore. vector: trusted memory, a byte for each page. 0 or an errno. */
  int (*host_resident)(void* context, uintptr_t address, size_t bytes, unsigned char* vector);
};

/* The enclave's own memory manager, as the runtime implements it: the inside half of the memory
 * calls. Each answers as the Linux system call would: 0 or an address, or a negative errno.
 * Trusted; called with no lock held. NULL: none, and the answer is -ENOSYS where the call lies
 * inside. */
struct exclave_enclave_memory {
  void* context;
  intptr_t (*map)(void* context, uintptr_t address, size_t size, int protection, int flags,
                  int descriptor, uint64_t offset);
  int (*unmap)(void* context, uintptr_t address, size_t size);
  int (*protect)(void* context, uintptr_t address, size_t size, int protection);
  /* Policy: 1 if this mmap is of a device or of shared memory that must lie outside; 0 keeps it
   * inside. NULL: all stay inside. */
  int (*lies_outside)(void* context, int protection, int flags, int descriptor, uint64_t offset);

  /* The rest of the memory calls. */
  /* mremap of an old range that lies inside. new_address: see mremap. */
  intptr_t (*remap)(void* context, uintptr_t old_address, size_t old_size, size_t new_size,
                    int flags, uintptr_t new_address);
  /* brk: the break afterwards, as the system call; the present one for what cannot be. */
  uintptr_t (*set_break)(void* context, uintptr_t address);
  /* call: an exclave_range_call; address and size are whole pages. -ENOMEM: there are holes; as on
   * Linux madvise and msync go on behind them, mlock, munlock and MADV_POPULATE_* stop. */
  int (*advise)(void* context, int call, uintptr_t address, size_t size, int argument);
  /* mincore: a byte for each page, up to the first hole, which is -ENOMEM. */
  int (*resident)(void* context, uintptr_t address, size_t size, unsigned char* vector);
  /* mlockall; flags 0: munlockall. */
  int (*lock_all)(void* context, int flags);
};

/* The page operations that the manager of the enclave's own memory (enclave_manager.hpp) is built
 * upon. Ranges are whole pages within the manager's range; protection: PROT_READ, PROT_WRITE and
 * PROT_EXEC bits. Each answers 0 or a negative errno, and when it fails the pages are as they were
 * before. Trusted (what it asks of the host it verifies: EACCEPT on SGX2); called with no lock
 * held, from several threads at once, but never for pages on which another one is under way. */
struct exclave_enclave_pages {
  void* context;
  /* Zero-filled private pages with that protection, in place of whatever was there. shared: 1 if a
   * fork shall share them, where there is such a thing. */
  int (*commit)(void* context, uintptr_t address, size_t size, int protection, int shared);
  /* All of the pages are there. */
  int (*protect)(void* context, uintptr_t address, size_t size, int protection);
  /* Afterwards nobody can touch the range. Some of its pages may not be there. */
  int (*drop)(void* context, uintptr_t address, size_t size);
  /* The pages and their bytes go to another place, in place of whatever was there; it does not
   * overlap. Afterwards nobody can touch the old place; or, if keep is 1, zero-filled pages of the
   * same protection stand there. An error above 0: the pages are where they were, but what stood at
   * the new place is gone, and nobody can touch it. */
  int (*move)(void* context, uintptr_t from, uintptr_t to, size_t size, int protection, int keep);
  /* Reads from a descriptor into read-write zero pages, for a private mapping of a file; behind
   * the file's end they stay zero. Errors as mmap: -EBADF, -EACCES (not open for reading), -ENODEV
   * (cannot be mapped), -EOVERFLOW, -EIO. The bytes after an error do not matter. */
  int (*fill)(void* context, uintptr_t address, size_t size, int descriptor, uint64_t offset);

  /* Optional, from here on. */
  /* The pages read as zero from now on, and nothing else of them changes. shared: as they were
   * committed. NULL: commit serves. */
  int (*zero)(void* context, uintptr_t address, size_t size, int protection, int shared);
  /* A hint or a lock: madvise (no advice that changes bytes), mlock2 or munlock. For pages of
   * `back` any advice, and msync. NULL: 0. */
  int (*advise)(void* context, int call, uintptr_t address, size_t size, int argument);
  /* mincore. NULL: all pages are resident. */
  int (*resident)(void* context, uintptr_t address, size_t size, unsigned char* vector);
  /* MAP_SHARED of a descriptor that does not lie outside: its own pages, in place of whatever was
   * there; what others write shows in them, so no enclave has such a thing, but a process that
   * stands for one may. flags: MAP_* bits as they came. Errors as mmap; above 0 it is an errno,
   * too, and what stood there is gone: nobody can touch the range. NULL: -ENODEV. */
  int (*back)(void* context, uintptr_t address, size_t size, int protection, int flags,
              int descriptor, uint64_t offset);
  /* Such pages go to another place, as by move, and are longer there; or, if from is to, they grow
   * where they are, over pages that nobody can touch. The same for pages that were committed as
   * shared. NULL: -ENOMEM; what is shared gets fresh pages then, as private memory does. */
  int (*stretch)(void* context, uintptr_t from, size_t old_size, uintptr_t to, size_t new_size);
  /* Again and again while this thread waits for pages that another one is at work on, which may
   * take as long as a page operation takes; no lock is held. NULL: it spins. */
  void (*wait)(void* context);
};

#ifdef __cplusplus
}
#endif
#endif
