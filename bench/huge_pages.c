// bench/run.py preloads this library in the turns with huge pages. It does for one program what
// "always" in /sys/kernel/mm/transparent_hugepage/enabled does for all: the program's own memory
// may have huge pages, whether its allocator asks for them or not. glibc's malloc does not call
// these functions; run.py sets glibc.malloc.hugetlb=1 for it.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static const uintptr_t kPage = 4096;
static const uintptr_t kHugePage = (uintptr_t)2 << 20;

extern void* __sbrk(intptr_t bytes);

static void advise(uintptr_t begin, uintptr_t end) {
  const int saved = errno;
  begin &= ~(kPage - 1);
  // A refusal is no error: run.py reports how much memory had huge pages.
  (void)madvise((void*)begin, end - begin, MADV_HUGEPAGE);
  errno = saved;
}

// Makes the system call itself, because dlsym may allocate. Advises what may hold a huge page: a
// large mapping, or a piece that an allocator puts beside others in a range it reserved.
void* mmap(void* address, size_t bytes, int protection, int flags, int file, off_t offset) {
  void* const mapped = (void*)syscall(SYS_mmap, address, bytes, protection, flags, file, offset);
  const int anonymous = (flags & MAP_ANONYMOUS) != 0 && (flags & MAP_TYPE) == MAP_PRIVATE;
  if (mapped != MAP_FAILED && anonymous && (bytes >= kHugePage || (flags & MAP_FIXED) != 0))
    advise((uintptr_t)mapped, (uintptr_t)mapped + bytes);
  return mapped;
}

void* mmap64(void* address, size_t bytes, int protection, int flags, int file, off_t offset) {
  return mmap(address, bytes, protection, flags, file, offset);
}

// Moves the kernel's break by whole huge pages, as glibc's malloc does when it is told to use them:
// memory that is touched before the break has passed its huge page gets small pages. Not for two
// threads at once, as libc's sbrk.
void* sbrk(intptr_t bytes) {
  static uintptr_t told, moved;  // the break that the program knows, and the kernel's
  const uintptr_t now = (uintptr_t)__sbrk(0);
  if (now != moved) told = moved = now;  // the first call, or another function moved it
  const uintptr_t wanted = told + (uintptr_t)bytes;
  if (bytes < 0 || wanted > moved) {
    const uintptr_t next = bytes < 0 ? wanted : (wanted + kHugePage - 1) & ~(kHugePage - 1);
    if (__sbrk((intptr_t)(next - moved)) == (void*)-1) return (void*)-1;
    if (bytes > 0) advise(moved, next);
    moved = next;
  }
  const uintptr_t before = told;
  told = wanted;
  return (void*)before;
}
