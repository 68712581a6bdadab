#include "tools/enclave_block_cipher.hpp"

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "tools/failure.hpp"

namespace exclave::tools {
namespace {

constexpr std::size_t kNonceBytes = 12;

void must(int answer, const char* what) {
  if (answer != 1) {
    throw Failure(ExitCode::kInternal, std::string("libcrypto failed: ") + what);
  }
}

void store_le64(std::uint8_t* out, std::uint64_t value) noexcept {
  for (int i = 0; i < 8; ++i) {
    out[i] = static_cast<std::uint8_t>(value >> (8 * i));
  }
}

// HKDF-SHA256 (RFC 5869). The purpose keeps what is derived for one use apart from every other.
void derive(const Key& key, std::span<const std::uint8_t> salt, std::string_view purpose,
            std::span<std::uint8_t> out) {
  struct Free {
    void operator()(EVP_KDF* kdf) const noexcept { EVP_KDF_free(kdf); }
    void operator()(EVP_KDF_CTX* context) const noexcept { EVP_KDF_CTX_free(context); }
  };
  const std::unique_ptr<EVP_KDF, Free> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  must(kdf != nullptr ? 1 : 0, "HKDF");
  const std::unique_ptr<EVP_KDF_CTX, Free> context(EVP_KDF_CTX_new(kdf.get()));
  must(context != nullptr ? 1 : 0, "HKDF");
  // The parameters are read only; libcrypto's interface is older than const.
  char digest[] = "SHA256";
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, const_cast<std::uint8_t*>(key.data()),
                                        Key::size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, const_cast<std::uint8_t*>(salt.data()),
                                        salt.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, const_cast<char*>(purpose.data()),
                                        purpose.size()),
      OSSL_PARAM_construct_end()};
  must(EVP_KDF_derive(context.get(), out.data(), out.size(), parameters), "HKDF");
}

}  // namespace

BlockCipher::BlockCipher(const Key& key, const SealedHeader& header)
    : layout_(header),
      salt_(header.salt),
      sealing_(EVP_CIPHER_CTX_new()),
      opening_(EVP_CIPHER_CTX_new()) {
  must(sealing_ && opening_ ? 1 : 0, "EVP_CIPHER_CTX_new");
  SecretBytes<kKeyBytes> file_key;
  derive(key, salt_, "exclave seal v1: file key", {file_key.data(), file_key.size()});
  derive(key, salt_, "exclave seal v1: key check", key_check_);
  // The key schedule is made once; each block sets only its nonce.
  must(EVP_EncryptInit_ex(sealing_.get(), EVP_aes_256_gcm(), nullptr, file_key.data(), nullptr),
       "AES-256-GCM");
  must(EVP_DecryptInit_ex(opening_.get(), EVP_aes_256_gcm(), nullptr, file_key.data(), nullptr),
       "AES-256-GCM");
}

void BlockCipher::start(EVP_CIPHER_CTX* context, bool seal, Domain domain, std::uint64_t index) {
  std::array<std::uint8_t, kNonceBytes> nonce{};
  nonce[0] = static_cast<std::uint8_t>(domain);
  store_le64(nonce.data() + 4, index);
  must(seal ? EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data())
            : EVP_DecryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data()),
       "nonce");
}

void BlockCipher::bind_block(EVP_CIPHER_CTX* context, std::uint64_t index) {
  // salt, index, plaintext bytes of the file, block bytes, last or not
  std::array<std::uint8_t, kSaltBytes + 8 + 8 + 8 + 1> bound{};
  std::copy(salt_.begin(), salt_.end(), bound.begin());
  store_le64(bound.data() + kSaltBytes, index);
  store_le64(bound.data() + kSaltBytes + 8, layout_.plaintext_bytes);
  store_le64(bound.data() + kSaltBytes + 16, layout_.block_bytes);
  bound.back() = layout_.is_last(index) ? 1 : 0;
  int length = 0;
  must(EVP_CipherUpdate(context, nullptr, &length, bound.data(), static_cast<int>(bound.size())),
       "associated data");
}

void BlockCipher::seal_header(HeaderBytes& bytes) {
  EVP_CIPHER_CTX* context = sealing_.get();
  start(context, true, Domain::kHeader, 0);
  int length = 0;
  must(EVP_EncryptUpdate(context, nullptr, &length, bytes.data(),
                         static_cast<int>(kHeaderBytes - kTagBytes)),
       "header");
  std::uint8_t none = 0;
  must(EVP_EncryptFinal_ex(context, &none, &length), "header");
  must(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, static_cast<int>(kTagBytes),
                           bytes.data() + kHeaderBytes - kTagBytes),
       "header tag");
}

bool BlockCipher::open_header(const HeaderBytes& bytes) {
  EVP_CIPHER_CTX* context = opening_.get();
  start(context, false, Domain::kHeader, 0);
  int length = 0;
  must(EVP_DecryptUpdate(context, nullptr, &length, bytes.data(),
                         static_cast<int>(kHeaderBytes - kTagBytes)),
       "header");
  std::array<std::uint8_t, kTagBytes> tag{};
  std::copy(bytes.end() - kTagBytes, bytes.end(), tag.begin());
  must(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, static_cast<int>(kTagBytes), tag.data()),
       "header tag");
  std::uint8_t none = 0;
  return EVP_DecryptFinal_ex(context, &none, &length) == 1;
}

void BlockCipher::seal_block(std::uint64_t index, std::span<const std::uint8_t> plaintext,
                             std::uint8_t* out) {
  EVP_CIPHER_CTX* context = sealing_.get();
  start(context, true, Domain::kBlock, index);
  bind_block(context, index);
  int length = 0;
  must(EVP_EncryptUpdate(context, out, &length, plaintext.data(),
                         static_cast<int>(plaintext.size())),
       "encryption");
  must(EVP_EncryptFinal_ex(context, out + length, &length), "encryption");
  must(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, static_cast<int>(kTagBytes),
                           out + plaintext.size()),
       "tag");
}

bool BlockCipher::open_block(std::uint64_t index, std::span<const std::uint8_t> sealed,
                             std::uint8_t* out) {
  EVP_CIPHER_CTX* context = opening_.get();
  const std::size_t plaintext_bytes = sealed.size() - kTagBytes;
  start(context, false, Domain::kBlock, index);
  bind_block(context, index);
  int length = 0;
  must(EVP_DecryptUpdate(context, out, &length, sealed.data(), static_cast<int>(plaintext_bytes)),
       "decryption");
  std::array<std::uint8_t, kTagBytes> tag{};
  std::memcpy(tag.data(), sealed.data() + plaintext_bytes, kTagBytes);
  must(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, static_cast<int>(kTagBytes), tag.data()),
       "tag");
  if (EVP_DecryptFinal_ex(context, out + length, &length) != 1) {
    OPENSSL_cleanse(out, plaintext_bytes);
    return false;
  }
  return true;
}

void random_bytes(std::span<std::uint8_t> out) {
  must(RAND_bytes(out.data(), static_cast<int>(out.size())), "random bytes");
}

}  // namespace exclave::tools
