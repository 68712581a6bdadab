// The break under limits of data, without addresses: the same lines wherever it runs.
#define _GNU_SOURCE
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define MIB (1UL << 20)

// What counts as data beside the break: the bytes of the file in the highest part.
static size_t own_data(void) {
  const Elf64_Phdr* const parts = (const Elf64_Phdr*)getauxval(AT_PHDR);
  size_t bytes = 0;
  for (unsigned long i = 0; i < getauxval(AT_PHNUM); ++i) {
    if (parts[i].p_type == PT_LOAD) bytes = parts[i].p_filesz;
  }
  return bytes;
}

static uintptr_t start;

static int moves_to(size_t bytes) {
  return syscall(SYS_brk, start + bytes) == (long)(start + bytes);
}
static void told(size_t bytes) {
  const int moved = moves_to(bytes);
  printf("to %zu: %s, at %ld\n", bytes, moved ? "done" : "refused",
         syscall(SYS_brk, 0) - (long)start);
}

static int limit_data(size_t bytes) {
  struct rlimit limit;
  getrlimit(RLIMIT_DATA, &limit);
  limit.rlim_cur = bytes;
  return setrlimit(RLIMIT_DATA, &limit);
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  start = (uintptr_t)syscall(SYS_brk, 0);
  told(128 * MIB);

  // Beyond the limit nothing is a break, downwards neither.
  printf("limit: %d\n", limit_data(64 * MIB));
  told(129 * MIB);
  told(96 * MIB);
  told(16 * MIB);
  told(24 * MIB);
  told(80 * MIB);
  size_t low = 16 * MIB, high = 128 * MIB;
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    // From above, so that nothing is to be mapped.
    if (limit_data(RLIM_INFINITY) != 0 || !moves_to(128 * MIB) || limit_data(64 * MIB) != 0)
      return 1;
    if (moves_to(middle)) {
      low = middle;
    } else {
      high = middle;
    }
  }
  printf("to the byte: %d\n", low + own_data() == 64 * MIB);

  // 0, at which Linux lets mmap have what the hard limit allows.
  printf("no limit: %d\n", limit_data(RLIM_INFINITY));
  told(4 * PAGE);
  printf("limit of 0: %d\n", limit_data(0));
  told(5 * PAGE);
  told(4 * PAGE + 1);
  told(4 * PAGE - 1);
  told(4 * PAGE);
  told(0);
  void* const page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  printf("mmap: %d\n", page != MAP_FAILED);

  // A process has its own limit.
  const pid_t child = fork();
  if (child == 0) {
    told(5 * PAGE);
    printf("no limit: %d\n", limit_data(RLIM_INFINITY));
    told(5 * PAGE);
    _exit(0);
  }
  waitpid(child, NULL, 0);
  told(5 * PAGE);
  printf("no limit: %d\n", limit_data(RLIM_INFINITY));
  told(MIB);
  return 0;
}
