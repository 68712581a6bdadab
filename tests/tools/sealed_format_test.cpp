// The file format and its cipher, without any I/O.
#include "tools/enclave_sealed_format.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "tools/enclave_block_cipher.hpp"

namespace exclave::tools {
namespace {

SealedHeader header_of(std::uint64_t plaintext_bytes, std::uint32_t block_bytes = 4096) {
  SealedHeader header;
  header.block_bytes = block_bytes;
  header.plaintext_bytes = plaintext_bytes;
  random_bytes(header.salt);
  return header;
}

Key key_of(std::uint8_t fill) {
  Key key;
  std::fill(key.data(), key.data() + Key::size(), fill);
  return key;
}

TEST(SealedLayout, BlocksCoverThePlaintextExactly) {
  for (const std::uint32_t block : {4096U, 8192U, 1U << 20, kMaxBlockBytes}) {
    const std::uint64_t payload = block - kTagBytes;
    for (const std::uint64_t bytes : {std::uint64_t{1}, payload - 1, payload, payload + 1,
                                      3 * payload, 3 * payload + 7, kMaxPlaintextBytes}) {
      const SealedLayout layout(header_of(bytes, block));
      EXPECT_EQ(layout.offset(layout.blocks - 1) + layout.sealed_in(layout.blocks - 1),
                layout.file_bytes);
      EXPECT_EQ((layout.blocks - 1) * payload + layout.plaintext_in(layout.blocks - 1), bytes);
      EXPECT_GE(layout.plaintext_in(layout.blocks - 1), 1u);
      EXPECT_TRUE(layout.is_last(layout.blocks - 1));
      EXPECT_FALSE(layout.is_last(layout.blocks));
    }
  }
}

TEST(SealedHeader, ComesBackAsItWas) {
  const SealedHeader out = header_of(123456789, 65536);
  SealedHeader in;
  ASSERT_EQ(decode_header(encode_header(out), in), HeaderFault::kNone);
  EXPECT_EQ(in.block_bytes, out.block_bytes);
  EXPECT_EQ(in.plaintext_bytes, out.plaintext_bytes);
  EXPECT_EQ(in.salt, out.salt);
}

TEST(SealedHeader, OutOfShapeIsRefused) {
  SealedHeader in;
  HeaderBytes bytes = encode_header(header_of(1));
  bytes[0] ^= 1;
  EXPECT_EQ(decode_header(bytes, in), HeaderFault::kNotSealed);
  bytes = encode_header(header_of(1));
  bytes[8] = 2;
  EXPECT_EQ(decode_header(bytes, in), HeaderFault::kOtherVersion);
  bytes = encode_header(header_of(1));
  for (const std::size_t zero : {72U, 2000U, 4079U}) {
    bytes = encode_header(header_of(1));
    bytes[zero] = 1;
    EXPECT_EQ(decode_header(bytes, in), HeaderFault::kOutOfShape) << zero;
  }
  bytes = encode_header(header_of(1));
  bytes[4080] = 1;  // the tag's
  EXPECT_EQ(decode_header(bytes, in), HeaderFault::kNone);
  for (const std::uint32_t block : {0U, 16U, 4095U, 4097U, kMaxBlockBytes + 4096, 0xfffff000U}) {
    EXPECT_EQ(decode_header(encode_header(header_of(1, block)), in), HeaderFault::kOutOfShape)
        << block;
  }
  for (const std::uint64_t bytes_in :
       {std::uint64_t{0}, kMaxPlaintextBytes + 1, ~std::uint64_t{0}}) {
    EXPECT_EQ(decode_header(encode_header(header_of(bytes_in)), in), HeaderFault::kOutOfShape)
        << bytes_in;
  }
}

TEST(SealedHeader, TheLargestAndTheSmallestAreTaken) {
  SealedHeader in;
  for (const std::uint32_t block : {kMinBlockBytes, 2 * kMinBlockBytes, kMaxBlockBytes}) {
    for (const std::uint64_t bytes : {std::uint64_t{1}, kMaxPlaintextBytes}) {
      EXPECT_EQ(decode_header(encode_header(header_of(bytes, block)), in), HeaderFault::kNone);
      EXPECT_EQ(in.block_bytes, block);
      EXPECT_EQ(in.plaintext_bytes, bytes);
    }
  }
}

TEST(BlockCipher, OpensWhatItSealed) {
  const SealedHeader header = header_of(10000);
  const SealedLayout layout(header);
  BlockCipher cipher(key_of(1), header);
  for (std::uint64_t index = 0; index < layout.blocks; ++index) {
    const std::vector<std::uint8_t> plaintext(layout.plaintext_in(index),
                                              static_cast<std::uint8_t>(index));
    std::vector<std::uint8_t> sealed(layout.sealed_in(index));
    cipher.seal_block(index, plaintext, sealed.data());
    std::vector<std::uint8_t> opened(plaintext.size());
    EXPECT_TRUE(cipher.open_block(index, sealed, opened.data()));
    EXPECT_EQ(opened, plaintext);
  }
}

TEST(BlockCipher, EveryByteOfABlockCounts) {
  const SealedHeader header = header_of(300);
  BlockCipher cipher(key_of(1), header);
  const std::vector<std::uint8_t> plaintext(300, 7);
  std::vector<std::uint8_t> sealed(316);
  cipher.seal_block(0, plaintext, sealed.data());
  std::vector<std::uint8_t> opened(300, 1);
  for (std::size_t at = 0; at < sealed.size(); ++at) {
    sealed[at] ^= 0x80;
    EXPECT_FALSE(cipher.open_block(0, sealed, opened.data())) << at;
    EXPECT_EQ(opened, std::vector<std::uint8_t>(300, 0)) << "unverified plaintext is left";
    sealed[at] ^= 0x80;
  }
}

TEST(BlockCipher, ABlockOpensOnlyInItsPlace) {
  const SealedHeader header = header_of(3 * 4080);
  const std::vector<std::uint8_t> plaintext(4080, 7);
  std::vector<std::uint8_t> sealed(4096);
  std::vector<std::uint8_t> opened(4080);
  BlockCipher(key_of(1), header).seal_block(1, plaintext, sealed.data());
  EXPECT_TRUE(BlockCipher(key_of(1), header).open_block(1, sealed, opened.data()));
  EXPECT_FALSE(BlockCipher(key_of(1), header).open_block(0, sealed, opened.data())) << "reordered";
  EXPECT_FALSE(BlockCipher(key_of(2), header).open_block(1, sealed, opened.data()))
      << "another key";
  SealedHeader other = header;
  other.salt[0] ^= 1;
  EXPECT_FALSE(BlockCipher(key_of(1), other).open_block(1, sealed, opened.data()))
      << "another file";
  other = header;
  other.plaintext_bytes = 2 * 4080;
  EXPECT_FALSE(BlockCipher(key_of(1), other).open_block(1, sealed, opened.data()))
      << "made the last one";
}

TEST(BlockCipher, TheHeaderIsAuthentic) {
  SealedHeader header = header_of(10000);
  BlockCipher cipher(key_of(1), header);
  header.key_check = cipher.key_check();
  HeaderBytes bytes = encode_header(header);
  cipher.seal_header(bytes);
  EXPECT_TRUE(cipher.open_header(bytes));
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    bytes[at] ^= 1;
    EXPECT_FALSE(cipher.open_header(bytes)) << at;
    bytes[at] ^= 1;
  }
}

TEST(BlockCipher, KeyCheckTellsKeysAndFilesApart) {
  const SealedHeader first = header_of(1);
  const SealedHeader second = header_of(1);
  EXPECT_EQ(BlockCipher(key_of(1), first).key_check(), BlockCipher(key_of(1), first).key_check());
  EXPECT_NE(BlockCipher(key_of(1), first).key_check(), BlockCipher(key_of(2), first).key_check());
  EXPECT_NE(BlockCipher(key_of(1), first).key_check(), BlockCipher(key_of(1), second).key_check());
}

}  // namespace
}  // namespace exclave::tools
