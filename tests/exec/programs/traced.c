// Asks to be traced, or to trace, each way that there is.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static void told(const char* what, long result) {
  printf("%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "done");
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  const pid_t child = fork();
  if (child == 0) {
    told("to be traced", ptrace(PTRACE_TRACEME, 0, NULL, NULL));
    for (;;) pause();
  }
  // Until it has said so.
  while (kill(child, 0) == 0) {
    char name[64], state = 0;
    snprintf(name, sizeof name, "/proc/%d/stat", child);
    FILE* const file = fopen(name, "r");
    if (file == NULL || fscanf(file, "%*d %*s %c", &state) != 1) return 1;
    fclose(file);
    if (state == 'S') break;
    usleep(1000);
  }
  const pid_t other = fork();
  if (other == 0) {
    for (;;) pause();
  }
  told("to seize", ptrace(PTRACE_SEIZE, other, NULL, NULL));
  told("to attach", ptrace(PTRACE_ATTACH, other, NULL, NULL));
  told("nobody", ptrace(PTRACE_ATTACH, 0x7ffffff0, NULL, NULL));
  told("one that is not traced", ptrace(PTRACE_CONT, other, NULL, NULL));
  told("no request", ptrace(0x9999, other, NULL, NULL));
  kill(child, SIGKILL);
  kill(other, SIGKILL);
  return 0;
}
