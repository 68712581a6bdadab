// SIGSYS, which the loader uses, as a program sees it: handled, ignored, blocked, pending; and
// memory calls while every signal is blocked.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int seen, value;
static sigjmp_buf back;

// An errno's name, or "done".
static const char* answer(long result) {
  return result < 0 ? strerrorname_np(errno) : "done";
}
static int memory_works(void) {
  char* const p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return 0;
  p[5] = 1;
  return munmap(p, 1 << 20) == 0;
}
static void on_signal(int signal, siginfo_t* info, void* context) {
  (void)context;
  seen += signal;
  value = info->si_value.sival_int;
  if (!memory_works()) seen = -1000;
}
static void on_alarm(int signal) {
  (void)signal;
  if (memory_works()) siglongjmp(back, 1);
}
static void handle(int signal, int flags) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | flags;
  sigfillset(&action.sa_mask);
  printf("sigaction %d: %d\n", signal, sigaction(signal, &action, NULL));
}
static int wait_for(pid_t child) {
  int status;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
static void* in_thread(void* unused) {
  (void)unused;
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, NULL, &mask);
  return (void*)(long)(memory_works() + 2 * sigismember(&mask, SIGUSR1));
}

static volatile int calls, depth, deepest, masked;
static void on_nested(int signal) {
  ++calls;
  if (++depth > deepest) deepest = depth;
  sigset_t now;
  sigprocmask(SIG_BLOCK, NULL, &now);
  masked = sigismember(&now, SIGSYS);
  if (calls < 3) raise(signal);
  --depth;
}
static void jump_out(int signal) {
  (void)signal;
  siglongjmp(back, 1);
}
static struct sigaction simple(void (*handler)(int), int flags) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  action.sa_flags = flags;
  return action;
}

// A handler's own signal is blocked while it runs.
static void in_its_own_handler(void) {
  for (int deferred = 1; deferred >= 0; --deferred) {
    struct sigaction action = simple(on_nested, deferred ? 0 : SA_NODEFER);
    for (int with_mask = 0; with_mask < 2; ++with_mask) {
      if (with_mask) sigaddset(&action.sa_mask, SIGSYS);
      sigaction(SIGSYS, &action, NULL);
      calls = depth = deepest = 0;
      raise(SIGSYS);
      sigset_t now;
      sigprocmask(SIG_BLOCK, NULL, &now);
      printf("nested %d %d: %d calls, %d deep, masked: %d, after: %d\n", deferred, with_mask, calls,
             deepest, masked, sigismember(&now, SIGSYS));
    }
  }
  const struct sigaction leave = simple(jump_out, 0);
  sigaction(SIGSYS, &leave, NULL);
  for (volatile int with_mask = 1; with_mask >= 0; --with_mask) {
    if (sigsetjmp(back, with_mask) == 0) raise(SIGSYS);
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    printf("jumped out of it: %d\n", sigismember(&now, SIGSYS));
  }
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, SIGSYS);
  sigprocmask(SIG_UNBLOCK, &only, NULL);
}

struct Reader {
  pthread_t thread;
  pid_t number;
  int in;
  int handles;
};
// Sends it to the reader when that waits, and a byte when it has been handled.
static void* interrupt(void* argument) {
  const struct Reader* const reader = argument;
  char name[64], text[16] = "";
  snprintf(name, sizeof name, "/proc/self/task/%d/syscall", reader->number);
  while (strncmp(text, "0 ", 2) != 0) {
    const int file = open(name, O_RDONLY);
    if (pread(file, text, sizeof text, 0) < 0) text[0] = 0;
    close(file);
    usleep(1000);
  }
  pthread_kill(reader->thread, SIGSYS);
  for (int ms = 0; ms < (reader->handles ? 10000 : 20) && calls == 3; ++ms) usleep(1000);
  return (void*)(long)write(reader->in, "x", 1);
}
static void while_it_waits(void) {
  const struct sigaction actions[] = {simple(on_nested, SA_RESTART), simple(on_nested, 0),
                                      simple(SIG_IGN, 0)};
  for (int i = 0; i < 3; ++i) {
    sigaction(SIGSYS, &actions[i], NULL);
    int ends[2];
    if (pipe(ends) != 0) return;
    struct Reader reader = {pthread_self(), (pid_t)syscall(SYS_gettid), ends[1],
                            actions[i].sa_handler != SIG_IGN};
    calls = 3;
    pthread_t thread;
    pthread_create(&thread, NULL, interrupt, &reader);
    char byte;
    printf("read %d: %s", i, answer(read(ends[0], &byte, 1)));
    printf(", handled: %d\n", calls - 3);
    pthread_join(thread, NULL);
    close(ends[0]), close(ends[1]);
  }
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  sigset_t all, none, before, now;
  sigfillset(&all);
  sigemptyset(&none);

  printf("block all: %d\n", sigprocmask(SIG_SETMASK, &all, &before));
  printf("before: %d\n", sigismember(&before, SIGSYS));
  sigprocmask(SIG_BLOCK, NULL, &now);
  printf("in the mask: %d\n", sigismember(&now, SIGSYS));
  printf("memory, all blocked: %d\n", memory_works());
  pthread_t thread;
  void* result;
  pthread_create(&thread, NULL, in_thread, NULL);
  pthread_join(thread, &result);
  printf("thread, all blocked: %ld\n", (long)result);
  pid_t forked = fork();
  if (forked == 0) {
    sigprocmask(SIG_BLOCK, NULL, &now);
    raise(SIGSYS);  // waits, and goes with this process
    _exit(memory_works() + 2 * sigismember(&now, SIGSYS));
  }
  printf("fork, all blocked: %d\n", wait_for(forked));
  printf("bad how: %s\n", answer(sigprocmask(77, &all, NULL)));
  printf("bad set: %s\n", answer(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 8, 0, 8)));
  printf("bad size: %s\n", answer(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, 0, 4)));
  sigprocmask(SIG_SETMASK, &none, NULL);

  struct sigaction old;
  sigaction(SIGSYS, NULL, &old);
  printf("default: %d\n", old.sa_handler == SIG_DFL);
  handle(SIGSYS, 0);
  sigaction(SIGSYS, NULL, &old);
  printf("remembered: %d %d\n", old.sa_sigaction == on_signal, sigismember(&old.sa_mask, SIGUSR2));
  raise(SIGSYS);
  printf("raised: %d\n", seen);
  const union sigval sent = {.sival_int = 77};
  sigqueue(getpid(), SIGSYS, sent);
  printf("queued: %d %d\n", seen, value);
  sigprocmask(SIG_SETMASK, &all, NULL);
  raise(SIGSYS);
  printf("blocked: %d\n", seen);
  sigprocmask(SIG_SETMASK, &none, NULL);
  printf("unblocked: %d\n", seen);
  signal(SIGSYS, SIG_IGN);
  raise(SIGSYS);
  printf("ignored: %d\n", seen);
  handle(SIGSYS, (int)SA_RESETHAND);
  raise(SIGSYS);
  sigaction(SIGSYS, NULL, &old);
  printf("once: %d %d\n", seen, old.sa_handler == SIG_DFL);
  pid_t child = fork();
  if (child == 0) {
    raise(SIGSYS);
    _exit(1);
  }
  printf("by default: %d\n", wait_for(child));

  seen = 0;
  handle(SIGUSR1, 0);
  sigaction(SIGUSR1, NULL, &old);
  printf("its mask: %d\n", sigismember(&old.sa_mask, SIGSYS));
  raise(SIGUSR1);
  printf("handler that blocks all: %d\n", seen);

  sigset_t all_but = all;
  sigdelset(&all_but, SIGUSR1);
  sigprocmask(SIG_SETMASK, &all, NULL);
  kill(getpid(), SIGUSR1);
  printf("sigsuspend: %s", answer(sigsuspend(&all_but)));
  printf(" %d\n", seen);
  kill(getpid(), SIGUSR1);
  printf("ppoll: %s", answer(ppoll(NULL, 0, NULL, &all_but)));
  printf(" %d\n", seen);
  kill(getpid(), SIGUSR1);
  printf("pselect: %s", answer(pselect(0, NULL, NULL, NULL, NULL, &all_but)));
  printf(" %d\n", seen);
  kill(getpid(), SIGUSR1);
  struct epoll_event event;
  printf("epoll_pwait: %s", answer(epoll_pwait(epoll_create1(0), &event, 1, -1, &all_but)));
  printf(" %d\n", seen);
  const struct timespec soon = {0, 1000000};
  printf("ppoll in time: %d\n", ppoll(NULL, 0, &soon, &all));
  printf("pselect in time: %d\n", pselect(0, NULL, NULL, NULL, &soon, &all));
  printf("pselect without: %d\n", pselect(0, NULL, NULL, NULL, &soon, NULL));
  printf("bad mask: %s\n", answer(syscall(SYS_ppoll, NULL, 0, &soon, 8, 8)));
  sigprocmask(SIG_SETMASK, &none, NULL);
  printf("memory after: %d\n", memory_works());

  signal(SIGALRM, on_alarm);
  for (volatile int i = 0; i < 3; ++i) {
    if (sigsetjmp(back, 1) == 0) {
      const struct timespec little = {0, 20000000};
      timer_t timer;
      struct itimerspec when = {{0, 0}, little};
      timer_create(CLOCK_MONOTONIC, NULL, &timer);
      timer_settime(timer, 0, &when, NULL);
      sigset_t waiting = none;
      sigaddset(&waiting, SIGSYS);
      sigsuspend(&waiting);
    }
    printf("jumped out of a wait: %d\n", memory_works());
  }
  in_its_own_handler();
  while_it_waits();
  return 0;
}
