// The process port for C (exclave.h).
#include "exclave/exclave.h"
#include "exclave/process_port.hpp"

#include <cstdlib>
#include <new>

namespace {

exclave::ProcessPort* port_of(exclave_process_port* port) {
  return reinterpret_cast<exclave::ProcessPort*>(port);
}
exclave::ProcessEnclaveMemory* memory_of(exclave_process_memory* memory) {
  return reinterpret_cast<exclave::ProcessEnclaveMemory*>(memory);
}

}  // namespace

extern "C" {

void exclave_process_options_init(exclave_process_options* options) {
  if (options == nullptr) return;
  const exclave::ProcessPort::Options from;
  *options = {from.book_bytes, from.enclave_bytes, from.huge_pages, from.shared};
}

exclave_error exclave_process_port_create(const exclave_process_options* options,
                                          exclave_process_port** port) {
  if (port == nullptr) return EXCLAVE_INVALID_ARGUMENT;
  exclave::ProcessPort::Options to;
  if (options != nullptr) {
    to.book_bytes = options->book_bytes;
    to.enclave_bytes = options->enclave_bytes;
    to.huge_pages = options->huge_pages;
    to.shared = options->shared;
  }
  const exclave::Result<exclave::ProcessPort*> made = exclave::ProcessPort::create(to);
  if (made.ok()) *port = reinterpret_cast<exclave_process_port*>(*made);
  return static_cast<exclave_error>(made.error());
}

void exclave_process_port_destroy(exclave_process_port* port) {
  if (port != nullptr) exclave::ProcessPort::destroy(port_of(port));
}

exclave_port exclave_process_port_table(exclave_process_port* port) {
  return port != nullptr ? port_of(port)->table() : exclave_port{};
}

exclave_error exclave_process_memory_create(exclave_process_port* port,
                                            exclave_process_memory** memory) {
  if (port == nullptr || memory == nullptr) return EXCLAVE_INVALID_ARGUMENT;
  // malloc, so that C programs need no C++ library.
  void* const space = std::malloc(sizeof(exclave::ProcessEnclaveMemory));
  if (space == nullptr) return EXCLAVE_OUT_OF_TRUSTED_MEMORY;
  auto* const made = ::new (space) exclave::ProcessEnclaveMemory(port_of(port)->enclave_heap());
  *memory = reinterpret_cast<exclave_process_memory*>(made);
  return EXCLAVE_OK;
}

void exclave_process_memory_destroy(exclave_process_memory* memory) {
  if (memory == nullptr) return;
  memory_of(memory)->~ProcessEnclaveMemory();
  std::free(memory);
}

exclave_enclave_memory exclave_process_memory_table(exclave_process_memory* memory) {
  return memory != nullptr ? exclave::bind_enclave_memory(*memory_of(memory))
                           : exclave_enclave_memory{};
}

}  // extern "C"
