// The accesses themselves: one function for each kind of access to untrusted memory, one asm
// statement in each.
//
// Invariants (tests/access/machine_code_test.cpp reads them back from the machine code):
//
// A store is 8, 16 or 32 bytes wide at an 8-aligned address, or stands alone between VERW and
// MFENCE with LFENCE. INTEL-SA-00615: a partial write can carry stale data along, to what the host
// may have made a device register. Where a wide store crosses a line it falls into two, each of
// whole aligned words (docs/adr/0008).
//
// A load is 8 bytes wide at an 8-aligned address. INTEL-SA-00657: others can return stale data of
// someone else. rep movsq counts as 8 wide: on uncached memory, where the rule matters, it is.
//
// A string instruction is preceded by CLD (CVE-2019-14565).
//
// The compiler can neither merge, split, repeat nor drop an access: it does not look into the asm.
//
// Only copy.cpp and copy_algorithms.hpp call these, with addresses that are aligned already.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#error "exclave: the boundary is written for x86-64"
#endif

namespace exclave::access {

// May 32-byte registers be used? Set once or never, and only ever to true.
extern std::atomic<bool> wide_registers;

struct MachineBus {
  // VERW overwrites the buffers that a partial write could expose. Its operand is any selector; %ss
  // always holds a valid writable one, with which VERW is faster than with the null selector that
  // Linux keeps in %ds.
  [[gnu::always_inline]] static void store_byte_fenced(std::uintptr_t dst,
                                                       std::uint8_t value) noexcept {
    std::uint16_t selector;
    asm volatile("movw %%ss, %0\n\tverw %0\n\tmovb %1, (%2)\n\tmfence\n\tlfence"
                 : "=&m"(selector)
                 : "q"(value), "r"(dst)
                 : "memory", "cc");
  }

  // One store, so that a reader sees the old value or the new one.
  [[gnu::always_inline]] static void store_u32_fenced(std::uintptr_t dst,
                                                      std::uint32_t value) noexcept {
    std::uint16_t selector;
    asm volatile("movw %%ss, %0\n\tverw %0\n\tmovl %1, (%2)\n\tmfence\n\tlfence"
                 : "=&m"(selector)
                 : "r"(value), "r"(dst)
                 : "memory", "cc");
  }

  [[gnu::always_inline]] static void store_word(std::uintptr_t dst, std::uint64_t value) noexcept {
    asm volatile("movq %0, (%1)" : : "r"(value), "r"(dst) : "memory");
  }

  // Before the wide ones. Relaxed: either answer is right at any moment.
  [[gnu::always_inline]] static bool has_wide() noexcept {
    return wide_registers.load(std::memory_order_relaxed);
  }

  // 16 bytes from trusted memory at any alignment.
  [[gnu::always_inline]] static void store_pair(std::uintptr_t dst,
                                                const std::uint8_t* src) noexcept {
    asm volatile("movups (%0), %%xmm0\n\tmovups %%xmm0, (%1)"
                 :
                 : "r"(src), "r"(dst)
                 : "memory", "xmm0");
  }

  // 64 bytes.
  [[gnu::always_inline]] static void store_line(std::uintptr_t dst,
                                                const std::uint8_t* src) noexcept {
    asm volatile(
        "movups (%0), %%xmm0\n\tmovups 16(%0), %%xmm1\n\tmovups 32(%0), %%xmm2\n\tmovups 48(%0), "
        "%%xmm3\n\t"
        "movups %%xmm0, (%1)\n\tmovups %%xmm1, 16(%1)\n\tmovups %%xmm2, 32(%1)\n\tmovups %%xmm3, "
        "48(%1)"
        :
        : "r"(src), "r"(dst)
        : "memory", "xmm0", "xmm1", "xmm2", "xmm3");
  }

  // 32 bytes. After the last wide store comes end_wide.
  [[gnu::always_inline]] static void store_wide(std::uintptr_t dst,
                                                const std::uint8_t* src) noexcept {
    asm volatile("vmovups (%0), %%ymm0\n\tvmovups %%ymm0, (%1)"
                 :
                 : "r"(src), "r"(dst)
                 : "memory", "xmm0");
  }

  // 64 bytes.
  [[gnu::always_inline]] static void store_wide_line(std::uintptr_t dst,
                                                     const std::uint8_t* src) noexcept {
    asm volatile(
        "vmovups (%0), %%ymm0\n\tvmovups 32(%0), %%ymm1\n\t"
        "vmovups %%ymm0, (%1)\n\tvmovups %%ymm1, 32(%1)"
        :
        : "r"(src), "r"(dst)
        : "memory", "xmm0", "xmm1");
  }

  // Upper halves that hold something would slow down all later 16-byte instructions.
  [[gnu::always_inline]] static void end_wide() noexcept {
    asm volatile("vzeroupper"
                 :
                 :
                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  }

  [[gnu::always_inline]] static void store_words(std::uintptr_t dst, const std::uint8_t* src,
                                                 std::size_t words) noexcept {
    move_words(dst, reinterpret_cast<std::uintptr_t>(src), words);
  }

  [[gnu::always_inline]] static void zero_pair(std::uintptr_t dst) noexcept {
    asm volatile("xorps %%xmm0, %%xmm0\n\tmovups %%xmm0, (%0)" : : "r"(dst) : "memory", "xmm0");
  }

  // 64 bytes.
  [[gnu::always_inline]] static void zero_line(std::uintptr_t dst) noexcept {
    asm volatile(
        "xorps %%xmm0, %%xmm0\n\t"
        "movups %%xmm0, (%0)\n\tmovups %%xmm0, 16(%0)\n\tmovups %%xmm0, 32(%0)\n\tmovups %%xmm0, "
        "48(%0)"
        :
        : "r"(dst)
        : "memory", "xmm0");
  }

  [[gnu::always_inline]] static void zero_words(std::uintptr_t dst, std::size_t words) noexcept {
    asm volatile("cld\n\trep stosq"
                 : "+D"(dst), "+c"(words)
                 : "a"(std::uint64_t{0})
                 : "memory", "cc");
  }

  [[gnu::always_inline]] static std::uint64_t load_word(std::uintptr_t src) noexcept {
    std::uint64_t value;
    asm volatile("movq (%1), %0" : "=r"(value) : "r"(src) : "memory");
    return value;
  }

  // 16 bytes as two words, to trusted memory at any alignment.
  [[gnu::always_inline]] static void load_pair(std::uint8_t* dst, std::uintptr_t src) noexcept {
    asm volatile("movq (%0), %%xmm0\n\tmovhps 8(%0), %%xmm0\n\tmovups %%xmm0, (%1)"
                 :
                 : "r"(src), "r"(dst)
                 : "memory", "xmm0");
  }

  // 64 bytes as eight words.
  [[gnu::always_inline]] static void load_line(std::uint8_t* dst, std::uintptr_t src) noexcept {
    asm volatile(
        "movq (%0), %%xmm0\n\tmovhps 8(%0), %%xmm0\n\t"
        "movq 16(%0), %%xmm1\n\tmovhps 24(%0), %%xmm1\n\t"
        "movq 32(%0), %%xmm2\n\tmovhps 40(%0), %%xmm2\n\t"
        "movq 48(%0), %%xmm3\n\tmovhps 56(%0), %%xmm3\n\t"
        "movups %%xmm0, (%1)\n\tmovups %%xmm1, 16(%1)\n\t"
        "movups %%xmm2, 32(%1)\n\tmovups %%xmm3, 48(%1)"
        :
        : "r"(src), "r"(dst)
        : "memory", "xmm0", "xmm1", "xmm2", "xmm3");
  }

  [[gnu::always_inline]] static void load_words(std::uint8_t* dst, std::uintptr_t src,
                                                std::size_t words) noexcept {
    move_words(reinterpret_cast<std::uintptr_t>(dst), src, words);
  }

  // Each side that is untrusted is 8-aligned.
  [[gnu::always_inline]] static void move_words(std::uintptr_t dst, std::uintptr_t src,
                                                std::size_t words) noexcept {
    asm volatile("cld\n\trep movsq" : "+D"(dst), "+S"(src), "+c"(words) : : "memory", "cc");
  }
};

}  // namespace exclave::access
