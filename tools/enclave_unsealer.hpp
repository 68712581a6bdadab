// Opens a sealed file: ciphertext comes in through untrusted memory, is verified and decrypted in
// trusted memory, and the plaintext leaves by the trusted path. Not one byte of a block is written
// before its tag is verified.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tools/enclave_block_cipher.hpp"
#include "tools/enclave_session.hpp"
#include "tools/run_watcher.hpp"
#include "tools/tamper_list.hpp"

namespace exclave::tools {

class Unsealer {
 public:
  // Reads the header and checks its shape and the file's size. Throws Failure: kInput (empty,
  // unreadable), kTampered (no sealed file, truncated, too long).
  Unsealer(EnclaveSession& session, std::string input);

  const SealedLayout& layout() const noexcept { return *layout_; }

  // Throws Failure: kKey (another key), kTampered (header), kOutput, kInput, kHost. Tampered blocks
  // are skipped and listed; what is on output then is not to be used.
  TamperList unseal(const Key& key, int output, const std::string& output_path,
                    RunWatcher& watcher);
  // Trusted bytes that unseal() took.
  std::size_t staging_bytes() const noexcept { return staging_bytes_; }

 private:
  EnclaveSession& session_;
  const std::string input_;
  HeaderBytes header_bytes_{};
  SealedHeader header_{};
  std::optional<SealedLayout> layout_;
  std::size_t staging_bytes_ = 0;
};

}  // namespace exclave::tools
