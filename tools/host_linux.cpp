#include "tools/host_linux.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace exclave::tools {

RingOffer LinuxHost::open_ring(std::uint32_t entries) noexcept {
  ++counts_[kRingSetup];
  return ring_.open(entries);
}

int LinuxHost::enter_ring(std::uint32_t to_submit, std::uint32_t min_complete) noexcept {
  ++counts_[kRingEnter];
  return ring_.enter(to_submit, min_complete);
}

int LinuxHost::register_buffer(Extent range) noexcept {
  ++counts_[kRingRegister];
  return ring_.register_buffer(range);
}

int LinuxHost::unregister_buffers() noexcept {
  ++counts_[kRingRegister];
  return ring_.unregister_buffers();
}

void LinuxHost::close_ring() noexcept {
  ++counts_[kRingClose];
  ring_.close();
}

HostReply LinuxHost::open_pool(std::size_t size_bytes, std::size_t alignment) noexcept {
  ++counts_[kPool];
  return pool_.open(size_bytes, alignment);
}

void LinuxHost::close_pool() noexcept {
  ++counts_[kPool];
  pool_.close();
}

std::int64_t LinuxHost::sealed_file_size() noexcept {
  ++counts_[kFileSize];
  struct stat status {};
  return ::fstat(sealed_file_, &status) == 0 ? status.st_size : -errno;
}

int LinuxHost::sync_sealed_file() noexcept {
  ++counts_[kFileSync];
  return ::fsync(sealed_file_) == 0 ? 0 : errno;
}

void LinuxHost::transfer(untrusted_ptr<TransferCall> call) noexcept {
  // Untrusted memory is the host's own: here, and only on this side, it is used by plain loads and
  // stores.
  auto* const mine = static_cast<TransferCall*>(call.unsafe_raw());
  void* const memory = reinterpret_cast<void*>(mine->address);
  const auto offset = static_cast<off_t>(mine->offset);
  ++counts_[mine->is_write != 0 ? kWrite : kRead];
  const ssize_t moved = mine->is_write != 0
                            ? ::pwrite(sealed_file_, memory, mine->size_bytes, offset)
                            : ::pread(sealed_file_, memory, mine->size_bytes, offset);
  mine->answer = moved >= 0 ? moved : -errno;
}

std::vector<std::pair<std::string, std::uint64_t>> LinuxHost::calls() const {
  static constexpr std::array<const char*, kKinds> kNames{
      "ring: set up", "ring: enter", "ring: register", "ring: close", "pool: make, free",
      "file: size",   "file: sync",  "file: pread",    "file: pwrite"};
  std::vector<std::pair<std::string, std::uint64_t>> out;
  for (std::size_t kind = 0; kind < kKinds; ++kind) {
    if (counts_[kind] != 0) {
      out.emplace_back(kNames[kind], counts_[kind]);
    }
  }
  return out;
}

}  // namespace exclave::tools
