#include "tools/enclave_unsealer.hpp"

#include "tools/enclave_direct_io.hpp"
#include "tools/enclave_sealed_reader.hpp"
#include "tools/enclave_trusted_file.hpp"
#include "tools/failure.hpp"

namespace exclave::tools {

Unsealer::Unsealer(EnclaveSession& session, std::string input)
    : session_(session), input_(std::move(input)) {
  const auto refuse = [this](ExitCode code, const std::string& what) {
    throw Failure(code, input_ + ": " + what);
  };
  // The host's word, used for a clearer message only: what is not there fails to come in, what is
  // too much is not read.
  const std::int64_t claimed_bytes = session_.host().sealed_file_size();
  if (claimed_bytes < 0) {
    refuse(ExitCode::kInput, errno_text(static_cast<int>(-claimed_bytes)));
  }
  if (claimed_bytes == 0) {
    refuse(ExitCode::kInput, "is empty");
  }
  // How large the pool's blocks must be stands in the header, so that comes first and without the
  // pool.
  DirectIo io(session_.allocator(), session_.host(), session_.attacks());
  const std::optional<HeaderBytes> bytes = SealedReader::read_header(
      session_.allocator(), io, Placement::anywhere(), {ExitCode::kInput, input_});
  if (!bytes) {
    refuse(ExitCode::kTampered, "is no sealed file, or a truncated one");
  }
  header_bytes_ = *bytes;
  switch (decode_header(header_bytes_, header_)) {
    case HeaderFault::kNone:
      break;
    case HeaderFault::kNotSealed:
      refuse(ExitCode::kTampered, "is no sealed file");
      break;
    case HeaderFault::kOtherVersion:
      refuse(ExitCode::kTampered, "was sealed in a format that this version does not know");
      break;
    case HeaderFault::kOutOfShape:
      refuse(ExitCode::kTampered, "its header was tampered with");
      break;
  }
  layout_.emplace(header_);
  const auto claimed = static_cast<std::uint64_t>(claimed_bytes);
  if (claimed < layout_->file_bytes) {
    refuse(ExitCode::kTampered, "is truncated: " + std::to_string(layout_->file_bytes - claimed) +
                                    " of " + std::to_string(layout_->file_bytes) +
                                    " bytes are missing");
  }
  if (claimed > layout_->file_bytes) {
    refuse(ExitCode::kTampered,
           "was tampered with: " + std::to_string(claimed - layout_->file_bytes) +
               " bytes follow its last block");
  }
}

TamperList Unsealer::unseal(const Key& key, int output, const std::string& output_path,
                            RunWatcher& watcher) {
  BlockCipher cipher(key, header_);
  if (cipher.key_check() != header_.key_check) {
    throw Failure(ExitCode::kKey, input_ + ": was not sealed with this key");
  }
  if (!cipher.open_header(header_bytes_)) {
    throw Failure(ExitCode::kTampered, input_ + ": its header was tampered with");
  }
  watcher.phase("unseal", layout_->file_bytes - kHeaderBytes);
  TamperList tampered;
  Staging staging(*layout_);
  staging_bytes_ = staging.size_bytes();
  SealedReader reader(session_, cipher, *layout_, staging, {ExitCode::kInput, input_});
  reader.read_blocks(watcher,
                     [&](std::uint64_t index, std::optional<std::span<const std::uint8_t>> piece) {
                       if (!piece) {
                         tampered.blocks.push_back(index);
                       } else if (tampered.clean()) {
                         write_trusted(output, output_path, *piece);
                       }
                     });
  return tampered;
}

}  // namespace exclave::tools
