// A program from outside the tree: attaches a pool, places a block in it, frees it twice, detaches.
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <exclave/exclave.hpp>

namespace {

int failed(const char* what, exclave::Error error) {
  std::printf("%s: %s\n", what, exclave::error_text(error));
  return 1;
}

int use(exclave::Allocator& allocator, exclave::Extent memory) {
  const auto pool = allocator.attach(memory);
  if (!pool) return failed("attach", pool.error());
  const auto block = allocator.allocate(100, 64, exclave::Placement::in_pool(*pool));
  if (!block) return failed("allocate", block.error());
  if (const auto freed = allocator.deallocate(*block); !freed) {
    return failed("deallocate", freed.error());
  }
  if (const auto again = allocator.deallocate(*block);
      again.error() != exclave::Error::kDoubleFree) {
    return failed("a double free", again.error());
  }
  if (const auto detached = allocator.detach(memory); !detached) {
    return failed("detach", detached.error());
  }
  return 0;
}

}  // namespace

int main() {
  constexpr std::size_t kPoolBytes = std::size_t{1} << 20;
  void* const memory =
      mmap(nullptr, kPoolBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  const auto port = exclave::ProcessPort::create();
  if (!port) return failed("port", port.error());
  int status = 0;
  {
    auto allocator = exclave::Allocator::create((*port)->table());
    if (!allocator) return failed("create", allocator.error());
    status = use(*allocator, {reinterpret_cast<std::uintptr_t>(memory), kPoolBytes});
  }
  exclave::ProcessPort::destroy(*port);
  return status;
}
