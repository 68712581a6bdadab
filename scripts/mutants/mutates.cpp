// EXCLAVE_MUTANT names the mutant; EXCLAVE_MUTANTS_MET a file with a byte for each, set for those
// whose place was run. Forked and executed children write into the same file.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// The core is linked into a program without a C library, too (the loader of `exclave exec`). There
// nobody calls this, and these are missing; through pointers, because a call would not reach that
// far.
#pragma weak close
#pragma weak fstat
#pragma weak mmap
#pragma weak open

extern "C" {
int exclave_mutant = -1;
unsigned char* exclave_mutants_met = nullptr;
}

static decltype(&close) volatile close_it = close;
static decltype(&fstat) volatile look_at = fstat;
static decltype(&mmap) volatile map = mmap;
static decltype(&open) volatile open_it = open;

// Null: there is no such variable. Not getenv: libexclave_malloc.so starts before the C library
// does.
static const char* variable(char** environment, const char* name) {
  for (char** entry = environment; *entry != nullptr; ++entry) {
    const char* at = *entry;
    for (const char* wanted = name; *wanted != '\0' && *at == *wanted; ++wanted) ++at;
    if (at[0] == '=' && name[at - *entry] == '\0') return at + 1;
  }
  return nullptr;
}

__attribute__((constructor(101))) static void read_environment(int, char**, char** environment) {
  if (const char* digit = variable(environment, "EXCLAVE_MUTANT")) {
    for (exclave_mutant = 0; *digit != '\0'; ++digit) {
      exclave_mutant = 10 * exclave_mutant + (*digit - '0');
    }
  }
  const char* const path = variable(environment, "EXCLAVE_MUTANTS_MET");
  if (path == nullptr) return;
  const int file = open_it(path, O_RDWR | O_CLOEXEC);
  if (file < 0) return;  // a test that gave its rights away
  struct stat about;
  if (look_at(file, &about) != 0) __builtin_trap();
  void* const bytes =
      map(nullptr, static_cast<size_t>(about.st_size), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (bytes == MAP_FAILED) __builtin_trap();
  exclave_mutants_met = static_cast<unsigned char*>(bytes);
  close_it(file);
}
