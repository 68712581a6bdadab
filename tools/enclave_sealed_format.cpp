#include "tools/enclave_sealed_format.hpp"

#include <algorithm>
#include <cstring>

namespace exclave::tools {
namespace {

constexpr std::array<std::uint8_t, 8> kMagic{'E', 'X', 'C', 'L', 'A', 'V', 'E', '1'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kVersionAt = 8;
constexpr std::size_t kBlockBytesAt = 12;
constexpr std::size_t kPlaintextBytesAt = 16;
constexpr std::size_t kSaltAt = 24;
constexpr std::size_t kKeyCheckAt = kSaltAt + kSaltBytes;
constexpr std::size_t kZerosAt = kKeyCheckAt + kKeyCheckBytes;
static_assert(kZerosAt == 72);

template <class Integer>
void put(HeaderBytes& bytes, std::size_t at, Integer value) noexcept {
  for (std::size_t i = 0; i < sizeof value; ++i) {
    bytes[at + i] = static_cast<std::uint8_t>(value >> (8 * i));
  }
}

template <class Integer>
Integer get(const HeaderBytes& bytes, std::size_t at) noexcept {
  Integer value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i) {
    value |= static_cast<Integer>(static_cast<Integer>(bytes[at + i]) << (8 * i));
  }
  return value;
}

}  // namespace

SealedLayout::SealedLayout(const SealedHeader& header) noexcept
    : block_bytes(header.block_bytes),
      payload_bytes(header.block_bytes - static_cast<std::uint32_t>(kTagBytes)),
      plaintext_bytes(header.plaintext_bytes),
      blocks((header.plaintext_bytes + payload_bytes - 1) / payload_bytes),
      file_bytes(kHeaderBytes + header.plaintext_bytes + blocks * kTagBytes) {}

std::uint32_t SealedLayout::plaintext_in(std::uint64_t index) const noexcept {
  if (!is_last(index)) {
    return payload_bytes;
  }
  return static_cast<std::uint32_t>(plaintext_bytes - index * payload_bytes);
}

HeaderBytes encode_header(const SealedHeader& header) noexcept {
  HeaderBytes bytes{};
  std::copy(kMagic.begin(), kMagic.end(), bytes.begin());
  put(bytes, kVersionAt, kVersion);
  put(bytes, kBlockBytesAt, header.block_bytes);
  put(bytes, kPlaintextBytesAt, header.plaintext_bytes);
  std::memcpy(bytes.data() + kSaltAt, header.salt.data(), kSaltBytes);
  std::memcpy(bytes.data() + kKeyCheckAt, header.key_check.data(), kKeyCheckBytes);
  return bytes;
}

HeaderFault decode_header(const HeaderBytes& bytes, SealedHeader& header) noexcept {
  if (!std::equal(kMagic.begin(), kMagic.end(), bytes.begin())) {
    return HeaderFault::kNotSealed;
  }
  if (get<std::uint32_t>(bytes, kVersionAt) != kVersion) {
    return HeaderFault::kOtherVersion;
  }
  header.block_bytes = get<std::uint32_t>(bytes, kBlockBytesAt);
  header.plaintext_bytes = get<std::uint64_t>(bytes, kPlaintextBytesAt);
  std::memcpy(header.salt.data(), bytes.data() + kSaltAt, kSaltBytes);
  std::memcpy(header.key_check.data(), bytes.data() + kKeyCheckAt, kKeyCheckBytes);
  const bool zeros = std::all_of(bytes.begin() + kZerosAt, bytes.end() - kTagBytes,
                                 [](std::uint8_t byte) { return byte == 0; });
  if (!zeros || !valid_block_bytes(header.block_bytes) || header.plaintext_bytes == 0 ||
      header.plaintext_bytes > kMaxPlaintextBytes) {
    return HeaderFault::kOutOfShape;
  }
  return HeaderFault::kNone;
}

bool valid_block_bytes(std::uint64_t block_bytes) noexcept {
  return block_bytes >= kMinBlockBytes && block_bytes <= kMaxBlockBytes &&
         block_bytes % kMinBlockBytes == 0;
}

}  // namespace exclave::tools
