// The public face of the enclave's manager: forwards to the core.
#include "exclave/enclave_manager.hpp"

#include "memcall/enclave_core.hpp"

namespace exclave {

using core::EnclaveCore;

Result<EnclaveManager> EnclaveManager::create(const PortTable& port, const EnclavePagesTable& pages,
                                              const Options& options) noexcept {
  const Result<EnclaveCore*> made = EnclaveCore::create(port, pages, options);
  if (!made.ok()) return made.error();
  return EnclaveManager(*made);
}

EnclaveManager::~EnclaveManager() {
  if (core_ != nullptr) EnclaveCore::destroy(core_);
}

EnclaveMemoryTable EnclaveManager::table() noexcept {
  return bind_enclave_memory(*core_);
}

std::intptr_t EnclaveManager::map(std::uintptr_t address, std::size_t size, int protection,
                                  int flags, int descriptor, std::uint64_t offset) noexcept {
  return core_->map(address, size, protection, flags, descriptor, offset);
}
int EnclaveManager::unmap(std::uintptr_t address, std::size_t size) noexcept {
  return core_->unmap(address, size);
}
int EnclaveManager::protect(std::uintptr_t address, std::size_t size, int protection) noexcept {
  return core_->protect(address, size, protection);
}
std::intptr_t EnclaveManager::remap(std::uintptr_t old_address, std::size_t old_size,
                                    std::size_t new_size, int flags,
                                    std::uintptr_t new_address) noexcept {
  return core_->remap(old_address, old_size, new_size, flags, new_address);
}
std::uintptr_t EnclaveManager::set_break(std::uintptr_t address) noexcept {
  return core_->set_break(address);
}
int EnclaveManager::start_break(std::uintptr_t address) noexcept {
  return core_->start_break(address);
}
int EnclaveManager::advise(RangeCall call, std::uintptr_t address, std::size_t size,
                           int argument) noexcept {
  return core_->advise(call, address, size, argument);
}
int EnclaveManager::resident(std::uintptr_t address, std::size_t size,
                             unsigned char* vector) noexcept {
  return core_->resident(address, size, vector);
}
int EnclaveManager::lock_all(int flags) noexcept {
  return core_->lock_all(flags);
}
int EnclaveManager::visit(Extent range, Visitor* visitor, void* context) noexcept {
  return core_->visit(range, visitor, context);
}
EnclaveManager::Statistics EnclaveManager::statistics() noexcept {
  return core_->statistics();
}
bool EnclaveManager::validate_books() noexcept {
  return core_->validate();
}
Status EnclaveManager::before_fork() noexcept {
  return core_->before_fork();
}
void EnclaveManager::after_fork_in_parent() noexcept {
  core_->after_fork_in_parent();
}
void EnclaveManager::after_fork_in_child() noexcept {
  core_->after_fork_in_child();
}

}  // namespace exclave
