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
  Result<Allocator> made = Allocator::create(bind_port(port));
  const Extent window = port.program_window();
  void* const zeroes = port.trusted_reserve(PageSet::bytes_for(window.size));
  if (!made.ok() || zeroes == nullptr) return false;
  allocator = new (allocator_) Allocator(static_cast<Allocator&&>(*made));
  // Where programs' memory begins is a secret of each process, as Linux has it.
  std::uint64_t random = 0;
  (void)port.entropy(&random, sizeof random);
  inside.open(window, zeroes, policy, random % (window.size / 256 / kPage) * kPage);
  calls = new (calls_) MemoryCalls(*allocator, bind_enclave_memory(inside));
  return true;
}

}  // namespace exclave::loader
