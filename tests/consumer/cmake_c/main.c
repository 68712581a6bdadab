/* A program from outside the tree: attaches a pool, places a block in it, frees it twice, detaches.
 */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include <exclave/exclave.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

enum { kPoolBytes = 1 << 20 };

static int failed(const char* what, exclave_error error) {
  printf("%s: %s\n", what, exclave_error_text(error));
  return 1;
}

static int use(exclave_allocator* allocator, exclave_address memory) {
  exclave_placement where = {EXCLAVE_IN_POOL, 0, 0};
  exclave_error error = exclave_attach(allocator, memory, kPoolBytes, NULL, &where.pool);
  if (error != EXCLAVE_OK) return failed("attach", error);
  exclave_address block = 0;
  error = exclave_allocate_at(allocator, 100, 64, &where, &block);
  if (error != EXCLAVE_OK) return failed("allocate", error);
  error = exclave_deallocate(allocator, block);
  if (error != EXCLAVE_OK) return failed("deallocate", error);
  error = exclave_deallocate(allocator, block);
  if (error != EXCLAVE_DOUBLE_FREE) return failed("a double free", error);
  error = exclave_detach(allocator, memory, kPoolBytes, EXCLAVE_DETACH_BUSY);
  if (error != EXCLAVE_OK) return failed("detach", error);
  return 0;
}

int main(void) {
  void* const memory =
      mmap(NULL, kPoolBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  exclave_process_port* port = NULL;
  exclave_error error = exclave_process_port_create(NULL, &port);
  if (error != EXCLAVE_OK) return failed("port", error);
  const struct exclave_port table = exclave_process_port_table(port);
  exclave_allocator* allocator = NULL;
  error = exclave_create(&table, NULL, &allocator);
  if (error != EXCLAVE_OK) return failed("create", error);
  const int status = use(allocator, (exclave_address)memory);
  exclave_destroy(allocator);
  exclave_process_port_destroy(port);
  return status;
}
