// EXCLAVE_MUTANT names the mutant; EXCLAVE_MUTANTS_MET a file with a byte for each, set for those
// whose place was run. Forked and executed children write into the same file. The core is linked into
// a program without a C library, too (the loader of `exclave exec`): there nobody calls this, and the
// C library's functions may be missing.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#pragma weak __errno_location
#pragma weak abort
#pragma weak atoi
#pragma weak close
#pragma weak fstat
#pragma weak getenv
#pragma weak mmap
#pragma weak open
#pragma weak strtol

extern "C" {
int exclave_mutant = -1;
unsigned char* exclave_mutants_met = nullptr;
}

__attribute__((constructor(101))) static void read_environment() {
  if (const char* const number = getenv("EXCLAVE_MUTANT")) exclave_mutant = atoi(number);
  const char* const path = getenv("EXCLAVE_MUTANTS_MET");
  if (path == nullptr) return;
  const int file = open(path, O_RDWR | O_CLOEXEC);
  if (file < 0 && errno == EACCES) return;  // a test that gave its rights away
  struct stat about;
  if (file < 0 || fstat(file, &about) != 0) abort();
  void* const bytes = mmap(nullptr, static_cast<size_t>(about.st_size), PROT_READ | PROT_WRITE,
                           MAP_SHARED, file, 0);
  if (bytes == MAP_FAILED) abort();
  exclave_mutants_met = static_cast<unsigned char*>(bytes);
  close(file);
}
