// Handlers that leave by siglongjmp, out of signals that come while a call drops what lies below
// the stack pointer. More of them than the loader has slots.
#define _GNU_SOURCE
#include <alloca.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>

enum { kNearBytes = 1 << 17, kJumps = 1500, kPageBytes = 4096, kBelowBytes = 256 << 10 };

static sigjmp_buf back;
static char* stack;  // about where main's frame is
static volatile int in_call, jumped, elsewhere, bad;

static void leave(int signal) {
  (void)signal;
  char here = 0;
  // Nobody asked for another stack.
  if ((uintptr_t)stack - (uintptr_t)(volatile char*)&here > kNearBytes) ++elsewhere;
  char* const page =
      mmap(NULL, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED || *page != 0 || munmap(page, kPageBytes) != 0) ++bad;
  jumped += in_call;
  siglongjmp(back, 1);
}

static void jump_often(void) {
  char* const end = (char*)((uintptr_t)__builtin_frame_address(0) & -kPageBytes);
  for (volatile int i = 0; jumped < kJumps; ++i) {
    memset(end - kBelowBytes, 1, kBelowBytes);
    const struct itimerval soon = {{0, 0}, {0, 10 + i % 16 * 10}};
    if (sigsetjmp(back, 1) != 0) continue;
    in_call = 1;
    setitimer(ITIMER_REAL, &soon, NULL);
    if (madvise(end - kBelowBytes, kBelowBytes, MADV_DONTNEED) != 0) ++bad;
    in_call = 0;
    for (;;) {
    }
  }
}

int main(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = leave;
  sigaction(SIGALRM, &action, NULL);
  // So near to the end of a page that what the kernel saves for a handler lies in the next.
  enum { kNear = 512 };
  char here = 0;
  stack = &here;
  const size_t above = ((uintptr_t)stack - kNear) % kPageBytes;
  memset(alloca(above), 1, above);
  jump_often();
  printf("jumped %d, elsewhere %d, bad %d\n", jumped, elsewhere, bad);
  return 0;
}
