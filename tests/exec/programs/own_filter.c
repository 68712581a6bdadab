// A program with a system call filter of its own, whose stops it handles itself.
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static void on_sigsys(int signal, siginfo_t* info, void* context) {
  (void)signal;
  ucontext_t* const registers = context;
  if (info->si_syscall == SYS_getppid) registers->uc_mcontext.gregs[REG_RAX] = 4321;
}

static void call_again(int signal) {
  (void)signal;
  syscall(SYS_getppid);
}

// A stop that cannot be handled ends the process: blocked, ignored, in the handler of another.
static void cannot_be_handled(void) {
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, SIGSYS);
  for (int i = 0; i < 3; ++i) {
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      if (i == 0) sigprocmask(SIG_BLOCK, &only, NULL);
      if (i == 1) signal(SIGSYS, SIG_IGN);
      if (i == 2) signal(SIGSYS, call_again);
      syscall(SYS_getppid);
      _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    printf("cannot be handled: %x\n", status & 0x7f);
  }
}

int main(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_sigsys;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSYS, &action, NULL);
  // Refuses what the loader uses to read the program's arguments, stops getppid.
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 2),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const struct sock_fprog program = {sizeof code / sizeof code[0], code};
  printf("rights: %d\n", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  printf("filter: %ld\n", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
  printf("trapped: %ld\n", syscall(SYS_getppid));
  printf("passes: %d\n", getuid() == geteuid());
  void* const p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  printf("memory: %d\n", p != MAP_FAILED && munmap(p, 1 << 20) == 0);
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &old);
  printf("mask: %d %d\n", sigprocmask(SIG_SETMASK, &old, &all), sigismember(&all, SIGUSR1));
  cannot_be_handled();
  fflush(stdout);
  return system("exit 3") >> 8;
}
