// copy_out and copy_in beside memcpy: by size, alignment of the untrusted side and of the trusted
// side. Both sides are warm, as the data of an enclave that has just made it.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "exclave/access.hpp"
#include "exclave/allocator.hpp"
#include "exclave/process_port.hpp"
#include "policies.hpp"
#include "sequences.hpp"

namespace bench {
namespace {

// 13 and 100 are no whole words, the others are.
constexpr std::size_t kSizes[] = {8, 13, 64, 96, 100, 128, 192, 256, 512, 1024, 2048, 4096, 65536};

enum class How { kMemcpyOut, kMemcpyIn, kCopyOut, kCopyOutPadded, kCopyIn };

template <How kHow>
void copy(benchmark::State& state, std::size_t size, std::size_t untrusted_align,
          std::size_t trusted_align) {
  using exclave::untrusted_bytes;
  static const Array<std::byte> trusted_room(2 * 65536), untrusted_room(2 * 65536);
  // Half a page apart, modulo pages: the processor takes a load for the copy's own store otherwise.
  std::byte* const trusted = trusted_room.data() + 2048 + trusted_align;
  std::byte* const raw = untrusted_room.data() + untrusted_align;
  const auto untrusted = exclave::untrusted_span<std::byte>::unsafe_from(
      untrusted_bytes::unsafe_from_address(reinterpret_cast<std::uintptr_t>(raw)), size);
  for ([[maybe_unused]] auto _ : state) {
    if constexpr (kHow == How::kMemcpyOut) {
      std::memcpy(raw, trusted, size);
    } else if constexpr (kHow == How::kMemcpyIn) {
      std::memcpy(trusted, raw, size);
    } else if constexpr (kHow == How::kCopyOut) {
      if (!exclave::copy_out(untrusted, std::span<const std::byte>(trusted, size)).ok()) {
        std::abort();
      }
    } else if constexpr (kHow == How::kCopyOutPadded) {
      if (!exclave::copy_out_padded(untrusted, std::span<const std::byte>(trusted, size)).ok()) {
        std::abort();
      }
    } else {
      if (!exclave::copy_in(std::span<std::byte>(trusted, size),
                            exclave::untrusted_span<const std::byte>(untrusted))
               .ok()) {
        std::abort();
      }
    }
    benchmark::ClobberMemory();
  }
  state.counters["bytes"] = static_cast<double>(size);
  state.counters["untrusted_align"] = static_cast<double>(untrusted_align);
  state.counters["trusted_align"] = static_cast<double>(trusted_align);
}

// copy/HOW/BYTES/UNTRUSTED/TRUSTED
template <How kHow>
void add(const char* how, std::size_t size, std::size_t untrusted_align,
         std::size_t trusted_align) {
  const std::string name = std::string("copy/") + how + "/" + std::to_string(size) + "/" +
                           std::to_string(untrusted_align) + "/" + std::to_string(trusted_align);
  benchmark::RegisterBenchmark(name.c_str(),
                               [size, untrusted_align, trusted_align](benchmark::State& state) {
                                 copy<kHow>(state, size, untrusted_align, trusted_align);
                               });
}

[[maybe_unused]] const bool added = [] {
  // The port says which registers the copies may use.
  if (const auto port = exclave::ProcessPort::create(); port.ok()) {
    { const auto allocator = exclave::Allocator::create((*port)->table()); }
    exclave::ProcessPort::destroy(*port);
  }
  for (const std::size_t size : kSizes) {
    for (std::size_t untrusted_align = 0; untrusted_align < 8; ++untrusted_align) {
      for (std::size_t trusted_align = 0; trusted_align < 8; ++trusted_align) {
        add<How::kMemcpyOut>("memcpy-out", size, untrusted_align, trusted_align);
        add<How::kCopyOut>("out", size, untrusted_align, trusted_align);
        if (trusted_align == 0 || trusted_align == 3) {
          add<How::kMemcpyIn>("memcpy-in", size, untrusted_align, trusted_align);
          add<How::kCopyIn>("in", size, untrusted_align, trusted_align);
        }
        if (untrusted_align == 0) add<How::kCopyOutPadded>("out-padded", size, 0, trusted_align);
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace bench
