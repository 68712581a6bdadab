// Memory that is shared between processes stays shared.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

static void told(const char* what, char* memory) {
  if (memory == MAP_FAILED) {
    printf("%s: refused\n", what);
    return;
  }
  strcpy(memory, "parent");
  if (fork() == 0) {
    strcpy(memory, strcmp(memory, "parent") == 0 ? "child" : "lost");
    _exit(0);
  }
  wait(NULL);
  printf("%s: %s\n", what, memory);
}
static char* map(int flags, int file) {
  return mmap(NULL, 8192, PROT_READ | PROT_WRITE, flags, file, 0);
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  told("private", map(MAP_PRIVATE | MAP_ANONYMOUS, -1));
  told("anonymous", map(MAP_SHARED | MAP_ANONYMOUS, -1));
  const int memory_file = memfd_create("exclave-test", 0);
  if (ftruncate(memory_file, 8192) != 0) return 1;
  char* const first = map(MAP_SHARED, memory_file);
  told("memfd", first);
  char* const second = map(MAP_SHARED, memory_file);
  printf("the same at another place: %s\n", second);
  printf("unmap: %d %d\n", munmap(first, 4096), munmap(first, 8192));
  printf("the other lives: %s\n", second);
  printf("protect: %d\n", mprotect(second, 4096, PROT_READ));
  printf("sync: %d\n", msync(second, 8192, MS_SYNC));
  unsigned char pages[2];
  printf("core: %d\n", mincore(second, 8192, pages));
  printf("advise: %d\n", madvise(second, 8192, MADV_WILLNEED));
  told("/dev/zero", map(MAP_SHARED, open("/dev/zero", O_RDWR)));
  char name[64];  // nobody else's
  snprintf(name, sizeof name, "/exclave-test-shared-%d", (int)getpid());
  const int shm = shm_open(name, O_RDWR | O_CREAT, 0600);
  shm_unlink(name);
  if (ftruncate(shm, 8192) != 0) return 1;
  told("shm_open", map(MAP_SHARED, shm));
  const int id = shmget(IPC_PRIVATE, 8192, IPC_CREAT | 0600);
  char* const segment = shmat(id, NULL, 0);
  told("shmat", segment);
  shmctl(id, IPC_RMID, NULL);
  printf("shmdt: %d\n", shmdt(segment));
  printf("shmdt again: %d\n", shmdt(segment));
  char* const grown = mremap(second, 8192, 4096, 0);
  printf("shrunk: %d\n", grown == second);

  // A mapping grows with its file, where it stands or elsewhere.
  if (ftruncate(memory_file, 16384) != 0) return 1;
  char* const wide = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, memory_file, 0);
  munmap(wide + 4096, 12288);
  printf("grown in place: %d\n", mremap(wide, 4096, 16384, 0) == wide);
  strcpy(wide + 12288, "the end");
  char* const wall = mmap(NULL, 8192, PROT_READ, MAP_SHARED, memory_file, 0);
  printf("moved: %d\n", mremap(wide, 8192, 8192, MREMAP_MAYMOVE | MREMAP_FIXED, wall) == wall);
  char* const far = mremap(wall, 8192, 16384, MREMAP_MAYMOVE);
  printf("grown elsewhere: %s, %s\n", far, far + 12288);
  printf("over another: %d\n",
         mmap(far, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_file, 8192) == far);
  printf("file: %s\n", far + 4096);
  printf("beyond the file: %d\n", mremap(far, 8192, 65536, MREMAP_MAYMOVE) != MAP_FAILED);
  return 0;
}
