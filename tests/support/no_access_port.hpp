// The process port, with every untrusted page PROT_NONE: to touch one is to die.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>

#include "exclave/process_port.hpp"

namespace exclave::testing_support {

class NoAccessPort {
 public:
  NoAccessPort() {
    const Result<ProcessPort*> made = ProcessPort::create();
    if (!made.ok()) std::abort();
    port_ = *made;
  }
  ~NoAccessPort() { ProcessPort::destroy(port_); }
  NoAccessPort(const NoAccessPort&) = delete;
  NoAccessPort& operator=(const NoAccessPort&) = delete;

  PortTable table() noexcept { return bind_port(*this); }
  std::size_t reserved_bytes() const { return reserved_bytes_; }

  Extent enclave() noexcept { return port_->enclave(); }
  Extent book_window() noexcept { return port_->book_window(); }
  void* trusted_reserve(std::size_t bytes) noexcept { return port_->trusted_reserve(bytes); }
  void trusted_release(void* memory, std::size_t bytes) noexcept {
    port_->trusted_release(memory, bytes);
  }
  bool entropy(void* memory, std::size_t bytes) noexcept { return port_->entropy(memory, bytes); }
  HostReply host_reserve(std::size_t bytes, std::size_t alignment) noexcept {
    const HostReply reply = port_->host_reserve(bytes, alignment);
    if (reply.error != 0) return reply;
    if (mprotect(reinterpret_cast<void*>(reply.address), bytes, PROT_NONE) != 0) return {0, errno};
    reserved_bytes_ += bytes;
    return reply;
  }
  int host_release(std::uintptr_t address, std::size_t bytes) noexcept {
    return port_->host_release(address, bytes);
  }
  HostReply host_map(const MapRequest& request) noexcept { return port_->host_map(request); }
  int host_unmap(std::uintptr_t address, std::size_t bytes) noexcept {
    return port_->host_unmap(address, bytes);
  }
  int host_protect(std::uintptr_t address, std::size_t bytes, int protection) noexcept {
    return port_->host_protect(address, bytes, protection);
  }

 private:
  ProcessPort* port_ = nullptr;
  std::size_t reserved_bytes_ = 0;
};

static_assert(Port<NoAccessPort>);

}  // namespace exclave::testing_support
