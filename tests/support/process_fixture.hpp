// An allocator and memory calls on the real process port.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "exclave/allocator.hpp"
#include "exclave/memory_calls.hpp"
#include "exclave/process_port.hpp"

namespace exclave::testing_support {

class OwnedDescriptor {
 public:
  explicit OwnedDescriptor(int number) : number_(number) {}
  ~OwnedDescriptor() {
    if (number_ >= 0) close(number_);
  }
  OwnedDescriptor(const OwnedDescriptor&) = delete;
  OwnedDescriptor& operator=(const OwnedDescriptor&) = delete;
  int get() const { return number_; }

 private:
  int number_;
};

// A memfd of so many bytes; the test stops when there is none.
inline int memfd_of(std::size_t bytes) {
  const int descriptor = memfd_create("exclave-test", MFD_CLOEXEC);
  if (descriptor < 0 || ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) std::abort();
  return descriptor;
}

// Does anything stand at the page, whatever its protection?
inline bool is_page_mapped(std::uintptr_t page) {
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(page), kPageBytes, &resident) == 0;
}

// Can the page be read, or written? Asked of the kernel, so nothing dies and nothing changes.
class Prober {
 public:
  Prober() {
    if (pipe(ends_) != 0) std::abort();
  }
  ~Prober() {
    close(ends_[0]);
    close(ends_[1]);
  }
  Prober(const Prober&) = delete;
  Prober& operator=(const Prober&) = delete;

  bool can_read(std::uintptr_t address) {
    if (write(ends_[1], reinterpret_cast<void*>(address), 1) != 1) return false;
    return read(ends_[0], &byte_, 1) == 1;
  }
  // Writes back what it finds there; needs it readable, so a page that is only writable gets a
  // zero.
  bool can_write(std::uintptr_t address) {
    byte_ = 0;
    (void)can_read(address);
    if (write(ends_[1], &byte_, 1) != 1) return false;
    const bool written = read(ends_[0], reinterpret_cast<void*>(address), 1) == 1;
    if (!written) (void)!read(ends_[0], &byte_, 1);
    return written;
  }

 private:
  int ends_[2];
  char byte_ = 0;
};

class ProcessFixture : public testing::Test {
 protected:
  void SetUp() override {
    ProcessPort::Options options;
    options.book_bytes = std::size_t{1} << 30;
    options.enclave_bytes = std::size_t{256} << 20;
    options.shared = shared_;
    const auto port = ProcessPort::create(options);
    ASSERT_TRUE(port.ok()) << error_text(port.error());
    port_ = *port;
    auto made = Allocator::create(port_->table(), config_);
    ASSERT_TRUE(made.ok()) << error_text(made.error());
    allocator_.emplace(std::move(made.value()));
    inside_ = std::make_unique<ProcessEnclaveMemory>(port_->enclave_heap());
    calls_.emplace(*allocator_, bind_enclave_memory(*inside_));
  }

  void TearDown() override {
    if (allocator_) {
      EXPECT_TRUE(allocator_->validate_books());
    }
    calls_.reset();
    inside_.reset();
    allocator_.reset();
    ProcessPort::destroy(port_);
  }

  bool shared_ = false;
  Config config_;
  ProcessPort* port_ = nullptr;
  std::unique_ptr<ProcessEnclaveMemory> inside_;
  std::optional<Allocator> allocator_;
  std::optional<MemoryCalls> calls_;
};

}  // namespace exclave::testing_support
