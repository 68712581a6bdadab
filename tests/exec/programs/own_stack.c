// Threads that take away the stack they stand on: unmapped at their end, as some libraries do it,
// and advice that drops everything below the stack pointer.
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { kStackBytes = 65536, kThreads = 1200 };  // more than the loader has slots
static volatile int ran;

static long call3(long number, long a, long b, long c) {
  long result = number;
  __asm__ volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}

static int unmap_and_end(void* stack) {
  ++ran;
  // munmap(stack, kStackBytes), then exit(its result), without a word on the stack.
  __asm__ volatile(
      "syscall\n\t"
      "movq %%rax, %%rdi\n\t"
      "movl %[exit], %%eax\n\t"
      "syscall\n\t"
      :
      : "a"(SYS_munmap), "D"(stack), "S"((long)kStackBytes), [exit] "i"(SYS_exit)
      : "rcx", "r11", "memory");
  return 1;
}

int main(void) {
  int gone = 0;
  for (int i = 0; i < kThreads; ++i) {
    char* const stack =
        mmap(NULL, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile pid_t thread = 1;
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                      CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
    if (clone(unmap_and_end, stack + kStackBytes, flags, stack, NULL, NULL, &thread) < 0) return 1;
    while (thread != 0) usleep(100);
    unsigned char page;
    gone += mincore(stack, 4096, &page) != 0;
  }
  printf("ran %d, gone %d\n", ran, gone);

  int good = 0;
  for (int i = 0; i < 100; ++i) {
    double precise = 1.5 + i;
    __asm__ volatile("" : "+x"(precise));
    const uintptr_t here = (uintptr_t)__builtin_frame_address(0) & ~4095UL;
    // Dead to the program: all that lies a page below.
    const long result = call3(SYS_madvise, (long)(here - 16 * 4096), 15 * 4096, MADV_DONTNEED);
    __asm__ volatile("" : "+x"(precise));
    good += result == 0 && precise == 1.5 + i;
  }
  printf("good %d\n", good);

  // An alternate stack that is unmapped while it is still told to the kernel.
  good = 0;
  for (int i = 0; i < 50; ++i) {
    const stack_t alternate = {
        mmap(NULL, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 0,
        kStackBytes};
    if (sigaltstack(&alternate, NULL) != 0) return 1;
    char* const before = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(alternate.ss_sp, kStackBytes);
    good += munmap(before, 4096) == 0 &&
            mmap(before, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
  }
  printf("alternate %d\n", good);
  return 0;
}
