// Prints one address of each kind of memory: code, data, break, anonymous, stack, environment.
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static int data = 1;
extern char** environ;

int main(int argc, char** argv) {
  (void)argc;
  const void* const mapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  printf("%p %p %p %p %p %p %p\n", (void*)(unsigned long)&main, (void*)&data, sbrk(0), mapped,
         (void*)&argc, (void*)argv[0], (void*)environ[0]);
  return 0;
}
