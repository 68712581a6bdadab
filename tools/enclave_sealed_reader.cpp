#include "tools/enclave_sealed_reader.hpp"

namespace exclave::tools {

SealedReader::SealedReader(EnclaveSession& session, BlockCipher& cipher, const SealedLayout& layout,
                           Staging& staging, Blame blame)
    : session_(session),
      cipher_(cipher),
      layout_(layout),
      staging_(staging),
      blame_(std::move(blame)) {}

std::optional<HeaderBytes> SealedReader::read_header(Allocator& allocator, BlockIo& io,
                                                     Placement where, const Blame& blame) {
  const Result<Block> block = Block::create(allocator, kHeaderBytes, kPageBytes, where);
  if (!block) {
    throw Failure(ExitCode::kHost,
                  std::string("no untrusted memory for the header: ") + error_text(block.error()));
  }
  const BlockIo::Outcome outcome = io.finish(
      io.start({false, block->bytes()->data(), static_cast<std::uint32_t>(kHeaderBytes), 0}));
  if (outcome.error != 0) {
    throw Failure(blame.code, blame.path + ": " + errno_text(outcome.error));
  }
  if (outcome.moved_bytes != kHeaderBytes) {
    return std::nullopt;
  }
  HeaderBytes bytes;
  (void)copy_in(std::as_writable_bytes(std::span(bytes)), *block->bytes());
  return bytes;
}

void SealedReader::keep_busy(RunWatcher& watcher) {
  const std::uint32_t depth = session_.io().depth();
  while (next_to_start_ < layout_.blocks && in_flight_.size() < depth) {
    const std::uint32_t size_bytes = layout_.sealed_in(next_to_start_);
    Block block = session_.pool().take(size_bytes);
    const BlockIo::Ticket ticket = session_.io().start(
        {false, block.bytes()->data(), size_bytes, layout_.offset(next_to_start_)});
    in_flight_.push_back({std::move(block), ticket});
    ++next_to_start_;
  }
  if (in_flight_.size() == depth) {
    watcher.busy();
  }
}

void SealedReader::read_blocks(RunWatcher& watcher, const Visitor& visit) {
  std::uint64_t done_bytes = 0;
  for (std::uint64_t index = 0; index < layout_.blocks; ++index) {
    keep_busy(watcher);
    const std::uint32_t size_bytes = layout_.sealed_in(index);
    const BlockIo::Outcome outcome = session_.io().finish(in_flight_.front().ticket);
    if (outcome.error != 0) {
      throw Failure(blame_.code, blame_.path + ": " + errno_text(outcome.error));
    }
    const bool whole = outcome.moved_bytes == size_bytes;
    const std::span<std::uint8_t> copy = staging_.sealed.first(size_bytes);
    if (whole) {
      // Fetched once. From here on the host can write to the block as it likes: tag and plaintext
      // come from the copy.
      (void)copy_in(std::as_writable_bytes(copy), *in_flight_.front().block.bytes());
    }
    in_flight_.pop_front();
    keep_busy(watcher);

    SecretBuffer& out = staging_.plaintext[index % 2];
    if (whole && cipher_.open_block(index, copy, out.data())) {
      visit(index, out.first(layout_.plaintext_in(index)));
    } else {
      visit(index, std::nullopt);
    }
    done_bytes += size_bytes;
    watcher.progress(done_bytes);
  }
}

}  // namespace exclave::tools
