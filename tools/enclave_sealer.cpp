#include "tools/enclave_sealer.hpp"

#include <cerrno>
#include <deque>

#include "tools/enclave_sealed_reader.hpp"
#include "tools/failure.hpp"

namespace exclave::tools {

SealedHeader Sealer::new_header(std::uint64_t plaintext_bytes, std::uint32_t block_bytes) {
  SealedHeader header;
  header.block_bytes = block_bytes;
  header.plaintext_bytes = plaintext_bytes;
  random_bytes(header.salt);
  return header;
}

Sealer::Sealer(EnclaveSession& session, const Key& key, TrustedInput& input,
               std::uint32_t block_bytes, std::string output)
    : session_(session),
      input_(input),
      output_(std::move(output)),
      header_(new_header(input.size_bytes(), block_bytes)),
      layout_(header_),
      cipher_(key, header_),
      staging_(layout_) {
  header_.key_check = cipher_.key_check();
  header_bytes_ = encode_header(header_);
  cipher_.seal_header(header_bytes_);
}

void Sealer::finish(BlockIo::Ticket ticket, std::uint32_t size_bytes) {
  const BlockIo::Outcome outcome = session_.io().finish(ticket);
  if (outcome.error != 0 || outcome.moved_bytes != size_bytes) {
    // A device that takes nothing more and gives no reason is full.
    const int error = outcome.error != 0 ? outcome.error : ENOSPC;
    throw Failure(ExitCode::kOutput, output_ + ": " + errno_text(error));
  }
}

void Sealer::seal(RunWatcher& watcher) {
  struct InFlight {
    Block block;
    BlockIo::Ticket ticket{};
    std::uint32_t size_bytes = 0;
  };
  std::deque<InFlight> in_flight;
  BlockIo& io = session_.io();
  const auto write = [&](std::span<const std::uint8_t> bytes, std::uint64_t offset) {
    if (in_flight.size() == io.depth()) {
      finish(in_flight.front().ticket, in_flight.front().size_bytes);
      in_flight.pop_front();
    }
    const auto size_bytes = static_cast<std::uint32_t>(bytes.size());
    Block block = session_.pool().take(size_bytes);
    // The one place where anything leaves: ciphertext, or the header, which holds no secret.
    (void)copy_out(*block.bytes(), std::as_bytes(bytes));
    const BlockIo::Ticket ticket = io.start({true, block.bytes()->data(), size_bytes, offset});
    in_flight.push_back({std::move(block), ticket, size_bytes});
    if (in_flight.size() == io.depth()) {
      watcher.busy();
    }
  };

  watcher.phase("seal", layout_.plaintext_bytes);
  write(header_bytes_, 0);
  for (std::uint64_t index = 0; index < layout_.blocks; ++index) {
    const std::span<std::uint8_t> piece =
        staging_.plaintext[index % 2].first(layout_.plaintext_in(index));
    input_.read(piece);
    hasher_.add(piece);
    cipher_.seal_block(index, piece, staging_.sealed.data());
    write(staging_.sealed.first(layout_.sealed_in(index)), layout_.offset(index));
    watcher.progress(index * layout_.payload_bytes + piece.size());
  }
  input_.expect_end();
  digest_ = hasher_.finish();
  for (const InFlight& transfer : in_flight) {
    finish(transfer.ticket, transfer.size_bytes);
  }
  in_flight.clear();

  watcher.phase("sync", 0);
  if (const int error = session_.host().sync_sealed_file(); error != 0) {
    throw Failure(ExitCode::kOutput, output_ + ": " + errno_text(error));
  }
}

TamperList Sealer::verify(RunWatcher& watcher) {
  watcher.phase("verify", layout_.file_bytes - kHeaderBytes);
  const SealedReader::Blame blame{ExitCode::kOutput, output_};
  TamperList tampered;
  const std::optional<HeaderBytes> header = SealedReader::read_header(
      session_.allocator(), session_.io(), Placement::in_pool(session_.pool().id()), blame);
  tampered.header = header != header_bytes_;
  SealedReader reader(session_, cipher_, layout_, staging_, blame);
  reader.read_blocks(watcher,
                     [&](std::uint64_t index, std::optional<std::span<const std::uint8_t>> piece) {
                       if (piece) {
                         hasher_.add(*piece);
                       } else {
                         tampered.blocks.push_back(index);
                       }
                     });
  const Digest came_back = hasher_.finish();
  if (tampered.clean() && came_back != digest_) {
    throw Failure(ExitCode::kInternal, "every tag is right, but the plaintext is another");
  }
  return tampered;
}

}  // namespace exclave::tools
