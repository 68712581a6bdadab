// Page operations that are a table of pages and nothing else: what the enclave's manager asks for
// can be looked at, and each operation can be made to fail. Thread-safe.
#pragma once

#include <cerrno>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "exclave/port.hpp"

namespace exclave::testing_support {

class FakePages {
 public:
  enum class Op : std::uint8_t {
    kCommit,
    kProtect,
    kDrop,
    kMove,
    kFill,
    kZero,
    kAdvise,
    kResident
  };
  static constexpr std::size_t kOps = 8;

  // What the n-th page of a file holds.
  static constexpr std::uint64_t kFileValue = 1000;
  static constexpr int kBadDescriptor = 99;

  EnclavePagesTable table() noexcept { return bind_enclave_pages(*this); }

  // ---- The operations ----

  int commit(std::uintptr_t address, std::size_t size, int protection, bool) noexcept {
    if (const int error = note(Op::kCommit, address, size); error != 0) return error;
    const std::lock_guard lock(mutex_);
    for_each(address, size, [&](std::uintptr_t page) { pages_[page] = {protection, 0}; });
    return 0;
  }
  int protect(std::uintptr_t address, std::size_t size, int protection) noexcept {
    if (const int error = note(Op::kProtect, address, size); error != 0) return error;
    const std::lock_guard lock(mutex_);
    for_each(address, size, [&](std::uintptr_t page) {
      if (pages_.count(page) == 0) complain("protects a page that is not there");
      pages_[page].protection = protection;
    });
    return 0;
  }
  int drop(std::uintptr_t address, std::size_t size) noexcept {
    if (const int error = note(Op::kDrop, address, size); error != 0) return error;
    const std::lock_guard lock(mutex_);
    for_each(address, size, [&](std::uintptr_t page) { pages_.erase(page); });
    return 0;
  }
  int move(std::uintptr_t from, std::uintptr_t to, std::size_t size, int protection,
           bool keep) noexcept {
    if (const int error = note(Op::kMove, from, size); error != 0) return error;
    const std::lock_guard lock(mutex_);
    for_each(from, size, [&](std::uintptr_t page) {
      if (pages_.count(page) == 0) complain("moves a page that is not there");
      if (pages_[page].protection != protection) complain("moves pages of another protection");
      pages_[page - from + to] = pages_[page];
      if (keep) {
        pages_[page].value = 0;
      } else {
        pages_.erase(page);
      }
    });
    return 0;
  }
  int fill(std::uintptr_t address, std::size_t size, int descriptor,
           std::uint64_t offset) noexcept {
    if (const int error = note(Op::kFill, address, size); error != 0) return error;
    if (descriptor == kBadDescriptor || descriptor < 0) return -EBADF;
    const std::lock_guard lock(mutex_);
    for_each(address, size, [&](std::uintptr_t page) {
      pages_[page].value = kFileValue + (offset + page - address) / kPageBytes;
    });
    return 0;
  }

  // ---- What they are to do ----

  // The n-th operation of the kind from now (1: the next) answers so; and once after the other,
  // when there are several.
  void fail(Op op, int error, unsigned n = 1) {
    const std::lock_guard lock(mutex_);
    failures_.push_back({op, error, n});
  }
  // Runs in each operation, on the calling thread, with no lock held.
  std::function<void(Op)> during;
  // What an operation answers; 0: it is done.
  std::function<int(Op)> refusal;

  // ---- What there is ----

  bool is_there(std::uintptr_t page) const {
    const std::lock_guard lock(mutex_);
    return pages_.count(page) != 0;
  }
  void write(std::uintptr_t page, std::uint64_t value) {
    const std::lock_guard lock(mutex_);
    pages_.at(page).value = value;
  }
  std::uint64_t read(std::uintptr_t page) const {
    const std::lock_guard lock(mutex_);
    return pages_.at(page).value;
  }
  // . for no page, else its protection: n r w b(oth), x for anything with execution.
  std::string picture(std::uintptr_t base, std::size_t count) const {
    const std::lock_guard lock(mutex_);
    std::string text;
    for (std::size_t i = 0; i < count; ++i) {
      const auto page = pages_.find(base + i * kPageBytes);
      text += page == pages_.end() ? '.' : "nrwbxxxx"[page->second.protection];
    }
    return text;
  }
  // What each page is, and what it holds.
  struct Page {
    int protection = 0;
    std::uint64_t value = 0;
    friend bool operator==(const Page&, const Page&) = default;
  };
  std::map<std::uintptr_t, Page> snapshot() const {
    const std::lock_guard lock(mutex_);
    return pages_;
  }
  std::size_t count() const {
    const std::lock_guard lock(mutex_);
    return pages_.size();
  }
  std::size_t calls(Op op) const {
    const std::lock_guard lock(mutex_);
    return calls_[static_cast<std::size_t>(op)];
  }
  std::vector<std::string> violations() const {
    const std::lock_guard lock(mutex_);
    return violations_;
  }

 protected:
  template <class F>
  static void for_each(std::uintptr_t address, std::size_t size, F visit) {
    for (std::uintptr_t page = address; page < address + size; page += kPageBytes) visit(page);
  }
  void complain(const char* why) { violations_.emplace_back(why); }
  int note(Op op, std::uintptr_t address, std::size_t size) noexcept {
    if (during) during(op);
    if (refusal) {
      if (const int error = refusal(op); error != 0) return error;
    }
    const std::lock_guard lock(mutex_);
    ++calls_[static_cast<std::size_t>(op)];
    if (size == 0 || (address | size) % kPageBytes != 0) complain("not whole pages");
    for (auto failure = failures_.begin(); failure != failures_.end(); ++failure) {
      if (failure->op != op || --failure->n != 0) continue;
      const int error = failure->error;
      failures_.erase(failure);
      return error;
    }
    return 0;
  }

  mutable std::mutex mutex_;
  std::map<std::uintptr_t, Page> pages_;  // guarded by mutex_, as all below

 private:
  struct Failure {
    Op op;
    int error;
    unsigned n;
  };

  std::vector<Failure> failures_;
  std::size_t calls_[kOps] = {};
  std::vector<std::string> violations_;
};

static_assert(EnclavePages<FakePages>);

// With the operations that a runtime need not have.
class FakePagesWithAll : public FakePages {
 public:
  EnclavePagesTable table() noexcept { return bind_enclave_pages(*this); }

  int zero(std::uintptr_t address, std::size_t size, int protection, bool) noexcept {
    if (const int error = note(Op::kZero, address, size); error != 0) return error;
    const std::lock_guard lock(mutex_);
    for_each(address, size, [&](std::uintptr_t page) {
      if (pages_.count(page) == 0) complain("zeroes a page that is not there");
      if (pages_[page].protection != protection) complain("zeroes pages of another protection");
      pages_[page].value = 0;
    });
    return 0;
  }
  int advise(RangeCall, std::uintptr_t address, std::size_t size, int) noexcept {
    return on_pages(Op::kAdvise, address, size);
  }
  int resident(std::uintptr_t address, std::size_t size, unsigned char* vector) noexcept {
    const int error = on_pages(Op::kResident, address, size);
    for (std::size_t i = 0; error == 0 && i < size / kPageBytes; ++i) vector[i] = 1;
    return error;
  }

 private:
  int on_pages(Op op, std::uintptr_t address, std::size_t size) noexcept {
    if (const int error = note(op, address, size); error != 0) return error;
    const std::lock_guard lock(mutex_);
    for_each(address, size, [&](std::uintptr_t page) {
      if (pages_.count(page) == 0) complain("asks about a page that is not there");
    });
    return 0;
  }
};

static_assert(EnclavePages<FakePagesWithAll>);

}  // namespace exclave::testing_support
