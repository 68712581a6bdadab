/* A program from outside the tree, in C, found by pkg-config: memory from the host, bytes across
 * the boundary and back. */
#include <exclave/exclave.h>
#include <stdio.h>
#include <string.h>

static int failed(const char* what, exclave_error error) {
  printf("%s: %s\n", what, exclave_error_text(error));
  return 1;
}

int main(void) {
  static const char kText[] = "these bytes go outside";
  char back[sizeof kText] = {0};
  exclave_process_port* port = NULL;
  exclave_error error = exclave_process_port_create(NULL, &port);
  if (error != EXCLAVE_OK) return failed("port", error);
  const struct exclave_port table = exclave_process_port_table(port);
  exclave_allocator* allocator = NULL;
  error = exclave_create(&table, NULL, &allocator);
  if (error != EXCLAVE_OK) return failed("create", error);
  exclave_address block = 0;
  error = exclave_allocate(allocator, sizeof kText, &block);
  if (error != EXCLAVE_OK) return failed("allocate", error);
  exclave_copy_out(block, kText, sizeof kText);
  exclave_copy_in(back, block, sizeof kText);
  error = exclave_deallocate_sized(allocator, block, sizeof kText, 16);
  if (error != EXCLAVE_OK) return failed("deallocate", error);
  exclave_destroy(allocator);
  exclave_process_port_destroy(port);
  return memcmp(back, kText, sizeof kText) == 0 ? 0 : 1;
}
