// The ring of a performance event, which the kernel writes and the program reads: page faults of
// its own. Exit code 77: the kernel has no such events for it.
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096UL
#define FAULTS 64

int main(void) {
  struct perf_event_attr what;
  memset(&what, 0, sizeof what);
  what.size = sizeof what;
  what.type = PERF_TYPE_SOFTWARE;
  what.config = PERF_COUNT_SW_PAGE_FAULTS;
  what.sample_period = 1;
  what.sample_type = PERF_SAMPLE_ADDR;
  what.disabled = 1;
  what.exclude_kernel = what.exclude_hv = 1;
  const int event = (int)syscall(SYS_perf_event_open, &what, 0, -1, -1, 0);
  if (event < 0) return 77;
  struct perf_event_mmap_page* const head =
      mmap(NULL, 9 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0);
  printf("ring: %s\n", head == MAP_FAILED ? "refused" : "mapped");
  if (head == MAP_FAILED) return 1;
  char* const fresh =
      mmap(NULL, FAULTS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ioctl(event, PERF_EVENT_IOC_ENABLE, 0);
  for (size_t i = 0; i < FAULTS; ++i) fresh[i * PAGE] = 1;
  ioctl(event, PERF_EVENT_IOC_DISABLE, 0);
  const uint64_t end = __atomic_load_n(&head->data_head, __ATOMIC_ACQUIRE);
  const char* const records = (const char*)head + PAGE;
  int seen = 0;
  for (uint64_t at = 0; at < end;) {
    struct {
      struct perf_event_header header;
      uint64_t address;
    } record;
    memcpy(&record, records + at, sizeof record);  // the ring is larger than all of them
    if (record.header.size == 0) break;
    const uint64_t offset = record.address - (uint64_t)(uintptr_t)fresh;
    if (record.header.type == PERF_RECORD_SAMPLE && offset < FAULTS * PAGE) ++seen;
    at += record.header.size;
  }
  printf("faults seen: %s\n", seen > 0 ? "some" : "none");
  printf("unmap: %d\n", munmap(head, 9 * PAGE));
  return 0;
}
