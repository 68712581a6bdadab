// A program that runs out of its stack, lives on, and finds its other memory as it left it.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { kBlocks = 32, kBytes = 1 << 16 };
static sigjmp_buf back;
static volatile int depth, deepest = 1 << 30;

static void on_fault(int signal) {
  (void)signal;
  siglongjmp(back, 1);
}

static int sink(void) {
  volatile char frame[512];
  memset((char*)frame, 1, sizeof frame);
  if (depth == deepest) return 0;
  ++depth;
  return sink() + frame[depth % 512];
}

int main(void) {
  static char alternate[1 << 16];
  const stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
  sigaltstack(&stack, NULL);
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_fault;
  action.sa_flags = SA_ONSTACK;
  sigaction(SIGSEGV, &action, NULL);

  char* blocks[kBlocks];
  for (int i = 0; i < kBlocks; ++i) {
    blocks[i] = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(blocks[i], 90, kBytes);
  }
  if (sigsetjmp(back, 1) == 0) sink();
  int changed = 0;
  for (int i = 0; i < kBlocks; ++i) {
    for (int at = 0; at < kBytes; ++at) changed += blocks[i][at] != 90;
  }
  printf("deep: %d, changed: %d\n", depth > 1000, changed);
  return 0;
}
