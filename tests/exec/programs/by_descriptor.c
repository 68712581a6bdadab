// Programs and scripts that are named by a descriptor, and what is none. argv: a script, its
// folder.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void try(const char* what, int folder, const char* path, int flags) {
  const pid_t child = fork();
  if (child == 0) {
    char* const arguments[] = {"program", "an argument", NULL};
    char* const environment[] = {NULL};
    syscall(SYS_execveat, folder, path, arguments, environment, flags);
    printf("%s\n", strerrorname_np(errno));
    _exit(99);
  }
  int status;
  waitpid(child, &status, 0);
  printf("%s: %x\n", what, status);
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IONBF, 0);
  if (argc < 3) return 1;
  const char* const name = strrchr(argv[1], '/') + 1;
  for (int flags = 0; flags <= O_CLOEXEC; flags += O_CLOEXEC) {
    const int script = open(argv[1], O_RDONLY | flags);
    const int path_only = open(argv[1], O_PATH | flags);
    const int folder = open(argv[2], O_RDONLY | O_DIRECTORY | flags);
    const int echo = open("/bin/echo", O_RDONLY | flags);
    try("a script", script, "", AT_EMPTY_PATH);
    try("a script, open for its path", path_only, "", AT_EMPTY_PATH);
    try("a script in a folder", folder, name, 0);
    try("the same, no link", folder, name, AT_SYMLINK_NOFOLLOW);
    try("a script's own path", folder, argv[1], 0);
    try("its own path, no link", folder, argv[1], AT_SYMLINK_NOFOLLOW);
    try("a link", folder, "link", 0);
    try("a link, but no link", folder, "link", AT_SYMLINK_NOFOLLOW);
    try("a program", echo, "", AT_EMPTY_PATH);
    try("nothing in a folder", folder, "nothing", 0);
    try("without a path", script, "", 0);
    close(script), close(path_only), close(folder), close(echo);
  }
  try("here", AT_FDCWD, name, 0);
  try("here, no link", AT_FDCWD, name, AT_SYMLINK_NOFOLLOW);
  try("the working folder", AT_FDCWD, "", AT_EMPTY_PATH);
  try("no descriptor", 999, "", AT_EMPTY_PATH);
  try("in no folder", 999, name, 0);
  try("flags that nobody knows", AT_FDCWD, name, 0x40000000);
  // All of them are closed before the program needs one.
  const struct rlimit few = {16, 16};
  setrlimit(RLIMIT_NOFILE, &few);
  while (fcntl(1, F_DUPFD_CLOEXEC, 3) >= 0) continue;
  try("no descriptor is left", AT_FDCWD, "/bin/echo", 0);
  try("no descriptor is left for a script", AT_FDCWD, name, 0);
  close(15);
  try("one is left", AT_FDCWD, "/bin/echo", 0);
  return 0;
}
