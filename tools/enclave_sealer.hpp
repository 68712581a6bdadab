// Seals a file: plaintext is read, encrypted and hashed in trusted memory; only ciphertext is
// copied out, to blocks from which the host writes the sealed file. Then reads all of it back and
// opens it, to know that what stands there is right.
#pragma once

#include <cstdint>

#include "tools/enclave_block_cipher.hpp"
#include "tools/enclave_digest_worker.hpp"
#include "tools/enclave_session.hpp"
#include "tools/enclave_staging.hpp"
#include "tools/enclave_trusted_file.hpp"
#include "tools/run_watcher.hpp"
#include "tools/tamper_list.hpp"

namespace exclave::tools {

class Sealer {
 public:
  // A new salt, and with it a key that no other file has. output: its name, for error messages.
  Sealer(EnclaveSession& session, const Key& key, TrustedInput& input, std::uint32_t block_bytes,
         std::string output);

  // Writes the sealed file and has the host bring it to disk. Throws Failure: kInput, kOutput,
  // kHost.
  void seal(RunWatcher& watcher);
  // What does not come back as it went out. Throws Failure: kOutput, kHost.
  TamperList verify(RunWatcher& watcher);

  const SealedLayout& layout() const noexcept { return layout_; }
  // SHA-256 of the plaintext, once sealed.
  const Digest& digest() const noexcept { return digest_; }
  std::size_t staging_bytes() const noexcept { return staging_.size_bytes(); }

 private:
  void finish(BlockIo::Ticket ticket, std::uint32_t size_bytes);

  static SealedHeader new_header(std::uint64_t plaintext_bytes, std::uint32_t block_bytes);

  EnclaveSession& session_;
  TrustedInput& input_;
  const std::string output_;
  SealedHeader header_;
  const SealedLayout layout_;
  BlockCipher cipher_;
  HeaderBytes header_bytes_{};
  Staging staging_;
  DigestWorker hasher_;  // after staging_, from which it may be reading to its end
  Digest digest_{};
};

}  // namespace exclave::tools
