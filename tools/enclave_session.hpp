// The enclave side's life with untrusted memory: the allocator and the memory calls on the process
// port, a pool for I/O, an engine that moves its blocks, and an end in good order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exclave/exclave.hpp"
#include "tools/enclave_attack_log.hpp"
#include "tools/enclave_block_io.hpp"
#include "tools/enclave_host_calls.hpp"
#include "tools/enclave_io_pool.hpp"
#include "tools/enclave_ring.hpp"
#include "tools/enclave_ring_mapping.hpp"
#include "tools/heap_map.hpp"

namespace exclave::tools {

enum class Engine : std::uint8_t { kAuto, kUring, kPread };

inline constexpr std::uint32_t kMaxDepth = 64;

struct IoOptions {
  Engine engine = Engine::kAuto;
  std::uint32_t depth = 8;        // transfers in flight, 1 to kMaxDepth
  std::uint32_t block_bytes = 0;  // largest transfer
};

// One act of the end: what was asked, what the answer was, and whether that is what a sound library
// answers.
struct EndingStep {
  std::string act;
  std::string answer;
  bool as_it_should = false;
};

class EnclaveSession {
 public:
  // Throws Failure(kInternal) when there is no trusted memory for the books.
  explicit EnclaveSession(HostCalls& host);
  // A run that failed ends here: waits for what is in flight, then gives everything back that is
  // not pinned.
  ~EnclaveSession();
  EnclaveSession(const EnclaveSession&) = delete;
  EnclaveSession& operator=(const EnclaveSession&) = delete;

  // Makes the pool and the engine. With kAuto, a host that has no io_uring for us gets pread and
  // pwrite, and a note says why. Throws Failure(kHost).
  void open_io(const IoOptions& options);

  Allocator& allocator() noexcept { return allocator_; }
  HostCalls& host() noexcept { return host_; }
  AttackLog& attacks() noexcept { return attacks_; }
  IoPool& pool() noexcept { return *pool_; }
  BlockIo& io() noexcept { return *io_; }
  // What a user should know about how the engine was chosen.
  const std::vector<std::string>& notes() const noexcept { return notes_; }
  HeapMap heap_map() const;

  // Ends as an application would: protections and parts of the ring's mappings go, then all of
  // them; the pool refuses to go while it is pinned, and goes when it is not. Precondition: nothing
  // in flight. Each act is checked against the books; the last one is validate_books().
  std::vector<EndingStep> close();

 private:
  struct PortOwner {
    void operator()(ProcessPort* port) const noexcept { ProcessPort::destroy(port); }
  };
  // Only the ring's memory lies outside; everything else that is mapped stays inside.
  class Inside {
   public:
    explicit Inside(Extent heap) noexcept : inner_(heap) {}
    void ring_is(int descriptor) noexcept { ring_ = descriptor; }

    std::intptr_t map(std::uintptr_t address, std::size_t size, int protection, int flags,
                      int descriptor, std::uint64_t offset) noexcept {
      return inner_.map(address, size, protection, flags, descriptor, offset);
    }
    int unmap(std::uintptr_t address, std::size_t size) noexcept {
      return inner_.unmap(address, size);
    }
    int protect(std::uintptr_t address, std::size_t size, int protection) noexcept {
      return inner_.protect(address, size, protection);
    }
    bool lies_outside(int, int, int descriptor, std::uint64_t) const noexcept {
      return descriptor >= 0 && descriptor == ring_;
    }

   private:
    ProcessEnclaveMemory inner_;
    int ring_ = -1;
  };

  bool open_ring(const IoOptions& options);
  void close_ring_mappings(std::vector<EndingStep>& steps);
  void close_pool(std::vector<EndingStep>& steps);

  HostCalls& host_;
  AttackLog attacks_;
  std::vector<std::string> notes_;
  std::unique_ptr<ProcessPort, PortOwner> port_;
  std::unique_ptr<Inside> inside_;
  Allocator allocator_;
  std::unique_ptr<MemoryCalls> calls_;
  std::unique_ptr<IoPool> pool_;
  std::unique_ptr<RingMapping> ring_memory_;
  std::unique_ptr<EnclaveRing> ring_;
  std::unique_ptr<BlockIo> io_;
  RegionNames names_;
};

}  // namespace exclave::tools
