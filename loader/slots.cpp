#include "loader/slots.hpp"

#include <atomic>

#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/syscalls.hpp"

namespace exclave::loader {
namespace {

// Taking acquires what giving back released: what the core left in the heap of that thread slot.
std::atomic<bool> g_taken[kSlots];

constexpr std::uint32_t kApart = 8;  // the core keeps a word for each; eight share a cache line

SlotIndex slot_of_stack() noexcept {
  const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  return static_cast<SlotIndex>((here - kStacksBase) / kSlotStackBytes);
}

}  // namespace

bool open_slots() noexcept {
  return system_call(__NR_mmap, kStacksBase, kStacksBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
                     0) == static_cast<long>(kStacksBase);
}

SlotIndex take_slot(std::uintptr_t hint) noexcept {
  const auto first = static_cast<std::uint32_t>(((hint >> 16) * 0x9e3779b97f4a7c15u) >> 54);
  for (;;) {
    for (std::uint32_t i = 0; i < kSlots; ++i) {
      const SlotIndex slot = (first + i) % kSlots;
      if (!g_taken[slot].load(std::memory_order_relaxed) &&
          !g_taken[slot].exchange(true, std::memory_order_acquire)) {
        return slot;
      }
    }
    (void)system_call(__NR_sched_yield);
  }
}

void give_slot_back(SlotIndex slot) noexcept {
  g_taken[slot].store(false, std::memory_order_release);
}

void* slot_flag(SlotIndex slot) noexcept {
  static_assert(sizeof g_taken[0] == 1);
  return &g_taken[slot];
}

void forget_other_slots() noexcept {
  const SlotIndex own = slot_of_stack();
  for (SlotIndex slot = 0; slot < kSlots; ++slot) {
    g_taken[slot].store(slot == own, std::memory_order_relaxed);
  }
}

void run_in_slot(SlotIndex slot, void (*function)(void*), void* argument) noexcept {
  const std::uintptr_t top = kStacksBase + (slot + std::uintptr_t{1}) * kSlotStackBytes;
  __asm__ volatile(
      "movq %%rsp, %%rbx\n\t"
      "movq %[top], %%rsp\n\t"
      "callq *%[function]\n\t"
      "movq %%rbx, %%rsp\n\t"
      : "+D"(argument)
      : [top] "r"(top), [function] "a"(function)
      : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc", "xmm0", "xmm1",
        "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15");
}

}  // namespace exclave::loader

// The thread-slot half of the Port contract (freestanding/thread_slot.hpp).
extern "C" unsigned exclave_port_thread_slot(void) noexcept {
  using namespace exclave::loader;  // NOLINT(google-build-using-namespace): a bridge of one line
  const SlotIndex slot = slot_of_stack();
  if (slot >= kSlots) return 0xffffffff;
  constexpr std::uint32_t kGroup = kSlots / kApart;
  return slot % kGroup * kApart + slot / kGroup;
}
