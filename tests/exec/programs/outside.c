// A shared mapping that the command line lets lie outside, and everything that is done to one. The
// argument is the end of the enclave's range: one more lies right behind it.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int outside(const void* address, uintptr_t end) {
  return (uintptr_t)address >= end;
}
static const char* answer(long result) {
  return result < 0 ? strerrorname_np(errno) : "done";
}
static long mapped(void* address) {
  return address == MAP_FAILED ? -1 : 0;
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IONBF, 0);
  const uintptr_t end = argc > 1 ? strtoull(argv[1], NULL, 0) : 0;
  const int file = memfd_create("exclave-outside", 0);
  if (ftruncate(file, 8 * 4096) != 0) return 1;
  char* const p = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  printf("outside: %d\n", outside(p, end));
  char* const copy = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
  printf("a private one: %d\n", outside(copy, end));
  strcpy(p, "through the mapping");
  char text[32] = "";
  printf("read: %ld", (long)pread(file, text, 20, 0));
  printf(" %s\n", text);
  printf("with execution: %s\n",
         answer(mapped(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0))));
  printf("execution later: %s\n", answer(mprotect(p, 4096, PROT_READ | PROT_EXEC)));
  printf("protect: %s\n", answer(mprotect(p + 4096, 4096, PROT_READ)));
  printf("unmap the middle: %s\n", answer(munmap(p + 3 * 4096, 4096)));
  printf("sync over the hole: %s\n", answer(msync(p, 8 * 4096, MS_SYNC)));
  printf("advise over the hole: %s\n", answer(madvise(p, 8 * 4096, MADV_WILLNEED)));
  unsigned char pages[8];
  printf("core: %s\n", answer(mincore(p, 3 * 4096, pages)));
  printf("core of the hole: %s\n", answer(mincore(p + 3 * 4096, 4096, pages)));
  printf("protect over the hole: %s\n", answer(mprotect(p, 8 * 4096, PROT_READ)));
  printf("shrink: %s\n", answer(mapped(mremap(p + 4 * 4096, 4 * 4096, 4096, 0))));
  char* wide = mremap(p + 4 * 4096, 4096, 4 * 4096, MREMAP_MAYMOVE);
  printf("grow: %s\n", answer(mapped(wide)));
  printf("end of the file through it: %ld\n",
         wide == MAP_FAILED ? -1L : (long)pwrite(file, "x", 1, 7 * 4096) - (wide[3 * 4096] != 'x'));
  char* const place = mmap(NULL, 8 * 4096, PROT_READ, MAP_SHARED, file, 0);
  munmap(place + 4 * 4096, 4 * 4096);
  wide = mremap(wide, 4 * 4096, 2 * 4096, MREMAP_MAYMOVE | MREMAP_FIXED, place);
  printf("to a place: %d\n", wide == place);
  munmap(place + 2 * 4096, 2 * 4096);
  printf("in place: %d\n", mremap(place, 2 * 4096, 4 * 4096, 0) == place && place[3 * 4096] == 'x');
  printf("unmap: %s\n", answer(munmap(place, 4 * 4096)));
  if (fork() == 0) {
    // The child has the mapping, and the books know it.
    _exit(munmap(p + 4096, 4096) == 0 && mprotect(p + 4096, 4096, PROT_READ) != 0 ? 9 : 1);
  }
  int status;
  wait(&status);
  printf("child: %d, still here: %d\n", WEXITSTATUS(status), p[4096]);
  char* const edge =
      mmap((void*)end, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
  printf("at the edge: %d\n", edge == (void*)end);
  printf("unmap over the edge: %s\n", answer(munmap((void*)(end - 4096), 2 * 4096)));
  printf("gone: %s\n", answer(mincore((void*)end, 4096, pages)));
  // Not the program's: the stack that the kernel made, which the loader left behind.
  printf("foreign memory: %s\n", answer(mprotect((void*)0x700000000000, 4096, PROT_NONE)));
  printf("foreign unmap: %s\n", answer(munmap((void*)0x700000000000, 1 << 20)));
  printf("all: %s\n", answer(munmap(p, 8 * 4096)));
  return 0;
}
