// A process port for a test, and the memory that it gives.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "exclave/process_port.hpp"

namespace exclave {

inline constexpr std::size_t kMiB = std::size_t{1} << 20;

struct Destroy {
  void operator()(ProcessPort* port) const noexcept { ProcessPort::destroy(port); }
};
using PortHolder = std::unique_ptr<ProcessPort, Destroy>;

inline PortHolder make_port(ProcessPort::Options options = {}) {
  auto made = ProcessPort::create(options);
  EXPECT_TRUE(made.ok());
  return PortHolder(made.ok() ? made.value() : nullptr);
}

inline unsigned char* bytes_at(std::uintptr_t address) {
  return reinterpret_cast<unsigned char*>(address);
}

}  // namespace exclave
