// The accesses themselves: one function for each kind of access to untrusted memory, one asm
// statement in each.
//
// Invariants (tests/access/machine_code_test.cpp reads them back from the machine code):
//
// A store is 8 or 16 bytes wide at an 8-aligned address, or stands alone between VERW and MFENCE
// with LFENCE. INTEL-SA-00615: a partial write can carry stale data along, to what the host may
// have made a device register.
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

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#error "exclave: the boundary is written for x86-64"
#endif

namespace exclave::access {

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

  // To trusted memory at any alignment.
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
