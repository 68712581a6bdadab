// A signal every half millisecond, to whichever thread, whose handler maps memory itself, while
// four threads map and unmap and a fifth starts processes.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int stop, bad, handled;

static int memory_works(int fill) {
  unsigned char* const p =
      mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || p[5] != 0 || p[16383] != 0) return 0;
  memset(p, fill, 16384);
  if (mprotect(p, 4096, PROT_READ) != 0 || p[100] != fill || p[16383] != fill) return 0;
  return munmap(p, 16384) == 0;
}
static void on_alarm(int signal) {
  (void)signal;
  if (!memory_works(99)) ++bad;
  ++handled;
}
static void* map(void* number) {
  double precise = (double)(long)number;
  while (!stop) {
    precise += 0.5;
    if (!memory_works((int)(long)number)) ++bad;
    precise -= 0.5;
  }
  if (precise != (double)(long)number) ++bad;
  return NULL;
}

int main(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_alarm;
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, NULL);
  const struct itimerval often = {{0, 500}, {0, 500}};
  setitimer(ITIMER_REAL, &often, NULL);
  pthread_t threads[4];
  for (long i = 0; i < 4; ++i) pthread_create(&threads[i], NULL, map, (void*)(i + 1));
  int children = 0;
  for (int i = 0; i < 40; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      if (!memory_works(7)) _exit(1);
      execl("/bin/true", "true", NULL);
      _exit(1);
    }
    int status = 1;
    while (waitpid(child, &status, 0) < 0) {
    }
    children += status == 0;
  }
  while (handled < 200) usleep(1000);
  stop = 1;
  for (int i = 0; i < 4; ++i) pthread_join(threads[i], NULL);
  printf("bad %d, children %d\n", bad, children);
  return 0;
}
