// Strict mode: a thread that only reads, writes and ends.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum Way { kWrite, kMap, kAsk, kFork, kLeave, kHandler, kFiltered, kWays };
static const char* const kNames[kWays] = {"writes", "maps",    "asks",        "forks",
                                          "leaves", "handles", "has a filter"};

static void on_signal(int signal) {
  (void)signal;
}

static int child(enum Way way, int by_prctl) {
  struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const struct sock_fprog program = {1, all};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (way == kFiltered) syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
  signal(SIGSEGV, on_signal);
  const long result = by_prctl ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)
                               : syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, NULL);
  if (result != 0) {
    printf("refused: %s\n", strerrorname_np(errno));
    return 6;
  }
  switch (way) {
    case kMap:
      mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      break;
    case kAsk:
      syscall(SYS_getpid);
      break;
    case kFork:
      syscall(SYS_fork);
      break;
    case kLeave:
      syscall(SYS_exit_group, 7);
      break;
    case kHandler:
      syscall(SYS_tgkill, 0, 0, 0);
      break;
    default:
      if (write(1, "alive\n", 6) == 6) syscall(SYS_exit, 5);
      break;
  }
  syscall(SYS_exit, 8);
  return 9;
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  printf("flags: %ld\n", syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL));
  printf("arguments: %ld\n", syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, &main));
  for (int by_prctl = 0; by_prctl < 2; ++by_prctl) {
    for (enum Way way = 0; way < kWays; ++way) {
      const pid_t pid = fork();
      if (pid == 0) _exit(child(way, by_prctl));
      int status = 0;
      waitpid(pid, &status, 0);
      printf("%s: %x\n", kNames[way], status);
    }
  }
  return 0;
}
