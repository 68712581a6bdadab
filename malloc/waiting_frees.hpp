// Blocks whose free has to wait: runs of pages freed by a signal handler inside malloc itself,
// whose books are under way. Only their addresses are kept, in memory of our own: nothing is
// written to what is not yet known to be a block.
//
// Lock-free: a handler may come at any point, also in here. Its pages are never given back.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

#include "base/annotations.hpp"

namespace exclave::process_malloc {

class WaitingFrees {
 public:
  // Where there is no memory for one more the block stays as it is.
  void add(std::uintptr_t block) noexcept {
    for (Page* page = &first_; page != nullptr; page = page->next_or_new()) {
      for (std::atomic<std::uintptr_t>& place : page->blocks) {
        std::uintptr_t expected = 0;
        // Release pairs with the acquire in take_all: the block is written no more.
        if (place.load(std::memory_order_relaxed) == 0 &&
            place.compare_exchange_strong(expected, block, std::memory_order_release,
                                          std::memory_order_relaxed)) {
          (void)any_.exchange(true, std::memory_order_release);
          return;
        }
      }
    }
  }

  // free may add some again.
  template <class F>
  void take_all(F free) noexcept {
    if (EXCLAVE_LIKELY(!any_.load(std::memory_order_relaxed))) return;
    // Acquire pairs with the release in add: the blocks of all who said so are seen.
    if (!any_.exchange(false, std::memory_order_acquire)) return;
    for (Page* page = &first_; page != nullptr; page = page->next.load(std::memory_order_acquire)) {
      for (std::atomic<std::uintptr_t>& place : page->blocks) {
        if (place.load(std::memory_order_relaxed) == 0) continue;
        const std::uintptr_t block = place.exchange(0, std::memory_order_acquire);
        if (block != 0) free(block);
      }
    }
  }

 private:
  struct Page {
    static constexpr std::size_t kBlocks = 511;

    Page* next_or_new() noexcept {
      Page* seen = next.load(std::memory_order_acquire);
      if (seen != nullptr) return seen;
      void* const memory =
          mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) return nullptr;
      Page* const made = new (memory) Page;
      // Release pairs with the acquire loads: the page is empty before it is seen.
      if (next.compare_exchange_strong(seen, made, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
        return made;
      }
      munmap(memory, sizeof(Page));
      return seen;
    }

    std::atomic<Page*> next{nullptr};
    std::atomic<std::uintptr_t> blocks[kBlocks]{};
  };

  std::atomic<bool> any_{false};
  Page first_;
};

}  // namespace exclave::process_malloc
