// Seals and opens the blocks of one file, and its header. Works in trusted memory only: no pointer
// here is untrusted.
#pragma once

#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <span>

#include "tools/enclave_sealed_format.hpp"
#include "tools/enclave_secret.hpp"

namespace exclave::tools {

inline constexpr std::size_t kKeyBytes = 32;
using Key = SecretBytes<kKeyBytes>;

// Throws Failure(kInternal) when libcrypto fails for lack of memory; a tag that does not match is
// an answer.
class BlockCipher {
 public:
  // Derives the file's own key from header.salt; header.key_check is not looked at.
  BlockCipher(const Key& key, const SealedHeader& header);

  // What belongs into SealedHeader::key_check. A different one on file means another key.
  const std::array<std::uint8_t, kKeyCheckBytes>& key_check() const noexcept { return key_check_; }

  // Fills the last 16 bytes of the header.
  void seal_header(HeaderBytes& bytes);
  bool open_header(const HeaderBytes& bytes);

  // out has room for layout.sealed_in(index) bytes. Once for each index: the nonce is the index.
  void seal_block(std::uint64_t index, std::span<const std::uint8_t> plaintext, std::uint8_t* out);
  // sealed is a trusted copy of layout.sealed_in(index) bytes; out has room for the plaintext.
  // False: tampered with, and what stands in out is wiped.
  [[nodiscard]] bool open_block(std::uint64_t index, std::span<const std::uint8_t> sealed,
                                std::uint8_t* out);

 private:
  enum class Domain : std::uint8_t { kHeader = 0, kBlock = 1 };
  struct FreeContext {
    void operator()(EVP_CIPHER_CTX* context) const noexcept { EVP_CIPHER_CTX_free(context); }
  };
  using Context = std::unique_ptr<EVP_CIPHER_CTX, FreeContext>;

  void start(EVP_CIPHER_CTX* context, bool seal, Domain domain, std::uint64_t index);
  void bind_block(EVP_CIPHER_CTX* context, std::uint64_t index);

  SealedLayout layout_;
  std::array<std::uint8_t, kSaltBytes> salt_;
  std::array<std::uint8_t, kKeyCheckBytes> key_check_{};
  Context sealing_;
  Context opening_;
};

// Random bytes for salts and keys. An enclave takes them from RDRAND; here libcrypto has them from
// the kernel.
void random_bytes(std::span<std::uint8_t> out);

}  // namespace exclave::tools
