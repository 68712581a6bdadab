#include "blocks.hpp"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "exclave/process_port.hpp"
#include "page_mover.hpp"
#include "process/guard.hpp"
#include "signal_frames.hpp"
#include "waiting_frees.hpp"

namespace exclave::process_malloc {

constinit core::AllocatorCore* g_core = nullptr;

namespace {

using process::Guard;

std::uintptr_t address_of(const void* block) noexcept {
  return reinterpret_cast<std::uintptr_t>(block);
}

void* out_of_memory() noexcept {
  errno = ENOMEM;
  return nullptr;
}

// ---- Bad frees ----

// One line, without stdio, which would allocate.
[[noreturn]] void stop(const char* what, std::uintptr_t address) noexcept {
  char line[128] = "exclave malloc: ";
  char* end = line + strlen(line);
  const auto add = [&end](const char* text) noexcept {
    const std::size_t bytes = strnlen(text, 64);
    memcpy(end, text, bytes);
    end += bytes;
  };
  add(what);
  add(": 0x");
  for (int shift = 60; shift >= 0; shift -= 4) *end++ = "0123456789abcdef"[address >> shift & 15];
  *end++ = '\n';
  (void)!write(STDERR_FILENO, line, static_cast<std::size_t>(end - line));
  abort();
}

void on_misuse(void*, std::int32_t error, std::uintptr_t address, std::size_t) noexcept {
  stop(error_text(static_cast<Error>(error)), address);
}

// ---- Threads without a slot ----

// More threads than slots, and threads that go on freeing after their last destructors (libc does):
// they share one slot under a lock. A slot taken by a thread that has been told to end would never
// come back.
pthread_mutex_t g_guest_lock = PTHREAD_MUTEX_INITIALIZER;
std::uint32_t g_guest_slot = kNoThreadSlot;  // guarded by g_guest_lock
__thread bool t_thread_ended __attribute__((tls_model("initial-exec"))) = false;

void on_thread_exit(void*, std::uint32_t) noexcept {
  t_thread_ended = true;
}

// ---- The first call ----

pthread_mutex_t g_start_lock = PTHREAD_MUTEX_INITIALIZER;

void before_fork() noexcept;
void after_fork_in_parent() noexcept;
void after_fork_in_child() noexcept;

ProcessPort* g_port = nullptr;

// free keeps errno, also when memory goes to the kernel with it and the kernel does not want it.
int release_quietly(void* port, std::uintptr_t address, std::size_t bytes) noexcept {
  const int saved = errno;
  const int answer = static_cast<ProcessPort*>(port)->host_release(address, bytes);
  errno = saved;
  return answer;
}

char** g_environment = nullptr;  // libc's own is not there yet

bool huge_pages_wanted() noexcept {
  if (g_environment == nullptr) return false;
  constexpr char kWanted[] = "EXCLAVE_MALLOC_HUGE_PAGES=1";
  for (char** entry = g_environment; *entry != nullptr; ++entry)
    if (strncmp(*entry, kWanted, sizeof(kWanted) - 1) == 0) return true;
  return false;
}

// Sets g_core, or leaves it null. Nothing before that allocates.
void start() noexcept {
  ProcessPort::Options options;
  options.book_bytes = std::size_t{8} << 30;  // a few percent of a heap of hundreds of GB
  options.enclave_bytes = kPageBytes;         // no memory calls here
  // The program may come under a limit later, by setrlimit.
  options.reserve_books = false;
  options.huge_pages = huge_pages_wanted();
  const Result<ProcessPort*> port = ProcessPort::create(options);
  if (!port.ok()) return;
  // Not this thread's own slot yet: to claim that may allocate.
  if (g_guest_slot == kNoThreadSlot) g_guest_slot = detail::claim_thread_slot();
  detail::thread_slot_word = g_guest_slot + 1;
  Config config;
  config.grow_min_bytes = std::size_t{4} << 20;
  config.grow_max_bytes = std::size_t{64} << 20;
  config.keep_free_bytes = std::size_t{64} << 20;
  config.misuse = &on_misuse;
  PortTable table = (*port)->table();
  table.host_release = &release_quietly;
  const Result<core::AllocatorCore*> core = core::AllocatorCore::create(table, config);
  // After the core's own, so that this one runs last.
  if (!core.ok() || !register_thread_exit(&on_thread_exit, nullptr)) {
    if (core.ok()) core::AllocatorCore::destroy(*core);
    ProcessPort::destroy(*port);
    detail::thread_slot_word = 0;
    return;
  }
  detail::thread_slot_word = 0;
  g_port = *port;
  // Release pairs with the acquire in started. From here on what is called may allocate.
  __atomic_store_n(&g_core, *core, __ATOMIC_RELEASE);
  // Takes the key, so that it is one of the first, and what pthread_setspecific needs no memory
  // for.
  (void)current_thread_slot();
  // First come, last served: no other handler runs between these and fork itself.
  pthread_atfork(&before_fork, &after_fork_in_parent, &after_fork_in_child);
}

core::AllocatorCore* started() noexcept {
  // Acquire pairs with the release in start.
  core::AllocatorCore* core = __atomic_load_n(&g_core, __ATOMIC_ACQUIRE);
  if (EXCLAVE_LIKELY(core != nullptr)) return core;
  const Guard guard(g_start_lock);
  if (g_core == nullptr) start();
  return g_core;
}

// Before any other constructor, libc's too (-z initfirst): whoever registers a handler for fork
// comes after us, so that his runs while nobody holds our locks.
[[gnu::constructor]] void start_first(int, char**, char** environment) noexcept {
  g_environment = environment;
  (void)started();
}

// After a call that was refused because this thread is inside another one: has a handler jumped out
// of that? Then the thread has malloc again.
bool recovers(Error error) noexcept {
  return error == Error::kReentered && !may_be_in_handler() &&
         g_core->give_up_interrupted_call().ok();
}

// Runs the call with a slot: this thread's own, or the guests'.
template <class Call>
auto with_slot(const Call& call) noexcept -> decltype(call(*g_core)) {
  core::AllocatorCore* const core = started();
  if (core == nullptr) return Error::kOutOfTrustedMemory;
  if (has_slot() || (!t_thread_ended && current_thread_slot() != kNoThreadSlot)) {
    const auto result = call(*core);
    return EXCLAVE_UNLIKELY(recovers(result.error())) ? call(*core) : result;
  }
  const Guard guard(g_guest_lock);
  if (g_guest_slot == kNoThreadSlot) return Error::kTooManyThreads;
  detail::thread_slot_word = g_guest_slot + 1;
  const auto result = call(*core);
  detail::thread_slot_word = 0;
  return result;
}

// ---- fork ----

__thread bool t_fork_unprepared __attribute__((tls_model("initial-exec"))) = false;
sigset_t g_signals_before_fork;  // guarded by g_guest_lock

void before_fork() noexcept {
  // No handler of this thread may come upon the locks that it holds now.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_mutex_lock(&g_guest_lock);
  t_fork_unprepared = !g_core->before_fork().ok();
  if (t_fork_unprepared) {
    pthread_mutex_unlock(&g_guest_lock);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return;
  }
  g_port->before_fork();
  g_signals_before_fork = before;
}

void unblock_after_fork() noexcept {
  const sigset_t before = g_signals_before_fork;
  pthread_mutex_unlock(&g_guest_lock);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void after_fork_in_parent() noexcept {
  if (t_fork_unprepared) return;
  g_port->after_fork();
  g_core->after_fork_in_parent();
  unblock_after_fork();
}

void after_fork_in_child() noexcept {
  if (t_fork_unprepared) return;
  ProcessPort::forget_other_threads();
  g_port->after_fork();
  g_core->after_fork_in_child();
  g_guest_slot = detail::claim_thread_slot();
  unblock_after_fork();
}

// ---- Frees that have to wait ----

constinit WaitingFrees g_waiting;

void free_waiting() noexcept {
  g_waiting.take_all(
      [](std::uintptr_t block) noexcept { deallocate(reinterpret_cast<void*>(block)); });
}

// ---- Contents of blocks that move ----

// What the new block of that size holds is what the old one held. Returns it, or another in its
// place; null when there is none.
void* fill_from(const void* block, std::size_t bytes, void* moved, std::size_t size) noexcept {
  const std::uintptr_t from = address_of(block), to = address_of(moved);
  if (bytes >= kLeastMoved && is_aligned(from | to | bytes, kPageBytes)) {
    const Move done = move_pages(to, from, bytes);
    if (done == Move::kDone) return moved;
    if (done == Move::kTainted) moved = allocate(size);
    if (moved == nullptr) return nullptr;
  }
  memcpy(moved, block, bytes);
  return moved;
}

}  // namespace

// ---- Blocks ----

void* allocate_slow(std::size_t size, std::size_t alignment) noexcept {
  if (size > PTRDIFF_MAX) return out_of_memory();
  free_waiting();
  const std::size_t at_least = std::max<std::size_t>(size, 1);
  const Result<untrusted_bytes> block = with_slot([=](core::AllocatorCore& core) noexcept {
    return core.allocate(at_least, alignment, Placement::anywhere());
  });
  return block.ok() ? reinterpret_cast<void*>(block->address()) : out_of_memory();
}

void* allocate_aligned(std::size_t size, std::size_t alignment) noexcept {
  return alignment <= kMallocAlignment ? allocate(size) : allocate_slow(size, alignment);
}

void deallocate_slow(void* block, Error error) noexcept {
  if (block == nullptr) return;
  const int saved = errno;
  const std::uintptr_t address = address_of(block);
  if (!has_slot()) {
    error = with_slot([=](core::AllocatorCore& core) noexcept {
              return core.deallocate(address);
            }).error();
  }
  // What is bad was told to on_misuse already; but an interrupted call keeps the books from being
  // asked.
  if (error != Error::kNone) {
    if (g_core == nullptr || g_core->query(address, 1).error() == Error::kNotFound)
      stop(error_text(Error::kForeignFree), address);
    g_waiting.add(address);
  }
  errno = saved;
}

EXCLAVE_ONE_PIECE std::size_t usable_size(void* block) noexcept {
  if (block == nullptr) return 0;
  const std::uintptr_t address = address_of(block);
  const Result<std::size_t> usable = has_slot()
                                         ? g_core->usable_size(address)
                                         : with_slot([=](core::AllocatorCore& core) noexcept {
                                             return core.usable_size(address);
                                           });
  if (EXCLAVE_LIKELY(usable.ok())) return *usable;
  switch (usable.error()) {
    case Error::kDoubleFree:
    case Error::kInteriorFree:
    case Error::kForeignFree:
      stop(error_text(usable.error()), address);
    default:
      return recovers(usable.error()) ? usable_size(block) : 0;
  }
}

void* reallocate(void* block, std::size_t size) noexcept {
  const std::size_t usable = usable_size(block);
  if (usable == 0 || size > PTRDIFF_MAX) return out_of_memory();
  if (size <= usable) {
    // What is half used stays: moving it would save little.
    if (size >= usable / 2) return block;
    if (size > kMaxSmallBytes) {
      // Only the tail goes, and the block stays.
      (void)with_slot([=](core::AllocatorCore& core) noexcept {
        return core.reallocate(address_of(block), size, kMallocAlignment, Placement::anywhere());
      });
      return block;
    }
  }
  // A block that grows will grow again; untouched pages cost nothing.
  const std::size_t with_room = size + size / 8;
  if (size > usable && usable > kMaxSmallBytes) {
    const Status resized = with_slot([=](core::AllocatorCore& core) noexcept {
      const Status roomy = core.resize_in_place(address_of(block), with_room);
      return roomy.ok() ? roomy : core.resize_in_place(address_of(block), size);
    });
    if (resized.ok()) return block;
  }
  void* moved = nullptr;
  if (size > usable && size > kMaxSmallBytes) moved = allocate(with_room);
  if (moved == nullptr) moved = allocate(size);
  if (moved == nullptr) return size <= usable ? block : nullptr;
  moved = fill_from(block, std::min(usable, size), moved, size);
  if (moved == nullptr) return nullptr;
  deallocate(block);
  free_waiting();
  return moved;
}

bool trim() noexcept {
  free_waiting();
  const Result<bool> gave = with_slot([](core::AllocatorCore& core) noexcept {
    const std::size_t before = core.statistics().grown_bytes;
    core.trim();
    return Result<bool>(core.statistics().grown_bytes < before);
  });
  return gave.ok() && *gave;
}

}  // namespace exclave::process_malloc
