// THREATS 56 for the memory calls and the look-ups: a signal handler comes in anywhere, and asks.
#include <pthread.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "support/page_host_fixture.hpp"

namespace exclave {
namespace {

using testing_support::kDevice;
using testing_support::kPage;
using testing_support::kReadWrite;
using testing_support::PageHostFixture;

constexpr std::uintptr_t kPlace = std::uintptr_t{0x3000} << 32;

Allocator* handler_allocator = nullptr;
MemoryCalls* handler_calls = nullptr;
std::atomic<std::uint64_t> handled{0};
std::atomic<std::uint64_t> wrong{0};

bool is_one_of(Error error, Error a, Error b, Error c) {
  return error == a || error == b || error == c;
}

// Every call that a handler may make on its way: each works, or says that it cannot now.
void on_signal(int) {
  const auto info = handler_allocator->query(kPlace + kPage, 1);
  bool right = is_one_of(info.error(), Error::kNone, Error::kNotFound, Error::kReentered);
  const auto bytes = handler_allocator->validate(kPlace, 8, Protection::kRead);
  right &= is_one_of(bytes.error(), Error::kNone, Error::kNotFound, Error::kReentered) ||
           bytes.error() == Error::kNotPermitted;
  const auto next = handler_allocator->next_region(0);
  right &= is_one_of(next.error(), Error::kNone, Error::kNotFound, Error::kReentered);
  const int unmapped = handler_calls->munmap(kPlace + 64 * kPage, kPage);
  right &= unmapped == 0 || unmapped == -EBUSY;
  const int protect = handler_calls->mprotect(kPlace + 2 * kPage, kPage, PROT_READ);
  right &= protect == 0 || protect == -EBUSY || protect == -ENOMEM;
  const auto pin = handler_allocator->pin({kPlace + 3 * kPage, 1});
  if (pin.ok()) right &= handler_allocator->unpin(*pin).ok();
  if (!right) wrong.fetch_add(1, std::memory_order_relaxed);
  handled.fetch_add(1, std::memory_order_relaxed);
}

// A host that answers at once and takes no lock, so that a handler may come in there, too.
class Threat56_SignalInMemoryCall : public PageHostFixture {
 protected:
  void SetUp() override {
    PageHostFixture::SetUp();
    PortTable table = host_->table();
    table.host_map = [](void*, const MapRequest* request) { return HostReply{request->hint, 0}; };
    table.host_unmap = [](void*, std::uintptr_t, std::size_t) { return 0; };
    table.host_protect = [](void*, std::uintptr_t, std::size_t, int) { return 0; };
    auto made = Allocator::create(table);
    ASSERT_TRUE(made.ok());
    calls_.reset();
    *allocator_ = std::move(made.value());
    calls_.emplace(*allocator_, enclave_.table());
  }
};

TEST_F(Threat56_SignalInMemoryCall, LooksAndCallsFromAHandlerNeverHang) {
  handler_allocator = &*allocator_;
  handler_calls = &*calls_;
  handled = wrong = 0;
  ASSERT_GT(calls_->mmap(kPlace, 8 * kPage, kReadWrite, MAP_SHARED | MAP_FIXED, kDevice, 0), 0);
  struct sigaction action {};
  action.sa_handler = on_signal;
  struct sigaction before {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);

  std::atomic<bool> stop{false};
  std::atomic<bool> ended{false};
  const pthread_t me = pthread_self();
  std::thread storm([&] {
    const auto begin = std::chrono::steady_clock::now();
    while (!ended) {
      const auto spent = std::chrono::steady_clock::now() - begin;
      // On a busy machine longer, until enough have come through.
      stop = spent > std::chrono::seconds(15) ||
             (spent > std::chrono::milliseconds(1500) && handled > 100);
      if (!stop) pthread_kill(me, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      if (spent > std::chrono::seconds(60)) {
        std::fputs("a call from a signal handler hangs\n", stderr);
        std::abort();
      }
    }
  });
  while (!stop) {
    const int first = calls_->mprotect(kPlace + kPage, kPage, PROT_READ);
    const int second = calls_->mprotect(kPlace + kPage, kPage, kReadWrite);
    EXPECT_TRUE(first == 0 && second == 0) << first << ' ' << second;
  }
  ended = true;
  storm.join();
  sigaction(SIGUSR1, &before, nullptr);
  EXPECT_GT(handled.load(), 100u);
  EXPECT_EQ(wrong.load(), 0u);
  EXPECT_TRUE(allocator_->validate_books());
}

}  // namespace
}  // namespace exclave
