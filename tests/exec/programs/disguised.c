// Memory calls that do not look like one. Argument: the mode, and a file of "file's own" bytes.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define GUARD_INSTALL 102
#define GUARD_REMOVE 103
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static void told(const char* what, long result) {
  if (result < 0) {
    printf("%s: %s\n", what, strerrorname_np(errno));
  } else {
    printf("%s: %ld\n", what, result);
  }
}

static char* map(size_t pages) {
  return mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
static char* map_file(const char* name) {
  const int file = open(name, O_RDONLY);
  char* const p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  close(file);
  return p;
}

static long advise(int pidfd, char* address, size_t size, int advice) {
  const struct iovec vector = {address, size};
  return syscall(SYS_process_madvise, pidfd, &vector, 1L, advice, 0);
}

static void by_process(const char* file) {
  const int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
  char* const copy = map_file(file);
  told("of a file", advise(self, copy, PAGE, MADV_DONTNEED));
  printf("its byte: %c\n", copy[0]);
  char* const p = map(8);
  memset(p, 'x', 8 * PAGE);
  munmap(p + 5 * PAGE, PAGE);
  struct iovec vectors[] = {{p, PAGE}, {p + 2 * PAGE, PAGE}, {p + 4 * PAGE, 3 * PAGE}};
  told("two", syscall(SYS_process_madvise, self, vectors, 2L, MADV_DONTNEED, 0));
  printf("dropped: %d %d %d\n", p[0], p[PAGE], p[2 * PAGE]);
  told("into a hole", syscall(SYS_process_madvise, self, vectors, 3L, MADV_DONTNEED, 0));
  printf("around it: %d %d\n", p[4 * PAGE], p[6 * PAGE]);
  told("unaligned", advise(self, p + 1, PAGE, MADV_DONTNEED));
  told("a hole", advise(self, p + 5 * PAGE, PAGE, MADV_DONTNEED));
  told("unknown advice", advise(self, p, PAGE, 9999));
  told("none", syscall(SYS_process_madvise, self, NULL, 0L, MADV_DONTNEED, 0));
  told("too many", syscall(SYS_process_madvise, self, vectors, 1025L, MADV_DONTNEED, 0));
  told("from nowhere", syscall(SYS_process_madvise, self, (void*)8, 1L, MADV_DONTNEED, 0));
  told("flags", syscall(SYS_process_madvise, self, vectors, 1L, MADV_DONTNEED, 1));
  told("no pidfd", advise(999, p, PAGE, MADV_DONTNEED));
  told("no pidfd, cold", advise(999, p, PAGE, MADV_COLD));
  told("a file for one", advise(open(file, O_RDONLY), p, PAGE, MADV_COLD));
  told("willneed", advise(self, copy, PAGE, MADV_WILLNEED));

  // Another process' memory: only advice that loses nothing.
  const pid_t other = fork();
  if (other == 0) {
    pause();
    _exit(1);
  }
  const int another = (int)syscall(SYS_pidfd_open, other, 0);
  told("another's, cold", advise(another, p, PAGE, MADV_COLD));
  told("another's, dontneed", advise(another, p, PAGE, MADV_DONTNEED));
  kill(other, SIGKILL);
  waitpid(other, NULL, 0);
  told("of one that ended", advise(another, p, PAGE, MADV_COLD));

  // The memory of a vfork child is its parent's.
  p[0] = 'x';
  const pid_t child = vfork();
  if (child == 0) {
    advise(self, copy, PAGE, MADV_DONTNEED);
    _exit(advise(self, p, PAGE, MADV_DONTNEED) == PAGE ? 3 : 4);
  }
  int status = 0;
  waitpid(child, &status, 0);
  printf("vfork child: %d %d %c\n", WEXITSTATUS(status), p[0], copy[0]);

  // Below the stack pointer, where a stop leaves the registers.
  for (int i = 0; i < 100; ++i) {
    char here;
    char* const page = (char*)((uintptr_t)&here & ~(PAGE - 1));
    if (advise(self, page - 16 * PAGE, 16 * PAGE, MADV_DONTNEED) != 16 * PAGE) printf("lost\n");
  }
  told("mrelease of one that lives", syscall(SYS_process_mrelease, self, 0));
  char to[2] = "", from[2] = "y";
  const struct iovec local = {from, 1}, remote = {to, 1};
  told("written by number", process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
  printf("there: %s\n", to);
}

// ---- io_uring ----

struct ring {
  int fd;
  char* rings;
  struct io_uring_sqe* requests;
  struct io_uring_params parameters;
  unsigned enter_flags;
};

static int open_ring(struct ring* ring, unsigned flags) {
  memset(ring, 0, sizeof *ring);
  ring->parameters.flags = flags;
  ring->fd = (int)syscall(SYS_io_uring_setup, 4, &ring->parameters);
  if (ring->fd < 0) return -1;
  const int protection = PROT_READ | PROT_WRITE;
  ring->rings = mmap(NULL, 4 * PAGE, protection, MAP_SHARED, ring->fd, IORING_OFF_SQ_RING);
  ring->requests = mmap(NULL, PAGE, protection, MAP_SHARED, ring->fd, IORING_OFF_SQES);
  return ring->rings == MAP_FAILED || (void*)ring->requests == MAP_FAILED ? -1 : 0;
}

static int open_ring_without_descriptor(struct ring* ring) {
  memset(ring, 0, sizeof *ring);
  ring->parameters.flags = 1u << 14 | 1u << 15;  // NO_MMAP, REGISTERED_FD_ONLY
  ring->rings = map(1);
  ring->requests = (struct io_uring_sqe*)map(1);
  ring->parameters.sq_off.resv2 = (uintptr_t)ring->requests;
  ring->parameters.cq_off.resv2 = (uintptr_t)ring->rings;
  ring->enter_flags = 1u << 4;  // ENTER_REGISTERED_RING
  ring->fd = (int)syscall(SYS_io_uring_setup, 4, &ring->parameters);
  return ring->fd < 0 ? -1 : 0;
}

// The result of one request.
static int ask(struct ring* ring, const struct io_uring_sqe* request) {
  const struct io_sqring_offsets* const sq = &ring->parameters.sq_off;
  const struct io_cqring_offsets* const cq = &ring->parameters.cq_off;
  unsigned* const tail = (unsigned*)(ring->rings + sq->tail);
  const unsigned at = *tail & *(unsigned*)(ring->rings + sq->ring_mask);
  ring->requests[at] = *request;
  ((unsigned*)(ring->rings + sq->array))[at] = at;
  __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
  const unsigned flags = IORING_ENTER_GETEVENTS | ring->enter_flags;
  if (syscall(SYS_io_uring_enter, ring->fd, 1, 1, flags, NULL, 0) != 1) {
    __atomic_store_n(tail, *tail - 1, __ATOMIC_RELEASE);  // not taken
    return -errno;
  }
  unsigned* const head = (unsigned*)(ring->rings + cq->head);
  const struct io_uring_cqe* const answers = (void*)(ring->rings + cq->cqes);
  const int result = answers[*head & *(unsigned*)(ring->rings + cq->ring_mask)].res;
  __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
  return result;
}

static long in_ring(struct ring* ring, int what, void* address, size_t size, int advice) {
  const struct io_uring_sqe request = {.opcode = (__u8)what,
                                       .fd = -1,
                                       .addr = (uintptr_t)address,
                                       .len = (__u32)size,
                                       .fadvise_advice = (__u32)advice};
  const int result = ask(ring, &request);
  if (result < 0) errno = -result;
  return result < 0 ? -1 : result;
}

static int supports(const struct ring* ring, int what) {
  static union {
    struct io_uring_probe probe;
    char room[sizeof(struct io_uring_probe) + 64 * sizeof(struct io_uring_probe_op)];
  } told_by;
  memset(&told_by, 0, sizeof told_by);
  if (syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_PROBE, &told_by, 64) != 0) return -1;
  return told_by.probe.ops[what].flags & IO_URING_OP_SUPPORTED;
}

static void by_ring(const char* file) {
  struct ring ring;
  char* const copy = map_file(file);
  told("ring", open_ring(&ring, 0));
  printf("flags: %x\n", ring.parameters.flags);
  told("nothing", in_ring(&ring, IORING_OP_NOP, NULL, 0, 0));
  told("madvise", in_ring(&ring, IORING_OP_MADVISE, copy, PAGE, MADV_DONTNEED));
  printf("its byte: %c\n", copy[0]);
  told("guard", in_ring(&ring, IORING_OP_MADVISE, map(1), PAGE, GUARD_INSTALL));
  printf("supported: nop %d, madvise %d\n", supports(&ring, IORING_OP_NOP),
         supports(&ring, IORING_OP_MADVISE));
  told("enabled again",
       syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
  told("no ring", syscall(SYS_io_uring_register, 0, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
  told("no such flag", open_ring(&ring, 1u << 30));
  told("parameters nowhere", syscall(SYS_io_uring_setup, 4, (void*)8));

  // One that the program enables itself, and one that it restricts.
  told("disabled", open_ring(&ring, IORING_SETUP_R_DISABLED));
  printf("flags: %x\n", ring.parameters.flags);
  told("too early", in_ring(&ring, IORING_OP_NOP, NULL, 0, 0));
  told("enabled", syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
  told("madvise", in_ring(&ring, IORING_OP_MADVISE, copy, PAGE, MADV_DONTNEED));
  told("restricted", open_ring(&ring, IORING_SETUP_R_DISABLED));
  struct io_uring_restriction allowed[] = {
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_MADVISE},
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_NOP},
      {.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_REGISTER_ENABLE_RINGS}};
  told("from nowhere",
       syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_RESTRICTIONS, (void*)8, 1));
  told("too long",
       syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_RESTRICTIONS, allowed, 100000));
  told("by a list", syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_RESTRICTIONS, allowed,
                            ARRAY_SIZE(allowed)));
  told("again", syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_RESTRICTIONS, allowed,
                        ARRAY_SIZE(allowed)));
  told("enabled", syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
  told("nothing", in_ring(&ring, IORING_OP_NOP, NULL, 0, 0));
  told("not on the list", in_ring(&ring, IORING_OP_TIMEOUT, NULL, 0, 0));
  told("madvise", in_ring(&ring, IORING_OP_MADVISE, copy, PAGE, MADV_DONTNEED));
  printf("its byte: %c\n", copy[0]);

  // One without a descriptor, in the program's own memory.
  told("without a descriptor", open_ring_without_descriptor(&ring));
  told("nothing", in_ring(&ring, IORING_OP_NOP, NULL, 0, 0));
  told("madvise", in_ring(&ring, IORING_OP_MADVISE, copy, PAGE, MADV_DONTNEED));
  printf("its byte: %c\n", copy[0]);
}

// Of calls that pass: what they do is what they do natively.
static void* serve_faults(void* descriptor) {
  const int uffd = *(int*)descriptor;
  struct pollfd wait = {uffd, POLLIN, 0};
  for (int served = 0; served < 2 && poll(&wait, 1, 10000) == 1; ++served) {
    struct uffd_msg message;
    if (read(uffd, &message, sizeof message) != sizeof message) break;
    static char page[4096] __attribute__((aligned(4096)));
    memset(page, 'a' + served, sizeof page);
    struct uffdio_copy copy = {
        .dst = message.arg.pagefault.address & ~(PAGE - 1), .src = (uintptr_t)page, .len = PAGE};
    ioctl(uffd, UFFDIO_COPY, &copy);
  }
  return NULL;
}

static void that_pass(const char* file) {
  int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
  struct uffdio_api api = {.api = UFFD_API};
  if (uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0) {
    char* const p = map(2);
    struct uffdio_register range = {.range = {(uintptr_t)p, 2 * PAGE},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    told("userfaultfd", ioctl(uffd, UFFDIO_REGISTER, &range));
    pthread_t thread;
    pthread_create(&thread, NULL, serve_faults, &uffd);
    const char first = *(volatile char*)p, second = *(volatile char*)(p + PAGE);
    pthread_join(thread, NULL);
    printf("served: %c %c\n", first, second);
    told("unmapped", munmap(p, 2 * PAGE));
  }
  const int descriptor = open(file, O_RDONLY);
  const uint64_t range[2] = {0, PAGE};
  uint64_t counts[5] = {0};
  told("cachestat", syscall(451, descriptor, range, counts, 0));
  char* const p = map(1);
  told("mlock2", syscall(SYS_mlock2, p, PAGE, 1));
  told("pkey_mprotect", syscall(SYS_pkey_mprotect, p, PAGE, PROT_READ, -1));
  told("mbind", syscall(SYS_mbind, p, PAGE, 0, NULL, 0, 0));
  told("named", prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, PAGE, "a name"));
  told("remap_file_pages", syscall(SYS_remap_file_pages, p, PAGE, 0, 0, 0));
  told("mseal", syscall(462, p, PAGE, 0));
  told("munmap of what is sealed", munmap(p, PAGE));
}

// Guards by every way there is to a process' own memory, and to what lies outside.
static void guards(int advice) {
  const int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
  char* const p = map(4);
  char* const outside = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memset(p, 'x', 4 * PAGE);
  outside[0] = 'y';
  told("guard", madvise(p, PAGE, advice));
  told("outside", madvise(outside, PAGE, advice));
  told("of a process", advise(self, p, PAGE, advice));
  told("of a process, outside", advise(self, outside, PAGE, advice));
  told("of a process, no length", advise(self, p, 0, advice));
  told("of this process by its name", advise(-10001, p, PAGE, advice));
  told("of this thread by its name", advise(-10000, p, PAGE, advice));
  const struct iovec vectors[] = {{p + PAGE, PAGE}, {outside, PAGE}, {p + 3 * PAGE, PAGE}};
  told("of several", syscall(SYS_process_madvise, self, vectors, 3L, advice, 0));
  const pid_t child = vfork();
  if (child == 0) _exit(advise(self, p, PAGE, advice) == -1 && errno == EINVAL ? 3 : 4);
  int status = 0;
  waitpid(child, &status, 0);
  printf("of a vfork child: %d\n", WEXITSTATUS(status));
  // Behind a guard is a signal, and behind one that is gone zero.
  printf("untouched: %c%c%c%c%c\n", p[0], p[PAGE], p[2 * PAGE], p[3 * PAGE], outside[0]);
  const pid_t other = fork();
  if (other == 0) {
    pause();
    _exit(1);
  }
  told("of another", advise((int)syscall(SYS_pidfd_open, other, 0), p, PAGE, advice));
  kill(other, SIGKILL);
  waitpid(other, NULL, 0);
}

// Those that exec does without; each is what it is on a kernel that does not know it.
static void that_are_refused(void) {
  told("shadow stack", syscall(453, 0, PAGE, 0));
  told("shadow stack of a thread", syscall(SYS_arch_prctl, 0x5001, 1));
  told("vdso", syscall(SYS_arch_prctl, 0x2003, 0));
  told("vdso of 32 bits", syscall(SYS_arch_prctl, 0x2002, 0));
  told("uselib", syscall(SYS_uselib, "/bin/true"));
  told("no memory that becomes code", prctl(65, 1, 0, 0, 0));
  unsigned long base = 1;
  told("gs", syscall(SYS_arch_prctl, 0x1004, &base));
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IONBF, 0);
  if (argc < 3) return 2;
  if (strcmp(argv[1], "process") == 0) by_process(argv[2]);
  if (strcmp(argv[1], "ring") == 0) by_ring(argv[2]);
  if (strcmp(argv[1], "guards") == 0) {
    guards(GUARD_INSTALL);
    guards(GUARD_REMOVE);
  }
  if (strcmp(argv[1], "pass") == 0) that_pass(argv[2]);
  if (strcmp(argv[1], "refused") == 0) that_are_refused();
  return 0;
}
