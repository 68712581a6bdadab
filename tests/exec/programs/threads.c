// Threads that map, fill, cut and unmap at the same time: no page is ever another's.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { kThreads = 16, kRounds = 200 };

static void* work(void* argument) {
  const long me = (long)argument;
  unsigned seed = (unsigned)me;
  long bad = 0;
  for (int round = 0; round < kRounds; ++round) {
    size_t pages = 1 + rand_r(&seed) % 16;
    unsigned char* p =
        mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return (void*)-1L;
    for (size_t i = 0; i < pages; ++i) bad += p[i * 4096];
    memset(p, (int)me, pages * 4096);
    if (round % 3 == 0) {
      p = mremap(p, pages * 4096, (pages + 4) * 4096, MREMAP_MAYMOVE);
      if (p == MAP_FAILED) return (void*)-1L;
      memset(p + pages * 4096, (int)me, 4 * 4096);
      pages += 4;
    }
    if (round % 5 == 0) mprotect(p, 4096, PROT_READ);
    for (size_t i = 0; i < pages * 4096; i += 512) bad += p[i] != (unsigned char)me;
    munmap(p, 4096);
    if (pages > 1) munmap(p + 4096, (pages - 1) * 4096);
  }
  return (void*)bad;
}

int main(void) {
  for (int generation = 0; generation < 4; ++generation) {
    pthread_t threads[kThreads];
    long bad = 0;
    for (long i = 0; i < kThreads; ++i) pthread_create(&threads[i], NULL, work, (void*)(i + 1));
    for (int i = 0; i < kThreads; ++i) {
      void* result;
      pthread_join(threads[i], &result);
      bad += (long)result;
    }
    printf("generation %d: %ld\n", generation, bad);
  }
  return 0;
}
