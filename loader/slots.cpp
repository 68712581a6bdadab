#include "loader/slots.hpp"

#include <atomic>

#include "loader/layout.hpp"
#include "loader/linux_abi.hpp"
#include "loader/syscalls.hpp"

namespace exclave::loader {
namespace {

// Of each slot: free, taken, or the number of the thread that left it. Taking acquires what giving
// back and leaving released: what the core left in the heap of that thread slot.
using Holder = std::uint32_t;
constexpr Holder kFree = 0, kTaken = 0xffffffff;
std::atomic<Holder> g_holders[kSlots];

constexpr std::uint32_t kApart = 8;  // the core keeps a word for each; eight share a cache line

SlotIndex slot_of_stack() noexcept {
  const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  return static_cast<SlotIndex>((here - kStacksBase) / kSlotStackBytes);
}

Holder this_thread() noexcept {
  return static_cast<Holder>(system_call(__NR_gettid));
}

// Not by its process, which is another for a vfork child.
bool is_elsewhere(Holder thread) noexcept {
  return thread == this_thread() || system_call(__NR_tkill, thread, 0) == -ESRCH;
}

}  // namespace

// MAP_GROWSDOWN makes it a stack to the kernel, which a limit of data does not count.
bool open_slots() noexcept {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_GROWSDOWN;
  return system_call(__NR_mmap, kStacksBase, kStacksBytes, PROT_READ | PROT_WRITE,
                     kFlags | MAP_FIXED_NOREPLACE, -1, 0) == static_cast<long>(kStacksBase);
}

SlotIndex take_slot(std::uintptr_t hint) noexcept {
  const auto first = static_cast<std::uint32_t>(((hint >> 16) * 0x9e3779b97f4a7c15u) >> 54);
  for (;;) {
    for (std::uint32_t i = 0; i < kSlots; ++i) {
      const SlotIndex slot = (first + i) % kSlots;
      Holder seen = g_holders[slot].load(std::memory_order_relaxed);
      if (seen != kFree && (seen == kTaken || !is_elsewhere(seen))) continue;
      if (g_holders[slot].compare_exchange_strong(seen, kTaken, std::memory_order_acquire,
                                                  std::memory_order_relaxed)) {
        return slot;
      }
    }
    (void)system_call(__NR_sched_yield);
  }
}

void give_slot_back(SlotIndex slot) noexcept {
  g_holders[slot].store(kFree, std::memory_order_release);
}

void leave_slot(SlotIndex slot) noexcept {
  const Holder me = this_thread();
  // So that nobody who lives keeps more than one.
  for (std::atomic<Holder>& holder : g_holders) {
    if (holder.load(std::memory_order_relaxed) != me) continue;
    Holder expected = me;
    (void)holder.compare_exchange_strong(expected, kFree, std::memory_order_release,
                                         std::memory_order_relaxed);
  }
  g_holders[slot].store(me, std::memory_order_release);
}

void forget_other_slots() noexcept {
  const SlotIndex own = slot_of_stack();
  for (SlotIndex slot = 0; slot < kSlots; ++slot) {
    g_holders[slot].store(slot == own ? kTaken : kFree, std::memory_order_relaxed);
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
