#include "tools/enclave_digest_worker.hpp"

#include "tools/failure.hpp"

namespace exclave::tools {

DigestWorker::DigestWorker() : context_(EVP_MD_CTX_new()) {
  failed_ = !context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1;
  thread_ = std::thread([this] { run(); });
}

DigestWorker::~DigestWorker() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void DigestWorker::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !piece_.empty(); });
    if (piece_.empty()) {
      return;
    }
    const std::span<const std::uint8_t> piece = piece_;
    lock.unlock();
    const bool ok = EVP_DigestUpdate(context_.get(), piece.data(), piece.size()) == 1;
    lock.lock();
    failed_ = failed_ || !ok;
    piece_ = {};
    changed_.notify_all();
  }
}

void DigestWorker::add(std::span<const std::uint8_t> bytes) {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return piece_.empty(); });
    piece_ = bytes;
  }
  changed_.notify_all();
}

void DigestWorker::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return piece_.empty(); });
}

Digest DigestWorker::finish() {
  wait();
  Digest digest{};
  const std::lock_guard lock(mutex_);
  if (failed_ || EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) != 1 ||
      EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
    throw Failure(ExitCode::kInternal, "libcrypto failed: SHA-256");
  }
  return digest;
}

}  // namespace exclave::tools
