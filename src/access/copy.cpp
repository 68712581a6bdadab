#include "access/copy.hpp"

#include "access/copy_algorithms.hpp"
#include "access/machine_bus.hpp"

namespace exclave::access {
constinit std::atomic<bool> wide_registers{false};
}

namespace exclave::detail {

using access::MachineBus;

void use_wide_registers() noexcept {
  access::wide_registers.store(true, std::memory_order_relaxed);
}

void copy_out_bytes(std::uintptr_t dst, const void* src, std::size_t size_bytes) noexcept {
  access::copy_out<MachineBus>(dst, static_cast<const std::uint8_t*>(src), size_bytes);
}

void copy_out_padded_bytes(std::uintptr_t dst, const void* src, std::size_t size_bytes) noexcept {
  access::copy_out_padded<MachineBus>(dst, static_cast<const std::uint8_t*>(src), size_bytes);
}

void copy_in_bytes(void* dst, std::uintptr_t src, std::size_t size_bytes) noexcept {
  access::copy_in<MachineBus>(static_cast<std::uint8_t*>(dst), src, size_bytes);
}

void fill_zero_bytes(std::uintptr_t dst, std::size_t size_bytes) noexcept {
  access::fill_zero<MachineBus>(dst, size_bytes);
}

void copy_across_bytes(std::uintptr_t dst, std::uintptr_t src, std::size_t size_bytes) noexcept {
  access::copy_across<MachineBus>(dst, src, size_bytes);
}

// x86 keeps loads in order and stores in order, so acquire and release need no fence.

std::uint64_t load_u64(std::uintptr_t src) noexcept {
  return MachineBus::load_word(src);
}

std::uint32_t load_u32(std::uintptr_t src) noexcept {
  const std::uintptr_t word = src & ~std::uintptr_t{7};
  return static_cast<std::uint32_t>(MachineBus::load_word(word) >> (8 * (src - word)));
}

void store_u64(std::uintptr_t dst, std::uint64_t value) noexcept {
  MachineBus::store_word(dst, value);
}

void store_u32(std::uintptr_t dst, std::uint32_t value) noexcept {
  MachineBus::store_u32_fenced(dst, value);
}

}  // namespace exclave::detail
