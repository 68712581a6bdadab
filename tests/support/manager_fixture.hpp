// A manager of the enclave's own memory on pages that are a table.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "exclave/enclave_manager.hpp"
#include "support/fake_pages.hpp"
#include "support/fake_port.hpp"

namespace exclave::testing_support {

class ManagerFixture : public testing::Test {
 protected:
  using Op = FakePages::Op;
  static constexpr std::size_t kPage = kPageBytes;
  static constexpr int kReadWrite = PROT_READ | PROT_WRITE;
  static constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
  static constexpr std::uintptr_t kBase = std::uintptr_t{0x3000} << 32;
  static constexpr std::size_t kPages = 64;

  void SetUp() override { start(); }

  EnclaveManager::Options options() const {
    EnclaveManager::Options options;
    options.range = {kBase, kPages * kPage};
    return options;
  }
  // The books and the range lie in one enclave.
  PortTable port_table() {
    PortTable table = port_.table();
    table.enclave = [](void*) -> exclave_extent { return {kPage, (std::size_t{1} << 47) - kPage}; };
    return table;
  }
  void start() { start(options()); }
  void start(const EnclaveManager::Options& options) {
    manager_.reset();
    auto made = EnclaveManager::create(port_table(), pages_.table(), options);
    ASSERT_TRUE(made.ok()) << error_text(made.error());
    manager_.emplace(std::move(made.value()));
  }

  void TearDown() override {
    if (!manager_) return;
    EXPECT_TRUE(manager_->validate_books());
    EXPECT_THAT(pages_.violations(), testing::IsEmpty());
    manager_.reset();
    EXPECT_EQ(port_.trusted_held(), 0u) << "books were not given back";
  }

  static std::uintptr_t page(std::size_t n) { return kBase + n * kPage; }
  static std::intptr_t answer(std::size_t n) { return static_cast<std::intptr_t>(page(n)); }

  std::intptr_t map(std::size_t first, std::size_t count, int protection = kReadWrite,
                    int flags = kPrivate | MAP_FIXED) {
    return manager_->map(page(first), count * kPage, protection, flags, -1, 0);
  }
  std::intptr_t map_file(std::size_t first, std::size_t count, int protection = PROT_READ,
                         int descriptor = 3) {
    return manager_->map(page(first), count * kPage, protection, MAP_PRIVATE | MAP_FIXED,
                         descriptor, 0);
  }
  int unmap(std::size_t first, std::size_t count) {
    return manager_->unmap(page(first), count * kPage);
  }
  int protect(std::size_t first, std::size_t count, int protection) {
    return manager_->protect(page(first), count * kPage, protection);
  }
  std::intptr_t remap(std::size_t first, std::size_t old_count, std::size_t new_count,
                      int flags = 0, std::size_t to = 0) {
    return manager_->remap(page(first), old_count * kPage, new_count * kPage, flags, page(to));
  }
  // What stands in the first pages; the books say the same, as the pages and areas are as many.
  std::string picture(std::size_t count = 16) {
    EXPECT_TRUE(manager_->validate_books());
    EXPECT_EQ(manager_->statistics().mapped_bytes, pages_.count() * kPage);
    return pages_.picture(kBase, count);
  }
  std::size_t areas() { return manager_->statistics().areas; }

  FakePort port_;
  FakePages pages_;
  std::optional<EnclaveManager> manager_;
};

}  // namespace exclave::testing_support
