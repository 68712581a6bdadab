// SHA-256 of a stream on a second trusted thread, beside the encryption of the same bytes.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

namespace exclave::tools {

using Digest = std::array<std::uint8_t, 32>;

// One stream after the other. Not thread-safe: one caller.
class DigestWorker {
 public:
  DigestWorker();
  ~DigestWorker();
  DigestWorker(const DigestWorker&) = delete;
  DigestWorker& operator=(const DigestWorker&) = delete;

  // Hashes bytes in the background; waits first until the piece before is done. The caller leaves
  // the bytes alone until the next add(), wait() or finish().
  void add(std::span<const std::uint8_t> bytes);
  // Until no piece is in work.
  void wait();
  // The digest of all pieces since the last finish(). Throws Failure(kInternal) if libcrypto
  // failed.
  Digest finish();

 private:
  void run();

  struct FreeContext {
    void operator()(EVP_MD_CTX* context) const noexcept { EVP_MD_CTX_free(context); }
  };
  std::mutex mutex_;
  std::condition_variable changed_;
  std::span<const std::uint8_t> piece_;  // guarded by mutex_; not empty: in work
  bool failed_ = false;                  // guarded by mutex_
  bool stop_ = false;                    // guarded by mutex_
  // Used by the thread while a piece is in work, else by the caller.
  std::unique_ptr<EVP_MD_CTX, FreeContext> context_;
  std::thread thread_;
};

}  // namespace exclave::tools
