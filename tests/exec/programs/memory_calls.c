// Memory calls, and what they do and answer, without addresses: the same lines wherever it runs.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL

static void told(const char* what, long result) {
  if (result < 0) {
    printf("%s: %s\n", what, strerrorname_np(errno));
  } else {
    printf("%s: done\n", what);
  }
}

static char* map(size_t pages, int protection) {
  return mmap(NULL, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
static long mapped(void* address) {
  return address == MAP_FAILED ? -1 : 0;
}

static void unmapping(void) {
  char* const p = map(8, PROT_READ | PROT_WRITE);
  memset(p, 1, 8 * PAGE);
  told("munmap of the middle", munmap(p + 2 * PAGE, 2 * PAGE));
  printf("both sides live: %d %d\n", p[PAGE], p[5 * PAGE]);
  told("munmap over the hole", munmap(p, 8 * PAGE));
  told("munmap of nothing mapped", munmap(p, 8 * PAGE));
  told("munmap unaligned", munmap(p + 1, PAGE));
  told("munmap of no length", munmap(p, 0));
  told("munmap by a number with more bits", syscall(SYS_munmap | 1L << 32, p, PAGE));
  told("munmap that wraps", munmap(p, (size_t)-PAGE));
}

static void fixed(void) {
  char* const p = map(8, PROT_READ | PROT_WRITE);
  memset(p, 1, 8 * PAGE);
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  told("fixed over the middle",
       mapped(mmap(p + 2 * PAGE, PAGE, PROT_READ, flags | MAP_FIXED, -1, 0)));
  printf("replaced: %d %d %d\n", p[PAGE], p[2 * PAGE], p[3 * PAGE]);
  told("no replace", mapped(mmap(p, PAGE, PROT_READ, flags | MAP_FIXED_NOREPLACE, -1, 0)));
  munmap(p, PAGE);
  told("no replace, free", mapped(mmap(p, PAGE, PROT_READ, flags | MAP_FIXED_NOREPLACE, -1, 0)));
  told("fixed unaligned", mapped(mmap(p + 1, PAGE, PROT_READ, flags | MAP_FIXED, -1, 0)));
  told("no length", mapped(mmap(NULL, 0, PROT_READ, flags, -1, 0)));
  told("no type", mapped(mmap(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0)));
  told("no length, no file", mapped(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, -1, 0)));
  told("no length, no file, crooked offset", mapped(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, -1, 1)));
  told("too long, crooked offset", mapped(mmap(NULL, (size_t)1 << 62, PROT_READ, flags, -1, 1)));
  told("too long, no file", mapped(mmap(NULL, (size_t)1 << 62, PROT_READ, MAP_PRIVATE, 999, 0)));
  told("nowhere, no file",
       mapped(mmap((void*)1, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, 999, 0)));
  told("no type, no file", mapped(mmap(NULL, PAGE, PROT_READ, 0, 999, 0)));
  told("all flags", mapped(mmap(NULL, PAGE, PROT_READ, ~0, -1, 0)));
  told("too long", mapped(mmap(NULL, (size_t)1 << 62, PROT_READ, flags, -1, 0)));
  char* const hint = map(4, PROT_READ);
  munmap(hint, 4 * PAGE);
  printf("hint met: %d\n", mmap(hint, PAGE, PROT_READ, flags, -1, 0) == hint);
  char* const low = mmap(NULL, PAGE, PROT_READ, flags | MAP_32BIT, -1, 0);
  printf("low: %d\n", (uintptr_t)low < (1UL << 31));
}

static void protecting(void) {
  char* const p = map(6, PROT_READ | PROT_WRITE);
  munmap(p + 3 * PAGE, PAGE);
  told("mprotect", mprotect(p, PAGE, PROT_READ));
  told("mprotect over a hole", mprotect(p, 6 * PAGE, PROT_READ));
  char vector[1];
  told("the page behind the hole is writable yet",
       read(open("/dev/zero", O_RDONLY), p + 4 * PAGE, 1));
  told("the page before is not", read(open("/dev/zero", O_RDONLY), p + 2 * PAGE, 1));
  told("mprotect of a hole", mprotect(p + 3 * PAGE, PAGE, PROT_READ));
  told("mprotect unaligned", mprotect(p + 1, PAGE, PROT_READ));
  told("mprotect of no length", mprotect(p, 0, PROT_READ));
  told("mprotect with bad bits", mprotect(p, PAGE, 0x100));
  told("mincore of a hole", mincore(p + 3 * PAGE, PAGE, (unsigned char*)vector));
  told("mincore", mincore(p, PAGE, (unsigned char*)vector));
  told("mincore to nowhere", mincore(p, PAGE, (unsigned char*)1));
}

static void remapping(void) {
  char* const p = map(4, PROT_READ | PROT_WRITE);
  memset(p, 5, 4 * PAGE);
  char* const moved = mremap(p, 4 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
  told("grown", mapped(moved));
  printf("contents: %d %d\n", moved[3 * PAGE], moved[4 * PAGE]);
  told("shrunk", mapped(mremap(moved, 64 * PAGE, 2 * PAGE, 0)));
  unsigned char vector[1];
  told("what was cut off", mincore(moved + 3 * PAGE, PAGE, vector));
  char* const next =
      mmap(moved + 2 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  told("a neighbour", mapped(next));
  mprotect(next, PAGE, PROT_NONE);
  told("grown into it", mapped(mremap(moved, 2 * PAGE, 8 * PAGE, 0)));
  char* const target = map(8, PROT_READ);
  char* const there = mremap(moved, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
  printf("moved to a place: %d %d\n", there == target, there[PAGE]);
  told("where it was", mincore(moved, PAGE, vector));
  told("to unaligned",
       mapped(mremap(there, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target + 1)));
  told("onto itself",
       mapped(mremap(there, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, there + PAGE)));
  told("fixed without may-move", mapped(mremap(there, PAGE, PAGE, MREMAP_FIXED, target)));
  told("to no length", mapped(mremap(there, PAGE, 0, MREMAP_MAYMOVE)));
  char* const kept = mremap(there, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
  told("not unmapped", mapped(kept));
  printf("contents went along: %d %d\n", kept[PAGE], there[PAGE]);
  munmap(kept, 2 * PAGE);
  told("of a hole", mapped(mremap(kept, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE)));
}

static void advising(void) {
  char* const p = map(4, PROT_READ | PROT_WRITE);
  memset(p, 9, 4 * PAGE);
  told("dontneed", madvise(p + PAGE, PAGE, MADV_DONTNEED));
  printf("zeroed: %d %d %d\n", p[0], p[PAGE], p[2 * PAGE]);
  munmap(p + PAGE, PAGE);
  told("dontneed over a hole", madvise(p, 4 * PAGE, MADV_DONTNEED));
  printf("applied behind it: %d %d\n", p[0], p[2 * PAGE]);
  told("unknown advice", madvise(p, PAGE, 9999));
  told("unaligned", madvise(p + 1, PAGE, MADV_DONTNEED));
  told("no length", madvise(p, 0, MADV_DONTNEED));
  told("willneed", madvise(p, PAGE, MADV_WILLNEED));
  told("free", madvise(p, PAGE, MADV_FREE));
  told("msync", msync(p, PAGE, MS_SYNC));
  told("msync over a hole", msync(p, 4 * PAGE, MS_SYNC));
  told("msync with both", msync(p, PAGE, MS_SYNC | MS_ASYNC));
  told("msync unaligned", msync(p + 1, PAGE, MS_SYNC));
  told("mlock", mlock(p, 10));
  told("mlock of a hole", mlock(p, 4 * PAGE));
  told("munlock", munlock(p, PAGE));
  told("munlock of a hole", munlock(p + PAGE, PAGE));
  told("mlockall without a word", mlockall(0));
  told("mlockall", mlockall(MCL_CURRENT | MCL_ONFAULT));
  told("munlockall", munlockall());
}

// Whoever has no right to lock all has a limit.
static void locking_within_limits(void) {
  struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct rights[2];
  syscall(SYS_capget, &head, rights);
  rights[0].effective &= ~(1u << CAP_IPC_LOCK);
  told("rights given up", syscall(SYS_capset, &head, rights));
  const unsigned long limits[] = {4 * PAGE, 0};
  for (int i = 0; i < 2; ++i) {
    struct rlimit limit;
    getrlimit(RLIMIT_MEMLOCK, &limit);
    limit.rlim_cur = limits[i];
    told("limit", setrlimit(RLIMIT_MEMLOCK, &limit));
    char* const p = map(8, PROT_READ | PROT_WRITE);
    told("mlock within it", mlock(p, 2 * PAGE));
    told("mlock beyond it", mlock(p, 8 * PAGE));
    told("mlockall", mlockall(MCL_CURRENT));
    told("mlockall of the future", mlockall(MCL_FUTURE));
    told("munlockall", munlockall());
  }
}

static void breaking(void) {
  char* const start = sbrk(0);
  told("grown", sbrk(3 * PAGE) == (void*)-1 ? -1 : 0);
  start[2 * PAGE] = 4;
  printf("break moved: %d\n", (char*)sbrk(0) == start + 3 * PAGE);
  told("back", brk(start));
  printf("back: %d\n", sbrk(0) == start);
  told("grown again", brk(start + 3 * PAGE));
  printf("zero again: %d\n", start[2 * PAGE]);
  printf("below the start: %d\n", syscall(SYS_brk, 0) == (long)(start + 3 * PAGE));
}

// Down to where the stack's mapping begins; which is what a library that wants an executable stack
// does to it.
static void the_stack(void) {
  char here = 1;
  char* const page = (char*)((uintptr_t)&here & ~(PAGE - 1));
  told("the stack", mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_GROWSDOWN));
  told("another's", mprotect(map(1, PROT_READ), PAGE, PROT_READ | PROT_GROWSDOWN));
  told("both ways", mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_GROWSDOWN | PROT_GROWSUP));
  told("no length", mprotect(page, 0, PROT_READ | PROT_WRITE | PROT_GROWSDOWN));
  printf("still here: %d\n", here);
}

// More mappings than one may have are refused, though no two of these are neighbours.
static void too_many(void) {
  const size_t most = 300000;
  char* const p = mmap(NULL, 2 * most * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(p, 2 * most * PAGE);
  size_t count = 0;
  while (count < most &&
         mmap(p + 2 * count * PAGE, PAGE, PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != MAP_FAILED) {
    ++count;
  }
  told("one more", count == most ? 0 : -1);
  told("all away", munmap(p, 2 * most * PAGE));
  told("one more", mapped(map(1, PROT_READ)));
}

static void files(const char* own) {
  const int file = open(own, O_RDONLY);
  char head[4];
  printf("read: %ld\n", (long)pread(file, head, sizeof head, 0));
  char* const p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  told("private map of a file", mapped(p));
  printf("contents: %d\n", memcmp(p, head, 4));
  p[0] = 'x';
  told("writable shared map of what is open for reading",
       mapped(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, file, 0)));
  told("shared map for reading", mapped(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0)));
  told("unaligned offset", mapped(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 100)));
  told("no descriptor", mapped(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 999, 0)));
  told("of a folder", mapped(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, open("/", O_RDONLY), 0)));
  int ends[2];
  told("a pipe", pipe(ends));
  told("of a pipe", mapped(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, ends[0], 0)));
  char* const zero =
      mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, open("/dev/zero", O_RDWR), 0);
  told("of zero", mapped(zero));
  const int short_file = memfd_create("short", 0);
  told("a short file", write(short_file, "short", 5) == 5 ? 0 : -1);
  char* const longer = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, short_file, 0);
  printf("the rest of its page: %d\n", longer[PAGE - 1]);
  const int cached = open("uncached", O_WRONLY | O_CREAT, 0600);
  told("a short file", write(cached, "short", 5) == 5 ? 0 : -1);
  const int direct = open("uncached", O_RDONLY | O_DIRECT);
  unlink("uncached");
  char* const through = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, direct, 0);
  printf("around the cache: %d\n",
         direct < 0 || (through != MAP_FAILED && strcmp(through, "short") == 0));
  told("behind its end", pwrite(short_file, longer + PAGE, 1, 0));
  told("protect all", mprotect(longer, 3 * PAGE, PROT_READ));
  told("over it",
       mapped(mmap(longer + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, short_file, 0)));
  printf("there: %d\n", memcmp(longer + PAGE, "short", 5));
  told("all away", munmap(longer, 3 * PAGE));
  printf("zero: %d\n", zero[PAGE - 1]);
  told("of null", mapped(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, open("/dev/null", O_RDWR), 0)));
  told("of a file that is open for writing",
       mapped(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, open("/dev/null", O_WRONLY), 0)));
  told("shared, of a descriptor below zero",
       mapped(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, -3, 0)));
}

// Kilobytes that are locked, as the system sees it.
static long locked(void) {
  char text[4096] = "";
  const int status = open("/proc/self/status", O_RDONLY);
  const long bytes = read(status, text, sizeof text - 1);
  close(status);
  const char* const line = bytes > 0 ? strstr(text, "VmLck:") : NULL;
  return line != NULL ? strtol(line + 6, NULL, 10) : -1;
}

static void there_at_once(void) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  unsigned char pages[4];
  char* const populated = mmap(NULL, 4 * PAGE, PROT_READ, flags | MAP_POPULATE, -1, 0);
  told("populated", mincore(populated, 4 * PAGE, pages));
  printf("all there: %d\n", pages[0] & pages[1] & pages[2] & pages[3] & 1);
  told("locked", mapped(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, flags | MAP_LOCKED, -1, 0)));
  printf("KiB: %ld\n", locked());
  told("locked and untouchable", mapped(mmap(NULL, PAGE, PROT_NONE, flags | MAP_LOCKED, -1, 0)));
  told("the future", mlockall(MCL_FUTURE));
  const long before = locked();
  told("mapped in it", mapped(map(4, PROT_READ | PROT_WRITE)));
  printf("KiB: %ld\n", locked() - before);
  told("no more", munlockall());
  printf("KiB: %ld\n", locked());
}

int main(int argc, char** argv) {
  (void)argc;
  setvbuf(stdout, NULL, _IONBF, 0);
  unmapping();
  fixed();
  protecting();
  remapping();
  advising();
  breaking();
  files(argv[0]);
  there_at_once();
  the_stack();
  too_many();
  locking_within_limits();
  return 0;
}
