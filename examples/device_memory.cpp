// What this library was asked for: attach a device's memory as a pool, place blocks in it by the
// device's tag, learn the device's address of a block, pin what is in flight; map another piece for
// the application, and serve the application's own mprotect and munmap on it. A memfd plays the
// device.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

#include "exclave/exclave.hpp"

namespace {

constexpr std::size_t kPoolBytes = std::size_t{1} << 20;
constexpr exclave::DeviceTag kDevice = 7;
constexpr std::uint64_t kBusAddress = 0x40000000;

int fail(const char* what, exclave::Error error) {
  std::fprintf(stderr, "device_memory: %s: %s\n", what, exclave::error_text(error));
  return 1;
}

int run(exclave::ProcessPort& port, int device) {
  using namespace exclave;
  Result<Allocator> made = Allocator::create(port.table());
  if (!made.ok()) return fail("allocator", made.error());
  Allocator& allocator = *made;

  // The runtime maps the device's buffer memory and attaches it as a pool.
  void* const memory = mmap(nullptr, kPoolBytes, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
  if (memory == MAP_FAILED) return 1;
  const Extent range{reinterpret_cast<std::uintptr_t>(memory), kPoolBytes};
  AttachOptions options;
  options.device = kDevice;
  options.device_base = kBusAddress;
  const Result<RegionId> pool = allocator.attach(range, options);
  if (!pool.ok()) return fail("attach", pool.error());

  // A buffer for one transfer: it stays where it is until the device is done with it, even if it is
  // freed before.
  const Result<untrusted_bytes> buffer =
      allocator.allocate(9000, 64, Placement::on_device(kDevice));
  if (!buffer.ok()) return fail("allocate", buffer.error());
  const Result<PinId> pin = allocator.pin({buffer->address(), 9000});
  if (!pin.ok()) return fail("pin", pin.error());
  std::printf("buffer at device address %#llx\n",
              static_cast<unsigned long long>(*allocator.device_address(*buffer)));
  std::printf("detach while it lives: %s\n", error_text(allocator.detach(range).error()));
  (void)allocator.deallocate(*buffer);
  std::printf("detach while it is in flight: %s\n", error_text(allocator.detach(range).error()));
  (void)allocator.unpin(*pin);
  std::printf("detach afterwards: %s\n", error_text(allocator.detach(range).error()));
  munmap(memory, kPoolBytes);

  // The application maps the device itself; from now on its memory calls are answered from the
  // books.
  ProcessEnclaveMemory inside(port.enclave_heap());
  MemoryCalls calls(allocator, bind_enclave_memory(inside));
  const std::intptr_t mapped =
      calls.mmap(0, 3 * kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
  if (mapped < 0) return 1;
  const auto address = static_cast<std::uintptr_t>(mapped);
  std::printf("mprotect of the middle page: %d\n",
              calls.mprotect(address + kPageBytes, kPageBytes, PROT_READ));
  std::printf("may be written: %s\n",
              error_text(allocator.validate(address + kPageBytes, 1).error()));
  std::printf("munmap of all: %d\n", calls.munmap(address, 3 * kPageBytes));
  std::printf("still known: %s\n", error_text(allocator.query(address, 1).error()));
  return 0;
}

}  // namespace

int main() {
  const exclave::Result<exclave::ProcessPort*> port = exclave::ProcessPort::create();
  if (!port.ok()) return fail("port", port.error());
  const int device = memfd_create("device", MFD_CLOEXEC);
  if (device < 0 || ftruncate(device, kPoolBytes) != 0) return 1;
  const int result = run(**port, device);
  close(device);
  exclave::ProcessPort::destroy(*port);
  return result;
}
