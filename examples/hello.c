/* The same tour in C: a port, an allocator, a block outside, bytes across and back, and a bad free
 * that is told. */
#include <exclave/exclave.h>
#include <stdio.h>

int main(void) {
  exclave_process_port* port;
  exclave_allocator* allocator;
  exclave_address block;
  char copy[32] = {0};

  if (exclave_process_port_create(NULL, &port) != EXCLAVE_OK) return 1;
  struct exclave_port table = exclave_process_port_table(port);
  if (exclave_create(&table, NULL, &allocator) != EXCLAVE_OK) return 1;
  if (exclave_allocate(allocator, 4096, &block) != EXCLAVE_OK) return 1;

  exclave_copy_out_padded(block, "ciphertext, one hopes", 22);
  exclave_copy_in(copy, block, 22);
  printf("came back: %s\n", copy);

  exclave_deallocate(allocator, block);
  printf("freed again: %s\n", exclave_error_text((int)exclave_deallocate(allocator, block)));
  exclave_destroy(allocator);
  exclave_process_port_destroy(port);
  return 0;
}
