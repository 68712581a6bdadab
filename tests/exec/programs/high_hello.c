// A program that may lie anywhere, linked to an address that is outside the enclave's range.
#include <stdio.h>

int main(void) {
  FILE* const file = fopen("/proc/self/cmdline", "r");
  char text[4096];
  const size_t bytes = fread(text, 1, sizeof text, file);
  for (size_t i = 0; i < bytes; ++i) putchar(text[i] != 0 ? text[i] : '\n');
  return 9;
}
