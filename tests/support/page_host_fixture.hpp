// An allocator and memory calls on a PageHost, which is a host that can be asked what reached it.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "exclave/allocator.hpp"
#include "exclave/memory_calls.hpp"
#include "support/page_host.hpp"

namespace exclave::testing_support {

constexpr std::size_t kPage = kPageBytes;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr int kDevice = 7;  // the descriptor of every device here: the PageHost does not care

class PageHostFixture : public testing::Test {
 protected:
  using Calls = std::vector<PageHost::Call>;

  void SetUp() override { start(Config{}); }

  void start(const Config& config) {
    calls_.reset();
    allocator_.reset();
    host_ = std::make_unique<PageHost>();
    auto made = Allocator::create(host_->table(), config);
    ASSERT_TRUE(made.ok()) << error_text(made.error());
    allocator_.emplace(std::move(made.value()));
    calls_.emplace(*allocator_, enclave_.table());
  }

  void TearDown() override {
    if (!allocator_) return;
    EXPECT_TRUE(allocator_->validate_books());
    host_->answer = nullptr;
    allocator_.reset();
    EXPECT_THAT(host_->violations(), testing::IsEmpty());
    EXPECT_EQ(host_->trusted_bytes(), 0u) << "books were not given back";
  }

  // A mapping of so many pages at this place (0: anywhere), through the memory calls.
  std::uintptr_t map(std::size_t pages, std::uintptr_t place = 0, int protection = kReadWrite) {
    if (place != 0) host_->place_next_at(place);
    const std::intptr_t at = calls_->mmap(0, pages * kPage, protection, MAP_SHARED, kDevice, 0);
    EXPECT_GT(at, 0) << std::strerror(static_cast<int>(-at));
    if (place != 0) {
      EXPECT_EQ(static_cast<std::uintptr_t>(at), place);
    }
    host_->take_calls();
    return static_cast<std::uintptr_t>(at);
  }

  // A pool that the caller attaches; nothing stands behind it, either.
  RegionId attach_pool(Extent extent) {
    host_->put_foreign(extent);
    const auto id = allocator_->attach(extent);
    EXPECT_TRUE(id.ok()) << error_text(id.error());
    return id.ok() ? *id : RegionId{};
  }

  static Extent pages(std::uintptr_t base, std::size_t first, std::size_t count) {
    return {base + first * kPage, count * kPage};
  }

  // What the books say about each page from base on: r, w, b(oth), n(one), P(ool), . for nothing.
  std::string book(std::uintptr_t base, std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) {
      const auto info = allocator_->query(base + i * kPage, kPage);
      text += !info.ok()                     ? '.'
              : info->role == Role::kPool    ? 'P'
              : info->role != Role::kMapping ? '?'
                                             : "nrwb"[static_cast<int>(info->protection)];
    }
    return text;
  }
  // The same from the host's table.
  std::string table(std::uintptr_t base, std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) {
      const int protection = host_->protection_at(base + i * kPage);
      text += protection < 0 ? '.' : "nrwb"[protection];
    }
    return text;
  }
  std::size_t regions() { return allocator_->statistics().regions; }

  std::unique_ptr<PageHost> host_;
  EnclaveRecorder enclave_;
  std::optional<Allocator> allocator_;
  std::optional<MemoryCalls> calls_;
};

}  // namespace exclave::testing_support
