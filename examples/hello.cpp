// The shortest tour: a port, an allocator, a block outside, bytes across and back, and a bad free
// that is told.
#include <cstdio>

#include "exclave/exclave.hpp"

int main() {
  using namespace exclave;
  const Result<ProcessPort*> port = ProcessPort::create();
  if (!port.ok()) return 1;
  {
    Result<Allocator> allocator = Allocator::create((*port)->table());
    if (!allocator.ok()) return 1;
    const Result<untrusted_bytes> block = allocator->allocate(4096);
    if (!block.ok()) return 1;
    const auto outside = untrusted_span<std::byte>::unsafe_from(*block, 4096);

    const char message[] = "ciphertext, one hopes";
    char copy[sizeof(message)];
    if (!copy_out(outside, std::as_bytes(std::span(message))).ok()) return 1;
    if (!copy_in(std::as_writable_bytes(std::span(copy)), outside).ok()) return 1;
    std::printf("came back: %s\n", copy);

    (void)allocator->deallocate(*block);
    std::printf("freed again: %s\n", error_text(allocator->deallocate(*block).error()));
  }
  ProcessPort::destroy(*port);
  return 0;
}
