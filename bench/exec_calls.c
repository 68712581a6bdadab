// What bench/exec_calls.py runs, natively and under `exclave exec`:
//   exec_calls calls BATCHES                    wall time of single calls
//   exec_calls processes TIMES                  processor time of processes, the child's too
//   exec_calls stress THREADS OPERATIONS SEED   both, of threads at random work on mappings
// One line for each kind: name, calls in one operation, ns of one operation. A batch is some
// operations timed together; told is the median over the batches. What this system refuses is told
// with 0 ns.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kPage = 4096, kTouched = 64 };

static double ns_of(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}
static double wall_ns(void) {
  return ns_of(CLOCK_MONOTONIC);
}
static double seconds_of(struct timeval time) {
  return (double)time.tv_sec + 1e-6 * (double)time.tv_usec;
}
// Of this process and the children that ended.
static double cpu_ns(void) {
  struct rusage children;
  getrusage(RUSAGE_CHILDREN, &children);
  return ns_of(CLOCK_PROCESS_CPUTIME_ID) +
         1e9 * (seconds_of(children.ru_utime) + seconds_of(children.ru_stime));
}
static void must(int well, const char* what) {
  if (well) return;
  perror(what);
  exit(1);
}

static unsigned char* map_pages(size_t pages) {
  void* const at =
      mmap(NULL, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(at != MAP_FAILED, "mmap");
  return at;
}
static void unmap_pages(void* at, size_t pages) {
  must(munmap(at, pages * kPage) == 0, "munmap");
}
static void touch(volatile unsigned char* at, size_t pages) {
  for (size_t i = 0; i < pages; ++i) at[i * kPage] = (unsigned char)i;
}

// ---- Single calls. Each body does one operation; the pages are the middle one of three, touched,
// where it needs some. ----

static unsigned char* area;  // three pages
static unsigned char* room;  // address space for what moves and grows
static int segment = -1;

static void map_one(int turn) {
  (void)turn;
  unmap_pages(map_pages(1), 1);
}
static void map_and_touch(int turn) {
  (void)turn;
  unsigned char* const at = map_pages(kTouched);
  touch(at, kTouched);
  unmap_pages(at, kTouched);
}
static void protect(int turn) {
  must(mprotect(area + kPage, kPage, turn % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE) == 0,
       "mprotect");
}
static void drop_and_touch(int turn) {
  (void)turn;
  must(madvise(area + kPage, kPage, MADV_DONTNEED) == 0, "madvise");
  touch(area + kPage, 1);
}
static void grow_and_shrink(int turn) {
  (void)turn;
  must(mremap(room, kPage, 2 * kPage, 0) == room && mremap(room, 2 * kPage, kPage, 0) == room,
       "mremap");
}
static void move(int turn) {
  unsigned char* const places[2] = {room, room + 8 * kPage};
  must(mremap(places[turn % 2], kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED,
              places[(turn + 1) % 2]) != MAP_FAILED,
       "mremap");
}
static void move_break(int turn) {
  (void)turn;
  must(sbrk(kPage) != (void*)-1 && sbrk(-kPage) != (void*)-1, "brk");
}
static void synchronize(int turn) {
  (void)turn;
  must(msync(area + kPage, kPage, MS_SYNC) == 0, "msync");
}
static void look(int turn) {
  (void)turn;
  unsigned char vector[3];
  must(mincore(area, 3 * kPage, vector) == 0, "mincore");
}
static void lock(int turn) {
  (void)turn;
  must(mlock(area + kPage, kPage) == 0 && munlock(area + kPage, kPage) == 0, "mlock");
}
static void attach(int turn) {
  (void)turn;
  void* const at = shmat(segment, NULL, 0);
  must(at != (void*)-1 && shmdt(at) == 0, "shmat");
}
static void read_link(int turn) {
  (void)turn;
  char name[64];
  (void)!readlink("/bin", name, sizeof name);
}
static void change_action(int turn) {
  (void)turn;
  struct sigaction action = {.sa_handler = SIG_DFL};
  must(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
}
static void change_mask(int turn) {
  (void)turn;
  sigset_t none;
  sigemptyset(&none);
  must(sigprocmask(SIG_BLOCK, &none, NULL) == 0, "sigprocmask");
}
static void ask_parent(int turn) {
  (void)turn;
  must(getppid() >= 0, "getppid");
}
static void wait_for(pid_t child) {
  int status = 1;
  must(waitpid(child, &status, 0) == child && status == 0, "waitpid");
}
static void fork_child(int turn) {
  (void)turn;
  const pid_t child = fork();
  must(child >= 0, "fork");
  if (child == 0) _exit(0);
  wait_for(child);
}
static void start_program(int turn) {
  (void)turn;
  char* const words[] = {"true", NULL};
  char* const nothing[] = {NULL};
  pid_t child = -1;
  must(posix_spawn(&child, "/bin/true", NULL, NULL, words, nothing) == 0, "posix_spawn");
  wait_for(child);
}

static int can_lock(void) {
  return mlock(area, kPage) == 0 && munlock(area, kPage) == 0;
}
static int can_attach(void) {
  segment = shmget(IPC_PRIVATE, kPage, IPC_CREAT | 0600);
  return segment >= 0;
}

struct Kind {
  const char* name;
  int calls;       // of one operation
  int operations;  // of one batch
  void (*once)(int turn);
  int (*possible)(void);  // or null
};
static const struct Kind kCalls[] = {
    {"mmap munmap, 1 page", 2, 16, map_one, NULL},
    {"mmap munmap, 64 touched", 2, 4, map_and_touch, NULL},
    {"mprotect, splits or merges", 1, 16, protect, NULL},
    {"madvise DONTNEED, touched", 1, 16, drop_and_touch, NULL},
    {"mremap grows, shrinks", 2, 16, grow_and_shrink, NULL},
    {"mremap moves", 1, 16, move, NULL},
    {"brk up, down", 2, 16, move_break, NULL},
    {"msync", 1, 16, synchronize, NULL},
    {"mincore, 3 pages", 1, 16, look, NULL},
    {"mlock munlock", 2, 16, lock, can_lock},
    {"shmat shmdt", 2, 16, attach, can_attach},
    {"readlink", 1, 16, read_link, NULL},
    {"rt_sigaction", 1, 16, change_action, NULL},
    {"rt_sigprocmask", 1, 16, change_mask, NULL},
    {"getppid (passes)", 1, 16, ask_parent, NULL},
};
static const struct Kind kProcesses[] = {
    {"fork, wait", 1, 1, fork_child, NULL},
    {"start /bin/true, wait", 1, 1, start_program, NULL},
};

static int compare(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}
static double median_ns(const struct Kind* kind, size_t batches, double (*clock)(void)) {
  if (kind->possible != NULL && !kind->possible()) return 0;
  double* const times = malloc(batches * sizeof *times);
  must(times != NULL, "malloc");
  kind->once(0);  // the first ones meet cold caches
  kind->once(1);
  for (size_t i = 0; i < batches; ++i) {
    const double start = clock();
    for (int turn = 0; turn < kind->operations; ++turn) kind->once(turn);
    times[i] = (clock() - start) / kind->operations;
  }
  qsort(times, batches, sizeof *times, compare);
  const double median = times[batches / 2];
  free(times);
  return median;
}
static void tell(const struct Kind* kind, double ns) {
  printf("%s\t%d\t%.1f\n", kind->name, kind->calls, ns);
  fflush(stdout);  // lest a child tells it once more
}
static void measure_calls(size_t batches) {
  area = map_pages(3);
  touch(area, 3);
  room = map_pages(32);
  unmap_pages(room + kPage, 31);
  touch(room, 1);
  for (size_t i = 0; i < sizeof kCalls / sizeof kCalls[0]; ++i)
    tell(&kCalls[i], median_ns(&kCalls[i], batches, wall_ns));
  if (segment >= 0) shmctl(segment, IPC_RMID, NULL);
}
static void measure_processes(size_t times) {
  for (size_t i = 0; i < sizeof kProcesses / sizeof kProcesses[0]; ++i)
    tell(&kProcesses[i], median_ns(&kProcesses[i], times, cpu_ns));
}

// ---- Stress: threads that map, touch, protect, shrink, grow, move, drop and unmap, each its own
// mappings ----

enum { kMappings = 64, kMostPages = 64 };
struct Mapping {
  unsigned char* at;  // null: none
  size_t pages;
};
struct Worker {
  pthread_t thread;
  uint64_t random;
  unsigned long operations;
};

// SplitMix64, as in sequences.hpp.
static size_t below(struct Worker* worker, size_t bound) {
  uint64_t z = (worker->random += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (size_t)(((z ^ (z >> 31)) >> 32) * bound >> 32);
}
static void work_on(struct Worker* worker, struct Mapping* mapping) {
  const size_t first = below(worker, mapping->pages);
  const size_t pages = 1 + below(worker, mapping->pages - first);
  unsigned char* const part = mapping->at + first * kPage;
  switch (below(worker, 8)) {
    case 0:
      touch(part, pages);
      break;
    case 1:
    case 2:
      must(mprotect(part, pages * kPage, PROT_READ) == 0, "mprotect");
      must(mprotect(part, pages * kPage, PROT_READ | PROT_WRITE) == 0, "mprotect");
      break;
    case 3:
      must(madvise(part, pages * kPage, MADV_DONTNEED) == 0, "madvise");
      must(*(volatile unsigned char*)part == 0, "pages that were dropped are not zero");
      break;
    case 4: {
      const size_t wanted = 1 + below(worker, kMostPages);
      *(volatile unsigned char*)mapping->at = 77;
      unsigned char* at =
          mremap(mapping->at, mapping->pages * kPage, wanted * kPage, MREMAP_MAYMOVE);
      if (at == MAP_FAILED && errno == EFAULT) {
        // Linux does not join all neighbours again that were one mapping.
        unmap_pages(mapping->at, mapping->pages);
        at = map_pages(wanted);
        *at = 77;
      }
      must(at != MAP_FAILED, "mremap");
      *mapping = (struct Mapping){at, wanted};
      must(*(volatile unsigned char*)at == 77, "pages that moved lost their bytes");
      break;
    }
    case 5:  // from the top
      unmap_pages(mapping->at + (mapping->pages - pages) * kPage, pages);
      mapping->pages -= pages;
      if (mapping->pages == 0) mapping->at = NULL;
      break;
    case 6:  // another in its place
      must(mmap(part, pages * kPage, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == part,
           "mmap");
      break;
    default:
      unmap_pages(mapping->at, mapping->pages);
      mapping->at = NULL;
  }
}
static void* work(void* context) {
  struct Worker* const worker = context;
  struct Mapping mappings[kMappings] = {{0}};
  for (unsigned long i = 0; i < worker->operations; ++i) {
    struct Mapping* const mapping = &mappings[below(worker, kMappings)];
    if (mapping->at != NULL) {
      work_on(worker, mapping);
      continue;
    }
    mapping->pages = 1 + below(worker, kMostPages);
    mapping->at = map_pages(mapping->pages);
    touch(mapping->at, 1 + below(worker, mapping->pages));
  }
  return NULL;
}
static void measure_stress(size_t threads, unsigned long operations, uint64_t seed) {
  struct Worker* const workers = calloc(threads, sizeof *workers);
  must(workers != NULL, "calloc");
  const double start = wall_ns(), start_cpu = cpu_ns();
  for (size_t i = 0; i < threads; ++i) {
    workers[i].random = seed + i;
    workers[i].operations = operations / threads;
    must(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0, "pthread_create");
  }
  for (size_t i = 0; i < threads; ++i)
    must(pthread_join(workers[i].thread, NULL) == 0, "pthread_join");
  const double wall = wall_ns() - start, cpu = cpu_ns() - start_cpu;
  const char* const ending = threads == 1 ? "" : "s";
  printf("%zu thread%s, wall\t1\t%.1f\n", threads, ending, wall / (double)operations);
  printf("%zu thread%s, CPU\t1\t%.1f\n", threads, ending, cpu / (double)operations);
  free(workers);
}

// ---- The command line ----

static unsigned long number(const char* word, unsigned long most) {
  char* end = NULL;
  errno = 0;
  const unsigned long value = strtoul(word, &end, 10);
  if (*word < '0' || *word > '9' || *end != '\0' || errno != 0 || value == 0 || value > most) {
    fprintf(stderr, "exec_calls: '%s' is not a whole number from 1 to %lu\n", word, most);
    exit(2);
  }
  return value;
}

int main(int count, char** words) {
  if (count == 3 && strcmp(words[1], "calls") == 0) {
    measure_calls(number(words[2], 1000000));
    return 0;
  }
  if (count == 3 && strcmp(words[1], "processes") == 0) {
    measure_processes(number(words[2], 1000000));
    return 0;
  }
  if (count == 5 && strcmp(words[1], "stress") == 0) {
    measure_stress(number(words[2], 64), number(words[3], 1000000000),
                   number(words[4], UINT32_MAX));
    return 0;
  }
  fprintf(stderr,
          "usage: exec_calls calls BATCHES\n"
          "       exec_calls processes TIMES\n"
          "       exec_calls stress THREADS OPERATIONS SEED\n");
  return 2;
}
