#include "loader/process.hpp"

#include <new>

#include "loader/calls.hpp"
#include "loader/text.hpp"

namespace exclave::loader {

constinit Process g_process;

namespace {

// What Linux allows a process, so that one that asks for more is told so. 0: it does not say.
std::size_t most_areas() noexcept {
  const long file =
      system_call(__NR_openat, AT_FDCWD, "/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
  if (failed(file)) return 0;
  char text[24];
  const long bytes = system_call(__NR_read, file, text, sizeof text);
  (void)system_call(__NR_close, file);
  std::uint64_t most = 0;
  if (bytes > 1) (void)parse_number({text, static_cast<std::size_t>(bytes - 1)}, &most);
  return most;
}

}  // namespace

bool Process::open(const Options& asked, const char* allowed_paths) noexcept {
  options = asked;
  allowed = allowed_paths;
  policy.open(allowed);
  pid = system_call(__NR_getpid);
  if (!port.open(asked.range_bytes)) return false;
  const PortTable table = bind_port(port);
  Result<Allocator> outside_books = Allocator::create(table);
  EnclaveManager::Options manager;
  manager.range = port.program_window();
  manager.randomize = true;
  manager.max_areas = most_areas();
  manager.lies_outside = [](void* context, int, int flags, int descriptor, std::uint64_t) {
    return static_cast<const Policy*>(context)->lies_outside(flags, descriptor) ? 1 : 0;
  };
  manager.may_lock = [](void*, std::size_t bytes) {
    const long refused = loader::may_lock(bytes);
    return static_cast<int>(refused == -ENOMEM ? -EAGAIN : refused);
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

bool has_right(unsigned capability) noexcept {
  struct {
    std::uint32_t version = 0x20080522;
    int process = 0;
  } head;
  struct {
    std::uint32_t effective, permitted, inheritable;
  } rights[2] = {};
  return !failed(system_call(__NR_capget, &head, rights)) &&
         (rights[capability / 32].effective >> (capability % 32) & 1) != 0;
}

const char* name_of_program() noexcept {
  const char* name = g_process.program_path;
  for (const char* at = name; *at != 0; ++at) {
    if (*at == '/') name = at + 1;
  }
  return name;
}

}  // namespace exclave::loader
