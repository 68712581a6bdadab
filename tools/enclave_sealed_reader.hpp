// Reads a sealed file through untrusted memory and opens it, block after block, several reads in
// flight.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>

#include "tools/enclave_block_cipher.hpp"
#include "tools/enclave_session.hpp"
#include "tools/enclave_staging.hpp"
#include "tools/failure.hpp"
#include "tools/run_watcher.hpp"

namespace exclave::tools {

class SealedReader {
 public:
  // What to say when the host's file cannot be read.
  struct Blame {
    ExitCode code;
    std::string path;
  };
  // A block's plaintext, in order; it stands in staging until the call after next. None: the block
  // was tampered with, or is not there.
  using Visitor =
      std::function<void(std::uint64_t index, std::optional<std::span<const std::uint8_t>>)>;

  // staging: whatever visit keeps working on must be done before that goes.
  SealedReader(EnclaveSession& session, BlockCipher& cipher, const SealedLayout& layout,
               Staging& staging, Blame blame);

  // The header, as it stands on file. None: it is not all there. Throws Failure as read_blocks
  // does.
  static std::optional<HeaderBytes> read_header(Allocator& allocator, BlockIo& io, Placement where,
                                                const Blame& blame);

  // Throws Failure: the blame for an I/O error, kHost when the host does not answer, and whatever
  // visit throws.
  void read_blocks(RunWatcher& watcher, const Visitor& visit);

 private:
  struct InFlight {
    Block block;
    BlockIo::Ticket ticket{};
  };
  void keep_busy(RunWatcher& watcher);

  EnclaveSession& session_;
  BlockCipher& cipher_;
  const SealedLayout layout_;
  Staging& staging_;
  const Blame blame_;
  std::deque<InFlight> in_flight_;
  std::uint64_t next_to_start_ = 0;
};

}  // namespace exclave::tools
