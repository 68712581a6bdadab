#include "loader/process.hpp"

#include <new>

#include "loader/layout.hpp"
#include "loader/text.hpp"

namespace exclave::loader {

constinit Process g_process;

bool Process::open(const Options& asked, const char* allowed_paths) noexcept {
  options = asked;
  allowed = allowed_paths;
  policy.open(allowed);
  pid = system_call(__NR_getpid);
  if (!port.open(asked.range_bytes != 0 ? asked.range_bytes : kRangeUsual)) return false;
  const PortTable table = bind_port(port);
  Result<Allocator> outside_books = Allocator::create(table);
  EnclaveManager::Options manager;
  manager.range = port.program_window();
  manager.randomize = true;
  manager.lies_outside = [](void* context, int, int flags, int descriptor, std::uint64_t) {
    return static_cast<const Policy*>(context)->lies_outside(flags, descriptor) ? 1 : 0;
  };
  manager.policy_context = &policy;
  Result<EnclaveManager> inside_books =
      EnclaveManager::create(table, bind_enclave_pages(pages), manager);
  if (!outside_books.ok() || !inside_books.ok()) return false;
  allocator = new (allocator_) Allocator(static_cast<Allocator&&>(*outside_books));
  inside = new (inside_) EnclaveManager(static_cast<EnclaveManager&&>(*inside_books));
  calls = new (calls_) MemoryCalls(*allocator, inside->table());
  return true;
}

}  // namespace exclave::loader
