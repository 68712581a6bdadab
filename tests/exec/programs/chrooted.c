// Devices' memory where there is no /proc. Argument: a folder to change the root to.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void map_of(const char* what, int descriptor) {
  void* const p =
      mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, descriptor, 0);
  printf("%s: %s\n", what, p == MAP_FAILED ? strerrorname_np(errno) : "done");
}

int main(int argc, char** argv) {
  if (argc < 2 || chroot(argv[1]) != 0 || chdir("/") != 0) return 77;
  struct io_uring_params parameters = {0};
  map_of("ring", (int)syscall(SYS_io_uring_setup, 4, &parameters));
  struct perf_event_attr event = {
      .type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_CPU_CLOCK};
  map_of("event", (int)syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
  map_of("socket", socket(AF_UNIX, SOCK_STREAM, 0));
  map_of("memory", memfd_create("memory", 0));
  return 0;
}
