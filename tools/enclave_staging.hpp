// The trusted buffers between file and boundary: one sealed block, and two of plaintext, so that
// one can be hashed in the background while the next is read or opened.
#pragma once

#include <array>

#include "tools/enclave_sealed_format.hpp"
#include "tools/enclave_secret.hpp"

namespace exclave::tools {

struct Staging {
  explicit Staging(const SealedLayout& layout)
      : sealed(layout.block_bytes),
        plaintext{SecretBuffer(layout.payload_bytes), SecretBuffer(layout.payload_bytes)} {}

  std::size_t size_bytes() const noexcept {
    return sealed.size() + plaintext[0].size() + plaintext[1].size();
  }

  SecretBuffer sealed;
  std::array<SecretBuffer, 2> plaintext;
};

}  // namespace exclave::tools
