// Every way to another process: fork beside busy threads, vfork, posix_spawn, clone with a stack of
// its own, fexecve, and what fails.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;
static atomic_int stop;

static void* busy(void* unused) {
  (void)unused;
  while (!stop) {
    void* const p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 1, 65536);
    munmap(p, 65536);
  }
  return NULL;
}

static int memory_works(void) {
  for (int i = 0; i < 50; ++i) {
    char* const p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || p[12345] != 0) return 0;
    p[12345] = 1;
    if (munmap(p, 1 << 20) != 0) return 0;
  }
  return 1;
}

static int wait_for(pid_t child) {
  int status;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// The child ends at once, for it stands on its parent's stack.
static pid_t vfork_by_clone3(struct clone_args* description) {
  long result = SYS_clone3;
  __asm__ volatile(
      "syscall\n\t"
      "testq %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "movl $77, %%edi\n\t"
      "movl %[exit], %%eax\n\t"
      "syscall\n"
      "1:\n\t"
      : "+a"(result), "+D"(description)
      : "S"(sizeof *description), [exit] "i"(SYS_exit)
      : "rcx", "r11", "memory");
  return (pid_t)result;
}

static int in_clone(void* argument) {
  return memory_works() ? *(int*)argument : 1;
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IONBF, 0);
  if (argc > 1) return memory_works() ? atoi(argv[1]) : 1;
  char* const again[] = {argv[0], "33", NULL};

  pthread_t threads[3];
  for (int i = 0; i < 3; ++i) pthread_create(&threads[i], NULL, busy, NULL);
  int sum = 0;
  for (int i = 0; i < 40; ++i) {
    const pid_t child = fork();
    if (child == 0) _exit(memory_works() ? 3 : 1);
    sum += wait_for(child);
  }
  printf("forks beside threads: %d\n", sum);

  sum = 0;
  for (int i = 0; i < 20; ++i) {
    pid_t child = vfork();
    if (child == 0) {
      execv(argv[0], again);
      _exit(99);
    }
    sum += wait_for(child);
  }
  printf("vforks: %d\n", sum);
  pid_t child = vfork();
  if (child == 0) {
    char* const none[] = {"none", NULL};
    execv("/no/such/file", none);
    _exit(errno == ENOENT ? 44 : 1);
  }
  printf("vfork, nothing there: %d\n", wait_for(child));

  sum = 0;
  for (int i = 0; i < 20; ++i) {
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t all;
    sigfillset(&all);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    if (posix_spawn(&child, argv[0], NULL, &attributes, again, environ) == 0)
      sum += wait_for(child);
  }
  printf("spawns: %d\n", sum);
  printf("spawn, nothing there: %s\n",
         strerrorname_np(posix_spawn(&child, "/no/such/file", NULL, NULL, again, environ)));
  stop = 1;
  for (int i = 0; i < 3; ++i) pthread_join(threads[i], NULL);
  printf("still there: %d\n", memory_works());

  struct clone_args description = {.exit_signal = SIGCHLD};
  child = (pid_t)syscall(SYS_clone3, &description, sizeof description);
  if (child == 0) _exit(memory_works() ? 66 : 1);
  printf("clone3: %d\n", wait_for(child));
  description.flags = CLONE_VM | CLONE_VFORK;
  child = vfork_by_clone3(&description);
  printf("clone3, shared: %d\n", wait_for(child));
  printf("clone3, too short: %ld %s\n", syscall(SYS_clone3, &description, 8),
         strerrorname_np(errno));
  child = (pid_t)syscall(SYS_clone3, 8, 64);
  printf("clone3, nothing: %d %s\n", child, strerrorname_np(errno));

  int code = 55;
  char* const stack = malloc(1 << 16);
  printf("clone, a stack of its own: %d\n",
         wait_for(clone(in_clone, stack + (1 << 16), SIGCHLD, &code)));
  printf("clone, shared memory: %d\n",
         wait_for(clone(in_clone, stack + (1 << 16), SIGCHLD | CLONE_VM, &code)));
  printf("clone, shared and waited for: %d\n",
         wait_for(clone(in_clone, stack + (1 << 16), SIGCHLD | CLONE_VM | CLONE_VFORK, &code)));
  printf("system: %d\n", WEXITSTATUS(system("exit 12")));

  for (int flags = 0; flags <= O_CLOEXEC; flags += O_CLOEXEC) {
    const int own = open(argv[0], O_RDONLY | flags);
    child = fork();
    if (child == 0) {
      fexecve(own, again, environ);
      _exit(98);
    }
    printf("fexecve: %d\n", wait_for(child));
    close(own);
  }
  char folder[4096];
  strcpy(folder, argv[0]);
  *strrchr(folder, '/') = 0;
  const int at = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  child = fork();
  if (child == 0) {
    syscall(SYS_execveat, at, strrchr(argv[0], '/') + 1, again, environ, 0);
    _exit(97);
  }
  printf("execveat: %d\n", wait_for(child));
  child = fork();
  if (child == 0) {
    execl("/proc/self/exe", argv[0], "34", NULL);
    _exit(97);
  }
  printf("/proc/self/exe: %d\n", wait_for(child));

  const struct {
    const char* what;
    const char* path;
    char* const* arguments;
  } bad[] = {{"a folder", "/", again},
             {"no program", "/etc/passwd", again},
             {"nothing", "", again},
             {"a bad pointer", (const char*)8, again},
             {"through a file", "/etc/passwd/x", again},
             {"bad arguments", argv[0], (char* const*)8}};
  for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
    syscall(SYS_execve, bad[i].path, bad[i].arguments, environ);
    printf("execve of %s: %s\n", bad[i].what, strerrorname_np(errno));
  }
  char link[4096];
  const long length = readlink("/proc/self/exe", link, sizeof link);
  printf("own name: %d\n",
         length > 0 && strcmp(strrchr(argv[0], '/'), strrchr((link[length] = 0, link), '/')) == 0);
  printf("cut: %ld\n", (long)readlink("/proc/self/exe", link, 3));
  return 0;
}
