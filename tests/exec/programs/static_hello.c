// A static program: what it was started with, the start of its memory, an exit code of its own.
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

extern char** environ;

int main(int argc, char** argv) {
  for (int i = 0; i < argc; ++i) printf("argument %d: %s\n", i, i == 0 ? "(name)" : argv[i]);
  const char* variable = getenv("EXCLAVE_TEST_VARIABLE");
  printf("variable: %s\n", variable != NULL ? variable : "(none)");
  int variables = 0;
  while (environ[variables] != NULL) ++variables;
  printf("variables: %d\n", variables);
  printf("page: %lu\n", getauxval(AT_PAGESZ));
  printf("headers: %d\n", ((const Elf64_Phdr*)getauxval(AT_PHDR))[0].p_type != 0);
  printf("header count: %lu\n", getauxval(AT_PHNUM));
  printf("file: %s\n", strrchr((const char*)getauxval(AT_EXECFN), '/'));
  printf("platform: %s\n", (const char*)getauxval(AT_PLATFORM));
  printf("secure: %lu\n", getauxval(AT_SECURE));
  printf("random: %d\n", getauxval(AT_RANDOM) != 0);
  printf("vdso: %d\n", getauxval(AT_SYSINFO_EHDR) != 0);
  char* const big = malloc(50 << 20);
  memset(big, 7, 50 << 20);
  printf("memory: %d\n", big[49 << 20]);
  free(big);
  return 42;
}
