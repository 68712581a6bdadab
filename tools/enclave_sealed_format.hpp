// The sealed file, byte by byte. docs/sealed-format.md has what another implementation needs.
//
//   header   4096 bytes
//     0   8  magic "EXCLAVE1"
//     8   4  format version, 1
//    12   4  block bytes B: size of a full sealed block, tag included; a multiple of 4096
//    16   8  plaintext bytes L, 1 to kMaxPlaintextBytes
//    24  32  salt: random, new for each file; also the file's identity
//    56  16  key check: tells a wrong key from a damaged file; says nothing about the key
//    72   …  zero
//  4080  16  tag of the 4080 bytes before it
//   block i, at 4096 + i * B: ciphertext, then its tag of 16 bytes
//     each carries B - 16 bytes of plaintext, the last one what is left (at least 1)
//
// All integers are little-endian. Cipher: AES-256-GCM under the file's own key, HKDF-SHA256(key,
// salt). The nonce is the block's index (the header has a domain of its own), so under one file key
// it never comes twice: a file is written once, and a new one has a new salt. The tag of a block
// also covers salt, index, L, B and whether it is the last one; so truncation, extension,
// reordering, and blocks of another file are all told.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace exclave::tools {

inline constexpr std::size_t kHeaderBytes = 4096;
inline constexpr std::size_t kTagBytes = 16;
inline constexpr std::size_t kSaltBytes = 32;
inline constexpr std::size_t kKeyCheckBytes = 16;
inline constexpr std::uint32_t kMinBlockBytes = 4096;
inline constexpr std::uint32_t kMaxBlockBytes = 16U << 20;
// Keeps an attacker's advantage against AES-GCM under one file key below 2^-52, and every offset
// far from overflow.
inline constexpr std::uint64_t kMaxPlaintextBytes = std::uint64_t{1} << 42;

struct SealedHeader {
  std::uint32_t block_bytes = 0;
  std::uint64_t plaintext_bytes = 0;
  std::array<std::uint8_t, kSaltBytes> salt{};
  std::array<std::uint8_t, kKeyCheckBytes> key_check{};
};

// Where everything lies in a file of this shape. No field wraps for any valid header.
struct SealedLayout {
  explicit SealedLayout(const SealedHeader& header) noexcept;

  std::uint32_t block_bytes;
  std::uint32_t payload_bytes;  // plaintext in a full block
  std::uint64_t plaintext_bytes;
  std::uint64_t blocks;
  std::uint64_t file_bytes;

  bool is_last(std::uint64_t index) const noexcept { return index + 1 == blocks; }
  std::uint64_t offset(std::uint64_t index) const noexcept {
    return kHeaderBytes + index * block_bytes;
  }
  // Plaintext in this block; with its tag, what it takes in the file.
  std::uint32_t plaintext_in(std::uint64_t index) const noexcept;
  std::uint32_t sealed_in(std::uint64_t index) const noexcept {
    return plaintext_in(index) + static_cast<std::uint32_t>(kTagBytes);
  }
};

using HeaderBytes = std::array<std::uint8_t, kHeaderBytes>;

// Everything but the tag.
HeaderBytes encode_header(const SealedHeader& header) noexcept;

enum class HeaderFault { kNone, kNotSealed, kOtherVersion, kOutOfShape };
// Validates the shape from a trusted copy. The tag is not looked at: that takes the key, which
// takes the salt.
HeaderFault decode_header(const HeaderBytes& bytes, SealedHeader& header) noexcept;

bool valid_block_bytes(std::uint64_t block_bytes) noexcept;

}  // namespace exclave::tools
