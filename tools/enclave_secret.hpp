// Trusted memory that is wiped when it goes: keys, plaintext. Registers that someone else saves, a
// signal frame or the dynamic linker, are beyond its reach.
#pragma once

#include <openssl/crypto.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace exclave::tools {

// A key or a part of one. Not copyable, so that no forgotten copy outlives it.
template <std::size_t N>
class SecretBytes {
 public:
  SecretBytes() = default;
  ~SecretBytes() { OPENSSL_cleanse(bytes_.data(), N); }
  SecretBytes(SecretBytes&& other) noexcept : bytes_(other.bytes_) {
    OPENSSL_cleanse(other.bytes_.data(), N);
  }
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;
  SecretBytes& operator=(SecretBytes&&) = delete;

  static constexpr std::size_t size() noexcept { return N; }
  std::uint8_t* data() noexcept { return bytes_.data(); }
  const std::uint8_t* data() const noexcept { return bytes_.data(); }

 private:
  std::array<std::uint8_t, N> bytes_{};
};

// A staging buffer in trusted memory. 64-aligned, so that copies across the boundary run at full
// width.
class SecretBuffer {
 public:
  explicit SecretBuffer(std::size_t size_bytes)
      : bytes_(static_cast<std::uint8_t*>(::operator new(size_bytes, kAlignment))),
        size_bytes_(size_bytes) {}
  ~SecretBuffer() { OPENSSL_cleanse(bytes_.get(), size_bytes_); }
  SecretBuffer(const SecretBuffer&) = delete;
  SecretBuffer& operator=(const SecretBuffer&) = delete;

  std::uint8_t* data() noexcept { return bytes_.get(); }
  std::size_t size() const noexcept { return size_bytes_; }
  std::span<std::uint8_t> first(std::size_t count) noexcept { return {bytes_.get(), count}; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::uint8_t* bytes) const noexcept { ::operator delete(bytes, kAlignment); }
  };
  std::unique_ptr<std::uint8_t, Free> bytes_;
  std::size_t size_bytes_;
};

}  // namespace exclave::tools
