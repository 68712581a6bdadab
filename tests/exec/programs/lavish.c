// Reserves address space as language runtimes and servers do: much of it, at places of its choice.
// Nothing of it is touched.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GIB (1UL << 30)
#define TIB (1UL << 40)

static const int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

static void* reserve(uintptr_t hint, size_t size) {
  return mmap((void*)hint, size, PROT_NONE, kFlags, -1, 0);
}

// Of GHC's runtime: a TiB, or an eighth less, and so on. A place below 8 GiB is given back, and
// asked for again, for ever.
static void haskell(void) {
  const int most = 1000;
  size_t size = TIB;
  for (int i = 0; i < most; ++i) {
    void* const p = reserve(0x4200000000 + (uintptr_t)i * 4096, size);
    if (p == MAP_FAILED) {
      size -= size / 8 & ~4095UL;
    } else if ((uintptr_t)p >= 8 * GIB) {
      printf("haskell: %s\n", size == TIB ? "all" : "less");
      munmap(p, size);
      return;
    } else {
      munmap(p, size);
    }
  }
  printf("haskell: never\n");
}

// Of V8: each memory of WebAssembly has its guards.
static void web_assembly(void) {
  int count = 0;
  void* memories[20];
  while (count < 20 && (memories[count] = reserve(0, 10 * GIB)) != MAP_FAILED) ++count;
  printf("memories: %d\n", count);
  while (count > 0) munmap(memories[--count], 10 * GIB);
}

static void at_once(const char* who, size_t size) {
  void* const p = reserve(0, size);
  printf("%s: %s\n", who, p == MAP_FAILED ? "refused" : "done");
  if (p != MAP_FAILED) munmap(p, size);
}

// Of valgrind: at a place that it wants, and no other.
static void fixed(void) {
  void* const place = (void*)0x1002001000;
  void* const p =
      mmap(place, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  printf("fixed: %d\n", p == place);
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IONBF, 0);
  if (argc > 1) {
    // One wish: a size in MiB, or of what a fixed place would be.
    const size_t mib = strtoul(argv[1], NULL, 0);
    void* const p = argc > 2 ? mmap((void*)strtoul(argv[2], NULL, 0), mib << 20, PROT_NONE,
                                    kFlags | MAP_FIXED_NOREPLACE, -1, 0)
                             : mmap(NULL, mib << 20, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("%s\n", p == MAP_FAILED ? "refused" : "done");
    abort();
  }
  haskell();
  web_assembly();
  at_once("browser", 64 * GIB);
  at_once("database", 8 * TIB);
  fixed();
  return 0;
}
