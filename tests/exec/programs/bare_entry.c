// What a program's registers hold when it starts. No libc: it begins where the kernel begins it.
#include <stdint.h>

uint64_t registers[17];
uint64_t vectors[32];

__asm__(
    ".globl _start\n"
    "_start:\n\t"
    "movq %rax, registers(%rip)\n\t"
    "pushfq\n\t"
    "popq %rax\n\t"
    "movq %rax, registers+128(%rip)\n\t"
    "movq %rbx, registers+8(%rip)\n\t"
    "movq %rcx, registers+16(%rip)\n\t"
    "movq %rdx, registers+24(%rip)\n\t"
    "movq %rsi, registers+32(%rip)\n\t"
    "movq %rdi, registers+40(%rip)\n\t"
    "movq %rbp, registers+48(%rip)\n\t"
    "movq %r8, registers+56(%rip)\n\t"
    "movq %r9, registers+64(%rip)\n\t"
    "movq %r10, registers+72(%rip)\n\t"
    "movq %r11, registers+80(%rip)\n\t"
    "movq %r12, registers+88(%rip)\n\t"
    "movq %r13, registers+96(%rip)\n\t"
    "movq %r14, registers+104(%rip)\n\t"
    "movq %r15, registers+112(%rip)\n\t"
    "movq %rsp, %rax\n\t"
    "andq $15, %rax\n\t"
    "movq %rax, registers+120(%rip)\n\t"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n\t"
    "movups %xmm\\n, vectors+16*\\n(%rip)\n\t"
    ".endr\n\t"
    "andq $-16, %rsp\n\t"
    "callq tell\n\t"
    "hlt\n");

static long call(long number, long a, long b, long c) {
  long result = number;
  __asm__ volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}

static void tell_word(uint64_t word) {
  char text[17];
  for (int i = 0; i < 16; ++i) text[i] = "0123456789abcdef"[word >> (60 - 4 * i) & 15];
  text[16] = '\n';
  call(1, 1, (long)text, sizeof text);
}

void tell(void) {
  uint32_t control;
  uint16_t x87;
  __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(control), "=m"(x87));
  for (int i = 0; i < 17; ++i) tell_word(registers[i]);
  uint64_t any = 0;
  for (int i = 0; i < 32; ++i) any |= vectors[i];
  tell_word(any);
  tell_word(control);
  tell_word(x87);
  call(231, 0, 0, 0);
}
