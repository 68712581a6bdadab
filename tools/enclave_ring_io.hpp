// BlockIo by io_uring: several transfers in flight, each one's block pinned until its completion is
// believed.
#pragma once

#include <optional>
#include <vector>

#include "tools/enclave_block_io.hpp"
#include "tools/enclave_ring.hpp"

namespace exclave::tools {

class RingIo final : public BlockIo {
 public:
  // registered: every block lies in the buffer that is registered with the ring.
  RingIo(Allocator& allocator, EnclaveRing& ring, int file, bool registered);

  const char* name() const noexcept override {
    return registered_ ? "io_uring, registered pool" : "io_uring";
  }
  std::uint32_t depth() const noexcept override { return ring_.most_in_flight(); }
  Ticket start(const Transfer& transfer) override;
  Outcome finish(Ticket ticket) override;
  bool drain() noexcept override;

 private:
  struct Pending {
    Transfer transfer{};
    std::uint32_t moved_bytes = 0;
    int error = 0;
    unsigned retries = 0;
    bool used = false;
    bool complete = false;
    PinId pin{};
  };

  void submit(std::uint32_t index);
  void apply(const EnclaveRing::Completion& completion);
  // Believes what is there; waits for the host if nothing is. False: it does not answer.
  bool progress();

  Allocator& allocator_;
  EnclaveRing& ring_;
  const int file_;
  const bool registered_;
  std::vector<Pending> pending_;
  std::vector<std::uint32_t> pending_of_slot_;
};

}  // namespace exclave::tools
